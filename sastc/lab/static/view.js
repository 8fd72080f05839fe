// The widget `FigureView`.
import { drawCharts } from "./charts.js";
import { keepDrawn, put, toggled } from "./model.js";
import { root } from "./nodes.js";

function render({ model, el }) {
  const box = root(el);
  const toggle = (name) => put(model, { hidden: toggled(model.get("hidden"), name) });
  return keepDrawn(model, box, () => drawCharts(box, {
    figure: model.get("figure"), bytes: model.get("points"), hidden: model.get("hidden"), toggle
  }));
}

export default { render };
