// A form for a JSON schema, and the value that was typed into it.

import { h } from "./dom.js";

const DEPTH = 4;
let counter = 0;

/** `schema` with its reference followed; `{}` where it leads nowhere. */
export function resolved(schema, document) {
  let steps = 0;
  while (schema && schema.$ref && steps < 20) {
    schema = schema.$ref.replace(/^#\//, "").split("/")
      .reduce((found, part) => found?.[part.replaceAll("~1", "/").replaceAll("~0", "~")], document);
    steps += 1;
  }
  return schema || {};
}

/** `X | None` as X that may be left out. */
function unwrapped(schema, document) {
  schema = resolved(schema, document);
  const choices = schema.anyOf || schema.oneOf;
  if (!choices) return { schema, nullable: false };
  const others = choices.map((choice) => resolved(choice, document)).filter((choice) => choice.type !== "null");
  if (others.length !== 1) return { schema: { ...schema, type: undefined }, nullable: others.length < choices.length };
  return { schema: { ...others[0], title: schema.title || others[0].title, default: schema.default, description: schema.description || others[0].description }, nullable: true };
}

/** A field: {element, value()}. `value()` is undefined where nothing was typed; it raises Error for what is wrong. */
export function field(name, given, document, { required = false, depth = 0 } = {}) {
  const { schema, nullable } = unwrapped(given, document);
  const label = name || "Body";
  const id = `field-${(counter += 1)}`;
  const about = [schema.description, typeName(schema)].filter(Boolean).join(" · ");
  const framed = (control, value) => ({
    element: h("div", { class: "field" },
      h("label", { for: id }, label, required ? h("span", { class: "note" }, " required") : null),
      control, about ? h("small", { class: "note", id: `${id}-about` }, about) : null),
    value,
  });
  const common = { id, name: label, "aria-describedby": about ? `${id}-about` : null };
  if (schema.properties && depth < DEPTH) return group(label, schema, document, required, depth);
  if (schema.enum || schema.const !== undefined) {
    const values = schema.enum || [schema.const];
    const select = h("select", common,
      required && schema.default === undefined ? null : h("option", { value: "" }, nullable ? "none" : "default"),
      values.map((value, index) => h("option", { value: String(index), selected: value === schema.default }, String(value))));
    return framed(select, () => (select.value === "" ? undefined : values[Number(select.value)]));
  }
  if (schema.type === "boolean") {
    const box = h("input", { ...common, type: "checkbox", checked: schema.default === true });
    return framed(h("span", { class: "check" }, box), () => box.checked);
  }
  if (schema.type === "integer" || schema.type === "number") {
    const input = h("input", { ...common, type: "number", required, step: schema.type === "integer" ? "1" : "any",
      min: schema.minimum, max: schema.maximum, value: schema.default ?? null });
    return framed(input, () => {
      if (input.value === "" && !input.validity.badInput) return required ? wrong(label, "a number is needed") : undefined;
      const value = Number(input.value);
      return Number.isFinite(value) && !input.validity.badInput ? value : wrong(label, "must be a number");
    });
  }
  if (schema.type === "string") {
    const area = h("textarea", { ...common, rows: "1", required });
    if (typeof schema.default === "string") area.value = schema.default;
    return framed(area, () => (area.value === "" && !required ? undefined : area.value));
  }
  const area = h("textarea", { ...common, rows: "3", class: "mono", spellcheck: "false", placeholder: "JSON" });
  if (schema.default !== undefined && schema.default !== null) area.value = JSON.stringify(schema.default);
  else if (schema.type === "array") area.value = required ? "[]" : "";
  return framed(area, () => {
    if (area.value.trim() === "") return required ? wrong(label, "JSON is needed") : undefined;
    try {
      return JSON.parse(area.value);
    } catch (error) {
      return wrong(label, `is not JSON: ${error.message}`);
    }
  });
}

function wrong(label, why) {
  throw new Error(`${label}: ${why}`);
}

function group(label, schema, document, required, depth) {
  const needed = new Set(schema.required || []);
  const fields = Object.entries(schema.properties).map(([name, inner]) =>
    [name, field(name, inner, document, { required: needed.has(name), depth: depth + 1 })]);
  const value = () => {
    const entries = fields.map(([name, inner]) => [name, inner.value()]).filter(([, found]) => found !== undefined);
    return entries.length || required || depth === 0 ? Object.fromEntries(entries) : undefined;
  };
  const content = fields.map(([, inner]) => inner.element);
  return {
    element: depth === 0 ? h("div", { class: "fields" }, content) : h("fieldset", {}, h("legend", {}, label), content),
    value,
  };
}

function typeName(schema) {
  if (schema.enum || schema.properties || schema.const !== undefined || schema.type === "boolean") return "";
  const bounds = [schema.minimum !== undefined ? `from ${schema.minimum}` : "", schema.maximum !== undefined ? `to ${schema.maximum}` : ""];
  return [schema.format || schema.type || "JSON", ...bounds].filter(Boolean).join(" ");
}
