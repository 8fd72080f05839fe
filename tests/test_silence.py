"""Cases in which a number would come out wrong without a word, and places where a run folder must not have anything written."""

import json
import random
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from torch import nn
from torch.optim.swa_utils import AveragedModel

from sastc import LIF, Taps, assess, create_model, distill, open_run, spiking, train_teacher
from sastc.cli.commands import run_command
from sastc.common.settings import flat, offered
from sastc.data.images import load_images
from sastc.methods import Baseline
from sastc.metrics.mismatch import mismatch
from sastc.training import NotFinite, Run
from sastc.training.checkpoints import load_model
from sastc.training.config import Config, TeacherConfig, settings_for
from sastc.training.jobs import check_launch
from sastc.training.loop import Trainer
from sastc.training.measure import measure
from sastc.training.runs import annotate, streams_of

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


# --------------------------------------------------------------------------------------------------------- own networks


def own(**constants):
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(1, 4, 3),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 10),
    ]
    network = nn.Sequential(*layers)
    return spiking(network, **constants) if constants else network


def test_settings_of_a_student_of_ones_own_are_read_off_it(tmp_path):
    given = GIVEN | dict(data=DIGITS, method="baseline")
    run = distill(student=own(time_steps=4, neuron="plif", decay=0.25), folder=tmp_path / "run", **given)
    assert [run.config[name] for name in ("time_steps", "neuron", "decay")] == [4, "plif", 0.25]
    assert run.networks["network"]["neurons"]["1"]["decay"] == 0.25
    for name, value, fact in (("time_steps", 5, 4), ("decay", 0.9, 0.25), ("neuron", "lif", "plif")):
        with pytest.raises(
            ValueError, match=f"{name}: expected none beside a student of your own, which has {fact!r}, got {value!r}; make the student with it"
        ):
            distill(student=own(time_steps=4, neuron="plif", decay=0.25), folder=tmp_path / "other", **given, **{name: value})
    assert distill(student=own(time_steps=4), folder=tmp_path / "same", **given, time_steps=4, decay=0.5).config["time_steps"] == 4


@pytest.mark.parametrize(
    "other, sentence",
    [
        (dict(time_steps=2, decay=0.25), "student: expected the network that the run trained .networks.json: time_steps 3., got one with 2"),
        (
            dict(time_steps=3, decay=0.9),
            "student: expected the network that the run trained .networks.json: neuron '1' .*'decay': 0.25.*, got one with .*'decay': 0.9",
        ),
        (dict(), "student: expected the network that the run trained .networks.json: time_steps 3., got one with None"),
    ],
)
def test_weights_are_not_put_into_another_network(other, sentence, tmp_path):
    given = dict(data=DIGITS, student=own(time_steps=3, decay=0.25))
    run = distill(method="baseline", folder=tmp_path / "run", **GIVEN, **given)
    assert assess(run, **given)["accuracy"] == pytest.approx(run.result["test_accuracy_best"])
    with pytest.raises(ValueError, match=sentence):
        assess(run, data=DIGITS, student=own(**other))
    if other:
        with pytest.raises(ValueError, match=sentence):
            distill(folder=run.folder, resume=True, data=DIGITS, student=own(**other))


def test_a_converted_network_is_not_built_again_as_the_ann_that_it_was(tmp_path):
    network = spiking(create_model("wrn16_2", in_channels=1, width=0.125), 2)
    run = distill(student=network, data="digits", image_size=8, method="baseline", folder=tmp_path / "run", **GIVEN)
    with pytest.raises(ValueError, match="checkpoint: expected a network that can be built again, got one of your own"):
        assess(run)
    assert assess(run, student=network)["accuracy"] == pytest.approx(run.result["test_accuracy_best"])


def test_a_network_that_was_changed_after_it_was_built_is_not_built_again_unchanged(tmp_path):
    network = create_model("wrn16_2", in_channels=1, width=0.125, time_steps=2)
    for neuron in (module for module in network.modules() if isinstance(module, LIF)):
        neuron.decay = 0.9
    run = distill(student=network, data="digits", image_size=8, method="baseline", folder=tmp_path / "run", **GIVEN)
    with pytest.raises(ValueError, match="student: expected the network that the run trained .networks.json: neuron .*0.9.*, got one with .*0.5"):
        assess(run)
    assert assess(run, student=network)["accuracy"] == pytest.approx(run.result["test_accuracy_best"])


def test_another_teacher_is_told(tmp_path):
    mine, another = own(), own()
    nn.init.normal_(another[0].weight)
    run = student(tmp_path / "run", teacher=mine, method="kd")
    assert open_run(run, teacher=mine).teacher is mine
    for use in (lambda: open_run(run, teacher=another).teacher, lambda: distill(folder=run.folder, resume=True, teacher=another)):
        with pytest.raises(ValueError, match="teacher: expected the weights with which the run in .* was started"):
            use()


def test_networks_that_cannot_teach_or_learn_are_refused(tmp_path):
    with pytest.raises(ValueError, match="teacher: expected an ANN, got Sequential, which is spiking .T = 2."):
        student(tmp_path / "run", teacher=own(time_steps=2), method="kd")
    with pytest.raises(ValueError, match="student: expected a network with weights that are trained, got Sequential, in which all are frozen"):
        distill(student=own(time_steps=2).requires_grad_(False), data=DIGITS, method="baseline", folder=tmp_path / "run", **GIVEN)
    assert not (tmp_path / "run").exists()


def test_the_mismatch_broadcasts_nothing():
    features, weights = [torch.rand(2, 5, 4, 3, 3)], torch.ones(1, 1)
    assert mismatch(features, [torch.rand(5, 6)], weights=weights) > 0
    with pytest.raises(ValueError, match="teacher_features: expected as many images as the student's .*, 5, got .* with 1"):
        mismatch(features, [torch.rand(1, 6)])
    with pytest.raises(ValueError, match=r"weights: expected \[1, 1\] for the pairs of layers, or \[2, 1, 1\] for each step, got \[3, 1\]"):
        mismatch(features, [torch.rand(5, 6)], weights=torch.ones(3, 1))


@pytest.mark.parametrize("wrap, name", [(nn.Sequential, "0.1"), (AveragedModel, "module.1")])
def test_features_of_a_wrapped_student_have_their_time_axis(wrap, name):
    output, (feature,) = Taps(wrap(own(time_steps=3)), [name])(torch.rand(2, 1, 8, 8))
    assert output.shape == (3, 2, 10) and feature.shape[:2] == (3, 2)


# ------------------------------------------------------------------------------------------------------ the user's process


def test_training_leaves_the_process_as_it_was(tmp_path):
    def state():
        parts = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), dict(AcceleratorState._shared_state)
        return *parts, dict(PartialState._shared_state), torch.get_num_threads(), torch.get_default_dtype(), torch.backends.cudnn.benchmark

    PartialState()
    before = state()
    student(tmp_path / "run")
    assert state() == before


def test_the_package_trains_without_the_module_resource(tmp_path):
    "As on Windows; psutil needs it on Linux and nowhere else."
    program = "import psutil, sys; sys.modules['resource'] = None; from sastc import distill; import sastc.lab, sastc.cli; "
    given = GIVEN | dict(data="digits", image_size=8, student="resnet18", width=0.0625, method="baseline", folder=str(tmp_path / "run"))
    subprocess.run([sys.executable, "-c", program + f"distill(**{given!r})"], check=True, capture_output=True)
    assert Run(tmp_path / "run").state == "finished"


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


USES = dict(
    assess=assess,
    open=lambda run: open_run(run).data,
    resume=lambda run: distill(folder=run.folder, resume=True),
    auto=lambda run: distill(folder=run.folder, resume="auto"),
)


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_nothing_is_fetched_to_where_a_folder_says(use, foreign, tmp_path):
    run, asked = foreign
    with pytest.raises(
        FileNotFoundError,
        match="no download was tried, since a dry run fetches nothing, and a run that is opened or resumed only into a folder that you name with root",
    ):
        use(run)
    assert not asked and not (tmp_path / "invented").exists()
    with pytest.raises(FileNotFoundError, match="a download was tried"):
        assess(run, root=tmp_path / "mine")
    assert len(asked) == 1


def test_the_command_fetches_nothing_either(foreign, tmp_path, capsys):
    run, asked = foreign
    for name, arguments in (("evaluate", [str(run.folder)]), ("distill", ["--folder", str(run.folder), "--resume"])):
        assert run_command(name, arguments) == 2
        assert "no download was tried, since a dry run fetches nothing, and a run that is opened" in capsys.readouterr().err
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


OURS = ("data.json", "result.json", "environment.json", "status.json", "origins.json", "steps.jsonl", "label_noise.csv", "checkpoints/best.pt")


def put(folder, *names, text='{"step": 1, "epoch": 1, "mine": 2}\n'):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return dict.fromkeys(names, text)


def texts(folder):
    return {str(path.relative_to(folder)): path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("how", [{}, dict(resume="auto"), dict(overwrite=True)], ids=str)
@pytest.mark.parametrize("names", [*((name,) for name in OURS), ("config.json", "checkpoints/mine.pt"), OURS], ids=str)
def test_a_run_takes_no_folder_that_holds_files_of_its_names(names, how, tmp_path):
    mine, place = put(tmp_path / "run", *names), tmp_path / "run"
    sentence = "config.json: damaged" if names[0] == "config.json" and "resume" in how else f"which is no run's and holds .*{names[0]}"
    with pytest.raises(ValueError, match=sentence):
        student(place, **how)
    assert texts(place) == mine


def test_a_run_that_is_overwritten_or_resumed_leaves_what_it_did_not_write(tmp_path):
    place = tmp_path / "run"
    put(place, "notes.txt", "checkpoints/mine.pt", "my_log.jsonl")  # a new run may begin beside these
    run = student(place)
    mine = put(place, "notes.txt", "checkpoints/mine.pt", "my_log.jsonl", text='{"step": 99, "epoch": 1}\n')
    assert run.checkpoints == ["best", "last"]
    student(place, overwrite=True)
    distill(folder=place, resume=True, epochs=2)
    assert mine.items() <= texts(place).items()


class Noting(Baseline):
    "and a record of its own"

    def terms(self, step):
        step.record("noted", dict(value=1.0))
        return super().terms(step)


def test_records_of_a_method_are_known_by_name(tmp_path):
    place = tmp_path / "run"
    run = student(place, method=Noting, log_every=1)
    put(place, "other.jsonl")
    assert streams_of(place) == ["epochs", "noted", "steps"]
    many = len(run.lines("noted"))
    assert len(distill(folder=place, resume=True, epochs=2).lines("noted")) == 2 * many
    student(place, overwrite=True)
    assert not (place / "noted.jsonl").exists() and (place / "other.jsonl").exists()
    put(place, "noted.jsonl")
    with pytest.raises(ValueError, match="record: expected a name for which the run has no other file, got 'noted'"):
        student(place, method=Noting, overwrite=True, log_every=1)
    assert (place / "noted.jsonl").exists()


def test_records_of_an_older_run_are_told_by_their_lines(tmp_path):
    run = student(tmp_path / "run", method=Noting, log_every=1)
    (run.folder / "streams.json").unlink()
    put(run.folder, "mine.jsonl", text='{"step": 1, "mine": 2}\n')
    assert streams_of(run.folder) == ["epochs", "noted", "steps"]
    student(run.folder, overwrite=True)
    assert not (run.folder / "noted.jsonl").exists() and (run.folder / "mine.jsonl").exists()


def test_a_log_and_notes_of_the_user_stay(tmp_path):
    place, given = tmp_path / "run", dict(GIVEN, data="digits", image_size=8, student="resnet18", width=0.0625, method="baseline")
    put(place, "log.txt")
    with pytest.raises(ValueError, match="folder: expected one without a log.txt"):
        check_launch(settings_for(Config, dict(given, folder=str(place))))
    student(place)  # which writes none
    put(place, "notes.json")
    with pytest.raises(ValueError, match="folder: expected a notes.json with note and tags, or none, got .* has epoch, mine, step; move it"):
        annotate(place, "mine")
    assert "mine" in (place / "notes.json").read_text()


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


def test_an_image_size_is_kept_by_networks_that_have_to_know_it(teacher):
    assert "image_size" not in create_model("resnet18", image_size=64, width=1 / 16).spec
    assert "image_size" not in Run(teacher.folder).checkpoint()["spec"]
    assert create_model("vgg11", width=1 / 32, image_size=28).spec["image_size"] == 28


def test_a_checkpoint_that_kept_an_image_size_for_nothing_is_read(teacher, tmp_path):
    content = teacher.checkpoint()
    content["spec"]["image_size"] = 8
    torch.save(content, tmp_path / "old.pt")
    assert load_model(tmp_path / "old.pt")(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


def test_a_weight_that_became_nan_ends_the_run(tmp_path, monkeypatch):
    "It used to silence every neuron behind it, with a loss that stayed finite."
    student, step = create_model("vgg11", width=1 / 32, time_steps=2, in_channels=1), Trainer.step
    given = dict(data="digits", train_images=96, batch_size=16, epochs=1, method="baseline", student=student, device="cpu")

    def spoilt(self, images, labels):
        if self.progress["step"] == 2:
            with torch.no_grad():
                next(student.parameters())[0] = float("nan")
        step(self, images, labels)

    monkeypatch.setattr(Trainer, "step", spoilt)
    with pytest.raises(NotFinite, match="loss: expected finite parts"):
        distill(**given, folder=tmp_path / "run")
    with pytest.raises(ValueError, match="student: expected a network whose outputs are finite numbers"):  # with which no run begins
        distill(**given, folder=tmp_path / "another")
    assert not (tmp_path / "another").exists()
