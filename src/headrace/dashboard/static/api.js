// Talks to the REST API. The token is kept for this tab only, and goes nowhere but into the header.

const TOKEN = "headrace-token";
const ANSWER_WITHIN_MS = 15000;

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const setToken = (token) => sessionStorage.setItem(TOKEN, token);
export const forgetToken = () => sessionStorage.removeItem(TOKEN);
export const hasToken = () => Boolean(sessionStorage.getItem(TOKEN));

export function headers(more) {
  const token = sessionStorage.getItem(TOKEN);
  return { ...(token ? { Authorization: `Bearer ${token}` } : {}), ...more };
}

async function checked(response) {
  if (response.ok) return response;
  let reason = `${response.status} ${response.statusText}`;
  try {
    reason = (await response.json()).error || reason;
  } catch {
    // The status says enough.
  }
  throw new ApiError(response.status, reason);
}

async function asked(path, signal) {
  const late = AbortSignal.timeout(ANSWER_WITHIN_MS);
  const either = signal ? AbortSignal.any([signal, late]) : late;
  return checked(await fetch(path, { headers: headers(), signal: either, cache: "no-store" }));
}

/** The JSON at a path of the API. Raises ApiError, or another error where nobody answers. */
export const get = async (path, signal) => (await asked(path, signal)).json();

export const getText = async (path, signal) => (await asked(path, signal)).text();

export async function post(path, body) {
  const response = await fetch(path, {
    method: "POST",
    headers: headers({ "Content-Type": "application/json" }),
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  return (await checked(response)).json();
}

/** Calls `on(event, data)` for each server-sent event until the connection ends or `signal` aborts. */
export async function events(path, on, signal) {
  const response = await checked(await fetch(path, { headers: headers({ Accept: "text/event-stream" }), signal, cache: "no-store" }));
  for await (const { event, data } of serverSentEvents(response.body)) on(event, data);
}

/** The lines of an answer that goes on, as they come; without empty ones, which are signs of life. */
export async function* lines(path, signal) {
  const response = await checked(await fetch(path, { headers: headers(), signal, cache: "no-store" }));
  for await (const line of linesOf(response.body)) if (line) yield line;
}

async function* linesOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    while (true) {
      const { value, done } = await reader.read();
      if (done) return;
      const whole = (rest + value).split(/\r?\n/);
      rest = whole.pop();
      yield* whole;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Server-sent events of a body, as they come. */
export async function* serverSentEvents(body) {
  let event = "message";
  let data = [];
  for await (const line of linesOf(body)) {
    if (line === "") {
      if (data.length) yield { event, data: data.join("\n") };
      event = "message";
      data = [];
    } else if (line.startsWith("event:")) event = line.slice(6).trim();
    else if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
  }
}

/** Calls an application through this node's proxy. Gives the status, the content type and the body's stream. */
export async function call(app, { method = "POST", path = "", body, contentType, authorization, signal }) {
  const query = new URLSearchParams({ method, path });
  const more = {
    ...(contentType && body !== undefined ? { "Content-Type": contentType } : {}),
    ...(authorization ? { "Headrace-Authorization": authorization } : {}),
  };
  const url = `/api/headrace/playground/${encodeURIComponent(app)}?${query}`;
  const response = await checked(await fetch(url, { method: "POST", headers: headers(more), body, signal }));
  return {
    status: Number(response.headers.get("Headrace-Status")),
    contentType: response.headers.get("Headrace-Content-Type") || "",
    requestId: response.headers.get("Headrace-Request-Id") || "",
    response,
  };
}
