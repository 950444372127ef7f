// All applications at a glance, what was decided lately, and the machines.

import { spark } from "./chart.js";
import { decisionList, decisionsOf } from "./decisions.js";
import { h } from "./dom.js";
import { ago, bytes, milliseconds, number, plural, rate, tone } from "./format.js";
import { badge, empty, panel, table, tile } from "./parts.js";
import { to } from "./router.js";
import { latest, seriesOf, state } from "./store.js";

const FILTER_FROM = 9;
const DECISIONS = 8;
let wanted = "";

export function overviewView(redraw) {
  wanted = "";
  return {
    draw: () => {
      const { status } = state;
      const deployments = status.applications.flatMap((app) => app.deployments);
      const running = sum(deployments.map((deployment) => deployment.replica_states.RUNNING || 0));
      const target = sum(deployments.map((deployment) => deployment.target_num_replicas));
      const troubled = deployments.filter((deployment) => tone(deployment.status) === "bad").length;
      const rates = status.applications.map((app) => latest(app.name, app.ingress, "requests_per_s"));
      const failures = status.applications.map((app) => latest(app.name, app.ingress, "errors_per_s"));
      const p99 = status.applications.map((app) => latest(app.name, app.ingress, "latency_p99_ms")).filter((value) => value !== null);
      return [
        h("h1", { class: "hidden-text" }, "Overview"),
        h("div", { class: "tiles" },
          tile("Requests", rate(total(rates)), plural(status.applications.length, "application")),
          tile("Errors", rate(total(failures)), total(failures) > 0 ? "failing now" : "", total(failures) > 0 ? "bad" : ""),
          tile("Slowest p99", milliseconds(p99.length ? Math.max(...p99) : null), "of all applications"),
          tile("Replicas", `${number(running)}/${number(target)}`, running < target ? `${target - running} not running` : "all that are wanted",
            running < target ? "busy" : ""),
          tile("Deployments", number(deployments.length), troubled ? `${troubled} in trouble` : deployments.length ? "none in trouble" : "", troubled ? "bad" : "")),
        status.applications.length ? applications(status.applications, redraw) : nothing(),
        h("div", { class: "columns" },
          panel("Autoscaling decisions", { key: "decisions" },
            decisionList(decisionsOf(status.applications).slice(0, DECISIONS), { withApp: true })),
          panel("Machines", { note: plural(status.nodes.length, "node"), key: "machines" }, machines(status))),
      ];
    },
  };
}

const sum = (values) => values.reduce((all, value) => all + value, 0);
const total = (values) => (values.some((value) => value !== null) ? sum(values.map((value) => value || 0)) : null);

function nothing() {
  return panel("Applications", {}, empty("Nothing is deployed yet",
    h("p", {}, "Put this into ", h("code", {}, "hello.py"), ", and run ", h("code", {}, "headrace run hello:app"), ":"),
    h("pre", { class: "code", tabindex: "0", role: "region", "aria-label": "An example" },
      'import headrace as serve\n\n@serve.deployment\nclass Hello:\n    def __call__(self, name: str) -> str:\n        return f"Hello, {name}"\n\napp = Hello.bind()')));
}

function applications(apps, redraw) {
  const shown = apps.filter((app) => !wanted || `${app.name} ${app.route_prefix} ${app.status}`.toLowerCase().includes(wanted));
  const filter = apps.length < FILTER_FROM && !wanted ? null : h("input", {
    type: "search", "data-key": "find", "aria-label": "Find applications", placeholder: "Find…",
    oninput: (event) => {
      wanted = event.target.value.toLowerCase();
      redraw();
    },
  });
  const order = { bad: 0, busy: 1, calm: 2, good: 3 };
  const sorted = [...shown].sort((one, other) => order[tone(one.status)] - order[tone(other.status)] || one.name.localeCompare(other.name));
  return panel("Applications", { note: shown.length < apps.length ? `${shown.length} of ${apps.length}` : "", right: filter, key: "applications" },
    table("Applications", [["Application"], ["State"], ["Replicas", "num"], ["Requests", "num"], ["", "spark-cell"], ["Errors", "num"], ["p50", "num"], ["p99", "num"], ["Deployed"]],
      sorted.map((app) => {
        const metric = (name) => latest(app.name, app.ingress, name);
        const running = sum(app.deployments.map((deployment) => deployment.replica_states.RUNNING || 0));
        const target = sum(app.deployments.map((deployment) => deployment.target_num_replicas));
        const errors = metric("errors_per_s");
        return [app.name, [
          [h("a", { class: "name", href: to("app", app.name) }, app.name),
            h("div", { class: "note" }, app.route_prefix ?? "no route", ` · ${plural(app.deployments.length, "deployment")}`),
            app.message ? h("div", { class: "message" }, app.message) : null],
          badge(app.status),
          `${running}/${target}`,
          rate(metric("requests_per_s")),
          spark(seriesOf(app.name, app.ingress).requests_per_s, `Requests of ${app.name} over the last minutes`),
          h("span", { class: errors > 0 ? "bad-text" : "" }, rate(errors)),
          milliseconds(metric("latency_p50_ms")),
          milliseconds(metric("latency_p99_ms")),
          h("time", { datetime: new Date(app.last_deployed_time_s * 1000).toISOString() }, ago(app.last_deployed_time_s)),
        ]];
      })));
}

export function machines(status) {
  if (!status.nodes.length) return empty("No machine is known");
  const count = (node) => sum(status.applications.map((app) => sum(app.deployments.map((deployment) =>
    deployment.replicas.filter((replica) => replica.node === node).length))));
  const proxies = (node) => status.proxies.filter((proxy) => proxy.node === node);
  return table("Machines", [["Node"], ["State"], ["Replicas", "num"], ["CPUs", "num"], ["GPUs", "num"], ["Memory", "num"], ["Proxies"]],
    status.nodes.map((node) => [node.node, [
      [h("span", { class: "name" }, node.node), h("div", { class: "note" }, [node.host, node.head ? "head" : "", node.zone].filter(Boolean).join(" · "))],
      badge(node.alive ? "ALIVE" : "DEAD"),
      String(count(node.node)),
      number(node.resources.CPU ?? null),
      node.resources.GPU ? number(node.resources.GPU) : "–",
      bytes(node.resources.memory ?? null),
      proxies(node.node).map((proxy) => h("div", {}, badge(proxy.status))),
    ]]));
}
