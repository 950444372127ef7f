// The page around the views: what is open, whether it is connected, the token, dark and light.

import { forgetToken, setToken } from "./api.js";
import { applicationView } from "./application.js";
import { fill, h, icon, morph } from "./dom.js";
import { tone } from "./format.js";
import { machines, overviewView } from "./overview.js";
import { empty, panel } from "./parts.js";
import { requestsView } from "./requests.js";
import { route } from "./router.js";
import { reconnect, state, subscribe } from "./store.js";

const THEME = "headrace-theme";
const CONNECTIONS = {
  connecting: ["busy", "Connecting…"],
  live: ["good", "Live"],
  polling: ["good", "Connected"],
  lost: ["bad", "Not connected"],
  token: ["busy", "Token needed"],
};

const main = document.getElementById("main");
const connection = document.getElementById("connection");
let view = null;
let drawn = false;

function viewOf({ parts, query }) {
  const [kind, name, tab = "", ...rest] = parts;
  if (!kind) return overviewView(draw);
  if (kind === "requests") {
    const inner = requestsView("", query, draw);
    return { ...inner, draw: () => [h("h1", { class: "hidden-text" }, "Requests"), inner.draw()] };
  }
  if (kind === "nodes") return { draw: () => [h("h1", { class: "hidden-text" }, "Machines"), panel("Machines", {}, machines(state.status))] };
  if (kind === "app" && name) return applicationView(name, tab, rest.join("/"), query, draw);
  return { draw: () => [h("h1", {}, "Not found"), empty("There is no such view", h("p", {}, h("a", { href: "#/" }, "Overview")))] };
}

function open() {
  view?.close?.();
  view = null;
  drawn = false;
  const { parts } = route();
  const section = parts[0] === "requests" || parts[0] === "nodes" ? parts[0] : "";
  for (const link of document.querySelectorAll("#sections a")) {
    if (link.dataset.section === section) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  draw();
  window.scrollTo(0, 0);
}

function draw() {
  showConnection();
  if (state.connection === "token") {
    if (!main.querySelector("#token")) fill(main, tokenForm());
    else main.querySelector("#token-problem").textContent = state.problem;
    view?.close?.();
    view = null;
    drawn = false;
    return;
  }
  if (!state.status) {
    fill(main, h("p", { class: "note", role: "status" }, state.connection === "lost" ? state.problem : "Connecting…"));
    drawn = false;
    return;
  }
  view ||= viewOf(route());
  const next = h("main", { id: "main", tabindex: "-1" }, view.draw(state));
  if (drawn) morph(main, next);
  else {
    main.replaceChildren(...next.childNodes);
    // On a narrow screen the open tab may be out of sight.
    const tab = main.querySelector(".tabs [aria-current]");
    if (tab) tab.parentElement.scrollLeft = tab.offsetLeft - tab.parentElement.offsetLeft - 60;
  }
  drawn = true;
  showTitle();
}

function showTitle() {
  const troubled = state.status.applications.flatMap((app) => app.deployments).filter((one) => tone(one.status) === "bad").length;
  const { parts } = route();
  const where = parts[0] === "app" ? parts.slice(1).join(" / ") : parts[0] || "";
  document.title = [troubled ? `(${troubled}) ` : "", where ? `${where} · ` : "", "Headrace"].join("");
}

function showConnection() {
  const [kind, text] = CONNECTIONS[state.connection];
  if (connection.dataset.shown === text) return;
  connection.dataset.shown = text;
  connection.className = `badge ${kind}`;
  fill(connection, h("span", { class: "dot", "aria-hidden": "true" }), text);
  document.body.classList.toggle("stale", state.connection === "lost");
}

function tokenForm() {
  const field = h("input", { id: "token", type: "password", autocomplete: "off", required: true });
  return h("form", { class: "panel token", onsubmit: (event) => {
    event.preventDefault();
    forgetToken();
    setToken(field.value.trim());
    state.connection = "connecting";
    reconnect();
  } },
    h("h1", {}, "This instance asks for a token"),
    h("p", {}, "It is the value of ", h("code", {}, "HEADRACE_REST_TOKEN"), ", or is in the file ", h("code", {}, "rest_token"),
      " of the session folder. It is kept in this tab only."),
    h("div", { class: "field" }, h("label", { for: "token" }, "Token"), field),
    h("p", { id: "token-problem", class: "problem", role: "alert" }, state.problem),
    h("div", { class: "buttons" }, h("button", { type: "submit", class: "primary" }, "Continue")));
}

function theme() {
  const button = document.getElementById("theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const current = () => document.documentElement.dataset.theme || (dark.matches ? "dark" : "light");
  const show = () => {
    const next = current() === "dark" ? "light" : "dark";
    button.setAttribute("aria-label", `Switch to the ${next} theme`);
    button.title = `Switch to the ${next} theme`;
    fill(button, icon(next === "light"
      ? "M8 4.5a3.5 3.5 0 1 1 0 7a3.5 3.5 0 0 1 0-7ZM8 0v2.5M8 13.5V16M0 8h2.5M13.5 8H16M2.3 2.3l1.8 1.8M11.9 11.9l1.8 1.8M2.3 13.7l1.8-1.8M11.9 4.1l1.8-1.8"
      : "M13.5 9.8A6 6 0 0 1 6.2 2.5A6 6 0 1 0 13.5 9.8Z"));
  };
  button.onclick = () => {
    document.documentElement.dataset.theme = current() === "dark" ? "light" : "dark";
    localStorage.setItem(THEME, document.documentElement.dataset.theme);
    show();
  };
  dark.addEventListener("change", show);
  show();
}

theme();
document.getElementById("skip").onclick = (event) => {
  // Its address would be taken for that of a view.
  event.preventDefault();
  main.focus();
};
addEventListener("hashchange", () => {
  open();
  main.focus({ preventScroll: true });
});
let resized = 0;
addEventListener("resize", () => {
  clearTimeout(resized);
  resized = setTimeout(draw, 100);
});
// What says how long ago something was goes on without news.
setInterval(() => document.hidden || draw(), 5000);
subscribe(draw);
open();
reconnect();
