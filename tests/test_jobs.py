"""Runs as processes of their own: start, stop, resume, kill, find again; folders of somebody else. Everything is on digits with the smallest networks."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sastc.cli.options import parse
from sastc.cli.training import distill_command, teacher_command
from sastc.common.settings import choices_of, entries, flat
from sastc.methods import METHODS
from sastc.training import jobs
from sastc.training.config import Config, TeacherConfig, settings_for
from sastc.training.jobs import Job, command, find_jobs, launch
from sastc.training.records import Damaged, write_json
from sastc.training.runs import Run, RunWriter, identity, sentence_of

TINY = dict(data="digits", train_images=128, batch_size=16, lr=0.02, log_every=1, width=0.0625, device="cpu")


def teacher_config(folder, **more):
    return settings_for(TeacherConfig, TINY | dict(model="wrn16_2", width=0.25, epochs=1, folder=str(folder)) | more)


def student_config(folder, **more):
    return settings_for(Config, TINY | dict(method="baseline", epochs=4, seed=3, folder=str(folder)) | more)


def wait_for(job, *states, step=0, seconds=300):
    "Wait until the job is in one of the states, in its last stage at least at `step` if it runs."
    deadline = time.monotonic() + seconds
    while job.state not in states or (job.state == "running" and Job(job.folder).stages[-1].status.get("step", -1) < step):
        over = job.process is None  # asked first: it may end in between
        assert time.monotonic() < deadline and not (over and job.state not in states), f"{job.state}: {job.sentence}\n{job.log()}"
        time.sleep(0.02)


@pytest.fixture
def started(tmp_path):
    "Starts jobs that do not outlive the test, nor the folder in which they are."
    folders = []

    def start(*configs, **how):
        job = launch(*configs, **how)
        folders.append(job.folder.resolve())
        return job

    yield start
    for folder in folders:
        if process := Job(folder).process:
            for each in [*process.children(recursive=True), process]:
                each.kill()


def test_a_stopped_job_resumes_to_the_same_result_as_one_that_was_not_stopped(started, tmp_path):
    # so long that it cannot be over before the stop arrives
    whole, broken = (started(student_config(tmp_path / name, epochs=20)) for name in ("whole", "broken"))
    wait_for(broken, "running", step=4)
    broken.stop()
    wait_for(broken, "stopped")
    stopped = Run(broken.folder)
    assert stopped.checkpoint("last")["step"] == stopped.status["step"] < stopped.status["steps"]
    found = Job(broken.folder)  # as another kernel would, that knows the folder alone
    assert found.state == "stopped" and f"The student was stopped at step {stopped.status['step']} of 140 (epoch " in found.sentence
    assert found.sentence.endswith("Resume continues from the last checkpoint.") and found.sentence.removeprefix("The student") == stopped_sentence(stopped)
    found.resume()
    wait_for(found, "finished")
    wait_for(whole, "finished")
    results = [{name: value for name, value in Run(job.folder).result.items() if name != "minutes"} for job in (whole, found)]
    assert results[0] == results[1]
    weights = [Run(job.folder).checkpoint("last")["model"] for job in (whole, found)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert Run(found.folder).environment["command"] == f"sastc distill --folder {found.folder} --resume"


def stopped_sentence(run):
    "What everybody else says of the run."
    return sentence_of(run.state, run.status).removeprefix("The run")


def test_a_killed_job_is_found_and_told(started, tmp_path):
    job = started(student_config(tmp_path / "run", epochs=100))
    wait_for(job, "running", step=8)
    pid = job.process.pid
    assert os.getsid(pid) == pid  # a session of its own: neither Ctrl-C nor the end of the kernel reaches it
    os.kill(pid, signal.SIGKILL)
    wait_for(job, "lost")
    assert "its process is gone without a final word. It was killed, most often because memory ran out. Resume continues from" in job.sentence
    assert "epoch 1 of 100: loss" in job.log()
    with pytest.raises(ValueError, match="expected a run with a process on this machine, got .*which has none to stop .lost."):
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
    with pytest.raises(ValueError, match="has none to stop"):
        Job(tmp_path / "run").stop()


def test_a_number_without_a_time_names_no_process(tmp_path):
    bare = identity() | dict(state="running", step=3, steps=9)
    del bare["started"]
    write_run(tmp_path / "run", bare)
    write_json(tmp_path / "run" / "process.json", dict(pid=os.getppid(), host=bare["host"]))
    with pytest.raises(ValueError, match="has none to stop"):
        Job(tmp_path / "run").stop()


def write_run(folder, status):
    write_json(folder / "config.json", dict(kind="student", version=2, settings={}))
    write_json(folder / "status.json", status | dict(time="2030-01-01T00:00:00+00:00"))
    return folder


def test_a_teacher_and_its_student_need_nobody_in_between(started, tmp_path):
    # the process that launches ends at once: what is left has to do both stages
    given = flat(teacher_config(tmp_path / "teacher")), flat(student_config(tmp_path / "student", method="kd", epochs=1))
    code = f"from sastc.training.jobs import *; from sastc.training.config import *; launch(*map(settings_for, (TeacherConfig, Config), {given!r}))"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
    job = Job(tmp_path / "student")
    assert [stage.kind for stage in job.stages] == ["teacher", "student"]
    wait_for(job, "finished")
    assert Run(tmp_path / "teacher").result and Run(tmp_path / "student").config["teacher"] == str(tmp_path / "teacher")


def test_a_job_that_is_stopped_with_its_teacher_goes_on_with_its_teacher(started, tmp_path):
    job = started(teacher_config(tmp_path / "teacher", epochs=6), student_config(tmp_path / "student", method="kd", epochs=1))
    deadline = time.monotonic() + 300
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
    job = started(student_config(tmp_path / "run", method="s2w", time_steps=1))
    wait_for(job, "failed")
    assert job.sentence.startswith("The student failed before the first step: time_steps: ") and "got 1" in job.sentence
    assert "sastc distill: time_steps: " in job.log()


def test_a_failure_of_the_teacher_is_a_failure_of_the_job(started, tmp_path):
    job = started(teacher_config(tmp_path / "teacher", lr=1e30, epochs=3), student_config(tmp_path / "student", method="kd"))
    wait_for(job, "failed")
    assert "The teacher failed at step" in job.sentence and "loss: expected finite parts, got 'ce' =" in job.sentence


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
    "teacher: expected a run folder or checkpoint .*for method kd, got none": refused(lambda f: student_config(f, method="kd")),
    "teacher: expected a run folder or a checkpoint file, got nowhere": refused(lambda f: student_config(f, method="kd", teacher="nowhere")),
    "data: .*my/images": refused(lambda f: student_config(f, data="my/images")),
    "precision: expected fp32 or bf16, since there is no CUDA device, got fp16": refused(lambda f: student_config(f, precision="fp16")),
    "processes: expected a whole number of at least 1, got 0": refused(student_config, processes=0),
    "processes: expected at most one for each of the 0 CUDA devices, or device cpu, got 2": refused(lambda f: student_config(f, device="auto"), processes=2),
    "processes: expected 1 with CUDA device 0 alone, got 2": refused(student_config, processes=2, gpu=0),
    "configs: expected one of a teacher, .* got student, teacher": refused(student_config, teacher_config),
    "folder: expected a folder for the teacher and another for the student": lambda folder: launch(
        teacher_config(folder / "a"), student_config(folder / "a", method="kd")
    ),
    "student: expected a name, a path, or module:Name .*, got 'own:Linear'": refused(lambda f: student_config(f).but(student=torch.nn.Linear(2, 2))),
}


@pytest.mark.parametrize("sentence", REFUSALS)
def test_refused_before_anything_is_started(sentence, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "_cuda_devices", lambda told, visible: [])
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        REFUSALS[sentence](tmp_path)
    assert not list(tmp_path.iterdir())


# ---- folders of somebody else ----

HOSTILE = "import pathlib; pathlib.Path({mark!r}).touch()"


def a_job(folder, *stages, **more):
    "A job as its folder tells it, written by nobody here."
    stored = [dict(kind="teacher" if isinstance(config, TeacherConfig) else "student", version=2, settings=flat(config)) for config in stages]
    write_json(folder / "job.json", dict(stages=stored, processes=1, gpu=None, cwd=os.getcwd()) | more)
    return Job(folder)


def test_nothing_is_imported_from_where_a_folder_says_it_was_launched(tmp_path, started, monkeypatch):
    theirs, mark = tmp_path / "theirs", tmp_path / "executed"
    for name in ("sastc", "sitecustomize", "usercustomize", "psutil", "matplotlib"):
        theirs.mkdir(exist_ok=True)
        (theirs / f"{name}.py").write_text(HOSTILE.format(mark=str(mark)))
    (theirs / "data").mkdir()
    mine = tmp_path / "mine"
    mine.mkdir()
    monkeypatch.chdir(mine)
    job = a_job(theirs / "run", student_config("run", epochs=1), cwd=str(theirs))
    job.resume()
    wait_for(job, "finished")
    assert not mark.exists() and not list(mine.iterdir()) and Run(job.folder).result
    assert json.loads((theirs / "run" / "job.json").read_text())["cwd"] == str(mine)


def test_nothing_is_imported_from_the_working_directory(tmp_path, started, monkeypatch):
    (tmp_path / "sastc.py").write_text(HOSTILE.format(mark=str(tmp_path / "executed")))
    monkeypatch.chdir(tmp_path)
    job = started(student_config("run", epochs=1), processes=2)  # torchrun would put it in front
    wait_for(job, "finished")
    assert not (tmp_path / "executed").exists()


def test_no_module_is_imported_because_a_folder_names_it(tmp_path, monkeypatch):
    (tmp_path / "theirs.py").write_text(HOSTILE.format(mark=str(tmp_path / "executed")))
    monkeypatch.syspath_prepend(str(tmp_path))
    job = a_job(tmp_path / "run", student_config(tmp_path / "run"))
    stored = json.loads((job.folder / "job.json").read_text())
    stored["stages"][0]["settings"]["method"] = "theirs:Method"
    write_json(job.folder / "job.json", stored)
    with pytest.raises(ValueError, match="method: expected Method of a module that is imported, got 'theirs:Method'"):
        Job(job.folder).resume()
    assert not (tmp_path / "executed").exists() and not (job.folder / "log.txt").exists()


def test_a_class_of_a_module_that_is_imported_here_is_found_by_the_process(tmp_path, started, monkeypatch):
    (tmp_path / "my_methods.py").write_text(
        "from sastc.methods import Baseline\nfrom sastc.common.settings import setting\n\nclass Mine(Baseline):\n"
        "    'cross-entropy, doubled'\n\n    times: float = setting(2.0, 'factor', least=0)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import my_methods

    job = started(student_config(tmp_path / "run", method=my_methods.Mine, epochs=30, times=3.0))
    wait_for(job, "running", step=8)
    job.stop()
    wait_for(job, "stopped")
    assert Run(job.folder).config["method"] == "my_methods:Mine" and Run(job.folder).config["times"] == 3.0
    Job(job.folder).resume()
    wait_for(job, "running", step=Run(job.folder).status["step"] + 2)


def test_a_method_that_a_module_registers_is_known_to_the_process(tmp_path, started, monkeypatch):
    (tmp_path / "my_registered.py").write_text(
        "from sastc.methods import METHODS, Baseline\n\n@METHODS.register('registered')\nclass Mine(Baseline):\n    'cross-entropy again'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import my_registered  # noqa: F401

    job = started(student_config(tmp_path / "run", method="registered", epochs=1))
    wait_for(job, "finished")
    assert Run(job.folder).config["method"] == "registered"
    METHODS._all().pop("registered")


def test_what_only_this_process_knows_is_not_launched(tmp_path, monkeypatch):
    class Mine(METHODS["baseline"]):
        "cross-entropy, here"

    Mine.__module__ = "__main__"
    monkeypatch.setitem(METHODS._all(), "here", Mine)
    with pytest.raises(ValueError, match="method: expected a name, a path, or module:Name .* got 'here'"):
        launch(student_config(tmp_path / "run", method="here"))


@pytest.mark.parametrize("elsewhere", ["far/away/teacher", "project/.hidden", "project/full"])
def test_a_teacher_is_not_written_where_a_folder_says(tmp_path, elsewhere):
    (tmp_path / "project" / "full").mkdir(parents=True)
    (tmp_path / "project" / "full" / "mine.txt").touch()
    place = tmp_path / elsewhere
    job = a_job(tmp_path / "project" / "runs" / "student", teacher_config(place), student_config(tmp_path / "student", method="kd", teacher=str(place)))
    before = sorted(map(str, tmp_path.rglob("*")))
    with pytest.raises(ValueError, match="folder: expected the teacher of the job in .* in a folder beside it"):
        job.resume()
    assert sorted(map(str, tmp_path.rglob("*"))) == before


def test_a_teacher_that_is_not_the_one_of_the_job_is_not_trained_on(tmp_path):
    mine = tmp_path / "runs" / "teacher"
    write_json(mine / "config.json", dict(kind="teacher", version=2, settings=flat(teacher_config(mine, epochs=2))))
    job = a_job(tmp_path / "runs" / "student", teacher_config(mine), student_config(tmp_path / "student", method="kd", teacher=str(mine)))
    with pytest.raises(ValueError, match="in one that holds that very run"):
        job.resume()


def test_this_process_remembers_where_its_jobs_put_their_teacher(tmp_path, started):
    far = tmp_path / "far" / "away" / "teacher"
    job = started(teacher_config(far, epochs=6), student_config(tmp_path / "runs" / "student", method="kd", epochs=1))
    job.stop()
    wait_for(job, "stopped")
    Job(job.folder).resume()
    wait_for(job, "finished")
    assert Run(far).result


@pytest.mark.parametrize("name", ["log.txt", "checkpoints", "steps.jsonl"])
def test_no_link_leads_out_of_the_folder(tmp_path, name):
    target = tmp_path / "mine"
    target.mkdir()
    (target / "notes.txt").write_text("mine")
    job = a_job(tmp_path / "run", student_config(tmp_path / "run"))
    (job.folder / name).symlink_to(target if name == "checkpoints" else target / "notes.txt")
    with pytest.raises(ValueError, match=f"folder: expected files of the run itself in .*, got {name}, a link to"):
        job.resume()
    assert (target / "notes.txt").read_text() == "mine" and [path.name for path in target.iterdir()] == ["notes.txt"]


def test_no_data_are_fetched_into_a_folder_that_a_run_invents(tmp_path):
    job = a_job(tmp_path / "run", student_config(tmp_path / "run", data="cifar10", root=str(tmp_path / "invented")))
    with pytest.raises(ValueError, match="root: expected a folder that exists"):
        job.resume()
    assert not (tmp_path / "invented").exists()


def test_a_setting_that_is_gone_and_had_an_effect_is_not_dropped(tmp_path):
    settings = flat(student_config(tmp_path / "run", method="sastc", teacher="t")) | dict(over_teacher="mean")
    write_json(tmp_path / "run" / "config.json", dict(kind="student", settings=settings))
    with pytest.raises(ValueError, match="over_teacher: expected a setting that this version knows, got 'mean'"):
        Job(tmp_path / "run").resume()


def test_a_job_that_is_resumed_elsewhere_finds_its_teacher(tmp_path, started, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    for place in (here, there):
        place.mkdir()
    monkeypatch.chdir(here)
    job = started(teacher_config("runs/teacher"), student_config("runs/student", method="kd", epochs=20))
    wait_for(job, "running", step=8)
    job.stop()
    wait_for(job, "stopped")
    monkeypatch.chdir(there)
    again = Job(here / "runs" / "student").resume()
    wait_for(again, "running", step=Run(again.folder).status["step"] + 2)
    again.stop()
    wait_for(again, "stopped")
    assert Run(again.folder).config["teacher"] == str(here / "runs" / "teacher") and not list(there.iterdir())


def test_a_job_that_a_command_resumes_is_what_the_command_made_of_it(tmp_path):
    "Stopped in a notebook and resumed in a terminal, for more epochs: it trains, and nobody has asked for a stop."
    job, gone = a_job(tmp_path / "run", student_config(tmp_path / "run")), identity() | dict(pid=2**22 + 1)
    write_run(job.folder, dict(state="stopped", step=3, steps=9, **gone))
    write_json(job.folder / "process.json", gone | dict(started=1.0, stop=True))
    settings = flat(student_config(job.folder, epochs=9))
    RunWriter(job.folder, "student", settings, {}, resume=True)
    resumed = Job(job.folder)
    assert (resumed.state, resumed.stage.settings["epochs"], resumed.started) == ("running", 9, {}) and "--epochs 9" in command(resumed.stage.config)
    write_json(job.folder / "status.json", Run(job.folder).status | gone)
    assert resumed.state == "lost"
    write_json(job.folder / "process.json", identity())  # of a job that has just started
    RunWriter(job.folder, "student", settings, {}, resume=True)
    assert resumed.started


def test_a_run_of_a_command_has_the_processes_that_it_was_trained_by(tmp_path):
    write_run(tmp_path / "run", dict(state="stopped", step=3, steps=9, **identity()))
    write_json(tmp_path / "run" / "environment.json", dict(processes=2))
    assert Job(tmp_path / "run").processes == 2


DAMAGE = dict(
    empty="", truncated='{"kind": "stu', list="[1]", number="3", deep="[" * 100_000,
    wrong='{"kind": 3, "settings": [], "stages": "x", "state": [], "step": "a", "processes": "9", "test_accuracy_best": "x", "time": 5, "pid": -1}',
)  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["job", "config", "status", "process"])
def test_a_damaged_file_is_named(tmp_path, name, damage):
    job = a_job(tmp_path / "run", student_config(tmp_path / "run"))
    write_run(job.folder, dict(state="running", step=3, steps=9, **identity()))
    (job.folder / f"{name}.json").write_text(DAMAGE[damage])
    if name == "config":
        (job.folder / "job.json").unlink()
    (found,) = find_jobs(tmp_path)
    with pytest.raises(Damaged, match=rf"{name}\.json: damaged"):
        str(found.state)


# ---- the command to copy ----


def values_of(entry):
    declared, default, rule = entry.declared, entry.value, entry.declared.metadata
    if isinstance(default, tuple):
        kind = dict(milestones=st.floats(0, 1), keep_epochs=st.integers(1, 20), trackers=st.sampled_from(["tensorboard", "wandb", "trackio"])).get(
            declared.name, st.text("abc.0'", min_size=1)
        )
        return st.lists(kind, max_size=3).map(tuple)
    if isinstance(default, bool):
        return st.booleans()
    if names := choices_of(declared):
        return st.sampled_from(names)
    if isinstance(default, str):
        return (
            st.text("ab/. -'\"$é", max_size=8).map(str.strip).filter(lambda text: text != "--" and not (rule.get("path") and text[:1] == "$"))
        )  # argparse loses the one, the other is a variable
    least, most = rule["least"] or 0, rule["most"] or 1000
    return st.integers(int(least), int(most)) if isinstance(default, int) else st.floats(least, most)


@st.composite
def configs(draw, kind):
    "Any accepted configuration: choices, and then settings of what is chosen."
    chosen = {}
    for inside in (False, True):  # choices, and those within what they chose
        fresh = entries(settings_for(kind, chosen))
        options = {
            name: st.sampled_from([*entry.choice])
            for name, entry in fresh.items()
            if entry.choice is not None and (entry.path[0] == "method" and len(entry.path) > 1) == inside
        }
        chosen |= draw(st.fixed_dictionaries({}, optional=options))
    made = settings_for(kind, chosen)
    tied = set() if made.data.events else {"frames", "teacher_mode"}
    tied |= {"attention_gradient"} if chosen.get("method") == "rate" else set()
    method = getattr(made, "method", None)
    tied |= set() if method is None or (method.uses_teacher and method.compares_layers and method.takes_steps) else {"teacher_mode"}
    tied |= set() if method is None or method.uses_teacher else {"teacher_until"}
    plain = {name: values_of(entry) for name, entry in entries(made).items() if entry.choice is None and name not in tied}
    given = draw(st.fixed_dictionaries({}, optional=plain))
    given |= {"epochs": 20} if "keep_epochs" in given else {}
    if not given.get("label_noise"):
        given.pop("noise_seed", None)
    if not given.get("teacher"):
        given.pop("unfinished_teacher", None)
    return settings_for(kind, chosen | given)


@given(st.one_of(configs(Config), configs(TeacherConfig)))
def test_the_command_gives_the_same_configuration(config):
    program, name, *arguments = shlex.split(command(config))
    function, kind = dict(distill=(distill_command, Config), teacher=(teacher_command, TeacherConfig))[name]
    parsed = parse(f"{program} {name}", function, arguments, kind)
    own = parsed.pop("start"), parsed.pop("again")
    assert program == "sastc" and kind is type(config) and not any(value for part in own for value in vars(part).values())
    assert settings_for(kind, parsed) == config


def test_every_choice_has_a_command():
    for method in METHODS:
        told = shlex.split(command(settings_for(Config, dict(method=method))))
        assert told == ["sastc", "distill", *(["--method", method] if method != "sastc" else [])]
