// As much of a page as the scripts need: elements that know their attributes and children, and frames that come when the test says so.

const camel = (name) => name.replace(/-(\w)/g, (_, letter) => letter.toUpperCase());

class Text {
  constructor(text) { this.textContent = String(text); }
}

class Element {
  constructor(tag) {
    Object.assign(this, { tag, attributes: {}, childNodes: [], parent: null, listeners: {}, style: {}, dataset: {} });
    Object.assign(this, { clientWidth: 800, offsetWidth: 60, offsetTop: 20, scrollLeft: 0, scrollTop: 0 });
  }

  setAttribute(name, value) {
    this.attributes[name] = String(value);
    if (name.startsWith("data-")) this.dataset[camel(name.slice(5))] = String(value);
    if (name === "value") this.value = String(value);
    if (name === "hidden" || name === "disabled") this[name] = true;
  }

  getAttribute(name) { return this.attributes[name] ?? null; }

  // of the selectors that are used, these are enough: a list of tags, .classes and [attributes]
  matches(selector) {
    const classes = (this.attributes.class ?? "").split(" ");
    const one = (part) => part.startsWith("[") ? part.slice(1, -1) in this.attributes : part.startsWith(".") ? classes.includes(part.slice(1)) : part === this.tag;
    return selector.split(", ").some(one);
  }

  get children() { return this.childNodes.filter((child) => child instanceof Element); }

  get firstChild() { return this.childNodes[0] ?? null; }

  get textContent() { return this.childNodes.map((child) => child.textContent).join(""); }

  set textContent(text) { this.replaceChildren(...(text === "" ? [] : [text])); }

  get isConnected() { return this.parent !== null; }

  append(...children) {
    for (const child of children) {
      const node = child instanceof Element ? child : new Text(child);
      node.parent = this;
      this.childNodes.push(node);
    }
  }

  replaceChildren(...children) {
    for (const child of this.childNodes) child.parent = null;
    this.childNodes = [];
    this.append(...children);
  }

  remove() {
    this.parent.childNodes = this.parent.childNodes.filter((child) => child !== this);
    this.parent = null;
  }

  contains(other) { return other === this || this.children.some((child) => child.contains(other)); }

  all(test) { return this.children.flatMap((child) => [...(test(child) ? [child] : []), ...child.all(test)]); }

  querySelectorAll(selector) { return this.all((element) => element.matches(selector)); }

  querySelector(selector) { return this.querySelectorAll(selector)[0] ?? null; }

  addEventListener(event, listener) { (this.listeners[event] ??= []).push(listener); }

  fire(event, more = {}) {
    for (const listener of this.listeners[event] ?? []) listener({ preventDefault() {}, ...more });
  }

  focus() { globalThis.document.activeElement = this; }

  getBoundingClientRect() { return { left: 0 }; }

  getContext() {
    this.painted = [];
    return { fillRect: (...place) => this.painted.push(place) };
  }
}

const frames = [];

/** Let the browser draw. */
export function frame() {
  for (const draw of frames.splice(0)) draw();
}

/** Elements below one by tag name, and by class. */
export const byTag = (element, tag) => element.all((other) => other.tag === tag);
export const byClass = (element, name) => element.all((other) => (other.attributes.class ?? "").split(" ").includes(name));

/** A page with nothing on it; returns an element that views are put into. */
export function newPage() {
  const body = new Element("body");
  globalThis.document = {
    body,
    location: { href: "http://here/lab" },
    activeElement: body,
    createElement: (tag) => new Element(tag),
    createElementNS: (space, tag) => new Element(tag),
    getElementById: () => null,
    querySelector: (selector) => body.all((element) => selector === `[data-view="${element.dataset.view}"]:not([data-shown])` && !element.dataset.shown)[0]
  };
  globalThis.requestAnimationFrame = (draw) => frames.push(draw);
  globalThis.ResizeObserver = class {
    observe() {}

    disconnect() {}
  };
  frames.length = 0;
  const el = new Element("div");
  body.append(el);
  return el;
}

/** Numbers as Python sends them. */
export const bytesOf = (...numbers) => new DataView(Float32Array.from(numbers).buffer);
