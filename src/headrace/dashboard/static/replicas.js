// Replicas with their state, place and memory.

import { getText } from "./api.js";
import { h } from "./dom.js";
import { ago, bytes, moment, number } from "./format.js";
import { targetOf } from "./logs.js";
import { badge, empty, table } from "./parts.js";
import { to } from "./router.js";

/** The last part of a replica's id, which tells those of one deployment apart. */
export const shortId = (id) => id.split("#").at(-1);

/** `memory`: bytes by replica id, from the metrics. */
export function replicaTable(app, deployments, memory = new Map()) {
  const rows = deployments.flatMap((deployment) => deployment.replicas.map((replica) => ({ deployment, replica })));
  if (!rows.length) return empty("No replicas", h("p", {}, "Either none is wanted at present, or none has a place yet."));
  const one = deployments.length === 1;
  return table("Replicas", [
    ["Replica"], ...(one ? [] : [["Deployment"]]), ["State"], ["Node"], ["GPUs", "num"], ["Memory", "num"], ["Process", "num"],
    ["Started"], ["Logs"],
  ], rows.map(({ deployment, replica }) => {
    const gpus = deployment.options.ray_actor_options?.num_gpus || 0;
    return [replica.replica_id, [
      [h("code", { title: replica.replica_id }, shortId(replica.replica_id)),
        replica.message ? h("div", { class: "message" }, replica.message) : null],
      ...(one ? [] : [h("a", { href: to("app", app.name, "deployment", deployment.name) }, deployment.name)]),
      badge(replica.state),
      replica.node || "–",
      gpus ? number(gpus) : "–",
      bytes(memory.get(replica.replica_id)),
      replica.pid ? String(replica.pid) : "–",
      replica.started_at
        ? h("time", { datetime: new Date(replica.started_at * 1000).toISOString(), title: moment(replica.started_at) }, ago(replica.started_at))
        : "–",
      h("a", { href: `${to("app", app.name, "logs")}?${new URLSearchParams({ target: targetOf(replica.replica_id) })}`,
        "aria-label": `Logs of ${replica.replica_id}` }, "Logs"),
    ]];
  }));
}

/** Resident memory by replica id. */
export async function memoryByReplica(signal) {
  const found = new Map();
  for (const line of (await getText("/metrics", signal)).split("\n")) {
    const match = /^process_resident_memory_bytes\{.*replica="([^"]+)".*\} (\S+)/.exec(line);
    if (match) found.set(match[1], Number(match[2]));
  }
  return found;
}
