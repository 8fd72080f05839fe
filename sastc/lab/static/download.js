// Files that the browser keeps: the run folder is not written, and the browser may be on another machine than it.
import { html } from "./nodes.js";

/** Hand a file to the browser's downloads. */
export function handOver(name, content, type = "application/octet-stream") {
  const address = URL.createObjectURL(new Blob([content], { type }));
  html("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000); // the browser may ask where to put it first
}

/** Download what a message of the kernel brings as `download`, its name; returns whether it did. */
export function downloaded(content, buffers) {
  if (content.download) handOver(content.download, buffers[0]);
  return Boolean(content.download);
}
