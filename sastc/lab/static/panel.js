// One chart: axes, bands, lines and marks.
import { extent, roomy, ticks } from "./axes.js";
import { pathOf, pointsOf } from "./lines.js";
import { mark } from "./marks.js";
import { heading, svg } from "./nodes.js";
import { grouped, percent, short } from "./numbers.js";

const HEIGHT = 210;

/** Where values lie in a box of pixels: x, y, and both as SVG writes a point. */
function placesIn(box, [x0, x1], [y0, y1]) {
  const atX = (x) => box.left + (x - x0) / (x1 - x0 || 1) * (box.right - box.left);
  const atY = (y) => box.bottom - (y - y0) / (y1 - y0) * (box.bottom - box.top);
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
  return [...marks, svg("text", { x: (left + right) / 2, y: HEIGHT - 4, "text-anchor": "middle", opacity: 0.75 }, xTitle)];
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

/**
 * Draw a chart into its holder, in place of what was there.
 * @param {Element} holder
 * @param {object} panel `title`, `xTitle`, `percent` (values are shares), `range` (if it is fixed), `lines` and `bands` (see figure.js)
 * @returns the picture and what `readOut` needs of it
 */
export function drawPanel(holder, { title, xTitle, percent: share, range, lines, bands = [] }) {
  const width = Math.max(holder.clientWidth, 200);
  const box = { left: 50, right: width - 10, top: 10, bottom: HEIGHT - 38 };
  const across = extent(lines.map((line) => line.x));
  const up = range ?? roomy(extent([...lines, ...bands].map((drawn) => drawn.y)));
  const places = placesIn(box, across, up);
  const write = share ? percent : short;
  const levels = ticks(...up, 4);
  const digits = levels[1] - levels[0] < 0.00999 ? 1 : 0;
  const steps = ticks(...across, Math.max(2, width / 90)).filter(Number.isInteger);
  const told = lines.map((line) => `${line.name} ${write(line.y[line.count - 1])}`).join(", ");
  const picture = svg("svg", { width, height: HEIGHT, role: "img", tabindex: 0, "aria-label": `${title} by ${xTitle}: ${told}` },
    ...levelLines(levels, box, places.atY, (value) => share ? percent(value, digits) : short(value)),
    ...stepMarks(steps, box, places.atX, xTitle),
    ...bands.map((band) => areaOf(band, places.at)),
    ...lines.filter((line) => line.stroked !== false).map((line) => strokeOf(line, places.at)),
    ...lines.filter((line) => line.size > 1).flatMap((line) => marksOf(line, places)));
  holder.replaceChildren(heading(4, title), picture);
  return { picture, atX: places.atX, write, box };
}
