// The widget `AttentionView`.
import { makeControls, setControls } from "./controls.js";
import { downloaded } from "./download.js";
import { mapsOf, spanWords, wordsOf } from "./drawing.js";
import { drawHistory } from "./history.js";
import { drawMaps } from "./maps.js";
import { keepDrawn, put } from "./model.js";
import { drawNetworks, meanOverTime, pairWords } from "./networks.js";
import { button, heading, html, root } from "./nodes.js";
import { floats } from "./numbers.js";
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
    warnings: html("div", { role: "note", "aria-live": "polite" }), maps: div("maps"), history: div("panel history"), strip: div("strip"),
    span: html("p", { class: "soft" }), networks: div("both"), pair: html("p", { class: "soft", role: "status" })
  };
  const told = () => [...p.warnings.children, p.said, p.span].map((part) => part.textContent);
  const picture = () => savePicture(p.maps.firstChild, model.get("title"), p.heading, told());
  const kernel = Object.entries(WISHES).map(([name, wish]) => button(name, () => model.send(wish)));
  const save = html("div", { class: "bar" }, button("Save PNG", picture), ...(model.still ? [] : kernel), p.saved);
  const left = html("div", { class: "left" }, p.maps, p.said, p.span);
  const both = html("div", { class: "left" }, p.networks, p.pair);
  p.body = html("div", {}, p.warnings, ...c.rows, html("div", { class: "pair" }, left, both, p.history), p.strip, save);
  return p;
}

/** The pair that is lit, if there still is one. */
function litOf(model) {
  const [, S, N] = model.get("shape");
  const [s, n] = model.get("lit");
  return s < S && n < N ? [s, n] : null;
}

/** Both networks with the weights that are shown; what is subtracted has no place there. */
function drawBoth(p, model, now, choose) {
  const [students, teachers] = [model.get("student_layers"), model.get("teacher_layers")];
  const size = students.length * teachers.length;
  const routes = model.get("image") < 0 && floats(model.get("routes"));
  const weights = meanOverTime(now.weights, model.get("shape"));
  const own = routes && routes.length ? routes.subarray(now.place * size, (now.place + 1) * size) : null;
  const drawing = { students, teachers, weights, routes: own, lit: litOf(model) };
  const focus = p.networks.contains(document.activeElement);
  p.networks.replaceChildren(drawNetworks(drawing, choose));
  if (focus) p.networks.firstChild.focus();
  p.pair.textContent = drawing.lit ? `${pairWords(drawing, drawing.lit)}.` : "A click on a cell or a line, or an arrow key here, chooses a pair of layers.";
}

function drawRecord(p, c, model, width) {
  const now = shownNow(model);
  setControls(c, model, now);
  const ofRecord = model.get("image") < 0 && !now.base;
  drawWarnings(p.warnings, ofRecord ? now.record.warnings.map((number) => model.get("sentences")[number]) : []);
  const choose = (pair) => put(model, { lit: pair });
  const maps = mapsOf(model, now);
  p.heading = [now.heading, now.than ?? ""].join(" ").trim();
  p.maps.replaceChildren(drawMaps(width, { ...maps, lit: litOf(model), choose }));
  p.said.textContent = wordsOf(model, now);
  p.span.textContent = spanWords(maps, model.get("span"));
  drawBoth(p, model, now, choose);
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
  model.on("msg:custom", downloaded);
  return () => {
    c.stop();
    end();
    model.off("msg:custom", downloaded);
  };
}

export default { render };
