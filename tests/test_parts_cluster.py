"""Comparisons on a cluster, with submitit's local executor in its place: workers survive who submitted them, share the runs, go on after preemption, and lose nothing."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest

from sastc.cli.commands import run_command
from sastc.studies.cluster import Worker, executor_settings, submit
from sastc.studies.comparisons import compare_methods
from sastc.training import Run
from sastc.training.config import Config, settings_for

pytest.importorskip("submitit", reason="the extra `cluster` is not installed")
GIVEN = dict(data="digits", image_size=8, student="resnet18", width=0.0625, epochs=5, train_images=400, batch_size=20, lr=0.02, device="cpu", log_every=1)
TYPED = [text for name, value in GIVEN.items() for text in (f"--{name}", str(value))]
SECONDS = 600  # a worker that starts on a busy machine takes a minute


def sastc(folder, *arguments):
    "A command in a process of its own, which has ended when this returns."
    program = [sys.executable, "-c", "import sys; from sastc.cli import main; sys.exit(main())", *arguments]
    return subprocess.run(program, capture_output=True, text=True, cwd=folder, env=os.environ | dict(OMP_NUM_THREADS="1"))


def wait_for(what, said):
    end = time.monotonic() + SECONDS
    while not what():
        assert time.monotonic() < end, said()
        time.sleep(0.1)


def logs(folder):
    return "\n".join(path.read_text()[-1500:] for path in sorted((folder / "jobs").glob("*")) if path.suffix in (".out", ".err"))


def finished(folder, seeds):
    runs = [folder / f"baseline-seed{seed}" for seed in seeds]
    return all((run / "config.json").exists() and Run(run).state == "finished" for run in runs)


def weights(folder):
    return Run(folder).checkpoint("last")["model"]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    "The same comparison in this process."
    folder = tmp_path_factory.mktemp("unbroken")
    compare_methods(folder, ["baseline"], (0, 1), settings_for(Config, GIVEN))
    return folder


def same(folder, unbroken, seeds):
    for seed in seeds:
        one, other = (weights(place / f"baseline-seed{seed}") for place in (folder, unbroken))
        assert all(one[name].equal(other[name]) for name in one)


def test_workers_survive_who_submitted_them_and_share_the_runs(tmp_path, unbroken):
    folder = tmp_path / "both"
    asked = ["compare", "--methods", "baseline", "--seeds", "0,1", "--folder", str(folder), *TYPED]
    done = sastc(tmp_path, *asked, "--submit", "local", "--jobs=2", "--executor", "timeout_min=10")
    assert done.returncode == 0 and done.stdout.startswith("submitted: "), done.stdout + done.stderr
    wait_for(lambda: finished(folder, (0, 1)), lambda: logs(folder))
    same(folder, unbroken, (0, 1))
    from sastc import RunBoard

    assert len(RunBoard(folder).rows) == 2


@pytest.mark.parametrize("how", ["preempted", "killed"])
def test_an_interrupted_worker_loses_nothing(how, tmp_path, unbroken):
    folder = tmp_path / "both"
    asked = ["compare", "--methods", "baseline", "--seeds", "0,1", "--folder", str(folder), *TYPED]
    (job,) = submit(asked, folder, "local", timeout_min=10)
    steps = folder / "baseline-seed0" / "steps.jsonl"
    wait_for(lambda: steps.exists() and len(steps.read_text().splitlines()) >= 4, lambda: logs(folder))
    worker = psutil.Process(job._process.pid)
    if how == "preempted":
        wait_for(worker.children, lambda: logs(folder))
        (task,) = worker.children()
        task.send_signal(signal.SIGUSR2)
    else:  # the machine goes down
        for process in [*worker.children(recursive=True), worker]:
            with contextlib.suppress(psutil.NoSuchProcess):  # it ended with the one before
                process.kill()
        (job,) = submit(asked, folder, "local", timeout_min=10)
    wait_for(lambda: finished(folder, (0, 1)), lambda: logs(folder))
    same(folder, unbroken, (0, 1))
    if how == "preempted":
        assert "Requeued job" in logs(folder) and "state" in Run(folder / "baseline-seed0").status


def test_what_is_wrong_is_said_before_anything_is_submitted(tmp_path, capsys):
    asked = ["compare", "--folder", str(tmp_path / "both"), *TYPED, "--submit", "local"]
    assert run_command("compare", [*asked[1:], "--methods", "kd"]) == 2  # which has no teacher
    assert "teacher: expected a run folder or checkpoint" in capsys.readouterr().err
    assert run_command("compare", [*asked[1:], "--methods", "baseline", "--executor", "gpu"]) == 2
    assert "executor: expected names and values, as timeout_min=600,slurm_partition=gpu, got 'gpu'" in capsys.readouterr().err
    assert run_command("compare", [*asked[1:], "--methods", "baseline", "--executor", "no_such=1"]) == 2
    assert "submit: expected a cluster that is there and parameters that submitit knows" in capsys.readouterr().err
    assert run_command("compare", [*asked[1:-2], "--methods", "baseline", "--jobs", "2"]) == 2
    assert "jobs: expected only together with --submit, got 2 without" in capsys.readouterr().err
    if not shutil.which("srun"):
        with pytest.raises(ValueError, match="submit: expected a cluster that is there and parameters that submitit knows, got slurm"):
            submit(["--version"], tmp_path, "slurm")
    assert not list(tmp_path.glob("both/*/config.json"))


@pytest.mark.parametrize("submitting", [["--submit"], ["--submit", "local"], ["submit=local"], ["--submit=local", "--jobs", "2"]])
def test_workers_get_the_command_that_was_typed(tmp_path, monkeypatch, submitting):
    got = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sastc.studies.cluster.submit", lambda arguments, *where, **parameters: got.append(arguments) or [])
    typed = ["--folder", "jobs", *TYPED, "--methods=baseline", "--seeds", "0,", "1"]
    assert run_command("compare", [*submitting, *typed]) == 0 and run_command("compare", [*typed, *submitting]) == 0
    wanted = ["compare", "--folder", "jobs", *TYPED, "--methods=baseline", "--seeds", "0,1"]
    assert got == [wanted, wanted]  # a folder called like an option stays, and so does what follows --submit alone


def test_a_worker_that_fails_says_so(tmp_path):
    with pytest.raises(RuntimeError, match="sastc nonsense ended with status 2"):
        Worker(["nonsense"], str(tmp_path))()
    assert executor_settings("timeout_min=600,slurm_partition=gpu") == dict(timeout_min=600, slurm_partition="gpu")
