// The maps of all time steps side by side, and a bar that says what the colours mean, in one SVG that can be saved.
import { colourAt } from "./colours.js";
import { ENTROPY, ROW, drawMap } from "./heatmap.js";
import { LETTER, longest } from "./labels.js";
import { svg } from "./nodes.js";

const GAP = 18; // between maps
const LEAST_CELL = 34; // as many maps stand beside each other as fit with cells of this width
const MOST_CELL = 76;
const SHADES = 64; // of the bar

/**
 * Where things are, in pixels.
 * @param {number} width that there is
 * @param {{maps: object[], students: string[], teachers: string[]}} drawing
 */
export function layout(width, { maps, students, teachers }) {
  const beside = maps[0].entropy ? ENTROPY : 0;
  const names = longest(teachers);
  const slant = names > 9 * LETTER ? names * 0.82 - 14 : 0;
  const left = Math.max(longest(students) + 16, slant, 62);
  const room = Math.max(width - left - 12, 120) + GAP;
  const columns = Math.max(1, Math.min(maps.length, Math.floor(room / (teachers.length * LEAST_CELL + beside + GAP))));
  const cell = Math.min(MOST_CELL, (room / columns - GAP - beside) / teachers.length);
  const across = cell * teachers.length + beside + GAP;
  const below = names > cell - 4 ? names * 0.58 + 18 : 22;
  const right = Math.max(Math.min(width, left + columns * across), left + 280);
  return { left, columns, cell, across, down: students.length * ROW + below + 26, right };
}

function markOf([value, text], i, marks, { x, y, size, low, high }) {
  const at = x + (value - low) / (high - low) * size;
  const middle = 0 < i && i < marks.length - 1;
  const [y1, y2, words] = middle ? [y - 4, y + 9, y - 7] : [y, y + 13, y + 25];
  const anchor = middle ? "middle" : i ? "end" : "start";
  return [svg("line", { x1: at, x2: at, y1, y2, stroke: "currentColor" }), svg("text", { x: at, y: words, "text-anchor": anchor }, text)];
}

function drawScale(x, y, size, { scale, low, high, marks }) {
  const shades = Array.from({ length: SHADES }, (_, i) => svg("rect", {
    x: x + i * size / SHADES, y, width: size / SHADES + 0.5, height: 9, fill: `rgb(${colourAt(scale, i / (SHADES - 1))})` }));
  return [...shades, ...marks.flatMap((mark, i) => markOf(mark, i, marks, { x, y, size, low, high }))];
}

/** The whole picture in words, for who cannot see it. */
export function spoken({ heading, than, maps, students, teachers }) {
  const row = (map, student, s) => {
    const weights = teachers.map((teacher, n) => `${teacher} ${map.weights[s * teachers.length + n].toFixed(2)}`);
    return `${map.title}, ${student}: ${weights.join(", ")}`;
  };
  return [heading, than ?? "", ...maps.map((map) => students.map((student, s) => row(map, student, s)).join("; "))].join(". ");
}

/**
 * @param {number} width that there is
 * @param {object} drawing `heading`, `than` (what is subtracted), `maps` of title, weights and entropy, `students`, `teachers`, `scale`, `low`,
 *   `high`, `marks` of value and text, and how to `write` a number
 * @returns {SVGElement}
 */
export function drawMaps(width, drawing) {
  const { left, columns, cell, across, down, right } = layout(width, drawing);
  const top = drawing.than ? 62 : 46;
  const rows = Math.ceil(drawing.maps.length / columns);
  const place = (t) => ({ x: left + t % columns * across, y: top + Math.floor(t / columns) * down, label: t % columns === 0 });
  const bottom = top + rows * down - 6;
  const side = { x: left - 8, "text-anchor": "end", opacity: 0.75 };
  return svg("svg", { width: Math.ceil(right), height: Math.ceil(bottom + 30), role: "img", "aria-label": spoken(drawing) },
    svg("text", { x: 4, y: 14, style: "font-size: 13px", "font-weight": 600 }, drawing.heading),
    svg("text", { x: 4, y: 31 }, drawing.than ?? ""),
    svg("text", { ...side, y: top - 7 }, "student"),
    svg("text", { ...side, y: top + (rows - 1) * down + drawing.students.length * ROW + 14 }, "teacher"),
    ...drawing.maps.flatMap((map, t) => drawMap({ ...drawing, ...map, cell, ...place(t) })),
    ...drawScale(left, bottom, Math.min(320, right - left - 20), drawing));
}
