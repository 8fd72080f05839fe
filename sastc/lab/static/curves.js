// The widget `Curves`.
import { drawCharts } from "./charts.js";
import { keepDrawn, put, toggled } from "./model.js";
import { root } from "./nodes.js";

function render({ model, el }) {
  const box = root(el);
  const toggle = (name) => put(model, { hidden: toggled(model.get("hidden"), name) });
  return keepDrawn(model, box, () => drawCharts(box, {
    about: model.get("lines"),
    bytes: model.get("points"),
    hidden: model.get("hidden"),
    toggle,
    xTitle: model.get("x_title"),
    percents: model.get("percents"),
    message: model.get("message"),
    note: model.get("note")
  }));
}

export default { render };
