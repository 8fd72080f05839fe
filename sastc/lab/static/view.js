// The widget `FigureView`.
import { chartsOf, drawCharts } from "./charts.js";
import { keepDrawn } from "./model.js";
import { root } from "./nodes.js";

function render({ model, el }) {
  const box = root(el);
  return keepDrawn(model, box, () => drawCharts(box, chartsOf(model)));
}

export default { render };
