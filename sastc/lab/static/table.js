// What the table of runs says, and in which order.
import { percent } from "./numbers.js";

const fixed = (digits) => (value) => value.toFixed(digits);
const accuracy = (value) => percent(value, 2);

/** Key of a row, heading, and for numbers how they are written. */
export const COLUMNS = [
  ["name", "run"],
  ["method", "method"],
  ["pair", "teacher → student"],
  ["time_steps", "T", String],
  ["beta", "β", String],
  ["seed", "seed", String],
  ["validation", "held-out best", accuracy],
  ["last", "test last", accuracy],
  ["best", "test best", accuracy],
  ["by_step", "test best by time step, %"],
  ["rate", "firing rate", fixed(3)],
  ["energy", "µJ", fixed(2)],
  ["minutes", "minutes", fixed(1)],
  ["state", "state"]
];

/** Whether a run has no value there. */
export const missing = (value) => value === null || value === undefined || value === "";

/** What a cell says. */
export function textOf(row, [key, , write]) {
  if (missing(row[key])) return "";
  return write ? write(row[key]) : String(row[key]);
}

function order(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), "en", { numeric: true }); // seed 9 before seed 10
}

/** Rows sorted by a column; those that miss it come last both ways. */
export function ordered(rows, key, descending) {
  const full = rows.filter((row) => !missing(row[key]));
  const sign = descending ? -1 : 1;
  full.sort((a, b) => sign * order(a[key], b[key]));
  return [...full, ...rows.filter((row) => missing(row[key]))];
}

/** Rows that hold all of these words, each in any column. */
export function filtered(rows, words) {
  const holds = (row, word) => COLUMNS.some((column) => textOf(row, column).toLowerCase().includes(word));
  return rows.filter((row) => words.toLowerCase().split(" ").every((word) => holds(row, word)));
}

/** Some columns stand under the name of the run, in a narrow place more of them: how they are written there. */
const UNDER = {
  pair: (text) => text,
  time_steps: (text) => `T ${text}`,
  beta: (text) => `β ${text}`,
  seed: (text) => `seed ${text}`,
  validation: (text) => `held-out ${text}`,
  by_step: (text) => `by time step ${text} %`,
  rate: (text) => `rate ${text}`,
  energy: (text) => `${text} µJ`,
  minutes: (text) => `${text} min`
};

/** Columns that stand under the name in a place of this width. */
export function folds(width) {
  if (width < 680) return Object.keys(UNDER);
  return width < 900 ? ["pair", "by_step", "rate", "energy", "minutes"] : ["by_step"];
}

/** The line under the name of a run. */
export function underName(row, folded) {
  const columns = COLUMNS.filter(([key]) => folded.includes(key) && !missing(row[key]));
  return columns.map((column) => UNDER[column[0]](textOf(row, column))).join(" · ");
}
