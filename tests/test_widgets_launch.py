"""The launch panel without a browser: what is chosen brings its settings, what a recipe fills in, and what stays the user's."""

import asyncio
import html
import re

import pytest
import torch

from sastc.cli.training import Start, settings_of
from sastc.common.settings import flat, offered, setting
from sastc.lab import LaunchPanel
from sastc.lab.jobview import JobView, readings
from sastc.lab.plan import BY_RECIPE, LIKE_RUN, PRESETS
from sastc.methods import METHODS, Baseline
from sastc.models.pretrained import PREFIX
from sastc.models.teachers import is_teacher_name
from sastc.studies.recipes import recipe, recipes
from sastc.training.config import Config, TeacherConfig, settings_for
from sastc.training.jobs import Job
from sastc.training.records import write_json
from sastc.training.runs import Run, RunWriter, identity
from sastc.training.session import distill, train_teacher

ROW, TEACHER = "cifar10/vgg11-from-resnet19-T2", "cifar10-resnet19-teacher-small"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def trained(folder, **settings):
    "A finished teacher, as far as a panel looks."
    write_json(folder / "config.json", dict(kind="teacher", version=2, settings=settings | dict(folder=str(folder))))
    write_json(folder / "status.json", dict(state="finished", step=1, steps=1, time="2030-01-01T00:00:00+00:00", **identity()))
    (folder / "checkpoints").mkdir()
    torch.save({}, folder / "checkpoints" / "best.pt")


def said(panel):
    return html.unescape(panel.said.value)


def test_a_recipe_gives_what_it_gives_on_the_command_line():
    panel = LaunchPanel()
    panel.preset.value = BY_RECIPE
    for known in recipes():
        panel.recipe.value = known.name
        for small in (False, True):
            panel.small.value = small
            place = known.teacher_place(small)
            first = [settings_of(TeacherConfig, Start(recipe=known.name, small=small), {})] if place and not is_teacher_name(place) else []
            student = settings_of(Config, Start(recipe=known.name, small=small), dict(teacher="elsewhere")).but(teacher="" if first else place)
            assert [flat(config) for config in panel.configs()] == [flat(config) for config in (*first, student)], (known.name, small)


def test_a_panel_begins_with_a_recipe():
    panel = LaunchPanel(recipe=ROW, small=True)
    assert [(config.folder, config["epochs"]) for config in panel.configs()] == [
        (f"runs/{TEACHER}", 20),
        ("runs/cifar10-vgg11-from-resnet19-T2-small/sastc-seed1000", 10),
    ]
    told = html.unescape(panel.command.value)
    first, second = told.split(" && ")
    assert "sastc teacher " in first and f"--folder runs/{TEACHER} " in first and second.startswith("sastc distill ") and f"--teacher runs/{TEACHER} " in second
    assert "baseline 92.48, kd 93.01" in panel.about.value
    assert panel.origins.children[0].value.count("<tr") == len(recipe(ROW).table()) + 1


def test_what_is_edited_stays_and_names_the_folder():
    panel = LaunchPanel("mine", recipe=ROW, small=True)
    controls = panel.student.controls
    controls["method"].value, controls["seed"].value, controls["epochs"].value = "kd", "7", "3"
    assert panel.configs()[-1] == recipe(ROW).config(
        "kd", small=True, seed=7, epochs=3, teacher="", folder="mine/cifar10-vgg11-from-resnet19-T2-small/kd-seed7"
    )
    controls["folder"].value = "my own"
    assert panel.configs()[-1].folder == "my own"
    panel.preset.value = next(iter(PRESETS))
    assert panel.configs()[-1]["data"] == "digits" and panel.configs()[-1].folder.startswith("mine/digits-") and not panel.about.value
    assert [control.layout.display for control in (panel.plan._own["recipe"], panel.plan._own["small"], panel.origins)] == ["none"] * 3


def test_a_teacher_that_is_there_is_taken(tmp_path):
    trained(tmp_path / "mine" / TEACHER)
    panel = LaunchPanel(str(tmp_path / "mine"), recipe=ROW, small=True)
    assert [config.teacher for config in panel.configs()] == [str(tmp_path / "mine" / TEACHER)] and not panel.start.disabled
    panel.small.value = False
    assert [type(config) for config in panel.configs()] == [TeacherConfig, Config]  # the one of full size is not there
    trained(tmp_path / "mine" / TEACHER.removesuffix("-small"))
    panel.again.click()
    assert panel.source.value == "take a run or checkpoint" and len(panel.configs()) == 1
    panel.source.value = "train one first"  # the user's word is the last one
    panel.again.click()
    assert panel.configs()[0].folder == str(tmp_path / "mine" / TEACHER.removesuffix("-small")) + "-2"


def test_weights_of_torchvision_are_taken():
    panel = LaunchPanel(recipe="imagenet/resnet18-from-resnet34-T4")
    assert [config.teacher for config in panel.configs()] == [f"{PREFIX}resnet34"]
    panel.small.value = True
    assert panel.configs()[0].folder == "runs/imagenet-resnet34-teacher-small"


def test_a_teacher_sees_all_images_while_its_student_sees_few():
    panel = LaunchPanel(recipe="cifar100/few-shot-25", small=True)
    assert [config["train_images"] for config in panel.configs()] == [5000, 1250]
    shown = {name_of(field) for field in panel.drawers[1].children[0].children}
    assert "train_images" in shown and not shown & {"data", "root", "holdout"}
    panel.student.controls["train_images"].value, panel.teacher.controls["train_images"].value = "640", "1280"
    assert [config["train_images"] for config in panel.configs()] == [1280, 640]
    panel.preset.value = "CIFAR-10, two CPU cores (SASTC)"
    panel.student.controls["train_images"].value = "640"
    assert [config["train_images"] for config in panel.configs()] == [640, 640]


def test_names_that_are_not_known():
    with pytest.raises(ValueError, match=f"recipe: .*'cifar10/vgg11-from-resnet-T2'.*{ROW}"):
        LaunchPanel(recipe="cifar10/vgg11-from-resnet-T2")
    with pytest.raises(ValueError, match="small: expected only together with a recipe"):
        LaunchPanel(small=True)
    panel = LaunchPanel(recipe=ROW)
    panel.recipe.value = "cifar10/vgg11-from-resnet-T2"
    assert panel.start.disabled and ROW in said(panel) and not panel.command.value
    panel.recipe.value = ""
    assert not panel.start.disabled and panel.configs()[-1]["student"] == "vgg11"  # what was there stays, under a name of its own
    panel.recipe.value = "cifar10/vgg11-baseline-T2"
    assert not said(panel) and panel.configs()[0]["method"] == "baseline"


# ---- fields ----


def name_of(field) -> str:
    "The setting that a field is of."
    return re.search("<code>(.*)</code>", field.children[0].description)[1]


def shown(panel) -> set[str]:
    "Names of the settings whose fields are in the panel."
    boxes = [
        *(group.children[1] for group in panel.plan._groups.values()),
        *(drawer.children[0] for drawer in panel.drawers if drawer.layout.display != "none"),
    ]
    return {name_of(field) for box in boxes for field in box.children}


@pytest.mark.parametrize("method", METHODS)
def test_the_panel_shows_what_is_chosen_has_and_nothing_else(method):
    panel = LaunchPanel()
    panel.source.value = "take a run or checkpoint"
    panel.student.controls["method"].value = method
    known = set(offered(settings_for(Config, dict(data="digits", schedule="cosine", method=method))))
    needs = METHODS[method].uses_teacher
    assert shown(panel) - {"source", "processes"} == (known if needs else known - {"teacher"})
    assert (panel.source.disabled, "beta" in shown(panel)) == (not needs, "beta" in known)


@pytest.mark.parametrize("choice, value, come, go", [
    ("optimizer", "adam", set(), {"momentum"}),
    ("schedule", "step", {"milestones"}, set()),
    ("data", "nmnist", {"root", "frames_by", "skip_damaged", "teacher_mode"}, set()),
    ("student", "wrn16_2", set(), {"fc_neurons"}),
    ("neuron", "if", set(), {"decay"}),
    ("attention", "uniform", set(), {"factor", "attn_scale"}),
    ("method", "baseline", set(), {"alpha", "beta", "attention", "factor"}),
])  # fmt: skip
def test_another_choice_brings_its_own_fields(choice, value, come, go):
    panel = LaunchPanel()
    panel.source.value = "take a run or checkpoint"  # or a teacher would show its own momentum
    before = shown(panel)
    panel.student.controls[choice].value = value
    after = shown(panel)
    assert come <= after - before and go <= before - after
    assert panel.student.config()[choice] == value and not panel.student.problems()


def test_a_method_that_the_panel_has_never_heard_of(monkeypatch, tmp_path):
    class Strange(Baseline):
        "cross-entropy, seen strangely"

        strangeness: float = setting(0.5, "how strange", least=0, most=1)

    monkeypatch.setitem(METHODS._all(), "strange", Strange)
    panel = LaunchPanel()
    panel.student.controls["method"].value = "strange"
    panel.student.controls["strangeness"].value = "0.25"
    (config,) = panel.configs()
    assert (config["method"], config["strangeness"], config.needs_teacher) == ("strange", 0.25, False)
    assert "strangeness" in {name_of(field) for field in panel.plan._groups["Student"].children[1].children}
    panel.student.controls["strangeness"].value = "2"
    assert "strangeness: expected a number from 0 to 1, got 2.0" in said(panel) and panel.start.disabled


def test_readings_are_named_by_the_run(tmp_path):
    writer = RunWriter(tmp_path / "run", "student", flat(settings_for(Config, dict(method="baseline"))), {})
    writer.terms(dict(strange=dict(label="strangeness <b>", unit="")))
    writer.record("steps", step=1, epoch=0, total=3.0, strange=2.5, accuracy=0.5)
    assert readings(Run(tmp_path / "run")) == {"loss": "3", "strangeness <b>": "2.5", "training accuracy": "50.0%"}
    view = JobView()
    view.show(Job(tmp_path / "run"))
    assert "strangeness &lt;b&gt;" in view.readings.value and {note["text"] for note in view.curves.figure["layout"]["annotations"]} >= {"strangeness <b>"}


def test_every_control_has_its_line_of_help():
    panel = LaunchPanel()
    fields = [*panel.student.fields.items(), *panel.teacher.fields.items(), *panel.plan._own.items()]
    for name, field in fields:
        control, _, help = field.children
        assert name_of(field) == name and len(control.description) > len(name) + 20 and '<span class="help">' in help.value and len(help.value) > 30, name


def test_what_was_typed_comes_back():
    panel = LaunchPanel()
    controls = panel.student.controls
    controls["beta"].value = "7"
    controls["method"].value = "kd"
    controls["data"].value = "digi"  # while it is typed, the fields stay
    assert "alpha" in controls and "data: expected one of digits" in said(panel)
    controls["data"].value = "digits"
    controls["method"].value = "sastc"
    assert panel.student.config()["beta"] == 7.0 and not said(panel)


# ---- damage, and what goes on asking ----

DAMAGE = dict(
    empty="",
    truncated='{"a": ',
    list="[]",
    deep="[" * 100_000,
    wrong='{"kind": 7, "settings": [], "stages": {}, "step": "x", "state": 3, "time": 1, "test_accuracy_best": [], "student": 1, "pid": "x"}',
)


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["job.json", "config.json", "status.json", "process.json", "result.json", "layers.json", "steps.jsonl", "epochs.jsonl"])
def test_a_damaged_run_is_a_line_in_the_panel(tmp_path, name, damage):
    config = settings_for(Config, dict(method="baseline", data="digits"))
    for run in ("good", "bad"):
        writer = RunWriter(tmp_path / "runs" / run, "student", flat(config), {})
        writer.record("steps", step=1, epoch=0, total=3.0, ce=3.0, accuracy=0.5)
        writer.status(state="finished", step=1, steps=1, epoch=1, epochs=1, seconds=1.0)
    (tmp_path / "runs" / "bad" / name).write_text(DAMAGE[damage] + "\n" * name.endswith("l"))
    panel = LaunchPanel(tmp_path / "runs")
    labels = [label for label, _ in panel.run.options]
    assert "good · finished" in labels and any(label.startswith("bad · ") for label in labels)
    panel.run.value = str(tmp_path / "runs" / "bad")
    empty_lines = name.endswith("l") and damage == "empty"
    assert empty_lines or (name in panel.view.words.value and "damaged" in panel.view.words.value), panel.view.words.value
    panel.run.value = str(tmp_path / "runs" / "good")
    assert "Finished after 1 steps" in panel.view.words.value and not panel.start.disabled


def pollers() -> int:
    return sum(task.get_name() == "sastc view" and not task.cancelling() for task in asyncio.all_tasks())


def test_a_panel_that_is_closed_asks_no_more(tmp_path):
    config = settings_for(Config, dict(method="baseline", data="digits"))
    writer = RunWriter(tmp_path / "runs" / "run", "student", flat(config), {})
    writer.status(state="running", step=1, steps=9, epoch=0, epochs=1, seconds=1.0)

    async def watch():
        panel = LaunchPanel(tmp_path / "runs")
        assert panel.view.state == "running" and pollers() == 1
        panel.run.value = ""
        panel.run.value = str(writer.folder)  # shown again
        assert pollers() == 1
        panel.close()
        return pollers()

    assert asyncio.run(watch()) == 0


@pytest.mark.parametrize("kind", ["student", "teacher"])
def test_a_panel_that_finds_a_run_shows_its_settings(tmp_path, kind):
    own = dict(method="kd", temperature=7.0, teacher="elsewhere", time_steps=3) if kind == "student" else dict(model="resnet18")
    config = settings_for(dict(student=Config, teacher=TeacherConfig)[kind], dict(own, data="digits", epochs=7, device="cpu", seed=9))
    writer = RunWriter(tmp_path / "runs" / "run", kind, flat(config), {})
    writer.status(state="running", step=1, steps=9, epoch=0, epochs=7, seconds=1.0)
    panel = LaunchPanel(tmp_path / "runs")
    (found,) = panel.plan.trains()
    assert panel.preset.value == LIKE_RUN and found.config(device="cpu", folder="").but(folder="") == config
    panel.preset.value = next(iter(PRESETS))
    assert panel.configs()[-1]["epochs"] == 8
    panel.like(tmp_path / "runs" / "run")
    assert found.values()["epochs"] == 7 and panel.device.value == "cpu"


def test_no_label_is_cut_before_it_says_what_is_set():
    from sastc.common.settings import offered
    from sastc.lab.forms import label_of
    from sastc.methods import METHODS
    from sastc.training.config import Config, settings_for

    labels = {
        name: label_of(entry.declared.metadata["help"]) for method in METHODS for name, entry in offered(settings_for(Config, dict(method=method))).items()
    }
    assert labels["calibrate_until"] == "share of the training after which the calibration is off"
    assert labels["label_noise"] == "share of the training labels that are perturbed" and labels["augment"] == "random crop and mirroring"
    assert labels["most_macs"] == "largest cost of a released projection" and not {label for label in labels.values() if label in ("auto", "early", "cosine")}


def test_a_new_run_from_elsewhere_learns_from_the_same_teacher(tmp_path, monkeypatch):
    "Two working folders, each with a runs/teacher: what a run of the one names by a relative path is nothing of the other's."
    tiny = dict(data="digits", train_images=100, batch_size=16, width=0.0625, epochs=1, device="cpu")
    for seed, name in enumerate(("two", "one")):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        train_teacher(model="vgg11", seed=seed, folder="runs/teacher", **tiny)
    run = distill(method="kd", teacher="runs/teacher", folder="runs/kd", **tiny).folder.resolve()
    start, right = Start(config=str(run)), str(run.parent / "teacher")
    assert settings_of(Config, start, {}).teacher == "runs/teacher"
    monkeypatch.chdir(tmp_path / "two")
    panel = LaunchPanel(run.parent)
    panel.like(run)
    assert [settings_of(Config, start, {}).teacher, panel.configs()[0].teacher] == [right, right] and not panel.said.value
    assert settings_of(Config, start, dict(teacher="runs/teacher")).teacher == "runs/teacher"  # typed
    (run.parent / "teacher").rename(run.parent / "other")
    panel.like(run)
    assert settings_of(Config, start, {}).teacher == right and f"got {right}, which is not there" in said(panel)


def test_a_run_that_was_stopped_is_watched_for_a_command_that_resumes_it(tmp_path):
    trained(tmp_path / "run", model="vgg11", epochs=1)
    stopped = dict(state="stopped", step=1, steps=2, epoch=0, epochs=2, time="2030-01-01T00:00:00+00:00", **identity())
    write_json(tmp_path / "run" / "status.json", stopped)
    view = JobView()
    view.show(Job(tmp_path / "run"))
    assert view._look() >= 5 and "--epochs 1" in view.text.value
    write_json(tmp_path / "run" / "config.json", dict(kind="teacher", version=2, settings=dict(model="vgg11", epochs=2)))
    write_json(tmp_path / "run" / "status.json", stopped | dict(state="running"))
    assert view._look() < 5 and view.state == "running" and "--epochs 2" in view.text.value
    write_json(tmp_path / "run" / "status.json", stopped | dict(state="failed"))
    view._look()
    assert view.more.selected_index == 0
    view.more.selected_index = None  # closed
    view._look()
    assert view.more.selected_index is None
    view.close()


def test_a_run_whose_settings_cannot_be_read_here_does_not_leave_others_to_be_launched(tmp_path):
    "A kernel that was started again does not know a class of the user's own; the form would still hold a preset."
    trained(tmp_path / "runs" / "own", model="vgg11", optimizer="my_parts:Mine")
    panel = LaunchPanel(tmp_path / "runs")
    panel.run.value = str(tmp_path / "runs" / "own")
    panel.same.click()
    assert panel.preset.value == LIKE_RUN and panel.start.disabled and "my_parts" in said(panel) and "preset: expected a run whose settings" in said(panel)
    panel.preset.value = next(iter(PRESETS))
    assert not panel.start.disabled and not said(panel)
