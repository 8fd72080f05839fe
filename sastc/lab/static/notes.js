// The note and the tags of a run, to be written.
import { button, html } from "./nodes.js";

/**
 * Show a small form for a run; Escape leaves it, Enter keeps it, and Enter with the shift key begins another line.
 * @param {Element} place
 * @param {object} row
 * @param {function(object): void} ask the kernel to keep it
 */
export function editNote(place, row, ask) {
  const close = () => place.replaceChildren();
  const rows = Math.min(6, (row.note ?? "").split("\n").length);
  const note = html("textarea", { rows, "aria-label": `note of ${row.name}`, placeholder: "note" }, row.note ?? "");
  const tags = html("input", { type: "text", "aria-label": `tags of ${row.name}`, placeholder: "tags, set apart by commas", value: (row.tags ?? []).join(", ") });
  const keep = () => {
    ask({ annotate: row.name, note: note.value, tags: tags.value.split(",") });
    close();
  };
  const keys = (event) => {
    if (event.key === "Enter") {
      event.preventDefault(); // also with the shift key, whose line break JupyterLab would take away
      if (event.shiftKey && event.target === note) note.setRangeText("\n", note.selectionStart, note.selectionEnd, "end");
      else keep();
    }
    if (event.key === "Escape") close();
  };
  for (const field of [note, tags]) field.addEventListener("keydown", keys);
  place.replaceChildren(html("div", { class: "bar" }, html("span", {}, row.name), note, tags, button("Keep", keep), button("Cancel", close)));
  note.focus();
}
