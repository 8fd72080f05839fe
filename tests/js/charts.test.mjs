import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { beforeEach, test } from "node:test";

import { drawCharts } from "../../sastc/lab/static/charts.js";
import curves from "../../sastc/lab/static/curves.js";
import { button, html, setAttributes, svg } from "../../sastc/lab/static/nodes.js";
import { StillModel, showStill, unpacked } from "../../sastc/lab/static/still.js";
import { byClass, byTag, bytesOf, frame, newPage } from "./dom.mjs";

let el;
beforeEach(() => { el = newPage(); });

const ABOUT = [
  { name: "kd", panel: "accuracy", dashed: false, count: 2, columns: 2 },
  { name: "sastc", panel: "accuracy", dashed: false, count: 2, columns: 4 },
  { name: "sastc", panel: "loss", dashed: true, count: 1, columns: 2 }
];
const BYTES = bytesOf(10, 20, 0.2, 0.4, 10, 20, 0.5, 0.7, 0.4, 0.6, 0.6, 0.8, 10, 2.5);
const given = (more) => ({ about: ABOUT, bytes: BYTES, hidden: [], toggle() {}, xTitle: "training step", percents: ["accuracy"], message: "none", note: "note", ...more });
const titles = (box) => byClass(box, "panel").map((panel) => panel.children[0].textContent);

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
  assert.deepEqual([byTag(el, "path").length, byTag(el, "polygon").length, byTag(el, "circle").length], [3, 1, 5]);
  const [picture] = byClass(el, "panel")[0].querySelectorAll("svg");
  assert.equal(picture.getAttribute("aria-label"), "accuracy by training step: kd 40.0%, sastc 70.0%");
  assert.equal(el.children[1].textContent, "note");
});

test("what is hidden is not drawn, and the legend says so", () => {
  const asked = [];
  drawCharts(el, given({ hidden: ["sastc"], toggle: (name) => asked.push(name) }));
  assert.equal(byTag(el, "path").length, 1);
  const names = byTag(el, "button");
  assert.deepEqual(names.map((name) => [name.textContent, name.getAttribute("aria-pressed")]), [["kd", "true"], ["sastc", "false"]]);
  names[1].fire("click");
  assert.deepEqual(asked, ["sastc"]);
});

test("without lines a message stands there", () => {
  drawCharts(el, given({ about: [], bytes: bytesOf() }));
  assert.equal(el.children[1].textContent, "none");
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
  drawCharts(el, given({ about: ABOUT.slice(0, 1), bytes: bytesOf(10, 20, 0.2, 0.4) }));
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
  const state = { lines: ABOUT, points: BYTES, hidden: [], x_title: "training step", percents: ["accuracy"], message: "", note: "" };
  const model = new StillModel(state);
  const end = curves.render({ model, el });
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
  const places = [1, 2].map(() => html("div", { "data-view": "abc" }));
  el.append(...places);
  const render = ({ model, el: place }) => place.append(html("p", {}, model.get("title")));
  for (const title of ["first", "second"]) showStill(render, "abc", { title });
  assert.deepEqual(places.map((place) => place.textContent), ["first", "second"]);
});
