// One chart: axes, bands, lines and marks.
import { decades, extent, inner, roomy, ticks } from "./axes.js";
import { pathOf, pointsOf } from "./lines.js";
import { mark } from "./marks.js";
import { heading, html, svg } from "./nodes.js";
import { grouped, percent, short } from "./numbers.js";

const HEIGHT = 210;
const LARGE = 460; // of a chart that is enlarged

/** Where values lie in a box of pixels: x, y, and both as SVG writes a point. */
function placesIn(box, [x0, x1], [y0, y1], log) {
  const scaled = log ? Math.log10 : Number;
  const [low, high] = [scaled(y0), scaled(y1)];
  const atX = (x) => box.left + (x - x0) / (x1 - x0 || 1) * (box.right - box.left);
  const atY = (y) => box.bottom - (scaled(y) - low) / (high - low || 1) * (box.bottom - box.top);
  return { atX, atY, at: (x, y) => `${atX(x).toFixed(1)},${atY(y).toFixed(1)}` };
}

function levelLines(levels, { left, right }, atY, write) {
  return levels.flatMap((value) => [
    svg("line", { x1: left, x2: right, y1: atY(value), y2: atY(value), stroke: "currentColor", "stroke-opacity": 0.14 }),
    svg("text", { x: left - 6, y: atY(value) + 4, "text-anchor": "end" }, write(value))
  ]);
}

function stepMarks(steps, { left, right, bottom }, atX, xTitle) {
  const marks = steps.map((value) => svg("text", { x: atX(value), y: bottom + 16, "text-anchor": "middle" }, grouped(value)));
  return [...marks, svg("text", { x: (left + right) / 2, y: bottom + 34, "text-anchor": "middle", opacity: 0.75 }, xTitle)];
}

const areaOf = (band, at) => svg("polygon", { points: pointsOf(band.x, band.y, at).join(" "), fill: band.colour, "fill-opacity": band.opacity });

function strokeOf(line, at) {
  return svg("path", { d: pathOf(line.x, line.y, at), fill: "none", stroke: line.colour,
    "stroke-width": line.dashed ? 0.75 * line.width : line.width, "stroke-dasharray": line.dash, "stroke-linejoin": "round" });
}

function marksOf(line, { atX, atY }) {
  const size = line.dashed ? 0.7 * line.size : line.size;
  return [...line.x].flatMap((x, i) => Number.isFinite(line.y[i]) ? [mark(line.symbol, atX(x), atY(line.y[i]), size, line.colour)] : []);
}

/** Values without those that have no logarithm. */
const positive = (drawn) => ({ ...drawn, y: Float32Array.from(drawn.y, (value) => value > 0 ? value : NaN) });

/** The values that an axis spans, whether it is logarithmic, and how many points lie outside. */
export function spanOf(lines, bands, range, { log, outliers }) {
  const values = [...lines, ...bands].map((drawn) => drawn.y);
  const some = values.some((array) => array.some((value) => value > 0));
  if (log && some) {
    const [low, high] = extent(values);
    return { up: low < high ? [low / 1.1, high * 1.1] : [low / 2, high * 2], log: true, outside: 0 };
  }
  if (range) return { up: range, log: false, outside: 0 };
  const [low, high, outside] = outliers ? [...extent(values), 0] : inner(values);
  return { up: roomy([low, high]), log: false, outside };
}

/**
 * Draw a chart into its holder, in place of what was there.
 * @param {Element} holder
 * @param {object} panel `title`, `xTitle`, `percent` (values are shares), `range` (if it is fixed), `lines` and `bands` (see figure.js); and of the
 *   axes `log`, whether `outliers` are shown, whether it is `large`, and `tools` (elements beside its title)
 * @returns the picture and what `readOut` needs of it
 */
export function drawPanel(holder, { title, xTitle, percent: share, range, lines, bands = [], log = false, outliers = true, large = false, tools = [] }) {
  const width = Math.max(holder.clientWidth, 200);
  const height = large ? LARGE : HEIGHT;
  const box = { left: 50, right: width - 10, top: 10, bottom: height - 38 };
  if (log) [lines, bands] = [lines.map(positive), bands.map(positive)];
  const across = extent(lines.map((line) => line.x));
  const { up, log: logarithmic, outside } = spanOf(lines, bands, range, { log, outliers });
  const places = placesIn(box, across, up, logarithmic);
  const write = share ? percent : short;
  const levels = logarithmic ? decades(...up) : ticks(...up, large ? 8 : 4);
  const digits = levels[1] - levels[0] < 0.00999 ? 1 : 0;
  const whole = lines.every((line) => line.x.every(Number.isInteger));
  const steps = ticks(...across, Math.max(2, width / 90)).filter((value) => !whole || Number.isInteger(value));
  const told = lines.map((line) => `${line.name} ${write(line.y[line.count - 1])}`).join(", ");
  const [inside, size] = [{ x: box.left, y: box.top - 5 }, { width: box.right - box.left + 5, height: box.bottom - box.top + 10 }];
  const view = { ...inside, ...size, viewBox: `${inside.x} ${inside.y} ${size.width} ${size.height}` }; // which cuts off what lies outside
  const drawn = svg("svg", view,
    ...bands.map((band) => areaOf(band, places.at)),
    ...lines.filter((line) => line.faint).map((line) => svg("path", { d: pathOf(line.x, line.faint, places.at), fill: "none", stroke: line.colour, "stroke-opacity": 0.25 })),
    ...lines.filter((line) => line.stroked !== false).map((line) => strokeOf(line, places.at)),
    ...lines.filter((line) => line.size > 1).flatMap((line) => marksOf(line, places)));
  const picture = svg("svg", { width, height, role: "img", tabindex: 0, "aria-label": `${title} by ${xTitle}: ${told}` },
    ...levelLines(levels, box, places.atY, (value) => share ? percent(value, digits) : short(value)),
    ...stepMarks(steps, box, places.atX, xTitle),
    drawn);
  const note = outside > 0 && html("div", { class: "soft outside" }, `${outside} point${outside > 1 ? "s lie" : " lies"} outside; "outliers" shows ${outside > 1 ? "them" : "it"}`);
  holder.replaceChildren(...[html("div", { class: "head" }, heading(4, title), ...tools), picture, note].filter(Boolean));
  return { picture, atX: places.atX, write, box };
}
