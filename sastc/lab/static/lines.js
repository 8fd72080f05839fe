// Lines as SVG writes them.

/** Points, without those that are not numbers. */
export const pointsOf = (xs, ys, at) => [...xs].flatMap((x, i) => Number.isFinite(ys[i]) ? [at(x, ys[i])] : []);

/** A path, with a gap where a value is not a number. */
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
