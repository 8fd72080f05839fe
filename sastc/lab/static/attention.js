// The widget `AttentionView`.
import { makeControls, setControls } from "./controls.js";
import { mapsOf, wordsOf } from "./drawing.js";
import { drawHistory } from "./history.js";
import { drawMaps } from "./maps.js";
import { keepDrawn } from "./model.js";
import { button, heading, html, root } from "./nodes.js";
import { savePicture } from "./picture.js";
import { shownNow } from "./shown.js";
import { drawStrip } from "./strip.js";

const WISHES = { "Save HTML": { save: "html" }, "Save array": { save: "npz" }, "Single images": { images: true } }; // what the kernel does

/** Sentences about a record that says nothing; renewed only when they change, or they would be read aloud again. */
function drawWarnings(warnings, sentences) {
  if (warnings.textContent === sentences.join("")) return;
  warnings.replaceChildren(...sentences.map((sentence) => html("p", { class: "warning" }, sentence)));
}

/** The parts of the view, and the box with those that need a record. */
function partsOf(model, c) {
  const div = (name) => html("div", { class: name });
  const status = (tag) => html(tag, { class: "soft", role: "status" });
  const p = {
    title: heading(3), words: status("p"), message: html("p"), said: html("p"), saved: status("span"),
    warnings: html("div", { role: "note", "aria-live": "polite" }), maps: div("maps"), history: div("panel history"), strip: div("strip")
  };
  const picture = () => savePicture(model, p.maps.firstChild, model.get("title"), [...p.warnings.children, p.said].map((part) => part.textContent));
  const kernel = Object.entries(WISHES).map(([name, wish]) => button(name, () => model.send(wish)));
  const save = html("div", { class: "bar" }, button("Save PNG", picture), ...(model.still ? [] : kernel), p.saved);
  const left = html("div", { class: "left" }, p.maps, p.said);
  p.body = html("div", {}, p.warnings, ...c.rows, html("div", { class: "pair" }, left, p.history), p.strip, save);
  return p;
}

function drawRecord(p, c, model, width) {
  const now = shownNow(model);
  setControls(c, model, now);
  const ofRecord = model.get("image") < 0 && !now.base;
  drawWarnings(p.warnings, ofRecord ? now.record.warnings.map((number) => model.get("sentences")[number]) : []);
  p.maps.replaceChildren(drawMaps(width, mapsOf(model, now)));
  p.said.textContent = wordsOf(model, now);
  drawHistory(p.history, model.get("records"), now.place, c.go);
  p.strip.hidden = !model.get("images").length;
  if (!p.strip.hidden) drawStrip(p.strip, model);
}

function render({ model, el }) {
  const box = root(el);
  const c = makeControls(model);
  const p = partsOf(model, c);
  box.append(p.title, p.words, p.message, p.body);
  const end = keepDrawn(model, box, () => {
    const empty = !model.get("records").length;
    for (const name of ["title", "words", "message", "saved"]) p[name].textContent = model.get(name);
    p.message.className = model.get("message") && !empty ? "warning" : "";
    p.body.hidden = empty;
    if (!empty) drawRecord(p, c, model, box.clientWidth - 12);
  });
  return () => {
    c.stop();
    end();
  };
}

export default { render };
