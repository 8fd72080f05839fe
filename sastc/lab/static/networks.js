// Two networks side by side, student on the left and teacher on the right, with lines as thick as the weights between their layers.
import { ending, longest } from "./labels.js";
import { svg } from "./nodes.js";
import { percent } from "./numbers.js";

const BOX = 24; // height of a layer, in pixels
const STEP = 40; // from one layer to the next
const TOP = 44;
const MOST = 12; // width of a line that carries the whole weight
const BETWEEN = 130; // between the networks

/** Mean over time of weights [T * S * N]. */
export function meanOverTime(weights, [T, S, N]) {
  return Float32Array.from({ length: S * N }, (_, i) => {
    let sum = 0;
    for (let t = 0; t < T; t++) sum += weights[t * S * N + i];
    return sum / T;
  });
}

/** The pair of layers after an arrow key, [s, n]; it stays inside. */
export function pairAfter(key, [s, n], [S, N]) {
  const [down, right] = { ArrowDown: [1, 0], ArrowUp: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1] }[key] ?? [0, 0];
  return [Math.min(S - 1, Math.max(0, s + down)), Math.min(N - 1, Math.max(0, n + right))];
}

/** Where layers lie: names from input to output, evenly over the height of the longer network. */
export function placesOf(count, most) {
  const room = (most - 1) * STEP;
  return Array.from({ length: count }, (_, i) => TOP + (count > 1 ? i * room / (count - 1) : room / 2));
}

function layerBoxes(names, ys, x, width, lit, title) {
  const heads = svg("text", { x: x + width / 2, y: TOP - 22, "text-anchor": "middle", "font-weight": 600 }, title);
  return [heads, ...names.flatMap((name, i) => [
    svg("rect", { class: i === lit ? "layer lit" : "layer", x, y: ys[i] - BOX / 2, width, height: BOX, rx: 4 }),
    svg("text", { x: x + width / 2, y: ys[i] + 4, "text-anchor": "middle" }, ending(name), svg("title", {}, name))
  ])];
}

/** What a pair says in words. */
export const pairWords = ({ students, teachers, weights, routes }, [s, n]) => {
  const i = s * teachers.length + n;
  const learns = routes ? routes[i] > 0 ? ", and learns from it" : ", and does not learn from it" : "";
  return `${students[s]} gives ${percent(weights[i])} of its attention to ${teachers[n]}${learns} (mean over time steps)`;
};

function strandOf(drawing, s, n, at, choose) {
  const { teachers, weights, routes, lit } = drawing;
  const i = s * teachers.length + n;
  const kind = lit && lit[0] === s && lit[1] === n ? "lit" : routes ? routes[i] > 0 ? "route" : "other" : "";
  const line = { class: `strand ${kind}`.trim(), ...at, "stroke-width": Math.max(0.5, MOST * weights[i]).toFixed(2) };
  return svg("line", { ...line, onclick: () => choose([s, n]) }, svg("title", {}, pairWords(drawing, [s, n])));
}

/**
 * @param {object} drawing names of `students` and `teachers`, `weights` [S * N], `routes` [S * N] (greater than 0 where a student layer learns; or
 *   null), and the pair that is `lit` (or null)
 * @param {function(number[]): void} choose a pair
 * @returns {SVGElement}
 */
export function drawNetworks(drawing, choose) {
  const { students, teachers, lit } = drawing;
  const most = Math.max(students.length, teachers.length);
  const [left, right] = [students, teachers].map((names) => Math.max(60, longest(names) + 16));
  const [ys, yt] = [placesOf(students.length, most), placesOf(teachers.length, most)];
  const pairs = students.flatMap((student, s) => teachers.map((teacher, n) => [s, n]));
  const size = { width: left + BETWEEN + right + 8, height: TOP + (most - 1) * STEP + BOX / 2 + 22 };
  const strands = pairs.map(([s, n]) => strandOf(drawing, s, n, { x1: 4 + left, x2: 4 + left + BETWEEN, y1: ys[s], y2: yt[n] }, choose));
  strands.sort((a, b) => (a.getAttribute("class") === "strand lit") - (b.getAttribute("class") === "strand lit")); // the lit one lies on top
  const told = lit ? pairWords(drawing, lit) : "Arrow keys choose a pair of layers";
  const picture = svg("svg", { ...size, class: "networks", role: "img", tabindex: 0, "aria-label": `Student and teacher, layer by layer. ${told}` },
    ...strands,
    ...layerBoxes(students, ys, 4, left, lit?.[0], "student"),
    ...layerBoxes(teachers, yt, 4 + left + BETWEEN, right, lit?.[1], "teacher"),
    svg("text", { x: 4 + left + BETWEEN / 2, y: TOP - 22, "text-anchor": "middle", opacity: 0.75 }, "input"),
    svg("text", { x: 4 + left + BETWEEN / 2, y: size.height - 4, "text-anchor": "middle", opacity: 0.75 }, "output"));
  picture.addEventListener("keydown", (event) => {
    if (!event.key.startsWith("Arrow")) return;
    event.preventDefault();
    choose(lit ? pairAfter(event.key, lit, [students.length, teachers.length]) : [0, 0]);
  });
  return picture;
}
