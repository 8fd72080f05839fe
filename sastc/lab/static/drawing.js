// From the arrays to draw to a drawing: maps with their colours, and the sentence below them.
import { extent } from "./axes.js";
import { DIFFERENCES, WEIGHTS } from "./colours.js";
import { percent, signed } from "./numbers.js";

/** Entropy of a row of weights as a share of the greatest possible, as `relative_entropy` in Python. */
export function entropyOf(row) {
  if (row.length === 1) return 1;
  let sum = 0;
  for (const weight of row) sum -= weight > 0 ? weight * Math.log(weight) : 0;
  return Math.min(1, sum / Math.log(row.length));
}

const two = (value) => value.toFixed(2);

const LEAST_SPAN = 0.01; // weights that are alike would make a scale out of nothing

/** Colours span the weights that are shown, or all that a weight can be, which is the same for every run. */
export function weightColours(values, teachers, span) {
  const [least, most] = span === "all" ? [0, 1] : extent([values]);
  const room = Math.max(0, LEAST_SPAN - (most - least)) / 2;
  const [low, high] = [least - room, most + room];
  const even = 1 / teachers;
  const marks = [[low, two(low)], ...(low < even && even < high ? [[even, `${two(even)} uniform`]] : []), [high, two(high)]];
  return { scale: WEIGHTS, low, high, write: two, marks };
}

/** Colours span the differences that are shown, from the largest down to as much up. */
export function differenceColours(values, span) {
  const most = span === "all" ? 1 : Math.max(LEAST_SPAN, ...extent([values.map(Math.abs)]));
  const marks = [[-most, `−${two(most)}`], [0, "no difference"], [most, `+${two(most)}`]];
  return { scale: DIFFERENCES, low: -most, high: most, write: signed, marks };
}

/** What the colours mean, in words. */
export const spanWords = ({ low, high }, span) => span === "all"
  ? `Colours span ${two(low)} to ${two(high)}, the same for every run.`
  : `Colours span what is shown here, ${two(low)} to ${two(high)}; to compare two views, let both span all that is possible.`;

/** What `drawMaps` draws of what `shownNow` found. */
export function mapsOf(model, { heading, than, weights, base }) {
  const [T, S, N] = model.get("shape");
  const span = model.get("span");
  const students = model.get("student_layers");
  const teachers = model.get("teacher_layers");
  const values = base ? weights.map((weight, i) => weight - base[i]) : weights;
  const maps = Array.from({ length: T }, (_, t) => {
    const step = values.subarray(t * S * N, (t + 1) * S * N);
    const entropy = base ? null : students.map((student, s) => entropyOf(step.subarray(s * N, (s + 1) * N)));
    return { title: `time step ${t + 1}`, weights: step, entropy };
  });
  return { heading, than, maps, students, teachers, ...(base ? differenceColours(values, span) : weightColours(values, N, span)) };
}

/** How much differs, and where most: half the absolute difference is the weight that would have to move. */
export function differenceWords(difference, [T, S, N], students, teachers) {
  const largest = difference.reduce((best, value, i) => Math.abs(value) > Math.abs(difference[best]) ? i : best, 0);
  const moved = difference.reduce((sum, value) => sum + Math.abs(value), 0) / 2 / (T * S);
  const pair = `${students[Math.floor(largest / N) % S]} to ${teachers[largest % N]}`;
  const where = `time step ${Math.floor(largest / (S * N)) + 1}, ${pair}`;
  return `${percent(moved)} of the weight differs; the largest difference is ${signed(difference[largest])} (${where}).`;
}

/** The sentence below the maps. */
export function wordsOf(model, { record, weights, base }) {
  if (base) {
    const difference = weights.map((weight, i) => weight - base[i]);
    return differenceWords(difference, model.get("shape"), model.get("student_layers"), model.get("teacher_layers"));
  }
  if (model.get("image") < 0) return model.get("sentences")[record.said];
  return "Weights of one image, the networks in evaluation mode. The records of training are means over images.";
}
