"""Open every page of a built site in Chromium, light and dark, and some as a telephone shows them: `python .ci/visit_docs.py _docs`. Fails where a reader would see a fault."""

import shutil
import sys
from pathlib import Path

from fastcore.script import call_parse
from playwright.sync_api import Page, TimeoutError, sync_playwright

CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable") if (found := shutil.which(name))), None)
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
LOOKS = dict(light=1280, dark=1920)  # width of the window in each colour scheme
TELEPHONE = 390  # width of a narrow window
ON_A_TELEPHONE = ("gallery.html", "results/which.html", "results/speed.html", "tutorials/reading_attention.html")  # pages with many kinds of figures
OF_THE_SITE = ("file:", "data:", "blob:", "about:")
PATIENCE = 30_000  # ms
FOUND = """async (queries) => {
  const search = new Fuse(await (await fetch("search.json")).json());
  return queries.map((query) => search.search(query, { limit: 3 }).map(({ item }) => item.href));
}"""
# what people type, and a page that has to be among the first three results
FINDS = {
    "LIF": "neurons/neuron",
    "IF neuron": "neurons/neuron",
    "surrogate gradient": "neurons/neuron",
    "SpikingJelly": "tutorials/your_parts",
    "timm": "models/teachers",
    "own dataset": "tutorials/your_parts",
    "Slurm": "tutorials/gpu_box",
    "batch size": "tutorials/gpu_box",
    "out of memory": "neurons/memory",
    "CIFAR-10": "results/cifar",
    "N-MNIST": "data/events",
    "ONNX": "studies/export",
    "energy": "metrics/energy",
    "attention map": "tutorials/reading_attention",
    "seeds": "tutorials/comparing_methods",
    "PLIF": "neurons/neuron",
    "snnTorch": "tutorials/your_parts",
    "Norse": "tutorials/your_parts",
    "NIR": "tutorials/your_parts",
    "CUDA": "tutorials/gpu_box",
    "multi-GPU": "tutorials/gpu_box",
    "TensorBoard": "tutorials/gpu_box",
    "wandb": "tutorials/gpu_box",
    "resume": "tutorials/gpu_box",
    "learning rate": "training/loop",
    "firing rate": "metrics/energy",
    "knowledge distillation": "methods/labels",
    "DVS": "data/events",
    "checkpoint": "training/checkpoints",
}
DRAWN = """() => [...document.querySelectorAll(".plotly-graph-div")].every((figure) => figure.querySelector(".main-svg") &&
    figure._fullData?.every((trace, i) => trace.visible !== false || figure.data[i].visible === false)) &&
  [...document.querySelectorAll("[data-view]")].every((view) => (view.shadowRoot ?? view).childNodes.length)"""
FITTED = """() => [...document.querySelectorAll(".plotly-graph-div")].every((figure) => "fitted" in figure.dataset)"""
CUT = """() => [...document.querySelectorAll(".plotly-graph-div")].flatMap((figure) => {
  const box = figure.getBoundingClientRect();
  const outside = (text) => text.width && (text.left < box.left - 2 || text.right > box.right + 2 || text.top < box.top - 2 || text.bottom > box.bottom + 2);
  return [...figure.querySelectorAll("text")].filter((text) => outside(text.getBoundingClientRect())).map((text) => text.textContent);
})"""
SEEN = """() => ({
  broken: [...document.images].filter((image) => image.complete && !image.naturalWidth).map((image) => image.getAttribute("src")),
  beyond: document.documentElement.scrollWidth - innerWidth,
  dark: document.documentElement.classList.contains("quarto-dark"),
})"""


def visit(page: Page, file: Path, dark: bool) -> list[str]:
    "Sentences about what a reader of the page would miss."
    faults = []
    listeners = dict(
        request=lambda request: request.url.startswith(OF_THE_SITE) or faults.append(f"asks another host for {request.url}"),
        requestfailed=lambda request: faults.append(f"{request.url} could not be loaded"),
        pageerror=lambda error: faults.append(f"a script fails: {error}"),
    )
    for event, listener in listeners.items():
        page.on(event, listener)
    page.goto(file.as_uri())
    try:
        page.wait_for_function(DRAWN, timeout=PATIENCE)
    except TimeoutError:
        faults.append("a figure or a view is not drawn")
    seen = page.evaluate(SEEN)
    faults += [f"the picture {source} is broken" for source in seen["broken"]]
    faults += [f"is {seen['beyond']} pixels wider than the window"] * (seen["beyond"] > 0)
    faults += [f"does not follow the {'dark' if dark else 'light'} colour scheme"] * (seen["dark"] != dark)
    for event, listener in listeners.items():
        page.remove_listener(event, listener)
    return faults


def visit_narrow(page: Page, file: Path) -> list[str]:
    "Sentences about what a reader with a telephone would miss of the figures."
    page.goto(file.as_uri())
    try:
        page.wait_for_function(FITTED, timeout=PATIENCE)
    except TimeoutError:
        return ["a figure is not fitted to a narrow window"]
    beyond = page.evaluate(SEEN)["beyond"]
    return [f"a figure cuts off {text!r}" for text in page.evaluate(CUT)] + [f"is {beyond} pixels wider than the window"] * (beyond > 0)


def search(page: Page, index: Path) -> list[str]:
    "Sentences about the search field, what it finds, and the switch between light and dark."
    page.goto(index.as_uri())
    dark = page.evaluate(SEEN)["dark"]
    page.keyboard.press("/")
    page.keyboard.type("attention")
    try:
        page.wait_for_selector(".search-result", timeout=PATIENCE)
        page.keyboard.press("Escape")
        page.click(".quarto-color-scheme-toggle")
        page.wait_for_function(f"document.documentElement.classList.contains('quarto-dark') !== {str(dark).lower()}", timeout=PATIENCE)
    except TimeoutError as error:
        return [f"search or the switch between light and dark does nothing ({str(error).splitlines()[0]})"]
    found = zip(FINDS.items(), page.evaluate(FOUND, [*FINDS]), strict=True)
    return [
        f"search for {typed!r} finds {', '.join(places)} before {wanted}" for (typed, wanted), places in found if not any(wanted in place for place in places)
    ]


@call_parse
def main(
    site: str,  # folder that build_docs wrote
):
    "Open every page of the site and fail where one has a fault."
    files = sorted(Path(site).resolve().rglob("*.html"))
    if not files:
        sys.exit(f"visit_docs: there is no page in {site}; build it with `python .ci/build_docs.py`")
    if CHROMIUM is None:
        print("visit_docs: skipped, there is no Chromium on PATH (apt-get install chromium)")
        return
    faults = []
    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        for scheme, width in LOOKS.items():
            page = browser.new_page(viewport=dict(width=width, height=1000), color_scheme=scheme)
            for file in files:
                faults += [f"{file.relative_to(Path(site).resolve())} ({scheme}): {fault}" for fault in visit(page, file, scheme == "dark")]
            faults += [f"index.html ({scheme}): {fault}" for fault in search(page, Path(site).resolve() / "index.html")]
            page.close()
        page = browser.new_page(viewport=dict(width=TELEPHONE, height=844))
        for name in ON_A_TELEPHONE:
            faults += [f"{name} ({TELEPHONE} pixels): {fault}" for fault in visit_narrow(page, Path(site).resolve() / name)]
        browser.close()
    if faults:
        sys.exit("\n  ".join(["visit_docs: the pages have faults:", *faults]))
    print(f"{len(files)} pages seen, light and dark, and {len(ON_A_TELEPHONE)} of them {TELEPHONE} pixels wide")
