// From a Plotly figure, as Python sends it, to panels with lines and bands.
import { inked } from "./colours.js";
import { floats } from "./numbers.js";

/** Dashes of lines by the names that Plotly has for them. */
export const DASHES = { solid: "", dot: "2 3", dash: "7 3", longdash: "12 3", dashdot: "7 3 2 3", longdashdot: "12 3 2 3" };

const near = (a, b) => Math.abs(a - b) < 1e-6;
const nameOf = (trace) => trace.legendgroup || trace.name || "";

/** Axis x2 of a trace stands under xaxis2 in the layout. */
function axesOf(layout, trace) {
  const axis = (letter) => layout[(trace[`${letter}axis`] ?? letter).replace(letter, `${letter}axis`)] ?? {};
  return [axis("x"), axis("y")];
}

/** The heading that Plotly puts above a panel is a note at its upper edge; the title of the values is the rest of it. */
function headingOf(layout, x, y) {
  const [left, right] = x.domain ?? [0, 1];
  const [, top] = y.domain ?? [0, 1];
  const above = (layout.annotations ?? []).find((note) => near(note.x, (left + right) / 2) && near(note.y, top));
  return [above?.text, y.title?.text].filter(Boolean).join(": ");
}

function lineOf(trace, x, y) {
  const { line = {}, marker = {}, mode = "lines" } = trace;
  return {
    name: nameOf(trace), x, y, count: x.length, colour: inked(line.color ?? marker.color ?? "currentColor"),
    dash: DASHES[line.dash ?? "solid"] ?? line.dash, dashed: (line.dash ?? "solid") !== "solid",
    width: line.width ?? 2, stroked: mode.includes("lines"), symbol: marker.symbol ?? "circle",
    size: mode.includes("markers") ? marker.size ?? 6 : 0
  };
}

/** An area between a line there and a line back. */
const bandOf = (trace, x, y) => ({ name: nameOf(trace), x, y, colour: inked(trace.fillcolor ?? "currentColor"), opacity: trace.opacity ?? 0.5 });

function emptyPanel(layout, trace) {
  const [x, y] = axesOf(layout, trace);
  const anyTitle = Object.entries(layout).find(([name, axis]) => name.startsWith("xaxis") && axis.title?.text)?.[1];
  return {
    title: headingOf(layout, x, y), xTitle: x.title?.text ?? anyTitle?.title.text ?? "", percent: (y.tickformat ?? "").endsWith("%"),
    range: y.range, lines: [], bands: []
  };
}

/**
 * Panels in the order of their traces.
 * @param {{data: object[], layout: object}} figure as `packed_figure` in Python makes it: a trace has `count` points
 * @param {DataView} bytes x and y of all traces one after the other, float32
 * @returns {object[]} each with `title`, `xTitle`, `percent` (its values are shares), `range` (if it is fixed), `lines` and `bands`
 */
export function panelsOf({ data, layout }, bytes) {
  const numbers = floats(bytes);
  const panels = new Map();
  let start = 0;
  const column = (count) => numbers.subarray(start, start += count);
  for (const trace of data) {
    const [x, y] = [column(trace.count), column(trace.count)];
    const key = `${trace.xaxis ?? "x"} ${trace.yaxis ?? "y"}`;
    if (!panels.has(key)) panels.set(key, emptyPanel(layout, trace));
    const panel = panels.get(key);
    if (trace.fill === "toself") panel.bands.push(bandOf(trace, x, y));
    else panel.lines.push(lineOf(trace, x, y));
  }
  return [...panels.values()];
}

/**
 * What the legend lists.
 * @returns {{name: string, line: object}[]} each name once, with a line that stands for it: a solid one if there is one
 */
export function legendOf({ data }, panels) {
  const lines = panels.flatMap((panel) => panel.lines);
  const names = [...new Set(data.filter((trace) => trace.name && trace.showlegend !== false).map(nameOf))];
  return names.map((name) => {
    const own = lines.filter((line) => line.name === name);
    return { name, line: own.find((line) => !line.dashed) ?? own[0] };
  }).filter((entry) => entry.line);
}
