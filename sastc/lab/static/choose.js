// Which columns the table has, and in which order; and what makes a curve.
import { put } from "./model.js";
import { button, html } from "./nodes.js";
import { SETTING, allColumns, columnsOf, rowsOf, shifted } from "./table.js";

/** Keys of the columns after one of them was switched on or off; the name of the run always stays. */
export const switched = (keys, key) => key === "name" ? keys : keys.includes(key) ? keys.filter((other) => other !== key) : [...keys, key];

function columnLine(model, [key, title], keys) {
  const on = keys.includes(key);
  const box = html("input", { type: "checkbox", "data-key": `column ${key}`, disabled: key === "name", onchange: () => put(model, { columns: switched(keys, key) }) });
  const move = (words, by) => button(words, () => put(model, { columns: shifted(keys, key, by) }),
    { "data-key": `${words} ${key}`, "aria-label": `move ${title} to the ${by < 0 ? "left" : "right"}` });
  return html("div", { class: "column" }, html("label", {}, Object.assign(box, { checked: on }), title), ...(on ? [move("←", -1), move("→", 1)] : []));
}

/** Draw the list of columns: those that are shown first, in their order. */
export function drawColumns(list, model) {
  const rows = rowsOf(model);
  const shown = columnsOf(rows, model.get("columns"));
  const keys = shown.map(([key]) => key);
  const others = allColumns(rows).filter(([key]) => !keys.includes(key));
  const focused = list.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  const usual = button("The usual columns", () => put(model, { columns: [] }), { "data-key": "usual" });
  list.replaceChildren(...[...shown, ...others].map((column) => columnLine(model, column, keys)), usual);
  if (focused) [...list.querySelectorAll("[data-key]")].find((part) => part.dataset.key === focused)?.focus();
}

/** Settings that tell runs apart: those in which rows differ. */
export const groupings = (rows) => [...new Set(rows.flatMap((row) => Object.keys(row)))].filter((key) => key.startsWith(SETTING)).map((key) => key.slice(SETTING.length)).sort();

/** Set the choice of what makes a curve. */
export function setGrouping(select, model) {
  const names = groupings(model.get("rows"));
  const told = names.join();
  if (select.told !== told) {
    const options = [["", "the same settings, over seeds"], ...names.map((name) => [name, name])];
    select.replaceChildren(...options.map(([value, words]) => html("option", { value }, words)));
  }
  select.told = told;
  select.value = model.get("group");
}
