// Controls of the attention view. They are made once, so that what has the keyboard's focus keeps it; drawing only sets their values.
import { put } from "./model.js";
import { button, html } from "./nodes.js";
import { grouped } from "./numbers.js";
import { nearestRecord } from "./shown.js";

const range = (label, oninput) => html("input", { type: "range", min: 0, step: 1, "aria-label": label, oninput });

/** Go to records: at once, or one after the other until the last. */
function player(model, c) {
  const go = (place) => put(model, { step: c.records[place].step, follow: place === c.records.length - 1, image: -1 });
  const stop = () => {
    clearInterval(c.timer);
    c.timer = null;
    c.play.textContent = "Play";
  };
  const advance = () => {
    const next = Number(c.slider.value) + 1;
    if (next < c.records.length) go(next);
    else stop();
  };
  const play = () => {
    if (c.timer) {
      stop();
      return;
    }
    if (Number(c.slider.value) === c.records.length - 1) go(0);
    c.timer = setInterval(advance, Math.max(60, Math.min(400, 12000 / c.records.length)));
    c.play.textContent = "Pause";
  };
  return { go, stop, play };
}

/**
 * @param {object} model
 * @returns controls by name, their `rows`, and the functions `go(place)` and `stop()`
 */
export function makeControls(model) {
  const c = { records: [], timer: null };
  const { go, stop, play } = player(model, c);
  const slide = () => {
    stop();
    go(Number(c.slider.value));
  };
  const follow = () => put(model, { follow: c.follow.checked, step: c.records[c.slider.value].step, image: -1 });
  Object.assign(c, { go, stop });
  c.play = button("Play", play, { class: "play" });
  c.slider = range("training history", slide);
  c.where = html("span", { class: "where" });
  c.follow = html("input", { type: "checkbox", onchange: follow });
  c.compare = html("select", { "aria-label": "what is shown", onchange: () => put(model, { compare: c.compare.value }) });
  c.base = range("training step to compare with", () => put(model, { base_step: c.records[c.base.value].step }));
  c.baseWords = html("span", { class: "soft" });
  c.baseLabel = html("label", {}, "from", c.base, c.baseWords);
  c.span = html("input", { type: "checkbox", onchange: () => put(model, { span: c.span.checked ? "all" : "shown" }) });
  c.rows = [
    html("div", { class: "bar" }, c.play, c.slider, c.where, html("label", {}, c.follow, "follow the latest")),
    html("div", { class: "bar" }, html("label", {}, "show", c.compare), c.baseLabel, html("label", {}, c.span, "colours span all that is possible"))
  ];
  return c;
}

/** What can be shown now: values of `compare` and their words. */
export function choicesOf(model) {
  if (model.get("image") >= 0) return { "": "weights of this image", images: "difference from the mean of these images" };
  const choices = { "": "weights", training: "difference from another training step" };
  const [T] = model.get("shape");
  if (T > 1) for (let t = 0; t < T; t++) choices[`time:${t}`] = `difference from time step ${t + 1}`;
  if (model.get("other_steps").length) choices.run = `difference from ${model.get("other_title")}`;
  return choices;
}

/** Set the controls to the state of the view. */
export function setControls(c, model, { place, record }) {
  const records = model.get("records");
  const options = choicesOf(model);
  const told = JSON.stringify(options);
  c.records = records;
  // new options would close a list that is open
  if (told !== c.told) c.compare.replaceChildren(...Object.entries(options).map(([value, text]) => html("option", { value }, text)));
  c.told = told;
  c.compare.value = model.get("compare") in options ? model.get("compare") : "";
  for (const slider of [c.slider, c.base]) slider.max = records.length - 1;
  c.slider.value = place;
  c.base.value = nearestRecord(records, model.get("base_step"));
  c.baseWords.textContent = `step ${grouped(records[c.base.value].step)}`;
  c.baseLabel.hidden = c.compare.value !== "training";
  c.follow.checked = model.get("follow");
  c.span.checked = model.get("span") === "all";
  c.where.textContent = `step ${grouped(record.step)}, epoch ${record.epoch + 1}`;
  c.slider.setAttribute("aria-valuetext", c.where.textContent);
}
