// A figure: its title, a legend, and a chart for each of its panels.
import { legendOf, panelsOf } from "./figure.js";
import { sample } from "./marks.js";
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
  return { title: heading(4), legend: div("legend bar"), words: html("p", { class: "soft" }), panels: div("panels"), holders: new Map() };
}

/**
 * Fill a box with a figure; called again, it changes only what differs.
 * @param {Element} box
 * @param {object} what `figure` and `bytes` as `packed_figure` makes them, `hidden` names, `toggle(name)`
 */
export function drawCharts(box, { figure, bytes, hidden, toggle }) {
  const panels = panelsOf(figure, bytes);
  box.parts ??= partsOfCharts();
  const { title, legend, words, panels: place, holders } = box.parts;
  if (!legend.isConnected) box.replaceChildren(title, legend, words, place);
  title.textContent = figure.data.length ? figure.layout.title?.text ?? "" : "";
  drawLegend(legend, legendOf(figure, panels), hidden, toggle);
  words.textContent = wordsOfFigure(figure);
  const seen = ({ name }) => !hidden.includes(name);
  holdersOf(place, holders, keysOf(panels)).forEach((holder, i) => {
    const shown = { ...panels[i], lines: panels[i].lines.filter(seen), bands: panels[i].bands.filter(seen) };
    const focus = holder.contains(document.activeElement);
    readOut(holder, shown.lines, drawPanel(holder, shown));
    if (focus) holder.querySelector("svg").focus();
  });
}
