"""Cases in which a number would come out wrong without a word, and places where a run folder must not have anything written."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from sastc import assess, create_model, distill, open_run, train_teacher
from sastc.cli.commands import run_command
from sastc.common.settings import flat, offered
from sastc.data.images import load_images
from sastc.training import Run
from sastc.training.checkpoints import load_model
from sastc.training.config import Config, TeacherConfig, settings_for
from sastc.training.measure import measure

GIVEN = dict(epochs=1, train_images=100, batch_size=20, lr=0.02)
DIGITS = load_images("digits", image_size=8)
MIRRORED = replace(DIGITS, classes=DIGITS.classes[::-1], y_train=9 - DIGITS.y_train, y_test=9 - DIGITS.y_test)  # the same data, otherwise numbered


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return train_teacher(**GIVEN, data=DIGITS, model="wrn16_2", width=0.25, folder=tmp_path_factory.mktemp("teacher") / "run")


def student(folder, **changes):
    return distill(**GIVEN | dict(data="digits", image_size=8, student="resnet18", width=0.0625, method="baseline", folder=folder) | changes)


# ------------------------------------------------------------------------------------------------------------ other data


def test_a_teacher_that_numbers_the_classes_otherwise_is_refused(teacher, tmp_path):
    given = GIVEN | dict(student="resnet18", width=0.0625, method="kd", teacher=teacher.folder, folder=tmp_path / "run")
    with pytest.raises(ValueError, match="teacher: expected one that numbers the classes as digits does .'0' is 9., got one in which it is 0"):
        distill(data=MIRRORED, **given)
    assert not (tmp_path / "run").exists()
    renamed = replace(DIGITS, classes=[f"digit {name}" for name in DIGITS.classes])  # nothing is known of these
    assert distill(data=renamed, **given).state == "finished"


def test_a_teacher_of_another_image_size_is_told(teacher, tmp_path):
    with pytest.warns(UserWarning, match="teacher: it was trained on images of 8 pixels and sees those of digits with 16"):
        student(tmp_path / "run", image_size=16, method="kd", teacher=teacher.folder)


@pytest.mark.parametrize(
    "other, what",
    [
        (MIRRORED, "classes"),
        (replace(DIGITS, y_test=(DIGITS.y_test + 1) % 10), "fingerprint"),
        (replace(DIGITS, x_test=255 - DIGITS.x_test), "fingerprint"),
        (replace(DIGITS, mean=(0.5,)), "mean"),
        (
            replace(DIGITS, x_train=DIGITS.x_train.repeat(1, 3, 1, 1), x_test=DIGITS.x_test.repeat(1, 3, 1, 1), mean=DIGITS.mean * 3, std=DIGITS.std * 3),
            "shape",
        ),
    ],
)
def test_a_run_is_not_evaluated_on_other_data(other, what, teacher):
    with pytest.raises(
        ValueError, match=rf"data: expected those of the run \(digits, {what} .*\), got digits, .*; `measure` evaluates a network on other data"
    ):
        assess(teacher, data=other)
    if what == "fingerprint":
        network = open_run(teacher, data=DIGITS, kind="").network
        assert 0 <= measure(network, other.batches("test", 128, shuffle=False, drop_last=False), 10)["accuracy"] <= 1


def test_a_file_that_has_changed_since_is_told(tmp_path):
    arrays = {name: getattr(DIGITS, name)[:200].numpy() for name in ("y_train", "y_test")}
    arrays |= {name: getattr(DIGITS, name)[:200, 0].numpy() for name in ("x_train", "x_test")}
    np.savez(tmp_path / "mine.npz", **arrays)
    run = student(tmp_path / "run", data=str(tmp_path / "mine.npz"))
    assert assess(run)["accuracy"] == pytest.approx(run.result["test_accuracy_best"])
    np.savez(tmp_path / "mine.npz", **arrays | dict(y_test=(arrays["y_test"] + 1) % 10))
    with pytest.raises(ValueError, match=r"data: expected those of the run \(mine, fingerprint"):
        assess(run)


def test_one_class_is_nothing_to_learn(tmp_path):
    alone = replace(DIGITS, y_train=DIGITS.y_train * 0, y_test=DIGITS.y_test * 0, classes=["digit"])
    with pytest.raises(ValueError, match="data: expected at least two classes, got 1 in digits"):
        distill(data=alone, student="resnet18", width=0.0625, method="baseline", folder=tmp_path / "run", **GIVEN)
    assert not (tmp_path / "run").exists()


# --------------------------------------------------------------------------------------- what a run folder has no say in


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    "A run of somebody else, whose data lie where this machine has none."
    asked = []
    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", lambda *args, **options: asked.append(args))
    run = student(tmp_path / "run")
    content = json.loads((run.folder / "config.json").read_text())
    content["settings"] |= dict(data="cifar10", root=str(tmp_path / "invented"))
    (run.folder / "config.json").write_text(json.dumps(content))
    (run.folder / "status.json").unlink()
    return run, asked


@pytest.mark.parametrize("use", [assess, lambda run: open_run(run).data, lambda run: distill(folder=run.folder, resume=True)], ids=["assess", "open", "resume"])
def test_nothing_is_fetched_to_where_a_folder_says(use, foreign, tmp_path):
    run, asked = foreign
    with pytest.raises(FileNotFoundError, match="no download was tried, since a run folder does not decide where data are put; name that folder with root"):
        use(run)
    assert not asked and not (tmp_path / "invented").exists()
    with pytest.raises(FileNotFoundError, match="a download was tried"):
        assess(run, root=tmp_path / "mine")
    assert len(asked) == 1


def test_the_command_fetches_nothing_either(foreign, tmp_path, capsys):
    run, asked = foreign
    for name, arguments in (("evaluate", [str(run.folder)]), ("distill", ["--folder", str(run.folder), "--resume"])):
        assert run_command(name, arguments) == 2
        assert "no download was tried, since a run folder does not decide" in capsys.readouterr().err
    assert not asked and not (tmp_path / "invented").exists()


@pytest.mark.parametrize("name", ["log.txt", "steps.jsonl", ".claim", "checkpoints/best.pt"])
def test_no_link_of_a_folder_is_written_through(name, tmp_path):
    run, mine = student(tmp_path / "run"), tmp_path / "mine.txt"
    mine.write_text("mine")
    (run.folder / name).unlink(missing_ok=True)
    (run.folder / name).symlink_to(mine)
    with pytest.raises(ValueError, match=f"folder: expected files of the run itself in .*, got {name.rpartition('/')[2]}, a link to .*mine.txt"):
        distill(folder=run.folder, resume=True)
    assert mine.read_text() == "mine"


# ------------------------------------------------------------------------------------------------ settings without effect


@pytest.mark.parametrize(
    "given, sentence",
    [
        (dict(data="digits", teacher_mode="mean_frame"), "teacher_mode: expected only with event recordings"),
        (dict(data="nmnist", method="baseline", teacher_mode="mean_frame"), "teacher_mode: expected only with a method that has a teacher, got 'mean_frame'"),
        (
            dict(data="nmnist", method="kd", teacher_mode="fold_step"),
            "teacher_mode: expected fold_mean or mean_frame for method 'kd', which compares no layers",
        ),
    ],
)
def test_a_teacher_mode_without_effect_is_refused(given, sentence):
    with pytest.raises(ValueError, match=sentence):
        settings_for(Config, given)
    if given["data"] == "nmnist":  # a run that was recorded with it is read
        assert flat(settings_for(Config, {}, given))["teacher_mode"] == given["teacher_mode"]
    assert settings_for(Config, dict(data="nmnist", method="kd+sastc", teacher_mode="fold_step"))["teacher_mode"] == "fold_step"


def test_what_concerns_recordings_is_offered_with_recordings():
    for kind, name in ((Config, "teacher_mode"), (TeacherConfig, "frames")):
        assert name not in offered(kind()) and name in offered(settings_for(kind, dict(data="nmnist"))) and name in flat(kind())
    assert "teacher_mode" not in offered(settings_for(Config, dict(data="nmnist", method="baseline")))


def test_an_image_size_is_taken_by_networks_that_have_to_know_it(teacher):
    with pytest.raises(ValueError, match="image_size: expected only for a network that has to know it, got 64 for resnet18, which takes images of any size"):
        create_model("resnet18", image_size=64)
    assert "image_size" not in Run(teacher.folder).checkpoint()["spec"]
    assert create_model("vgg11", width=1 / 32, image_size=28).spec["image_size"] == 28


def test_a_checkpoint_that_kept_an_image_size_for_nothing_is_read(teacher, tmp_path):
    content = teacher.checkpoint()
    content["spec"]["image_size"] = 8
    torch.save(content, tmp_path / "old.pt")
    assert load_model(tmp_path / "old.pt")(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
