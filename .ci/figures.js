// Figures in a narrow window: titles are broken at its width, the legend stands below, and panels side by side keep a width at which they can be
// read, in the box of the cell's output, which scrolls sideways.
{
  const NARROW = matchMedia("(max-width: 600px)");
  const PANEL = 250; // pixels of a panel with its axis
  const WIDER = 500; // pixels of a figure whose lettering needs more than the window
  const MOST = 1500;
  const pen = document.createElement("canvas").getContext("2d");

  function broken(text, font, width) {
    pen.font = `${font.size}px ${font.family}`;
    const lines = [""];
    for (const word of text.split(" ")) {
      const longer = `${lines.at(-1)} ${word}`.trim();
      if (lines.at(-1) && pen.measureText(longer.replace(/<[^>]*>/g, "")).width > width) lines.push(word);
      else lines[lines.length - 1] = longer;
    }
    return lines;
  }

  function panelsBeside(layout) {
    const axes = Object.keys(layout).filter((name) => /^xaxis\d*$/.test(name));
    return new Set(axes.map((name) => layout[name].domain[0].toFixed(2))).size;
  }

  /** Whether lettering other than the title stands beyond the figure, such as long names on an axis. */
  function cutsOff(figure) {
    const box = figure.getBoundingClientRect();
    const places = [...figure.querySelectorAll("text:not(.gtitle, .gtitle-subtitle)")].map((text) => text.getBoundingClientRect());
    return places.some(({ left, right, width }) => width && (left < box.left - 2 || right > box.right + 2));
  }

  function narrowLayout(figure) {
    const { title, margin, width } = figure._fullLayout;
    const box = figure.closest(".cell-output-display") ?? document.documentElement;
    const room = Math.min(width, box.clientWidth) - 16;
    const head = broken(title.text ?? "", title.font, room);
    const below = broken(title.subtitle?.text ?? "", title.subtitle?.font ?? title.font, room);
    const more = Math.ceil((head.length - 1) * 1.3 * title.font.size + (below.length - 1) * 1.3 * (title.subtitle?.font.size ?? 0));
    const height = figure._fullLayout.height + more;
    const pad = 12 * (head.length - 1); // Plotly lets the first of several lines begin above the place of a single one
    return { "title.text": head.join("<br>"), "title.subtitle.text": below.join("<br>"), "title.pad.t": pad, "margin.t": margin.t + more, height };
  }

  function setHeight(figure, height) {
    figure.style.height = figure.parentElement.style.height = `${height}px`;
  }

  /** Make room, and keep in `data-wide` what a wide window needs. */
  async function narrow(figure) {
    const { layout, _fullLayout: full } = figure;
    const legend = layout.legend ?? null;
    const texts = { "title.text": full.title.text, "title.subtitle.text": full.title.subtitle?.text, "title.pad.t": layout.title?.pad?.t ?? null };
    figure.dataset.wide = JSON.stringify({ ...texts, "margin.t": layout.margin?.t ?? null, width: layout.width ?? null, height: full.height, legend });
    const panels = panelsBeside(full);
    if (panels > 1 && !layout.width) {
      figure.style.minWidth = `${panels * PANEL + 60}px`;
      await Plotly.Plots.resize(figure);
    }
    const changes = narrowLayout(figure);
    if (full.showlegend) changes.legend = { ...legend, orientation: "h", x: 0, xanchor: "left", y: 0, yref: "container", yanchor: "bottom" };
    await Plotly.relayout(figure, changes);
    changes.height += figure.querySelector(".legend")?.getBBox().height ?? 0;
    await Plotly.relayout(figure, { height: changes.height });
    setHeight(figure, changes.height);
    for (let width = Math.max(WIDER, figure.clientWidth); cutsOff(figure) && width < MOST; width += PANEL) {
      figure.style.minWidth = `${width}px`;
      await Plotly.relayout(figure, { width });
    }
  }

  async function widen(figure) {
    const before = JSON.parse(figure.dataset.wide);
    delete figure.dataset.wide;
    figure.style.minWidth = "";
    setHeight(figure, before.height);
    await Plotly.relayout(figure, before);
    await Plotly.Plots.resize(figure);
  }

  async function fit(figure) {
    const shown = figure._fullLayout && figure.clientWidth;
    if (NARROW.matches && shown && !figure.dataset.wide) await narrow(figure);
    if (!NARROW.matches && figure.dataset.wide) await widen(figure);
    figure.dataset.fitted = NARROW.matches ? "narrow" : "wide";
  }

  function fitAll() {
    document.querySelectorAll(".plotly-graph-div").forEach(fit);
  }

  NARROW.addEventListener("change", fitAll);
  addEventListener("load", fitAll);
}
