// From the state of the view to the arrays to draw: weights at a training step or of one image, or a difference of two.
import { floats, grouped } from "./numbers.js";

/** Position of the last record that is not after a training step. */
export function nearestRecord(records, step) {
  return Math.max(0, records.findLastIndex((record) => record.step <= step));
}

/** Mean over images of weights [B * size]. */
export function meanOf(images, size) {
  const count = images.length / size;
  return Float32Array.from({ length: size }, (_, i) => {
    let sum = 0;
    for (let b = 0; b < count; b++) sum += images[b * size + i];
    return sum / count;
  });
}

function imageShown(model, size) {
  const place = model.get("image");
  const images = floats(model.get("image_attention"));
  const { label } = model.get("images")[place];
  const name = `image ${place + 1}${label && ` (${label})`}`;
  const now = { weights: images.subarray(place * size, (place + 1) * size), heading: `${name}, checkpoint of ${model.get("image_step")}` };
  if (model.get("compare") !== "images") return now;
  return { ...now, base: meanOf(images, size), than: "difference from the mean of these images" };
}

function recordShown(model, record, size) {
  const records = model.get("records");
  const part = (name, i) => floats(model.get(name)).subarray(i * size, (i + 1) * size);
  const weights = part("attention", records.indexOf(record));
  const now = { weights, heading: `training step ${grouped(record.step)}, epoch ${record.epoch + 1}` };
  return { ...now, ...baseOf(model, record, weights, part) };
}

/** What is subtracted, and words for it; nothing where the weights themselves are shown. */
function baseOf(model, record, weights, part) {
  const [kind, number] = model.get("compare").split(":");
  const [T, S, N] = model.get("shape");
  if (kind === "training") {
    const records = model.get("records");
    const other = nearestRecord(records, model.get("base_step"));
    return { base: part("attention", other), than: `difference from step ${grouped(records[other].step)}` };
  }
  if (kind === "time" && number < T) {
    const one = weights.subarray(number * S * N, (Number(number) + 1) * S * N);
    return { base: weights.map((_, i) => one[i % (S * N)]), than: `difference from time step ${Number(number) + 1}` };
  }
  const steps = model.get("other_steps");
  if (kind === "run" && steps.length) {
    const other = nearestRecord(steps.map((step) => ({ step })), record.step);
    const than = `difference from ${model.get("other_title")} at step ${grouped(steps[other])}`;
    return { base: part("other_attention", other), than };
  }
  return {};
}

/**
 * @param {object} model of a view that has records
 * @returns `place` and `record` under the slider, `heading`, `weights` [T * S * N], and of a difference `base` (subtracted) and `than` (words)
 */
export function shownNow(model) {
  const records = model.get("records");
  const size = model.get("shape").reduce((a, b) => a * b);
  const place = model.get("follow") ? records.length - 1 : nearestRecord(records, model.get("step"));
  const record = records[place];
  return { place, record, ...(model.get("image") >= 0 ? imageShown(model, size) : recordShown(model, record, size)) };
}
