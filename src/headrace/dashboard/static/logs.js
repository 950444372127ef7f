// What an application's replicas have logged and printed, and what they add to it.

import { ApiError, lines } from "./api.js";
import { copyable, fill, h } from "./dom.js";
import { clock, moment } from "./format.js";
import { empty } from "./parts.js";

const FIRST = 200;
const KEPT = 1000;
const AGAIN_MS = 2000;
const LEVELS = ["DEBUG", "INFO", "WARNING", "ERROR"];
const TONES = { WARNING: "busy", ERROR: "bad", CRITICAL: "bad" };

/** The `target` of a replica's logs. */
export const targetOf = (replicaId) => replicaId.replaceAll("#", "/");

/** `query`: `target`, below the application; `grep`: a text that entries must have. */
export function logsView(app, query) {
  const stop = new AbortController();
  let asking = new AbortController();
  const first = query.get("target") || app.name;
  const about = h("p", { class: "note", role: "status" }, "Loading…");
  const list = h("div", { class: "logs", tabindex: "0", role: "log", "aria-live": "off", "aria-label": "Log lines" });
  const level = h("select", { id: "log-level", onchange: () => follow() },
    h("option", { value: "" }, "all"), LEVELS.map((name) => h("option", { value: name }, `${name.toLowerCase()} and above`)));
  const whose = h("select", { id: "log-target", onchange: () => follow() },
    choices(app, first).map((name) => h("option", { value: name, selected: name === first }, name)));
  const text = h("input", { id: "log-text", type: "search", value: query.get("grep"), placeholder: "in the message or request id" });
  const form = h("form", { class: "row", onsubmit: (event) => {
    event.preventDefault();
    follow();
  } },
    h("div", { class: "field" }, h("label", { for: "log-target" }, "Of"), whose),
    h("div", { class: "field narrow" }, h("label", { for: "log-level" }, "Level"), level),
    h("div", { class: "field" }, h("label", { for: "log-text" }, "With the text"), text),
    h("div", { class: "field narrow end" }, h("button", { type: "submit" }, "Show")));
  const root = h("section", { class: "panel", "aria-label": "Logs", "data-own": "", "data-key": "logs" },
    h("div", { class: "panel-head" }, h("h2", {}, "Logs"), about), form, list);

  async function follow() {
    asking.abort();
    asking = new AbortController();
    const { signal } = asking;
    const target = whose.value;
    let shown = FIRST;
    while (!signal.aborted) {
      const parameters = new URLSearchParams({ target, lines: String(shown), follow: "true" });
      if (level.value) parameters.set("level", level.value);
      if (text.value.trim()) parameters.set("grep", text.value.trim());
      try {
        list.replaceChildren();
        about.className = "note";
        about.textContent = "the last lines, and what comes";
        for await (const line of lines(`/api/headrace/logs/entries?${parameters}`, signal)) show(JSON.parse(line));
      } catch (error) {
        if (signal.aborted) return;
        if (error instanceof ApiError && error.status === 404 && error.message === "Not Found") {
          fill(root, h("div", { class: "panel-head" }, h("h2", {}, "Logs")), empty("This controller does not show logs here",
            h("p", {}, copyable(`headrace logs ${target} -f`, "the command for the logs"))));
          return;
        }
        about.className = "problem";
        about.textContent = error instanceof ApiError ? error.message : "The connection was lost.";
        if (error instanceof ApiError && error.status < 500) return;
      }
      shown = KEPT;
      await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
    }
  }

  function show(entry) {
    if (entry.not_shown) {
      if (entry.not_shown.length) about.textContent = `without those of ${entry.not_shown.join(", ")}`;
      return;
    }
    const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 60;
    list.append(h("div", { class: `entry ${TONES[entry.level] || ""}` },
      h("time", { datetime: new Date(entry.time * 1000).toISOString(), title: moment(entry.time) }, clock(entry.time)),
      h("span", { class: "level" }, entry.level || "–"),
      h("span", { class: "process", title: entry.request_id ? `request ${entry.request_id}` : null }, entry.process),
      h("span", { class: "text" }, entry.message)));
    if (list.childElementCount > KEPT) list.firstElementChild.remove();
    if (atEnd) list.scrollTop = list.scrollHeight;
  }

  stop.signal.addEventListener("abort", () => asking.abort());
  follow();
  let given = false;
  return {
    draw: () => {
      if (given) return h("section", { "data-own": "", "data-key": "logs" });
      given = true;
      return root;
    },
    close: () => stop.abort(),
  };
}

/** The application, its deployments and replicas, as the API names them; and what was asked for, if it has gone. */
function choices(app, target) {
  const known = [app.name, ...app.deployments.flatMap((deployment) =>
    [`${app.name}/${deployment.name}`, ...deployment.replicas.map((replica) => targetOf(replica.replica_id))])];
  return known.includes(target) ? known : [...known, target];
}
