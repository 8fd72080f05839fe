// The widget `RunBoard`.
import { drawCharts } from "./charts.js";
import { keepDrawn, put, toggled } from "./model.js";
import { button, heading, html, root } from "./nodes.js";
import { drawDifferences, drawTable } from "./rows.js";

/** The parts of the view in their order. */
function partsOf(model, ask) {
  const status = (attributes) => html("p", { role: "status", ...attributes });
  const typed = () => put(model, { filter: filter.value });
  const filter = html("input", { type: "search", placeholder: "filter", "aria-label": "filter runs", oninput: typed });
  const kernel = [button("Choose none", () => put(model, { chosen: [] })), button("Report of all", () => ask(""))];
  return {
    filter,
    title: heading(3),
    words: status({ class: "soft" }),
    bar: html("div", { class: "bar" }, filter, ...(model.still ? [] : kernel)),
    table: html("div", { class: "wide tall", tabindex: 0, role: "region", "aria-label": "runs" }),
    notice: status(),
    link: html("p", { hidden: true }),
    curves: html("div", { class: "curves" }),
    differences: html("div", { class: "differences" })
  };
}

function drawBoard(p, model, ask) {
  const none = !model.get("rows").length;
  for (const name of ["title", "words", "notice"]) p[name].textContent = model.get(name);
  if (p.filter.value !== model.get("filter")) p.filter.value = model.get("filter"); // setting it would move the cursor to its end
  p.bar.hidden = p.table.hidden = none;
  drawTable(p.table, model, ask);
  p.curves.hidden = none;
  drawCharts(p.curves, {
    figure: model.get("figure"),
    bytes: model.get("points"),
    hidden: model.get("hidden"),
    toggle: (name) => put(model, { hidden: toggled(model.get("hidden"), name) })
  });
  drawDifferences(p.differences, model.get("differences"));
  p.differences.hidden = model.get("chosen").length < 2;
}

/** A report as a link that opens the page from memory: the browser may be on another machine than the file. */
function showReport(link, content, buffers) {
  const page = new Blob([buffers[0]], { type: "text/html" });
  link.replaceChildren(html("a", { href: URL.createObjectURL(page), target: "_blank", rel: "noopener" }, `Open ${content.report}`));
  link.hidden = false;
}

function render({ model, el }) {
  const box = root(el);
  const ask = (name) => model.send({ report: name });
  const p = partsOf(model, ask);
  box.append(p.title, p.words, p.bar, p.table, p.notice, p.link, p.curves, p.differences);
  const arrived = (content, buffers) => showReport(p.link, content, buffers);
  model.on("msg:custom", arrived);
  const end = keepDrawn(model, box, () => drawBoard(p, model, ask));
  return () => {
    end();
    model.off("msg:custom", arrived);
  };
}

export default { render };
