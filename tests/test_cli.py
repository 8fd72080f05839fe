"""The command line as a researcher uses it: each test runs the command in a process of its own, with real digits."""

import contextlib
import csv
import fcntl
import io
import json
import os
import re
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import nir
import numpy as np
import onnx
import pytest
import torch
from ending import at_step, in_the_test
from processes import SASTC, Program, run_sastc

from sastc.data.images import load_images
from sastc.lab.launch import LaunchPanel
from sastc.studies.comparisons import summarise
from sastc.studies.report import write_report
from sastc.training import Run, distill
from sastc.training.checkpoints import load_model
from sastc.training.jobs import find_jobs
from sastc.training.measure import evaluate_mismatch, fixed_batches

PROGRAM = [sys.executable, "-c", SASTC]
QUIET = {name: value for name, value in os.environ.items() if name != "TQDM_DISABLE"} | dict(OMP_NUM_THREADS="1")
TINY = ["--data", "digits", "--train_images", "128", "--batch_size", "16", "--lr", "0.02", "--log_every", "2", "--device", "cpu"]
STUDENT = [*TINY, "--width", "0.0625", "--epochs", "1"]


def sastc(*arguments, cwd=None, **environment):
    if environment:  # which Python may read when it starts
        return subprocess.run([*PROGRAM, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, env=QUIET | environment, timeout=600)
    return run_sastc([*map(str, arguments)], cwd, QUIET)


def whole(*arguments, **options):
    "Output of a command that has to end well."
    done = sastc(*arguments, **options)
    assert done.returncode == 0, done.stderr
    return done


def refused(*arguments, **options):
    "Sentence of a command that has to be refused, in one line, before anything is done."
    done = sastc(*arguments, **options)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and not done.stdout, (done.returncode, done.stderr, done.stdout)
    return done.stderr


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    place = tmp_path_factory.mktemp("cli") / "teacher"
    whole("teacher", *TINY, "--model", "wrn16_2", "--width", "0.0625", "--epochs", "1", "--folder", place)
    return place


@pytest.fixture(scope="module")
def student(teacher):
    place = teacher.parent / "students" / "kd"
    whole("distill", *STUDENT, "--method", "kd", "--teacher", teacher, "--folder", place)
    return place


def started(*arguments, cwd=None, ending=""):
    return Program(f"{ending}\n{SASTC}", [*map(str, arguments)], cwd, QUIET)


def after_steps(process, place, count):
    deadline = time.monotonic() + 600  # on a busy machine a process takes a minute to start
    while time.monotonic() < deadline and process.poll() is None:
        if (place / "steps.jsonl").exists() and (place / "steps.jsonl").read_bytes().count(b"\n") >= count and (place / "checkpoints" / "last.pt").exists():
            return process
        time.sleep(0.02)
    process.kill()
    pytest.fail(f"ended or hung before step {count}: {process.communicate()[1][-2000:]}")


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---- 1: how a command ended ----


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_teacher_ends_with_the_signals_status_and_is_no_teacher_without_a_word(number, status, tmp_path):
    place = tmp_path / "teacher"
    given = [*TINY, "--model", "wrn16_2", "--width", "0.0625", "--epochs", "2", "--folder", place]
    process = started("teacher", *given, ending=at_step(10, number))  # in the second epoch, so that there is a best checkpoint
    said, faults = process.communicate(timeout=600)
    assert process.returncode == status and "The run was stopped at step 10" in said and "--resume" in said, said + faults
    wanted = ["distill", *STUDENT, "--method", "kd", "--teacher", place, "--folder", tmp_path / "student"]
    assert "teacher: expected one whose training has finished, got" in refused(*wanted)
    assert "teacher: expected one whose training has finished" in refused(*wanted[:-4], "--teacher", place / "checkpoints" / "best.pt")
    if number == signal.SIGTERM:
        assert "This run was stopped" in whole("evaluate", place).stdout
        whole(*wanted, "--unfinished_teacher")
        assert Run(tmp_path / "student").config["unfinished_teacher"] is True


def test_a_loss_that_is_no_number_fails_and_its_folder_can_be_overwritten(teacher, tmp_path):
    place = tmp_path / "run"
    wanted = ["distill", *STUDENT, "--method", "sastc", "--teacher", teacher, "--folder", place]
    done = sastc(*wanted, "--beta", "1e39")
    assert done.returncode == 1 and "sastc distill: loss: expected finite parts" in done.stderr
    assert "holds a run already (failed)" in refused(*wanted, "--beta", "1")
    (place / "notes.txt").write_text("mine")
    whole(*wanted, "--beta", "1", "--overwrite")
    assert Run(place).state == "finished" and Run(place).config["beta"] == 1 and (place / "notes.txt").exists()


def test_a_comparison_in_which_a_run_diverges_is_not_whole(teacher, tmp_path):
    wanted = ["compare", *STUDENT, "--teacher", teacher, "--methods", "kd,sastc", "--seeds", "0", "--folder", tmp_path]
    done = sastc(*wanted, "--beta", "1e39")
    assert done.returncode == 1 and "sastc-seed0: The run failed" in done.stdout and (tmp_path / "report.html").exists()
    assert "beta: expected 1e+39, with which" in refused(*wanted, "--beta", "1")
    done = whole(*wanted, "--beta", "1", "--overwrite", "--json")
    assert {row["run"] for row in json.loads(done.stdout)["runs"]} == {"kd-seed0", "sastc-seed0"}


def test_an_interrupt_while_libraries_load_leaves_no_traceback(tmp_path):
    slow = tmp_path / "torch"
    slow.mkdir()
    (slow / "__init__.py").write_text("import os, time\nopen('loading', 'w').close()\ntime.sleep(60)\n")
    # a shell that runs the tests in the background has them ignore SIGINT, and whatever they start
    heeding = dict(preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    process = subprocess.Popen([*PROGRAM, "distill"], stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=QUIET | dict(PYTHONPATH=str(tmp_path)), **heeding)
    while not (tmp_path / "loading").exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert (process.communicate(timeout=60)[1], process.returncode) == ("", 130)


def test_the_demo_ends_with_a_table_a_picture_and_the_next_command(tmp_path):
    said = whole("demo", "--epochs", "1", "--seeds", "1", cwd=tmp_path).stdout
    bars = {line.split()[0]: line.count("█") for line in said.splitlines() if "█" in line}
    table = Run(tmp_path / "runs" / "demo" / "routed-seed0")
    assert list(bars) == ["baseline", "kd", "routed"] and bars["routed"] == round(40 * table.result["test_accuracy_last"])
    routes = [line.split() for line in said.splitlines() if "←" in line]
    assert [route[0] for route in routes] == table.layers["student"] and all(route[2] in table.layers["teacher"] for route in routes)
    assert said.rstrip().endswith("next: sastc explain runs/demo") and "report: runs/demo/report.html" in said


# ---- 2: one budget ----


def test_runs_of_another_budget_stand_apart_and_seeds_are_counted(teacher, tmp_path):
    wanted = ["compare", *TINY, "--width", "0.0625", "--teacher", teacher, "--methods", "baseline,kd", "--folder", tmp_path]
    whole(*wanted, "--seeds", "0-1", "--epochs", "1")
    shutil.copytree(tmp_path / "kd-seed0", tmp_path / "kd-seed0-again")
    done = whole(*wanted, "--seeds", "2", "--epochs", "2", "--json")
    methods = {(row["budget"], row["method"]): row["seeds"] for row in json.loads(done.stdout)["methods"]}
    assert methods == {("epochs 1", "baseline"): 2, ("epochs 1", "kd"): 2, ("epochs 2", "baseline"): 1, ("epochs 2", "kd"): 1}
    page = (tmp_path / "report.html").read_text()
    assert "different budgets" in page and "Budget: epochs 2" in page and "kd-seed0-again" in page


def test_a_recipe_distils_a_run_of_its_own_comparison(tmp_path):
    given = ["--recipe", "cifar100/vgg11-from-resnet32x4-T3", "--small", "--teacher", "torchvision:resnet18"]
    settings = json.loads(whole("distill", *given, "--print_config", "--json").stdout)["settings"]
    planned = whole("compare", *given, "--dry-run", cwd=tmp_path).stderr
    assert f"{settings['folder']}: would be trained" in planned and planned.count("sastc-seed") == 3


# ---- 3: options that would have no effect ----


@pytest.mark.parametrize(
    "typed, sentence",
    [
        (["compare", "--seed", "7"], "--seed: expected an option of this command (did you mean --seeds?)"),
        (["compare", "--method", "kd"], "--method: expected an option of this command (did you mean --methods?)"),
        (["study", "few_shot", "--method", "kd"], "method: expected --methods for a study of few_shot"),
        (["study", "noisy_labels", "label_noise=0.1"], "label_noise: expected --noise for a study of noisy_labels"),
        (["study", "sensitivity", "--seed", "1"], "seed: expected --seeds for a study of sensitivity"),
        (["distill", "--method", "kd", "--beta", "3"], "beta: expected only with method"),
        (["distill", "--small"], "small: expected only together with --recipe"),
        (["distill", "--resume", "--overwrite", "--folder", "x"], "overwrite: expected either --resume or --overwrite"),
        (["distill", "--unfinished_teacher"], "unfinished_teacher: expected only together with teacher"),
    ],
)
def test_an_option_without_effect_is_refused(typed, sentence, tmp_path):
    assert sentence in refused(*typed, cwd=tmp_path)


def test_a_teacher_for_the_run_of_a_teacher_is_refused(teacher, student):
    assert "teacher: expected only with the run of a student" in refused("evaluate", teacher, "--teacher", teacher)


# ---- 4: which teacher ----


def measured(*arguments, **options):
    return json.loads(whole("evaluate", *arguments, "--json", **options).stdout)["measured"][0]


def test_a_teacher_is_found_from_anywhere_and_another_is_not_taken_for_it(teacher, tmp_path):
    home, away = tmp_path / "home", tmp_path / "away"
    home.mkdir()
    shutil.copytree(teacher, home / "runs" / "t")
    whole("distill", *STUDENT, "--method", "kd", "--teacher", "runs/t", "--folder", "runs/kd", cwd=home)
    recorded = json.loads((home / "runs" / "kd" / "origins.json").read_text())["teacher"]
    assert recorded["path"] == str((home / "runs" / "t").resolve()) and len(recorded["checksum"]) == 16
    other = ["teacher", *TINY, "--model", "wrn16_2", "--width", "0.125", "--epochs", "1", "--folder", "runs/t"]
    away.mkdir()
    whole(*other, cwd=away)  # another teacher at the same relative path
    right = measured(home / "runs" / "kd", cwd=home)
    assert measured(home / "runs" / "kd", cwd=away)["stm_raw"] == right["stm_raw"]
    home.rename(tmp_path / "moved")
    assert measured(tmp_path / "moved" / "runs" / "kd", cwd=away)["stm_raw"] == right["stm_raw"]
    said = refused("evaluate", tmp_path / "moved" / "runs" / "kd", "--teacher", away / "runs" / "t")
    assert "teacher: expected the weights with which the run" in said
    shutil.rmtree(tmp_path / "moved" / "runs" / "t")
    shutil.copytree(away / "runs" / "t", tmp_path / "moved" / "runs" / "t")
    assert "teacher: expected the weights that" in refused("evaluate", tmp_path / "moved" / "runs" / "kd")


def test_a_teacher_replaced_under_a_stopped_run_is_not_learned_from(teacher, tmp_path):
    shutil.copytree(teacher, tmp_path / "t")
    place = tmp_path / "kd"
    wanted = ["distill", *STUDENT, "--epochs", "4", "--method", "kd", "--teacher", "t", "--folder", "kd"]
    started(*wanted, cwd=tmp_path, ending=at_step(10, signal.SIGINT)).communicate(timeout=600)
    assert Run(place).state == "stopped"
    whole("teacher", *TINY, "--model", "wrn16_2", "--width", "0.125", "--epochs", "1", "--folder", "t", "--overwrite", cwd=tmp_path)
    assert "teacher: expected the weights" in refused("distill", "--folder", "kd", "--resume", cwd=tmp_path)
    again = ["distill", "--folder", "kd", "--resume", "--teacher", teacher]  # where it lies now
    process = started(*again, cwd=tmp_path, ending=at_step(20, signal.SIGINT))
    process.communicate(timeout=600)
    assert process.returncode == 130 and Run(place).config["teacher"] == str(teacher)


# ---- 5: which images ----


def test_a_test_set_that_is_sorted_by_class_gives_the_same_mismatch(student, teacher):
    from dataclasses import replace

    from sastc.training.opening import open_run

    data, taps = load_images("digits"), open_run(student).taps
    order = data.y_test.argsort(stable=True)
    by_class = replace(data, x_test=data.x_test[order.numpy()], y_test=data.y_test[order])
    assert evaluate_mismatch(*taps, fixed_batches(data, 1)) == evaluate_mismatch(*taps, fixed_batches(by_class, 1))
    assert measured(student)["stm_images"].startswith("320 of 360 test images in 5 batches, the first of each class")


def test_a_run_names_the_images_of_its_mismatch(teacher, tmp_path):
    whole("distill", *STUDENT, "--method", "baseline", "--teacher", teacher, "mismatch_batches=1", "--folder", tmp_path / "run")
    assert Run(tmp_path / "run").data["mismatch_images"].startswith("64 of 360 test images in 1 batches")
    assert Run(tmp_path / "run").content("origins")["teacher"]["checksum"]


# ---- 6 and 13: what evaluation and exports say ----


def test_evaluation_keeps_the_precision_and_names_layers_that_never_fire(teacher, tmp_path):
    whole("distill", *STUDENT, "--method", "baseline", "--precision", "bf16", "--folder", tmp_path / "run", "threshold=50")
    done = whole("evaluate", tmp_path / "run")
    assert "(bf16)" in done.stdout and "never fired on a test image: layer1" in done.stdout
    assert "never fired on a test image" in Path(whole("report", tmp_path / "run").stdout.strip()).read_text()


def test_an_export_says_how_to_feed_it_and_overwrites_nothing_of_a_run(student, tmp_path):
    student = Path(shutil.copytree(student, tmp_path / "run"))
    before = contents(student)
    for file in ("config.json", "checkpoints/best.pt"):
        assert "file: expected a name that ends in .pt2" in refused("export", student, "--to", "torch", "--file", student / file)
    assert "out: expected a name that ends in .html" in refused("report", student, "--out", student / "config.json")
    assert contents(student) == before
    file = Path(json.loads(whole("export", student, "--to", "torch", "--json").stdout)["file"])
    extra = {"sastc.json": ""}
    torch.export.load(file, extra_files=extra)
    told = json.loads(extra["sastc.json"])
    data = load_images("digits")
    assert (
        told["time_steps"] == 2
        and told["classes"] == list(data.classes)
        and told["mean"] == pytest.approx(data.mean)
        and told["std"] == pytest.approx(data.std)
    )


@pytest.mark.parametrize("to", ["nir", "onnx"])
def test_exports_for_other_tools_say_how_to_feed_them(student, tmp_path, to):
    data, file = load_images("digits"), tmp_path / f"student.{to}"
    whole("export", student, "--to", to, "--file", file)
    if to == "nir":
        told = {name: np.asarray(value).tolist() for name, value in nir.read(file).metadata.items()}
        classes = [name.decode() if isinstance(name, bytes) else name for name in told["classes"]]
    else:
        told = {entry.key.removeprefix("sastc."): json.loads(entry.value) for entry in onnx.load(file).metadata_props if entry.key.startswith("sastc.")}
        classes = told["classes"]
    assert int(told["time_steps"]) == 2 and classes == list(data.classes)
    assert told["mean"] == pytest.approx(data.mean) and told["std"] == pytest.approx(data.std)


# ---- 7 and 12: pages ----


def test_the_report_of_a_study_is_the_studys_page(tmp_path):
    done = whole("study", "few_shot", *STUDENT, "train_images=256", "--methods", "baseline", "--shares", "0.5,1", "--seeds", "0", "--folder", tmp_path)
    assert "report:" in done.stdout
    page = (tmp_path / "report.html").read_text()
    whole("report", tmp_path)
    assert "Few images" in page and "Few images" in (tmp_path / "report.html").read_text()


def test_pages_of_a_folder_share_plotly_once(student, tmp_path):
    shutil.copytree(student, tmp_path / "kd-seed0")
    page = Path(whole("report", tmp_path, "--plotly", "folder").stdout.strip())
    scripts = list(tmp_path.glob("plotly-*.min.js"))
    assert len(scripts) == 1 and page.stat().st_size < 1_000_000 and f'<script src="{scripts[0].name}">' in page.read_text()


# ---- what was to be mended ----


def test_a_damaged_run_is_named_and_does_not_end_a_comparison(student, tmp_path):
    for seed in (0, 1):
        shutil.copytree(student, tmp_path / f"kd-seed{seed}")
    (tmp_path / "kd-seed1" / "result.json").write_text('{"test_accuracy_last": 0.')
    page = Path(whole("report", tmp_path).stdout.strip()).read_text()
    assert "kd-seed1/result.json: damaged" in page and "kd-seed0" in page
    whole("explain", tmp_path, "--images", "8")
    (tmp_path / "kd-seed0" / "status.json").write_text("{")
    assert "kd-seed0/status.json: damaged" in refused("report", tmp_path)


def test_a_killed_run_is_not_under_way(tmp_path):
    place = tmp_path / "run"
    process = after_steps(started("distill", *STUDENT, "--epochs", "500", "--method", "baseline", "--folder", place), place, 6)
    process.kill()
    process.communicate()
    assert "its process is gone without a final word" in Path(whole("report", place).stdout.strip()).read_text()


def test_the_recorded_command_can_be_pasted(teacher, tmp_path):
    whole("distill", *STUDENT, "--method", "baseline", "--folder", tmp_path / "a run", cwd=tmp_path)
    recorded = Run(tmp_path / "a run").environment
    assert f"--folder '{tmp_path / 'a run'}'" in recorded["command"]
    assert recorded["cwd"] == str(tmp_path) and recorded["commit"] == "none" and len(recorded["package"]) == 16


# ---- 8: settings in and out ----


def test_a_printed_configuration_runs_again_to_the_same_weights(student, tmp_path):
    (tmp_path / "a.yaml").write_text(whole("distill", "--config", student, "--print-config").stdout)
    whole("distill", "--config", "a.yaml", "--folder", "again", cwd=tmp_path)
    first, again = (Run(place).checkpoint("last")["model"] for place in (student, tmp_path / "again"))
    assert all(torch.equal(first[name], again[name]) for name in first)
    done = whole("distill", "--config", "a.yaml", "lr=1e-3", "--no-augment", "--print-config", "--json", cwd=tmp_path)
    settings = json.loads(done.stdout)["settings"]
    assert (settings["lr"], settings["augment"], settings["method"]) == (1e-3, False, "kd")
    (tmp_path / "b.yaml").write_text("lr: 1e-3\nlearning_rat: 2")
    assert "config: expected settings of this command in b.yaml, got 'learning_rat'" in refused("distill", "--config", "b.yaml", cwd=tmp_path)


def test_a_file_may_hold_the_commands_own_options_and_a_dry_run_trains_nothing(teacher, tmp_path):
    (tmp_path / "c.yaml").write_text(f"methods: [baseline, kd]\nseeds: 0-1\ndata: digits\nepochs: 1\nteacher: {teacher}\nfolder: out\n")
    done = whole("compare", "--config", "c.yaml", "--dry-run", cwd=tmp_path)
    assert done.stderr.count("would be trained") == 4 and not (tmp_path / "out").exists()
    done = whole("distill", *STUDENT, "--method", "baseline", "--dry-run", cwd=tmp_path)
    assert "would be trained: runs/digits-vgg11-T2-baseline-seed1000" in done.stdout and not (tmp_path / "runs").exists()
    assert "teacher: expected a run folder or checkpoint" in refused("distill", *STUDENT, "--method", "kd", "--dry-run", "--quiet", cwd=tmp_path)


def test_a_dry_run_loads_data_and_builds_networks_and_fetches_nothing(tmp_path):
    given = ["distill", "--method", "baseline", "--dry-run", "--folder", "out"]
    done = whole(*given, "--data", "cifar10", "--root", "nowhere", cwd=tmp_path)
    assert "tried up to here: data: expected the folder" in done.stderr and "would be trained: out" in done.stdout and not list(tmp_path.iterdir())
    assert "batch_size: expected" in refused(*given, *TINY[:4], "--batch_size", "4000", "--quiet", cwd=tmp_path)
    many = ["compare", *TINY, "--teacher", "torchvision:resnet18", "--methods", "kd", "--seeds", "0", "--folder", "out", "--dry-run"]
    done = whole(*many, cwd=tmp_path, TORCH_HOME=str(tmp_path / "hub"))
    assert "tried up to here: teacher: expected" in done.stderr and not (tmp_path / "hub").exists()


def test_tables_as_json_and_csv(student):
    [row] = csv.DictReader(io.StringIO(whole("evaluate", student, "--csv").stdout))
    assert float(row["accuracy"]) == measured(student)["accuracy"]
    assert len(json.loads(whole("recipes", "grid", "--json").stdout)["recipes"]) == 3
    assert "csv: expected either --json or --csv" in refused("recipes", "--json", "--csv")


# ---- 9: help and spelling ----


def test_help_is_in_groups_and_short():
    lines = whole("distill", "--help").stdout.splitlines()
    assert len(lines) <= 80 and max(map(len, lines)) <= 80 and "most important settings:" in lines
    everything = whole("distill", "--help-all", "--method", "kd").stdout
    headings = [line for line in everything.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert headings == [f"{name}:" for name in ("this command", "data", "teacher", "student", "method", "optimisation", "records", "run", "output")]
    assert "[hard, soft]" in everything and "--beta" not in everything and max(map(len, everything.splitlines())) <= 80
    told = whole("--help").stdout
    assert all(text in told for text in ("0 finished", "1 failed", "2 wrong usage", "130", "143"))
    assert whole("--version").stdout == whole("distill", "--version").stdout


def test_help_needs_no_pytorch_and_is_what_the_settings_say():
    from sastc.cli import COMMANDS, shipped_help
    from sastc.cli.commands import command_help

    for name in COMMANDS:
        made = command_help(name), command_help(name, everything=True)
        assert tuple(shipped_help([name, flag]) for flag in ("-h", "--help-all")) == made, "python .ci/help.py writes it"
    assert not shipped_help(["distill", "--help-all", "--method"])
    program = "import sys; from sastc.cli import main; main(['distill', '--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True).returncode == 0


@pytest.mark.parametrize(
    "typed, sentence",
    [
        (["distil"], "command: expected one of"),
        (["distill", "--epoch", "3"], "--epoch: expected an option of this command (did you mean --epochs?)"),
        (["distill", "--epochs"], "epochs: expected a value, got none"),
        (["distill", "--epochs", "many"], "epochs: expected a whole number, got 'many'"),
        (["distill", "--no-augment=maybe"], "no_augment: expected true or false, got 'maybe'"),
        (["compare", "--seeds", "2-0"], "seeds: expected whole numbers such as 0,1,2 or 0-2, got '2-0'"),
        (["evaluate"], "run: expected one, got none"),
        (["evaluate", "nowhere"], "folder: expected the folder of a run"),
        (["layers", "vgg11", "--in-channels", 10**20], "in_channels: expected a whole number from 0 to 2147483647"),
        (["distill", *STUDENT, "--method", "baseline", "--image-size", 10**20], "image_size: expected a whole number below 2**63"),
        (["layers", "vgg11", "--image-size", "-1"], "image_size: expected a whole number from 0 to 10000, got -1"),
        (["layers", "a file"], "checkpoint: expected a file with weights, written by sastc, got a file, which is none"),
        (["layers", ""], "network: expected one of"),
        (["distill", "--method", "baseline", "--data", "digits", "--folder", "a file/run"], "folder: expected a folder, got 'a file', which is a file"),
    ],
)
def test_a_slip_is_answered_in_one_line(typed, sentence, tmp_path):
    (tmp_path / "a file").write_text("something else")
    assert sentence in refused(*typed, cwd=tmp_path)


def test_layers_are_those_for_images_of_the_size_that_is_asked_for():
    assert "VGG11 for images of 3x64x64" in whole("layers", "vgg11", "--image-size", "64").stdout


def test_a_size_that_no_memory_holds_is_a_sentence(tmp_path):
    done = sastc("distill", *STUDENT, "--method", "baseline", "--image-size", "99999999", "--dry-run", cwd=tmp_path)
    assert done.returncode == 1 and "memory: expected sizes that fit into it" in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_dashes_spaces_and_ranges_are_understood(teacher, tmp_path):
    typed = ["--methods", "baseline,", "kd", "--seeds", "0,", "1,", "4-5", "--train-images", "128", "--teacher", teacher, "--data", "digits"]
    done = whole("compare", *typed, "--dry-run", "--folder", "out", cwd=tmp_path)
    assert [line.split(":")[0] for line in done.stderr.splitlines()[3:]] == [
        f"out/{method}-seed{seed}" for seed in (0, 1, 4, 5) for method in ("baseline", "kd")
    ]


def test_the_tab_key_completes_options():
    lines = whole("completion").stdout
    ask = f'{lines}\nCOMP_WORDS=(sastc distill --time); COMP_CWORD=2; _sastc; echo "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True)
    assert done.stdout.split() == ["--time_steps"], done


# ---- 10: what is said meanwhile ----


def test_a_log_gets_a_line_an_epoch_and_quiet_gets_none(tmp_path):
    given = ["distill", *STUDENT, "--method", "baseline", "epochs=3"]
    done = whole(*given, "--folder", tmp_path / "a")
    lines = done.stderr.splitlines()
    assert [line.split(":")[0] for line in lines] == ["training", "on", "in", "epoch 1 of 3", "epoch 2 of 3", "epoch 3 of 3"], lines
    assert "sastc report" in lines[2] and done.stdout.count("\n") == 1 and "next: sastc evaluate" in done.stdout
    done = whole(*given, "--folder", tmp_path / "b", "--quiet")
    assert not done.stderr and "test accuracy" in done.stdout
    done = whole(*given, "--folder", tmp_path / "c", "-v")
    assert "lr: 0.02" in done.stderr and "step 2 of" in done.stderr


# ---- 11: going on ----


def test_a_finished_run_trains_longer_and_auto_resumes(tmp_path):
    given = [*STUDENT, "--method", "baseline", "--folder", tmp_path / "run", "--schedule", "cosine"]
    whole("distill", *given, "--resume", "auto")
    assert Run(tmp_path / "run").status["epoch"] == 1
    short = Run(tmp_path / "run").result
    whole("distill", *given, "--resume", "auto", "epochs=3")
    run = Run(tmp_path / "run")
    assert run.environment["earlier"][0]["result"] == short and "result" not in run.environment
    assert "folder: expected the run of a teacher to resume, got that of a student" in refused("teacher", "--resume", "--folder", tmp_path / "run")
    assert run.metrics.epoch.tolist() == [1, 2, 3] and run.config["epochs"] == 3 and run.state == "finished"
    assert len(run.environment["earlier"]) == 1 and run.metrics.lr.iloc[1] > run.metrics.lr.iloc[0]  # the schedule is that of three epochs
    assert "lr: expected 0.02, with which the run" in refused("distill", "--resume", "--folder", tmp_path / "run", "lr=0.5")
    assert "epochs: expected 3" in refused("distill", "--resume", "--folder", tmp_path / "run", "epochs=2")


def test_more_epochs_than_were_wanted_can_be_taken_back(tmp_path):
    place = tmp_path / "run"
    process = started("distill", *STUDENT[:-1], "9", "--method", "baseline", "--schedule", "cosine", "--folder", place, ending=at_step(8, signal.SIGTERM))
    assert process.communicate(timeout=600) and process.returncode == 143 and (Run(place).status["epoch"], Run(place).status["steps"]) == (1, 63)
    assert "epochs: expected 9, with which the run" in refused("distill", "--resume", "--folder", place, "epochs=1")
    sentence = "2 epochs in place of 9: the learning rate goes from 0.0192 to 0.00777, where the schedule cosine of 2 epochs stands after 1.143"
    assert sentence in whole("distill", "--resume", "--folder", place, "epochs=2").stderr
    run = Run(place)
    assert (run.state, run.config["epochs"], run.metrics.epoch.tolist()) == ("finished", 2, [1, 2]) and run.checkpoint("last")["step"] == 14


def test_what_has_ended_stays_ended_in_a_run_that_is_trained_longer(teacher, tmp_path):
    early = ["--method", "routed", "--weight_schedule", "early", "--calibrate_until", "0.5", "--schedule", "cosine", "--log_every", "1", "--teacher", teacher]
    place = tmp_path / "run"
    whole("distill", *STUDENT, *early, "--folder", place)
    steps = len(Run(place).steps)
    assert Run(place).steps.calibration.notna().sum() == steps // 2 + steps % 2
    sentence = "8 epochs in place of 1: the learning rate goes from 0 to 0.0192, where the schedule cosine of 8 epochs stands after 1"
    dry = whole("distill", "--folder", place, "--resume", "epochs=8", "--dry-run")
    assert sentence in dry.stderr and Run(place).config["epochs"] == 1
    said = whole("distill", "--folder", place, "--resume", "epochs=8").stderr
    assert sentence in said and said.index(sentence) < said.index("epoch 2 of 8")
    longer = Run(place).steps
    assert len(longer) == 8 * steps and longer.calibration.notna().sum() == steps // 2 + steps % 2  # the same as before
    assert longer.lr.iloc[steps] > 0.015 and longer.lr.iloc[-1] < 1e-5
    assert Run(place).checkpoint("last")["share"] == 1


def test_a_run_that_was_stopped_early_and_is_trained_longer_goes_on_with_what_has_not_ended(teacher, tmp_path):
    place, early = tmp_path / "run", ["--method", "routed", "--weight_schedule", "early", "--calibrate_until", "0.5", "--teacher", teacher]
    process = started("distill", *STUDENT[:-1], "40", *early, "--folder", place, ending=at_step(20, signal.SIGTERM))
    said = process.communicate(timeout=600)[1]
    assert process.returncode == 143 and Run(place).status["step"] == 20 < 0.4 * Run(place).status["steps"], said
    whole("distill", "--folder", place, "--resume", "epochs=41")
    run = Run(place)
    last = run.steps.index[run.steps.calibration.notna()].max()
    assert last / run.status["steps"] == pytest.approx(0.5, abs=0.02)


def test_training_begins_with_given_weights(student, tmp_path):
    given = [*STUDENT, "--method", "baseline", "--lr", "0", "--folder", tmp_path / "warm"]
    whole("distill", *given, "--init", student)
    warm, first = (Run(place).checkpoint("best")["model"] for place in (tmp_path / "warm", student))
    assert torch.equal(warm["layer1.0.weight"], first["layer1.0.weight"]) and Run(tmp_path / "warm").content("origins")["init"]["checksum"]
    assert "init: expected weights of the network that is trained" in refused("distill", *given, "--quiet", "--overwrite", "--init", student, "width=0.125")


def test_a_run_is_not_overwritten_by_what_learns_from_it(teacher):
    before = contents(teacher)
    assert "folder: expected another one than that of the teacher" in refused(
        "distill", *STUDENT, "--teacher", teacher, "--folder", teacher, "--method", "kd", "--overwrite"
    )
    assert contents(teacher) == before


def test_python_resumes_and_overwrites_alike(tmp_path):
    given = dict(data="digits", train_images=128, batch_size=16, width=0.0625, method="baseline", device="cpu", folder=str(tmp_path / "run"))
    assert distill(**given, epochs=1, resume="auto").state == "finished"
    assert distill(**given, epochs=2, resume="auto").status["epoch"] == 2
    assert distill(**given, epochs=1, overwrite=True).status["epoch"] == 1
    with pytest.raises(ValueError, match="resume: expected True, False or 'auto', got 'maybe'"):
        distill(**given, resume="maybe")


@pytest.mark.parametrize("columns, named", [(40, False), (80, False), (200, True)])
def test_a_bar_shows_the_time_left_and_the_loss_in_any_width(columns, named, tmp_path):
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: value for name, value in QUIET.items() if name not in ("COLUMNS", "LINES")}
    given = [*STUDENT, "--method", "baseline", "--epochs", "8", "--folder", tmp_path / "run"]
    process = subprocess.Popen([*PROGRAM, "distill", *map(str, given)], stdout=subprocess.DEVNULL, stderr=theirs, env=environment)
    os.close(theirs)
    said = read_all(ours)
    assert process.wait(timeout=300) == 0
    bars = [bar for bar in re.split(r"[\r\n]+", said) if re.search(r"\d+%.* loss=", bar)]
    assert bars and max(map(len, bars)) <= columns
    assert all(re.search(r"(left|<[\d:?]+).*, epoch=\d, loss=\d\.\d{3}", bar) for bar in bars), bars[-1]
    assert all(bar.startswith("digits-vgg11-T2-baseline-seed1000: ") == named for bar in bars), bars[-1]


def read_all(terminal) -> str:
    said = b""
    with contextlib.suppress(OSError):  # the other end is closed
        while some := os.read(terminal, 65536):
            said += some
    return said.decode()


def test_a_terminal_gets_a_bar_unless_tqdm_is_disabled(student):
    for disabled, drawn in (("", True), ("1", False)):
        ours, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))  # a bar in a terminal without columns is empty
        environment = QUIET | (dict(TQDM_DISABLE=disabled) if disabled else {})
        process = subprocess.Popen([*PROGRAM, "evaluate", str(student)], stdout=subprocess.PIPE, stderr=theirs, env=environment)
        os.close(theirs)
        process.communicate(timeout=300)
        said = b""
        try:
            while chunk := os.read(ours, 65536):
                said += chunk
        except OSError:  # the end, on Linux
            pass
        os.close(ours)
        assert (b"evaluating" in said) is drawn


def test_the_folder_in_which_frames_are_kept_is_named():
    from sastc.cli.training import banner
    from sastc.training.config import Config, settings_for

    assert "frames are kept in events/frames" in banner(settings_for(Config, dict(data="nmnist", root="events")))[1]


def test_a_page_names_what_it_leaves_out_and_an_explanation_does_without_lost_weights(student, tmp_path):
    for name in ("whole", "damaged", "light"):
        shutil.copytree(student, tmp_path / name)
    (tmp_path / "damaged" / "config.json").write_text('{"kind": "stu')
    shutil.rmtree(tmp_path / "light" / "checkpoints")
    done = whole("report", tmp_path, "--json")
    assert "damaged/config.json: damaged" in done.stderr and "this run is left out" in json.loads(done.stdout)["left_out"][0]
    whole("explain", tmp_path, "--images", "8")
    assert "its weights are gone (there is no checkpoints/best.pt); this run is left out" in (tmp_path / "explain.html").read_text()


def test_many_runs_stay_a_page_that_is_read(student, tmp_path):
    for seed in range(60):
        place = tmp_path / f"kd-seed{seed}"
        shutil.copytree(student, place, ignore=shutil.ignore_patterns("*.pt"))
        config = json.loads((place / "config.json").read_text())
        config["settings"]["seed"] = seed
        (place / "config.json").write_text(json.dumps(config))
    page = Path(whole("report", tmp_path).stdout.strip()).read_text()
    assert "<details><summary>Runs</summary>" in page and page.count("Plotly.newPlot(") < 10 and page.count("<td>60</td>") == 1


# ---- what a demanding user types ----


@pytest.fixture(scope="module")
def answers():
    "Sentences of commands that are refused before anything is trained, all from one process, since PyTorch takes seconds to load."

    def asked(place, *typed):
        program = "import contextlib, io, json, sys\nfrom sastc.cli import main\nfound = []\n"
        program += "for typed in json.loads(sys.argv[1]):\n    out, err = io.StringIO(), io.StringIO()\n"
        program += "    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):\n        try:\n            status = main(typed)\n"
        program += "        except SystemExit as end:\n            status = end.code\n    found.append((status, out.getvalue(), err.getvalue()))\n"
        program += "print(json.dumps(found))"
        process = Program(program, [json.dumps([[str(word) for word in words] for words in typed])], place, QUIET)
        said, faults = process.communicate()
        assert process.returncode == 0, faults
        return json.loads(said)

    return asked


FILES = {
    "lr: 1\nlr: 2": "'lr' stands there twice",
    "": "which holds nothing",
    "- a": "which holds a list",
    "optimisation.lr: 0.5": "setting: expected a setting of this run (did you mean 'lr'?), got 'optimisation.lr'",
    "method: kd\nbeta: 3": "beta: expected only with method feature_kd, sastc",
    "data: [digits]": "data: expected a name, a class or an object of yours, got ['digits']",
    "small: 1": "small: expected true or false, got 1",
}


def test_what_stands_in_a_file_has_an_effect_or_is_refused(answers, tmp_path):
    for number, text in enumerate([*FILES, "train-images: 100\noptimisation.optimizer.lr: 0.5\nmethod: baseline"]):
        (tmp_path / f"{number}.yaml").write_text(text)
    (tmp_path / "many.yaml").write_text("methods: [baseline, kd]\nseeds: 3\nalpha: 0.5\n")
    (tmp_path / "wrong.yaml").write_text("seeds: {a: 1}\n")
    asked = [["distill", "--config", f"{number}.yaml", "--print-config", "--json"] for number in range(len(FILES) + 1)]
    *refusals, taken = answers(tmp_path, *asked)
    for (status, _, said), sentence in zip(refusals, FILES.values(), strict=True):
        assert status == 2 and sentence in said, (sentence, said)
    settings = json.loads(taken[1])["settings"]
    assert (settings["train_images"], settings["lr"]) == (100, 0.5)
    many, wrong, other = answers(
        tmp_path,
        *([["compare", "--config", file, "--print-config", "--json"] for file in ("many.yaml", "wrong.yaml")]),
        ["distill", "--config", "many.yaml", "--method", "kd"],
    )
    assert json.loads(many[1])["seeds"] == [3] and json.loads(many[1])["settings"]["alpha"] == 0.5
    assert "seeds: expected a text, a number or a list, got {'a': 1}" in wrong[2] and "got 'methods'" in other[2]


def test_one_seed_or_method_in_a_file_is_not_dropped_by_what_takes_lists(answers, student, tmp_path):
    (tmp_path / "kd.yaml").write_text("method: kd\ndata: digits\n")
    (tmp_path / "three.yaml").write_text("seed: 3\nlabel_noise: 0.2\n")
    refusals = {
        ("compare", "--config", "kd.yaml", "--dry-run"): "method: expected --methods beside --config kd.yaml, which names one method, 'kd', got none",
        ("compare", "--config", "three.yaml"): "seed: expected --seeds beside --config three.yaml, which names one seed, 3, got none",
        ("compare", "--config", student, "--methods", "kd", "--dry-run"): "seed: expected --seeds beside --config",
        ("study", "few_shot", "--config", "kd.yaml"): "method: expected --methods beside",
        ("study", "sensitivity", "--config", "three.yaml"): "seed: expected --seeds beside",
        ("study", "noisy_labels", "--config", "three.yaml", "--seeds", "3"): "label_noise: expected --noise beside",
    }
    for (status, said, error), sentence in zip(answers(tmp_path, *refusals), refusals.values(), strict=True):
        assert status == 2 and not said and sentence in error and error.count("\n") == 1, error
    taken = [["compare", "--config", "kd.yaml", "--methods", "kd,sastc"], ["compare", "--config", student, "--methods", "kd", "--seeds", "0"]]
    taken += [["study", "sensitivity", "--config", "kd.yaml"], ["study", "noisy_labels", "--config", student, "--methods", "kd", "--seeds", "0"]]
    found = [json.loads(said) for _, said, _ in answers(tmp_path, *([*words, "--print-config", "--json"] for words in taken))]
    assert found[0]["methods"] == ["kd", "sastc"] and found[1]["seeds"] == [0] and found[2]["settings"]["method"] == "kd" and found[3]["methods"] == ["kd"]


def test_places_may_begin_with_the_home_folder_or_a_variable(answers, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setitem(QUIET, "HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "a.yaml").write_text("folder: ~/runs/a\nmethod: baseline\n")
    (tmp_path / "b.yaml").write_text("teacher: $NO_SUCH_VARIABLE/t\n")
    (tmp_path / "c.yaml").write_text("folder: ${HOME}/c\n")
    show = ["--print-config", "--json"]
    typed, filed, lost, many, page = answers(
        tmp_path,
        ["distill", "--method=baseline", "--folder=~/runs/b", *show],
        ["distill", "--config=~/../a.yaml", *show],
        ["distill", "--config", "b.yaml", *show],
        ["compare", "--config", "c.yaml", "--data", "digits", "--methods", "baseline", "--seeds", "0", "--epochs", "1", "--dry-run"],
        ["report", "--out=~/x.html", "nothing"],
    )
    assert [json.loads(each[1])["settings"]["folder"] for each in (typed, filed)] == [str(tmp_path / "home" / "runs" / name) for name in "ba"]
    assert lost[0] == 2 and "teacher: expected a path, got '$NO_SUCH_VARIABLE/t', whose variable is not set" in lost[2]
    assert f"in: {tmp_path / 'home' / 'c'};" in many[2] and page[0] == 2 and not (tmp_path / "~").exists()


def test_places_in_python_may_begin_with_the_home_folder_too(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(Path(__file__).parent.parent / "nbs" / "results" / "cifar10_core" / "kd-seed0", tmp_path / "runs" / "kd")
    assert Run("~/runs/kd").result and find_jobs("~/runs")[0].folder == tmp_path / "runs" / "kd" and len(summarise("$HOME/runs")) == 1
    assert write_report(Path("~/runs"), "~/page.html") == tmp_path / "page.html" and LaunchPanel("~/runs").runs == tmp_path / "runs"
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        load_model("~/runs/kd")  # whose weights are not kept here
    assert not (tmp_path / "~").exists()


def test_the_printed_settings_of_a_grid_are_those_of_the_grid(answers, tmp_path):
    [printed] = answers(tmp_path, ["study", "grid", "--print-config"])
    (tmp_path / "grid.yaml").write_text(printed[1])
    [again] = answers(tmp_path, ["study", "grid", "--config", "grid.yaml", "--print-config"])
    assert again == printed and "candidates:" not in printed[1]


def test_slips_are_answered_about_what_was_typed(answers, teacher, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"format": 1, "spec": {}}')
    slips = {
        ("distill", "--student", "vgg12"): "student: expected one of vgg11",
        ("teacher", "--model", "wrn99"): "model: expected one of vgg11",
        ("teacher", "--student", "vgg11"): "--student: expected an option of this command; sastc teacher --help lists them",
        ("distill", "--init", "nowhere", "--method", "baseline", "--data", "digits"): "init: expected a run folder or a checkpoint file, got nowhere",
        ("distill", "--folder", "x", "--resume", "often"): "resume: expected one of yes, auto, got 'often'",
        ("distill", "--folder", "x", "--resume", "--small"): "small: expected only together with --recipe",
        ("report", teacher, "--out", "/proc/page.html"): "file: expected one that can be read or written, got '/proc/page.html'",
        ("study", "noisy_labels", "--noise", "a,b", "--data", "digits"): "noise: expected numbers separated by commas, got 'a,b'",
        ("export", teacher, "--to", "keras"): "to: expected one of nir, torch, onnx, model, got 'keras'",
        ("distill", "data=digits", "extra"): "arguments: expected options, got 'extra' as well; sastc distill --help lists them",
        ("evaluate", "one", "two"): "arguments: expected one RUN and options, got 'two' as well",
        ("evaluate", teacher.parent): f"(there is no config.json in it, but in {teacher}, for one)",
        ("study", "noisy"): "(did you mean 'noisy_labels'?)",
        ("evaluate", "model"): "config.json: damaged (expected kind and settings of a run, got format, spec)",
    }
    for (status, said, error), sentence in zip(answers(tmp_path, *slips), slips.values(), strict=True):
        assert status == 2 and not said and sentence in error and error.count("\n") == 1, error


def test_a_run_in_a_run_or_around_runs_is_refused(answers, student, tmp_path):
    given = ["distill", *TINY, "--method", "baseline", "--dry-run", "--folder"]
    inside, around = answers(tmp_path, [*given, student / "inner"], [*given, student.parent])
    assert inside[0] == 2 and "which lies in the run" in inside[2] and not (student / "inner").exists()
    assert around[0] == 2 and "expected one for this run alone" in around[2] and "which holds another run, kd" in around[2]


def test_a_setting_may_follow_resume_at_once(tmp_path):
    given = [*STUDENT, "--method", "baseline", "--folder", tmp_path / "run"]
    whole("distill", *given)
    whole("distill", "--folder", tmp_path / "run", "--resume", "epochs=2")
    assert Run(tmp_path / "run").status["epoch"] == 2


def test_a_closed_terminal_stops_a_run_with_a_checkpoint_unless_it_was_started_with_nohup(tmp_path):
    wanted = ["distill", *STUDENT, "--epochs", "500", "--method", "baseline", "--folder"]
    place, process = tmp_path / "run", os.fork()
    if not process:  # the leader of a session of its own, whose terminal will be closed
        os.setsid()
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may have been started with nohup
        os.execvpe(sys.executable, [sys.executable, "-c", TERMINAL, *PROGRAM, *map(str, [*wanted, place])], QUIET)
    os.waitpid(process, 0)
    deadline = time.monotonic() + 120
    while Run(place).status.get("state") == "running" and time.monotonic() < deadline:
        time.sleep(0.1)
    assert Run(place).state == "stopped" and Run(place).status["signal"] == "SIGHUP" and (place / "checkpoints" / "last.pt").exists()
    place = tmp_path / "kept"
    nohup = subprocess.Popen(["nohup", *PROGRAM, *map(str, [*wanted, place])], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=QUIET)
    after_steps(nohup, place, 4).send_signal(signal.SIGHUP)
    after_steps(nohup, place, 12).send_signal(signal.SIGTERM)
    assert nohup.wait(300) == 143 and Run(place).status["signal"] == "SIGTERM"


TERMINAL = """
import fcntl, os, subprocess, sys, termios, time
from pathlib import Path
ours, theirs = os.openpty()
fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)
process = subprocess.Popen(sys.argv[1:], stdin=theirs, stdout=theirs, stderr=theirs, process_group=0)
steps = Path(sys.argv[-1]) / "steps.jsonl"
os.set_blocking(ours, False)
while process.poll() is None and not (steps.exists() and steps.read_bytes().count(b"\\n") > 5 and (steps.parent / "checkpoints" / "last.pt").exists()):
    time.sleep(0.05)
    try:
        os.read(ours, 65536)
    except OSError:
        pass
os.close(theirs)
os.killpg(process.pid, 1)
os.close(ours)
"""


def test_a_stop_during_the_test_of_a_run_ends_the_comparison(teacher, tmp_path):
    wanted = ["compare", *STUDENT, "--teacher", teacher, "--methods", "baseline,kd", "--seeds", "0", "--folder", tmp_path]
    process = started(*wanted, ending=in_the_test(signal.SIGINT))
    said = process.communicate(timeout=600)[1]
    assert process.returncode == 130 and "which is finished; called again, it continues with the next run" in said
    assert Run(tmp_path / "baseline-seed0").state == "finished" and not (tmp_path / "kd-seed0").exists()
    whole(*wanted)


def test_answers_reach_terminals_without_our_letters_and_errors_of_output_are_said(student, tmp_path):
    ascii = dict(PYTHONIOENCODING="ascii", LC_ALL="C")
    assert " uJ for one image" in whole("evaluate", student, **ascii).stdout
    for typed in (["--help"], ["distill", "--help"], ["--version"]):
        with open("/dev/full", "w") as full:
            done = subprocess.run([*PROGRAM, *typed], stdout=full, stderr=subprocess.PIPE, text=True, env=QUIET)
        assert done.returncode == 1 and done.stderr.startswith("sastc: output: ") and done.stderr.count("\n") == 1, done.stderr


def test_a_run_goes_on_when_nobody_reads_its_lines(tmp_path):
    command = " ".join([*map(repr, PROGRAM[:1]), "-c", '"$CODE"', "distill", *STUDENT, "--method baseline epochs=3 --folder run 2>&1 | head -1"])
    subprocess.run(["bash", "-c", command], cwd=tmp_path, env=QUIET | dict(CODE=PROGRAM[2]), capture_output=True, timeout=300)
    assert Run(tmp_path / "run").state == "finished"


def test_the_answer_is_all_that_standard_output_holds(student, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import sastc.training.opening as opening\nassess = opening.assess\n\n\ndef loud(*given, **named):\n    print('a library has something to say')\n    return assess(*given, **named)\n\n\nopening.assess = loud\n"
    )
    done = whole("evaluate", student, "--json", PYTHONPATH=os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", str(Path.cwd()))]))
    assert json.loads(done.stdout) and "a library has something to say" in done.stderr


def test_an_explanation_draws_no_bar_into_a_log(student, tmp_path):
    assert "it/s" not in whole("explain", student, "--images", "16", "--out", tmp_path / "page.html").stderr


# ---- what a busy researcher tried ----


def test_a_checkpoint_is_named_and_no_way_into_another_run(student, tmp_path):
    shutil.copytree(student, tmp_path / "one")
    shutil.copytree(student, tmp_path / "other")
    for given in (["evaluate", "one"], ["export", "one", "--to", "torch"]):
        assert "which: expected the name of a checkpoint, such as best, got '../../other" in refused(
            *given, "--which", "../../other/checkpoints/last", cwd=tmp_path
        )
    assert not list(tmp_path.rglob("*.pt2"))


def test_a_dry_run_excuses_a_download_and_nothing_else(tmp_path):
    (tmp_path / "empty").mkdir()
    for data, sentence in (
        ("./empty", "data: expected train/<class>/ and test/<class>/"),
        ("none.npz", "data: "),
        ("", "data: expected the name of a data set"),
    ):
        assert sentence in refused("distill", "--method", "baseline", "--data", data, "--dry-run", "--quiet", cwd=tmp_path)


def test_what_is_not_typed_beside_resume_auto_is_the_runs(tmp_path):
    whole("distill", *STUDENT, "--method", "baseline", "--folder", "run", cwd=tmp_path)
    longer = ["distill", "--folder", "run", "--resume", "auto", "--epochs"]
    assert "would be resumed" in whole(*longer, "3", "--dry-run", cwd=tmp_path).stdout
    whole(*longer, "3", cwd=tmp_path)
    assert (Run(tmp_path / "run").config["epochs"], Run(tmp_path / "run").config["data"]) == (3, "digits")


def test_settings_come_through_a_pipe_and_with_the_commands_options(tmp_path):
    printed = whole("distill", *STUDENT, "--method", "baseline", "--print-config", cwd=tmp_path).stdout
    typed = [*PROGRAM, "distill", "--config", "/dev/stdin", "--dry-run", "--print-config"]
    assert subprocess.run(typed, input=printed, capture_output=True, text=True, env=QUIET, cwd=tmp_path).stdout == printed
    (tmp_path / "own.yaml").write_text(printed + "resume: auto\noverwrite: false\ndry-run: yes\nquiet: true\n")
    done = whole("distill", "--config", "own.yaml", "--folder", "run", cwd=tmp_path)
    assert done.stdout == "would be trained: run\n" and not done.stderr and not (tmp_path / "run").exists()
    (tmp_path / "nested.yaml").write_text("config: own.yaml\n")
    assert "config: expected a file that names no other" in refused("distill", "--config", "nested.yaml", cwd=tmp_path)


def test_no_option_is_dropped_and_no_answer_lost(student):
    assert "num_classes: expected it for a network by name only" in refused("layers", student, "--num-classes", "77")
    assert "csv: expected an answer with a table" in refused("teacher", "--data", "digits", "--print-config", "--csv")
    with open("/dev/full", "w") as full:
        done = subprocess.run([*PROGRAM, "recipes"], stdout=full, stderr=subprocess.PIPE, text=True, env=QUIET)
    assert done.returncode == 1 and done.stderr.startswith("sastc: output: "), done.stderr
    closed = subprocess.run(["sh", "-c", f"{shlex.join([*PROGRAM, 'recipes'])} >&-"], stderr=subprocess.PIPE, text=True, env=QUIET)
    assert closed.returncode == 1 and "it is closed" in closed.stderr


def test_a_model_to_give_away_is_no_run_and_no_damaged_one(student, tmp_path):
    shutil.copytree(student, tmp_path / "runs" / "run")
    run = tmp_path / "runs" / "run"
    whole("export", run, "--to", "model", "--file", tmp_path / "runs" / "given")
    whole("export", run, "--to", "model")
    (tmp_path / "runs" / "theirs").mkdir()
    (tmp_path / "runs" / "theirs" / "config.json").write_text('{"architectures": ["ResNet"]}')
    for folder in (run, tmp_path / "runs"):
        assert json.loads(whole("report", folder, "--json").stdout)["left_out"] == []


def test_the_demo_checks_its_numbers_before_it_trains(tmp_path):
    for option, sentence in (
        ("--epochs", "epochs: expected a whole number of at least 1, got 0"),
        ("--seeds", "seeds: expected a whole number of at least 1, got 0"),
    ):
        assert sentence in refused("demo", option, "0", "--folder", tmp_path / "demo") and not (tmp_path / "demo").exists()
