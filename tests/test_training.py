"""Runs: resuming, stopping, failing, several processes. Everything is on digits with the smallest networks."""

import json
import os
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
import torch
import torchvision
from ending import as_if_stopped, at_step
from processes import Program
from torch import nn

from sastc.common.settings import flat
from sastc.data.images import load_images
from sastc.methods import METHODS, Baseline
from sastc.methods.method import Term
from sastc.models import create_model, spiking
from sastc.neurons.network import over_time
from sastc.neurons.neuron import LIF, PLIF
from sastc.training.checkpoints import load_checkpoint, load_model, save_checkpoint
from sastc.training.config import OPTIMIZERS, Config, TeacherConfig, settings_for
from sastc.training.fitting import learner_for, student_for
from sastc.training.loop import NotFinite, Trainer
from sastc.training.opening import assess
from sastc.training.runs import Run, RunWriter
from sastc.training.session import distill, train_teacher

OURS = ("baseline", "kd", "feature_kd", "sastc", "uniform", "rate", "rsa", "routed")  # others: test_rivals.py
TINY = dict(data="digits", train_images=128, batch_size=16, lr=0.02, log_every=1, width=0.0625)


def calibrated(method, beta=0.5):
    "Settings of a method; those that compare layers with a weight that suits this lot."
    return dict(method=method) | (dict(beta=beta) if "beta" in flat(METHODS[method]()) else {})


@pytest.fixture(scope="session")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher") / "run"
    return train_teacher(**TINY | dict(model="wrn16_2", width=0.25, epochs=1, folder=folder))


def run_in_process(folder, *, epochs, teacher, resume=False, ending=""):
    given = TINY | dict(method="sastc", beta=0.5, epochs=epochs, keep_epochs=(1, 3), folder=str(folder), teacher=str(teacher.folder), seed=3)
    given = dict(folder=str(folder), resume=True) if resume else given
    code = f"{ending}\nfrom sastc.training import distill; distill(**{given!r})"
    return Program(code)


def wait_for_steps(process, folder, count):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        lines = (folder / "steps.jsonl").read_bytes().count(b"\n") if (folder / "steps.jsonl").exists() else 0
        if lines >= count:
            return
        time.sleep(0.01)
    pytest.fail(f"the run ended or hung before step {count}: {process.communicate()[1][-2000:] if process.poll() is not None else 'timeout'}")


def same_state(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="session")
def unbroken(teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    process = run_in_process(folder, epochs=4, teacher=teacher)
    assert process.wait(300) == 0, process.communicate()[1][-2000:]
    return Run(folder)


def assert_equal_runs(run, reference):
    for name in ("model", "method"):
        assert same_state(run.checkpoint("last")[name], reference.checkpoint("last")[name])
    assert run.checkpoints == reference.checkpoints == ["best", "last", "epoch-1", "epoch-3"]
    for which in ("best", "epoch-1", "epoch-3"):
        assert same_state(run.checkpoint(which)["model"], reference.checkpoint(which)["model"])
    assert run.steps.total.tolist() == reference.steps.total.tolist()
    assert (run.attention == reference.attention).all() and len(run.attention) == len(reference.attention)
    assert run.metrics.validation_accuracy.tolist() == reference.metrics.validation_accuracy.tolist()
    assert run.metrics.train_total.tolist() == reference.metrics.train_total.tolist()
    timeless = [{k: v for k, v in r.result.items() if k != "minutes"} for r in (run, reference)]
    assert timeless[0] == timeless[1]


@pytest.mark.parametrize("kills", [(3,), (9, 19)], ids=["before_the_first_checkpoint", "twice_in_later_epochs"])
def test_a_killed_run_resumes_to_the_same_weights(kills, teacher, unbroken, tmp_path):
    folder = tmp_path / "run"
    for number, step in enumerate(kills):
        process = run_in_process(folder, epochs=4, teacher=teacher, resume=number > 0, ending=at_step(step))
        assert process.wait(300) == -signal.SIGKILL, process.communicate()[1][-2000:]
        assert Run(folder).status["state"] == "running" and Run(folder).state == "lost"  # it had no time to say otherwise
        assert Run(folder).status["step"] == step - 1
    process = run_in_process(folder, epochs=4, teacher=teacher, resume=True)
    assert process.wait(300) == 0, process.communicate()[1][-2000:]
    assert_equal_runs(Run(folder), unbroken)


def test_ctrl_c_stops_within_an_epoch_and_resumes_to_the_same_weights(teacher, unbroken, tmp_path):
    folder = tmp_path / "run"
    process = run_in_process(folder, epochs=4, teacher=teacher, ending=at_step(10, signal.SIGINT))
    assert process.wait(300) == 0, process.communicate()[1][-2000:]
    stopped = Run(folder)
    assert stopped.status["state"] == "stopped" and not stopped.result
    assert stopped.checkpoint("last")["step"] == stopped.status["step"] == 10
    process = run_in_process(folder, epochs=4, teacher=teacher, resume=True)
    assert process.wait(300) == 0, process.communicate()[1][-2000:]
    assert_equal_runs(Run(folder), unbroken)


def test_kept_epochs_hold_the_weights_of_their_epoch_alone(tmp_path, monkeypatch):
    "As `last` had them then, seen while it was written."
    seen, write = {}, RunWriter.checkpoint

    def see(self, which, content):
        write(self, which, content)
        if which == "last":
            seen[content["epoch"]] = self.folder.joinpath("checkpoints", "last.pt").read_bytes()

    monkeypatch.setattr(RunWriter, "checkpoint", see)
    run = distill(**TINY, method="baseline", epochs=3, keep_epochs=[3, 1], folder=tmp_path / "run")
    assert run.checkpoints == ["best", "last", "epoch-1", "epoch-3"]
    for epoch in (1, 3):
        (tmp_path / "seen.pt").write_bytes(seen[epoch])
        kept, then = run.checkpoint(f"epoch-{epoch}"), load_checkpoint(tmp_path / "seen.pt")
        assert kept["epoch"] == epoch and "optimizer" not in kept and same_state(kept["model"], then["model"])
    assert not same_state(run.checkpoint("epoch-1")["model"], run.checkpoint("epoch-3")["model"])
    assert same_state(run.model("epoch-3").state_dict(), run.checkpoint("last")["model"])
    with pytest.raises(FileNotFoundError, match="got .*epoch-2.pt, which is not there; the folder has best, last, epoch-1, epoch-3"):
        assess(run.folder, "epoch-2")
    assert assess(run.folder, "epoch-3")["accuracy"] == pytest.approx(run.result["test_accuracy_last"])


def test_a_run_of_a_version_without_kept_epochs_is_read_and_resumed(tmp_path):
    folder = tmp_path / "run"
    whole = distill(**TINY, method="baseline", epochs=1, folder=folder)
    old = json.loads((folder / "config.json").read_text())
    del old["settings"]["keep_epochs"]
    (folder / "config.json").write_text(json.dumps(old))
    assert assess(folder)["accuracy"] == pytest.approx(whole.result["test_accuracy_best"])
    assert distill(folder=str(folder), resume=True).config["keep_epochs"] == []


def test_resuming_elsewhere_is_said(tmp_path, capsys):
    folder = tmp_path / "run"
    distill(**TINY, method="baseline", epochs=1, folder=folder)
    as_if_stopped(folder)
    capsys.readouterr()
    distill(folder=folder, resume=True)
    assert "resumed with" not in capsys.readouterr().err
    as_if_stopped(folder)
    environment = json.loads((folder / "environment.json").read_text())
    threads = environment["threads"]
    (folder / "environment.json").write_text(json.dumps(environment | dict(threads=threads + 1)))
    distill(folder=folder, resume=True)
    assert f"resumed with threads {threads} (was {threads + 1}): its last digits will differ" in capsys.readouterr().err


def test_resuming_with_another_setting_is_refused(unbroken):
    with pytest.raises(ValueError, match="lr: expected 0.02, with which the run in .* was started, got 0.5; leave it out to resume"):
        distill(folder=str(unbroken.folder), resume=True, lr=0.5)


def test_resuming_with_a_typed_default_that_differs_is_refused(tmp_path):
    folder = str(tmp_path / "run")
    distill(**TINY, method="baseline", epochs=1, folder=folder)
    with pytest.raises(ValueError, match="method: expected 'baseline', with which the run in .* was started, got 'sastc'; leave it out"):
        distill(folder=folder, resume=True, method="sastc", beta=800)
    with pytest.raises(ValueError, match="beta: expected only with method .*, got 800 with method 'baseline'"):
        distill(folder=folder, resume=True, beta=800)
    with pytest.raises(ValueError, match="epochs: expected 1, .*, got 240; leave it out"):
        distill(settings_for(Config, TINY | dict(method="baseline")), folder=folder, resume=True)
    with pytest.raises(ValueError, match="data: expected 'digits', .*, got 'own:digits'; leave it out"):
        distill(folder=folder, resume=True, data=load_images("digits"))
    config = settings_for(Config, TINY | dict(method="baseline", epochs=1))
    assert distill(config, folder=folder, resume=True).state == "finished"


def test_resuming_takes_settings_that_only_the_choices_of_the_run_have(teacher, tmp_path):
    given = TINY | dict(method="feature_kd", beta=0.5, student_layer="layer4", teacher=str(teacher.folder), folder=str(tmp_path / "run"), epochs=1)
    distill(**given)
    assert distill(folder=given["folder"], resume=True, student_layer="layer4").layers["student"] == ["layer4"]
    with pytest.raises(ValueError, match="student_layer: expected 'layer4', .*, got 'layer5'"):
        distill(folder=given["folder"], resume=True, student_layer="layer5")


def test_data_of_ones_own_have_settings_and_survive_a_change_of_others(tmp_path):
    images = load_images("digits")
    config = settings_for(
        Config, {name: value for name, value in TINY.items() if name != "data"} | dict(data=images, method="baseline", holdout=0.25, epochs=1)
    )
    assert config.data.load() is images and (config["data"], config["train_images"], config["holdout"]) == ("own:digits", 128, 0.25)
    changed = config.but(holdout=0.5, seed=7)
    assert changed.data.load() is images and (changed["train_images"], changed["holdout"]) == (128, 0.5)
    run = distill(config, lr=0.01, folder=tmp_path / "run")
    assert run.config["data"] == "own:digits" and run.status["steps"] == 96 // 16
    assert distill(folder=run.folder, data=images, resume=True).state == "finished"


def test_a_folder_with_a_run_is_never_overwritten(unbroken):
    before = {path: path.read_bytes() for path in unbroken.folder.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="folder: expected one without a run, got .* holds a run already"):
        distill(**TINY, method="baseline", epochs=1, folder=str(unbroken.folder))
    assert before == {path: path.read_bytes() for path in unbroken.folder.rglob("*") if path.is_file()}


def test_a_folder_that_a_living_process_writes_is_refused(teacher, tmp_path):
    process = run_in_process(tmp_path / "run", epochs=50, teacher=teacher)
    try:
        wait_for_steps(process, tmp_path / "run", 1)
        with pytest.raises(ValueError, match=f"is being written by process {process.pid}"):
            distill(folder=str(tmp_path / "run"), resume=True)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("method", OURS)
def test_every_method_trains(method, teacher, tmp_path):
    given = calibrated(method)
    run = distill(**TINY, **given, epochs=1, **(dict(teacher=teacher.folder) if METHODS[method].uses_teacher else {}), folder=tmp_path / "run")
    assert run.state == "finished"
    assert [term["label"] for term in run.terms.values()] == ["cross-entropy"] + ["soft labels (KL)"] * METHODS[method].uses_teacher + ["calibration"] * (
        "beta" in given
    )
    assert {name.removeprefix("train_") for name in run.metrics if name.startswith("train_")} == {*run.terms, "total", "accuracy"}
    assert {*run.terms, "total"} < set(run.steps)
    shapes = dict(sastc=(2, 4, 3), rsa=(2, 4, 3), routed=(2, 4, 3), rate=(1, 4, 3))
    assert run.attention.shape[1:] == shapes.get(method, ())
    if method in shapes:
        assert run.attention.sum(-1) == pytest.approx(1, abs=1e-4)


def test_labels_teach_the_attention_and_nothing_else(teacher):
    "Against attention that the distance teaches: the same loss and gradients, but for the embeddings, whose gradient is that of attention times pull."
    data, found = load_images("digits"), {}
    images, labels = next(data.batches("train", TINY["batch_size"], shuffle=False, drop_last=True).epoch(0))
    for taught_by in ("embedding", "labels"):
        torch.manual_seed(0)
        config = settings_for(Config, TINY | dict(method="sastc", beta=3.0, attention_gradient=taught_by))
        learner, _ = learner_for(config, student_for(config, data), teacher.model(), data)
        loss = learner.train()(images, labels).total
        loss.backward()
        found[taught_by] = loss, {name: parameter.grad for name, parameter in learner.named_parameters() if parameter.grad is not None}
    torch.testing.assert_close(found["labels"][0], found["embedding"][0])
    differ = {name for name, gradient in found["labels"][1].items() if not torch.allclose(gradient, found["embedding"][1][name], rtol=1e-4, atol=1e-6)}
    embeddings = {name for name in found["labels"][1] if name.startswith("method.attention")}
    assert differ <= embeddings and "method.attention.query.hidden_weight" in differ


@pytest.mark.parametrize(
    "extra",
    [
        dict(precision="bf16"),
        dict(time_steps=3, candidates="stages"),
        dict(student="wrn16_2"),
        dict(alignment="attention_map"),
        dict(alignment="similarity", similarity_norm="row", projection="none"),
    ],
)
def test_attention_that_the_labels_teach_trains(extra, teacher, tmp_path):
    run = distill(**TINY | extra, method="sastc", beta=0.5, attention_gradient="labels", epochs=1, teacher=teacher.folder, folder=tmp_path / "run")
    assert run.status["state"] == "finished" and run.metrics.train_sastc.notna().all() and np.isfinite(run.attention).all()


@pytest.mark.parametrize(
    "extra",
    [
        dict(precision="bf16"),
        dict(optimizer="adam", schedule="cosine", warmup=0.5, clip=1.0),
        dict(holdout=0.0),
        dict(neuron="plif", surrogate="sigmoid", reset="soft"),
    ],
)
def test_other_ways_to_train(extra, tmp_path):
    run = distill(**TINY | extra, method="baseline", epochs=2, folder=tmp_path / "run")
    assert run.status["state"] == "finished" and run.metrics.train_total.notna().all()
    if extra.get("holdout") == 0:  # nothing to choose by, so the best epoch is the last
        assert run.result["best_epoch"] == 2 and same_state(run.checkpoint("best")["model"], run.checkpoint("last")["model"])


@pytest.mark.parametrize("emulated, precision", [(True, "bf16"), (True, "fp32"), (False, "bf16")])
def test_a_precision_that_is_slow_on_this_processor_is_told_before_the_data_are_loaded(emulated, precision, tmp_path, monkeypatch, recwarn):
    warnings.simplefilter("always")  # until recwarn ends
    monkeypatch.setattr("sastc.training.inputs.computes_in_bf16", lambda: not emulated)
    monkeypatch.setattr("sastc.training.inputs.data_of", as_if_loading_failed)
    for train, own in ((distill, dict(method="baseline")), (train_teacher, dict(model="wrn16_2"))):
        with pytest.raises(OSError, match="not now"):
            train(**TINY, **own, precision=precision, device="cpu", epochs=1, folder=tmp_path / train.__name__)
        slow = [told for told in recwarn if str(told.message).startswith("precision: bf16 takes many times as long as fp32")]
        assert len(slow) == (emulated and precision == "bf16")
        recwarn.clear()


@pytest.mark.parametrize("computes", [True, False, None])
def test_a_precision_that_is_fast_here_is_settled_once(computes, tmp_path, monkeypatch):
    monkeypatch.setattr("sastc.training.config.computes_in_bf16", lambda: computes)
    fast = "bf16" if computes else "fp32"
    for train, own in ((distill, dict(method="baseline")), (train_teacher, dict(model="wrn16_2"))):
        given = TINY | own | dict(precision="auto", device="cpu", folder=tmp_path / train.__name__)
        run = train(**given, epochs=1)
        assert run.config["precision"] == run.result["precision"] == fast
        assert train(**given, epochs=1, resume="auto").config == run.config
        monkeypatch.setattr("sastc.training.config.computes_in_bf16", lambda: not computes)  # another machine
        with pytest.raises(ValueError, match=f"precision: expected '{fast}', with which the run in"):
            train(**given, epochs=2, resume=True)
        longer = train(folder=run.folder, epochs=2, resume=True)
        assert longer.config["precision"] == longer.result["precision"] == fast
        monkeypatch.setattr("sastc.training.config.computes_in_bf16", lambda: computes)


def as_if_loading_failed(config):
    raise OSError("not now")


def test_the_same_seed_gives_the_same_weights_and_another_does_not(tmp_path):
    states = [
        distill(**TINY, method="baseline", epochs=1, seed=seed, folder=tmp_path / name).checkpoint()["model"] for name, seed in dict(a=1, b=1, c=2).items()
    ]
    assert same_state(states[0], states[1]) and not same_state(states[0], states[2])


def test_calibration_costs_nothing_at_inference(teacher, tmp_path):
    given = dict(baseline={}, sastc=dict(teacher=teacher.folder, beta=0.5))
    runs = [distill(**TINY, method=method, epochs=1, folder=tmp_path / method, **own) for method, own in given.items()]
    baseline, sastc = (run.result for run in runs)
    assert baseline["parameters"] == sastc["parameters"] == baseline["training_parameters"] < sastc["training_parameters"]
    assert baseline["ann_microjoule"] == sastc["ann_microjoule"]
    assert runs[0].checkpoint()["model"].keys() == runs[1].checkpoint()["model"].keys()


def test_networks_of_ones_own(tmp_path):
    images = load_images("digits")
    teacher = torchvision.models.resnet18(num_classes=10)
    teacher.conv1 = nn.Conv2d(1, 64, 3, 2, 1, bias=False)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    student = spiking(teacher, time_steps=2)
    layers = dict(student_layers=("layer1", "layer3"), teacher_layers=("layer2",))
    run = distill(
        student=student,
        teacher=teacher,
        data=images,
        method="sastc",
        train_images=64,
        holdout=0.0,
        batch_size=16,
        epochs=1,
        log_every=1,
        beta=0.1,
        folder=tmp_path / "run",
        **layers,
    )
    assert run.attention.shape[1:] == (2, 2, 1) and run.layers == {"student": ["layer1", "layer3"], "teacher": ["layer2"]}
    assert same_state(teacher.state_dict(), before) and all(p.grad is None for p in teacher.parameters())
    assert same_state(student.state_dict(), run.checkpoint("last")["model"])
    with pytest.raises(ValueError, match="expected a network that can be built again, got one of your own"):
        run.model()


def test_learned_decay_factors_train_and_resume_to_the_same_weights(tmp_path, monkeypatch):
    given = TINY | dict(method="baseline", neuron="plif", surrogate="arctangent", reset="soft", decay=0.75, epochs=2)
    whole = distill(**given, folder=tmp_path / "whole")
    learned = {name: value.sigmoid().item() for name, value in whole.checkpoint("last")["model"].items() if name.endswith("decay_logit")}
    assert len(learned) == 8 and len(set(learned.values())) == 8 and all(abs(value - 0.75) > 1e-6 for value in learned.values())
    assert whole.result["parameters"] == distill(**given | dict(neuron="lif", epochs=1), folder=tmp_path / "lif").result["parameters"] + 8
    step = Trainer.step

    def broken(self, images, labels):
        if self.progress["step"] == 11:
            raise KeyboardInterrupt
        step(self, images, labels)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Trainer, "step", broken)
        distill(**given, folder=tmp_path / "broken")
    run = distill(folder=tmp_path / "broken", resume=True)
    assert same_state(run.checkpoint("last")["model"], whole.checkpoint("last")["model"]) and run.steps.total.tolist() == whole.steps.total.tolist()
    network = run.model("last")
    assert [type(module) for module in network.modules() if isinstance(module, PLIF)] == [PLIF] * 8
    assert network.layer3[2].decay_factor().item() == pytest.approx(learned["layer3.2.decay_logit"]) and network.layer3[2].reset == "soft"


def test_frozen_batch_normalisation_stays_frozen(tmp_path):
    "Of a network of one's own: its modules keep the mode that they were passed in, through the trial image, evaluation and training."
    student = create_model("vgg11", 10, 2, 1, width=0.0625)
    student.layer2.eval()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    given = {name: value for name, value in TINY.items() if name != "width"}
    run = distill(**given, student=student, method="baseline", epochs=2, folder=tmp_path / "run")
    after = run.checkpoint("last")["model"]
    moved = {name for name in after if not after[name].equal(before[name]) and "running" in name}
    assert {name.split(".")[0] for name in moved} == {f"layer{number}" for number in range(1, 9)} - {"layer2"}
    assert not after["layer2.1.weight"].equal(before["layer2.1.weight"])  # its parameters learn all the same
    assert student.training and not student.layer2[1].training


def test_a_network_in_evaluation_mode_is_trained_as_a_whole(tmp_path):
    student = create_model("vgg11", 10, 2, 1, width=0.0625).eval()
    given = {name: value for name, value in TINY.items() if name != "width"}
    after = distill(**given, student=student, method="baseline", epochs=1, folder=tmp_path / "run").checkpoint("last")["model"]
    assert all(after[name] == 7 for name in after if name.endswith("num_batches_tracked"))


# ---- what goes wrong ----


class Poisoned(nn.Module):
    "A student whose output becomes NaN at the given call."

    def __init__(self, call):
        super().__init__()
        self.layers, self.left = nn.Sequential(nn.Flatten(), nn.Linear(1024, 8), LIF(2), nn.Linear(8, 10)), call

    def forward(self, x):
        self.left -= self.training
        return self.layers(x) * (float("nan") if self.left == 0 else 1.0)


def test_nan_stops_with_step_part_and_last_good_checkpoint(tmp_path):
    student, given = over_time(Poisoned(call=12), 2), {name: value for name, value in TINY.items() if name != "width"}
    with pytest.raises(NotFinite, match=r"loss: expected finite parts, got 'ce' = nan at step 11 \(epoch 2\); the last good checkpoint is .*last.pt"):
        distill(**given, student=student, method="baseline", epochs=3, folder=tmp_path / "run")
    run = Run(tmp_path / "run")
    assert run.status["state"] == "failed" and "got 'ce' = nan at step 11" in run.status["reason"]
    assert all(value.isfinite().all() for value in run.checkpoint("last")["model"].values())


def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path):
    path = tmp_path / "last.pt"
    save_checkpoint(path, dict(epoch=7, model={"w": torch.ones(10)}))
    good = path.read_bytes()
    # a limit on the size of files fails a write half way, as a full disk does
    code = f"""
import resource, signal, torch
from pathlib import Path
from sastc.training.checkpoints import save_checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save_checkpoint(Path({str(path)!r}), dict(epoch=8, model=dict(w=torch.ones(1_000_000))))
except OSError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "could not be written" in done.stdout and "the checkpoint of epoch 7 is still there" in done.stdout, done.stderr
    assert path.read_bytes() == good and os.listdir(tmp_path) == ["last.pt"]


def mistake(**given):
    settings = TINY | dict(epochs=1, method="baseline") | given
    settings = {name: value for name, value in settings.items() if value is not None}
    return lambda folder: distill(**settings, folder=folder)


def narrow_teacher(classes=10, channels=1):
    return create_model("wrn16_2", classes, None, channels, width=0.25)


MISTAKES = {
    "method: expected one of .*, got 'satsc' .did you mean 'sastc'": mistake(method="satsc"),
    "student: expected one of .*, got 'vgg12' .did you mean 'vgg1": mistake(student="vgg12"),
    "neuron: expected one of lif, if, plif, got 'lfi'": mistake(neuron="lfi"),
    "data: expected one of .*, got 'digit' .did you mean 'digits'": mistake(data="digit"),
    "data: .* no file or folder|data: expected a file or folder": mistake(data="missing/folder"),
    "setting: expected a setting of this run .did you mean 'temperature'.., got 'tempurature'": mistake(method="kd", tempurature=3.0),
    "time_steps: expected a number of at least 1, got 0": mistake(time_steps=0),
    "epochs: expected a number of at least 1, got 0": mistake(epochs=0),
    "keep_epochs: expected a whole number from 1 to 1, got 2.5": mistake(keep_epochs=[1, 2.5]),
    "keep_epochs: expected a whole number from 1 to 2, got 3": mistake(keep_epochs=[1, 3], epochs=2),
    "batch_size: .*4096": mistake(batch_size=4096),
    "batch_size: expected at most 115 .*, got 100000": mistake(batch_size=100_000, method="sastc", teacher=narrow_teacher()),  # not "out of memory"
    "train_images: expected .*, got 5000": mistake(train_images=5000),
    "teacher: expected a run folder or checkpoint .*, for method kd, got none": mistake(method="kd"),
    "teacher: expected a run folder or checkpoint .*, for mismatch_batches, got none": mistake(mismatch_batches=2),
    "beta: expected only with method .*, got 3.0 with method 'baseline', where it has no effect": mistake(beta=3.0),
    "momentum: expected only with optimizer sgd, got 0.5 with optimizer 'adam'": mistake(optimizer="adam", momentum=0.5),
    "decay: expected only with neuron lif, plif, got 0.3 with neuron 'if'": mistake(neuron="if", decay=0.3),
    "noise_seed: expected only together with label_noise, got 3 with label_noise 0.0": mistake(noise_seed=3),
    "teacher: expected a run folder or a checkpoint file, got nowhere, which is not there": mistake(method="kd", teacher="nowhere"),
    "student: expected a network that tells 10 classes apart, as digits has, got one with 7 outputs": mistake(
        student=create_model("vgg11", 7, 2, 1, width=0.0625), width=None
    ),
    "teacher: expected a network that tells 10 classes apart, as digits has, got one with 7 outputs": mistake(method="kd", teacher=narrow_teacher(7)),
    "teacher: expected a network that takes images of shape .1, 32, 32., got WRN": mistake(method="kd", teacher=narrow_teacher(channels=3)),
    "student: expected a spiking network .*, got VGG11, which has no time steps": mistake(student=create_model("vgg11", 10, None, 1, width=0.0625), width=None),
    "student_layer: expected one of .*, got 'layer12' .did you mean 'layer1": mistake(method="feature_kd", student_layer="layer12", teacher=narrow_teacher()),
    "attention_gradient: expected flows, embedding or none for method rate, .* got 'labels'": mistake(method="rate", attention_gradient="labels"),
    "precision: expected fp32 or bf16, since there is no CUDA device, got fp16": mistake(precision="fp16", device="cpu"),
}


@pytest.mark.parametrize("sentence", MISTAKES)
def test_a_mistake_is_answered_with_a_sentence_before_anything_is_written(sentence, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        MISTAKES[sentence](folder)
    assert not folder.exists()


def test_a_missing_run_to_resume(tmp_path):
    with pytest.raises(FileNotFoundError, match="folder: expected the folder of a run, got .*none"):
        distill(folder=str(tmp_path / "none"), resume=True)


@pytest.mark.parametrize("kind", [Config, TeacherConfig])
def test_a_configuration_survives_json(kind):
    config = settings_for(kind, dict(seed=5, milestones=(0.5,)))
    stored = json.loads(json.dumps(flat(config)))
    assert settings_for(kind, stored) == config


def test_damaged_and_foreign_checkpoints(teacher, tmp_path):
    whole = (teacher.folder / "checkpoints" / "best.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    torch.save({"state_dict": {"w": torch.ones(1)}}, tmp_path / "foreign.pt")
    torch.save(nn.Linear(2, 2), tmp_path / "pickled.pt")  # needs code to load, which a checkpoint may not
    for name, sentence in dict(
        cut="cannot be read", foreign="expected a checkpoint of sastc, got .*, which holds keys state_dict", pickled="cannot be read"
    ).items():
        with pytest.raises(ValueError, match=sentence):
            load_model(tmp_path / f"{name}.pt")
    content = {k: v for k, v in load_checkpoint(teacher.folder / "checkpoints" / "best.pt").items() if k != "format"}
    save_checkpoint(tmp_path / "other.pt", content | dict(spec=content["spec"] | dict(width=0.5)))
    with pytest.raises(ValueError, match="expected weights that fit wrn16_2, got"):
        load_model(tmp_path / "other.pt")


# ---- several processes ----

TWO_PROCESSES = """
import os, sys, torch
from accelerate import Accelerator
from torch import nn
from sastc.methods import KD, SASTC, Shapes
from sastc.models import Taps, candidates, create_model, tap_shapes
from sastc.neurons.network import over_time
from sastc.neurons.neuron import LIF
from sastc.training.learner import Learner

torch.set_default_dtype(torch.float64)  # groups of other sizes round otherwise, and in float32 now and then a spike hangs on that
accelerator = Accelerator(cpu=True)
rank = accelerator.process_index
assert accelerator.num_processes == (2 if sys.argv[2] == "shared" else 1)
torch.manual_seed(0)
images, labels = torch.rand(16, 3, 16, 16), torch.randint(10, (16,))
if sys.argv[1] == "kd":  # no batch statistics: the joint batch and its halves are the same problem
    student = over_time(nn.Sequential(nn.Conv2d(3, 8, 3, 2), LIF(2), nn.Flatten(), nn.Linear(8 * 49, 10)), 2)
    learner = Learner(student, KD(), (), Taps(nn.Sequential(nn.Flatten(), nn.Linear(768, 10)), ()))
else:
    student, teacher = create_model("vgg11", width=0.0625, time_steps=2, image_size=16), create_model("wrn16_2", width=0.25)
    taps = [Taps(network, candidates(network)) for network in (student, teacher)]
    method = SASTC(beta=1.0)
    method.build(Shapes(*(tap_shapes(tap, images[:1])[1] for tap in taps), batch_size=8, num_classes=10, time_steps=2))
    learner = Learner(student, method, candidates(student), taps[1])
batches = {"joint": [slice(0, 16)], "halves": [slice(0, 8), slice(8, 16)], "shared": [slice(8 * rank, 8 * rank + 8)]}[sys.argv[2]]
prepared = accelerator.prepare(learner)
prepared.train()
for batch in batches:
    accelerator.backward(prepared(images[batch], labels[batch]).total / len(batches))
if accelerator.is_main_process:
    torch.save({name: p.grad for name, p in learner.named_parameters()}, sys.argv[3])
accelerator.wait_for_everyone()
accelerator.end_training()
sys.stdout.flush()
os._exit(0)  # Gloo's threads need the interpreter to let go of their last tensors (pytorch#190489), so it must not be gone before them
"""


TWO = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def gradients(tmp_path, method, batches):
    script, out = tmp_path / "script.py", tmp_path / f"{batches}.pt"
    script.write_text(TWO_PROCESSES)
    command = [sys.executable, *(TWO if batches == "shared" else []), str(script), method, batches, str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, env=os.environ | dict(OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES=""))
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(out, weights_only=True)


def assert_close(a, b):
    assert a.keys() == b.keys() and any(value.abs().sum() > 0 for value in a.values())
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-6, msg=lambda text: f"{name}: {text}")


def test_two_processes_give_the_gradient_of_the_joint_batch_where_images_do_not_meet(tmp_path):
    assert_close(gradients(tmp_path, "kd", "shared"), gradients(tmp_path, "kd", "joint"))


def test_two_processes_compare_images_within_each_and_average_the_gradients(tmp_path):
    assert_close(gradients(tmp_path, "sastc", "shared"), gradients(tmp_path, "sastc", "halves"))


def test_a_run_of_two_processes_evaluates_the_whole_test_set(teacher, tmp_path):
    script, folder = tmp_path / "script.py", tmp_path / "run"
    given = TINY | dict(method="sastc", beta=0.5, epochs=2, folder=str(folder), teacher=str(teacher.folder), device="cpu")
    script.write_text(f"from sastc.training import distill\ndistill(**{given!r})")  # the group is left by itself
    done = subprocess.run([sys.executable, *TWO, str(script)], capture_output=True, text=True, timeout=180, env=os.environ | dict(OMP_NUM_THREADS="1"))
    assert done.returncode == 0, done.stderr[-3000:]
    run, assessed = Run(folder), assess(folder)
    assert run.environment["processes"] == 2
    with pytest.raises(ValueError, match="processes: expected 2, with which the run in .* was started and each of which takes a batch at a step, got 1"):
        distill(folder=folder, resume=True, epochs=3)
    assert run.steps.index[-1] == 2 * (115 // 32)  # 115 images to train on, two processes of 16
    # batches of another size round otherwise, and a potential at its threshold may then fire: a few images of 360
    assert run.result["test_accuracy_best"] == pytest.approx(assessed["accuracy"], abs=0.01)
    assert run.result["rates"] == pytest.approx(assessed["rates"], rel=1e-2)
    assert round(run.metrics.train_accuracy.iloc[-1] * 96) == pytest.approx(run.metrics.train_accuracy.iloc[-1] * 96)  # counted over both processes


def test_a_part_that_ends_is_recorded_as_a_mean_over_the_steps_that_had_it(tmp_path, monkeypatch):
    values, plain = [], Trainer._add
    monkeypatch.setattr(Trainer, "_add", lambda self, parts, *rest: (values.append(parts), plain(self, parts, *rest))[1])
    run = distill(**TINY | dict(method=Ending(), epochs=2, log_every=100, folder=str(tmp_path / "run")))
    steps = len(values) // 2
    assert [("late" in parts, "early" in parts) for parts in values] == [(n / len(values) >= 0.75, n / len(values) < 0.25) for n in range(len(values))]
    for epoch, name in ((1, "early"), (2, "late")):
        own = [parts[name] for parts in values if name in parts]
        assert 0 < len(own) < steps and run.metrics[f"train_{name}"].iloc[epoch - 1] == pytest.approx(sum(own) / len(own), rel=1e-6)
    assert run.metrics.train_ce.iloc[0] == pytest.approx(sum(parts["ce"] for parts in values[:steps]) / steps, rel=1e-6)


class Ending(Baseline):
    "and a term at the beginning, and one at the end"

    def terms(self, step):
        found, part = super().terms(step), Term(step.logits.square().mean(), 0.1)
        return found | (dict(early=part) if step.progress < 0.25 else dict(late=part) if step.progress >= 0.75 else {})


UNUSED = """
import torch, sys
from sastc import create_model
from sastc.training import distill
student = create_model("vgg11", in_channels=1, width=0.0625, time_steps=2)
if sys.argv[1] == "unused":
    student.register_parameter("aside", torch.nn.Parameter(torch.zeros(3)))
    given = dict(student=student, method="kd")
else:
    given = dict(method=sys.argv[1], width=0.0625, time_steps=2)
distill(**given, data="digits", teacher=sys.argv[2], folder=sys.argv[3], train_images=128, holdout=0.0, batch_size=16, epochs=1, log_every=1, device="cpu")
"""


@pytest.mark.parametrize("method", ["routed+twd", "unused"])
def test_two_processes_train_where_a_weight_has_no_gradient(method, teacher, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(UNUSED)
    command = [sys.executable, *TWO, str(script), method, str(teacher.folder), str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, env=os.environ | dict(OMP_NUM_THREADS="1"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert Run(tmp_path / "run").state == "finished" and len(Run(tmp_path / "run").steps) == 4


def test_trackers_log_what_the_folder_holds(tmp_path, monkeypatch):
    from accelerate import tracking

    from sastc.training import inputs

    logged, kept = [], {}

    class Tracker(tracking.GeneralTracker):
        "Keeps what it is told."

        name, requires_logging_directory = "tensorboard", True

        def __init__(self, run_name, logging_dir, **kwargs):
            super().__init__()
            kept.update(place=str(logging_dir), finished=False)

        tracker = property(lambda self: None)

        def store_init_configuration(self, values):
            kept.update(settings=values)

        def log(self, values, step=None, **kwargs):
            logged.append((step, values))

        def finish(self):
            kept.update(finished=True)

    small = dict(data="digits", train_images=128, batch_size=16, log_every=2, epochs=1, width=0.0625, method="baseline")
    with pytest.raises(ValueError, match="trackers: expected those that are installed, got trackio; get it with: pip install trackio"):
        distill(trackers=("trackio",), folder=str(tmp_path / "none"), **small)
    with pytest.raises(ValueError, match="trackers: expected one of tensorboard, wandb, trackio, got 'paper'"):
        distill(trackers=("paper",), folder=str(tmp_path / "none"), **small)
    assert not (tmp_path / "none").exists()
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "tensorboard", Tracker)
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: [tracking.LoggerType.TENSORBOARD])
    monkeypatch.setattr(inputs, "find_spec", lambda name: True)
    run = distill(trackers=("tensorboard",), folder=str(tmp_path / "run"), **small)
    assert kept["finished"] and kept["place"] == str(tmp_path / "run" / "trackers") and kept["settings"]["width"] == 0.0625
    steps = {step: values["steps/ce"] for step, values in logged if "steps/ce" in values}
    assert steps == run.steps.ce.to_dict() and [values["epochs/validation_accuracy"] for _, values in logged if "epochs/lr" in values] == [
        *run.metrics.validation_accuracy
    ]
    quiet = distill(folder=str(tmp_path / "quiet"), **small)
    assert quiet.steps.ce.tolist() == run.steps.ce.tolist() and len(logged) == len(steps) + 1  # off by default, and nothing is trained otherwise


def test_sums_of_an_older_checkpoint_count_their_steps(tmp_path):
    run = distill(method="baseline", student="vgg11", time_steps=2, epochs=1, folder=tmp_path / "run", **TINY)
    file = run.folder / "checkpoints" / "last.pt"
    content = torch.load(file, weights_only=True)
    content["record_sums"] = dict(total=6.0, ce=6.0, steps=3, images=48, seconds=1.0, right=5) | {"attention/": 3}
    torch.save(content, file)
    sums = run.checkpoint("last")["record_sums"]
    assert sums["steps of total"] == sums["steps of ce"] == 3 and "steps" not in sums and "steps of attention/" not in sums


@pytest.mark.parametrize(
    "name, usual",
    [
        ("sgd", lambda weights: torch.optim.SGD(weights, 0.1, 0.9, weight_decay=5e-4)),
        ("adam", lambda weights: torch.optim.Adam(weights, 0.1, weight_decay=5e-4)),
    ],
)
@pytest.mark.parametrize("order, other", [(torch.channels_last, torch.contiguous_format), (torch.contiguous_format, torch.channels_last)])
def test_a_gradient_or_a_state_in_another_order_of_memory_moves_the_right_weights(name, usual, order, other):
    def moved(build):
        generator = torch.Generator().manual_seed(0)
        shapes = (512, 256, 3, 3), (6, 5, 1, 1)  # enough for one pass
        weights = [nn.Parameter(torch.randn(shape, generator=generator).contiguous(memory_format=order)) for shape in shapes]
        optimizer = build(weights)
        for step in range(4):
            if step == 2:  # a state from somewhere else
                state = optimizer.state_dict()
                for values in state["state"].values():
                    values |= {key: value.contiguous(memory_format=other) for key, value in values.items() if value.ndim == 4}
                optimizer.load_state_dict(state)
            for weight in weights:
                weight.grad = torch.randn(weight.shape, generator=generator).contiguous(memory_format=other)
            optimizer.step()
        return weights

    for mine, theirs in zip(moved(OPTIMIZERS.find(name)(lr=0.1).build), moved(usual)):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
