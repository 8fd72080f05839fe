"""Runs as processes of their own: start, stop, resume, kill, find again. Everything is on digits with the smallest networks."""

import os
import shlex
import signal
import subprocess
import sys
import time

import pytest
import torch
from fastcore.script import anno_parser
from hypothesis import given
from hypothesis import strategies as st

from sastc import jobs
from sastc.methods.attention import ATTENTION_GRADIENTS
from sastc.cli import sastc_distill, sastc_teacher
from sastc.training.config import METHODS, TEACHER_MODES, Config, TeacherConfig
from sastc.training.jobs import Job, command, find_jobs, launch
from sastc.training.runs import Run, identity, write_json

TINY = dict(data="digits", train_images=128, batch_size=16, lr=0.02, log_every=1, width=0.0625, device="cpu")


def teacher_config(folder, **more):
    return TeacherConfig(**TINY | dict(model="wrn16_2", width=0.25, epochs=1, folder=str(folder)) | more)


def student_config(folder, **more):
    return Config(**TINY | dict(method="baseline", epochs=4, seed=3, folder=str(folder)) | more)


def wait_for(job, *states, step=0, seconds=300):
    "Wait until the job is in one of the states, in its last stage at least at `step` if it runs."
    deadline = time.monotonic() + seconds
    while job.state not in states or (job.state == "running" and Job(job.folder).stages[-1].status.get("step", -1) < step):
        over = job.process is None  # asked first: it may end in between
        assert time.monotonic() < deadline and not (over and job.state not in states), f"{job.state}: {job.sentence}\n{job.log()}"
        time.sleep(0.02)


@pytest.fixture
def started():
    "Starts jobs that do not outlive the test."
    jobs = []

    def start(*configs, **how):
        jobs.append(launch(*configs, **how))
        return jobs[-1]

    yield start
    for job in jobs:
        if process := Job(job.folder).process:
            for each in [*process.children(recursive=True), process]:
                each.kill()


def test_a_stopped_job_resumes_to_the_same_result_as_one_that_was_not_stopped(started, tmp_path):
    whole, broken = started(student_config(tmp_path / "whole")), started(student_config(tmp_path / "broken"))
    wait_for(broken, "running", step=4)
    broken.stop()
    wait_for(broken, "stopped")
    stopped = Run(broken.folder)
    assert stopped.checkpoint("last")["step"] == stopped.status["step"] < stopped.status["steps"]
    found = Job(broken.folder)  # as another kernel would, that knows the folder alone
    assert found.state == "stopped" and f"was stopped at step {stopped.status['step']} of 28. Resume continues from" in found.sentence
    found.resume()
    wait_for(found, "finished")
    wait_for(whole, "finished")
    results = [{name: value for name, value in Run(job.folder).result.items() if name != "minutes"} for job in (whole, found)]
    assert results[0] == results[1]
    weights = [Run(job.folder).checkpoint("last")["model"] for job in (whole, found)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert Run(found.folder).environment["command"] == f"sastc_distill --folder {found.folder} --resume"


def test_a_killed_job_is_found_and_told(started, tmp_path):
    job = started(student_config(tmp_path / "run", epochs=100))
    wait_for(job, "running", step=8)
    pid = job.process.pid
    assert os.getsid(pid) == pid  # a session of its own: neither Ctrl-C nor the end of the kernel reaches it
    os.kill(pid, signal.SIGKILL)
    wait_for(job, "lost")
    assert f"process {pid} is gone without a final word. It was killed, most often because memory ran out. Resume continues from" in job.sentence
    assert "epoch 1: loss" in job.log()
    with pytest.raises(ValueError, match="has no process on this machine to stop .lost."):
        job.stop()
    Job(job.folder).resume()
    wait_for(job, "running", step=9)


def test_the_number_of_a_dead_process_may_be_used_again(tmp_path):
    Run(write_run(tmp_path / "run", dict(state="running", step=3, steps=9, **identity() | dict(started=time.time() - 86_400))))
    assert Job(tmp_path / "run").process is None and Job(tmp_path / "run").state == "lost"
    write_run(tmp_path / "run", dict(state="running", step=3, steps=9, **identity()))
    assert Job(tmp_path / "run").process.pid == os.getpid() and Job(tmp_path / "run").state == "running"
    write_run(tmp_path / "run", dict(state="running", step=3, steps=9, **identity() | dict(host="a-gpu-box")))
    assert Job(tmp_path / "run").process is None and Job(tmp_path / "run").state == "running"  # as far as one can tell from here
    with pytest.raises(ValueError, match="no process on this machine to stop"):
        Job(tmp_path / "run").stop()


def write_run(folder, status):
    write_json(folder / "config.json", dict(kind="student", settings={}))
    write_json(folder / "status.json", status | dict(time="2030-01-01T00:00:00+00:00"))
    return folder


def test_a_teacher_and_its_student_need_nobody_in_between(started, tmp_path):
    # the process that launches ends at once: what is left has to do both stages
    configs = f"TeacherConfig(**{vars(teacher_config(tmp_path / 'teacher'))!r}), Config(**{vars(student_config(tmp_path / 'student', method='kd', epochs=1))!r})"
    code = f"from sastc.training.jobs import *; from sastc.training.config import *; launch({configs})"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    job = Job(tmp_path / "student")
    assert [stage.kind for stage in job.stages] == ["teacher", "student"]
    wait_for(job, "finished")
    assert Run(tmp_path / "teacher").result and Run(tmp_path / "student").config["teacher"] == str(tmp_path / "teacher")


def test_a_job_that_is_stopped_with_its_teacher_goes_on_with_its_teacher(started, tmp_path):
    job = started(teacher_config(tmp_path / "teacher", epochs=6), student_config(tmp_path / "student", method="kd", epochs=1))
    deadline = time.monotonic() + 60
    while not job.stage.status.get("step") and time.monotonic() < deadline:
        time.sleep(0.02)
    job.stop()
    wait_for(job, "stopped")
    assert job.stage.kind == "teacher" and not (tmp_path / "student" / "config.json").exists()
    assert job.sentence.startswith("The teacher was stopped at step")
    Job(job.folder).resume()
    wait_for(job, "finished")
    assert Run(tmp_path / "teacher").status["step"] == 6 * 7 and Run(tmp_path / "student").result


def test_a_stop_before_the_first_step_is_a_stop(started, tmp_path):
    job = started(student_config(tmp_path / "run"))
    job.stop()
    wait_for(job, "stopped")
    assert "There is no checkpoint yet: resume begins again" in job.sentence
    assert Job(job.folder).resume().state == "starting"
    wait_for(job, "finished")


def test_a_failure_leaves_its_sentence(started, tmp_path):
    job = started(student_config(tmp_path / "run", batch_size=4096))
    wait_for(job, "failed")
    assert "The student failed before the first step. batch_size: 4096 given" in job.sentence
    assert "sastc_distill: batch_size: 4096 given" in job.log()


def test_a_failure_of_the_teacher_is_a_failure_of_the_job(started, tmp_path):
    job = started(teacher_config(tmp_path / "teacher", lr=1e30, epochs=3), student_config(tmp_path / "student", method="kd"))
    wait_for(job, "failed")
    assert "The teacher failed at step" in job.sentence and "loss: part 'ce' is" in job.sentence


def test_a_failed_resumption_is_told(started, tmp_path):
    job = started(student_config(tmp_path / "run", epochs=30))
    wait_for(job, "running", step=8)
    job.stop()
    wait_for(job, "stopped")
    (job.folder / "checkpoints" / "last.pt").write_bytes(b"damaged")
    job.resume()
    wait_for(job, "failed")
    assert "cannot be read" in job.sentence and "last.pt" in job.sentence


def test_two_processes_stop_together(started, tmp_path):
    job = started(student_config(tmp_path / "run", epochs=500), processes=2)
    wait_for(job, "running", step=3)
    assert len([child for child in job.process.children(recursive=True) if "work" in " ".join(child.cmdline())]) == 2
    job.stop()
    wait_for(job, "stopped")
    assert Run(job.folder).checkpoint("last")["step"] == Run(job.folder).status["step"] >= 3


def test_jobs_are_found_latest_first(tmp_path):
    for name in ("old", "group/new"):
        write_run(tmp_path / name, dict(state="finished"))
    for path in (tmp_path / "old").iterdir():
        os.utime(path, (1, 1))
    (tmp_path / "no run").mkdir()
    assert [job.folder.name for job in find_jobs(tmp_path)] == ["new", "old"]


# ---- what is refused ----


def refused(*configs, **how):
    return lambda folder: launch(*(config(folder / str(n)) for n, config in enumerate(configs)), **how)


REFUSALS = {
    "teacher: none given, and kd needs one": refused(lambda f: student_config(f, method="kd")),
    "checkpoint: there is no file nowhere": refused(lambda f: student_config(f, method="kd", teacher="nowhere")),
    "data: 'digit' is not known .did you mean 'digits'": refused(lambda f: student_config(f, data="digit")),
    "data: there is no file or folder 'my/images'": refused(lambda f: student_config(f, data="my/images")),
    "precision: fp16 given, and there is no CUDA device": refused(lambda f: student_config(f, precision="fp16")),
    "processes: 0 given": refused(student_config, processes=0),
    "processes: 2 given, and there are 0 CUDA devices": refused(lambda f: student_config(f, device="auto"), processes=2),
    "processes: 2 given with CUDA device 0 alone": refused(student_config, processes=2, gpu=0),
    "configs: .'student', 'teacher'. given": refused(student_config, teacher_config),
    "for the teacher and for the student; a folder for each": lambda folder: launch(teacher_config(folder / "a"), student_config(folder / "a", method="kd")),
}


@pytest.mark.parametrize("sentence", REFUSALS)
def test_refused_before_anything_is_started(sentence, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "_cuda_devices", lambda told, visible: [])
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        REFUSALS[sentence](tmp_path)
    assert not list(tmp_path.iterdir())


# ---- the command to copy ----


def values_of(declared):
    default, rule = declared.default, declared.metadata
    if isinstance(default, tuple):
        kind = dict(milestones=st.floats(0, 1), pair=st.integers(-3, 3), keep_epochs=st.integers(1, 300)).get(declared.name, st.text("abc.,0 '", min_size=1).map(lambda s: s.replace(",", "")))
        size = dict(pair=(2, 2), milestones=(1, 3)).get(declared.name, (0, 3))
        return st.lists(kind.filter(lambda v: v != ""), min_size=size[0], max_size=size[1]).map(tuple)
    if isinstance(default, bool):
        return st.booleans()
    if rule["choices"]:
        return st.sampled_from(rule["choices"])
    if isinstance(default, str):
        return st.text("ab/. -'\"$é", max_size=8).filter(lambda text: text != "--")  # which argparse loses
    least, most = rule["least"] or 0, rule["most"] or 1000
    return st.integers(int(least), int(most)) if isinstance(default, int) else st.floats(least, most)


@st.composite
def configs(draw, kind):
    "Any accepted configuration; of a student, the settings that others restrict go with them."
    tied = ("frames", "teacher_mode", "attention_gradient") if kind is Config else ()
    given = draw(st.fixed_dictionaries({}, optional={name: values_of(f) for name, f in jobs.settings(kind).items() if name not in tied}))
    if kind is Config:
        rest = Config(**given)
        joins_steps = rest.fold_time or METHODS[rest.method].over_rates
        modes = [mode for mode in TEACHER_MODES if mode != "fold_step" or not joins_steps]
        gradients = [gradient for gradient in ATTENTION_GRADIENTS if gradient != "labels" or not METHODS[rest.method].over_rates]
        accepted = dict(frames=[0, rest.time_steps], teacher_mode=modes, attention_gradient=gradients)
        given |= draw(st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in accepted.items()}))
    return kind(**given)


@given(st.one_of(configs(Config), configs(TeacherConfig)))
def test_the_command_gives_the_same_configuration(config):
    name, *arguments = shlex.split(command(config))
    program = dict(sastc_distill=sastc_distill, sastc_teacher=sastc_teacher)[name]
    parsed = vars(anno_parser(program.__wrapped__).parse_args(arguments))
    known = {name: value for name, value in parsed.items() if name in jobs.settings(type(config))}
    assert type(config)(**known) == config and not parsed["resume"]


def test_every_method_has_a_command():
    assert {shlex.split(command(Config(method=method)))[-1] for method in METHODS} == {*METHODS, "sastc_distill"} - {"sastc"}
