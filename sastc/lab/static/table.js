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

/** Begins the key of a setting in a row. */
export const SETTING = "setting:";

const plain = (value) => typeof value === "boolean" ? String(value) : value;

/** Rows with the settings that all of them share; a run that cannot be read has none. */
export const rowsOf = (model) => model.get("rows").map((row) => row.method ? { ...model.get("common"), ...row } : row);

/** Every column that can be shown: results first, then notes, then settings by name; what a setting repeats is left out. */
export function allColumns(rows) {
  const usual = new Set(COLUMNS.map(([key]) => SETTING + key));
  const names = [...new Set(rows.flatMap((row) => Object.keys(row)))].filter((key) => key.startsWith(SETTING) && !usual.has(key)).sort();
  return [...COLUMNS, ["tags", "tags"], ["note", "note"], ...names.map((key) => [key, key.slice(SETTING.length)])];
}

/** The columns that are shown, in their order; the usual ones where none were chosen. */
export function columnsOf(rows, keys) {
  const all = allColumns(rows);
  return keys.length ? keys.map((key) => all.find(([name]) => name === key)).filter(Boolean) : COLUMNS;
}

/** The columns of a file: those that are shown, and where none were chosen also notes and tags, which then stand under the name. */
export function savedColumns(rows, keys) {
  const noted = [["tags", "tags"], ["note", "note"]].filter(([key]) => rows.some((row) => !missing(row[key])));
  return keys.length ? columnsOf(rows, keys) : [...COLUMNS, ...noted];
}

/** The keys of columns after one of them is moved by a place, to the left or to the right. */
export function shifted(keys, key, by) {
  const from = keys.indexOf(key);
  const to = Math.min(keys.length - 1, Math.max(0, from + by));
  const others = keys.filter((other) => other !== key);
  return [...others.slice(0, to), key, ...others.slice(to)];
}

/** Whether a run has no value there. */
export const missing = (value) => value === null || value === undefined || value === "" || value.length === 0;

/** What a cell says. */
export function textOf(row, [key, , write]) {
  if (missing(row[key])) return "";
  return write ? write(row[key]) : Array.isArray(row[key]) ? row[key].join(", ") : String(row[key]);
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

/** The regular expressions of a filter, set apart by spaces; null where one of them is none. */
export function patternsOf(words) {
  try {
    return words.split(" ").filter(Boolean).map((word) => new RegExp(word, "i"));
  } catch {
    return null;
  }
}

/** All that a filter looks at in a row: its cells, and its settings as name=value. */
function textsOf(row) {
  const settings = Object.keys(row).filter((key) => key.startsWith(SETTING)).map((key) => `${key.slice(SETTING.length)}=${plain(row[key])}`);
  return [...[...COLUMNS, ["tags"], ["note"]].map((column) => textOf(row, column)), ...settings];
}

/** Rows that match all of these regular expressions, each in any column; all rows where one of them is none. */
export function filtered(rows, words) {
  const patterns = patternsOf(words);
  if (!patterns?.length) return rows;
  return rows.filter((row) => {
    const texts = textsOf(row);
    return patterns.every((pattern) => texts.some((text) => pattern.test(text)));
  });
}

/** A sentence about a filter that is wrong, or that no row matches; empty otherwise. */
export function filterWords(rows, words) {
  if (patternsOf(words) === null) return "The filter is not a regular expression yet.";
  return rows.length && !filtered(rows, words).length ? "No run matches." : "";
}

/** Rows as comma-separated values, with the titles of the columns in the first line. */
export function csvOf(rows, columns) {
  const quoted = (value) => {
    const text = missing(value) ? "" : String(Array.isArray(value) ? value.join(", ") : value);
    const safe = typeof value !== "number" && /^[=+@\t\r-]/.test(text) ? `'${text}` : text; // a table calculator would take it for a formula
    return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  const lines = [columns.map(([, title]) => quoted(title)), ...rows.map((row) => columns.map(([key]) => quoted(row[key])))];
  return `${lines.map((line) => line.join(",")).join("\n")}\n`;
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
