// What was deployed, as text. What looks like a secret is not shown.

import { copyable, h } from "./dom.js";
import { empty, panel } from "./parts.js";

const SECRET = /secret|token|password|passwd|credential|api_?key|private_?key|authorization/i;

/** Without what is not set, and without what nobody else should read on a screen. */
export function shown(value, name = "") {
  if (name === "env_vars" && value && typeof value === "object") {
    return Object.fromEntries(Object.keys(value).map((key) => [key, "…"]));
  }
  if (SECRET.test(name) && (typeof value === "string" || Array.isArray(value))) return "…";
  if (Array.isArray(value)) return value.map((item) => shown(item));
  if (value && typeof value === "object") {
    return Object.fromEntries(Object.entries(value)
      .filter(([, item]) => item !== null && !(typeof item === "object" && !Object.keys(item).length))
      .map(([key, item]) => [key, shown(item, key)]));
  }
  return value;
}

/** A value in YAML's block form. */
export function yaml(value, indent = "") {
  if (Array.isArray(value)) {
    if (!value.length) return " []";
    return value.map((item) => {
      const text = yaml(item, `${indent}  `);
      return `\n${indent}-${text.startsWith("\n") ? ` ${text.trimStart()}` : text}`;
    }).join("");
  }
  if (value && typeof value === "object") {
    const entries = Object.entries(value);
    if (!entries.length) return " {}";
    return entries.map(([key, item]) => `\n${indent}${scalar(key)}:${yaml(item, `${indent}  `)}`).join("");
  }
  return ` ${scalar(value)}`;
}

function scalar(value) {
  if (typeof value !== "string") return value === undefined ? "null" : JSON.stringify(value);
  const plain = /^[A-Za-z_./][\w./@+-]*( [\w./@+-]+)*$/.test(value) && !/^(true|false|null|yes|no|on|off|y|n|~|\.nan|\.inf)$/i.test(value);
  return plain ? value : JSON.stringify(value);
}

const text = (label, value) =>
  h("pre", { class: "code", tabindex: "0", role: "region", "aria-label": label }, yaml(shown(value)).trimStart() || "{}");

export function configView(app) {
  return [
    panel("As deployed", { note: app.declared ? "by a config file, through the REST API" : "from Python" },
      app.config
        ? text("Config of the application", app.config)
        : empty("This application was run from Python",
          h("p", {}, "Its options are below. ", h("code", {}, "headrace build"), " writes the config file of an application."))),
    panel("Options that hold", { note: "defaults included" },
      app.deployments.map((deployment) => h("details", { class: "option", "data-key": deployment.name },
        h("summary", {}, deployment.name, h("span", { class: "note" }, deployment.description?.callable || "")),
        deployment.description?.doc ? h("p", {}, deployment.description.doc) : null,
        Object.keys(deployment.description?.arguments || {}).length
          ? [h("h3", {}, "Arguments"), text(`Arguments of ${deployment.name}`, deployment.description.arguments)] : null,
        h("h3", {}, "Options"), text(`Options of ${deployment.name}`, deployment.options)))),
    h("p", { class: "note" }, "On the command line: ", copyable("headrace config", "the command for the config")),
  ];
}

export const optionsView = (deployment) => text(`Options of ${deployment.name}`, deployment.options);
