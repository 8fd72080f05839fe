"""The launch panel without a browser: what a recipe fills in, and what stays the user's."""

import html
from dataclasses import replace

import pytest

from sastc.cli import by_recipe
from sastc.training.config import Config, TeacherConfig
from sastc.models.pretrained import PREFIX
from sastc.studies.recipes import recipe, recipes
from sastc.training.runs import identity, write_json
from sastc.lab import LaunchPanel
from sastc.lab.launch import BY_RECIPE, PRESETS

ROW, TEACHER = "cifar10/vgg11-from-resnet19-T2", "cifar10-resnet19-teacher-small"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def trained(folder, **settings):
    "A finished teacher, as far as a panel looks."
    write_json(folder / "config.json", dict(kind="teacher", settings=settings | dict(folder=str(folder))))
    write_json(folder / "status.json", dict(state="finished", step=1, steps=1, time="2030-01-01T00:00:00+00:00", **identity()))
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "best.pt").touch()


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
            first = [by_recipe(TeacherConfig, known.name, small, {})] if place and not place.startswith(PREFIX) else []
            student = by_recipe(Config, known.name, small, dict(teacher="elsewhere"))
            assert panel.configs() == [*first, replace(student, teacher="" if first else place)], (known.name, small)


def test_a_panel_begins_with_a_recipe():
    panel = LaunchPanel(recipe=ROW, small=True)
    assert [(config.folder, config.epochs) for config in panel.configs()] == [(f"runs/{TEACHER}", 20), ("runs/cifar10-vgg11-from-resnet19-T2-small/sastc-seed1000", 10)]
    told = html.unescape(panel.command.value)
    assert f"--folder runs/{TEACHER} && sastc_distill" in told and f"--teacher runs/{TEACHER}" in told
    assert "baseline 92.48, kd 93.01" in panel.about.value
    assert panel.origins.children[0].value.count("<tr") == len(recipe(ROW).table()) + 1


def test_what_is_edited_stays_and_names_the_folder():
    panel = LaunchPanel("mine", recipe=ROW, small=True)
    controls = panel.student.controls
    controls["method"].value, controls["seed"].value, controls["epochs"].value = "kd", "7", "3"
    assert panel.configs()[-1] == recipe(ROW).config("kd", small=True, seed=7, epochs=3, teacher="", folder="mine/cifar10-vgg11-from-resnet19-T2-small/kd-seed7")
    controls["folder"].value = "my own"
    assert panel.configs()[-1].folder == "my own"
    panel.preset.value = next(iter(PRESETS))
    assert panel.configs()[-1].data == "digits" and panel.configs()[-1].folder.startswith("mine/digits-") and not panel.about.value
    assert [control.layout.display for control in (panel.recipe, panel.small, panel.origins)] == ["none"] * 3


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
    assert [config.train_images for config in panel.configs()] == [5000, 1250]
    own = {name: control.layout.display for name, control in panel.teacher.controls.items() if name in ("train_images", "data")}
    assert own == dict(train_images="", data="none")
    panel.student.controls["train_images"].value, panel.teacher.controls["train_images"].value = "640", "1280"
    assert [config.train_images for config in panel.configs()] == [1280, 640]
    panel.preset.value = "CIFAR-10 on two CPU cores"
    panel.student.controls["train_images"].value = "640"
    assert [config.train_images for config in panel.configs()] == [640, 640]


def test_names_that_are_not_known():
    with pytest.raises(ValueError, match=f"recipe: 'cifar10/vgg11-from-resnet-T2' is not known .did you mean '{ROW}'"):
        LaunchPanel(recipe="cifar10/vgg11-from-resnet-T2")
    with pytest.raises(ValueError, match="small: True given without a recipe"):
        LaunchPanel(small=True)
    panel = LaunchPanel(recipe=ROW)
    panel.recipe.value = "cifar10/vgg11-from-resnet-T2"
    assert panel.start.disabled and f"is not known (did you mean '{ROW}'?)" in said(panel) and not panel.command.value
    panel.recipe.value = ""
    assert not panel.start.disabled and panel.configs()[-1].student == "vgg11"  # what was there stays, under a name of its own
    panel.recipe.value = "cifar10/vgg11-baseline-T2"
    assert not said(panel) and panel.configs()[0].method == "baseline"
