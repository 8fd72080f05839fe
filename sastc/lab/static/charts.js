// A figure: its title, a legend, and a chart for each of its panels.
import { axisBar, setAxisBar, smoothLines } from "./chartbar.js";
import { legendOf, panelsOf } from "./figure.js";
import { sample } from "./marks.js";
import { put, toggled } from "./model.js";
import { button, heading, html } from "./nodes.js";
import { drawPanel } from "./panel.js";
import { readOut } from "./readout.js";

function legendButton({ name, line }, hidden, toggle) {
  const attributes = { "aria-pressed": String(!hidden.includes(name)), "data-name": name, title: "hide or show" };
  const made = button("", () => toggle(name), attributes);
  made.append(sample(line), name);
  return made;
}

/** A button for each name, which hides and shows its lines; the focus stays where it was. */
function drawLegend(legend, entries, hidden, toggle) {
  const focused = legend.contains(document.activeElement) ? document.activeElement.dataset.name : undefined;
  legend.replaceChildren(...entries.map((entry) => legendButton(entry, hidden, toggle)));
  if (focused !== undefined) [...legend.children].find((part) => part.dataset.name === focused)?.focus();
}

/** The holders of these charts, in this order; those that are there stay, with what is pointed at and what has the focus. */
function holdersOf(panels, holders, titles) {
  for (const [title, holder] of holders) {
    if (titles.includes(title)) continue;
    holder.remove();
    holders.delete(title);
  }
  for (const title of titles) if (!holders.has(title)) holders.set(title, html("div", { class: "panel" }));
  const wanted = titles.map((title) => holders.get(title));
  if (wanted.some((holder, i) => panels.children[i] !== holder)) panels.replaceChildren(...wanted);
  return wanted;
}

/** Names of panels, those with the same heading told apart. */
const keysOf = (panels) => panels.map(({ title }, i) => panels.findIndex((other) => other.title === title) === i ? title : `${title} ${i}`);

/** What stands below the legend: how to read the figure, or why it is empty. */
const wordsOfFigure = ({ data, layout }) =>
  data.length ? layout.title?.subtitle?.text ?? "" : (layout.annotations ?? []).map((note) => note.text).join(" ");

function partsOfCharts() {
  const div = (name) => html("div", { class: name });
  return { title: heading(4), legend: div("legend bar"), words: html("p", { class: "soft" }), panels: div("panels"), holders: new Map(), bar: axisBar() };
}

/** A button that makes a chart large, and small again. */
const sizeButton = (title, axes, change) => button(axes.large === title ? "Reduce" : "Enlarge", () => change({ large: axes.large === title ? "" : title }),
  { class: "size", "aria-label": `${axes.large === title ? "reduce" : "enlarge"} ${title}` });

/** Draw a chart; what had the focus, the picture or its button, has it again. */
function drawHolder(holder, panel, seen, axes, change) {
  const { activeElement: focused } = document;
  const had = holder.contains(focused) ? focused.matches("button") ? "button" : "svg" : "";
  const lines = smoothLines(panel.lines.filter(seen), axes.smooth);
  const large = axes.large === panel.title;
  holder.setAttribute("class", large ? "panel large" : "panel");
  const shown = { ...panel, lines, bands: panel.bands.filter(seen), log: axes.log, outliers: axes.outliers, large, tools: [sizeButton(panel.title, axes, change)] };
  readOut(holder, lines, drawPanel(holder, shown));
  if (had) holder.querySelector(had).focus();
}

/**
 * Fill a box with a figure; called again, it changes only what differs.
 * @param {Element} box
 * @param {object} what `figure` and `bytes` as `packed_figure` makes them, `hidden` names, `toggle(name)`; how the `axes` are drawn, what is along
 *   them (`x`, one of `xs`), and `change({log, smooth, outliers, large, x})`
 */
export function drawCharts(box, { figure, bytes, hidden, toggle, axes, x, xs, change }) {
  const panels = panelsOf(figure, bytes);
  box.parts ??= partsOfCharts();
  const { title, legend, words, panels: place, holders, bar } = box.parts;
  if (!legend.isConnected) box.replaceChildren(title, legend, words, bar.box, place);
  title.textContent = figure.data.length ? figure.layout.title?.text ?? "" : "";
  drawLegend(legend, legendOf(figure, panels), hidden, toggle);
  words.textContent = wordsOfFigure(figure);
  setAxisBar(bar, axes, x, xs, change);
  bar.box.hidden = !panels.length;
  const seen = ({ name }) => !hidden.includes(name);
  holdersOf(place, holders, keysOf(panels)).forEach((holder, i) => drawHolder(holder, panels[i], seen, axes, change));
}

/** What `drawCharts` takes, from the traits of a view. */
export const chartsOf = (model) => ({
  figure: model.get("figure"), bytes: model.get("points"), hidden: model.get("hidden"),
  toggle: (name) => put(model, { hidden: toggled(model.get("hidden"), name) }),
  axes: model.get("axes"), x: model.get("x"), xs: model.still ? [] : model.get("xs"),
  change: ({ x = model.get("x"), ...axes }) => put(model, { x, axes: { ...model.get("axes"), ...axes } })
});
