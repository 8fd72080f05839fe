"""Studies survive being killed, train nothing twice, mix no budgets, and their tables say what the runs came to."""

import json
import shutil
import signal
import subprocess
import sys
import time
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st
from processes import SASTC, Program
from torch import nn

from sastc import create_model, spiking
from sastc.common.settings import flat
from sastc.data.images import load_images, perturbed_labels, subset
from sastc.lab.board import by_settings
from sastc.methods import KD, Term
from sastc.studies import sweeps
from sastc.studies.comparisons import compare_methods, settings_by_method, summarise, sweep
from sastc.studies.figures import mismatch_table
from sastc.studies.sweeps import (
    few_shot,
    few_shot_figure,
    few_shot_table,
    grid,
    grid_figure,
    grid_summary,
    grid_table,
    noise_figure,
    noise_table,
    noisy_labels,
    sensitivity,
    sensitivity_figure,
    sensitivity_table,
    write_study,
)
from sastc.training.checkpoints import load_checkpoint, save_checkpoint
from sastc.training.config import Config, TeacherConfig, settings_for
from sastc.training.records import write_json
from sastc.training.runs import Run, RunWriter, identity, now
from sastc.training.session import distill, train_teacher

TINY = dict(data="digits", image_size=16, train_images=160, batch_size=16, lr=0.02, log_every=1, width=0.0625, device="cpu")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return train_teacher(**TINY, model="wrn16_2", epochs=1, folder=tmp_path_factory.mktemp("teacher") / "run")


@pytest.fixture(scope="module")
def config(teacher):
    return settings_for(Config, dict(TINY, teacher=str(teacher.folder), beta=0.5, epochs=1))


@pytest.fixture
def planned(monkeypatch):
    "What a study would train: `{name of the run: settings}`."
    plan = {}
    monkeypatch.setattr(sweeps, "sweep", lambda wanted: plan.update({place.name: made for place, made in wanted.items()}))
    return plan


# ---- wrong labels ----


@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=80), share=st.floats(0, 1), more=st.floats(0, 1), seed=st.integers(0, 2**32),
)  # fmt: skip
def test_wrong_labels_are_exact_repeatable_and_nested(labels, share, more, seed):
    y = torch.tensor(labels)
    table = perturbed_labels(y, 5, share, seed)
    assert len(table) == round(share * len(labels)) and table.image.is_monotonic_increasing and table.image.is_unique
    assert table.label.tolist() == [labels[i] for i in table.image] and table.noisy_label.isin(range(5)).all()
    assert (table.label != table.noisy_label).all()
    assert table.equals(perturbed_labels(y.clone(), 5, share, seed))
    smaller, larger = sorted([table, perturbed_labels(y, 5, more, seed)], key=len)
    assert larger[larger.image.isin(smaller.image)].to_numpy().tolist() == smaller.to_numpy().tolist()


def test_wrong_labels_are_uniform():
    table = perturbed_labels(torch.arange(10).repeat(2000), 10, 0.5, 0)
    counts = np.zeros((10, 10))
    np.add.at(counts, (table.label, table.noisy_label), 1)
    expected = (1 - np.eye(10)) * 1000 / 9
    assert np.abs(counts - expected).max() < 6 * 100**0.5  # six standard deviations of a count
    assert not table.equals(perturbed_labels(torch.arange(10).repeat(2000), 10, 0.5, 1))


DIGITS = load_images("digits", image_size=8)


@given(share=st.floats(0.05, 0.95))
def test_few_images_are_balanced(share):
    count = round(share * 1437)
    kept = subset(DIGITS, count, seed=0).y_train.bincount(minlength=10)
    assert kept.sum() == count and kept.max() - kept.min() <= 1  # the smallest of the classes has 139 images


# ---- what is planned ----


def test_noise_is_the_same_for_all_methods_and_teachers(planned, config, tmp_path):
    noisy_labels(tmp_path, config, noise=(0, 0.5), methods=("baseline", "kd"), seeds=(0, 1))
    assert list(planned) == [
        "noise0-baseline-seed0", "noise0-kd-seed0", "teacher-noise0.5-seed0", "noise0.5-baseline-seed0", "noise0.5-kd-seed0",
        "noise0-baseline-seed1", "noise0-kd-seed1", "teacher-noise0.5-seed1", "noise0.5-baseline-seed1", "noise0.5-kd-seed1",
    ]  # fmt: skip
    for name, made in planned.items():
        noise, seed = 0.5 * ("noise0.5" in name), int(name[-1])
        assert (made["label_noise"], made["noise_seed"], made["seed"]) == (noise, seed if noise else 0, seed)
        assert isinstance(made, TeacherConfig if name.startswith("teacher") else Config)
    assert planned["noise0-kd-seed1"].teacher == config.teacher
    assert planned["noise0.5-kd-seed1"].teacher == str(tmp_path / "teacher-noise0.5-seed1")
    of_teacher = planned["teacher-noise0.5-seed0"]
    assert [of_teacher[name] for name in ("model", "width", "epochs")] == ["wrn16_2", 0.0625, 1]


def test_clean_teachers(planned, config, tmp_path):
    noisy_labels(tmp_path, config, noise=(0.5,), methods=("kd",), seeds=(0,), teacher_labels="clean")
    assert list(planned) == ["noise0.5-kd-seed0"] and planned["noise0.5-kd-seed0"].teacher == config.teacher


@pytest.mark.parametrize("keep, epochs", [("epochs", 3), ("steps", 12)])
def test_shares_of_images(planned, config, tmp_path, keep, epochs):
    few_shot(tmp_path, config.but(epochs=3), shares=(0.25, 1), methods=("kd",), seeds=(0,), keep=keep)
    assert {name: (made["train_images"], made["epochs"]) for name, made in planned.items()} == {"share0.25-kd-seed0": (40, epochs), "share1-kd-seed0": (160, 3)}
    planned.clear()
    few_shot(tmp_path, config.but(train_images=0), shares=(0.5,), methods=("kd",), seeds=(0,))
    assert planned["share0.5-kd-seed0"]["train_images"] == round(0.5 * 1437)


def test_one_setting_at_a_time(planned, config, tmp_path):
    sensitivity(tmp_path, config, vary=dict(beta=(0.5, 2), detach_reset=(False, True)), seeds=(4,))
    base = flat(config)
    differences = {name: {k: v for k, v in flat(made).items() if v != base[k]} for name, made in planned.items()}
    assert differences == {
        "base-seed4": dict(seed=4),
        "beta=2-seed4": dict(seed=4, beta=2),
        "detach_reset=True-seed4": dict(seed=4, detach_reset=True),
    }  # fmt: skip


def test_values_that_are_paths_make_folders_that_are_found(planned, config, tmp_path):
    sensitivity(tmp_path, config, vary=dict(teacher=("a/b", "a_b", "c:d")), seeds=(0,))
    assert list(planned) == ["base-seed0", "teacher=a_b-seed0", "teacher=a_b_2-seed0", "teacher=c_d-seed0"]
    assert [made.teacher for made in planned.values()][1:] == ["a/b", "a_b", "c:d"]


def test_every_pair_once(planned, config, tmp_path):
    grid(tmp_path, config)
    assert [name for name in planned if not name.startswith("pair")] == ["kd-seed0", "sastc-seed0"]
    pairs = [(made["student_layer"], made["teacher_layer"]) for made in planned.values() if made["method"] == "feature_kd"]
    assert pairs == [(s, t) for s in ("layer1", "layer2", "layer4", "layer6", "layer8") for t in ("stem", "stage1", "stage2", "stage3")]
    assert planned["sastc-seed0"]["candidates"] == "paper" and {made["beta"] for name, made in planned.items() if name != "kd-seed0"} == {0.5}
    planned.clear()
    grid(tmp_path, config.but(student_layers=("layer2",)), candidates="code")
    assert [name for name in planned if name.startswith("pair")] == ["pair0-0-seed0", "pair0-1-seed0", "pair0-2-seed0"]
    assert [planned[f"pair0-{t}-seed0"]["student_layer"] for t in range(3)] == ["layer2"] * 3


def mistake(function, changed=None, **given):
    return lambda folder, config: function(folder, config.but(**(changed or {})), **given)


MISTAKES = {
    "noise: expected at least one, each once, got .0, 0.": mistake(noisy_labels, noise=(0, 0)),
    "label_noise: expected a number from 0 to 0.9, got 1.5": mistake(noisy_labels, noise=(1.5,)),
    "teacher_labels: expected one of noisy, clean, got 'dirty'": mistake(noisy_labels, teacher_labels="dirty"),
    "teacher: expected the run folder of a teacher, whose settings are used to train others on noisy labels, got none": mistake(
        noisy_labels, changed=dict(teacher="")
    ),
    "teacher: expected one that was trained with train_images 80, got .*, trained with 160": mistake(noisy_labels, changed=dict(train_images=80)),
    "method: expected one of .*, got 'satsc' .did you mean 'sastc'": mistake(few_shot, methods=("satsc",)),
    "shares: expected numbers above 0 and at most 1, got .0, 1.": mistake(few_shot, shares=(0, 1)),
    "keep: expected one of epochs, steps, got 'hours'": mistake(few_shot, keep="hours"),
    "expected a setting of this run .did you mean 'beta'.., got 'betta'": mistake(sensitivity, vary=dict(betta=(1,))),
    "vary: expected settings other than seed and folder, got 'seed'": mistake(sensitivity, vary=dict(seed=(1,))),
    "beta: expected only with method .* got 1 with method 'kd'": mistake(sensitivity, changed=dict(method="kd"), vary=dict(beta=(1,))),
    "noise_seed: expected only together with label_noise": mistake(sensitivity, vary=dict(noise_seed=(1,))),
    "beta: expected a number of at least 0, got -1": mistake(sensitivity, vary=dict(beta=(-1,))),
    "teacher: expected a run folder or checkpoint, got none": mistake(grid, changed=dict(teacher="")),
    "student_layers: expected one of .*, got 'layer33'": mistake(grid, changed=dict(student_layers=("layer33",))),
    "nowhere": mistake(few_shot, methods=("kd",), changed=dict(teacher="nowhere")),
}


@pytest.mark.parametrize("sentence", MISTAKES)
def test_a_mistake_is_answered_with_a_sentence_before_anything_is_trained(sentence, config, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        MISTAKES[sentence](tmp_path / "study", config)
    assert not (tmp_path / "study").exists()


# ---- sweeping ----


def command(folder, teacher):
    "A noisy study of one teacher and one student as a process."
    settings = TINY | dict(epochs=20, teacher=teacher.folder, folder=folder, noise=0.25, methods="baseline", seeds=3)
    options = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    return Program(SASTC, ["study", "noisy_labels", *options])


def wait_for_steps(process, place, count):
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and process.poll() is None:
        if (place / "steps.jsonl").exists() and (place / "steps.jsonl").read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.01)
    pytest.fail(f"the study ended or hung before step {count}: {process.communicate()[1][-2000:] if process.poll() is not None else 'timeout'}")


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_study_survives_ctrl_c_and_kill(teacher, tmp_path):
    folder = tmp_path / "study"
    place, taught = folder / "noise0.25-baseline-seed3", folder / "teacher-noise0.25-seed3"
    process = command(folder, teacher)
    wait_for_steps(process, place, 3)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=600)
    assert process.returncode == 130 and "continues with\nsastc study noisy_labels --data digits" in said
    assert Run(place).status["state"] == "stopped" and Run(taught).status["state"] == "finished"
    before = contents(taught)
    process, steps = command(folder, teacher), Run(place).status["step"]
    wait_for_steps(process, place, steps + 3)
    process.kill()
    process.communicate()
    assert Run(place).status["state"] == "running" and not Run(place).result
    config = settings_for(Config, dict(TINY, epochs=20, teacher=str(teacher.folder)))
    study = dict(noise=(0.25,), methods=("baseline",), seeds=(3,))
    table = noisy_labels(folder, config, **study)
    assert contents(taught) == before  # a finished run is left alone
    unbroken = distill(config.but(method="baseline", seed=3, label_noise=0.25, noise_seed=3, folder=str(tmp_path / "unbroken")))
    assert Run(place).steps.total.tolist() == unbroken.steps.total.tolist()
    assert table.accuracy_last[0.25, "baseline"] == pytest.approx(100 * unbroken.result["test_accuracy_last"])
    assert (place / "label_noise.csv").read_bytes() == (taught / "label_noise.csv").read_bytes() == (tmp_path / "unbroken" / "label_noise.csv").read_bytes()
    before = contents(folder)
    pd.testing.assert_frame_equal(noisy_labels(folder, config, **study), table)
    with pytest.raises(ValueError, match="lr: expected 0.02, with which .*noise0.25-baseline-seed3 was trained, got 0.5"):
        noisy_labels(folder, config.but(lr=0.5), **study)
    assert contents(folder) == before


def test_a_run_that_perturbed_other_labels_is_not_resumed(config, tmp_path):
    run = distill(config.but(method="baseline", label_noise=0.25, folder=str(tmp_path / "run")))
    (run.folder / "label_noise.csv").write_text("image,label,noisy_label\n0,0,1\n")
    before = contents(run.folder)
    with pytest.raises(ValueError, match="label_noise: expected the data of the run in .*run, got others, of which other labels would be perturbed"):
        distill(folder=str(run.folder), resume=True)
    assert contents(run.folder) == before


def test_runs_of_others_and_runs_without_their_teacher_are_left_out(config, teacher, tmp_path):
    taught, student, alone = tmp_path / "teacher", tmp_path / "kd", tmp_path / "baseline"
    of_teacher = settings_for(TeacherConfig, dict(TINY, model="wrn16_2", epochs=1))
    wanted = {taught: of_teacher, student: config.but(method="kd", teacher=str(taught)), alone: config.but(method="baseline", teacher=str(taught))}
    taught.mkdir()
    with FileLock(taught / ".lock"):
        left = sweep(wanted)
    assert left == {taught: "another process trains it", student: f"its teacher {taught} is not finished"}
    assert Run(alone).status["state"] == "finished" and not (taught / "config.json").exists()
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    try:
        writer = RunWriter(taught, "teacher", flat(of_teacher.but(folder=str(taught))), {})
        write_json(writer.folder / "status.json", dict(state="running") | identity(other.pid))
        assert sweep(wanted)[taught] == f"process {other.pid} trains it"
    finally:
        other.kill()
        other.wait()
    assert sweep(wanted) == {} and Run(student).status["state"] == "finished"  # the other is gone


def test_a_loss_that_is_no_number_ends_one_run_and_not_the_study(config, tmp_path, capsys):
    table = sensitivity(tmp_path, config, vary=dict(beta=(1e39, 1)), seeds=(0,))
    assert table.index.tolist() == [("beta", 0.5), ("beta", 1.0)]
    assert "left out:" in capsys.readouterr().err and Run(tmp_path / "beta=1e+39-seed0").status["state"] == "failed"


# ---- folders of older runs, and methods of one's own ----


def old_settings(config, **given):
    "Settings as the first version kept them: names for every method, whether they had an effect or not."
    gone = dict(over_teacher="sum", drop_last=True, fold_time=False, noise_over="others", channels_last=True, pair=[-1, -1], frames=0)
    everything = flat(config.but(method="sastc"))
    everything["align"] = everything.pop("alignment")
    younger = "neuron", "reset", "surrogate", "attention", "relative_distance"
    return {name: value for name, value in everything.items() if name not in younger} | gone | dict(method=config["method"]) | given


def older(place, config, layers=None, **given):
    place.mkdir(parents=True)
    write_json(place / "config.json", dict(kind="student", settings=old_settings(config, folder=str(place), **given)))
    write_json(place / "layers.json", layers or {})
    write_json(place / "status.json", dict(state="finished", time=now()))
    write_json(place / "result.json", dict(test_accuracy_last=0.5, test_accuracy_best=0.6))


@pytest.mark.parametrize("method", ["baseline", "kd", "feature_kd", "sastc", "rsa"])
def test_a_run_of_an_older_version_is_continued_and_not_trained_again(config, tmp_path, method):
    layers = dict(student=["layer8"], teacher=["stage3"])
    older(tmp_path / f"{method}-seed0", config.but(method=method, seed=0), layers)
    before = contents(tmp_path)
    assert compare_methods(tmp_path, [method], [0], config).accuracy_last.to_dict() == {method: 50}
    assert {path: text for path, text in contents(tmp_path).items() if path.name != ".lock"} == before
    with pytest.raises(ValueError, match="epochs: expected 1, with which .*, got 2"):
        compare_methods(tmp_path, [method], [0], config.but(epochs=2))


def test_a_run_with_a_setting_that_is_gone_and_had_an_effect_is_not_continued(config, tmp_path):
    older(tmp_path / "sastc-seed0", config.but(seed=0), over_teacher="mean")
    with pytest.raises(ValueError, match="trained with over_teacher 'mean'; use another folder"):
        compare_methods(tmp_path, ["sastc"], [0], config)


def test_a_pair_that_was_chosen_by_position_is_the_one_that_is_named(config, tmp_path):
    older(tmp_path / "pair0-1-seed0", config.but(method="feature_kd", seed=0), dict(student=["layer2"], teacher=["stage2"]), pair=[0, 1])
    named = config.but(method="feature_kd", seed=0, student_layer="layer2", teacher_layer="stage2")
    assert sweep({tmp_path / "pair0-1-seed0": named}) == {}
    with pytest.raises(ValueError, match="teacher_layer: expected 'stage2'"):
        sweep({tmp_path / "pair0-1-seed0": named.but(teacher_layer="stage1")})


RECORDED = Path(__file__).parents[1] / "nbs" / "results" / "studies"


@pytest.mark.skipif(not RECORDED.is_dir(), reason="recorded studies are not part of the package")
def test_recorded_studies_of_the_first_version_say_what_they_said():
    noise, pairs = noise_table(RECORDED / "noisy_labels").accuracy_last.to_dict(), grid_table(RECORDED / "grid").accuracy_last.to_dict()
    assert noise == pytest.approx({
        (0.0, "baseline"): 76.9444, (0.0, "kd"): 70.0, (0.0, "sastc"): 80.8333, (0.0, "teacher"): 93.6111,
        (0.3, "baseline"): 58.0556, (0.3, "kd"): 70.5556, (0.3, "sastc"): 72.7778, (0.3, "teacher"): 77.5,
    }, abs=1e-4)  # fmt: skip
    known = {
        ("kd", "", ""): 51.6667, ("feature_kd", "layer2", "stage1"): 63.8889, ("feature_kd", "layer2", "stage3"): 55.2778,
        ("feature_kd", "layer8", "stage1"): 54.1667, ("feature_kd", "layer8", "stage3"): 52.5, ("sastc", "", ""): 58.6111,
    }  # fmt: skip
    assert list(pairs) == list(known) and pairs == pytest.approx(known, abs=1e-4)


def test_a_method_and_data_of_ones_own_are_compared_and_continued(config, tmp_path):
    class Halved(KD):
        "and soft labels at half their weight"

        def terms(self, step):
            found = super().terms(step)
            return found | dict(kl=Term(found["kl"].value, self.alpha / 2, "half", "nats"))

    digits, own = load_images("digits", image_size=16), [Halved(temperature=2), "kd"]
    table = compare_methods(tmp_path, own, [0], config, data=digits)
    assert table.index.tolist()[0] == "kd" and table.seeds.tolist() == [1, 1]
    run = next(Run(place) for place in tmp_path.iterdir() if "Halved" in place.name)
    assert (run.config["data"], run.config["train_images"], run.config["temperature"]) == ("own:digits", 160, 2)
    before = contents(tmp_path)
    pd.testing.assert_frame_equal(compare_methods(tmp_path, own, [0], config, data=digits), table)
    assert contents(tmp_path) == before
    with pytest.raises(ValueError, match="temperature: expected 2.0, with which"):
        compare_methods(tmp_path, [Halved(temperature=3)], [0], config, data=digits)


# ---- finished runs of other data, teachers and students ----


def test_finished_runs_of_other_data_or_another_teacher_are_not_taken_for_the_wanted_ones(config, tmp_path):
    digits = load_images("digits", image_size=16)
    one, two = (create_model("wrn16_2", num_classes=10, in_channels=1, width=0.0625) for _ in range(2))

    def compared(teacher=one, data=digits, methods=("baseline", "kd"), **how):
        return compare_methods(tmp_path, methods, [0], config, teacher=teacher, data=data, **how)

    table = compared()
    before = contents(tmp_path)
    pd.testing.assert_frame_equal(compared(), table)
    for how in (dict(data=replace(digits, y_test=digits.y_test.roll(1))), dict(data=replace(digits, mean=(0.25,)))):
        with pytest.raises(ValueError, match="data: expected the data that the run in .*baseline-seed0 was started with .* use another folder, or overwrite"):
            compared(**how)
    with pytest.raises(ValueError, match="teacher: expected the weights with which the run in .*kd-seed0 was started .* use another folder, or overwrite"):
        compared(teacher=two)
    pd.testing.assert_frame_equal(compared(teacher=two, methods=["baseline"]), table)  # it learned from none
    assert contents(tmp_path) == before
    compared(teacher=two, overwrite=True)
    after = contents(tmp_path)
    assert {path.parent.name for path in before if after.get(path) != before[path] and path.suffix == ".json"} == {"kd-seed0"}


def test_files_that_changed_since_a_comparison_are_told(config, teacher, tmp_path):
    digits, place = load_images("digits", image_size=16), tmp_path / "teacher"
    shutil.copytree(teacher.folder, place)

    def write(shift):
        arrays = {f"x_{split}": getattr(digits, f"x_{split}")[:200, 0].numpy() for split in ("train", "test")}
        labels = {f"y_{split}": (getattr(digits, f"y_{split}")[:200].numpy() + shift) % 10 for split in ("train", "test")}
        np.savez(tmp_path / "mine.npz", **arrays, **labels)

    def compared(name="runs", **how):
        given = config.but(data=str(tmp_path / "mine.npz"), image_size=16, teacher=str(place))
        return compare_methods(tmp_path / name, ["kd"], [0], given, **how)

    write(0)
    table = compared()
    pd.testing.assert_frame_equal(compared(), table)
    write(1)
    for dry in (False, True):
        with pytest.raises(ValueError, match="data: expected the data that the run in .*kd-seed0 was started with .mine, fingerprint"):
            compared(dry_run=dry)
    write(0)
    content = load_checkpoint(place / "checkpoints" / "best.pt")
    next(iter(content["model"].values())).add_(0.1)
    save_checkpoint(place / "checkpoints" / "best.pt", {name: value for name, value in content.items() if name != "format"})
    with pytest.raises(ValueError, match="teacher: expected the weights with which the run in .*kd-seed0 was started"):
        compared()
    shutil.rmtree(place)
    with pytest.raises(FileNotFoundError, match="teacher: expected a run folder or checkpoint, got .*, which is not there"):  # as when it is resumed
        compared()


def test_what_finished_runs_were_made_from_is_read_once(config, tmp_path, monkeypatch):
    from sastc.data.sources import Digits
    from sastc.studies import comparisons
    from sastc.training import origins

    compare_methods(tmp_path, ["baseline", "kd"], [0, 1], config)
    loaded, load, hashed, identity_of = [], Digits.load, [], comparisons.identity_of
    monkeypatch.setattr(Digits, "load", lambda source, *given: loaded.append(1) or load(source, *given))
    monkeypatch.setattr(comparisons, "identity_of", lambda data: hashed.append(1) or identity_of(data))
    origins._checksum_in.cache_clear()
    compare_methods(tmp_path, ["baseline", "kd"], [0, 1], config)
    assert len(loaded) == len(hashed) == origins._checksum_in.cache_info().misses == 1


def test_students_of_a_teacher_that_was_trained_anew_are_compared_with_it(config, tmp_path):
    taught, student = tmp_path / "teacher", tmp_path / "kd"
    wanted = {taught: settings_for(TeacherConfig, dict(TINY, model="wrn16_2", epochs=1)), student: config.but(method="kd", teacher=str(taught))}
    assert sweep(wanted) == {}
    shutil.rmtree(taught)
    assert sweep(wanted) == {}  # the same numbers again
    origins = Run(student).content("origins")
    write_json(student / "origins.json", dict(teacher=origins["teacher"] | dict(checksum="another")))
    shutil.rmtree(taught)
    with pytest.raises(ValueError, match="teacher: expected the weights with which the run in .*kd was started .checksum another"):
        sweep(wanted)
    assert sweep(wanted, overwrite=True) == {} and Run(student).content("origins")["teacher"]["checksum"] == origins["teacher"]["checksum"]


def own_student(channels=8, time_steps=1):
    torch.manual_seed(0)
    layers = nn.Conv2d(1, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(16 * channels, 10)
    return spiking(nn.Sequential(*layers), time_steps)


def test_every_run_begins_with_the_weights_of_a_module(tmp_path):
    net, how = own_student(), {name: value for name, value in TINY.items() if name != "width"} | dict(epochs=2)
    before = deepcopy(net.state_dict())
    table = compare_methods(tmp_path / "runs", ["baseline", "tet"], [0, 1], settings_for(Config, dict(how, student=net)))
    assert all(value.equal(before[name]) for name, value in net.state_dict().items())
    for method, seed in (("baseline", 1), ("tet", 1)):
        alone = distill(student=own_student(), method=method, seed=seed, folder=tmp_path / f"{method}{seed}", **how)
        last, first = (run.checkpoint("last")["model"] for run in (alone, Run(tmp_path / "runs" / f"{method}-seed{seed}")))
        assert all(value.equal(first[name]) for name, value in last.items())
    pd.testing.assert_frame_equal(compare_methods(tmp_path / "runs", ["baseline", "tet"], [0, 1], settings_for(Config, dict(how, student=net))), table)
    with pytest.raises(ValueError, match=r"student: expected the network that the run in .* trained \(1,386 parameters\), got one with"):
        compare_methods(tmp_path / "runs", ["baseline"], [0], settings_for(Config, dict(how, student=own_student(9))))
    with pytest.raises(ValueError, match="time_steps: expected 1, with which"):
        compare_methods(tmp_path / "runs", ["baseline"], [0], settings_for(Config, dict(how, student=own_student(8, 3))))


def test_a_module_of_several_steps_is_continued_and_one_that_cannot_be_copied_refused(tmp_path):
    how = {name: value for name, value in TINY.items() if name != "width"} | dict(epochs=1)
    net = own_student(time_steps=3)
    net.potential = net(torch.zeros(2, 1, 16, 16)).sum()  # with a graph
    table = compare_methods(tmp_path / "runs", ["baseline"], [0], settings_for(Config, dict(how, student=net)))
    pd.testing.assert_frame_equal(compare_methods(tmp_path / "runs", ["baseline"], [0], settings_for(Config, dict(how, student=net))), table)
    net.file = (_ for _ in ())
    with pytest.raises(ValueError, match="student: expected a network that can be copied, got Sequential .*; pass a function that builds it"):
        compare_methods(tmp_path / "other", ["baseline"], [0], settings_for(Config, dict(how, student=net)))


def test_files_of_the_user_in_a_later_folder_are_told_before_the_first_run(config, tmp_path):
    (tmp_path / "baseline-seed1").mkdir()
    (tmp_path / "baseline-seed1" / "data.json").write_text("[1]")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="folder: expected that of a run, .*baseline-seed1, which is no run's and holds data.json"):
            compare_methods(tmp_path, ["baseline"], [0, 1], config, overwrite=overwrite)
    assert [path.name for path in tmp_path.rglob("*.json")] == ["data.json"]


def test_results_without_rates_are_summarised(tmp_path):
    recorded(tmp_path / "kd-seed0", 0.5, method="kd")
    assert summarise(tmp_path).accuracy_last.to_dict() == {"kd": 50}


# ---- tables and pictures, from folders that were not trained ----


def recorded(place, accuracy, kind="student", layers=None, **given):
    settings = settings_for(Config if kind == "student" else TeacherConfig, given)
    RunWriter(place, kind, flat(settings), layers or {}).result(test_accuracy_last=accuracy, test_accuracy_best=accuracy + 0.1)


def test_noise_table_and_figure(tmp_path):
    assert not len(noise_table(tmp_path)) and "No run has finished yet." in str(noise_figure(noise_table(tmp_path)))
    recorded(tmp_path / "elsewhere", 0.8, "teacher")
    for seed in (0, 1):
        for noise in (0.0, 0.5):
            recorded(
                tmp_path / "study" / f"kd{noise}{seed}",
                0.6 - noise / 2 + seed / 10,
                method="kd",
                label_noise=noise,
                seed=seed,
                teacher=str(tmp_path / "elsewhere"),
            )
        recorded(tmp_path / "study" / f"teacher{seed}", 0.7 + seed / 10, "teacher", label_noise=0.5, seed=seed)
    RunWriter(tmp_path / "study" / "begun", "student", flat(Config()), {})
    table = noise_table(tmp_path / "study")
    assert table.index.tolist() == [(0.0, "kd"), (0.0, "teacher"), (0.5, "kd"), (0.5, "teacher")] and table.seeds.tolist() == [2, 1, 2, 2]
    assert table.accuracy_last.tolist() == pytest.approx([65, 80, 40, 75]) and table.accuracy_best[0.5, "kd"] == pytest.approx(50)
    assert table.accuracy_last_sd[0.0, "kd"] == pytest.approx(10 / 2**0.5) and np.isnan(table.accuracy_last_sd[0.0, "teacher"])
    lines = {(line.name, line.showlegend): (list(line.x), list(line.y)) for line in noise_figure(table).data}
    assert lines["kd", True] == ([0, 50], [65, 40]) and lines["teacher", False] == ([0, 50], [90, 85])


def test_few_shot_table_and_figure(tmp_path):
    for images, accuracy in {100: 0.3, 400: 0.5}.items():
        recorded(tmp_path / f"sastc{images}", accuracy, method="sastc", train_images=images)
    table = few_shot_table(tmp_path)
    assert table.accuracy_last.to_dict() == pytest.approx({(100, "sastc"): 30, (400, "sastc"): 50})
    assert list(few_shot_figure(table).data[0].x) == [100, 400]


def test_sensitivity_table_and_figure(tmp_path):
    assert "No setting has two finished runs yet." in str(sensitivity_figure(sensitivity_table(tmp_path)))
    recorded(tmp_path / "base-seed0", 0.5, beta=400.0)
    recorded(tmp_path / "beta=100-seed0", 0.4, beta=100.0)
    recorded(tmp_path / "factor=2-seed0", 0.6, beta=400.0, factor=2)
    table = sensitivity_table(tmp_path)
    assert table.accuracy_last.round(6).to_dict() == {("beta", 100.0): 40, ("beta", 400.0): 50, ("factor", 2): 60, ("factor", 4): 50}
    panels = {panel.name: (list(panel.x), list(panel.y)) for panel in sensitivity_figure(table, "last").data}
    assert panels == {"beta": (["100", "400"], [40, 50]), "factor": (["2", "4"], [60, 50])}


@pytest.fixture
def pairs(tmp_path):
    accuracy = {("a", "x"): 0.1, ("a", "y"): 0.2, ("b", "x"): 0.3, ("b", "y"): 0.6}
    for (student, teacher), value in accuracy.items():
        for seed in (0, 1):
            recorded(
                tmp_path / f"{student}{teacher}{seed}",
                value,
                layers=dict(student=[student], teacher=[teacher]),
                method="feature_kd",
                student_layer=student,
                teacher_layer=teacher,
                seed=seed,
            )
    for method, value in dict(kd=0.25, sastc=0.5).items():
        recorded(tmp_path / method, value, method=method)
    return tmp_path


def test_grid_table_and_summary(pairs):
    table = grid_table(pairs)
    assert table.loc["feature_kd"].accuracy_last.to_dict() == pytest.approx({("a", "x"): 10, ("a", "y"): 20, ("b", "x"): 30, ("b", "y"): 60})
    summary = grid_summary(table)
    assert summary.accuracy_last.to_dict() == pytest.approx({"mean of pairs": 30, "worst pair": 10, "best pair": 60, "kd": 25, "sastc": 50})
    assert summary.pairs_above_last.to_dict() == {"mean of pairs": 1, "worst pair": 3, "best pair": 0, "kd": 2, "sastc": 1}


def test_grid_figure(pairs):
    figure = grid_figure(grid_table(pairs), "last")
    heat, dots = figure.data
    assert np.allclose(np.array(heat.z), [[10, 20], [30, 60]]) and (list(heat.y), list(heat.x)) == (["a", "b"], ["x", "y"])
    assert list(dots.y) == pytest.approx([10, 20, 30, 60]) and dots.customdata[3] == "b – y"
    assert sorted(shape.y0 for shape in figure.layout.shapes) == pytest.approx([25, 30, 50])
    assert {"kd 25.00", "sastc 50.00", "mean of pairs 30.00"} <= {note.text for note in figure.layout.annotations}


def test_a_page_for_each_study(pairs):
    assert set(sweeps.STUDIES) == {"noisy_labels", "few_shot", "sensitivity", "grid"}
    for name in sweeps.STUDIES:
        page = Path(write_study(name, pairs)).read_text()
        assert "<h2>Result</h2>" in page and "Mean and standard deviation over seeds" in page and "Their means mix different settings" not in page
    with pytest.raises(ValueError, match="study: expected one of .*, got 'gird' .did you mean 'grid'"):
        write_study("gird", pairs)


# ---- one budget ----


def twice(tmp_path, place, accuracy=0.3, **given):
    "The run with a second seed, which learned for longer."
    recorded(tmp_path / f"{place}-seed0", accuracy, seed=0, epochs=1, **given)
    recorded(tmp_path / f"{place}-seed1", 3 * accuracy, seed=1, epochs=4, **given)


def test_runs_of_another_budget_stand_apart_in_every_study(tmp_path):
    twice(tmp_path / "noise", "noise0-kd", method="kd")
    twice(tmp_path / "noise", "noise0.5-kd", method="kd", label_noise=0.5)
    apart = [(noise, f"kd (epochs {epochs})") for noise in (0, 0.5) for epochs in (1, 4)]
    table = noise_table(tmp_path / "noise")
    assert table.index.tolist() == apart and table.accuracy_last.tolist() == pytest.approx([30, 90] * 2)
    assert {line.name for line in noise_figure(table).data} == {"kd (epochs 1)", "kd (epochs 4)"}
    twice(tmp_path / "few", "share1-kd", method="kd", train_images=100)
    assert few_shot_table(tmp_path / "few").accuracy_last.to_dict() == pytest.approx({(100, "kd (epochs 1)"): 30, (100, "kd (epochs 4)"): 90})
    twice(tmp_path / "one", "base", beta=400.0)
    twice(tmp_path / "one", "beta=100", accuracy=0.2, beta=100.0)
    found = sensitivity_table(tmp_path / "one").accuracy_last
    assert found.round(6).to_dict() == {
        ("beta (epochs 1)", 100.0): 20, ("beta (epochs 1)", 400.0): 30, ("beta (epochs 4)", 100.0): 60, ("beta (epochs 4)", 400.0): 90,
        ("epochs (beta 100.0)", 4): 60, ("epochs (beta 400.0)", 1): 30, ("epochs (beta 400.0)", 4): 90,
    }  # fmt: skip
    pair = dict(method="feature_kd", student_layer="a", teacher_layer="x", layers=dict(student=["a"], teacher=["x"]))
    twice(tmp_path / "grid", "pair0-0", **pair)
    assert grid_table(tmp_path / "grid").accuracy_last.droplevel(["student", "teacher"]).to_dict() == pytest.approx(
        {"feature_kd (epochs 1)": 30, "feature_kd (epochs 4)": 90}
    )
    assert grid_figure(grid_table(tmp_path / "grid")).data


def test_runs_of_several_processes_stand_apart(tmp_path):
    for seed, processes in enumerate((None, 1, 2)):
        recorded(tmp_path / f"kd-seed{seed}", 0.2 + 0.2 * seed, method="kd", seed=seed)
        if processes:
            write_json(tmp_path / f"kd-seed{seed}" / "environment.json", dict(processes=processes))
    table = summarise(tmp_path)
    assert table.accuracy_last.to_dict() == pytest.approx({("processes 1", "kd"): 30, ("processes 2", "kd"): 60})


def of_own(place, seed, accuracy=0.5, augment=True, parameters=None, network=None, **data):
    "A finished run of a module of the user's, and what it recorded of network and data."
    settings = flat(settings_for(Config, dict(method="baseline", seed=seed, augment=augment))) | dict(student="own:Sequential")
    writer = RunWriter(place, "student", settings, {}, data=data or None, networks=network and dict(network=network))
    writer.result(test_accuracy_last=accuracy, test_accuracy_best=accuracy, **({} if parameters is None else dict(parameters=parameters)))


def neurons(threshold):
    return dict(time_steps=2, neurons={"0": dict(neuron="LIF", threshold=threshold), "1": dict(neuron="LIF", threshold=1.0)})


@pytest.mark.parametrize(
    "one, other, said",
    [
        (dict(parameters=447), dict(parameters=19683), ["parameters 447", "parameters 19683"]),
        (dict(network=neurons(1.0)), dict(network=neurons(0.5)), None),
        (dict(mean=[0.5], std=[0.25]), dict(mean=[0.1], std=[0.25]), ["mean [0.5]", "mean [0.1]"]),
        (dict(mean=[0.5], flip=True), dict(mean=[0.5], flip=False), ["flip True", "flip False"]),
        (dict(change=dict(shift=0)), dict(change=dict(shift=2)), ["change {'shift': 0}", "change {'shift': 2}"]),
    ],
)
def test_networks_and_data_of_ones_own_are_told_apart_by_what_was_recorded(one, other, said, tmp_path):
    for seed, (accuracy, recorded_of) in enumerate([(0.2, one), (0.8, other), (0.4, one)]):
        of_own(tmp_path / f"run{seed}", seed, accuracy, **recorded_of)
    table = summarise(tmp_path)
    budgets = table.index.get_level_values("budget")
    assert sorted(table.seeds) == [1, 2] and sorted(table.accuracy_last) == pytest.approx([30, 80])
    assert set(budgets) == set(said) if said else all(budget.startswith("neurons checksum ") for budget in budgets)


def test_what_augmentation_might_do_tells_nothing_apart_where_there_is_none(tmp_path):
    for seed in (0, 1):
        of_own(tmp_path / f"run{seed}", seed, augment=False, mean=[0.5], flip=bool(seed))
    assert summarise(tmp_path).seeds.to_dict() == {"baseline": 2}


def test_a_run_that_recorded_less_is_not_told_apart(tmp_path):
    of_own(tmp_path / "older", 0)
    of_own(tmp_path / "a", 1, parameters=447, network=neurons(1.0), mean=[0.5], flip=True)
    of_own(tmp_path / "b", 2, parameters=447, mean=[0.5])
    assert summarise(tmp_path).seeds.to_dict() == {"baseline": 3}


def test_settings_of_a_method_make_groups_of_their_own_in_studies_and_figures(tmp_path):
    pair = dict(method="feature_kd", student_layer="a", teacher_layer="x", layers=dict(student=["a"], teacher=["x"]))
    for study, chosen in dict(grid=pair, noise=dict(method="feature_kd"), few=dict(method="feature_kd", train_images=100)).items():
        for seed, beta in enumerate((1.0, 3.0, 1.0)):
            recorded(tmp_path / study / f"{seed}", 0.2 * beta, seed=seed, beta=beta, **chosen)
    for study, made in dict(grid=grid_table, noise=noise_table, few=few_shot_table).items():
        table = made(tmp_path / study)
        assert dict(zip(table.index.get_level_values("method"), table.seeds)) == {"feature_kd, beta 1.0": 2, "feature_kd, beta 3.0": 1}
        assert table.accuracy_last.tolist() == pytest.approx([20, 60])
    runs = [Run(tmp_path / "few" / f"{seed}") for seed in range(3)]
    for run, score in zip(runs, (-1.0, -5.0, -3.0)):
        (run.folder / "epochs.jsonl").write_text(json.dumps(dict(step=1, epoch=1, stm_raw=score, stm_norm=score)) + "\n")
    found = mismatch_table(runs)
    assert found.stm_raw.to_dict() == {"feature_kd, beta 1.0": -2, "feature_kd, beta 3.0": -5} and found.seeds.tolist() == [2, 1]


def test_curves_of_the_board_are_of_one_network_and_one_number_of_processes(tmp_path):
    for seed, parameters in enumerate((447, 19683, 447, 447)):
        of_own(tmp_path / f"run{seed}", seed, parameters=parameters)
        write_json(tmp_path / f"run{seed}" / "environment.json", dict(processes=1 + (seed == 3)))
    groups = by_settings([Run(tmp_path / f"run{seed}") for seed in range(4)])
    assert sorted(sorted(run.folder.name for run in group) for group in groups.values()) == [["run0", "run2"], ["run1"], ["run3"]]
    assert any("parameters 19683" in name for name in groups) and any("processes 2" in name for name in groups)


@pytest.mark.parametrize("keep", ["epochs", "steps"])
def test_a_study_of_few_images_is_one_budget(tmp_path, keep):
    for images, epochs in ((100, 10), (25, 40 if keep == "steps" else 10)):
        recorded(tmp_path / f"share{images}", 0.5, method="kd", train_images=images, epochs=epochs)
    assert few_shot_table(tmp_path).index.tolist() == [(25, "kd"), (100, "kd")]


def test_the_last_method_of_a_comparison_is_tried_before_the_first_is_trained(config, tmp_path):
    with pytest.raises(ValueError, match="nowhere"):
        compare_methods(tmp_path, ["baseline", "sastc"], [0], config.but(method="sastc", student_layers=("nowhere",)))
    assert not list(tmp_path.glob("*/steps.jsonl"))


def test_a_method_takes_what_was_named_and_its_own_defaults_for_the_rest():
    for typed, betas in ({}, dict(sastc=800, routed=100)), (dict(beta=100.0), dict(sastc=100, routed=100)), (dict(beta=800.0), dict(sastc=800, routed=800)):
        for first in betas:  # whichever the settings were made for
            made = settings_by_method(list(betas), settings_for(Config, dict(method=first, **typed)).but(seed=3))
            assert {name: config["beta"] for name, config in made.items()} == betas
            assert [made[name]["projection"] for name in ("sastc", "routed")] == ["code", "linear"]


def test_data_are_loaded_once_for_all_methods_before_training(config, tmp_path, monkeypatch):
    from sastc.data.sources import Digits

    loaded, load = [], Digits.load
    monkeypatch.setattr(Digits, "load", lambda source, *given: loaded.append(1) or load(source, *given))
    compare_methods(tmp_path, ["baseline", "kd", "sastc"], [0, 1], config, dry_run=True)
    assert len(loaded) == 1 and not list(tmp_path.iterdir())
