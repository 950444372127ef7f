// An application's pipeline: deployments as nodes, calls as edges, in layers from where requests come in.

import { h, s } from "./dom.js";
import { milliseconds, number, plural, rate, tone, words } from "./format.js";
import { to } from "./router.js";
import { latest } from "./store.js";
import { replicasOf } from "./parts.js";

const NODE = { width: 208, height: 108 };
const GAP = { along: 96, across: 20 };
const ENTRY = { wide: 76, narrow: 30 };
const INDENT = 22;
const SWEEPS = 6;

/**
 * Places for the nodes of a graph: each one layer after the last of its callers, neighbours near each other.
 *
 * `names`; `edges`: [{from, to}]; `first`: where it begins. Gives [[name, ...], ...] by layer. Edges that would
 * lead back into a cycle count as if they were not there.
 */
export function layers(names, edges, first) {
  const calls = new Map(names.map((name) => [name, []]));
  for (const edge of edges) if (calls.has(edge.from) && calls.has(edge.to)) calls.get(edge.from).push(edge.to);
  const forward = new Map(names.map((name) => [name, []]));
  const order = [];
  const visited = new Map();
  const visit = (name) => {
    visited.set(name, "open");
    for (const next of calls.get(name)) {
      if (visited.get(next) === "open") continue;
      forward.get(name).push(next);
      if (!visited.has(next)) visit(next);
    }
    visited.set(name, "done");
    order.unshift(name);
  };
  for (const name of [...(calls.has(first) ? [first] : []), ...names]) if (!visited.has(name)) visit(name);
  const depth = new Map(names.map((name) => [name, 0]));
  for (const name of order) for (const next of forward.get(name)) depth.set(next, Math.max(depth.get(next), depth.get(name) + 1));
  const result = [];
  for (const name of order) (result[depth.get(name)] ||= []).push(name);
  for (let sweep = 0; sweep < SWEEPS; sweep += 1) {
    const back = sweep % 2 === 1;
    const places = new Map(result.flatMap((layer) => layer.map((name, index) => [name, index - layer.length / 2])));
    for (const layer of back ? [...result].reverse() : result) {
      const weight = (name) => {
        const near = back ? forward.get(name) : names.filter((other) => forward.get(other).includes(name));
        return near.length ? near.reduce((sum, other) => sum + places.get(other), 0) / near.length : places.get(name);
      };
      const weights = new Map(layer.map((name) => [name, weight(name)]));
      layer.sort((one, other) => weights.get(one) - weights.get(other));
      layer.forEach((name, index) => places.set(name, index - layer.length / 2));
    }
  }
  return result;
}

/** The declared calls, and those that were seen. */
export function edgesOf(app, seen) {
  const found = new Map();
  for (const deployment of app.deployments) {
    for (const callee of deployment.description?.calls || []) {
      found.set(`${deployment.name} ${callee}`, { from: deployment.name, to: callee, rate: null });
    }
  }
  const prefix = `${app.name}/`;
  for (const edge of seen) {
    if (!edge.from.startsWith(prefix) || !edge.to.startsWith(prefix)) continue;
    const [from, callee] = [edge.from.slice(prefix.length), edge.to.slice(prefix.length)];
    found.set(`${from} ${callee}`, { from, to: callee, rate: edge.requests_per_s });
  }
  return [...found.values()];
}

/** Layers side by side. Gives where the nodes are, the size of all, and how an edge runs. */
function sideBySide(inLayers) {
  const most = Math.max(...inLayers.map((layer) => layer.length));
  const height = most * (NODE.height + GAP.across) - GAP.across;
  const places = new Map();
  inLayers.forEach((layer, depth) => {
    const offset = (height - layer.length * (NODE.height + GAP.across) + GAP.across) / 2;
    layer.forEach((name, index) =>
      places.set(name, { x: ENTRY.wide + depth * (NODE.width + GAP.along), y: offset + index * (NODE.height + GAP.across) }));
  });
  return {
    places,
    width: ENTRY.wide + inLayers.length * (NODE.width + GAP.along) - GAP.along,
    height,
    path(from, into) {
      const [start, end] = [{ x: from.x + NODE.width, y: from.y + NODE.height / 2 }, { x: into.x, y: into.y + NODE.height / 2 }];
      const bend = Math.max(24, Math.abs(end.x - start.x) / 2);
      return { d: `M${start.x} ${start.y}C${start.x + bend} ${start.y} ${end.x - bend} ${end.y} ${end.x} ${end.y}`,
        label: { x: (start.x + end.x) / 2, y: (start.y + end.y) / 2 - 6, anchor: "middle" } };
    },
    entry: (into) => ({ d: `M0 ${into.y + NODE.height / 2}H${into.x}`, label: { x: 2, y: into.y + NODE.height / 2 - 8, anchor: "start" } }),
  };
}

/** One below the other, callees moved in: for narrow screens. */
function belowEachOther(inLayers, edges, first) {
  const depths = new Map(inLayers.flatMap((layer, depth) => layer.map((name) => [name, depth])));
  const order = [];
  const visit = (name) => {
    if (order.includes(name) || !depths.has(name)) return;
    order.push(name);
    edges.filter((edge) => edge.from === name).forEach((edge) => visit(edge.to));
  };
  [first, ...depths.keys()].forEach(visit);
  const step = NODE.height + GAP.across;
  const places = new Map(order.map((name, index) => [name, { x: depths.get(name) * INDENT, y: ENTRY.narrow + index * step }]));
  return {
    places,
    width: (inLayers.length - 1) * INDENT + NODE.width,
    height: ENTRY.narrow + order.length * step - GAP.across,
    path(from, into) {
      const x = from.x + INDENT / 2;
      const y = into.y + NODE.height / 2;
      const down = into.y > from.y;
      return { d: `M${x} ${from.y + (down ? NODE.height : 0)}V${y}H${into.x}`, label: { x: into.x + 6, y: into.y - 6, anchor: "start" } };
    },
    entry: (into) => ({ d: `M${into.x + INDENT / 2} 0V${into.y}`, label: { x: into.x + INDENT, y: 16, anchor: "start" } }),
  };
}

/** The drawing. `wide`: layers side by side; otherwise below each other. */
export function graph(app, seen, wide) {
  const edges = edgesOf(app, seen);
  const names = app.deployments.map((deployment) => deployment.name);
  const inLayers = layers(names, edges, app.ingress);
  const byName = new Map(app.deployments.map((deployment) => [deployment.name, deployment]));
  const { places, width, height, path, entry } = wide ? sideBySide(inLayers) : belowEachOther(inLayers, edges, app.ingress);
  const drawn = edges.filter((edge) => places.has(edge.from) && places.has(edge.to)).map((edge) => ({
    key: `${edge.from} ${edge.to}`, rate: edge.rate, title: `${edge.from} calls ${edge.to}`, ...path(places.get(edge.from), places.get(edge.to)),
  }));
  if (places.has(app.ingress) && app.route_prefix !== null) {
    const arriving = seen.find((edge) => edge.from === "proxy" && edge.to === `${app.name}/${app.ingress}`);
    drawn.unshift({ key: "in", rate: arriving?.requests_per_s ?? latest(app.name, app.ingress, "requests_per_s"),
      title: `requests to ${app.route_prefix}`, ...entry(places.get(app.ingress)) });
  }
  const fastest = Math.max(0.001, ...drawn.map((edge) => edge.rate || 0));
  return h("div", { class: "graph scroll", tabindex: "0", role: "region", "aria-label": `Pipeline of ${app.name}` },
    h("div", { class: "graph-inner", style: { width: `${width}px`, height: `${height}px` } },
      s("svg", { viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": "true" },
        s("defs", {}, ["arrow", "arrow-flowing"].map((id) =>
          s("marker", { id, viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 10, markerHeight: 10, markerUnits: "userSpaceOnUse", orient: "auto" },
            s("path", { d: "M0 0L8 4L0 8Z" })))),
        drawn.map((edge) => arrow(edge, fastest))),
      h("ul", { class: "nodes" }, [...places].map(([name, place]) =>
        h("li", { "data-key": name, class: "node-place", style: { left: `${place.x}px`, top: `${place.y}px`, width: `${NODE.width}px`, height: `${NODE.height}px` } },
          node(app, byName.get(name), edges))))));
}

function arrow({ key, rate: perSecond, title, d, label }, fastest) {
  const thickness = 1.25 + 2.25 * Math.sqrt((perSecond || 0) / fastest);
  return s("g", { class: perSecond > 0 ? "edge flowing" : "edge", "data-key": key },
    s("title", {}, title),
    s("path", { d, "stroke-width": thickness.toFixed(2), "marker-end": `url(#${perSecond > 0 ? "arrow-flowing" : "arrow"})` }),
    perSecond > 0 ? s("text", { x: label.x, y: label.y, "text-anchor": label.anchor }, rate(perSecond)) : null);
}

function node(app, deployment, edges) {
  const metric = (name) => latest(app.name, deployment.name, name);
  const callees = edges.filter((edge) => edge.from === deployment.name).map((edge) => edge.to);
  const ongoing = metric("ongoing") ?? deployment.autoscaling?.running ?? null;
  const queued = metric("queued") ?? deployment.autoscaling?.queued ?? null;
  const room = (deployment.replica_states.RUNNING || 0) * (deployment.options.max_ongoing_requests || 1);
  const load = room && ongoing !== null ? Math.min(1, ongoing / room) : 0;
  const [running, wanted] = [deployment.replica_states.RUNNING || 0, deployment.target_num_replicas];
  const gpus = deployment.options.ray_actor_options?.num_gpus;
  return h("a", { class: `node ${tone(deployment.status)}`, href: to("app", app.name, "deployment", deployment.name) },
    h("span", { class: "node-name", title: deployment.name }, deployment.name),
    h("span", { class: `node-state ${tone(deployment.status)}` }, h("span", { class: "dot", "aria-hidden": "true" }),
      deployment.status === "HEALTHY" ? plural(running, "replica") : `${words(deployment.status)} ${running}/${wanted}`,
      gpus ? ` · ${number(gpus)} GPU` : ""),
    h("span", { class: "node-figures" },
      figure("rate", rate(metric("requests_per_s"))),
      figure("p50", milliseconds(metric("latency_p50_ms"))),
      figure("p99", milliseconds(metric("latency_p99_ms")))),
    h("span", { class: "load" }, h("span", { class: "load-bar", "aria-hidden": "true" },
      h("span", { class: load > 0.9 ? "full" : "", style: { width: `${(load * 100).toFixed(0)}%` } })),
      h("span", { class: "load-text" }, ongoing === null ? "load unknown" : `${number(ongoing)} ongoing`, queued ? ` · ${number(queued)} queued` : "")),
    metric("errors_per_s") > 0 ? h("span", { class: "node-errors" }, `${rate(metric("errors_per_s"))} errors`) : null,
    callees.length ? h("span", { class: "hidden-text" }, `calls ${callees.join(", ")}`) : null);
}

const figure = (label, value) => h("span", {}, h("small", {}, label), " ", value);
