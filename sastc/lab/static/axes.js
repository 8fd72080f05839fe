// Numbers along an axis.

/**
 * Round values from low to high, about `count` of them.
 * @returns {number[]}
 */
export function ticks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.999);
  const values = [];
  // multiples of the step, not sums, and then rounded: 0.3 and not 0.30000000000000004
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-9; n++) values.push(Number((n * step).toPrecision(12)));
  return values;
}

/** Least and greatest finite value of several arrays; 0 and 1 where there is none. */
export function extent(arrays) {
  let low = Infinity;
  let high = -Infinity;
  for (const array of arrays) {
    for (const value of array) {
      if (!Number.isFinite(value)) continue;
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
  }
  return low > high ? [0, 1] : [low, high];
}

/** Extent with a margin; of values that are never negative it does not go below zero. */
export function roomy([low, high]) {
  const margin = (high - low || Math.abs(high) || 1) * 0.05;
  return [low >= 0 ? Math.max(0, low - margin) : low - margin, high + margin];
}

/** Position of the value nearest to a target; the first of equals. */
export const nearestIndex = (values, target) =>
  values.reduce((best, value, i) => Math.abs(value - target) < Math.abs(values[best] - target) ? i : best, 0);

/** Value at a share of sorted values. */
const quantile = (sorted, share) => sorted[Math.round(share * (sorted.length - 1))];

/**
 * Least and greatest value of several arrays, without those that lie so far out that the rest would be flat beside them.
 * @returns {number[]} low, high, and how many values lie outside
 */
export function inner(arrays) {
  const sorted = arrays.flatMap((array) => [...array]).filter(Number.isFinite).sort((a, b) => a - b);
  if (!sorted.length) return [0, 1, 0];
  const [few, most] = [quantile(sorted, 0.05), quantile(sorted, 0.95)];
  const room = 5 * (most - few) || Infinity;
  const kept = sorted.filter((value) => value >= few - room && value <= most + room);
  return [kept[0], kept.at(-1), sorted.length - kept.length];
}

/** Values for marks on a logarithmic axis: powers of ten, and where there are few of them also 2 and 5 times these. */
export function decades(low, high) {
  const [first, last] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
  const factors = last - first > 3 ? [1] : [1, 2, 5];
  const values = Array.from({ length: last - first + 1 }, (_, i) => factors.map((factor) => Number((factor * 10 ** (first + i)).toPrecision(3)))).flat();
  const inside = values.filter((value) => value >= low * 0.999 && value <= high * 1.001);
  const every = Math.ceil(inside.length / 7);
  return inside.length > 1 ? inside.filter((_, i) => i % every === 0) : [low, high];
}

/** A running mean that forgets: each value keeps the share `weight` of the mean before it. Gaps stay gaps. */
export function smoothed(values, weight) {
  let [mean, whole] = [0, 0];
  return Float32Array.from(values, (value) => {
    if (!Number.isFinite(value)) return value;
    mean = weight * mean + (1 - weight) * value;
    whole = weight * whole + (1 - weight);
    return mean / whole;
  });
}
