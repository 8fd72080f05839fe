// Cells of the table of runs.
import { put } from "./model.js";
import { button, html } from "./nodes.js";
import { percent } from "./numbers.js";
import { textOf, underName } from "./table.js";

function nameCell(row, folded) {
  const part = (name, text) => text && html("div", { class: name }, text);
  const tags = (row.tags ?? []).map((tag) => html("span", { class: "tag" }, tag));
  const noted = (row.note || tags.length > 0) && html("div", { class: "soft under note" }, ...tags, row.note);
  return html("th", { scope: "row" }, row.name, part("soft under", underName(row, folded)), noted, part("problem", row.problem));
}

function stateCell(row, text) {
  if (text !== "running") return html("td", { class: `state ${text}` }, text);
  return html("td", { class: "state running" }, html("progress", { value: row.share, max: 1, "aria-label": "progress" }), percent(row.share, 0));
}

/** A cell of a row; `folded` columns stand under the name of the run. */
export function cellOf(row, column, folded) {
  const [key, , write] = column;
  const text = textOf(row, column);
  if (key === "name") return nameCell(row, folded);
  if (key === "state") return stateCell(row, text);
  return html("td", { class: write ? "number" : "" }, text);
}

/** The heading of a column; a click sorts by it, and a second one the other way round. */
export function headOf(model, [key, title, write]) {
  const sorted = key === model.get("sort");
  const descending = model.get("descending");
  const arrow = sorted ? (descending ? " ▼" : " ▲") : "";
  const sort = () => put(model, { sort: key, descending: sorted && !descending });
  const direction = sorted && (descending ? "descending" : "ascending");
  const attributes = { scope: "col", class: write ? "number" : "", "aria-sort": direction };
  return html("th", attributes, button(title + arrow, sort, { "data-key": `sort ${key}` }));
}

/**
 * A box that chooses runs. Runs that cannot be read, and pages without a kernel, have nothing to choose.
 * @param {object} model
 * @param {string[]} names of the runs
 * @param {string} label
 * @param {string} key by which the focus finds the box again
 */
export function tickOf(model, names, label, key) {
  const chosen = model.get("chosen");
  const on = names.filter((name) => chosen.includes(name)).length;
  const choose = () => put(model, {
    chosen: box.checked ? [...new Set([...chosen, ...names])] : chosen.filter((name) => !names.includes(name))
  });
  const disabled = model.still || !names.length;
  const box = html("input", { type: "checkbox", "data-key": key, "aria-label": label, disabled, onchange: choose });
  return Object.assign(box, { checked: on > 0 && on === names.length, indeterminate: on > 0 && on < names.length });
}
