// Controls of all charts of a figure: what is along the axis, its kind, smoothing, outliers. They are made once, so that the focus stays.
import { smoothed } from "./axes.js";
import { html } from "./nodes.js";

const ALONG = { step: "training steps", epoch: "epochs", minutes: "time" };

/** The controls, without values. */
export function axisBar() {
  const bar = { told: "" };
  const change = (values) => bar.change(values);
  bar.x = html("select", { "aria-label": "along the axis", onchange: () => change({ x: bar.x.value }) });
  bar.along = html("label", {}, "over", bar.x);
  bar.log = html("input", { type: "checkbox", onchange: () => change({ log: bar.log.checked }) });
  bar.outliers = html("input", { type: "checkbox", onchange: () => change({ outliers: bar.outliers.checked }) });
  bar.smooth = html("input", { type: "range", min: 0, max: 0.99, step: 0.01, "aria-label": "smoothing", oninput: () => change({ smooth: Number(bar.smooth.value) }) });
  const [log, smooth, outliers] = [html("label", {}, bar.log, "logarithmic"), html("label", {}, "smoothing", bar.smooth), html("label", {}, bar.outliers, "outliers")];
  bar.box = html("div", { class: "bar axes" }, bar.along, log, smooth, outliers);
  return bar;
}

/** Set the controls to the state of the view. */
export function setAxisBar(bar, axes, x, xs, change) {
  bar.change = change;
  const told = xs.join();
  if (told !== bar.told) bar.x.replaceChildren(...xs.map((value) => html("option", { value }, ALONG[value] ?? value)));
  bar.told = told;
  bar.along.hidden = xs.length < 2;
  bar.x.value = x;
  bar.log.checked = axes.log;
  bar.outliers.checked = axes.outliers;
  bar.smooth.value = axes.smooth;
}

/** Lines with their running mean in place of their values, which stay behind it, faint. */
export const smoothLines = (lines, weight) =>
  weight > 0 ? lines.map((line) => ({ ...line, y: smoothed(line.y, weight), faint: line.y, size: 0 })) : lines;
