// Room for names: SVG does not wrap or measure text, so widths are counted in letters.

/** Width of a letter of the pictures, in pixels. */
export const LETTER = 6.3;

const LONGEST = 22; // letters of a name that are shown

/** The end of a name, which is what tells layers apart. */
export const ending = (name, most = LONGEST) => name.length > most ? `…${name.slice(name.length - most + 1)}` : name;

/** Width of the longest name as it is shown, in pixels. */
export const longest = (names) => Math.max(...names.map((name) => Math.min(name.length, LONGEST))) * LETTER;

/** Text in lines of at most so many letters, unless a word is longer. */
export function broken(text, most) {
  const lines = [""];
  for (const word of text.split(" ")) {
    if ((lines.at(-1) + word).length < most) lines.push(`${lines.pop()} ${word}`.trim());
    else lines.push(word);
  }
  return lines;
}
