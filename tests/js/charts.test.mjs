import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { beforeEach, test } from "node:test";

import { drawCharts } from "../../sastc/lab/static/charts.js";
import { decades, inner, smoothed } from "../../sastc/lab/static/axes.js";
import { beside } from "../../sastc/lab/static/readout.js";
import { describeAll } from "../../sastc/lab/static/described.js";
import { button, html, setAttributes, svg } from "../../sastc/lab/static/nodes.js";
import { StillModel, showStill, unpacked } from "../../sastc/lab/static/still.js";
import view from "../../sastc/lab/static/view.js";
import { byClass, byTag, bytesOf, frame, newPage } from "./dom.mjs";

let el;
beforeEach(() => { el = newPage(); });

const heading = (text, x) => ({ text, x, y: 1, showarrow: false });
const FIGURE = {
  data: [
    { name: "kd", legendgroup: "kd", xaxis: "x", yaxis: "y", mode: "lines+markers", line: { color: "#00f" }, marker: { symbol: "circle", size: 5 }, count: 2 },
    { legendgroup: "sastc", showlegend: false, xaxis: "x", yaxis: "y", fill: "toself", fillcolor: "#f00", opacity: 0.2, count: 4 },
    { name: "sastc", legendgroup: "sastc", xaxis: "x", yaxis: "y", mode: "lines+markers", line: { color: "#f00" }, marker: { symbol: "square", size: 5 }, count: 2 },
    { name: "sastc", legendgroup: "sastc", showlegend: false, xaxis: "x2", yaxis: "y2", mode: "lines", line: { color: "#f00", dash: "dot" }, count: 1 }
  ],
  layout: {
    title: { text: "Loss and accuracy", subtitle: { text: "note" } },
    xaxis: { domain: [0, 0.4], title: { text: "training step" } }, yaxis: { domain: [0, 1], tickformat: ".0%" },
    xaxis2: { domain: [0.6, 1] }, yaxis2: { domain: [0, 1] },
    annotations: [heading("accuracy", 0.2), heading("loss", 0.8)]
  }
};
const BYTES = bytesOf(10, 20, 0.2, 0.4, 10, 20, 20, 10, 0.6, 0.8, 0.6, 0.4, 10, 20, 0.5, 0.7, 10, 2.5);
const NOTHING = { data: [], layout: { title: { text: "Loss and accuracy" }, annotations: [{ text: "none", x: 0.5, y: 0.5 }] } };
const AXES = { log: false, smooth: 0, outliers: false, large: "" };
const given = (more) => ({ figure: FIGURE, bytes: BYTES, hidden: [], toggle() {}, axes: AXES, x: "step", xs: [], change() {}, ...more });
const titles = (box) => byClass(box, "heading").filter((part) => part.parent.attributes.class === "head").map((part) => part.textContent);

test("attributes: listeners are added, what is false is left out, true is empty", () => {
  const clicks = [];
  const made = button("Go", () => clicks.push(1), { disabled: false, hidden: true, title: null });
  made.fire("click");
  assert.deepEqual([clicks, made.textContent], [[1], "Go"]);
  assert.deepEqual(Object.keys(made.attributes).sort(), ["data-lm-suppress-shortcuts", "hidden", "type"]);
  assert.equal(html("p", {}, "a", false, undefined, null, "b").textContent, "ab");
  assert.ok(!("data-lm-suppress-shortcuts" in svg("line").attributes));
  setAttributes(made, { title: "x" });
  assert.equal(made.getAttribute("title"), "x");
});

test("a chart for each quantity, with a band where a line has one", () => {
  drawCharts(el, given());
  assert.deepEqual(titles(el), ["accuracy", "loss"]);
  const drawn = byClass(el, "panels")[0];
  const marks = byClass(drawn, "mark").length;
  assert.deepEqual([byTag(drawn, "path").length, byTag(drawn, "polygon").length - marks, byTag(drawn, "circle").length, marks], [3, 1, 2, 2]);
  const [picture] = byClass(el, "panel")[0].querySelectorAll("svg");
  assert.equal(picture.getAttribute("aria-label"), "accuracy by training step: kd 40.0%, sastc 70.0%");
  assert.deepEqual([el.children[0].textContent, el.children[2].textContent], ["Loss and accuracy", "note"]);
});

test("what is hidden is not drawn, and the legend says so", () => {
  const asked = [];
  drawCharts(el, given({ hidden: ["sastc"], toggle: (name) => asked.push(name) }));
  const drawn = byClass(el, "panels")[0];
  assert.deepEqual([byTag(drawn, "path").length, byTag(drawn, "polygon").length], [1, 0]);
  const names = byTag(byClass(el, "legend")[0], "button");
  assert.deepEqual(names.map((name) => [name.textContent, name.getAttribute("aria-pressed")]), [["kd", "true"], ["sastc", "false"]]);
  names[1].fire("click");
  assert.deepEqual(asked, ["sastc"]);
});

test("a figure without lines says why", () => {
  drawCharts(el, given({ figure: NOTHING, bytes: bytesOf() }));
  assert.deepEqual([el.children[0].textContent, el.children[2].textContent, byTag(el, "svg").length], ["", "none", 0]);
});

test("drawn again, charts keep what has the focus and what is pointed at", () => {
  drawCharts(el, given());
  const [holder] = byClass(el, "panel");
  const picture = holder.querySelector("svg");
  picture.focus();
  picture.fire("keydown", { key: "ArrowRight" });
  assert.equal(holder.spot, 10);
  byTag(el, "button")[1].focus();
  drawCharts(el, given());
  assert.equal(byClass(el, "panel")[0], holder);
  assert.equal(globalThis.document.activeElement, byTag(el, "button")[1]);
  const [words] = byClass(holder, "readout");
  assert.deepEqual([words.hidden, words.textContent], [false, "10kd 20.0%sastc 50.0%"]);
  drawCharts(el, given({ figure: { ...FIGURE, data: FIGURE.data.slice(0, 1) }, bytes: bytesOf(10, 20, 0.2, 0.4) }));
  assert.deepEqual(titles(el), ["accuracy"]);
});

test("keys and the pointer read out values; Escape ends it", () => {
  drawCharts(el, given());
  const [holder] = byClass(el, "panel");
  const picture = holder.querySelector("svg");
  const [words] = byClass(holder, "readout");
  picture.fire("keydown", { key: "ArrowLeft" });
  assert.equal(words.children[0].textContent, "20");
  picture.fire("pointermove", { clientX: 0 });
  assert.equal(words.children[0].textContent, "10");
  picture.fire("keydown", { key: "Escape" });
  assert.deepEqual([words.hidden, holder.spot], [true, undefined]);
});

test("the widget draws once per frame, when its state changes, until it ends", () => {
  const state = { figure: FIGURE, points: BYTES, hidden: [], axes: AXES, x: "step", xs: [] };
  const model = new StillModel(state);
  const end = view.render({ model, el });
  assert.equal(byTag(el, "path").length, 0);
  frame();
  assert.equal(byTag(el, "path").length, 3);
  byTag(el, "button")[0].fire("click");
  assert.deepEqual(model.get("hidden"), ["kd"]);
  frame();
  assert.equal(byTag(el, "path").length, 2);
  end();
  model.set("hidden", []);
  frame();
  assert.deepEqual([byTag(el, "path").length, model.listeners.length], [2, 0]);
});

test("bytes of a page are unpacked, other values stay", () => {
  const base64 = Buffer.from(Float32Array.of(1, 2).buffer).toString("base64");
  assert.deepEqual([...new Float32Array(unpacked({ base64 }).buffer)], [1, 2]);
  assert.deepEqual([unpacked(null), unpacked(3), unpacked({ words: "" })], [null, 3, { words: "" }]);
});

test("a model without a kernel tells of changes and of nothing else", () => {
  const model = new StillModel({ a: 1 });
  const heard = [];
  const listeners = Object.fromEntries(["change", "msg:custom"].map((event) => [event, () => heard.push(event)]));
  for (const [event, listener] of Object.entries(listeners)) model.on(event, listener);
  model.set("a", 2);
  model.off("change", listeners.change);
  model.set("a", 3);
  assert.deepEqual([heard, model.get("a")], [["change"], 3]);
});

test("the same view twice fills one place after the other", () => {
  const places = [1, 2].map(() => html("div", { "data-view": "abc" }, html("img")));
  el.append(...places);
  const render = ({ model, el: place }) => place.append(html("p", {}, model.get("title")));
  for (const title of ["first", "second"]) showStill(render, "abc", { title });
  assert.deepEqual(places.map((place) => [place.textContent, byTag(place, "img").length]), [["first", 0], ["second", 0]]);
  globalThis.document.getElementById = (id) => id === "jupyter-config-data" ? {} : null; // JupyterLab, which has the live widget or leaves the picture
  assert.equal(showStill(render, "abc", { title: "third" }), undefined);
});

test("lines of help describe the controls above them", () => {
  const field = (name) => html("div", { class: "field" }, html("input", { name }), html("span", { class: "help" }, `about ${name}`));
  const form = html("div", {}, field("lr"), field("beta"), html("div", { class: "field" }, html("p")));
  describeAll(form);
  describeAll(form);
  const told = byTag(form, "input").map((input) => input.getAttribute("aria-describedby"));
  assert.deepEqual(told, byClass(form, "help").map((help) => help.id));
  assert.notEqual(told[0], told[1]);
});

test("a readout lies beside its rule, and never beyond an edge", () => {
  assert.deepEqual([beside(100, 50, 400), beside(300, 50, 400), beside(100, 180, 240), beside(130, 180, 240), beside(10, 500, 240)], [108, 242, 60, 0, 0]);
});

test("values far out are left out of the axis, and counted", () => {
  const many = Float32Array.from({ length: 100 }, (_, i) => i === 50 ? 1e6 : i / 100);
  const [low, high, outside] = inner([many]);
  assert.deepEqual([low, Number(high.toFixed(2)), outside], [0, 0.99, 1]);
  assert.deepEqual(inner([Float32Array.of(1, NaN, 2)]), [1, 2, 0]);
  assert.deepEqual(inner([[]]), [0, 1, 0]);
});

test("marks of a logarithmic axis, and a running mean without a cold start", () => {
  assert.deepEqual(decades(0.01, 1000), [0.01, 0.1, 1, 10, 100, 1000]);
  assert.deepEqual(decades(1, 10), [1, 2, 5, 10]);
  assert.deepEqual([...smoothed(Float32Array.of(2, 2, NaN, 2), 0.5)], [2, 2, NaN, 2]);
  assert.ok(Math.abs(smoothed(Float32Array.of(0, 1), 0.5)[1] - 2 / 3) < 1e-6);
});

test("axes are changed by their controls, and a chart is enlarged", () => {
  const asked = [];
  const change = (values) => asked.push(values);
  drawCharts(el, given({ xs: ["step", "epoch"], change }));
  const box = (words) => byTag(byTag(el, "label").find((label) => label.textContent.includes(words)), "input")[0];
  Object.assign(box("logarithmic"), { checked: true }).fire("change");
  Object.assign(box("smoothing"), { value: "0.5" }).fire("input");
  byTag(el, "button").find((part) => part.getAttribute("aria-label") === "enlarge accuracy").fire("click");
  assert.deepEqual(asked, [{ log: true }, { smooth: 0.5 }, { large: "accuracy" }]);
  drawCharts(el, given({ change, axes: { log: true, smooth: 0.5, outliers: false, large: "accuracy" } }));
  assert.deepEqual([byClass(el, "large").length, byClass(el, "axes")[0].children[0].hidden], [1, true]);
  assert.equal(byTag(byClass(el, "large")[0], "svg")[0].getAttribute("height"), "460");
});
