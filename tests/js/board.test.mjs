import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";

import board from "../../sastc/lab/static/board.js";
import { addressOf, stateIn } from "../../sastc/lab/static/address.js";
import { groupings, switched } from "../../sastc/lab/static/choose.js";
import { accuracyOf, settingsAxes, placesAlong } from "../../sastc/lab/static/parallel.js";
import { StillModel } from "../../sastc/lab/static/still.js";
import { COLUMNS, allColumns, columnsOf, csvOf, filterWords, filtered, folds, missing, ordered, savedColumns, shifted, textOf, underName } from "../../sastc/lab/static/table.js";
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
  figure: { data: [], layout: {} }, points: bytesOf(), hidden: [], axes: { log: false, smooth: 0, outliers: false, large: "" }, x: "step", xs: [],
  common: {}, columns: [], group: "", launches: false, differences: { columns: [], rows: [], words: "Choose two." }, ...more
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
  byTag(el, "button").find((part) => part.dataset.key === "Report sastc").fire("click");
  assert.deepEqual(model.sent, [{ report: [] }, { report: ["sastc"] }]);
});

test("a report that arrives becomes a link to a page in memory", () => {
  const model = new LiveModel(stateOf());
  const end = rendered(model);
  const [, arrived] = model.listeners.find(([event]) => event === "msg:custom");
  arrived({ report: "report of kd" }, [new TextEncoder().encode("<p>page</p>")]);
  const link = byTag(el, "a").find((part) => part.textContent.startsWith("Open"));
  assert.deepEqual([link.textContent, link.parent.hidden], ["Open the report of kd", false]);
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
  assert.ok(byTag(byClass(el, "tall")[0], "input").every((input) => input.disabled));
});

test("the focus stays on what it was on, and damage and progress are shown", () => {
  const model = new LiveModel(stateOf());
  rendered(model);
  byTag(el, "button").find((part) => part.dataset.key === "Report sastc").focus();
  model.set("descending", true);
  frame();
  assert.equal(globalThis.document.activeElement.dataset.key, "Report sastc");
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

test("a filter is made of regular expressions, and says when none matches", () => {
  assert.deepEqual(namesOf(filtered(ROWS, "seed(9|10)$")), ["kd-seed10", "kd-seed9"]);
  assert.deepEqual(namesOf(filtered([{ name: "a", "setting:lr": 0.1 }, { name: "b", "setting:lr": 0.2 }], "^lr=0.2")), ["b"]);
  assert.deepEqual([filterWords(ROWS, "kd"), filterWords(ROWS, "nowhere"), filterWords(ROWS, "("), filterWords([], "x")],
    ["", "No run matches.", "The filter is not a regular expression yet.", ""]);
  assert.equal(filtered(ROWS, "(").length, ROWS.length); // while it is typed, nothing goes
});

const SET = [{ name: "a", method: "kd", best: 0.5, "setting:lr": 0.1, "setting:epochs": 3 }, { name: "b", method: "kd", best: 0.7, "setting:lr": 0.2, "setting:epochs": 3 }];

test("columns are chosen, moved, and saved as a table", () => {
  assert.deepEqual(allColumns(SET).slice(-2).map(([key]) => key), ["setting:epochs", "setting:lr"]);
  assert.deepEqual(columnsOf(SET, ["setting:lr", "gone", "name"]).map(([, title]) => title), ["lr", "run"]);
  assert.equal(columnsOf(SET, []), COLUMNS);
  assert.deepEqual([shifted(["a", "b", "c"], "b", -1), shifted(["a", "b", "c"], "c", 1)], [["b", "a", "c"], ["a", "b", "c"]]);
  assert.deepEqual([switched(["name", "a"], "a"), switched(["name"], "a"), switched(["name"], "name")], [["name"], ["name", "a"], ["name"]]);
  const rows = [{ name: 'a "quoted", b', best: 0.5 }, { name: "=SUM(1)", best: null }];
  assert.equal(csvOf(rows, columnsOf(rows, ["name", "best"])), 'run,test best\n"a ""quoted"", b",0.5\n\'=SUM(1),\n');
});

test("settings become columns, groups and axes", () => {
  assert.deepEqual([groupings(SET), settingsAxes(SET)], [["epochs", "lr"], ["setting:lr"]]);
  const numbers = placesAlong([1, 3, null]);
  assert.deepEqual([numbers.at(1), numbers.at(2), numbers.at(3)], [0, 0.5, 1]);
  assert.deepEqual(placesAlong(["b", "a"]).marks, [["a", "a"], ["b", "b"]]);
  assert.deepEqual([accuracyOf({ validation: 0.4 }), accuracyOf({ best: 0.5, validation: 0.4 }), accuracyOf({})], [0.4, 0.5, undefined]);
  rendered(new LiveModel(stateOf({ rows: SET, chosen: ["a", "b"] })));
  assert.deepEqual(byTag(byClass(el, "parallel")[0], "polyline").length, 2);
});

test("an address holds the state of a board, of this board only", () => {
  const model = new StillModel(stateOf({ title: "runs", chosen: ["a b"], filter: "x#y", columns: ["name"] }));
  const address = addressOf(model, "http://here/lab#old");
  assert.ok(address.startsWith("http://here/lab#board="));
  const found = stateIn(address, "runs");
  assert.deepEqual([found.chosen, found.filter, found.columns, found.sort], [["a b"], "x#y", ["name"], "name"]);
  assert.deepEqual([stateIn(address, "other"), stateIn("http://here", "runs"), stateIn("http://here#board=%7B", "runs")], [{}, {}, {}]);
});

test("a note is written in a form below the table, and a panel takes the settings of a run", () => {
  const model = new LiveModel(stateOf({ launches: true }));
  rendered(model);
  byTag(el, "button").find((part) => part.dataset.key === "Note sastc").fire("click");
  const [[note], [tags]] = ["textarea", "input"].map((tag) => byTag(byClass(el, "editor")[0], tag));
  Object.assign(note, { value: "good" });
  Object.assign(tags, { value: "a, b" });
  byTag(byClass(el, "editor")[0], "button")[0].fire("click");
  byTag(el, "button").find((part) => part.dataset.key === "Like this sastc").fire("click");
  assert.deepEqual(model.sent, [{ annotate: "sastc", note: "good", tags: ["a", " b"] }, { like: "sastc" }]);
  assert.equal(byClass(el, "editor")[0].childNodes.length, 0);
});

test("lines of a note stay lines, and a table that is saved has notes and tags", () => {
  const noted = { ...ROWS[2], note: 'he said "yes",\nthen no', tags: ["a", "b"] };
  rendered(new LiveModel(stateOf({ rows: [noted] })));
  byTag(el, "button").find((part) => part.dataset.key === "Note sastc").fire("click");
  assert.equal(byTag(byClass(el, "editor")[0], "textarea")[0].textContent, noted.note);
  const line = csvOf([noted], savedColumns([noted], [])).split("\n").slice(1).join("\n");
  assert.ok(line.endsWith('finished,"a, b","he said ""yes"",\nthen no"\n'), line);
  assert.equal(savedColumns(ROWS, []).length, COLUMNS.length);
  assert.deepEqual(savedColumns([noted], ["name"]).map(([key]) => key), ["name"]);
});

test("what is said about a filter stands above the rows", () => {
  rendered(new LiveModel(stateOf({ filter: "(" })));
  const said = el.textContent.indexOf("not a regular expression yet");
  assert.ok(said >= 0 && said < el.textContent.indexOf("kd-seed9"));
});
