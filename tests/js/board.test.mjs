import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";

import board from "../../sastc/lab/static/board.js";
import { StillModel } from "../../sastc/lab/static/still.js";
import { COLUMNS, filtered, folds, missing, ordered, textOf, underName } from "../../sastc/lab/static/table.js";
import { byClass, byTag, bytesOf, frame, newPage } from "./dom.mjs";

let el;
beforeEach(() => { el = newPage(); });

const ROWS = [
  { name: "kd-seed10", method: "kd", seed: 10, best: 0.5, state: "finished", problem: "" },
  { name: "kd-seed9", method: "kd", seed: 9, best: null, state: "running", share: 0.25, problem: "" },
  { name: "sastc", method: "sastc", seed: 0, best: 0.7, beta: 100, pair: "wrn16_2 → vgg11", state: "finished", problem: "" },
  { name: "bad", state: "damaged", problem: "epochs.jsonl: line 1 is damaged" }
];
const namesOf = (rows) => rows.map((row) => row.name);
const columnOf = (key) => COLUMNS.find(([name]) => name === key);

test("missing values come last both ways", () => {
  assert.deepEqual(namesOf(ordered(ROWS, "best", false)), ["kd-seed10", "sastc", "kd-seed9", "bad"]);
  assert.deepEqual(namesOf(ordered(ROWS, "best", true)), ["sastc", "kd-seed10", "kd-seed9", "bad"]);
  assert.deepEqual([missing(0), missing(""), missing(null), missing(undefined)], [false, true, true, true]);
});

test("numbers in names are compared as numbers, and the rows that are given stay as they are", () => {
  const before = namesOf(ROWS);
  assert.deepEqual(namesOf(ordered(ROWS, "name", false)), ["bad", "kd-seed9", "kd-seed10", "sastc"]);
  assert.deepEqual(namesOf(ROWS), before);
});

test("a filter leaves rows that hold all words, whatever their case", () => {
  assert.deepEqual(namesOf(filtered(ROWS, "KD finished")), ["kd-seed10"]);
  assert.deepEqual(namesOf(filtered(ROWS, "70.00%")), ["sastc"]);
  assert.deepEqual(namesOf(filtered(ROWS, "")), namesOf(ROWS));
  assert.deepEqual(filtered(ROWS, "kd nowhere"), []);
});

test("cells say numbers as people read them", () => {
  assert.equal(textOf({ best: 0.91236 }, columnOf("best")), "91.24%");
  assert.equal(textOf({ rate: 0.1234 }, columnOf("rate")), "0.123");
  assert.equal(textOf({}, columnOf("energy")), "");
  assert.equal(textOf({ seed: 0 }, columnOf("seed")), "0");
});

test("in a narrow place columns move under the name", () => {
  assert.deepEqual(folds(1200), ["by_step"]);
  assert.equal(underName({ by_step: "41.2 52.8" }, folds(1200)), "by time step 41.2 52.8 %");
  assert.ok(folds(800).includes("minutes") && !folds(800).includes("seed") && folds(500).includes("seed"));
  assert.equal(underName(ROWS[2], folds(500)), "wrn16_2 → vgg11 · β 100 · seed 0");
});

const stateOf = (more) => ({
  title: "runs", words: "4 runs.", notice: "", rows: ROWS, chosen: [], sort: "name", descending: false, filter: "",
  figure: { data: [], layout: {} }, points: bytesOf(), hidden: [], differences: { columns: [], rows: [], words: "Choose two." }, ...more
});

/** A model with a kernel, which keeps what it is asked for. */
class LiveModel extends StillModel {
  constructor(state) {
    super(state);
    this.still = undefined;
    this.sent = [];
  }

  send(message) { this.sent.push(message); }
}

const rendered = (model) => {
  const end = board.render({ model, el });
  frame();
  return end;
};
const shownNames = () => byTag(el, "th").filter((cell) => cell.getAttribute("scope") === "row").map((cell) => cell.childNodes[0].textContent);
const press = (words) => byTag(el, "button").find((part) => part.textContent.startsWith(words)).fire("click");

test("a click sorts, a second one turns the order round", () => {
  const model = new LiveModel(stateOf());
  rendered(model);
  assert.deepEqual(shownNames(), ["bad", "kd-seed9", "kd-seed10", "sastc"]);
  press("test best");
  frame();
  assert.deepEqual(shownNames(), ["kd-seed10", "sastc", "kd-seed9", "bad"]);
  press("test best");
  frame();
  assert.equal(shownNames()[0], "sastc");
  assert.deepEqual([model.get("sort"), model.get("descending")], ["best", true]);
});

test("runs are chosen by their box, all that can be read by the first", () => {
  const model = new LiveModel(stateOf());
  rendered(model);
  const tick = (key, checked) => {
    const box = byTag(el, "input").find((input) => input.dataset.key === key);
    box.checked = checked;
    box.fire("change");
    frame();
    return byTag(el, "input").find((input) => input.dataset.key === key);
  };
  tick("choose sastc", true);
  assert.deepEqual(model.get("chosen"), ["sastc"]);
  assert.equal(byTag(el, "input").find((input) => input.dataset.key === "all").indeterminate, true);
  assert.equal(tick("all", true).checked, true);
  assert.deepEqual([...model.get("chosen")].sort(), ["kd-seed10", "kd-seed9", "sastc"]);
  tick("all", false);
  assert.deepEqual(model.get("chosen"), []);
  assert.equal(byTag(el, "input").find((input) => input.dataset.key === "choose bad").disabled, true);
});

test("reports are asked of the kernel", () => {
  const model = new LiveModel(stateOf());
  rendered(model);
  press("Report of all");
  byTag(el, "button").find((part) => part.dataset.key === "report sastc").fire("click");
  assert.deepEqual(model.sent, [{ report: "" }, { report: "sastc" }]);
});

test("a report that arrives becomes a link to a page in memory", () => {
  const model = new LiveModel(stateOf());
  const end = rendered(model);
  const [, arrived] = model.listeners.find(([event]) => event === "msg:custom");
  arrived({ report: "runs/report.html" }, [new TextEncoder().encode("<p>page</p>")]);
  const [link] = byTag(el, "a");
  assert.deepEqual([link.textContent, link.parent.hidden], ["Open runs/report.html", false]);
  assert.ok(link.getAttribute("href").startsWith("blob:"));
  URL.revokeObjectURL(link.getAttribute("href"));
  end();
  assert.deepEqual(model.listeners, []);
});

test("a page without a kernel sorts and filters", () => {
  rendered(new StillModel(stateOf()));
  const filter = byTag(el, "input").find((input) => input.getAttribute("type") === "search");
  filter.value = "kd";
  filter.fire("input");
  frame();
  press("seed");
  frame();
  assert.deepEqual(shownNames(), ["kd-seed9", "kd-seed10"]);
});

test("a page without a kernel offers no reports and no choice", () => {
  rendered(new StillModel(stateOf()));
  assert.ok(byTag(el, "button").every((part) => !part.textContent.startsWith("Report")));
  assert.ok(byTag(el, "input").filter((input) => input.getAttribute("type") === "checkbox").every((input) => input.disabled));
});

test("the focus stays on what it was on, and damage and progress are shown", () => {
  const model = new LiveModel(stateOf());
  rendered(model);
  byTag(el, "button").find((part) => part.dataset.key === "report sastc").focus();
  model.set("descending", true);
  frame();
  assert.equal(globalThis.document.activeElement.dataset.key, "report sastc");
  assert.ok(el.contains(globalThis.document.activeElement));
  assert.deepEqual(byClass(el, "problem").map((part) => part.textContent), ["epochs.jsonl: line 1 is damaged"]);
  assert.equal(byTag(el, "progress")[0].getAttribute("value"), "0.25");
});

test("differences are a table once two runs are chosen", () => {
  const differences = { columns: ["seed"], rows: [["a", "0"], ["b", "1"]], words: "" };
  rendered(new LiveModel(stateOf({ chosen: ["kd-seed9", "sastc"], differences })));
  const [box] = byClass(el, "differences");
  assert.deepEqual([box.hidden, byTag(box, "tr").map((line) => line.textContent)], [false, ["runseed", "a0", "b1"]]);
});
