"""The picture of the first page, taken from the live view of a recorded run: `python .ci/picture.py` writes nbs/images/attention.png. Needs Chromium."""

import re
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from visit_docs import CHROMIUM, QUIET  # noqa: E402

from sastc.widgets import AttentionView  # noqa: E402

RUN, STEP = ROOT / "nbs" / "results" / "cifar10_core" / "sastc-seed1", 28
WIDTH = 740


def page() -> str:
    "The view at a record where the layers still differ, as a page that opens offline."
    view = AttentionView(RUN)
    view.step, view.follow = STEP, False
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


if __name__ == "__main__":
    take(ROOT / "nbs" / "images" / "attention.png")
