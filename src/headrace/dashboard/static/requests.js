// The request inspector: slow, failed and recent requests, each as a waterfall through the pipeline.

import { ApiError, get } from "./api.js";
import { h } from "./dom.js";
import { ago, clock, milliseconds, moment, plural } from "./format.js";
import { empty, panel } from "./parts.js";
import { shortId } from "./replicas.js";
import { to } from "./router.js";

const KINDS = [["slow", "Slowest"], ["failed", "Failed"], ["recent", "Recent"]];
const EVERY_MS = 4000;
const LIMIT = 50;

/** `app`: of one application; of all without. `redraw` is called when there is something new. */
export function requestsView(app, query, redraw) {
  const kind = KINDS.some(([name]) => name === query.get("kind")) ? query.get("kind") : "slow";
  const stop = new AbortController();
  let answer = null;
  let problem = "";
  async function load() {
    try {
      const parameters = new URLSearchParams({ kind, limit: String(LIMIT), ...(app ? { app } : {}) });
      answer = await get(`/api/headrace/requests?${parameters}`, stop.signal);
      problem = "";
    } catch (error) {
      if (stop.signal.aborted) return;
      problem = error instanceof ApiError && error.status === 404 ? "This controller keeps no requests." : error.message;
    }
    redraw();
  }
  load();
  const timer = setInterval(() => document.hidden || load(), EVERY_MS);
  const here = app ? to("app", app, "requests") : to("requests");
  return {
    draw: () => panel("Requests", {
      right: h("nav", { class: "choices", "aria-label": "Which requests" }, KINDS.map(([name, label]) =>
        h("a", { href: `${here}?kind=${name}`, "aria-current": name === kind ? "true" : null }, label))),
    },
      problem ? h("p", { class: "problem", role: "status" }, problem) : null,
      !answer ? (problem ? null : h("p", { class: "note" }, "Loading…")) : list(answer.requests, kind, !app)),
    close: () => {
      stop.abort();
      clearInterval(timer);
    },
  };
}

function list(requests, kind, withApp) {
  if (!requests.length) {
    return empty(kind === "failed" ? "No failed requests" : "No requests yet",
      h("p", {}, kind === "failed" ? "None of those that are kept has failed." : "They appear here as soon as some were answered."));
  }
  const longest = Math.max(...requests.map((request) => request.duration_ms || 0), 1e-6);
  return h("div", { class: "requests" }, requests.map((request) =>
    h("details", { class: `request ${request.failure ? "failed" : ""}`, "data-key": request.request_id || String(request.began) },
      h("summary", {},
        h("span", { class: `outcome ${request.failure || request.status >= 500 ? "bad" : request.status >= 400 ? "busy" : "good"}` },
          request.status ? String(request.status) : request.failure ? "Failed" : "OK"),
        h("span", { class: "route" }, withApp ? `${request.app} ` : "", h("span", { class: "note" }, request.route || "")),
        h("span", { class: "bar", "aria-hidden": "true" },
          h("span", { style: { width: `${Math.max(0.5, (100 * (request.duration_ms || 0)) / longest)}%` } })),
        h("span", { class: "num" }, milliseconds(request.duration_ms)),
        h("time", { class: "note", title: moment(request.began) }, ago(request.began)),
        request.failure ? h("span", { class: "why" }, request.failure) : null),
      detail(request))));
}

function detail(request) {
  return h("div", { class: "request-detail" },
    h("p", { class: "note" }, "Request ", h("code", {}, request.request_id || "–"), ` at ${clock(request.began)}`,
      `, ${plural((request.spans || []).length, "call")}`,
      request.request_id ? [" · ", h("a", { href: `${to("app", request.app, "logs")}?${new URLSearchParams({ grep: request.request_id })}` }, "its log lines")] : null),
    waterfall(request));
}

/** Each call as a bar at its time within the request: first what it waited, then what it took. */
function waterfall(request) {
  const spans = [...(request.spans || [])].sort((one, other) => one.began - other.began);
  if (!spans.length) return h("p", { class: "note" }, "No call of a deployment is known: it failed before it reached a replica.");
  const began = Math.min(request.began, ...spans.map((span) => span.began - (span.queued_ms || 0) / 1000));
  const end = (span) => (span.began - began) * 1000 + (span.duration_ms || 0);
  const whole = Math.max(request.duration_ms || 0, ...spans.map(end), 1e-6);
  const percent = (ms) => `${Math.min(100, Math.max(0, (100 * ms) / whole)).toFixed(3)}%`;
  return h("ol", { class: "waterfall" }, spans.map((span) => {
    const start = (span.began - began) * 1000;
    const queued = span.queued_ms || 0;
    const name = `${span.deployment}${span.method && span.method !== "__call__" ? `.${span.method}` : ""}`;
    return h("li", { class: span.failure ? "failed" : "" },
      h("span", { class: "span-name", title: span.replica_id || "" },
        h("a", { href: to("app", span.app || request.app, "deployment", span.deployment) }, name),
        span.replica_id ? h("small", {}, " ", shortId(span.replica_id)) : null),
      h("span", { class: "track", "aria-hidden": "true" },
        queued ? h("span", { class: "queued", style: { left: percent(start - queued), width: percent(queued) } }) : null,
        h("span", { class: "ran", style: { left: percent(start), width: percent(span.duration_ms || 0) } })),
      h("span", { class: "num" }, milliseconds(span.duration_ms)),
      h("span", { class: "note" }, queued >= 0.005 ? `after ${milliseconds(queued)} in the queue` : `at ${milliseconds(start)}`),
      span.failure ? h("span", { class: "why" }, span.failure) : null);
  }));
}
