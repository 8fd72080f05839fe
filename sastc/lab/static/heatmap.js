// A heat map: rows are student layers, columns teacher layers, with a bar per row for the entropy.
import { colourAt, inkOn } from "./colours.js";
import { ending, longest } from "./labels.js";
import { svg } from "./nodes.js";

/** Height of a row, and width of the column with the entropy, in pixels. */
export const ROW = 28;
export const ENTROPY = 54;

const LEAST_LETTERING = 8; // pixels; a number that would be smaller is left out

/** A cell: a square with its tooltip and, where there is room, its number; a click chooses its pair of layers. */
function squareOf(value, place, told, { cell, scale, low, high, write, lit, choose }, [s, n]) {
  const colour = colourAt(scale, (value - low) / (high - low));
  const kind = lit && lit[0] === s && lit[1] === n ? "cell lit" : "cell";
  const square = svg("rect", { class: kind, ...place, fill: `rgb(${colour})`, onclick: () => choose?.([s, n]) }, svg("title", {}, told));
  const words = cell < 28 ? write(value).replace("0.", ".") : write(value);
  const size = Math.min(11, (cell - 3) / words.length / 0.57);
  if (size < LEAST_LETTERING) return [square];
  const style = `fill: ${inkOn(colour)}; font-size: ${size}px; pointer-events: none`;
  return [square, svg("text", { x: place.x + cell / 2, y: place.y + ROW / 2 + 4, "text-anchor": "middle", style }, words)];
}

function squares(map) {
  const { x, y, cell, title, weights, students, teachers } = map;
  return students.flatMap((student, s) => teachers.flatMap((teacher, n) => {
    const value = weights[s * teachers.length + n];
    const place = { x: x + n * cell, y: y + s * ROW, width: cell - 1, height: ROW - 1 };
    return squareOf(value, place, `${title}: ${student} listens to ${teacher}\n${value.toFixed(4)}`, map, [s, n]);
  }));
}

/** Names of teacher layers below the map, slanted where they are wider than a column. */
function columnNames({ x, y, cell, students, teachers }) {
  const slanted = longest(teachers) > cell - 4;
  return teachers.map((teacher, n) => {
    const at = { x: x + n * cell + cell / 2, y: y + students.length * ROW + 14 };
    const turned = { "text-anchor": "end", transform: `rotate(-35 ${at.x} ${at.y - 4})` };
    return svg("text", { ...at, ...(slanted ? turned : { "text-anchor": "middle" }) }, ending(teacher), svg("title", {}, teacher));
  });
}

function rowNames({ x, y, students }) {
  return students.map((student, s) =>
    svg("text", { x: x - 8, y: y + s * ROW + ROW / 2 + 4, "text-anchor": "end" }, ending(student), svg("title", {}, student)));
}

function entropyBars({ x, y, cell, title, entropy, students, teachers }) {
  const left = x + teachers.length * cell + 8;
  return [svg("text", { x: left, y: y - 7, opacity: 0.75 }, "spread"), ...students.flatMap((student, s) => {
    const row = y + s * ROW;
    const whole = { x: left, y: row + ROW - 8, width: ENTROPY - 14, height: 4, fill: "currentColor" };
    const told = svg("title", {}, `${title}: how far the attention of ${student} is spread out, from 0 (all on one teacher layer) to 1 (the same for each): its entropy as a share of the greatest possible`);
    return [
      svg("rect", { ...whole, "fill-opacity": 0.15 }),
      svg("rect", { ...whole, width: whole.width * entropy[s], "fill-opacity": 0.65 }),
      svg("text", { class: "entropy", x: left, y: row + ROW / 2 + 2 }, entropy[s].toFixed(2), told)
    ];
  })];
}

/**
 * The parts of a heat map.
 * @param {object} map `x` and `y` of its corner, width of a `cell`, `title`, `weights` [S * N], `entropy` [S] or null, names of `students` and
 *   `teachers`, colour `scale` from `low` to `high`, how to `write` a number, and whether to `label` the rows
 * @returns {Element[]}
 */
export function drawMap(map) {
  const title = { x: map.x + map.cell * map.teachers.length / 2, y: map.y - 7, "text-anchor": "middle", "font-weight": 600 };
  return [
    svg("text", title, map.title),
    ...squares(map),
    ...(map.label ? rowNames(map) : []),
    ...columnNames(map),
    ...(map.entropy ? entropyBars(map) : [])
  ];
}
