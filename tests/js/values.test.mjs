import assert from "node:assert/strict";
import test from "node:test";

import { extent, nearestIndex, roomy, ticks } from "../../sastc/lab/static/axes.js";
import { DIFFERENCES, PALETTE, WEIGHTS, colourAt, inkOn, lineColour } from "../../sastc/lab/static/colours.js";
import { legendOf, panelsOf } from "../../sastc/lab/static/figure.js";
import { broken, ending, longest } from "../../sastc/lab/static/labels.js";
import { pathOf, pointsOf } from "../../sastc/lab/static/lines.js";
import { toggled } from "../../sastc/lab/static/model.js";
import { floats, grouped, percent, short, signed } from "../../sastc/lab/static/numbers.js";
import { moved } from "../../sastc/lab/static/readout.js";
import { bytesOf } from "./dom.mjs";

test("ticks are round, lie inside and are about as many as asked for", () => {
  assert.deepEqual(ticks(0, 1, 4), [0, 0.25, 0.5, 0.75, 1]);
  assert.deepEqual(ticks(0, 0.3, 3), [0, 0.1, 0.2, 0.3]);
  assert.deepEqual(ticks(-7, 12, 4), [-5, 0, 5, 10]);
  assert.deepEqual(ticks(3, 3, 4), [3]);
  for (const [low, high] of [[0, 840], [1e-6, 3e-6], [-1e5, 2e5], [0.07, 0.13]]) {
    const values = ticks(low, high, 5);
    assert.ok(values.length >= 2 && values.length <= 7, String(values));
    assert.ok(values.every((value) => value >= low - 1e-9 && value <= high * (1 + 1e-9)), String(values));
  }
});

test("extent takes finite values only", () => {
  assert.deepEqual(extent([[3, NaN, -1], [Infinity], []]), [-1, 3]);
  assert.deepEqual(extent([]), [0, 1]);
  assert.deepEqual(extent([[5]]), [5, 5]);
});

test("a margin does not make what is never negative negative", () => {
  assert.deepEqual(roomy([0, 1]), [0, 1.05]);
  assert.deepEqual(roomy([-1, 1]), [-1.1, 1.1]);
  const [low, high] = roomy([4, 4]);
  assert.ok(low < 4 && high > 4);
  assert.deepEqual(roomy([0, 0]), [0, 0.05]);
});

test("the nearest of equals is the first", () => {
  assert.equal(nearestIndex([1, 3, 5], 3.4), 1);
  assert.equal(nearestIndex([1, 3], 2), 0);
  assert.equal(nearestIndex(Float32Array.of(0, 10, 20), 100), 2);
});

test("colours of a scale are met at its entries, mixed between them and kept at its ends", () => {
  const scale = [[0, 0, 0], [100, 50, 0], [200, 0, 0]];
  assert.deepEqual(colourAt(scale, 0.5), [100, 50, 0]);
  assert.deepEqual(colourAt(scale, 0.25), [50, 25, 0]);
  assert.deepEqual(colourAt(scale, -3), [0, 0, 0]);
  assert.deepEqual(colourAt(scale, 1.0001), [200, 0, 0]);
});

test("ink on every colour of the scales is readable", () => {
  const linear = (c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  for (const scale of [WEIGHTS, DIFFERENCES]) {
    for (let share = 0; share <= 1; share += 0.01) {
      const colour = colourAt(scale, share);
      const ink = inkOn(colour) === "#000" ? 0 : 1;
      const [dark, light] = [luminance(colour), ink].sort((a, b) => a - b);
      assert.ok((light + 0.05) / (dark + 0.05) > 4.5, `${colour} ${ink}`);
    }
  }
});

test("colours of lines begin again after the last", () => {
  assert.equal(lineColour(PALETTE.length), lineColour(0));
  assert.notEqual(lineColour(1), lineColour(0));
});

test("bytes that do not begin at a multiple of four are read", () => {
  const bytes = new Uint8Array(13);
  bytes.set(new Uint8Array(Float32Array.of(1.5, -2).buffer), 3);
  assert.deepEqual([...floats(new DataView(bytes.buffer, 3, 8))], [1.5, -2]);
});

test("numbers for people", () => {
  assert.deepEqual([short(0.123456), short(1e6), short(NaN), short(undefined)], ["0.1235", "1000000", "–", "–"]);
  assert.deepEqual([percent(0.5), percent(0.98765, 2), percent(null)], ["50.0%", "98.77%", "–"]);
  assert.deepEqual([signed(0.25), signed(-0.0561), signed(0.0004), signed(-1.5)], ["+.250", "−.056", "0", "−1.500"]);
  assert.equal(grouped(1234567), "1,234,567");
});

const trace = (name, more) => ({ name, legendgroup: name, mode: "lines", line: { color: "#00f" }, count: 1, ...more });

test("panels come with their lines and bands, headings and titles", () => {
  const layout = {
    xaxis: { domain: [0, 0.5] }, yaxis: { domain: [0, 1], range: [0, 2] },
    xaxis2: { domain: [0.5, 1], title: { text: "epoch" } }, yaxis2: { domain: [0, 1], tickformat: ".0%", title: { text: "share" } },
    annotations: [{ text: "loss", x: 0.25, y: 1 }, { text: "elsewhere", x: 0.9, y: 1 }]
  };
  const data = [
    trace("kd", { count: 2, mode: "lines+markers", marker: { size: 5, symbol: "x" } }),
    trace("kd", { fill: "toself", fillcolor: "#0f0", opacity: 0.2, showlegend: false }),
    trace("sastc", { xaxis: "x2", yaxis: "y2", line: { color: "#f00", dash: "dot" } })
  ];
  const figure = { data, layout };
  const panels = panelsOf(figure, bytesOf(1, 2, 10, 20, 3, 30, 5, 50));
  assert.deepEqual(panels.map(({ title, xTitle, percent: share, range }) => [title, xTitle, share, range]), [["loss", "epoch", false, [0, 2]], ["share", "epoch", true, undefined]]);
  const [[line], [band]] = [panels[0].lines, panels[0].bands];
  assert.deepEqual([[...line.x], [...line.y], line.symbol, line.size, line.dashed], [[1, 2], [10, 20], "x", 5, false]);
  assert.deepEqual([[...band.x], [...band.y], band.opacity], [[3], [30], 0.2]);
  const [dotted] = panels[1].lines;
  assert.deepEqual([[...dotted.x], [...dotted.y], dotted.dash, dotted.size], [[5], [50], "2 3", 0]);
  assert.deepEqual(legendOf(figure, panels).map((entry) => entry.name), ["kd", "sastc"]);
});

test("the legend shows a solid line of a name where there is one", () => {
  const data = [trace("kd", { line: { dash: "dot" }, showlegend: false }), trace("kd", {})];
  const figure = { data, layout: {} };
  const [entry] = legendOf(figure, panelsOf(figure, bytesOf(1, 2, 3, 4)));
  assert.equal(entry.line.dashed, false);
});

test("a path has a gap where a value is not a number, and points leave it out", () => {
  const at = (x, y) => `${x},${y}`;
  assert.equal(pathOf([1, 2, 3, 4], [5, 6, NaN, 8], at), "M1,5L2,6M4,8");
  assert.equal(pathOf([], [], at), "");
  assert.deepEqual(pointsOf(Float32Array.of(1, 2, 3), [5, NaN, 7], at), ["1,5", "3,7"]);
});

test("an arrow key enters a chart at its end and stops at the other", () => {
  assert.deepEqual([moved(undefined, 1, 5), moved(undefined, -1, 5)], [0, 4]);
  assert.deepEqual([moved(2, 1, 5), moved(4, 1, 5), moved(0, -1, 5)], [3, 4, 0]);
});

test("names are shortened from the front", () => {
  assert.equal(ending("layer4.1.conv2.weight", 10), "…v2.weight");
  assert.equal(ending("conv1", 10), "conv1");
  assert.equal(longest(["a".repeat(100)]), longest(["a".repeat(22)]));
});

test("text is broken between words", () => {
  assert.deepEqual(broken("one two three", 8), ["one two", "three"]);
  assert.deepEqual(broken("incomprehensible", 4), ["", "incomprehensible"]);
  assert.equal(broken("a sentence of some words", 12).join(" "), "a sentence of some words");
});

test("a name is switched on and off", () => {
  assert.deepEqual(toggled(["a"], "b"), ["a", "b"]);
  assert.deepEqual(toggled(["a", "b"], "a"), ["b"]);
});
