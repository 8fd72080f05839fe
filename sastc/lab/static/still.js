// What a page without a kernel gives a view in place of its model.

/** Holds the state in the page; there is nobody to send it to, and no message comes. */
export class StillModel {
  constructor(state) {
    this.state = state;
    this.listeners = [];
    this.still = true;
  }

  get(name) { return this.state[name]; }

  set(name, value) {
    this.state[name] = value;
    for (const [event, listener] of this.listeners) if (event === "change") listener();
  }

  save_changes() {}

  on(event, listener) { this.listeners.push([event, listener]); }

  off(event, listener) { this.listeners = this.listeners.filter(([name, other]) => name !== event || other !== listener); }
}

/** A value as a page holds it: bytes stand there as base64. */
export const unpacked = (value) => value?.base64 === undefined
  ? value
  : new DataView(Uint8Array.from(atob(value.base64), (letter) => letter.charCodeAt(0)).buffer);

/**
 * Show a view in the first place of its name that still holds its picture: the same view twice on a page fills one place after the other.
 * JupyterLab and Voila have the live widget, or leave the picture.
 * @param {function({model: StillModel, el: Element}): *} render
 * @param {string} name
 * @param {object} state
 */
export function showStill(render, name, state) {
  if (document.getElementById("jupyter-config-data")) return;
  const el = document.querySelector(`[data-view="${name}"]:not([data-shown])`);
  const values = Object.fromEntries(Object.entries(state).map(([key, value]) => [key, unpacked(value)]));
  el.setAttribute("data-shown", "true");
  el.replaceChildren();
  render({ model: new StillModel(values), el });
}
