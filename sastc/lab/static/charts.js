// Charts side by side, one for each quantity, under one legend.
import { unpackLines } from "./lines.js";
import { button, html, sample } from "./nodes.js";
import { drawPanel } from "./panel.js";
import { readOut } from "./readout.js";

function legendButton(name, lines, hidden, toggle) {
  const own = lines.filter((line) => line.name === name);
  const line = own.find((other) => !other.dashed) ?? own[0];
  const attributes = { "aria-pressed": String(!hidden.includes(name)), "data-name": name, title: "hide or show" };
  const made = button("", () => toggle(name), attributes);
  made.append(sample(line), name);
  return made;
}

/** A button for each name, which hides and shows its lines; the focus stays where it was. */
export function drawLegend(legend, lines, hidden, toggle) {
  const focused = legend.contains(document.activeElement) ? document.activeElement.dataset.name : undefined;
  const names = [...new Set(lines.map((line) => line.name))];
  legend.replaceChildren(...names.map((name) => legendButton(name, lines, hidden, toggle)));
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

/**
 * Fill a box with legend and charts; called again, it changes only what differs.
 * @param {Element} box
 * @param {object} what `about` and `bytes` as Python packs lines, `hidden` names, `toggle(name)`, `xTitle`, `percents` (charts of shares),
 *   `message` for when there is no line, `note` for when there is
 */
export function drawCharts(box, { about, bytes, hidden, toggle, xTitle, percents, message, note }) {
  const lines = unpackLines(about, bytes);
  const shown = lines.filter((line) => !hidden.includes(line.name));
  const titles = [...new Set(lines.map((line) => line.panel))];
  const div = (name) => html("div", { class: name });
  box.parts ??= { legend: div("legend bar"), words: html("p", { class: "soft" }), panels: div("panels"), holders: new Map() };
  const { legend, words, panels, holders } = box.parts;
  if (!legend.isConnected) box.replaceChildren(legend, words, panels);
  drawLegend(legend, lines, hidden, toggle);
  words.textContent = lines.length ? note : message;
  holdersOf(panels, holders, titles).forEach((holder, i) => {
    const own = shown.filter((line) => line.panel === titles[i]);
    const focus = holder.contains(document.activeElement);
    readOut(holder, own, drawPanel(holder, titles[i], own, { xTitle, percents }));
    if (focus) holder.querySelector("svg").focus();
  });
}
