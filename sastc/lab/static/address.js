// The state of a board in the address of a page.
import { put } from "./model.js";

const KEPT = ["chosen", "sort", "descending", "filter", "columns", "group"];
const BEGIN = "#board=";

/** The address of this page with the state of a board behind it. */
export function addressOf(model, page) {
  const state = Object.fromEntries(KEPT.map((name) => [name, model.get(name)]));
  return page.split("#")[0] + BEGIN + encodeURIComponent(JSON.stringify({ board: model.get("title"), ...state }));
}

/** The state that an address has for a board of this title; empty where it has none. */
export function stateIn(address, title) {
  const place = address.indexOf(BEGIN);
  if (place < 0) return {};
  try {
    const { board, ...state } = JSON.parse(decodeURIComponent(address.slice(place + BEGIN.length)));
    const fits = ([name, value]) => KEPT.includes(name) && (Array.isArray(value) ? value.every((entry) => typeof entry === "string") : true);
    return board === title ? Object.fromEntries(Object.entries(state).filter(fits)) : {};
  } catch {
    return {}; // an address that somebody cut off
  }
}

/** Take up what the address of the page says, once. */
export function takeUp(model, address) {
  const state = stateIn(address, model.get("title"));
  if (Object.keys(state).length) put(model, state);
}
