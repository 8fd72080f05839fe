// One chart: axes, bands, lines and dots.
import { extent, roomy, ticks } from "./axes.js";
import { pathOf, pointsOf } from "./lines.js";
import { heading, svg } from "./nodes.js";
import { grouped, percent, short } from "./numbers.js";

const HEIGHT = 210;
const FEW_POINTS = 30; // below this, each is a dot too

/** Where values lie in a box of pixels: x, y, and both as SVG writes a point. */
function placesIn(box, [x0, x1], [y0, y1]) {
  const atX = (x) => box.left + (x - x0) / (x1 - x0 || 1) * (box.right - box.left);
  const atY = (y) => box.bottom - (y - y0) / (y1 - y0) * (box.bottom - box.top);
  return { atX, atY, at: (x, y) => `${atX(x).toFixed(1)},${atY(y).toFixed(1)}` };
}

function levelLines(levels, { left, right }, atY, mark) {
  return levels.flatMap((value) => [
    svg("line", { x1: left, x2: right, y1: atY(value), y2: atY(value), stroke: "currentColor", "stroke-opacity": 0.14 }),
    svg("text", { x: left - 6, y: atY(value) + 4, "text-anchor": "end" }, mark(value))
  ]);
}

function stepMarks(steps, { left, right, bottom }, atX, xTitle) {
  const marks = steps.map((value) => svg("text", { x: atX(value), y: bottom + 16, "text-anchor": "middle" }, grouped(value)));
  return [...marks, svg("text", { x: (left + right) / 2, y: HEIGHT - 4, "text-anchor": "middle", opacity: 0.75 }, xTitle)];
}

function bandOf(line, at) {
  const points = [...pointsOf(line.x, line.low, at), ...pointsOf(line.x, line.high, at).reverse()].join(" ");
  return svg("polygon", { points, fill: line.colour, "fill-opacity": 0.2 });
}

function strokeOf(line, at) {
  return svg("path", { d: pathOf(line.x, line.y, at), fill: "none", stroke: line.colour,
    "stroke-width": line.dashed ? 1.5 : 2, "stroke-dasharray": line.dash, "stroke-linejoin": "round" });
}

function dotsOf(line, at) {
  return pointsOf(line.x, line.y, at).map((point) => {
    const [cx, cy] = point.split(",");
    return svg("circle", { cx, cy, r: line.dashed ? 1.5 : 2.2, fill: line.colour });
  });
}

/**
 * Draw a chart into its holder, in place of what was there.
 * @param {Element} holder
 * @param {string} title
 * @param {object[]} lines as `unpackLines` gives them
 * @param {{xTitle: string, percents: string[]}} names of the x axis, and of the charts whose values are shares
 * @returns the picture and what `readOut` needs of it
 */
export function drawPanel(holder, title, lines, { xTitle, percents }) {
  const width = Math.max(holder.clientWidth, 200);
  const box = { left: 50, right: width - 10, top: 10, bottom: HEIGHT - 38 };
  const across = extent(lines.map((line) => line.x));
  const up = roomy(extent(lines.flatMap((line) => [line.y, line.low ?? [], line.high ?? []])));
  const { atX, atY, at } = placesIn(box, across, up);
  const share = percents.includes(title);
  const write = share ? percent : short;
  const levels = ticks(...up, 4);
  const digits = levels[1] - levels[0] < 0.00999 ? 1 : 0;
  const steps = ticks(...across, Math.max(2, width / 90)).filter(Number.isInteger);
  const told = lines.map((line) => `${line.name} ${write(line.y[line.count - 1])}`).join(", ");
  const picture = svg("svg", { width, height: HEIGHT, role: "img", tabindex: 0, "aria-label": `${title} by ${xTitle}: ${told}` },
    ...levelLines(levels, box, atY, (value) => share ? percent(value, digits) : short(value)),
    ...stepMarks(steps, box, atX, xTitle),
    ...lines.filter((line) => line.low).map((line) => bandOf(line, at)),
    ...lines.map((line) => strokeOf(line, at)),
    ...lines.filter((line) => line.count < FEW_POINTS).flatMap((line) => dotsOf(line, at)));
  holder.replaceChildren(heading(4, title), picture);
  return { picture, atX, write, box };
}
