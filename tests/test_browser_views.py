"""AttentionView and RunBoard in a real browser: while a run writes, by keyboard, after a reload, in Voila, at every width, in both themes."""

import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from browser import browser, jupyter, needs_browser, page  # noqa: F401 (fixtures)
from sastc.lab.attention import relative_entropy
from sastc.training.runs import now

pytestmark = needs_browser
RECORDED = Path(__file__).parent.parent / "nbs" / "results" / "cifar10_core"


@pytest.fixture(scope="module")
def runs(jupyter):
    "Copies of recorded runs, one of them damaged, where the notebooks see them."
    folder = jupyter.folder / "runs"
    shutil.copytree(RECORDED, folder)
    (folder / "kd-seed1" / "epochs.jsonl").write_text("no record\n")
    view = "from sastc.lab import AttentionView\nview = AttentionView('runs/sastc-seed0', against='runs/sastc-seed1')\nview"
    jupyter.write("attention.ipynb", view, "view.step, view.follow, view.compare")
    jupyter.write("board.ipynb", "from sastc.lab import RunBoard\nboard = RunBoard('runs')\nboard", "board.chosen")
    return folder


class Writer(threading.Thread):
    "Writes the records of a recorded run into a folder, as training does, until told to stop."

    def __init__(self, folder: Path):
        super().__init__(daemon=True)
        self.folder, self.stopped = folder, threading.Event()
        shutil.copytree(RECORDED / "sastc-seed0", folder, ignore=shutil.ignore_patterns("attention.jsonl", "result.json"))
        self.status("running", 0)

    def status(self, state: str, step: int) -> None:
        path = self.folder / "status.json"
        path.with_suffix(".tmp").write_text(
            json.dumps(dict(state=state, step=step, steps=840, epoch=step // 140, epochs=6, host="another machine", time=now()))
        )
        path.with_suffix(".tmp").replace(path)

    def run(self):
        for line in (RECORDED / "sastc-seed0" / "attention.jsonl").read_text().splitlines(keepends=True):
            with open(self.folder / "attention.jsonl", "a") as file:
                file.write(line)
            self.status("running", json.loads(line)["step"])
            if self.stopped.wait(0.3):
                break
        self.status("finished", 840)


def wait_for_step(page, least: int) -> None:
    page.wait_for_function("least => parseInt(document.querySelector('.where')?.textContent.split(' ')[1]) >= least", arg=least)


def shown_step(page) -> int:
    return int(page.locator(".where").inner_text().split()[1].strip(","))


def test_attention_of_a_run_that_is_written_meanwhile(jupyter, page):
    live = Writer(jupyter.folder / "live")
    jupyter.write("live.ipynb", "from sastc.lab import AttentionView\nview = AttentionView('live', seconds=0.2)\nview", "6 * 7")
    notebook = jupyter.open(page, "live.ipynb")
    notebook.run_cell(0)
    page.get_by_text("the first record comes after 14 training steps").wait_for()
    live.start()
    wait_for_step(page, 42)
    page.get_by_text("Attention is saturated").wait_for()
    assert notebook.run_cell(1) == "42"
    before = shown_step(page)
    notebook.reload()
    wait_for_step(page, before + 1)
    live.stopped.set()
    page.get_by_text("Finished after 840 steps.").wait_for()
    live.join()
    recorded = [json.loads(line)["step"] for line in (live.folder / "attention.jsonl").read_text().splitlines()]
    page.wait_for_function("last => document.querySelector('.where').textContent.startsWith(`step ${last},`)", arg=recorded[-1])


def test_attention_by_keyboard(jupyter, runs, page):
    notebook = jupyter.open(page, "attention.ipynb")
    notebook.run_cell(0)
    slider = page.get_by_label("training history")
    slider.focus()
    page.keyboard.press("Home")
    page.locator(".where", has_text="step 14,").wait_for()
    page.keyboard.press("ArrowRight")
    page.locator(".where", has_text="step 28,").wait_for()
    assert slider.evaluate("element => element === document.activeElement")
    page.get_by_label("what is shown").select_option("difference from sastc-seed1")
    page.get_by_text("difference from sastc-seed1 at step 28").wait_for()
    page.wait_for_function("() => document.querySelector('.maps text[style*=fill]') !== null")
    assert notebook.run_cell(1) == "(28, False, 'run')"
    notebook.reload()
    page.get_by_text("difference from sastc-seed1 at step 28").wait_for()
    page.get_by_label("what is shown").select_option("weights")
    page.get_by_role("button", name="Play").press("Space")
    wait_for_step(page, 84)
    page.get_by_role("button", name="Pause").press("Space")
    assert 84 <= shown_step(page) < 840


def test_numbers_in_the_cells_are_those_of_the_run(jupyter, runs, page):
    jupyter.open(page, "attention.ipynb").run_cell(0)
    page.locator(".maps svg").wait_for()
    page.get_by_label("training history").focus()
    page.keyboard.press("Home")
    page.locator(".where", has_text="step 14,").wait_for()
    page.locator(".maps", has_text="training step 14").wait_for()
    record = json.loads((runs / "sastc-seed0" / "attention.jsonl").read_text().splitlines()[0])
    weights = np.array(record["attention"])
    cells = [float(text) for text in page.locator(".maps text[style*=fill]").all_text_contents()]
    np.testing.assert_allclose(cells, weights.ravel(), atol=0.0051)
    entropies = [float(text[:4]) for text in page.locator(".maps .entropy").all_text_contents()]
    np.testing.assert_allclose(entropies, relative_entropy(weights).ravel(), atol=0.0051)


def test_saving_from_the_browser(jupyter, runs, page):
    jupyter.open(page, "attention.ipynb").run_cell(0)
    page.get_by_role("button", name="Save PNG").click()
    page.get_by_text("Saved runs/sastc-seed0/attention-step840.png").wait_for()
    assert (runs / "sastc-seed0" / "attention-step840.png").read_bytes().startswith(b"\x89PNG")
    page.get_by_role("button", name="Save array").click()
    page.get_by_text("Saved runs/sastc-seed0/attention.npz").wait_for()
    assert np.load(runs / "sastc-seed0" / "attention.npz")["attention"].shape == (60, 2, 4, 3)
    page.get_by_role("button", name="Save HTML").click()
    page.get_by_text("Saved runs/sastc-seed0/attention.html").wait_for()
    saved = runs / "sastc-seed0" / "attention.html"
    page.route("**/saved", lambda route: route.fulfill(path=saved, content_type="text/html"))
    page.goto(f"{jupyter.url}/saved")
    page.get_by_text("Attention has collapsed").wait_for()
    page.get_by_label("training history").focus()
    page.keyboard.press("Home")
    page.locator(".maps", has_text="training step 14").wait_for()
    page.get_by_role("button", name="Single images").wait_for(state="detached")


def names(page) -> list[str]:
    return [text.splitlines()[0] for text in page.locator(".tall tbody th").all_inner_texts()]


def test_board_sorts_chooses_and_reports(jupyter, runs, page):
    notebook = jupyter.open(page, "board.ipynb")
    notebook.run_cell(0)
    page.get_by_text("8 runs: 7 finished, 1 damaged.").wait_for()
    assert names(page) == sorted(path.name for path in runs.iterdir())
    page.locator(".tall tbody tr", has_text="epochs.jsonl: line 1 is damaged").wait_for()
    for order in (["kd-seed0", "baseline-seed0"], ["teacher", "uniform-seed0"]):  # the damaged one has no accuracy and comes last both times
        page.get_by_role("button", name="test best").click()
        page.wait_for_function("first => document.querySelector('.tall tbody th').innerText.startsWith(first)", arg=order[0])
        assert names(page)[:2] == order and names(page)[-1] == "kd-seed1"
    page.get_by_role("button", name="Choose none").click()
    page.get_by_text("Choose runs in the table to see their curves.").wait_for()
    for name in ("sastc-seed0", "sastc-seed1"):
        page.get_by_label(f"choose {name}").check()
    page.locator(".legend", has_text="sastc (2 seeds)").wait_for()
    assert page.locator(".curves polygon:not(.mark)").count() == 4  # a band in each panel
    page.locator(".differences", has_text="seed").wait_for()
    notebook.reload()
    page.locator(".legend", has_text="sastc (2 seeds)").wait_for()
    assert names(page)[0] == "teacher" and "['sastc-seed0', 'sastc-seed1']" == notebook.run_cell(1)
    page.get_by_label("report of sastc-seed0").click()
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="Open runs/sastc-seed0/report.html").click()
    opened.value.get_by_role("heading", name="sastc-seed0", exact=True).first.wait_for()
    assert (runs / "sastc-seed0" / "report.html").exists()


CONTRAST = """box => {
    const linear = c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    const luminance = colour => {
        const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map(c => linear(c / 255));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    let ground = box;
    while (getComputedStyle(ground).backgroundColor === 'rgba(0, 0, 0, 0)') ground = ground.parentElement;
    const [dark, light] = [getComputedStyle(box).color, getComputedStyle(ground).backgroundColor].map(luminance).sort((a, b) => a - b);
    return (light + 0.05) / (dark + 0.05);
}"""
OUTSIDE = """box => {
    const { left, right } = box.getBoundingClientRect();
    const outside = place => place.width && (place.left < left - 1 || place.right > right + 1);
    return [...box.querySelectorAll('svg, svg *, p, button, input, table, .heading')]
        .filter(part => getComputedStyle(part).visibility !== 'hidden' && outside(part.getBoundingClientRect()))
        .map(part => part.outerHTML.slice(0, 120));
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_is_cut_off_or_unreadable(jupyter, runs, page, theme):
    for name in ("attention.ipynb", "board.ipynb"):
        notebook = jupyter.open(page, name)
        notebook.theme(theme)
        notebook.run_cell(0)
        box = page.locator(".sastc")
        box.wait_for()
        assert box.evaluate(CONTRAST) > 7
        for width in (1920, 1280, 640):
            box.evaluate("(box, width) => { box.style.width = `${width}px`; }", width)
            page.wait_for_function("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))")
            assert not (outside := box.evaluate(OUTSIDE)), f"{name} at {width}: {outside}"


def test_voila_shows_the_same(jupyter, runs, page):
    live = Writer(jupyter.folder / "seen-in-voila")
    jupyter.write("both.ipynb", "from sastc.lab import AttentionView, RunBoard\nAttentionView('seen-in-voila', seconds=0.2)", "RunBoard('runs')")
    with jupyter.voila("both.ipynb") as url:
        page.goto(url)
        page.get_by_text("the first record comes after 14 training steps").wait_for()
        page.get_by_text("8 runs: 7 finished, 1 damaged.").wait_for()
        live.start()
        wait_for_step(page, 56)
        page.get_by_role("button", name="minutes").click()
        page.wait_for_function("() => document.querySelector('.tall tbody th').innerText.startsWith('baseline-seed1')")
        live.stopped.set()
        page.get_by_text("Finished after 840 steps.").wait_for()
    live.join()
