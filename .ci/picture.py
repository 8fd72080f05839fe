"""Pictures for the front page: `python .ci/picture.py` writes front.png (routes and accuracy of recorded runs), attention.png (the live view) and
launch.png (the panel) to nbs/images. Needs Chromium."""

import re
import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from browser import jupyterlab  # noqa: E402
from sastc import Run  # noqa: E402
from sastc.lab import AttentionView  # noqa: E402
from sastc.studies.figures import method_comparison, route_figure  # noqa: E402
from visit_docs import CHROMIUM, QUIET  # noqa: E402

RUN = ROOT / "nbs" / "results" / "routed" / "routed-seed0"
WIDTH = 1040
PANEL = """
from sastc.lab import LaunchPanel
panel = LaunchPanel("runs", recipe="cifar100/resnet18-from-resnet32x4-T3", small=True)
panel.run.value = "runs/sastc-seed0"
panel
"""


def page() -> str:
    "The view of a run whose layers went to teacher layers of their own, as a page that opens offline."
    view = AttentionView(RUN)
    return re.sub("body { margin: 1rem; }", "body { margin: 12px; background: #fff; }", view.to_html(RUN.name))


def take(out: Path) -> None:
    "Photograph the view down to its history, which needs more room than a first page has."
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as tools:
        file = Path(scratch) / "view.html"
        file.write_text(page(), encoding="utf-8")
        browser = tools.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        sheet = browser.new_page(viewport=dict(width=WIDTH, height=600), device_scale_factor=1.5, color_scheme="light")
        sheet.goto(file.as_uri())
        sheet.locator("canvas, svg").first.wait_for()
        history = sheet.get_by_role("heading", name="over training").bounding_box()
        out.parent.mkdir(exist_ok=True)
        sheet.screenshot(path=out, full_page=True, clip=dict(x=0, y=0, width=WIDTH, height=history["y"]))
        browser.close()


FRONT = ("baseline", "kd", "sastc", "routed")  # arms of nbs/results/routed


def take_front(out: Path) -> None:
    "Photograph the routes of a recorded run beside the accuracy of recorded methods."
    folder = ROOT / "nbs" / "results" / "routed"
    run, runs = Run(folder / "routed-seed0"), [Run(file.parent) for arm in FRONT for file in sorted(folder.glob(f"{arm}-seed*/config.json"))]
    figures = route_figure(run.attention[-1], run.layers["student"], run.layers["teacher"]), method_comparison(runs)
    shown = [figure.update_layout(width=width, height=360).to_html(include_plotlyjs=not number, full_html=False)
             for number, (figure, width) in enumerate(zip(figures, (480, 560)))]  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as tools:
        file = Path(scratch) / "front.html"
        file.write_text(f"<body style='margin: 0; display: flex; background: #fff'>{''.join(shown)}</body>", encoding="utf-8")
        browser = tools.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        sheet = browser.new_page(viewport=dict(width=1040, height=360), device_scale_factor=1.5, color_scheme="light")
        sheet.goto(file.as_uri())
        sheet.locator("svg.main-svg").nth(1).wait_for()
        sheet.screenshot(path=out)
        browser.close()


def take_panel(out: Path) -> None:
    "Photograph the launch panel in JupyterLab, with a recipe and a recorded run."
    with (
        tempfile.TemporaryDirectory() as folder,
        tempfile.TemporaryDirectory() as home,
        jupyterlab(Path(folder), Path(home)) as jupyter,
        sync_playwright() as tools,
    ):
        shutil.copytree(ROOT / "nbs" / "results" / "cifar10_core" / "sastc-seed0", Path(folder) / "runs" / "sastc-seed0")
        jupyter.write("panel.ipynb", PANEL)
        browser = tools.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        sheet = browser.new_page(viewport=dict(width=1300, height=1500), color_scheme="light")
        notebook = jupyter.open(sheet, "panel.ipynb")
        notebook.command("application:toggle-left-area")
        notebook.run_all()
        sheet.locator(".sastc-launch pre").first.wait_for()
        sheet.locator(".sastc-job .curves svg").first.wait_for()
        panel, form = sheet.locator(".sastc-launch").bounding_box(), sheet.locator(".sastc-launch .columns > *").first.bounding_box()
        sheet.screenshot(path=out, clip=dict(x=panel["x"], y=panel["y"], width=panel["width"], height=form["height"] + 8))  # the curves go on below it
        browser.close()


if __name__ == "__main__":
    take_front(ROOT / "nbs" / "images" / "front.png")
    take(ROOT / "nbs" / "images" / "attention.png")
    take_panel(ROOT / "nbs" / "images" / "launch.png")
