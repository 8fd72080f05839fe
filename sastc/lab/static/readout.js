// Values of a chart where a pointer or the arrow keys are.
import { nearestIndex } from "./axes.js";
import { html, setAttributes, svg } from "./nodes.js";
import { grouped } from "./numbers.js";

/** A row of the readout: the value of a line at one of its points. */
function entry(line, i, write) {
  const style = `border-left: 3px ${line.dashed ? "dotted" : "solid"} ${line.colour}; padding-left: 6px`;
  return html("div", { style }, `${line.name} ${write(line.y[i])}`);
}

/** Where a box of a width begins beside a rule, so that none of it is cut off: on the side with more room, and never beyond the edges. */
export function beside(at, width, whole) {
  const left = at > whole / 2 ? at - width - 8 : at + 8;
  return Math.max(0, Math.min(left, whole - width));
}

/** Position after a key: from outside, an arrow enters at its end. */
export function moved(place, move, count) {
  const start = place === undefined ? (move > 0 ? -1 : count) : place;
  return Math.min(count - 1, Math.max(0, start + move));
}

/**
 * Read out the values of a chart. What is pointed at is kept in `holder.spot` and stays when the chart is drawn again.
 * @param {Element} holder
 * @param {object[]} lines
 * @param {{picture: Element, atX: function(number): number, write: function(number): string, box: object}} drawn by `drawPanel`
 */
export function readOut(holder, lines, { picture, atX, write, box }) {
  const spots = [...new Set(lines.flatMap((line) => [...line.x]))].sort((a, b) => a - b);
  const rule = svg("line", { y1: box.top, y2: box.bottom, stroke: "currentColor", "stroke-opacity": 0.5, visibility: "hidden" });
  const words = html("div", { class: "readout", role: "status", hidden: true });
  picture.append(rule);
  holder.append(words);
  if (!spots.length) return;
  const show = (x) => {
    holder.spot = x;
    const entries = lines.filter((line) => line.count).map((line) => entry(line, nearestIndex(line.x, x), write));
    words.replaceChildren(html("div", { class: "soft" }, grouped(x)), ...entries);
    words.hidden = false;
    words.style.left = `${beside(atX(x), words.offsetWidth, holder.clientWidth)}px`;
    words.style.top = `${picture.offsetTop ?? 20}px`;
    setAttributes(rule, { x1: atX(x), x2: atX(x), visibility: "visible" });
  };
  const hide = () => {
    holder.spot = undefined;
    words.hidden = true;
    rule.setAttribute("visibility", "hidden");
  };
  const nearest = (pixel) => spots[nearestIndex(spots.map(atX), pixel)];
  picture.addEventListener("pointermove", (event) => show(nearest(event.clientX - picture.getBoundingClientRect().left)));
  picture.addEventListener("pointerleave", hide);
  picture.addEventListener("blur", hide);
  picture.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.key === "Escape") hide();
    if (!move) return;
    event.preventDefault();
    const place = holder.spot === undefined ? undefined : spots.indexOf(nearest(atX(holder.spot)));
    show(spots[moved(place, move, spots.length)]);
  });
  if (holder.spot !== undefined) show(nearest(atX(holder.spot)));
}
