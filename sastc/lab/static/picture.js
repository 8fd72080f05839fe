// A PNG of the maps, made from the SVG by the browser.
import { handOver } from "./download.js";
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

/** The name of a picture: the run, and what is shown of it. */
export const pictureName = (title, heading) => `${`${title} ${heading}`.replace(/[^\w.-]+/g, "-")}.png`;

/** Hand a PNG to the browser's downloads. */
export async function savePicture(drawing, title, heading, sentences) {
  handOver(pictureName(title, heading), await pngOf(sheetOf(drawing, title, sentences)), "image/png");
}
