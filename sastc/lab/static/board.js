// The widget `RunBoard`.
import { addressOf, takeUp } from "./address.js";
import { chartsOf, drawCharts } from "./charts.js";
import { drawColumns, setGrouping } from "./choose.js";
import { downloaded, handOver } from "./download.js";
import { keepDrawn, put } from "./model.js";
import { button, heading, html, root } from "./nodes.js";
import { editNote } from "./notes.js";
import { drawParallel } from "./parallel.js";
import { drawDifferences, drawTable } from "./rows.js";
import { csvOf, filterWords, filtered, ordered, rowsOf, savedColumns } from "./table.js";

/** The rows that are shown, as a file. */
function saveTable(model) {
  const every = rowsOf(model);
  const rows = ordered(filtered(every, model.get("filter")), model.get("sort"), model.get("descending"));
  handOver("runs.csv", csvOf(rows, savedColumns(rows, model.get("columns"))), "text/csv");
}

/** Buttons above the table; those that the kernel answers are left out of a page without one. */
function barOf(model, ask, filter, link) {
  const chosen = () => ask({ report: model.get("chosen") });
  const kernel = [button("Choose none", () => put(model, { chosen: [] })), button("Report of the chosen", chosen), button("Report of all", () => ask({ report: [] }))];
  return html("div", { class: "bar" }, filter, ...(model.still ? [] : kernel), button("Download CSV", () => saveTable(model)), link);
}

/** The parts of the view in their order. */
function partsOf(model, ask) {
  const status = (attributes) => html("p", { role: "status", ...attributes });
  const typed = () => put(model, { filter: filter.value });
  const filter = html("input", { type: "search", placeholder: "filter (regular expressions)", "aria-label": "filter runs", oninput: typed });
  const link = html("a", {}, "Link to this view");
  const columns = html("div", { class: "columns" });
  const group = html("select", { "aria-label": "what makes a curve", onchange: () => put(model, { group: group.value }) });
  return {
    filter, link, columns, group,
    title: heading(3),
    words: status({ class: "soft" }),
    matching: status(),
    bar: barOf(model, ask, filter, link),
    chooser: html("details", {}, html("summary", {}, "Columns"), columns),
    table: html("div", { class: "wide tall", tabindex: 0, role: "region", "aria-label": "runs" }),
    editor: html("div", { class: "editor" }),
    notice: status(),
    report: html("p", { hidden: true }),
    grouping: html("div", { class: "bar" }, html("label", {}, "a curve for", group)),
    curves: html("div", { class: "curves" }),
    parallel: html("div", { class: "parallel" }),
    differences: html("div", { class: "differences" })
  };
}

function drawBoard(p, model, ask) {
  const none = !model.get("rows").length;
  for (const name of ["title", "words", "notice"]) p[name].textContent = model.get(name);
  p.matching.textContent = filterWords(rowsOf(model), model.get("filter"));
  if (p.filter.value !== model.get("filter")) p.filter.value = model.get("filter"); // setting it would move the cursor to its end
  for (const name of ["bar", "table", "chooser", "curves"]) p[name].hidden = none;
  p.grouping.hidden = none || Boolean(model.still);
  p.link.setAttribute("href", addressOf(model, document.location.href));
  p.link.hidden = Boolean(model.still);
  drawTable(p.table, model, ask);
  drawColumns(p.columns, model);
  setGrouping(p.group, model);
  drawCharts(p.curves, chartsOf(model));
  drawParallel(p.parallel, rowsOf(model).filter((row) => row.method && model.get("chosen").includes(row.name)));
  drawDifferences(p.differences, model.get("differences"));
  p.differences.hidden = model.get("chosen").length < 2;
}

/** A report as a link that opens the page from memory: the browser may be on another machine than the runs. */
function showReport(place, content, buffers) {
  const page = new Blob([buffers[0]], { type: "text/html" });
  const link = html("a", { href: URL.createObjectURL(page), target: "_blank", rel: "noopener" }, `Open the ${content.report}`);
  const save = button("Download it", () => handOver("report.html", buffers[0], "text/html"));
  place.replaceChildren(link, " ", save);
  place.hidden = false;
}

function render({ model, el }) {
  const box = root(el);
  const ask = (wish) => {
    const row = model.get("rows").find(({ name }) => name === wish.edit);
    if (row) editNote(p.editor, row, ask);
    else model.send(wish);
  };
  const p = partsOf(model, ask);
  box.append(p.title, p.words, p.bar, p.matching, p.chooser, p.table, p.editor, p.notice, p.report, p.grouping, p.curves, p.parallel, p.differences);
  const arrived = (content, buffers) => {
    if (!downloaded(content, buffers)) showReport(p.report, content, buffers);
  };
  model.on("msg:custom", arrived);
  if (!model.still) takeUp(model, document.location.href);
  const end = keepDrawn(model, box, () => drawBoard(p, model, ask));
  return () => {
    end();
    model.off("msg:custom", arrived);
  };
}

export default { render };
