// Numbers of every record over training.
import { nearestIndex } from "./axes.js";
import { lineColour } from "./colours.js";
import { DASHES } from "./figure.js";
import { sample } from "./marks.js";
import { html, svg } from "./nodes.js";
import { drawPanel } from "./panel.js";
import { readOut } from "./readout.js";

const NUMBERS = {
  relative_entropy: "how spread out it is",
  saturation: "rows at the largest possible weight",
  spread_layers: "differs between layers",
  spread_steps: "differs between time steps"
};
const TITLE = "over training";
const STROKES = [DASHES.solid, DASHES.dash, DASHES.dashdot, DASHES.dot];

/** A line for each of the numbers. */
export function historyLines(records) {
  const x = Float32Array.from(records, (record) => record.step);
  return Object.entries(NUMBERS).map(([key, name], i) => {
    const y = Float32Array.from(records, (record) => record[key]);
    return { name, x, y, count: x.length, dash: STROKES[i], width: 2, colour: lineColour(i) };
  });
}

/**
 * @param {Element} holder
 * @param {object[]} records
 * @param {number} place of the record that is shown
 * @param {function(number): void} go to a record, by a click
 */
export function drawHistory(holder, records, place, go) {
  const lines = historyLines(records);
  const drawn = drawPanel(holder, { title: TITLE, lines, xTitle: "training step", percent: true });
  const { picture, atX, box } = drawn;
  const at = atX(records[place].step);
  picture.append(svg("line", { x1: at, x2: at, y1: box.top, y2: box.bottom, stroke: "currentColor", "stroke-width": 1.5 }));
  readOut(holder, lines, drawn);
  picture.addEventListener("pointerdown", (event) => {
    const pixel = event.clientX - picture.getBoundingClientRect().left;
    go(nearestIndex(records.map((record) => atX(record.step)), pixel));
  });
  holder.append(html("div", { class: "keys soft" }, ...lines.map((line) => html("span", {}, sample(line), line.name))));
}
