// A PNG of the maps: made from the SVG by the browser, and written by the kernel next to the run.
import { LETTER, broken } from "./labels.js";
import { html, svg } from "./nodes.js";

/** A drawing with the title above and the sentences below, in dark ink on white whatever the theme. */
function sheetOf(drawing, title, sentences) {
  const width = Math.max(Number(drawing.getAttribute("width")), 420);
  const height = Number(drawing.getAttribute("height"));
  const said = sentences.flatMap((sentence) => broken(sentence, width / LETTER));
  const size = { width: width + 24, height: height + 44 + said.length * 16 };
  return svg("svg", { xmlns: "http://www.w3.org/2000/svg", ...size, style: "color: #1a1a1a; font-size: 11px" },
    svg("style", {}, "text { font-family: system-ui, sans-serif; fill: currentColor }"),
    svg("rect", { width: "100%", height: "100%", fill: "#fff" }),
    svg("text", { x: 16, y: 22, style: "font-size: 14px", "font-weight": 700 }, title),
    svg("g", { transform: "translate(12, 32)" }, ...drawing.cloneNode(true).childNodes),
    ...said.map((line, i) => svg("text", { x: 16, y: height + 48 + i * 16 }, line)));
}

/** At twice the size, for print. */
async function pngOf(sheet) {
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(new XMLSerializer().serializeToString(sheet))}`;
  await image.decode();
  const canvas = html("canvas", { width: 2 * sheet.getAttribute("width"), height: 2 * sheet.getAttribute("height") });
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

/** Send the PNG to the kernel; a page without a kernel hands it to the browser's downloads. */
export async function savePicture(model, drawing, title, sentences) {
  const png = await pngOf(sheetOf(drawing, title, sentences));
  if (model.still) html("a", { href: URL.createObjectURL(png), download: "attention.png" }).click();
  else model.send({ save: "png" }, undefined, [await png.arrayBuffer()]);
}
