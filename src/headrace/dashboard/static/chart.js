// Lines over time, as small drawings. A chart stretches to its place; its text does not.

import { h, morph, s } from "./dom.js";
import { DASH, clock, number } from "./format.js";

const WIDTH = 600;
const HEIGHT = 120;
const SHORTEST = 60;
const SPARK = 90;
// While nobody looks, the controller measures every 30 s in place of every 2 s.
const BRIDGED = 16;
let hovered = { key: null, fraction: 0 };

/**
 * A chart.
 *
 * `key` names it on the page. `series`: [{name, values, kind}], values oldest first and null where unknown; `kind` is
 * its colour's class. `whole`: they are whole numbers. `until` and `interval_s` say when the values were. `marks`: [{at, text}] are moments.
 */
export function chart(options) {
  const { key, title, until, interval_s: step, format = number, marks = [], note, whole } = options;
  const series = recent(options.series, SHORTEST);
  const length = Math.max(2, ...series.map((line) => line.values.length));
  const highest = Math.max(0, ...series.flatMap((line) => line.values.filter((value) => value !== null)));
  const top = whole ? Math.max(2, Math.ceil(ceiling(highest))) : ceiling(highest);
  const isHovered = hovered.key === key && until;
  const index = isHovered ? Math.round(hovered.fraction * (length - 1)) : length - 1;
  const begin = until - (length - 1) * step;
  const x = (at) => (at / (length - 1)) * WIDTH;
  const y = (value) => HEIGHT - (value / top) * HEIGHT;
  const valueAt = (line) => {
    const values = line.values;
    return values[index - (length - values.length)] ?? null;
  };
  const now = series.map((line) => `${line.name} ${format(valueAt(line))}`).join(", ");
  const seen = marks.filter((mark) => mark.at >= begin && mark.at <= until + step);
  const known = series.some((line) => (line.values).some((value) => value !== null));
  const figure = h("figure", { class: "chart", "data-key": `chart-${key}` },
    h("figcaption", {}, h("span", { class: "chart-title" }, title),
      h("span", { class: "legend" }, series.map((line) =>
        h("span", { class: `legend-item ${line.kind}` }, h("span", { class: "swatch", "aria-hidden": "true" }), line.name, " ",
          h("b", {}, format(valueAt(line))))))),
    h("div", { class: "plot", role: "img", "aria-label": `${title}: ${known ? `now ${now}` : "nothing known yet"}`,
      onpointermove: (event) => hover(event, key, options), onpointerleave: (event) => hover(event, null, options) },
      s("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" },
        s("path", { class: "grid", d: `M0 0H${WIDTH}M0 ${HEIGHT / 2}H${WIDTH}M0 ${HEIGHT}H${WIDTH}` }),
        series.map((line) => [
          line.area ? s("path", { class: `area ${line.kind}`, d: area(line.values, length, x, y) }) : null,
          s("path", { class: `line ${line.kind}`, d: lines(line.values, length, x, y, line.steps) }),
        ]),
        seen.map((mark) => s("path", { class: "mark", d: `M${x((mark.at - begin) / step).toFixed(1)} 0V${HEIGHT}` },
          s("title", {}, mark.text))),
        isHovered ? s("path", { class: "cursor", d: `M${x(index).toFixed(1)} 0V${HEIGHT}` }) : null),
      h("span", { class: "y-top" }, format(top)),
      known ? null : h("span", { class: "nothing" }, "Nothing measured yet")),
    h("div", { class: "x-axis", "aria-hidden": "true" },
      h("span", {}, until ? clock(begin) : DASH),
      h("span", {}, isHovered ? clock(begin + index * step) : note || ""),
      h("span", {}, until ? clock(until) : DASH)));
  return figure;
}

/** Without the time before anything was known, down to `shortest` points. */
function recent(series, shortest) {
  const known = series.map((line) => {
    const first = (line.values || []).findIndex((value) => value !== null);
    return first < 0 ? 0 : line.values.length - first;
  });
  const kept = Math.max(shortest, ...known);
  return series.map((line) => ({ ...line, values: (line.values || []).slice(-kept) }));
}

function hover(event, key, options) {
  const plot = event.currentTarget;
  const box = plot.getBoundingClientRect();
  hovered = { key, fraction: Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)) };
  morph(plot.closest("figure"), chart(options));
}

/** The next round number. */
function ceiling(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].map((step) => step * power).find((step) => step >= value * 1.02) || 10 * power;
}

function lines(values, length, x, y, steps) {
  const first = length - values.length;
  let path = "";
  let before = -Infinity;
  values.forEach((value, index) => {
    if (value !== null) {
      const at = x(first + index).toFixed(1);
      if (index - before > BRIDGED) path += `M${at} ${y(value).toFixed(1)}`;
      else if (steps) path += `H${at}V${y(value).toFixed(1)}`;
      else path += `L${at} ${y(value).toFixed(1)}`;
      before = index;
    }
  });
  return path;
}

function area(values, length, x, y, bottom = HEIGHT) {
  const first = length - values.length;
  const parts = [];
  let run = [];
  const close = () => {
    if (run.length > 1) {
      const points = run.map(([index, value]) => `${x(first + index).toFixed(1)} ${y(value).toFixed(1)}`);
      parts.push(`M${x(first + run[0][0]).toFixed(1)} ${bottom}L${points.join("L")}V${bottom}Z`);
    }
    run = [];
  };
  values.forEach((value, index) => {
    if (value === null) return;
    if (run.length && index - run.at(-1)[0] > BRIDGED) close();
    run.push([index, value]);
  });
  close();
  return parts.join("");
}

/** A line without axes, for a row of a table. */
export function spark(values, label) {
  const shown = recent([{ values }], 15)[0].values.slice(-SPARK);
  const top = Math.max(1e-9, ...shown.filter((value) => value !== null));
  const length = Math.max(2, shown.length);
  const x = (at) => (at / (length - 1)) * 100;
  const y = (value) => 21 - (value / top) * 19;
  return s("svg", { viewBox: "0 0 100 22", preserveAspectRatio: "none", class: "spark", role: "img", "aria-label": label },
    s("path", { class: "area one", d: area(shown, length, x, y, 22) }),
    s("path", { class: "line one", d: lines(shown, length, x, y) }));
}
