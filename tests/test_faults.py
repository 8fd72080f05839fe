"""What must not happen: a run that resumes to something else, a traceback where a sentence belongs, a hang, a file half written.

In short form by default. `pytest tests/test_faults.py --long -n0` is the long form: 100 kills of one process and 100 of two, 10,000
configurations, 2,000 mutated files."""

import contextlib
import errno
import os
import random
import re
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from processes import Program

from sastc.cli.options import all_settings
from sastc.common import files
from sastc.common.settings import flat
from sastc.data.events import read_aedat2, read_aedat3, read_nmnist
from sastc.data.images import load_images
from sastc.methods import METHODS
from sastc.training import NotFinite, Run, assess, distill, open_run, records, train_teacher
from sastc.training.config import Config, TeacherConfig, settings_for

SENTENCE = re.compile(r"^[\w .\-/:'()]+: \w")  # argument or file: what was expected
TINY = dict(data="digits", train_images=96, batch_size=16, lr=0.02, log_every=1, width=0.0625, student="vgg11", seed=3)


@pytest.fixture(scope="session")
def many(request):
    "How much of the long form is done."
    return lambda long, short: long if request.config.getoption("--long") else short


@pytest.fixture(scope="session")
def teacher(tmp_path_factory):
    settings = {name: value for name, value in TINY.items() if name != "student"}
    return train_teacher(**settings | dict(model="wrn16_2", width=0.25, epochs=1, folder=tmp_path_factory.mktemp("teacher") / "run"))


# ------------------------------------------------------------------------------------------------------------------ kills


def start(folder, teacher, processes, epochs):
    given = TINY | dict(method="routed", beta=0.5, look_every=3, epochs=epochs, folder=str(folder), teacher=str(teacher.folder), device="cpu")
    given = dict(folder=str(folder), resume=True) if (folder / "config.json").exists() else given
    code = f"from sastc import distill; distill(**{given!r})"
    if processes == 1:
        return Program(code)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "--no-python"]
    return subprocess.Popen([*launcher, sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def kill(process):
    "All at once: the launcher's processes are in sessions of their own and would train on without it."
    launcher = psutil.Process(process.pid)
    for one in (launcher, *launcher.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait()


def timeless(run):
    drop = {"minutes", "seconds", "images_per_second", "peak_memory_mib"}
    lines = {path.stem: [{k: v for k, v in record.items() if k not in drop} for record in run.lines(path.stem)] for path in run.folder.glob("*.jsonl")}
    return lines, {name: value for name, value in run.result.items() if name not in drop}


def assert_same(one, other):
    for part in ("model", "method"):
        states = one.checkpoint("last")[part], other.checkpoint("last")[part]
        assert states[0].keys() == states[1].keys() and all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert timeless(one) == timeless(other)


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_at_random_moments_a_run_ends_as_one_that_was_not(processes, teacher, tmp_path, many):
    kills, epochs = many(100, 3 if processes == 1 else 1), many(40, 4)
    unbroken = start(tmp_path / "unbroken", teacher, processes, epochs)
    began = time.monotonic()
    assert unbroken.wait(900) == 0, unbroken.stdout.read()[-2000:]
    whole, moments, done, runs = min(12, time.monotonic() - began), random.Random(processes), 0, 0
    while done < kills:  # a run that ends before enough kills is followed by another
        folder, runs = tmp_path / f"run-{runs}", runs + 1
        while not (folder / "config.json").exists() or Run(folder).state != "finished":
            process = start(folder, teacher, processes, epochs)
            try:
                assert process.wait(900 if done == kills else whole * moments.uniform(0.3, 1.0)) == 0, process.communicate()[1][-2000:]
            except subprocess.TimeoutExpired:
                kill(process)
                done += 1
        assert_same(Run(tmp_path / "unbroken"), Run(folder))
    print(f"{done} kills, {processes} processes: weights and records are those of an unbroken run")


# ---------------------------------------------------------------------------------------------------------- configurations

VALUES = (0, 1, -1, 2, 3.5, 1e9, float("nan"), float("inf"), 10**30, True, False, None, "", "kd", "sastc", "rsa", "lif", "plif", "adam", "cosine", "vgg11",
          "resnet18", "digits", "cifar10", "nmnist", "../x", "a:b", "os:system", "sastc.methods:KD", "own:x", "x.npz", "kd+rsa", "+", "kd+", ["a"], [], (), [1, 2],
          [0.5], [None], {}, {"a": 1}, object(), b"x", "é\n", "\0", int, len, 1j, "layer2", "code", "paper", "1", "0-2", float, [1.5, "x"])  # fmt: skip


def test_random_configurations_are_settled_or_refused_in_a_sentence(many):
    draw, accepted = random.Random(0), 0
    names = {kind: sorted({*all_settings(kind), *flat(kind()), "", "nope", "method.beta", "data.augment", "x.y.z"}) for kind in (Config, TeacherConfig)}
    for _ in range(many(10_000, 400)):
        kind = draw.choice([Config, TeacherConfig])
        given = {draw.choice(names[kind]): draw.choice(VALUES) for _ in range(draw.randint(1, 3))}
        given |= dict(method=draw.choice(list(METHODS))) if kind is Config and draw.random() < 0.5 else {}
        try:
            made = settings_for(kind, given)
        except ValueError as error:
            assert SENTENCE.match(str(error)), (given, str(error))
            continue
        accepted += 1
        again = settings_for(kind, {}, flat(made))
        assert flat(again) == flat(made), given
    assert accepted > many(50, 3)


RANDOM = dict(
    method=list(METHODS), student=["vgg11", "resnet18"], neuron=["lif", "if", "plif"], optimizer=["sgd", "adam"], schedule=["step", "cosine"], time_steps=[1, 2, 3],
    batch_size=[3, 16, 95, 500], train_images=[0, 7, 40, 96, 5000], holdout=[0.0, 0.1, 0.5], label_noise=[0.0, 0.4], reset=["hard", "soft"], surrogate=["triangle", "sigmoid"],
    candidates=["code", "paper", "stages"], alignment=["features", "similarity", "attention_map"], projection=["code", "linear", "none"], factor=[1, 4, 64], routes=[1, 2, 9],
    norm=["bn", "tdbn"], precision=["fp32", "bf16"], mismatch_batches=[0, 1, 10_000], keep_epochs=[[], [1], [2]], image_size=[0, 4, 8], clip=[0.0, 1.0],
)  # fmt: skip


def test_random_runs_train_or_are_refused_before_anything_is_written(teacher, tmp_path, many):
    draw, trained = random.Random(1), 0
    for number in range(many(300, 12)):
        given = {name: draw.choice(RANDOM[name]) for name in draw.sample(list(RANDOM), draw.randint(1, 5))}
        folder = tmp_path / str(number)
        try:
            weight = dict(beta=0.5) if "beta" in flat(METHODS[given.get("method", "sastc")]()) else {}
            run = distill(**TINY | dict(epochs=1, teacher=str(teacher.folder), log_every=50) | weight | given, folder=folder)
        except NotFinite as error:
            assert SENTENCE.match(str(error)) and Run(folder).state == "failed", given
            continue
        except ValueError as error:
            assert SENTENCE.match(str(error)), (given, str(error))
            assert not (folder / "config.json").exists(), (given, str(error))
            continue
        assert run.state == "finished" and 0 <= run.result["test_accuracy_last"] <= 1
        trained += 1
    assert trained


# ------------------------------------------------------------------------------------------------------------------- files


def mutated(content: bytes, draw: random.Random) -> bytes:
    content, kind = bytearray(content), draw.randrange(5)
    if kind == 0:
        return bytes(content[: draw.randrange(len(content) + 1)])
    if kind == 1:
        return b""
    for _ in range(draw.randint(1, 8)):
        place = draw.randrange(len(content)) if draw.random() < 0.5 else draw.randrange(min(64, len(content)))
        if kind == 2:
            content[place : place + draw.randint(1, 20)] = draw.randbytes(draw.randint(0, 20))
            content = content or bytearray(b"x")
        else:
            content[place] = draw.randrange(256)
    return bytes(content)


def originals(tmp_path, run):
    "Files of every kind that the package reads, and what reads them."
    place = tmp_path / "originals"
    for split in ("train", "test"):
        for name in ("a", "b"):
            (place / "images" / split / name).mkdir(parents=True)
            for number in range(3):
                Image.fromarray(np.random.default_rng(number).integers(0, 255, (9, 9, 3), np.uint8)).save(
                    place / "images" / split / name / f"{number}.{['png', 'bmp', 'jpg'][number]}"
                )
    digits = load_images("digits", image_size=8)
    arrays = dict(
        x_train=digits.x_train[:40, 0].numpy(), y_train=digits.y_train[:40].numpy(), x_test=digits.x_test[:40, 0].numpy(), y_test=digits.y_test[:40].numpy()
    )
    np.savez(place / "images.npz", **arrays)
    (place / "recording.bin").write_bytes(np.random.default_rng(0).integers(0, 255, 500, np.uint8).tobytes())
    (place / "two.aedat").write_bytes(b"#!AER-DAT2.0\r\n" + np.random.default_rng(0).integers(0, 255, 400, np.uint8).tobytes())
    (place / "three.aedat").write_bytes(b"#!AER-DAT3.1\r\n#!END-HEADER\r\n" + np.random.default_rng(0).integers(0, 255, 400, np.uint8).tobytes())
    for image in sorted((place / "images").rglob("*.*")):
        yield image, lambda path: load_images(place / "images", image_size=8)
    yield place / "images.npz", load_images
    yield place / "recording.bin", read_nmnist
    yield place / "two.aedat", read_aedat2
    yield place / "three.aedat", read_aedat3
    for name in (
        "config.json",
        "status.json",
        "layers.json",
        "result.json",
        "data.json",
        "networks.json",
        "terms.json",
        "steps.jsonl",
        "epochs.jsonl",
        "attention.jsonl",
        "checkpoints/last.pt",
        "checkpoints/best.pt",
    ):
        yield run.folder / name, lambda path: read_whole(run)


def read_whole(run):
    "Everything that views and reports read, and an evaluation."
    again = Run(run.folder)
    for name in (
        "config",
        "status",
        "state",
        "layers",
        "result",
        "data",
        "terms",
        "metrics",
        "steps",
        "rates",
        "attention",
        "attention_steps",
        "attention_bounds",
        "checkpoints",
        "settings",
    ):
        getattr(again, name)
    opened = open_run(again)
    assert opened.network is not None and opened.method is not None
    assess(again)


def test_mutated_files_are_read_or_refused_by_name(teacher, tmp_path, many):
    run = distill(**TINY, method="sastc", beta=0.5, epochs=1, teacher=teacher.folder, folder=tmp_path / "run")
    cases, draw = list(originals(tmp_path, run)), random.Random(2)
    unnamed = []
    for number in range(many(2_000, 80)):
        path, read = cases[number % len(cases)]
        kept = path.read_bytes()
        path.write_bytes(mutated(kept, draw))
        try:
            read(path)
        except (ValueError, OSError) as error:
            if path.name not in str(error) and path.stem not in str(error):
                unnamed.append((path.name, f"{type(error).__name__}: {error}"[:160]))
        finally:
            path.write_bytes(kept)
    assert not unnamed, f"{len(unnamed)} sentences name no file: {unnamed[:8]}"
    read_whole(run)


# --------------------------------------------------------------------------------------------------------------- full disk


def test_a_disk_that_is_full_at_any_write_leaves_a_folder_that_goes_on(teacher, tmp_path, monkeypatch, many):
    given = TINY | dict(method="sastc", beta=0.5, epochs=2, teacher=teacher.folder, log_every=4)
    reference = distill(**given, folder=tmp_path / "reference")
    writes, real_open, real_replace = [0], open, os.replace

    def full(*arguments):
        writes[0] += 1
        if writes[0] == full.at:
            raise OSError(errno.ENOSPC, "No space left on device")

    def opened(file, mode="r", *arguments, **options):
        if set(mode) & set("wa") and str(file).startswith(str(tmp_path)):
            full()
        return real_open(file, mode, *arguments, **options)

    def replaced(source, target):
        full()
        return real_replace(source, target)

    monkeypatch.setattr(os, "replace", replaced)
    monkeypatch.setattr(files, "open", opened, raising=False)
    monkeypatch.setattr(records, "open", opened, raising=False)
    full.at = -1
    distill(**given, folder=tmp_path / "counted")
    total = writes[0]
    assert total > 10
    for at in range(1, total + 1, many(1, max(1, total // 6))):
        folder = tmp_path / f"full{at}"
        writes[0], full.at = 0, at
        with pytest.raises(OSError, match="(?i)no space left"):
            distill(**given, folder=folder)
        full.at = -1
        resumed = distill(folder=folder, resume=True) if (folder / "config.json").exists() else distill(**given, folder=folder)
        assert timeless(resumed) == timeless(reference), at


# ----------------------------------------------------------------------------------------------------------- two processes

TWO = """
import os, signal, sys
import sastc.training.loop as loop
from sastc import distill
from sastc.training import NotFinite
step, rank = loop.Trainer.step, int(os.environ["RANK"])
def broken(self, images, labels):
    if rank == 1 and self.progress["step"] == 3:
        {fault}
    step(self, images, labels)
loop.Trainer.step = broken
try:
    said = f"ended {{rank}} {{distill(**{given!r}).state}}"
except (NotFinite, ValueError) as error:
    said = f"sentence {{rank}} {{error}}"
# one write for the line and its end: two processes share the pipe, and `print` writes piece by piece where Python does not buffer
sys.stdout.write(said + "\\n")
sys.stdout.flush()
"""
FAULTS = dict(nan="images = images * float('nan')", sigterm="os.kill(os.getpid(), signal.SIGTERM)")


@pytest.mark.parametrize("fault", FAULTS)
def test_two_processes_end_together(fault, teacher, tmp_path):
    given = TINY | dict(
        method="kd", epochs=3, folder=str(tmp_path / "run"), teacher=str(teacher.folder), device="cpu", train_images=101
    )  # 91 to learn from, which no two batches fill
    script = tmp_path / "two.py"
    script.write_text(TWO.format(fault=FAULTS[fault], given=given))
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=180, env=os.environ | dict(OMP_NUM_THREADS="1"))
    said = sorted(line for line in done.stdout.splitlines() if line.startswith(("ended", "sentence")))
    assert len(said) == 2, done.stdout[-1500:] + done.stderr[-3000:]
    if fault == "nan":
        assert all(line.startswith("sentence") and "at step 3" in line for line in said), said
        assert Run(tmp_path / "run").state == "failed"
    else:
        assert [line.split()[-1] for line in said] == ["stopped", "stopped"] and Run(tmp_path / "run").state == "stopped"


def test_two_processes_that_start_one_folder_at_once_are_one_run_and_one_sentence(teacher, tmp_path):
    given = TINY | dict(method="kd", epochs=2, folder=str(tmp_path / "run"), teacher=str(teacher.folder))
    code = f"from sastc import distill\ntry: print('ended', distill(**{given!r}).state)\nexcept ValueError as error: print('sentence', error)"
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=os.environ | dict(OMP_NUM_THREADS="1")) for _ in range(2)]
    said = sorted(line for process in both for line in process.communicate(timeout=180)[0].splitlines() if line.startswith(("ended", "sentence")))
    assert said[0] == "ended finished" and said[1].startswith("sentence folder: expected one"), said
    assert len(Run(tmp_path / "run").metrics) == 2
