// What is known of the instance, kept up to date, and told to whoever shows it.

import { ApiError, events, get, hasToken } from "./api.js";

const POLL_MS = 2000;
const LONGEST_WAIT_MS = 10000;
const SILENCE_MS = 12000; // a point comes every 2 s
const MINUTES = 15;
// Browsers open six connections to a server at most: tabs that nobody looks at give theirs back.
const HIDDEN_MS = 10000;
const GLANCE_MS = 30000;

export const state = {
  status: null, // the body of /api/headrace/status
  series: null, // of /api/headrace/series; null where there is none
  edges: [], // of /api/headrace/calls
  actions: false, // whether the page may change anything
  connection: "connecting", // connecting, live, polling, lost or token
  problem: "",
  changedAt: 0,
};

const listeners = new Set();
let attempt = new AbortController();

export function subscribe(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

let asked = false;

/** All that comes within one frame is shown with one drawing. */
function changed() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => {
    asked = false;
    for (const listener of listeners) listener(state);
  });
  if (document.hidden) {
    // Frames do not come to a tab in the background, whose title still shows problems.
    setTimeout(() => {
      if (asked) {
        asked = false;
        for (const listener of listeners) listener(state);
      }
    }, 500);
  }
}

const pause = (ms, signal) =>
  new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });

/** Begins anew, as after a token was typed in. */
export function reconnect() {
  attempt.abort();
  attempt = new AbortController();
  follow(attempt.signal);
}

async function follow(signal) {
  let waitMs = 500;
  while (!signal.aborted) {
    try {
      await load(signal);
      waitMs = 500;
      await (document.hidden ? glance(signal) : live(signal));
      continue;
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof ApiError && error.status === 401) {
        state.connection = "token";
        state.problem = hasToken() ? "This token was not accepted." : "";
        changed();
        return;
      }
      state.connection = "lost";
      state.problem = error instanceof ApiError ? error.message : "The controller does not answer.";
      changed();
    }
    await pause(waitMs, signal);
    waitMs = Math.min(waitMs * 2, LONGEST_WAIT_MS);
  }
}

async function load(signal) {
  const [status, abilities] = await Promise.all([
    get("/api/headrace/status", signal),
    get("/api/headrace/dashboard", signal),
    loadSeries(signal),
    loadEdges(signal),
  ]);
  took(status);
  state.actions = abilities.actions;
  state.problem = "";
  changed();
}

function took(status) {
  state.status = status;
  state.changedAt = Date.now();
}

/** What only newer controllers tell is left out where it is not there. */
async function optional(promise) {
  try {
    return await promise;
  } catch (error) {
    if (error instanceof ApiError && error.status === 404) return null;
    throw error;
  }
}

async function loadSeries(signal) {
  state.series = await optional(get(`/api/headrace/series?minutes=${MINUTES}`, signal));
}

async function loadEdges(signal) {
  state.edges = (await optional(get("/api/headrace/calls", signal)))?.edges || [];
}

async function live(signal) {
  const connection = new AbortController();
  const end = () => connection.abort();
  signal.addEventListener("abort", end, { once: true });
  let hidden = false;
  let leaving = 0;
  const look = () => {
    clearTimeout(leaving);
    if (document.hidden) leaving = setTimeout(() => ((hidden = true), end()), HIDDEN_MS);
  };
  document.addEventListener("visibilitychange", look);
  look();
  let heard = Date.now();
  let stale = 0;
  const watch = setInterval(() => {
    if (Date.now() - heard > SILENCE_MS) connection.abort();
    // Which calls are made changes slowly, and is not among the events.
    stale += 1;
    if (stale % 2 === 0) loadEdges(connection.signal).then(changed, () => {});
  }, 2500);
  try {
    state.connection = "live";
    changed();
    await events(
      "/api/headrace/live",
      (event, data) => {
        heard = Date.now();
        if (event === "status") took(JSON.parse(data));
        else if (event === "point") addPoint(JSON.parse(data));
        else return;
        state.connection = "live";
        changed();
      },
      connection.signal,
    );
    throw new TypeError("the connection has ended");
  } catch (error) {
    if (error instanceof ApiError && error.status === 404) await poll(signal);
    else if (!hidden) throw error;
  } finally {
    clearTimeout(leaving);
    document.removeEventListener("visibilitychange", look);
    clearInterval(watch);
    connection.abort();
    signal.removeEventListener("abort", end);
  }
}

/** Until somebody looks, or for a while: the title still tells of trouble. */
async function glance(signal) {
  state.connection = "polling";
  changed();
  const looked = new AbortController();
  const look = () => looked.abort();
  document.addEventListener("visibilitychange", look, { once: true });
  await pause(GLANCE_MS, AbortSignal.any([signal, looked.signal]));
  document.removeEventListener("visibilitychange", look);
}

async function poll(signal) {
  state.connection = "polling";
  while (!signal.aborted) {
    changed();
    await pause(POLL_MS, signal);
    took(await get("/api/headrace/status", signal));
    await Promise.all([loadSeries(signal), loadEdges(signal)]);
  }
}

function addPoint(point) {
  const series = state.series;
  if (!series || point.until === null || point.until <= series.until) return;
  const missed = series.until === null ? 1 : Math.round((point.until - series.until) / series.interval_s);
  const length = Math.round((MINUTES * 60) / series.interval_s);
  series.until = point.until;
  for (const name of new Set([...Object.keys(series.deployments), ...Object.keys(point.deployments)])) {
    const values = (series.deployments[name] ||= {});
    const latest = point.deployments[name] || {};
    for (const metric of new Set([...Object.keys(values), ...Object.keys(latest)])) {
      const list = (values[metric] ||= []);
      for (let index = 1; index < missed && index < length; index += 1) list.push(null);
      list.push(latest[metric] ?? null);
      if (list.length > length) list.splice(0, list.length - length);
    }
  }
}

/** The series of a deployment: `{requests_per_s: [...], ...}`; empty where nothing is known. */
export const seriesOf = (app, deployment) => state.series?.deployments[`${app}/${deployment}`] || {};

/** The newest value of a metric; null where it is not known. */
export const latest = (app, deployment, metric) => seriesOf(app, deployment)[metric]?.at(-1) ?? null;

export const application = (name) => state.status?.applications.find((app) => app.name === name);
