// Marks of points, by the names that Plotly has for them, and pieces of lines for a legend.
import { svg } from "./nodes.js";

/** Corners of a regular shape around the origin, the first one on top; of a star every second one lies nearer. */
const corners = (count, inner = 1) => Array.from({ length: count }, (_, i) => {
  const angle = 2 * Math.PI * i / count;
  const radius = i % 2 ? inner : 1;
  return [radius * Math.sin(angle), -radius * Math.cos(angle)];
});
const turned = (points) => points.map(([x, y]) => [(x - y) * Math.SQRT1_2, (x + y) * Math.SQRT1_2]);
const arm = 0.33;
const plus = [[-arm, -1], [arm, -1], [arm, -arm], [1, -arm], [1, arm], [arm, arm], [arm, 1], [-arm, 1], [-arm, arm], [-1, arm], [-1, -arm], [-arm, -arm]];
const SHAPES = {
  square: turned(corners(4)), diamond: corners(4), "triangle-up": corners(3), cross: plus, x: turned(plus), hexagon: corners(6), star: corners(10, 0.45)
};

/** A mark of a size in pixels; a symbol that is not known is a circle. */
export function mark(symbol, x, y, size, colour) {
  const radius = size / 2;
  if (!(symbol in SHAPES)) return svg("circle", { cx: x.toFixed(1), cy: y.toFixed(1), r: radius, fill: colour });
  const points = SHAPES[symbol].map(([dx, dy]) => `${(x + radius * 1.2 * dx).toFixed(1)},${(y + radius * 1.2 * dy).toFixed(1)}`);
  return svg("polygon", { class: "mark", points: points.join(" "), fill: colour });
}

/** A short piece of a line. */
export const sample = (line) => svg("svg", { width: 26, height: 10, "aria-hidden": "true" },
  line.stroked !== false && svg("line", { x1: 1, x2: 25, y1: 5, y2: 5, stroke: line.colour, "stroke-width": 2.5, "stroke-dasharray": line.dash }),
  line.size > 1 && mark(line.symbol, 13, 5, 7, line.colour));
