// What was deployed as an application, and the way back.

import { get, post } from "./api.js";
import { copyable, h } from "./dom.js";
import { ago, moment } from "./format.js";
import { badge, empty, panel, table } from "./parts.js";
import { application, state } from "./store.js";

export function historyView(name, redraw) {
  const stop = new AbortController();
  let answer = null;
  let message = null;
  let seen = "";
  async function load() {
    try {
      answer = await get(`/api/headrace/applications/${encodeURIComponent(name)}/history`, stop.signal);
    } catch (error) {
      if (stop.signal.aborted) return;
      message = { kind: "problem", text: error.message };
    }
    redraw();
  }
  async function rollback(deploy) {
    if (!(await confirmed(name, deploy))) return;
    try {
      const reply = await post(`/api/headrace/applications/${encodeURIComponent(name)}/rollback`, { to: deploy.number });
      message = { kind: "done", text: `Deploy ${reply.rolled_back_to} is being brought back, as deploy ${reply.deploy}.` };
    } catch (error) {
      message = { kind: "problem", text: `The rollback was refused: ${error.message}` };
    }
    load();
  }
  return {
    draw: () => {
      const app = application(name);
      // A deploy shows itself in the status first.
      const now = JSON.stringify([app?.last_deployed_time_s, app?.status]);
      if (now !== seen) {
        seen = now;
        load();
      }
      return panel("Deploys", { note: answer ? `newest first` : "" },
        h("p", { class: message?.kind || "", role: "status" }, message?.text || ""),
        state.actions ? null : h("p", { class: "note" }, "This page is read-only, because the instance has no token. Roll back with ",
          copyable(`headrace rollback ${name}`, "the command for a rollback"), " or start the instance with ",
          h("code", {}, "HEADRACE_REST_TOKEN"), " set."),
        answer ? deploys(answer, rollback) : h("p", { class: "note" }, "Loading…"));
    },
    close: () => stop.abort(),
  };
}

function deploys(answer, rollback) {
  if (!answer.deploys.length) return empty("Nothing is remembered of this application");
  const columns = [["Deploy"], ["When"], ["Outcome"], ["What it changed"], ["Version"], ...(state.actions ? [["Action"]] : [])];
  return table("Deploys", columns, answer.deploys.map((deploy, index) => [String(deploy.number), [
    String(deploy.number),
    h("time", { datetime: new Date(deploy.deployed_at * 1000).toISOString(), title: moment(deploy.deployed_at) }, ago(deploy.deployed_at)),
    badge(deploy.outcome),
    [deploy.changes || "–", deploy.restores ? h("div", { class: "note" }, `brings back deploy ${deploy.restores}`) : null,
      deploy.message ? h("div", { class: "message" }, deploy.message) : null],
    h("code", {}, deploy.version),
    ...(state.actions ? [index === 0
      ? h("span", { class: "note" }, "current")
      : h("button", { type: "button", class: deploy.number === answer.rollback_to ? "primary" : "",
          "aria-label": `Roll back to deploy ${deploy.number}`, onclick: () => rollback(deploy) }, "Roll back")] : []),
  ]]));
}

/** Asks whether to do it. */
function confirmed(name, deploy) {
  return new Promise((resolve) => {
    const dialog = h("dialog", { "aria-labelledby": "confirm-title", "data-own": "" },
      h("h2", { id: "confirm-title" }, `Roll back ${name} to deploy ${deploy.number}?`),
      h("p", {}, "The code, options and dependencies of that deploy are brought back, as a rolling update. ",
        `It was deployed ${ago(deploy.deployed_at)}: ${deploy.changes || "no changes noted"}.`),
      h("div", { class: "buttons" },
        h("button", { type: "button", onclick: () => dialog.close("") }, "Cancel"),
        h("button", { type: "button", class: "primary", onclick: () => dialog.close("yes") }, "Roll back")));
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}
