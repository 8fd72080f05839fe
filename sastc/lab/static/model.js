// The state of a view: traits that Python holds too.

/** Set traits and tell Python. */
export function put(model, values) {
  for (const [name, value] of Object.entries(values)) model.set(name, value);
  model.save_changes();
}

/** Names with one of them taken away, or added where it was missing. */
export const toggled = (names, name) => names.includes(name) ? names.filter((other) => other !== name) : [...names, name];

/**
 * Draw now, and again when the state or the width changes: once per frame at most.
 * @param {object} model
 * @param {Element} el whose width counts
 * @param {function(): void} draw
 * @returns {function(): void} which ends it
 */
export function keepDrawn(model, el, draw) {
  let asked = false;
  let ended = false;
  let width = 0;
  const now = () => {
    asked = false;
    if (ended) return;
    if (!el.clientWidth) {
      // JupyterLab takes outputs out of the page while they are scrolled away: there is no width to draw for
      setTimeout(ask, 250);
      return;
    }
    width = el.clientWidth;
    draw();
  };
  const ask = () => {
    if (!asked) requestAnimationFrame(now);
    asked = true;
  };
  const observer = new ResizeObserver(() => { if (el.clientWidth !== width) ask(); });
  observer.observe(el);
  model.on("change", ask);
  ask();
  return () => {
    ended = true;
    observer.disconnect();
    model.off("change", ask);
  };
}
