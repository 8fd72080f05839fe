// A strip of images, each with a small map of its own.
import { extent } from "./axes.js";
import { WEIGHTS, colourAt } from "./colours.js";
import { put } from "./model.js";
import { button, html } from "./nodes.js";
import { floats } from "./numbers.js";

/** Where weight i of [T, S, N] lies in a small map: time steps side by side, a column apart. */
export const pixelOf = (i, [, S, N]) => [Math.floor(i / (S * N)) * (N + 1) + i % N, Math.floor(i / N) % S];

function miniature(weights, shape, low, high) {
  const [T, S, N] = shape;
  const canvas = html("canvas", { width: T * (N + 1) - 1, height: S, "aria-hidden": "true" });
  const context = canvas.getContext("2d");
  weights.forEach((weight, i) => {
    context.fillStyle = `rgb(${colourAt(WEIGHTS, (weight - low) / (high - low))})`;
    context.fillRect(...pixelOf(i, shape), 1, 1);
  });
  Object.assign(canvas.style, { width: `${Math.max(48, canvas.width * 5)}px`, height: `${S * 6}px`, imageRendering: "pixelated" });
  return canvas;
}

function imageButton(model, image, i, weights, span) {
  const choose = () => put(model, { image: model.get("image") === i ? -1 : i });
  const made = button("", choose, { "aria-label": `image ${i + 1} ${image.label}` });
  const picture = html("img", { src: image.source, alt: "", width: 48, height: 48 });
  made.append(picture, miniature(weights, model.get("shape"), ...span), html("span", {}, image.label));
  return made;
}

/** Buttons are made once for a set of images; drawing again only marks the chosen one. */
export function drawStrip(strip, model) {
  const images = model.get("images");
  if (strip.drawn !== images) {
    const size = model.get("shape").reduce((a, b) => a * b);
    const weights = floats(model.get("image_attention"));
    const span = extent([weights]); // one for all, or they could not be compared
    strip.drawn = images;
    strip.replaceChildren(...images.map((image, i) => imageButton(model, image, i, weights.subarray(i * size, (i + 1) * size), span)));
  }
  [...strip.children].forEach((made, i) => made.setAttribute("aria-pressed", String(i === model.get("image"))));
}
