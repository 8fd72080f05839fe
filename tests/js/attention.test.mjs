import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";

import attention from "../../sastc/lab/static/attention.js";
import { choicesOf } from "../../sastc/lab/static/controls.js";
import { differenceWords, entropyOf, mapsOf, spanWords, wordsOf } from "../../sastc/lab/static/drawing.js";
import { historyLines } from "../../sastc/lab/static/history.js";
import { layout, spoken } from "../../sastc/lab/static/maps.js";
import { meanOverTime, pairAfter, pairWords } from "../../sastc/lab/static/networks.js";
import { pictureName } from "../../sastc/lab/static/picture.js";
import { meanOf, nearestRecord, shownNow } from "../../sastc/lab/static/shown.js";
import { StillModel } from "../../sastc/lab/static/still.js";
import { pixelOf } from "../../sastc/lab/static/strip.js";
import { byClass, byTag, bytesOf, frame, newPage } from "./dom.mjs";

let el;
beforeEach(() => { el = newPage(); });

const record = (step, said, warnings) =>
  ({ step, epoch: 0, said, warnings, relative_entropy: 0.5, spread_layers: 0.1, spread_steps: 0.2, saturation: 0 });

/** Two records of T = 2 time steps, S = 1 student layer and N = 2 teacher layers. */
const stateOf = (more) => ({
  title: "run", words: "Finished.", message: "", saved: "", sentences: ["early", "late", "collapsed"],
  records: [record(10, 0, []), record(20, 1, [2])],
  attention: bytesOf(0.5, 0.5, 0.25, 0.75, 0.9, 0.1, 0.2, 0.8), shape: [2, 1, 2],
  student_layers: ["conv1"], teacher_layers: ["block1", "block2"], span: "shown", lit: [0, 0], routes: bytesOf(),
  other_title: "", other_steps: [], other_attention: bytesOf(), step: 0, base_step: 0, follow: true, compare: "",
  images: [], image_attention: bytesOf(), image_step: "", image: -1, ...more
});
const modelOf = (more) => new StillModel(stateOf(more));
const rounded = (values) => [...values].map((value) => Number(value.toFixed(4)));

test("the record of a step is the last one that is not after it", () => {
  const records = [{ step: 10 }, { step: 20 }, { step: 30 }];
  assert.deepEqual([0, 10, 19, 20, 99].map((step) => nearestRecord(records, step)), [0, 0, 0, 1, 2]);
});

test("weights of the newest record, or of the one under the slider", () => {
  const newest = shownNow(modelOf());
  assert.deepEqual([newest.place, rounded(newest.weights), newest.base], [1, [0.9, 0.1, 0.2, 0.8], undefined]);
  const earlier = shownNow(modelOf({ follow: false, step: 15 }));
  assert.deepEqual([earlier.place, rounded(earlier.weights), earlier.heading], [0, [0.5, 0.5, 0.25, 0.75], "training step 10, epoch 1"]);
});

test("what is subtracted: another step of training, another time step, another run", () => {
  const training = shownNow(modelOf({ compare: "training", base_step: 10 }));
  assert.deepEqual([rounded(training.base), training.than], [[0.5, 0.5, 0.25, 0.75], "difference from step 10"]);
  const time = shownNow(modelOf({ compare: "time:1" }));
  assert.deepEqual([rounded(time.base), time.than], [[0.2, 0.8, 0.2, 0.8], "difference from time step 2"]);
  assert.equal(shownNow(modelOf({ compare: "time:2" })).base, undefined);
  const other = { other_title: "seed1", other_steps: [5, 25], other_attention: bytesOf(1, 0, 1, 0, 0, 1, 0, 1) };
  const run = shownNow(modelOf({ compare: "run", ...other }));
  assert.deepEqual([rounded(run.base), run.than], [[1, 0, 1, 0], "difference from seed1 at step 5"]);
  assert.equal(shownNow(modelOf({ compare: "run" })).base, undefined);
});

test("weights of one image, and how they differ from the mean of all", () => {
  const images = { images: [{ label: "cat" }, { label: "" }], image_attention: bytesOf(1, 0, 1, 0, 0, 1, 1, 0), image_step: "step 20" };
  const one = shownNow(modelOf({ ...images, image: 0 }));
  assert.deepEqual([one.heading, rounded(one.weights)], ["image 1 (cat), checkpoint of step 20", [1, 0, 1, 0]]);
  const two = shownNow(modelOf({ ...images, image: 1, compare: "images" }));
  assert.deepEqual([two.heading, rounded(two.base)], ["image 2, checkpoint of step 20", [0.5, 0.5, 1, 0]]);
  assert.deepEqual([...meanOf(Float32Array.of(1, 2, 3, 4), 2)], [2, 3]);
});

test("entropy as a share of the greatest possible", () => {
  assert.equal(entropyOf([1]), 1);
  assert.equal(entropyOf([1, 0, 0]), 0);
  assert.ok(Math.abs(entropyOf([0.25, 0.25, 0.25, 0.25]) - 1) < 1e-12);
  assert.ok(Math.abs(entropyOf([0.9, 0.1]) - 0.469) < 1e-3);
});

test("colours span what is shown, or all that is possible, and say so", () => {
  const model = modelOf();
  const weights = mapsOf(model, shownNow(model));
  assert.deepEqual([rounded([weights.low, weights.high]), weights.maps.length], [[0.1, 0.9], 2]);
  assert.deepEqual(weights.marks.map(([, text]) => text), ["0.10", "0.50 uniform", "0.90"]);
  assert.match(spanWords(weights, "shown"), /what is shown here, 0.10 to 0.90/);
  const all = modelOf({ span: "all" });
  assert.deepEqual([mapsOf(all, shownNow(all)).low, mapsOf(all, shownNow(all)).high], [0, 1]);
  const small = modelOf({ attention: bytesOf(0.5, 0.5, 0.25, 0.75, 0.52, 0.48, 0.25, 0.75), compare: "training", base_step: 10 });
  const few = mapsOf(small, shownNow(small));
  assert.deepEqual([rounded([few.low, few.high]), few.marks[2][1]], [[-0.02, 0.02], "+0.02"]); // not all white on a scale up to 1
  const changed = modelOf({ compare: "training", base_step: 10 });
  const differences = mapsOf(changed, shownNow(changed));
  assert.ok(Math.abs(differences.low + 0.4) < 1e-6 && Math.abs(differences.high - 0.4) < 1e-6);
  assert.deepEqual(rounded(differences.maps[0].weights), [0.4, -0.4]);
  assert.equal(differences.maps[0].entropy, null);
});

test("words say what the record says, or how much differs and where", () => {
  const model = modelOf();
  assert.equal(wordsOf(model, shownNow(model)), "late");
  const words = differenceWords(Float32Array.of(0.4, -0.4, -0.05, 0.05), [2, 1, 2], ["conv1"], ["block1", "block2"]);
  assert.equal(words, "22.5% of the weight differs; the largest difference is +.400 (time step 1, conv1 to block1).");
});

test("maps stand beside each other where there is room, and fit into the width", () => {
  const drawing = { maps: Array(4).fill({ entropy: [1] }), students: ["a", "b"], teachers: ["x", "y", "z"] };
  assert.deepEqual([1600, 700, 300].map((width) => layout(width, drawing).columns), [4, 3, 1]);
  for (let width = 360; width < 2000; width += 40) {
    const { left, columns, across, right } = layout(width, drawing);
    assert.ok(columns >= 1 && left + columns * across <= width + 18 && right <= Math.max(width, left + 280), String(width));
  }
});

test("the picture is told in words", () => {
  const drawing = { heading: "step 1", maps: [{ title: "time step 1", weights: [0.25, 0.75] }], students: ["a"], teachers: ["x", "y"] };
  assert.equal(spoken(drawing), "step 1. . time step 1, a: x 0.25, y 0.75");
});

test("choices offer what there is", () => {
  assert.deepEqual(Object.keys(choicesOf(modelOf())), ["", "training", "time:0", "time:1"]);
  assert.deepEqual(Object.keys(choicesOf(modelOf({ shape: [1, 1, 2], other_steps: [5], other_title: "b" }))), ["", "training", "run"]);
  assert.deepEqual(Object.keys(choicesOf(modelOf({ image: 0 }))), ["", "images"]);
});

test("a line of history for each number, and pixels of small maps a column apart", () => {
  const lines = historyLines(stateOf().records);
  assert.deepEqual([lines.length, [...lines[0].x], new Set(lines.map((line) => line.dash)).size], [4, [10, 20], 4]);
  assert.deepEqual([0, 1, 2, 3, 4, 11].map((i) => pixelOf(i, [2, 2, 3])), [[0, 0], [1, 0], [2, 0], [0, 1], [1, 1], [6, 1]]);
});

const rendered = (more) => {
  const model = modelOf(more);
  const end = attention.render({ model, el });
  frame();
  return { model, end, maps: byClass(el, "maps")[0] };
};
const slider = () => byTag(el, "input").find((input) => input.getAttribute("aria-label") === "training history");
const numbers = (maps) => byTag(maps, "text").filter((text) => text.getAttribute("style")?.startsWith("fill")).map((text) => text.textContent);

test("the view shows numbers in cells and warnings in words, and follows the slider", () => {
  const { model, maps, end } = rendered();
  assert.deepEqual(numbers(maps), ["0.90", "0.10", "0.20", "0.80"]);
  assert.deepEqual(byClass(el, "warning").map((part) => part.textContent), ["collapsed"]);
  slider().value = 0;
  slider().fire("input");
  assert.deepEqual([model.get("step"), model.get("follow")], [10, false]);
  frame();
  assert.deepEqual(numbers(maps), ["0.50", "0.50", "0.25", "0.75"]);
  assert.equal(byClass(el, "warning").length, 0);
  assert.equal(byClass(el, "where")[0].textContent, "step 10, epoch 1");
  end();
});

test("a page without a kernel has no buttons for it", () => {
  rendered();
  assert.deepEqual(byTag(el, "button").map((part) => part.textContent), ["Play", "Save PNG"]);
});

test("without a record only the message is shown", () => {
  rendered({ records: [], message: "No attention has been recorded." });
  const [box] = el.children;
  assert.deepEqual([box.children[2].textContent, box.children[3].hidden], ["No attention has been recorded.", true]);
});

test("an image is chosen and let go by its button", () => {
  const images = { images: [{ label: "cat", source: "data:," }], image_attention: bytesOf(1, 0, 1, 0), image_step: "step 20" };
  const { model } = rendered(images);
  const choose = byTag(el, "button").find((part) => part.getAttribute("aria-label") === "image 1 cat");
  assert.equal(byTag(choose, "canvas")[0].painted.length, 4);
  choose.fire("click");
  frame();
  assert.deepEqual([model.get("image"), choose.getAttribute("aria-pressed")], [0, "true"]);
  choose.fire("click");
  assert.equal(model.get("image"), -1);
});

test("both networks: lines as thick as the weights, and a pair that is lit in both pictures", () => {
  const { model, end } = rendered();
  const [picture] = byClass(el, "networks");
  const widths = byTag(picture, "line").map((line) => Number(line.getAttribute("stroke-width")));
  assert.deepEqual(widths.map((width) => Math.round(width * 100)).sort((a, b) => a - b), [540, 660]); // 12 pixels times 0.45 and 0.55, the means over time
  picture.fire("keydown", { key: "ArrowRight", preventDefault() {} });
  frame();
  assert.deepEqual(model.get("lit"), [0, 1]);
  assert.equal(byTag(el, "rect").filter((part) => part.getAttribute("class") === "cell lit").length, 2); // one for each time step
  assert.ok(byTag(el, "p").some((part) => part.textContent.includes("conv1 gives 45.0% of its attention to block2")));
  end();
});

test("routes are shown where a method has them", () => {
  rendered({ routes: bytesOf(1, 0, 0, 1) });
  const kinds = byTag(byClass(el, "networks")[0], "line").map((line) => line.getAttribute("class"));
  assert.deepEqual(kinds.sort(), ["strand lit", "strand route"]);
  assert.match(pairWords({ students: ["a"], teachers: ["x"], weights: [1], routes: [1] }, [0, 0]), /learns from it/);
  assert.deepEqual([pairAfter("ArrowUp", [0, 1], [2, 2]), pairAfter("ArrowDown", [0, 1], [2, 2])], [[0, 1], [1, 1]]);
  assert.deepEqual(rounded(meanOverTime(Float32Array.of(1, 0, 0, 1), [2, 1, 2])), [0.5, 0.5]);
  assert.equal(pictureName("my run", "training step 1,200, epoch 3"), "my-run-training-step-1-200-epoch-3.png");
});
