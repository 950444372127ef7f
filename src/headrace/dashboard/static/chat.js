// A chat with a language model, its answer shown as it is generated.

import { call, serverSentEvents } from "./api.js";
import { h } from "./dom.js";
import { milliseconds, number } from "./format.js";

export function chat(app, models) {
  const said = [];
  let running = null;
  const log = h("div", { class: "chat", role: "log", "aria-label": "Conversation", "aria-live": "polite", tabindex: "0" });
  const about = h("p", { class: "note", role: "status" }, "Say something.");
  const model = h("select", { id: "chat-model" }, models.map((name) => h("option", {}, name)));
  const tokens = h("input", { id: "chat-tokens", type: "number", min: "1", value: "256" });
  const key = h("input", { id: "chat-key", type: "password", autocomplete: "off", placeholder: "where the application asks for one" });
  const text = h("textarea", { id: "chat-text", rows: "2", placeholder: "Message",
    onkeydown: (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        form.requestSubmit();
      }
    } });
  const send = h("button", { type: "submit", class: "primary" }, "Send");
  const stop = h("button", { type: "button", hidden: true, onclick: () => running?.abort() }, "Stop");
  const clear = h("button", { type: "button", onclick: () => {
    running?.abort();
    said.length = 0;
    log.replaceChildren();
    about.textContent = "Say something.";
  } }, "New chat");
  const form = h("form", { class: "chat-place", onsubmit: (event) => {
    event.preventDefault();
    const message = text.value.trim();
    if (!message || running) return;
    text.value = "";
    answer(message);
  } },
    h("div", { class: "row" },
      h("div", { class: "field" }, h("label", { for: "chat-model" }, "Model"), model),
      h("div", { class: "field narrow" }, h("label", { for: "chat-tokens" }, "Tokens at most"), tokens),
      h("div", { class: "field" }, h("label", { for: "chat-key" }, "API key"), key)),
    log, about,
    h("div", { class: "say" },
      h("div", { class: "field" }, h("label", { for: "chat-text" }, "Message"), text),
      h("div", { class: "buttons" }, send, stop, clear)));

  function turn(role, content) {
    const words = h("div", { class: "words" }, content);
    log.append(h("div", { class: `turn ${role}` }, h("span", { class: "who" }, role === "user" ? "You" : model.value), words));
    log.scrollTop = log.scrollHeight;
    return words;
  }

  async function answer(message) {
    said.push({ role: "user", content: message });
    turn("user", message);
    const words = turn("assistant", "");
    const own = (running = new AbortController());
    const began = performance.now();
    let whole = "";
    let first = null;
    let pieces = 0;
    let thought = false;
    about.className = "note";
    about.textContent = "Waiting for the first token…";
    stop.hidden = false;
    send.disabled = true;
    try {
      const reply = await call(app.name, {
        path: "/v1/chat/completions", contentType: "application/json", authorization: key.value ? `Bearer ${key.value}` : "",
        body: JSON.stringify({ model: model.value, messages: said, stream: true, max_tokens: Number(tokens.value) || 256 }),
        signal: own.signal,
      });
      if (reply.status !== 200) throw new Error(await reason(reply));
      for await (const { data } of serverSentEvents(reply.response.body)) {
        if (data === "[DONE]") break;
        const chunk = JSON.parse(data);
        if (chunk.error) throw new Error(chunk.error.message || "the model failed");
        const delta = chunk.choices?.[0]?.delta || {};
        const piece = delta.content || "";
        if (!piece && !delta.reasoning_content && !delta.reasoning) continue;
        first ??= performance.now();
        pieces += 1;
        if (!piece) {
          thought = true;
          about.textContent = "Thinking…";
          continue;
        }
        whole += piece;
        const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
        words.textContent = whole;
        if (atEnd) log.scrollTop = log.scrollHeight;
      }
      const seconds = Math.max(1e-3, (performance.now() - (first ?? began)) / 1000);
      about.className = "done";
      about.textContent = first === null ? "The model said nothing."
        : `First token after ${milliseconds(first - began)} · ${pieces} pieces, ${number(pieces / seconds)}/s${thought ? " · with thoughts" : ""}`;
    } catch (error) {
      about.className = own.signal.aborted ? "note" : "problem";
      about.textContent = own.signal.aborted ? "Stopped." : error.message;
    } finally {
      if (whole) said.push({ role: "assistant", content: whole });
      else {
        said.pop();
        words.closest(".turn")?.remove();
      }
      if (running === own) running = null;
      stop.hidden = true;
      send.disabled = false;
    }
  }

  return form;
}

async function reason(reply) {
  const text = await reply.response.text();
  try {
    const answer = JSON.parse(text);
    return `Status ${reply.status}: ${answer.error?.message || answer.detail || text}`;
  } catch {
    return `Status ${reply.status}: ${text.slice(0, 500)}`;
  }
}
