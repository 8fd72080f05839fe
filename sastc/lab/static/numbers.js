// Numbers: as they arrive from Python, and as people read them.

/**
 * The float32 array that Python sent as bytes. It is copied, because the bytes may not be aligned to four.
 * @param {DataView} bytes
 * @returns {Float32Array}
 */
export const floats = (bytes) => new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));

/** Four significant digits; a dash for what is not a number. */
export const short = (value) => Number.isFinite(value) ? String(Number(value.toPrecision(4))) : "–";

/** A share as a percentage; a dash for what is not a number. */
export const percent = (value, digits = 1) => Number.isFinite(value) ? `${(100 * value).toFixed(digits)}%` : "–";

/** Thousands set apart: 1,234. */
export const grouped = (number) => number.toLocaleString("en");

/** A difference with its sign and without the zero before the point, so that it fits into a cell. */
export const signed = (value) =>
  Math.abs(value) < 0.0005 ? "0" : (value < 0 ? "−" : "+") + Math.abs(value).toFixed(3).replace(/^0/, "");
