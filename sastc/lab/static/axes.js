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
