"""Run folders of the first version: read, evaluated, opened, resumed. And every recorded run of the results."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from sastc.common.settings import flat
from sastc.methods.attention import attention_bounds
from sastc.training import Run, assess, distill, open_run, train_teacher
from sastc.training.config import Config, TeacherConfig
from sastc.training.runs import compare

RESULTS = Path(__file__).resolve().parents[1] / "nbs" / "results"
RECORDED = sorted(path.parent for path in RESULTS.rglob("config.json"))
TINY = dict(data="digits", train_images=128, batch_size=16, lr=0.02, log_every=4, width=1 / 16, seed=3)  # 7 steps an epoch: a stop comes between two records
OLD = dict(  # what version 1 wrote for every student, beside what it still writes
    root="data", image_size=0, frames=0, frames_by="count", frame_values="counts", skip_damaged=False, workers=0, noise_over="others", drop_last=True, channels_last=True,
    alpha=1.0, beta=800.0, temperature=4.0, candidates="code", student_layers=[], teacher_layers=[], pair=[-1, -1], factor=4, attn_scale=1.0, projection="code", student_pool="max",
    teacher_pool="avg", align="features", similarity_norm="raw", attention_gradient="flows", relative_distance=False, entropy_weight=0.0, fold_time=False, over_teacher="sum",
    teacher_mode="fold_mean", teacher="", mismatch_batches=0, momentum=0.9, milestones=[0.625, 0.75, 0.875],
)  # fmt: skip
NEW = ("neuron", "surrogate", "reset", "attention", "alignment", "student_layer", "teacher_layer")


def as_version_1(run, **changes):
    "The folder as the first version would have written it."
    folder, config = run.folder, json.loads((run.folder / "config.json").read_text())
    held = config["settings"]
    if "alignment" in held:
        held["align"] = held["alignment"]
    kept = {name: value for name, value in held.items() if name not in NEW}
    settings = (OLD if config["kind"] == "student" else dict(root="data", frames=0, noise_over="others", drop_last=True, channels_last=True)) | kept | changes
    (folder / "config.json").write_text(json.dumps(dict(kind=config["kind"], settings=settings)))
    for name in ("terms.json", "data.json"):
        (folder / name).unlink(missing_ok=True)
    if (folder / "attention.jsonl").exists():
        records = [{name: value for name, value in record.items() if name != "bounds"} for record in run.lines("attention")]
        (folder / "attention.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    for path in folder.glob("checkpoints/*.pt"):
        content = torch.load(path, weights_only=True)
        for name in ("preprocessing", "labelled"):
            content.pop(name, None)
        for name in ("neuron", "surrogate", "reset"):
            content["spec"].pop(name, None)
        if "method" in content:
            content["calibrator"] = content.pop("method") or None
            content["record_sums"].pop("attention/", None)
            content["record_sums"] = {name.removeprefix("attention/"): value for name, value in content["record_sums"].items()}
        for name in ("epoch_sums", "record_sums"):
            if sums := content.get(name):  # nothing yet, or a best checkpoint, which has none
                steps = sums["steps of total"]  # one count for all parts of the loss
                content[name] = {key: value for key, value in sums.items() if not key.startswith("steps of ")} | dict(steps=steps)
        torch.save(content, path)
    return Run(folder)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return as_version_1(train_teacher(**TINY | dict(model="wrn16_2", width=0.25, epochs=1, folder=tmp_path_factory.mktemp("old") / "teacher")))


def same_state(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


METHODS = dict(
    baseline=dict(method="baseline"),
    kd=dict(method="kd"),
    feature_kd=dict(method="feature_kd", beta=0.5),
    sastc=dict(method="sastc", beta=0.5),
    rsa=dict(method="rsa", beta=0.5),
)


def stop_after(steps, monkeypatch):
    "SIGTERM's effect at a step, in this process."
    from sastc.training.loop import StopRequest, Trainer

    step = Trainer.step

    def counted(self, images, labels):
        step(self, images, labels)
        if self.progress["step"] == steps:
            StopRequest.made = True

    monkeypatch.setattr(Trainer, "step", counted)
    monkeypatch.setattr(StopRequest, "__init__", lambda self: None)
    monkeypatch.setattr(StopRequest, "made", False, raising=False)


@pytest.mark.parametrize("name", METHODS)
def test_a_folder_of_version_1_resumes_to_the_weights_of_an_unbroken_run(name, teacher, tmp_path, monkeypatch):
    given = TINY | METHODS[name] | dict(epochs=2) | ({} if name == "baseline" else dict(teacher=str(teacher.folder)))
    whole = distill(**given, folder=tmp_path / "whole")
    with monkeypatch.context() as patched:
        stop_after(10, patched)
        assert distill(**given, folder=tmp_path / "old").state == "stopped"
    old = as_version_1(Run(tmp_path / "old"))
    assert old.checkpoint("last")["step"] == 10 and old.state == "stopped"
    run = distill(folder=old.folder, resume=True)
    assert run.state == "finished" and json.loads((run.folder / "config.json").read_text())["version"] == 2
    for part in ("model", "method"):
        assert same_state(run.checkpoint("last")[part], whole.checkpoint("last")[part])
    assert run.steps.total.tolist() == whole.steps.total.tolist() and run.terms == whole.terms
    assert run.config == whole.config | dict(folder=str(run.folder))
    records, expected = (each.lines("attention") for each in (run, whole))
    assert [{n: v for n, v in record.items() if n != "bounds"} for record in records] == [
        {n: v for n, v in record.items() if n != "bounds"} for record in expected
    ]
    assert run.attention_bounds == pytest.approx(whole.attention_bounds, abs=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_a_folder_of_version_1_is_read_opened_and_evaluated(name, teacher, tmp_path):
    given = TINY | METHODS[name] | dict(epochs=1) | ({} if name == "baseline" else dict(teacher=str(teacher.folder)))
    new = distill(**given, folder=tmp_path / "run")
    before = dict(
        config=new.config,
        terms=new.terms,
        steps=new.steps,
        attention=new.attention,
        bounds=new.attention_bounds,
        settings=new.settings,
    )
    shutil.copytree(new.folder, tmp_path / "new")
    old = as_version_1(new)
    assert old.config == before["config"] and old.settings == before["settings"] and type(old.settings) is Config
    assert old.steps.equals(before["steps"]) and np.array_equal(old.attention, before["attention"])
    assert old.attention_bounds == pytest.approx(before["bounds"], abs=1e-5)
    assert {"ce"} <= set(old.terms) and all(old.terms[key] == before["terms"][key] for key in before["terms"])
    assert assess(old)["accuracy"] == pytest.approx(old.result["test_accuracy_best"])
    opened, other = open_run(old), open_run(tmp_path / "new")
    if name != "baseline":
        images, labels = next(opened.data.batches("test", 16, shuffle=False, drop_last=True).epoch(0))
        values = [{key: term.value for key, term in each.method.terms(each.step(images, labels)).items()} for each in (opened, other)]
        assert values[0] == values[1] and opened.run.layers == other.run.layers
    assert {"accuracy"} <= set(assess(old)) and len(compare([old, tmp_path / "new"])) == 2


def test_a_teacher_of_version_1(teacher):
    assert type(teacher.settings) is TeacherConfig and teacher.settings["model"] == "wrn16_2" and "drop_last" not in teacher.config
    assert assess(teacher)["accuracy"] == pytest.approx(teacher.result["test_accuracy_best"])
    assert open_run(teacher, kind="teacher").network(torch.zeros(1, 1, 32, 32)).shape == (1, 10)


@pytest.mark.parametrize("name, value", dict(over_teacher="mean", drop_last=False, fold_time=True, noise_over="all").items())
def test_what_is_gone_and_had_an_effect_is_shown_and_not_resumed(name, value, teacher, tmp_path):
    run = distill(**TINY, **METHODS["sastc"], epochs=1, teacher=str(teacher.folder), folder=tmp_path / "run")
    old = as_version_1(run, **{name: value})
    assert old.config[name] == value and name not in flat(old.settings)
    before = {path: path.read_bytes() for path in old.folder.rglob("*") if path.is_file()}
    with pytest.raises(
        ValueError, match=f"{name}: expected a run without it, since this version has no such setting, got .*; the run can be looked at, not resumed"
    ):
        distill(folder=old.folder, resume=True)
    assert before == {path: path.read_bytes() for path in old.folder.rglob("*") if path.is_file()}


def test_layers_that_version_1_counted_are_called_by_name(teacher, tmp_path):
    "`pair` of Feature KD was a pair of numbers; which layers they meant stands in layers.json."
    run = distill(
        **TINY, **METHODS["feature_kd"], student_layer="layer4", teacher_layer="stage1", epochs=1, teacher=str(teacher.folder), folder=tmp_path / "run"
    )
    old = as_version_1(run, pair=[1, 0])
    assert (old.config["student_layer"], old.config["teacher_layer"]) == ("layer4", "stage1") and "pair" not in old.config


# ---------------------------------------------------------------- the recorded runs


@pytest.mark.parametrize("folder", RECORDED, ids=lambda folder: f"{folder.parent.name}/{folder.name}")
def test_recorded_runs_load(folder):
    run = Run(folder)
    config, settings = run.config, run.settings
    stored = json.loads((folder / "config.json").read_text())["settings"]
    assert isinstance(settings, TeacherConfig if run.kind == "teacher" else Config)
    assert {name: value for name, value in config.items() if name in stored} == {name: stored[name] for name in config if name in stored}
    today = json.loads(json.dumps(flat(settings)))
    assert {name: value for name, value in today.items() if name in config} == {name: value for name, value in config.items() if name in today}
    assert config.keys() <= today.keys(), "a setting that is gone had an effect"
    assert today.keys() - config.keys() <= {"init", "save_memory", "teacher_until", "trackers", "unfinished_teacher"}, "a setting that is younger than the run"
    assert len(run.metrics) == settings.optimisation.epochs == run.metrics.epoch.iloc[-1] and run.state == "finished"
    assert run.metrics.train_total.notna().all() and 0 < run.result["test_accuracy_best"] <= 1
    attention, layers = run.attention, run.layers
    if run.kind == "student" and settings.method.uses_teacher and len(attention):
        assert attention.shape[2:] == (len(layers["student"]), len(layers["teacher"]))
        np.testing.assert_allclose(attention.sum(-1), 1, atol=1e-4)
        low, high = run.attention_bounds
        if "bounds" not in run.lines("attention")[-1]:  # version 1 left them to its readers
            assert (low, high) == attention_bounds(attention.shape[-1], config["attn_scale"] * (8 if config["method"] == "rsa" else 1))
        assert (attention >= low - 1e-4).all() and (attention <= high + 1e-4).all()
        assert len(run.attention_steps) == len(attention)


def test_there_are_recorded_runs():
    assert len(RECORDED) > 20
