// Calls an application: a chat for language models, a form for what describes itself, and any request by hand.

import { ApiError, call } from "./api.js";
import { chat } from "./chat.js";
import { h, fill } from "./dom.js";
import { bytes, milliseconds } from "./format.js";
import { field, resolved } from "./form.js";
import { empty } from "./parts.js";

const METHODS = ["get", "post", "put", "patch", "delete"];
const LONGEST_SHOWN = 200000;

/** The element stays the same for as long as the view is open: people type into it. */
export function playgroundView(app) {
  const stop = new AbortController();
  const root = h("section", { class: "panel playground", "aria-label": "Playground", "data-own": "", "data-key": "playground" },
    h("div", { class: "panel-head" }, h("h2", {}, "Playground")), h("p", { class: "note" }, "Asking the application what it takes…"));
  if (app.route_prefix === null) {
    fill(root, h("div", { class: "panel-head" }, h("h2", {}, "Playground")),
      empty("This application has no route", h("p", {}, "It is called through handles only.")));
  } else {
    discover(app, stop.signal).then((modes) => stop.signal.aborted || show(root, app, modes), () => {});
  }
  let given = false;
  return {
    draw: () => {
      if (given) return h("section", { "data-own": "", "data-key": "playground" });
      given = true;
      return root;
    },
    close: () => stop.abort(),
  };
}

/** The ways in which an application can be called, the best first: [{name, build()}]. */
async function discover(app, signal) {
  const authorization = undefined;
  const [models, description] = await Promise.all([
    json(app, "/v1/models", signal, authorization),
    json(app, "/openapi.json", signal, authorization),
  ]);
  const modes = [];
  const names = Array.isArray(models?.data) ? models.data.map((model) => String(model.id)) : [];
  if (names.length) modes.push({ name: "Chat", build: () => chat(app, names) });
  const operations = description?.paths ? operationsOf(description, app.route_prefix || "") : [];
  if (operations.length) modes.push({ name: "Form", build: () => forms(app, operations, description) });
  modes.push({ name: "Raw request", build: () => raw(app) });
  return modes;
}

async function json(app, path, signal) {
  try {
    const answer = await call(app.name, { method: "GET", path, signal });
    if (answer.status !== 200 || !answer.contentType.includes("json")) {
      answer.response.body?.cancel();
      return null;
    }
    return await answer.response.json();
  } catch (error) {
    if (signal.aborted) throw error;
    return null;
  }
}

function show(root, app, modes) {
  const place = h("div", { class: "mode" });
  const built = new Map();
  const choose = (mode) => {
    if (!built.has(mode)) built.set(mode, mode.build());
    place.replaceChildren(built.get(mode));
    buttons.forEach((button, index) => button.setAttribute("aria-pressed", String(modes[index] === mode)));
  };
  const buttons = modes.map((mode) => h("button", { type: "button", onclick: () => choose(mode) }, mode.name));
  fill(root, h("div", { class: "panel-head" }, h("h2", {}, "Playground"),
    h("span", { class: "note" }, app.route_prefix),
    modes.length > 1 ? h("div", { class: "choices", role: "group", "aria-label": "How to call it" }, buttons) : null), place);
  choose(modes[0]);
}

/** [{method, path, operation}], those with a body first. Paths are below the application's route. */
function operationsOf(description, prefix) {
  // Some name their route once, as where they are served; others in each path.
  const named = (description.servers || []).some((server) => server.url === prefix);
  const root = named ? "" : prefix.replace(/\/$/, "");
  const below = (path) => (root && (path === root || path.startsWith(`${root}/`)) ? path.slice(root.length) : path);
  const found = Object.entries(description.paths).flatMap(([path, methods]) =>
    METHODS.filter((method) => methods && methods[method]).map((method) =>
      ({ method: method.toUpperCase(), path: below(path), operation: methods[method] })));
  return found.sort((one, other) => Number(other.method === "POST") - Number(one.method === "POST"));
}

function forms(app, operations, description) {
  const place = h("div", {});
  const select = h("select", { id: "operation", onchange: () => open(operations[Number(select.value)]) },
    operations.map(({ method, path, operation }, index) =>
      h("option", { value: String(index) }, `${method} ${path || "/"}${operation.summary ? ` · ${operation.summary}` : ""}`)));
  const open = (chosen) => fill(place, operationForm(app, chosen, description));
  open(operations[0]);
  return h("div", {},
    operations.length > 1 ? h("div", { class: "field" }, h("label", { for: "operation" }, "Operation"), select) : null, place);
}

function operationForm(app, { method, path, operation }, description) {
  const parameters = (operation.parameters || []).map((parameter) => resolved(parameter, description))
    .filter((parameter) => parameter.in === "query" || parameter.in === "path")
    .map((parameter) => ({ ...parameter, field: field(parameter.name, parameter.schema || {}, description, { required: parameter.required, depth: 1 }) }));
  const content = resolved(operation.requestBody, description).content || {};
  const kind = ["application/json", ...Object.keys(content)].find((type) => content[type]);
  const body = kind ? field("", content[kind].schema || {}, description, { required: Boolean(operation.requestBody?.required) }) : null;
  const answer = answerPlace();
  const form = h("form", {
    class: "call", novalidate: true,
    onsubmit: (event) => {
      event.preventDefault();
      let request;
      try {
        request = filled(method, path, parameters, body, kind);
      } catch (error) {
        answer.problem(error.message);
        return;
      }
      answer.ask(app, request);
    },
  },
    operation.description ? h("p", { class: "note" }, operation.description) : null,
    parameters.map((parameter) => parameter.field.element),
    body?.element || null,
    h("div", { class: "buttons" }, h("button", { type: "submit", class: "primary" }, "Send"), answer.stop));
  return h("div", { class: "beside" }, form, answer.element);
}

function filled(method, path, parameters, body, kind) {
  const query = new URLSearchParams();
  for (const parameter of parameters) {
    const value = parameter.field.value();
    if (value === undefined) continue;
    const text = typeof value === "string" ? value : JSON.stringify(value);
    if (parameter.in === "path") path = path.replaceAll(`{${parameter.name}}`, encodeURIComponent(text));
    else if (Array.isArray(value)) value.forEach((item) => query.append(parameter.name, String(item)));
    else query.set(parameter.name, text);
  }
  const whole = body?.value();
  return {
    method,
    path: query.size ? `${path}?${query}` : path,
    body: whole === undefined ? undefined : kind.includes("json") ? JSON.stringify(whole) : String(whole),
    contentType: kind,
  };
}

function raw(app) {
  const method = h("select", { id: "raw-method" }, ["POST", "GET", "PUT", "PATCH", "DELETE"].map((name) => h("option", {}, name)));
  const path = h("input", { id: "raw-path", type: "text", placeholder: "/path?key=value", spellcheck: "false" });
  const kind = h("input", { id: "raw-kind", type: "text", value: "application/json", spellcheck: "false" });
  const body = h("textarea", { id: "raw-body", rows: "6", class: "mono", spellcheck: "false" });
  const authorization = h("input", { id: "raw-key", type: "password", autocomplete: "off", placeholder: "Bearer …" });
  const answer = answerPlace();
  const form = h("form", {
    class: "call",
    onsubmit: (event) => {
      event.preventDefault();
      const withBody = method.value !== "GET" && body.value !== "";
      answer.ask(app, { method: method.value, path: path.value, body: withBody ? body.value : undefined, contentType: kind.value,
        authorization: authorization.value });
    },
  },
    h("div", { class: "row" },
      h("div", { class: "field narrow" }, h("label", { for: "raw-method" }, "Method"), method),
      h("div", { class: "field" }, h("label", { for: "raw-path" }, `Path below ${app.route_prefix}`), path)),
    h("div", { class: "field" }, h("label", { for: "raw-kind" }, "Content type"), kind),
    h("div", { class: "field" }, h("label", { for: "raw-body" }, "Body"), body),
    h("div", { class: "field" }, h("label", { for: "raw-key" }, "Authorization for the application"), authorization),
    h("div", { class: "buttons" }, h("button", { type: "submit", class: "primary" }, "Send"), answer.stop));
  return h("div", { class: "beside" }, form, answer.element);
}

/** Where an answer is shown as it comes: always as text. */
function answerPlace() {
  const about = h("p", { class: "note", role: "status" }, "The answer appears here.");
  const text = h("pre", { class: "code answer", tabindex: "0", role: "region", "aria-label": "Answer" });
  let running = null;
  const stop = h("button", { type: "button", hidden: true, onclick: () => running?.abort() }, "Stop");
  const problem = (message) => {
    about.className = "problem";
    about.textContent = message;
  };
  async function ask(app, request) {
    running?.abort();
    const own = (running = new AbortController());
    const began = performance.now();
    text.textContent = "";
    about.className = "note";
    about.textContent = "Waiting…";
    stop.hidden = false;
    try {
      const answer = await call(app.name, { ...request, signal: own.signal });
      const reader = answer.response.body.pipeThrough(new TextDecoderStream()).getReader();
      let whole = "";
      for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
        whole += piece.value;
        if (whole.length > LONGEST_SHOWN) {
          whole = `${whole.slice(0, LONGEST_SHOWN)}\n… and more, which is not shown`;
          reader.cancel();
          text.textContent = whole;
          break;
        }
        text.textContent = whole;
      }
      text.textContent = answer.contentType.includes("json") ? pretty(whole) : whole;
      about.className = answer.status < 400 ? "done" : "problem";
      about.textContent = [`Status ${answer.status}`, milliseconds(performance.now() - began), bytes(whole.length),
        answer.contentType.split(";")[0], answer.requestId ? `request ${answer.requestId}` : ""].filter(Boolean).join(" · ");
    } catch (error) {
      if (own.signal.aborted) {
        if (running === own) about.textContent = "Stopped.";
      } else problem(error instanceof ApiError ? error.message : "The connection was lost.");
    } finally {
      if (running === own) stop.hidden = true;
    }
  }
  return { element: h("div", { class: "answer-place" }, about, text), ask, problem, stop };
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
