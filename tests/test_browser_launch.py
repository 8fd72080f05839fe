"""LaunchPanel in a real JupyterLab and in Voila, with real training on digits."""

import contextlib
import json
import os
import re
import shutil
import time
from pathlib import Path

import psutil
import pytest
import torch

from browser import PATIENCE, browser, eventually, expect, jupyter, needs_browser, page  # noqa: F401
from sastc.training.config import fast_precision
from sastc.training.jobs import Job, find_jobs
from sastc.training.runs import now

pytestmark = needs_browser

PANEL = """\
from sastc.lab.launch import LaunchPanel
from sastc.lab.plan import PRESETS
tiny = dict(data="digits", train_images=128, batch_size=16, log_every=1, seed=0)
PRESETS["tiny"] = dict(tiny, width=0.0625, beta=0.5, lr=0.02, epochs={epochs}), dict(tiny, model="wrn16_2", width=0.25, lr=0.1, epochs=1)
panel = LaunchPanel({folder!r})
panel.preset.value = "tiny"
panel
"""
LONG = 4000  # epochs, which no processor ends while a test looks at them


@pytest.fixture
def runs(jupyter):
    "Where the runs of a test go; none is there when it begins, also at its second try, and none outlives it."
    folder = jupyter.folder / os.environ["PYTEST_CURRENT_TEST"].split("::")[-1].split(" ")[0]
    shutil.rmtree(folder, ignore_errors=True)
    yield folder
    for job in find_jobs(folder):
        while process := job.process:  # until it is gone, and writes no more
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
            time.sleep(0.1)


def opened(jupyter, page, runs, epochs):
    jupyter.write(f"{runs.name}.ipynb", PANEL.format(epochs=epochs, folder=runs.name), "21 * 2")
    notebook = jupyter.open(page, f"{runs.name}.ipynb")
    notebook.run_all()
    page.locator(".sastc-launch").wait_for()
    return notebook


def field(page, group, name):
    "The control of a setting: in a group of the form, or in the drawer of all others."
    place = page.locator(".sastc-launch .group", has=page.get_by_role("heading", name=group, exact=True)) if group else page.locator(".sastc-launch .drawer")
    return place.locator(f".setting-{name} :is(input, select)").first


def press(page, name):
    page.locator(".sastc-launch").get_by_role("button", name=name, exact=True).click()


def state(page, name):
    "Wait until the panel shows a state."
    page.locator(f".sastc-job .state.{name}").wait_for()


def change(page, selector):
    "Wait until what an element shows has changed."
    shown = page.locator(selector).first
    shown.wait_for()
    before = shown.evaluate("element => element.outerHTML")
    page.wait_for_function(
        "([selector, before]) => { const e = document.querySelector(selector); return e && e.outerHTML !== before; }", arg=[selector, before]
    )


def step(page):
    "Training step that the panel shows."
    words = page.locator(".sastc-job", has_text=re.compile(r"step [\d,]+ of")).text_content()
    return int(re.search(r"step ([\d,]+) of", words)[1].replace(",", ""))


CURVE, ATTENTION = ".sastc-job .curves .panel:first-child > svg", ".sastc-job .attention svg"


def test_a_run_from_launch_to_resume(jupyter, page, runs):
    notebook = opened(jupyter, page, runs, epochs=LONG)
    field(page, "Student", "temperature").fill("3.5")
    press(page, "Launch")
    page.locator(".sastc-launch").get_by_text("stage 1 of 2 (teacher)").or_(page.locator(".sastc-launch").get_by_text("stage 2 of 2 (student)")).wait_for()
    page.locator(".sastc-launch").get_by_text("stage 2 of 2 (student)").wait_for()
    for live in (CURVE, ATTENTION):
        change(page, live)
    assert notebook.run_cell(1) == "42"  # the kernel is free

    notebook.reload()
    state(page, "running")
    expect(field(page, "Student", "temperature")).to_have_value("3.5")
    expect(page.locator(".sastc-job .tiles").get_by_text("images per second")).to_be_visible()
    for live in (CURVE, ATTENTION):
        change(page, live)

    press(page, "Stop")
    state(page, "stopped")
    stopped, job = step(page), find_jobs(runs)[0]
    assert job.state == "stopped" and Job(job.folder).stage.status["step"] == stopped
    assert (job.folder / "checkpoints" / "last.pt").exists()
    expect(page.get_by_role("button", name="Stop", exact=True)).to_be_disabled()

    press(page, "Resume")
    state(page, "running")
    page.wait_for_function(
        "step => Number(document.querySelector('.sastc-job')?.textContent.match(/step ([0-9,]+) of/)?.[1].replace(',', '')) > step", arg=stopped
    )
    assert json.loads((job.folder / "config.json").read_text())["settings"]["temperature"] == 3.5

    pid = Job(job.folder).process.pid
    notebook.restart_kernel()
    assert Job(job.folder).process.pid == pid  # the run has not noticed
    notebook.run_all()
    state(page, "running")  # the new panel has found it
    change(page, CURVE)
    press(page, "Stop")
    state(page, "stopped")


def test_bad_values_are_refused_as_they_are_typed(jupyter, page, runs):
    opened(jupyter, page, runs, epochs=1)
    launch, said = page.get_by_role("button", name="Launch", exact=True), page.locator(".sastc-launch .problem")
    sentences = {
        ("Student", "time_steps", "0", "2"): "time_steps: expected a number of at least 1, got 0",
        ("Training", "lr", "fast", "0.02"): "lr: expected a number of at least 0, got 'fast'",
        ("Data", "data", "digit", "digits"): "data: expected one of digits, cifar10",
        ("Training", "batch_size", "4096", "16"): "batch_size: expected at most 115 (115 of 128 images are trained on), got 4096",
        ("Training", "folder", runs.name, ""): f"folder: expected one inside of {runs.name}, where the runs lie, or elsewhere, got {runs.name}",
    }
    for (group, name, wrong, right), sentence in sentences.items():
        field(page, group, name).fill(wrong)
        said.get_by_text(sentence).wait_for()
        expect(launch).to_be_disabled()
        field(page, group, name).fill(right)
        said.first.wait_for(state="detached")
        expect(launch).to_be_enabled()
    expect(page.locator(".sastc-launch pre").first).to_contain_text(re.compile("^sastc teacher --data digits"))
    assert not runs.exists()


def test_what_is_wrong_with_a_value_stands_at_its_field(jupyter, page, runs):
    opened(jupyter, page, runs, epochs=1)
    page.get_by_role("button", name="All other settings", exact=True).press("Enter")
    wrong = {  # a number, a list, a whole number; and what only the data refuse
        ("Training", "lr", "fast"): "expected a number of at least 0, got 'fast'",
        ("", "milestones", "0.5, x"): "expected a number from 0 to 1, got 'x'",
        ("", "keep_epochs", "1,2.5"): "expected a whole number from 1 to 1, got '2.5'",
        ("Training", "batch_size", "4096"): "expected at most 115 (115 of 128 images are trained on), got 4096",
    }
    for (group, name, value), sentence in wrong.items():
        control = field(page, group, name)
        before = control.input_value()
        if name == "milestones":
            field(page, "", "schedule").select_option("step")
            control.wait_for()
            before = control.input_value()
        control.fill(value)
        said = page.locator(f".sastc-launch .setting-{name} .said")
        said.get_by_text(sentence).wait_for()
        expect(page.locator(".sastc-launch .said")).to_have_count(1)
        expect(said).to_be_visible()
        page.wait_for_function("name => document.querySelector(`.sastc-launch .setting-${name} input[aria-invalid=true]`)", arg=name)
        described = "control => control.getAttribute('aria-describedby').split(' ').map(id => document.getElementById(id).textContent)"
        assert control.evaluate(described)[0] == said.text_content()
        help = control.locator("xpath=ancestor::*[contains(@class, ' field ')]").locator(".help")

        def apart() -> bool:
            above, between, below = boxes = [part.bounding_box() for part in (control, said, help)]
            return all(boxes) and above["y"] + above["height"] <= between["y"] + 1 and between["y"] + between["height"] <= below["y"] + 2

        assert eventually(page, apart), name  # nothing lies on it
        control.fill(before)
        said.wait_for(state="detached")


def test_a_folder_that_is_deleted_or_renamed_is_gone(jupyter, page, runs):
    opened(jupyter, page, runs, epochs=LONG)
    field(page, "Student", "method").select_option("baseline")
    press(page, "Launch")
    state(page, "running")
    [job] = find_jobs(runs)
    assert eventually(page, (job.folder / "checkpoints" / "last.pt").exists)
    job.process.kill()
    state(page, "lost")
    job.folder.rename(runs / "renamed")
    press(page, "Resume")
    state(page, "gone")
    page.locator(".sastc-launch .problem").get_by_text(f"folder: expected the folder of a run, got {runs.name}/{job.folder.name}, which holds none").wait_for()
    expect(page.get_by_role("button", name="Resume", exact=True)).to_be_disabled()
    assert not job.folder.exists()
    renamed = page.get_by_label("run", exact=True).locator("option", has_text="renamed")
    renamed.wait_for(state="attached")  # the list is renewed after the state is shown
    page.get_by_label("run", exact=True).select_option(label=renamed.text_content())
    state(page, "lost")
    press(page, "Resume")
    state(page, "running")
    process = Job(runs / "renamed").process
    page.wait_for_function("() => /step ([2-9]|1,|[0-9]{2})/.test(document.querySelector('.sastc-job').textContent)")
    shutil.rmtree((runs / "renamed").rename(runs / ".away"), ignore_errors=True)  # at once, while it is written
    state(page, "gone")
    process.wait(PATIENCE / 1000)
    assert not (runs / "renamed").exists(), [*(runs / "renamed").iterdir()]  # the process ended, and left no folder that is no run
    expect(page.get_by_role("button", name="Launch", exact=True)).to_be_enabled()


def test_a_recipe_is_looked_up_changed_and_launched(jupyter, page, runs):
    opened(jupyter, page, runs, epochs=1)
    field(page, "Begin with", "preset").select_option("a recipe (row of the paper, newer network)")
    name, problem = field(page, "Begin with", "recipe"), page.locator(".sastc-launch .problem")
    name.fill("cifar10/vgg11-base")
    problem.get_by_text(re.compile(r"recipe: .*'cifar10/vgg11-base'.*cifar10/vgg11-baseline-T")).wait_for()
    name.fill("cifar10/vgg11-baseline-T2")
    problem.first.wait_for(state="detached")
    field(page, "Begin with", "small").check()
    page.locator(".sastc-launch").get_by_text(
        "VGG-11 without a teacher, 2 steps; the small variant, for two CPU cores. Printed test accuracy, in %: baseline 92.48"
    ).wait_for()
    page.locator(".sastc-launch").get_by_text("Where the settings of the recipe come from").click()
    page.locator(".origins").get_by_role("cell", name="released code").first.wait_for()
    for group, changed in dict(Data=dict(data="digits", train_images="128"), Training=dict(epochs="1")).items():
        for setting, value in changed.items():
            field(page, group, setting).fill(value)
    press(page, "Launch")
    state(page, "finished")
    (job,) = find_jobs(runs)
    assert job.folder == runs / "cifar10-vgg11-baseline-T2-small" / "baseline-seed1000"
    kept = json.loads((job.folder / "config.json").read_text())["settings"]
    assert {name: kept[name] for name in ("method", "data", "width", "precision", "epochs")} == dict(
        method="baseline", data="digits", width=0.25, precision=fast_precision(), epochs=1
    )


def test_a_failing_run_shows_its_reason_and_its_log(jupyter, page, runs):
    opened(jupyter, page, runs, epochs=1)
    field(page, "Student", "method").select_option("baseline")
    page.get_by_role("button", name="All other settings", exact=True).click()
    field(page, "", "holdout").fill("0.01")  # which only the data can refuse
    press(page, "Launch")
    state(page, "failed")
    expect(page.locator(".sastc-job .line")).to_contain_text("holdout: ")
    page.locator(".sastc-job pre", has_text="sastc distill: holdout: ").wait_for()  # the log has opened


def test_voila_shows_the_same(jupyter, page, runs):
    jupyter.write("voila.ipynb", PANEL.format(epochs=2, folder=runs.name))
    with jupyter.voila("voila.ipynb") as url:
        page.goto(url)
        field(page, "Training", "seed").fill("5")
        press(page, "Launch")
        page.locator(f"{CURVE} path").first.wait_for()  # a short run may have ended before it is drawn, and then it does not change any more
        page.locator(ATTENTION).first.wait_for()
        state(page, "finished")
        page.locator(".sastc-job .tiles").get_by_text("test accuracy, best epoch").wait_for()
    assert [job.stage.settings["seed"] for job in find_jobs(runs)][0] == 5 and Path(find_jobs(runs)[0].folder / "result.json").exists()


CLIPPED = """helps => helps.flatMap(help => {
    const box = help.getBoundingClientRect();
    for (let around = help.closest('.fields'); !around.matches('.sastc-launch'); around = around.parentElement) {
        const { left, right, bottom } = around.getBoundingClientRect();
        if (getComputedStyle(around).overflow !== 'visible' && (box.left < left - 1 || box.right > right + 1 || box.bottom > bottom + 1))
            return [`${help.textContent} in ${around.className}`];
    }
    return [];
})"""


def test_help_shows_for_the_pointer_and_for_the_keyboard(jupyter, page, runs):
    opened(jupyter, page, runs, epochs=1)
    control = field(page, "Student", "beta")
    about = page.locator(".sastc-launch .group .setting-beta .help")
    expect(about).to_be_hidden()
    control.focus()
    about.get_by_text("weight of the calibration").wait_for()
    expect(control).to_have_accessible_description("weight of the calibration")
    field(page, "Training", "lr").focus()
    about.wait_for(state="hidden")
    control.hover()
    about.wait_for(state="visible")
    helps = page.locator(".face .help")
    assert eventually(page, lambda: helps.count() > 15)
    assert eventually(page, lambda: helps.evaluate_all(CLIPPED) == []), helps.evaluate_all(CLIPPED)  # whole where it shows, in the last row too


def test_another_method_brings_its_own_fields(jupyter, page, runs):
    opened(jupyter, page, runs, epochs=1)
    field(page, "Student", "beta").fill("3")
    field(page, "Student", "method").select_option("kd")
    field(page, "Student", "beta").wait_for(state="detached")
    expect(field(page, "Student", "temperature")).to_be_visible()
    field(page, "Student", "method").select_option("sastc")
    field(page, "Student", "beta").wait_for()
    expect(field(page, "Student", "beta")).to_have_value(re.compile(r"^3(\.0)?$"))
    launch = page.get_by_role("button", name="Launch", exact=True)
    expect(launch).to_be_enabled()


def test_a_cell_that_is_run_again_asks_once(jupyter, page, runs):
    count = "import asyncio\nsum(task.get_name() == 'sastc view' for task in asyncio.all_tasks())"
    shutil.copytree(Path(__file__).parent.parent / "nbs" / "results" / "cifar10_core", runs)
    running = dict(state="running", step=1, steps=9, epoch=0, epochs=1, seconds=1.0, host="another machine", time=now())
    (runs / "sastc-seed0" / "status.json").write_text(json.dumps(running))
    (runs / "sastc-seed0" / "result.json").unlink()
    views = f"from sastc.lab import AttentionView, LaunchPanel, RunBoard\nfrom IPython.display import display\ndisplay(LaunchPanel({runs.name!r}), AttentionView({runs.name + '/sastc-seed0'!r}), RunBoard({runs.name!r}))"
    jupyter.write("again.ipynb", views, count)
    notebook = jupyter.open(page, "again.ipynb")
    notebook.restart_kernel()  # views of an earlier try may ask in it
    for _ in range(3):
        notebook.run_cell(0)
        page.locator(".sastc .title").first.wait_for()
        assert notebook.run_cell(1) == "3"
    page.locator(".sastc").get_by_text("is being trained, at step 1 of 9").first.wait_for()


CUT = """() => [...document.querySelectorAll('.sastc-launch .fields .field')].filter(field => field.offsetParent !== null).flatMap(field => {
    const label = field.querySelector('.widget-label, .widget-label-basic');
    return label.scrollWidth > label.clientWidth + 1 || label.scrollHeight > label.clientHeight + 1 ? [label.textContent] : [];
})"""


def test_labels_say_in_words_what_a_setting_is(jupyter, page, runs):
    opened(jupyter, page, runs, epochs=1)
    expect(page.get_by_label("weight of the calibration beta", exact=True)).to_have_value("0.5")
    page.get_by_label("teacher: passes over the training images epochs", exact=True).wait_for()
    page.get_by_label("passes over the training images epochs", exact=True).wait_for()
    for name in ("All other settings", "All other settings of the teacher"):
        page.get_by_role("button", name=name, exact=True).press("Enter")
    page.locator(".drawer .setting-relative_distance").first.wait_for()
    page.wait_for_function("() => [...document.querySelectorAll('.sastc-launch .fields .field')].filter(field => field.offsetParent).length > 55")
    assert eventually(page, lambda: page.evaluate(CUT) == []), page.evaluate(CUT)
    fields = page.locator(".sastc-launch .fields .field").evaluate_all(
        "all => all.filter(f => f.offsetParent).map(f => f.querySelector('.help').textContent.length)"
    )
    assert len(fields) > 55 and min(fields) > 8


@pytest.mark.parametrize("size", [(1280, 900), (1920, 1080)])
def test_launch_and_what_is_live_stand_beside_each_other(jupyter, page, runs, size):
    page.set_viewport_size(dict(width=size[0], height=size[1]))
    opened(jupyter, page, runs, epochs=LONG)
    press(page, "Launch")
    page.locator(".sastc-launch").get_by_text("stage 2 of 2 (student)").wait_for()
    page.locator(CURVE).wait_for()

    def beside() -> bool:
        left, right = boxes = [page.locator(place).first.bounding_box() for place in (".sastc-launch .begin", ".sastc-job")]
        return all(boxes) and left["x"] + left["width"] <= right["x"] and right["width"] > 350

    assert eventually(page, beside)
    for part in (page.get_by_role("button", name="Launch", exact=True), page.get_by_role("button", name="Stop", exact=True), page.locator(CURVE)):
        assert eventually(page, lambda: (box := part.bounding_box()) and box["y"] < size[1] - 100)  # above the fold
    state(page, "running")
    press(page, "Stop")
    state(page, "stopped")
    expect(page.locator(".sastc-job")).not_to_contain_text("left", use_inner_text=True)


def test_a_typed_folder_is_no_fault_once_it_is_launched(jupyter, page, runs):
    notebook = opened(jupyter, page, runs, epochs=LONG)
    field(page, "Training", "folder").fill(f"{runs.name}/mine")
    press(page, "Launch")
    page.locator(".sastc-launch").get_by_text("stage 2 of 2 (student)").wait_for()
    page.locator(".sastc-launch").get_by_text(f"{runs.name}/mine is the folder of the run that is shown").wait_for()
    expect(page.locator(".sastc-launch .problem")).to_have_count(0)
    expect(page.locator(".sastc-launch pre").first).to_contain_text(f"--folder {runs.name}/mine")
    notebook.restart_kernel()
    before = "() => getComputedStyle(document.querySelector('.sastc-launch'), '::before').content"
    page.wait_for_function(f"({before})().includes('run its cell again')")  # a panel without a kernel says so
    notebook.run_all()
    state(page, "running")
    expect(field(page, "Begin with", "preset").locator("option:checked")).to_have_text("tiny")  # which the cell asks for
    field(page, "Student", "beta").fill("9")  # of the form, not of the run
    press(page, "Settings like this")
    chosen = "() => document.querySelector('.setting-preset select').selectedOptions[0].textContent.replaceAll('\\u00a0', ' ')"
    page.wait_for_function(f"({chosen})() === 'as the run that is shown'")
    expect(field(page, "Student", "beta")).to_have_value("0.5")
    expect(field(page, "Training", "folder")).to_have_value("")
    press(page, "Stop")
    state(page, "stopped")


@pytest.mark.parametrize("teacher", ["student", "notebook"])
def test_a_teacher_that_is_none_is_refused(jupyter, page, runs, teacher):
    shutil.copytree(Path(__file__).parent.parent / "nbs" / "results" / "cifar10_core" / "kd-seed0", runs / "kd")
    torch.save(dict(format="sastc checkpoint 1"), (runs / "kd" / "best.pt"))
    (runs / "kd" / "checkpoints").mkdir()
    shutil.move(runs / "kd" / "best.pt", runs / "kd" / "checkpoints" / "best.pt")
    (runs / "plan.ipynb").write_text("{}")
    opened(jupyter, page, runs, epochs=1)
    field(page, "Teacher", "source").select_option("take a run or checkpoint")
    field(page, "Teacher", "teacher").fill(f"{runs.name}/kd" if teacher == "student" else f"{runs.name}/plan.ipynb")
    words = "expected the run of a teacher, got" if teacher == "student" else "expected a file with weights, written by sastc, got"
    page.locator(".sastc-launch .problem").get_by_text(words).wait_for()
    expect(page.get_by_role("button", name="Launch", exact=True)).to_be_disabled()


def test_a_run_is_launched_like_one_on_the_board(jupyter, page, runs):
    panel = PANEL.format(epochs=1, folder=runs.name).rsplit("panel\n", 1)[0]
    jupyter.write(f"{runs.name}.ipynb", f"{panel}from sastc.lab import RunBoard\nboard = RunBoard({runs.name!r}, seconds=0.5, panel=panel)\npanel", "board")
    notebook = jupyter.open(page, f"{runs.name}.ipynb")
    notebook.run_all()
    page.locator(".sastc").get_by_text(f"There is no folder {runs.name} yet.").wait_for()
    field(page, "Student", "method").select_option("baseline")
    field(page, "Student", "time_steps").fill("3")
    press(page, "Launch")
    row = page.locator(".tall tbody tr", has_text="baseline-seed0")
    row.locator(".state.finished").wait_for()
    field(page, "Student", "time_steps").fill("1")
    field(page, "Student", "method").select_option("kd")
    row.get_by_role("button", name=re.compile("^launch like .*baseline-seed0$")).press("Enter")
    page.locator(".sastc").get_by_text(re.compile("The settings of .*baseline-seed0 are in the panel.")).wait_for()
    page.wait_for_function("() => document.querySelector('.group .setting-time_steps input').value === '3'")
    expect(field(page, "Student", "method")).to_have_value("baseline")
    field(page, "Training", "seed").fill("1")
    press(page, "Launch")
    page.locator(".tall tbody tr", has_text="baseline-seed1").locator(".state.finished").wait_for()
    kept = {job.stage.settings["seed"]: job.stage.settings for job in find_jobs(runs)}
    differ = {name for name in kept[0] if kept[0][name] != kept[1][name]}
    assert kept[0]["time_steps"] == 3 and "seed" in differ and differ <= {"seed", "folder"}
