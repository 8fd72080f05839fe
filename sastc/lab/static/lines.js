// Lines of a chart: from what Python packs to what SVG draws.
import { PALETTE, lineColour } from "./colours.js";
import { floats } from "./numbers.js";

/** Dashes of a line; when the colours are used up, they tell names of one colour apart. */
export const DASHES = ["", "7 3", "9 3 2 3", "2 3"];

/**
 * Lines with their columns x, y and, for a band, low and high.
 * @param {{name: string, panel: string, dashed: boolean, count: number, columns: number}[]} about as `pack_lines` says
 * @param {DataView} bytes the columns of all lines one after the other, float32
 */
export function unpackLines(about, bytes) {
  const numbers = floats(bytes);
  const names = [...new Set(about.map((line) => line.name))];
  let start = 0;
  return about.map((line) => {
    const column = () => numbers.subarray(start, start += line.count);
    const place = names.indexOf(line.name);
    const [x, y] = [column(), column()];
    const [low, high] = line.columns === 4 ? [column(), column()] : [];
    const dash = line.dashed ? "2 3" : DASHES[Math.floor(place / PALETTE.length) % 3];
    return { ...line, x, y, low, high, dash, colour: lineColour(place) };
  });
}

/** Points as SVG writes them, without those that are not numbers. */
export const pointsOf = (xs, ys, at) => [...xs].flatMap((x, i) => Number.isFinite(ys[i]) ? [at(x, ys[i])] : []);

/** A path as SVG writes it, with a gap where a value is not a number. */
export function pathOf(xs, ys, at) {
  let path = "";
  let pen = "M";
  xs.forEach((x, i) => {
    const there = Number.isFinite(ys[i]);
    if (there) path += pen + at(x, ys[i]);
    pen = there ? "L" : "M";
  });
  return path;
}
