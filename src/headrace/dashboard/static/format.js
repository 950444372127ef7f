// Numbers, times and states as people read them.

export const DASH = "–";

const known = (value) => value !== null && value !== undefined && Number.isFinite(value);

export function number(value) {
  if (!known(value)) return DASH;
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6) return `${(value / 1e6).toFixed(1)}M`;
  if (size >= 1e4) return `${(value / 1e3).toFixed(1)}k`;
  if (size >= 100) return value.toFixed(0);
  if (size >= 10) return String(Math.round(value * 10) / 10);
  if (size < 0.01) return "<0.01";
  return String(Math.round(value * 100) / 100);
}

export const rate = (value) => (known(value) ? `${number(value)}/s` : DASH);

export function milliseconds(value) {
  if (!known(value)) return DASH;
  if (value >= 60000) return `${(value / 60000).toFixed(1)} min`;
  if (value >= 10000) return `${(value / 1000).toFixed(1)} s`;
  if (value >= 1000) return `${(value / 1000).toFixed(2)} s`;
  if (value >= 100) return `${value.toFixed(0)} ms`;
  return `${value >= 10 ? value.toFixed(1) : value.toFixed(2)} ms`;
}

export function bytes(value) {
  if (!known(value)) return DASH;
  const units = ["B", "kB", "MB", "GB", "TB"];
  let step = 0;
  while (value >= 1000 && step < units.length - 1) {
    value /= 1000;
    step += 1;
  }
  return `${value >= 100 || step === 0 ? value.toFixed(0) : value.toFixed(1)} ${units[step]}`;
}

export function ago(seconds, now = Date.now() / 1000) {
  if (!known(seconds) || seconds <= 0) return DASH;
  return `${span(now - seconds)} ago`;
}

export function span(seconds) {
  const size = Math.max(0, seconds);
  if (size < 60) return `${Math.floor(size)} s`;
  if (size < 3600) return `${Math.floor(size / 60)} min`;
  if (size < 172800) return `${Math.floor(size / 3600)} h`;
  return `${Math.floor(size / 86400)} d`;
}

export const clock = (seconds) =>
  new Date(seconds * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });

export const moment = (seconds) =>
  new Date(seconds * 1000).toLocaleString([], { year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });

export const plural = (count, one, many = `${one}s`) => `${count} ${count === 1 ? one : many}`;

const TONES = {
  good: ["HEALTHY", "RUNNING", "SUCCEEDED", "ALIVE"],
  busy: ["UPDATING", "DEPLOYING", "UPSCALING", "DOWNSCALING", "STARTING", "PENDING", "NOT_STARTED", "DELETING", "STOPPING", "RECOVERING", "DRAINING", "DRAINED", "INITIALIZING", "PENDING_INITIALIZATION", "PENDING_ALLOCATION", "PENDING_MIGRATION"],
  bad: ["UNHEALTHY", "DEPLOY_FAILED", "FAILED", "DEAD"],
};

/** good, busy, bad or calm: how a state is coloured. */
export const tone = (state) => Object.keys(TONES).find((name) => TONES[name].includes(state)) || "calm";

/** `DEPLOY_FAILED` as `Deploy failed`. */
export function words(state) {
  const text = String(state || "").replaceAll("_", " ").toLowerCase();
  return text.charAt(0).toUpperCase() + text.slice(1);
}
