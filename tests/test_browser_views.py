"""AttentionView and RunBoard in a real browser: while a run writes, by keyboard, after a reload, in Voila, at every width, in both themes."""

import json
import re
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from browser import PATIENCE, TOKEN, Notebook, browser, eventually, expect, jupyter, needs_browser, page  # noqa: F401 (fixtures)
from sastc.lab.attention import relative_entropy
from sastc.training.runs import Run, now

pytestmark = needs_browser
RECORDED = Path(__file__).parent.parent / "nbs" / "results" / "cifar10_core"


def copied(recorded: Path, folder: Path, leave_out: tuple[str, ...] = ()) -> Path:
    "A copy of recorded runs, instead of one that an earlier try of a test has left."
    shutil.rmtree(folder, ignore_errors=True)
    return Path(shutil.copytree(recorded, folder, ignore=shutil.ignore_patterns(*leave_out)))


@pytest.fixture(scope="module")
def runs(jupyter):
    "Copies of recorded runs, one of them damaged, where the notebooks see them."
    folder = copied(RECORDED, jupyter.folder / "runs")
    (folder / "kd-seed1" / "epochs.jsonl").write_text("no record\n")
    view = "from sastc.lab import AttentionView\nview = AttentionView('runs/sastc-seed0', against='runs/sastc-seed1')\nview"
    jupyter.write("attention.ipynb", view, "view.step, view.follow, view.compare")
    jupyter.write("board.ipynb", "from sastc.lab import RunBoard\nboard = RunBoard('runs')\nboard", "board.chosen")
    return folder


class Writer(threading.Thread):
    """Writes the records of a recorded run into a folder, as training does.

    The second half comes once it may `go_on`, and the last record once it is `stopped`: however slow a page is, more is to come while a test looks."""

    def __init__(self, folder: Path, recorded: Path = RECORDED / "sastc-seed0"):
        super().__init__(daemon=True)
        self.folder, self.recorded, self.go_on, self.stopped = folder, recorded, threading.Event(), threading.Event()
        copied(recorded, folder, ("attention.jsonl", "result.json"))
        self.status("running", 0)

    def status(self, state: str, step: int) -> None:
        path = self.folder / "status.json"
        path.with_suffix(".tmp").write_text(
            json.dumps(dict(state=state, step=step, steps=840, epoch=step // 140, epochs=6, host="another machine", time=now()))
        )
        path.with_suffix(".tmp").replace(path)

    def run(self):
        lines = (self.recorded / "attention.jsonl").read_text().splitlines(keepends=True)
        for place, line in enumerate(lines):
            if place == len(lines) // 2:
                self.go_on.wait()
            if place == len(lines) - 1:
                self.stopped.wait()
            with open(self.folder / "attention.jsonl", "a") as file:
                file.write(line)
            self.status("running", json.loads(line)["step"])
            self.stopped.wait(0.3)
        self.status("finished", 840)

    def stop(self) -> None:
        "Write what is left, and end."
        self.go_on.set()
        self.stopped.set()


@pytest.fixture
def writing(jupyter):
    "Makes writers of runs; none outlives its test, and so none writes beside that of another try."
    made = []

    def write(name: str, *recorded: Path) -> Writer:
        made.append(Writer(jupyter.folder / name, *recorded))
        return made[-1]

    yield write
    for live in made:
        live.stop()
        if live.is_alive():
            live.join()


def wait_for_step(page, least: int) -> None:
    page.wait_for_function("least => parseInt(document.querySelector('.where')?.textContent.split(' ')[1]) >= least", arg=least)


def shown_step(page) -> int:
    return int(page.locator(".where").text_content().split()[1].strip(","))


def test_attention_of_a_run_that_is_written_meanwhile(jupyter, page, writing):
    live = writing("live")
    jupyter.write("live.ipynb", "from sastc.lab import AttentionView\nview = AttentionView('live', seconds=0.2)\nview", "6 * 7")
    notebook = jupyter.open(page, "live.ipynb")
    notebook.run_cell(0)
    page.locator(".sastc").get_by_text("the first record comes after 14 training steps").wait_for()
    live.start()
    wait_for_step(page, 42)
    page.locator(".sastc").get_by_text("Attention is saturated").wait_for()
    assert notebook.run_cell(1) == "42"
    before = shown_step(page)
    notebook.reload()
    live.go_on.set()
    wait_for_step(page, before + 1)
    live.stop()
    page.locator(".sastc").get_by_text("Finished after 840 steps.").wait_for()
    live.join()
    recorded = [json.loads(line)["step"] for line in (live.folder / "attention.jsonl").read_text().splitlines()]
    page.wait_for_function("last => document.querySelector('.where').textContent.startsWith(`step ${last},`)", arg=recorded[-1])


def test_attention_by_keyboard(jupyter, runs, page):
    notebook = jupyter.open(page, "attention.ipynb")
    notebook.run_cell(0)
    slider = page.get_by_label("training history")
    slider.wait_for()  # what is hidden cannot be focused
    slider.focus()
    page.keyboard.press("Home")
    page.locator(".where", has_text="step 14,").wait_for()
    page.keyboard.press("ArrowRight")
    page.locator(".where", has_text="step 28,").wait_for()
    expect(slider).to_be_focused()
    page.get_by_label("what is shown").select_option("difference from sastc-seed1")
    page.locator(".sastc").get_by_text("difference from sastc-seed1 at step 28").wait_for()
    page.wait_for_function("() => document.querySelector('.maps text[style*=fill]') !== null")
    assert eventually(page, lambda: notebook.run_cell(1) == "(28, False, 'run')")  # a page tells its kernel one change after the other
    notebook.reload()
    page.locator(".sastc").get_by_text("difference from sastc-seed1 at step 28").wait_for()
    page.get_by_label("what is shown").select_option("weights")
    play = page.get_by_role("button", name=re.compile("^(Play|Pause)$"))

    def paused_on_the_way() -> bool:
        if play.text_content() == "Play":
            play.press("Space")
        wait_for_step(page, 84)
        play.press("Space")
        return play.text_content() == "Play" and 84 <= shown_step(page) < 840

    assert eventually(page, paused_on_the_way)  # a page that is slow may have played to the end meanwhile, and then plays again


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


def kept(page, press) -> Path:
    "The file that a button hands to the browser's downloads."
    with page.expect_download() as asked:
        press()
    return asked.value


def test_saving_is_a_download_and_leaves_the_run_alone(jupyter, runs, page, tmp_path):
    jupyter.open(page, "attention.ipynb").run_cell(0)
    before = sorted((runs / "sastc-seed0").rglob("*"))
    picture = kept(page, page.get_by_role("button", name="Save PNG").click)
    assert picture.suggested_filename == "sastc-seed0-training-step-840-epoch-6.png"
    picture.save_as(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    kept(page, page.get_by_role("button", name="Save array").click).save_as(tmp_path / "a.npz")
    assert np.load(tmp_path / "a.npz")["attention"].shape == (60, 2, 4, 3)
    kept(page, page.get_by_role("button", name="Save HTML").click).save_as(tmp_path / "a.html")
    page.locator(".sastc").get_by_text("sastc-seed0-attention.html is in the downloads of this browser.").wait_for()
    assert sorted((runs / "sastc-seed0").rglob("*")) == before and str(runs.parent) not in (tmp_path / "a.html").read_text()
    page.route("**/saved", lambda route: route.fulfill(path=tmp_path / "a.html", content_type="text/html"))
    page.goto(f"{jupyter.url}/saved")
    page.locator(".sastc").get_by_text("Attention has collapsed").wait_for()
    page.get_by_label("training history").focus()
    page.keyboard.press("Home")
    page.locator(".maps", has_text="training step 14").wait_for()
    page.get_by_role("button", name="Single images").wait_for(state="detached")


def names(page) -> list[str]:
    "of the runs in the table; not innerText, whose lines depend on whether the table is drawn yet"
    return page.locator(".tall tbody th").evaluate_all("heads => heads.map(head => head.firstChild.textContent)")


def test_board_sorts_chooses_and_reports(jupyter, runs, page):
    notebook = jupyter.open(page, "board.ipynb")
    notebook.run_cell(0)
    page.locator(".sastc").get_by_text("8 runs: 7 finished, 1 damaged.").wait_for()
    assert names(page) == sorted(path.name for path in runs.iterdir())
    page.locator(".tall tbody tr", has_text="epochs.jsonl: line 1 is damaged").wait_for()
    for order in (["kd-seed0", "baseline-seed0"], ["teacher", "uniform-seed0"]):  # the damaged one has no accuracy and comes last both times
        page.get_by_role("button", name="test best").click()
        page.wait_for_function("first => document.querySelector('.tall tbody th').textContent.startsWith(first)", arg=order[0])
        assert names(page)[:2] == order and names(page)[-1] == "kd-seed1"
    page.get_by_role("button", name="Choose none").click()
    page.locator(".sastc").get_by_text("Choose runs in the table to see their curves.").wait_for()
    for name in ("sastc-seed0", "sastc-seed1"):
        page.get_by_label(f"choose {name}").check()
    page.locator(".legend", has_text="sastc (2 seeds)").wait_for()
    expect(page.locator(".curves polygon:not(.mark)")).to_have_count(4)  # a band in each panel
    page.locator(".differences", has_text="seed").wait_for()
    notebook.reload()
    page.locator(".legend", has_text="sastc (2 seeds)").wait_for()
    assert names(page)[0] == "teacher" and eventually(page, lambda: notebook.run_cell(1) == "['sastc-seed0', 'sastc-seed1']")
    before = sorted(runs.rglob("*"))
    page.get_by_role("button", name="Report of the chosen").click()
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="Open the report of 2 runs").click()
    opened.value.get_by_role("heading", name="runs", exact=True).first.wait_for()
    expect(opened.value.locator("body", has_text="2 students")).to_have_count(1)
    assert sorted(runs.rglob("*")) == before


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
        assert eventually(page, lambda: box.evaluate(CONTRAST) > 7)
        for width in (1920, 1280, 640):
            box.evaluate("(box, width) => { box.style.width = `${width}px`; }", width)
            for _ in range(3):  # in the first frame the view notices, in the second it draws
                page.evaluate("() => new Promise(requestAnimationFrame)")
            assert eventually(page, lambda: not box.evaluate(OUTSIDE)), f"{name} at {width}: {box.evaluate(OUTSIDE)}"


def test_voila_shows_the_same(jupyter, runs, page, writing):
    live = writing("seen-in-voila")
    jupyter.write("both.ipynb", "from sastc.lab import AttentionView, RunBoard\nAttentionView('seen-in-voila', seconds=0.2)", "RunBoard('runs')")
    with jupyter.voila("both.ipynb") as url:
        page.goto(url)
        page.locator(".sastc").get_by_text("the first record comes after 14 training steps").wait_for()
        page.locator(".sastc").get_by_text("8 runs: 7 finished, 1 damaged.").wait_for()
        live.start()
        wait_for_step(page, 56)
        page.get_by_role("button", name="minutes").click()
        page.wait_for_function("() => document.querySelector('.tall tbody th').textContent.startsWith('baseline-seed1')")
        live.stop()
        page.locator(".sastc").get_by_text("Finished after 840 steps.").wait_for()
    live.join()


def test_the_board_by_keyboard(jupyter, runs, page, tmp_path):
    (runs / "sastc-seed0" / "notes.json").unlink(missing_ok=True)  # of an earlier try
    notebook = jupyter.open(page, "board.ipynb")
    notebook.run_cell(0)
    page.locator(".sastc").get_by_text("8 runs: 7 finished, 1 damaged.").wait_for()
    filter = page.get_by_label("filter runs")
    filter.fill("sastc-seed(0|1)$")
    page.wait_for_function("() => document.querySelectorAll('.tall tbody tr').length === 2")
    filter.fill("nowhere")
    page.locator(".sastc").get_by_text("No run matches.").wait_for()
    filter.fill("(")
    said = page.locator(".sastc").get_by_text("The filter is not a regular expression yet.")
    said.wait_for()
    assert said.bounding_box()["y"] < page.locator(".tall").bounding_box()["y"]  # not below rows that scroll
    filter.fill("^lr=0.05")
    page.wait_for_function("() => document.querySelectorAll('.tall tbody tr').length === 6")

    page.locator(".sastc summary").press("Enter")
    page.locator(".column", has_text=re.compile("^width")).get_by_role("checkbox").press("Space")
    page.get_by_role("button", name="width", exact=True).wait_for()  # a heading of the table
    page.get_by_role("button", name="move width to the left").press("Enter")
    page.wait_for_function("() => [...document.querySelectorAll('.tall thead th')].at(-3).textContent === 'width'")  # before the state
    page.get_by_role("button", name="width", exact=True).press("Enter")
    table = kept(page, lambda: page.get_by_role("button", name="Download CSV").press("Enter"))
    table.save_as(tmp_path / "runs.csv")
    lines = (tmp_path / "runs.csv").read_text().splitlines()
    assert lines[0].split(",")[-2:] == ["width", "state"] and len(lines) == 7

    page.get_by_label("note of sastc-seed0").press("Enter")  # its button
    page.keyboard.type("for the talk")
    page.keyboard.press("Tab")
    page.keyboard.type("good, figure 2")
    page.keyboard.press("Enter")
    page.locator(".tall tbody tr", has_text="for the talk").wait_for()
    assert json.loads((runs / "sastc-seed0" / "notes.json").read_text()) == dict(note="for the talk", tags=["good", "figure 2"])
    page.get_by_label("note of sastc-seed0").press("Enter")
    page.keyboard.press("End")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type('<img src=x onerror="document.title=1">, "quoted"')
    page.keyboard.press("Enter")
    page.locator(".tall tbody tr", has_text='"quoted"').wait_for()
    assert json.loads((runs / "sastc-seed0" / "notes.json").read_text())["note"].splitlines() == [
        "for the talk",
        '<img src=x onerror="document.title=1">, "quoted"',
    ]
    assert page.locator(".tall .note").text_content().count("\n") == 1 and not page.locator(".tall img").count()
    filter.fill("figure.2")
    page.wait_for_function("() => document.querySelectorAll('.tall tbody tr').length === 1")

    address = page.get_by_role("link", name="Link to this view").get_attribute("href")
    filter.fill("")
    page.wait_for_function("() => document.querySelectorAll('.tall tbody tr').length === 8")
    page.get_by_label("what makes a curve").select_option("seed")
    page.locator(".legend", has_text="seed 0 (4 runs)").wait_for()
    expect(page.locator(".parallel polyline")).to_have_count(6)
    assert "figure.2" in address
    (runs / "sastc-seed0" / "notes.json").unlink()  # the runs are those of the other tests too


def test_axes_of_the_charts(jupyter, runs, page):
    jupyter.open(page, "board.ipynb").run_cell(0)
    path = ".curves .panel:first-child path"
    page.locator(path).first.wait_for()

    def changes(act):
        before = page.locator(".curves .panel:first-child svg").first.evaluate("svg => svg.outerHTML")
        act()
        page.wait_for_function("before => document.querySelector('.curves .panel:first-child svg').outerHTML !== before", arg=before)

    changes(lambda: page.get_by_label("logarithmic").press("Space"))
    changes(lambda: page.get_by_label("smoothing").press("End"))
    changes(lambda: page.get_by_label("along the axis").select_option("epochs"))
    page.locator(".curves .panel").first.get_by_text("epoch", exact=True).wait_for()
    changes(lambda: page.get_by_label("along the axis").select_option("time"))
    page.locator(".curves .panel").first.get_by_text("minutes of training").wait_for()
    changes(lambda: page.get_by_label("enlarge cross-entropy, nats").press("Enter"))
    expect(page.locator(".curves .large svg").first).to_have_attribute("height", "460")
    expect(page.get_by_label("reduce cross-entropy, nats")).to_be_focused()


def test_a_readout_is_never_cut_off(jupyter, runs, page):
    jupyter.open(page, "board.ipynb").run_cell(0)
    panel = page.locator(".curves .panel").first
    panel.locator("path").first.wait_for()
    picture = eventually(page, panel.locator("svg").first.bounding_box)
    page.locator(".curves .panel svg").first.scroll_into_view_if_needed()
    for share in (0.2, 0.45, 0.5, 0.55, 0.6, 0.95):
        panel.locator("svg").first.hover(position=dict(x=share * picture["width"], y=60))
        panel.locator(".readout").wait_for()

        def whole() -> bool:
            around, words = boxes = [part.bounding_box() for part in (panel, panel.locator(".readout"))]
            return all(boxes) and words["x"] >= around["x"] - 1 and words["x"] + words["width"] <= around["x"] + max(around["width"], words["width"]) + 1

        assert eventually(page, whole), share


def test_both_networks_and_the_chosen_pair(jupyter, runs, page):
    copied(RECORDED.parent / "routed" / "routed-seed0", jupyter.folder / "routed")
    jupyter.write("routed.ipynb", "from sastc.lab import AttentionView\nview = AttentionView('routed')\nview", "view.lit")
    notebook = jupyter.open(page, "routed.ipynb")
    notebook.run_cell(0)
    networks = page.locator(".networks")
    networks.wait_for()

    def said(words):
        page.locator(".both + p", has_text=words).wait_for()

    first, last = (100 * record.mean(0) for record in Run(RECORDED.parent / "routed" / "routed-seed0").attention[[0, -1]])
    expect(networks.locator(".strand")).to_have_count(12)
    expect(networks.locator(".strand.route, .strand.lit")).to_have_count(4)
    said(f"layer2 gives {last[0, 0]:.1f}% of its attention to stage1, and learns from it")
    networks.press("ArrowDown")
    said(f"layer4 gives {last[1, 0]:.1f}% of its attention to stage1, and does not learn from it")
    expect(networks).to_be_focused()
    expect(page.locator(".maps .cell.lit")).to_have_count(2)
    page.locator(".maps .cell").nth(2).click()  # layer2 and stage3 at the first time step
    said(f"layer2 gives {last[0, 2]:.1f}% of its attention to stage3")
    assert eventually(page, lambda: notebook.run_cell(1) == "[0, 2]")
    page.get_by_label("training history").focus()
    page.keyboard.press("Home")
    said(f"layer2 gives {first[0, 2]:.1f}% of its attention to stage3")  # the routes go with the slider


def test_routes_of_a_run_that_is_written_meanwhile(jupyter, page, writing):
    recorded = RECORDED.parent / "routed" / "routed-seed0"
    live = writing("routed-live", recorded)
    jupyter.write("routed-live.ipynb", "from sastc.lab import AttentionView\nAttentionView('routed-live', seconds=0.2)")
    jupyter.open(page, "routed-live.ipynb").run_cell(0)
    page.locator(".sastc").get_by_text("the first record comes after").wait_for()
    expect(page.locator(".networks")).to_be_hidden()  # or not there
    live.start()
    page.locator(".networks .strand").first.wait_for()
    seen = (
        "() => [...document.querySelectorAll('.networks .strand')].map(strand => `${strand.getAttribute('y1')} ${strand.getAttribute('stroke-width')}`).sort()"
    )
    before = page.evaluate(seen)
    live.go_on.set()
    page.wait_for_function(f"before => ({seen})().join() !== before", arg=",".join(before))  # while it goes on
    live.stop()
    page.locator(".sastc").get_by_text("Finished after").wait_for()
    live.join()
    last = json.loads((recorded / "attention.jsonl").read_text().splitlines()[-1])
    page.locator(".where", has_text=f"step {last['step']},").wait_for()
    widths = [float(line.split()[1]) for line in page.evaluate(seen)]
    np.testing.assert_allclose(sorted(widths), np.sort(np.maximum(0.5, 12 * np.array(last["attention"]).mean(0).ravel())), atol=0.0051)


def choose_for_the_link(page, name: str) -> str:
    "Choose two runs of a board, sort and filter it; returns the address of that view."
    page.get_by_role("button", name="Choose none").click()
    for run in (name, "uniform-seed0"):
        page.get_by_label(f"choose {run}").check()
    page.get_by_role("button", name="test best").click()
    page.get_by_label("filter runs").fill("seed0")
    page.wait_for_function("() => document.querySelectorAll('.tall tbody tr').length === 4")
    page.locator(".differences", has_text="method").wait_for()
    page.get_by_text("Link to this view").wait_for()
    return page.get_by_text("Link to this view").evaluate("link => link.href")


def sees_the_selection(page, name: str) -> None:
    page.wait_for_function("() => document.querySelectorAll('.tall tbody tr').length === 4")
    expect(page.get_by_label("filter runs")).to_have_value("seed0")
    assert eventually(page, lambda: names(page)[-1] == "uniform-seed0")
    for run in (name, "uniform-seed0"):
        expect(page.get_by_label(f"choose {run}")).to_be_checked()
    expect(page.locator(".tall tbody input:checked")).to_have_count(2)  # and no others
    page.locator(".legend", has_text="uniform").wait_for()


def test_a_link_leads_to_a_selection_in_jupyterlab(jupyter, runs, page):
    notebook = jupyter.open(page, "board.ipynb")
    notebook.run_cell(0)
    page.locator(".sastc").get_by_text("8 runs: 7 finished, 1 damaged.").wait_for()
    address = choose_for_the_link(page, "sastc-seed0")
    page.get_by_role("button", name="Choose none").click()
    page.get_by_label("filter runs").fill("")
    page.wait_for_function("() => document.querySelectorAll('.tall tbody tr').length === 8")
    notebook.restart_kernel()
    page.close()
    later = page.context.new_page()
    later.goto(address)
    notebook = Notebook(later)
    notebook.ready()
    notebook.run_cell(0)
    sees_the_selection(later, "sastc-seed0")
    assert eventually(later, lambda: notebook.run_cell(1) == "['sastc-seed0', 'uniform-seed0']")  # Python knows it too


def test_a_link_leads_to_a_selection_in_voila(jupyter, runs, page):
    with jupyter.voila("board.ipynb") as url:
        page.goto(url)
        address = choose_for_the_link(page, "baseline-seed0")
        assert address.startswith(url)
        page.close()
        later = page.context.new_page()
        later.goto(address)  # whose kernel is another
        sees_the_selection(later, "baseline-seed0")


def test_colours_span_what_is_shown(jupyter, runs, page):
    jupyter.open(page, "attention.ipynb").run_cell(0)
    page.locator(".sastc").get_by_text("Each row sums to 1").wait_for()
    page.locator(".sastc").get_by_text(re.compile(r"Colours span what is shown here, 0\.1\d to 0\.79")).wait_for()
    page.get_by_label("training history").focus()
    page.keyboard.press("Home")
    page.get_by_label("what is shown").select_option("difference from time step 1")
    colours = "() => new Set([...document.querySelectorAll('.maps .cell')].map(cell => cell.getAttribute('fill'))).size"
    page.wait_for_function(f"({colours})() > 3")  # small differences are not all white
    page.get_by_label("colours span all that is possible").check()
    page.locator(".sastc").get_by_text("Colours span -1.00 to 1.00, the same for every run.").wait_for()


def test_a_saved_notebook_shows_a_picture(jupyter, runs, page):
    cells = "from IPython.display import display\nfrom sastc.lab import AttentionView, LaunchPanel, RunBoard\npanel = LaunchPanel('runs')\npanel.run.value = 'runs/sastc-seed0'\n"
    path = jupyter.write("kept.ipynb", f"{cells}display(AttentionView('runs/sastc-seed0'), RunBoard('runs'), panel)")
    notebook = jupyter.open(page, "kept.ipynb")
    notebook.run_cell(0)
    page.locator(".sastc .title").first.wait_for()
    page.locator(".sastc-launch .columns").first.wait_for()
    expect(page.locator("[data-view] img").first).to_be_hidden()  # the live view stands there
    notebook.save()
    outputs = json.loads(path.read_text())["cells"][0]["outputs"]
    pages = ["".join(output["data"]["text/html"]) for output in outputs if "text/html" in output["data"]]
    assert [page.count("<img alt=") for page in pages] == [1, 1, 2] and not any(str(runs.parent) in page for page in pages)
    later, sessions = page.context.new_page(), f"{jupyter.url}/api/sessions"
    for session in page.request.get(f"{sessions}?token={TOKEN}", timeout=PATIENCE).json():
        page.request.delete(f"{sessions}/{session['id']}?token={TOKEN}", timeout=PATIENCE)
    later.route("**/api/sessions*", lambda route: route.fulfill(status=500, body="no kernel") if route.request.method == "POST" else route.continue_())
    later.goto(f"{jupyter.url}/lab/tree/kept.ipynb?token={TOKEN}&reset")
    later.locator("[data-view] img").first.wait_for()
    later.wait_for_timeout(2000)  # in which JupyterLab gives up on the widgets
    expect(later.locator("[data-view] img")).to_have_count(4)
    expect(later.get_by_text("model not found").first).to_be_hidden()


def test_five_hundred_runs(jupyter, page):
    for number in range(500):
        copied(RECORDED / f"kd-seed{number % 2}", jupyter.folder / "many" / f"kd-{number:03}")
    jupyter.write(
        "many.ipynb",
        "import time; from sastc.lab import RunBoard",
        "began = time.perf_counter(); board = RunBoard('many'); board",
        "time.perf_counter() - began",
    )
    notebook = jupyter.open(page, "many.ipynb")
    notebook.run_cell(0)
    notebook.run_cell(1)
    page.locator(".sastc").get_by_text("500 runs: 500 finished.").wait_for()
    page.wait_for_function("() => document.querySelectorAll('.tall tbody tr').length === 500")
    print("seconds until 500 runs are on the board:", notebook.run_cell(2))  # measured, not asserted: no timed assert goes into a test
