// The table of runs, and the table of what differs between the chosen ones.
import { cellOf, headOf, tickOf } from "./cells.js";
import { button, heading, html } from "./nodes.js";
import { columnsOf, filtered, folds, ordered, rowsOf } from "./table.js";

const ROOMY = 1160; // pixels in which the buttons of a run fit beside each other

const tableOf = (heads, lines, attributes) =>
  html("table", attributes, html("thead", {}, html("tr", {}, ...heads)), html("tbody", {}, ...lines));

/** Names of the runs that can be chosen among rows: those that could be read. */
const readable = (rows) => rows.filter((row) => row.method).map((row) => row.name);

function rowOf(model, row, columns, folded, ask) {
  const { name } = row;
  const box = tickOf(model, readable([row]), `choose ${name}`, `choose ${name}`);
  const attributes = { disabled: !row.method };
  const asks = [["Report", "report of", { report: [name] }], ["Note", "note of", { edit: name }]];
  if (model.get("launches")) asks.push(["Like this", "launch like", { like: name }]);
  const buttons = model.still ? [] : asks.map(([words, label, wish]) =>
    button(words, () => ask(wish), { ...attributes, "data-key": `${words} ${name}`, "aria-label": `${label} ${name}` }));
  const cells = columns.map((column) => cellOf(row, column, folded));
  return html("tr", { class: box.checked ? "chosen" : "" }, html("td", {}, box), ...cells, html("td", { class: "asks" }, ...buttons));
}

/**
 * Draw the table in place of what was there; focus and scrolling stay.
 * @param {Element} box
 * @param {object} model
 * @param {function(object): void} ask for the report of a run, for its note, or for its settings in the panel
 */
export function drawTable(box, model, ask) {
  const every = rowsOf(model);
  const rows = ordered(filtered(every, model.get("filter")), model.get("sort"), model.get("descending"));
  const focused = box.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  const folded = model.get("columns").length ? [] : folds(box.clientWidth);
  const columns = columnsOf(every, model.get("columns")).filter(([key]) => !folded.includes(key));
  const all = html("th", {}, tickOf(model, readable(rows), "choose all", "all"));
  const heads = [all, ...columns.map((column) => headOf(model, column)), html("th")];
  const lines = rows.map((row) => rowOf(model, row, columns, folded, ask));
  const { scrollLeft, scrollTop } = box;
  box.replaceChildren(tableOf(heads, lines, { class: folded.length && box.clientWidth < ROOMY ? "narrow" : "" }));
  Object.assign(box, { scrollLeft, scrollTop });
  if (focused) [...box.querySelectorAll("[data-key]")].find((part) => part.dataset.key === focused)?.focus();
}

/** Draw what differs; `words` stand there when there is nothing to compare. */
export function drawDifferences(box, { columns, rows, words }) {
  const heads = ["run", ...columns].map((name) => html("th", { scope: "col" }, name));
  const lines = rows.map(([name, ...cells]) =>
    html("tr", {}, html("th", { scope: "row" }, name), ...cells.map((cell) => html("td", {}, cell))));
  const region = { class: "wide", tabindex: 0, role: "region", "aria-label": "what differs" };
  const table = html("div", region, tableOf(heads, lines));
  box.replaceChildren(heading(4, "What differs"), words ? html("p", { class: "soft" }, words) : table);
}
