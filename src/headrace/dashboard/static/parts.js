// Pieces that several views show.

import { h } from "./dom.js";
import { tone, words } from "./format.js";

/** A state: a coloured dot and its name. */
export const badge = (state) =>
  h("span", { class: `badge ${tone(state)}` }, h("span", { class: "dot", "aria-hidden": "true" }), words(state));

export const empty = (title, ...more) => h("div", { class: "empty" }, h("p", { class: "empty-title" }, title), ...more);

/** A figure with a name. */
export const tile = (label, value, note, kind = "") =>
  h("div", { class: `tile ${kind}` }, h("span", { class: "tile-label" }, label), h("span", { class: "tile-value" }, value),
    h("span", { class: "tile-note" }, note || "\u00a0"));

export const panel = (title, options, ...children) =>
  h("section", { class: `panel ${options?.class || ""}`, "aria-label": title, "data-key": options?.key },
    h("div", { class: "panel-head" }, h("h2", {}, title), options?.note ? h("span", { class: "note" }, options.note) : null,
      options?.right || null),
    children);

/** A table that scrolls sideways where there is no room. `columns`: [name, class]; `rows`: [key, cells]. */
export function table(label, columns, rows) {
  const classOf = (index) => columns[index][1] || null;
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label },
    h("table", {},
      h("thead", {}, h("tr", {}, columns.map(([name, kind]) => h("th", { scope: "col", class: kind }, name)))),
      h("tbody", {}, rows.map(([key, cells]) =>
        h("tr", { "data-key": key }, cells.map((cell, index) => h("td", { class: classOf(index) }, cell)))))));
}

export const replicasOf = (deployment) =>
  `${deployment.replica_states.RUNNING || 0}/${deployment.target_num_replicas}`;

/** The worst of several states. */
export function worst(states) {
  for (const wanted of ["bad", "busy"]) {
    const found = states.find((state) => tone(state) === wanted);
    if (found) return found;
  }
  return states[0];
}
