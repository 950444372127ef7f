// The only place where elements are made. Whatever is shown goes in as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";
const HANDLERS = ["onclick", "oninput", "onchange", "onsubmit", "onkeydown", "onpointermove", "onpointerleave"];

function build(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node[name] = value;
    else if (name === "style") Object.entries(value).forEach(([key, to]) => node.style.setProperty(key, to));
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  append(node, children);
  return node;
}

function append(node, children) {
  for (const child of children) {
    if (child === null || child === undefined || child === false) continue;
    if (Array.isArray(child)) append(node, child);
    else node.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
}

/** An element: `h("p", {class: "note"}, "text", other)`. Attributes that are null or false are left out. */
export const h = (tag, attributes, ...children) => build(document.createElement(tag), attributes, children);

/** The same for elements of a drawing. */
export const s = (tag, attributes, ...children) => build(document.createElementNS(SVG, tag), attributes, children);

/** Makes `now` look like `next`, touching only what differs: focus, scrolling and what is open stay as they are. */
export function morph(now, next) {
  if (now.nodeType !== next.nodeType || now.nodeName !== next.nodeName || key(now) !== key(next)) {
    now.replaceWith(next);
    return;
  }
  if (now.nodeType !== Node.ELEMENT_NODE) {
    if (now.nodeValue !== next.nodeValue) now.nodeValue = next.nodeValue;
    return;
  }
  if (now.hasAttribute("data-own")) return; // it looks after itself, and keeps what people typed
  for (const { name } of [...now.attributes]) {
    if (name === "style" || (name === "open" && now.nodeName === "DETAILS")) continue;
    if (!next.hasAttribute(name)) now.removeAttribute(name);
  }
  for (const { name, value } of [...next.attributes]) {
    if (name === "style" || (name === "open" && now.nodeName === "DETAILS")) continue;
    if (now.getAttribute(name) !== value) now.setAttribute(name, value);
  }
  if (now.style && now.style.cssText !== next.style.cssText) now.style.cssText = next.style.cssText;
  for (const handler of HANDLERS) if (now[handler] !== next[handler]) now[handler] = next[handler];
  morphChildren(now, next);
}

const key = (node) => (node.nodeType === Node.ELEMENT_NODE ? node.getAttribute("data-key") : null);

function morphChildren(now, next) {
  const keyed = new Map();
  for (const child of now.childNodes) if (key(child)) keyed.set(key(child), child);
  let at = now.firstChild;
  for (const wanted of [...next.childNodes]) {
    const known = key(wanted) && keyed.get(key(wanted));
    if (known && known !== at) now.insertBefore(known, at);
    else if (known) at = at.nextSibling;
    if (known) {
      morph(known, wanted);
    } else if (at && !key(wanted) && !key(at)) {
      const following = at.nextSibling;
      morph(at, wanted);
      at = following;
    } else {
      now.insertBefore(wanted, at);
    }
  }
  while (at) {
    const following = at.nextSibling;
    at.remove();
    at = following;
  }
}

/** Replaces all that is in `parent`. */
export function fill(parent, ...children) {
  parent.replaceChildren();
  append(parent, children);
}

/** An icon of one path, 16 by 16. */
export const icon = (path) =>
  s("svg", { viewBox: "0 0 16 16", class: "icon", "aria-hidden": "true" }, s("path", { d: path }));

/** A button that copies a text. */
export function copyable(text, what) {
  const button = h("button", {
    type: "button",
    class: "copy",
    "aria-label": `Copy ${what}`,
    onclick: async () => {
      try {
        await navigator.clipboard.writeText(text);
        button.textContent = "Copied";
      } catch {
        button.textContent = "Select and copy";
      }
      setTimeout(() => (button.textContent = "Copy"), 1500);
    },
  }, "Copy");
  return h("span", { class: "copyable" }, h("code", {}, text), button);
}

