// Elements of a page: everything that a view shows is made by these.

/**
 * Set attributes of an element. A name that starts with "on" adds a listener; a value of undefined, null or false is left out.
 * @param {Element} element
 * @param {Object<string, *>} [attributes]
 */
export function setAttributes(element, attributes) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
}

function grow(element, attributes, children) {
  setAttributes(element, attributes);
  // JupyterLab would take the arrow keys for itself: they belong to the slider that has the focus
  if (element.matches("button, input, select, textarea, a, [tabindex]")) element.setAttribute("data-lm-suppress-shortcuts", "true");
  element.append(...children.filter((child) => child !== undefined && child !== null && child !== false));
  return element;
}

/** An HTML element with attributes and children (elements or text). */
export const html = (tag, attributes, ...children) => grow(document.createElement(tag), attributes, children);

/** The same for SVG. */
export const svg = (tag, attributes, ...children) =>
  grow(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

/** A button; `more` are further attributes. */
export const button = (text, onclick, more) => html("button", { type: "button", onclick, ...more }, text);

/** A heading of level 3 (the title of a view) or below. */
export const heading = (level, text = "") =>
  html("div", { class: level === 3 ? "title" : "heading", role: "heading", "aria-level": level }, text);

/** The box that a view fills: styles apply inside it and nowhere else. */
export function root(el) {
  const box = html("div", { class: "sastc" });
  el.append(box);
  return box;
}
