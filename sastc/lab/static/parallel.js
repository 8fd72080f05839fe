// Runs as lines over their settings, up to their accuracy.
import { colourAt, WEIGHTS } from "./colours.js";
import { ending } from "./labels.js";
import { heading, html, svg } from "./nodes.js";
import { percent } from "./numbers.js";
import { SETTING, missing } from "./table.js";

const TALL = 210;
const MOST_AXES = 7;
const LEFT_OUT = ["seed", "teacher", "init", "root"].map((name) => SETTING + name);

/** The accuracy of a run, on test images or so far on held-out ones; undefined before the first. */
export const accuracyOf = (row) => [row.best, row.last, row.validation].find((value) => !missing(value));

/** The settings in which rows differ, the method first. */
export function settingsAxes(rows) {
  const keys = ["method", ...new Set(rows.flatMap((row) => Object.keys(row).filter((key) => key.startsWith(SETTING) && key !== `${SETTING}method` && !LEFT_OUT.includes(key))))];
  const values = (key) => new Set(rows.map((row) => row[key]).filter((value) => !missing(value)).map(String));
  return keys.filter((key) => values(key).size > 1).slice(0, MOST_AXES);
}

/** Where values lie along an axis, 0 to 1: numbers by size, words one after the other. */
export function placesAlong(values) {
  const there = values.filter((value) => !missing(value));
  if (there.every((value) => typeof value === "number")) {
    const [low, high] = [Math.min(...there), Math.max(...there)];
    return { at: (value) => high > low ? (value - low) / (high - low) : 0.5, marks: [[low, low], [high, high]] };
  }
  const words = [...new Set(there.map(String))].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  const at = (value) => words.length > 1 ? words.indexOf(String(value)) / (words.length - 1) : 0.5;
  return { at, marks: words.map((word) => [word, word]) };
}

function axisOf(title, { at, marks }, x, y, write) {
  const every = Math.ceil(marks.length / 8);
  const words = marks.filter((_, i) => i % every === 0 || i === marks.length - 1);
  return [
    svg("text", { x, y: 14, "text-anchor": "middle", "font-weight": 600 }, ending(title, 16)),
    svg("line", { x1: x, x2: x, y1: y(1), y2: y(0), stroke: "currentColor", "stroke-opacity": 0.4 }),
    ...words.map(([value, text]) => svg("text", { x: x + 5, y: y(at(value)) + 4, opacity: 0.85 }, ending(write(text), 14)))
  ];
}

/** Draw the rows that have an accuracy; nothing where they differ in no setting. */
export function drawParallel(box, rows) {
  const known = rows.filter((row) => accuracyOf(row) !== undefined);
  const keys = settingsAxes(known);
  box.hidden = known.length < 2 || !keys.length;
  if (box.hidden) return;
  const width = Math.max(box.clientWidth, 300);
  const y = (share) => TALL - 12 - share * (TALL - 44);
  const gap = (width - 130) / keys.length;
  const columns = [...keys, "accuracy"].map((key) => known.map((row) => key === "accuracy" ? accuracyOf(row) : row[key]));
  const axes = columns.map(placesAlong);
  const x = (i) => 40 + i * gap;
  const lines = known.map((row, r) => {
    const share = axes.at(-1).at(columns.at(-1)[r]);
    const points = axes.flatMap((axis, i) => missing(columns[i][r]) ? [] : [`${x(i).toFixed(1)},${y(axis.at(columns[i][r])).toFixed(1)}`]);
    const about = svg("title", {}, `${row.name}: ${percent(accuracyOf(row), 2)}`);
    return svg("polyline", { class: "run", points: points.join(" "), stroke: `rgb(${colourAt(WEIGHTS, share)})` }, about);
  });
  const titles = [...keys.map((key) => key.replace(SETTING, "")), "accuracy"];
  const told = `Settings of ${known.length} runs and their accuracy; the table has the same numbers`;
  const drawn = axes.flatMap((axis, i) => axisOf(titles[i], axis, x(i), y, (text) => titles[i] === "accuracy" ? percent(text, 1) : String(text)));
  const picture = svg("svg", { width, height: TALL, role: "img", "aria-label": told }, ...lines, ...drawn);
  box.replaceChildren(heading(4, "Settings and accuracy"), html("p", { class: "soft" }, "A line for each chosen run, from its settings to its accuracy, the lighter the better."), picture);
}
