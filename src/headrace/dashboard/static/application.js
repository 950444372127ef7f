// One application: its pipeline, and the views of its parts.

import { chart } from "./chart.js";
import { configView, optionsView } from "./config.js";
import { decisionList, decisionsOf, marksOf, scalingTable } from "./decisions.js";
import { h } from "./dom.js";
import { milliseconds, number, rate } from "./format.js";
import { graph } from "./graph.js";
import { historyView } from "./history.js";
import { logsView } from "./logs.js";
import { badge, empty, panel, replicasOf } from "./parts.js";
import { playgroundView } from "./playground.js";
import { memoryByReplica, replicaTable } from "./replicas.js";
import { requestsView } from "./requests.js";
import { to } from "./router.js";
import { application, seriesOf, state } from "./store.js";

const TABS = [
  ["", "Pipeline"], ["replicas", "Replicas"], ["scaling", "Scaling"], ["requests", "Requests"], ["logs", "Logs"], ["history", "Deploys"],
  ["config", "Config"], ["playground", "Playground"],
];
const MEMORY_EVERY_MS = 5000;
const WIDE_FROM = 860;

export function applicationView(name, tab, rest, query, redraw) {
  const content = contentOf(name, tab, rest, query, redraw);
  return {
    draw: () => {
      const app = application(name);
      if (!app) {
        return [h("h1", {}, name), empty("There is no such application", h("p", {}, "It may have been deleted. ", h("a", { href: "#/" }, "All applications")))];
      }
      return [
        h("div", { class: "title" },
          h("nav", { class: "crumbs", "aria-label": "Where you are" }, h("a", { href: "#/" }, "Applications"), " / ",
            tab === "deployment" ? [h("a", { href: to("app", name) }, name), " / "] : null),
          h("h1", {}, tab === "deployment" ? rest : name), stateOf(app, tab === "deployment" ? rest : null),
          h("span", { class: "note" }, app.route_prefix ?? "no route")),
        app.message ? h("p", { class: "message" }, app.message) : null,
        h("nav", { class: "tabs", "aria-label": `Views of ${name}` }, TABS.map(([key, label]) =>
          h("a", { href: key ? to("app", name, key) : to("app", name), "aria-current": key === (tab === "deployment" ? "" : tab) ? "page" : null }, label))),
        content.draw(app),
      ];
    },
    close: () => content.close?.(),
  };
}

/** Of one of its deployments, or of all; nothing where there is no such deployment. */
function stateOf(app, name) {
  const known = name === null ? app : app.deployments.find((deployment) => deployment.name === name);
  return known ? badge(known.status) : null;
}

function contentOf(name, tab, rest, query, redraw) {
  switch (tab) {
    case "": return { draw: pipeline };
    case "deployment": return withMemory(redraw, (app, memory) => deploymentView(app, rest, memory));
    case "replicas": return withMemory(redraw, (app, memory) =>
      panel("Replicas", {}, replicaTable(app, app.deployments, memory)));
    case "scaling": return { draw: scaling };
    case "requests": return lazily(() => requestsView(name, query, redraw));
    case "logs": return lazily(() => logsView(application(name), query));
    case "history": return lazily(() => historyView(name, redraw));
    case "config": return { draw: configView };
    case "playground": return lazily(() => playgroundView(application(name)));
    default: return { draw: () => empty("There is no such view") };
  }
}

/** A view that can be made only when its application is known. */
function lazily(make) {
  let made = null;
  return { draw: (app) => (made ||= make()).draw(app), close: () => made?.close() };
}

/** A view that shows the memory of replicas: asked for only while it is open, since it asks all of them. */
function withMemory(redraw, draw) {
  const stop = new AbortController();
  let memory = new Map();
  const load = async () => {
    try {
      memory = await memoryByReplica(stop.signal);
      redraw();
    } catch {
      // What is wrong with the connection is shown where the status comes from.
    }
  };
  load();
  const timer = setInterval(() => document.hidden || load(), MEMORY_EVERY_MS);
  return {
    draw: (app) => draw(app, memory),
    close: () => {
      stop.abort();
      clearInterval(timer);
    },
  };
}

function pipeline(app) {
  if (!app.deployments.length) return empty("No deployments yet", h("p", {}, "The application is being built."));
  const wide = document.documentElement.clientWidth >= WIDE_FROM;
  return [
    panel("Pipeline", { class: "pipeline", key: "pipeline" }, graph(app, state.edges, wide)),
    h("h2", { class: "section" }, "Requests to ", h("a", { href: to("app", app.name, "deployment", app.ingress) }, app.ingress)),
    charts(app, app.ingress, null),
  ];
}

const AT = () => ({ until: state.series?.until, interval_s: state.series?.interval_s || 1 });

/** How a deployment did over time. */
function charts(app, name, deployment) {
  const series = seriesOf(app.name, name);
  const key = `${app.name}/${name}`;
  const marks = deployment ? marksOf(deployment) : [];
  return h("div", { class: "charts" },
    chart({ ...AT(), key: `${key}/requests`, title: "Requests", format: rate, series: [
      { name: "all", kind: "one", area: true, values: series.requests_per_s },
      { name: "errors", kind: "bad", values: series.errors_per_s }] }),
    chart({ ...AT(), key: `${key}/latency`, title: "Latency", format: milliseconds, series: [
      { name: "p50", kind: "one", values: series.latency_p50_ms },
      { name: "p90", kind: "two", values: series.latency_p90_ms },
      { name: "p99", kind: "three", values: series.latency_p99_ms }] }),
    chart({ ...AT(), key: `${key}/load`, title: "Load", format: number, whole: true, series: [
      { name: "ongoing", kind: "one", area: true, values: series.ongoing },
      { name: "queued", kind: "two", values: series.queued }] }),
    chart({ ...AT(), key: `${key}/replicas`, title: "Replicas", format: number, whole: true, marks,
      note: marks.length ? "│ decisions" : "", series: [
        { name: "running", kind: "one", area: true, steps: true, values: series.replicas },
        { name: "wanted", kind: "two", steps: true, values: series.target_replicas }] }));
}

function deploymentView(app, name, memory) {
  const deployment = app.deployments.find((one) => one.name === name);
  if (!deployment) return empty("There is no such deployment", h("p", {}, h("a", { href: to("app", app.name) }, `All of ${app.name}`)));
  const scaling = deployment.autoscaling;
  return [
    deployment.message ? h("p", { class: "message" }, deployment.message) : null,
    charts(app, name, deployment),
    panel("Replicas", { note: `${replicasOf(deployment)} running`, key: "replicas" }, replicaTable(app, [deployment], memory)),
    scaling ? panel("Autoscaling", { note: `${scaling.min_replicas ?? "–"} to ${scaling.max_replicas ?? "–"} replicas`, key: "scaling" },
      h("p", {}, scaling.reason), scaling.policy_problem ? h("p", { class: "problem" }, scaling.policy_problem) : null,
      decisionList(decisionsOf([{ ...app, deployments: [deployment] }]))) : null,
    panel("Options", { key: "options", note: deployment.description?.callable },
      deployment.description?.doc ? h("p", {}, deployment.description.doc) : null, optionsView(deployment)),
  ];
}

function scaling(app) {
  const scaled = app.deployments.filter((deployment) => deployment.autoscaling);
  return [
    panel("Autoscaling now", { key: "now" }, scalingTable(app)),
    scaled.length ? h("div", { class: "charts" }, scaled.map((deployment) => {
      const series = seriesOf(app.name, deployment.name);
      return chart({ ...AT(), key: `${app.name}/${deployment.name}/scaling`, title: deployment.name, format: number, whole: true,
        marks: marksOf(deployment), note: marksOf(deployment).length ? "│ decisions" : "", series: [
          { name: "running", kind: "one", area: true, steps: true, values: series.replicas },
          { name: "wanted", kind: "two", steps: true, values: series.target_replicas },
          { name: "ongoing", kind: "three", values: series.ongoing }] });
    })) : null,
    scaled.length ? panel("Decisions", { note: "newest first", key: "decisions" }, decisionList(decisionsOf([app]))) : null,
  ];
}
