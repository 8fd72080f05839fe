"""Every method under equal minutes; called again, it continues.

    python proof_runs.py costs FOLDER        processor time of a step of each method, in turns in one process
    python proof_runs.py breadth FOLDER      CIFAR-10, 10,000 images, the time of six KD epochs; weights chosen on held-out images
    python proof_runs.py same_epochs FOLDER DATA SEEDS [METHOD ...]        10,000 images, six epochs of each, whatever they cost; DATA: a name or an .npz file
    python proof_runs.py length FOLDER DATA MINUTES SEEDS [METHOD ...]     all images, for minutes of one thread
    python proof_runs.py table FOLDER        a row for each finished run, as CSV beside this script

Set OMP_NUM_THREADS=1. FOLDER holds teachers and runs; `data` is the folder with CIFAR. Minutes are counted on the step times of `costs`,
so that a busy machine favours no method."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from time import process_time
from typing import NamedTuple

import pandas as pd

from sastc import Run, distill, train_teacher
from sastc.methods import METHODS
from sastc.methods.routed import Routed
from sastc.models import candidates, create_model
from sastc.neurons.kernels import expecting
from sastc.studies.bench import Step, build_step, machine

HERE = Path(__file__).parent
BATCH, HELD_OUT = 64, 0.1
COMMON = dict(batch_size=BATCH, schedule="cosine", warmup=1.0, precision="bf16", log_every=50)
STUDENT = dict(student="vgg11", width=0.25, time_steps=2, lr=0.05)
TEACHER, TEACHER_EPOCHS = "wrn16_2", 32  # an hour of one thread, 0.14 s a step
STEPS = 50_000 // BATCH  # of an epoch; a tenth of the images is held out, and what is left of the time pays for evaluating them
SCALES = (1 / 3, 1.0, 3.0)
RUN = ["part", "method", "number", "seed"]  # what names a row


class Arm(NamedTuple):
    "A method of the comparison."

    settings: Mapping
    weights: Mapping[str, tuple] = {}  # three values for each setting that is chosen on held-out images


def scaled(**weights: float) -> dict[str, tuple]:
    "Three values around each weight."
    return {name: tuple(weight * scale for scale in SCALES) for name, weight in weights.items()}


def arms() -> dict[str, Arm]:
    "Every method, with the weights that are tried. Feature KD compares the middle layers, others the last."
    middle = [names[len(names) // 2] for names in (candidates(create_model(name)) for name in ("vgg11", TEACHER))]
    pair = dict(zip(("student_layer", "teacher_layer"), middle))
    beta = scaled(beta=100.0)
    return dict(
        baseline=Arm(dict(method="baseline")),
        kd=Arm(dict(method="kd"), scaled(alpha=1.0)),
        feature_kd=Arm(dict(method="feature_kd", **pair), beta),
        sastc=Arm(dict(method="sastc"), beta),
        uniform=Arm(dict(method="uniform"), beta),
        rsa=Arm(dict(method="rsa"), beta),
        routed=Arm(dict(method="routed"), beta),
        routed_depth=Arm(dict(method="routed", route="depth"), beta),
        routed_code=Arm(dict(method="routed", projection="code"), beta),
        routed_auto=Arm(dict(method="routed", projection="auto"), beta),
        tet=Arm(dict(method="tet"), dict(tet_lambda=(0.0, 1e-3, 5e-2))),
        twd=Arm(dict(method="twd"), scaled(twd_alpha=0.2, twd_beta=0.5)),
        tser=Arm(dict(method="tser"), dict(tser_alpha=(0.25, 0.5, 0.75))),
        s2w=Arm(dict(method="s2w"), scaled(pair_weight=1.0)),
        w2s=Arm(dict(method="w2s"), scaled(pair_weight=1.0)),
        tks=Arm(dict(method="tks"), dict(tks_alpha=(0.35, 0.7, 0.9))),
        sp=Arm(dict(method="sp"), scaled(sp_weight=3000.0)),
        rkd=Arm(dict(method="rkd"), scaled(rkd_distance=25.0, rkd_angle=50.0)),
        dkd=Arm(dict(method="dkd"), dict(dkd_target=(1 / 3, 1.0, 1 / 8), dkd_others=(8 / 3, 8.0, 1.0))),  # the default diverges
        dist=Arm(dict(method="dist"), scaled(dist_inter=2.0, dist_intra=2.0)),
        hta_kl=Arm(dict(method="hta_kl"), scaled(hta_weight=1.0)),
        bkdsnn=Arm(dict(method="bkdsnn"), scaled(bkd_weight=2e-3)),
        ckdsnn=Arm(dict(method="ckdsnn"), scaled(samd_weight=1.0, nld_weight=1.0)),
        routed_twd=Arm(dict(method="routed+twd"), beta),
        routed_early=Arm(dict(method="routed", weight_schedule="early"), beta),
        routed_half=Arm(dict(method="routed", weight_schedule="early", calibrate_until=0.5), beta),
        routed_fade=Arm(dict(method="routed", weight_schedule="cosine", calibrate_until=1.0), beta),
        routed_then_labels=Arm(dict(method="routed", teacher_until=0.25), beta),
        kd_then_labels=Arm(dict(method="kd", teacher_until=0.25), scaled(alpha=1.0)),
    )


def costs(folder: Path) -> dict:
    "Seconds of a training step of each method, median of turns; a method that is new is measured beside KD, in whose seconds the others were taken."
    file = folder / "costs.json"
    found = json.loads(file.read_text()) if file.exists() else dict(machine=machine(), seconds={})
    constant = {name: arm.settings for name, arm in arms().items() if not {"weight_schedule", "teacher_until"} & arm.settings.keys()}
    if new := [name for name in constant if name not in found["seconds"]]:
        with expecting(10**12):  # neurons are compiled from the start, as in a long run
            measured = thread_seconds({name: training_step(constant[name]) for name in {*new, "kd"}}, 15)
        scale = found["seconds"].get("kd", measured["kd"]) / measured["kd"]
        found["seconds"] |= {name: measured[name] * scale for name in new}
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found, indent=1))
    return found


def training_step(settings: Mapping) -> Callable:
    return build_step(Step(teacher=TEACHER, method=settings["method"], options=without_method(settings)))


def step_seconds(folder: Path) -> dict:
    "Mean seconds of a step over a training: what ends early costs nothing from then on."
    seconds = costs(folder)["seconds"]
    for name, settings in {name: arm.settings for name, arm in arms().items() if name not in seconds}.items():
        whole, then, until = seconds[settings["method"]], seconds["kd"], settings.get("calibrate_until", Routed().calibrate_until)
        if "teacher_until" in settings:
            then, until = seconds["baseline"], settings["teacher_until"]
        seconds |= {name: then + until * (whole - then)}
    return seconds


def thread_seconds(calls: Mapping, rounds: int) -> dict:
    "Median processor time of a call, in turns: what one thread needs, whoever else wants the processor."
    seconds = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            call()
            began = process_time()
            call()
            if turn:  # the first turn does not count
                seconds[name].append(process_time() - began)
    return {name: median(times) for name, times in seconds.items()}


def without_method(settings: Mapping) -> dict:
    return {name: value for name, value in settings.items() if name != "method"}


def go_on(train, place: Path, **settings) -> Run:
    "Train a run to its end, which for weights that are too large is that the loss is no number."
    if not (place / "config.json").exists() or Run(place).state not in ("finished", "failed"):
        with suppress(ArithmeticError):
            train(folder=place, resume="auto", **settings)
    run = Run(place)
    if run.state not in ("finished", "failed"):
        sys.exit(f"{place}: {run.state}")
    return run


def student(name: str, number: int, seed: int, place: Path, teacher: Run, epochs: int, **settings) -> Run:
    "A run of a method with one of its weights."
    arm = arms()[name]
    weights = {setting: values[number] for setting, values in arm.weights.items()}
    settings = dict(arm.settings, epochs=epochs, seed=seed, teacher=str(teacher.folder), **weights, **STUDENT, **settings)
    if not METHODS.find(settings["method"]).uses_teacher:
        settings.pop("teacher")
    return go_on(distill, place / f"{name}-{number}-seed{seed}", **settings)


def validation(run: Run) -> float:
    "Share of the held-out images that are right after the last epoch; 0 if the run failed."
    return run.metrics.validation_accuracy.iloc[-1] if run.state == "finished" else 0.0


def short(folder: Path, teacher: Run, data: str, names: Sequence[str]) -> dict[str, int]:
    "The best of each method's weights in the time of six KD epochs, by held-out images; the defaults are tried first."
    made, tried = arms(), {name: {} for name in names}
    for number in (1, 0, 2):
        for name in names:
            if number < len(next(iter(made[name].weights.values()), [0])):
                tried[name][number] = shortly(folder, teacher, data, name, number, seed=0)
    return {name: max(runs, key=lambda number: validation(runs[number])) for name, runs in tried.items()}


def shortly(folder: Path, teacher: Run, data: str, name: str, number: int, seed: int) -> Run:
    "A run of the time of six KD epochs on few images."
    seconds = step_seconds(folder)
    epochs = max(1, round(6 * seconds["kd"] / seconds[name]))
    return student(name, number, seed, folder / f"short-{Path(data).stem}", teacher, epochs, **few(data))


def few(data: str) -> dict:
    return dict(whole(data), train_images=10_000, holdout=HELD_OUT)


def whole(data: str) -> dict:
    return dict(COMMON, data=data) | ({} if data.endswith(".npz") else dict(root="data"))


def breadth(folder: Path) -> None:
    "Each method in the time of six KD epochs, three weights with seed 0; then the best five methods with seeds 1 and 2."
    teacher = go_on(train_teacher, folder / "teacher-cifar10-10000", model=TEACHER, epochs=20, lr=0.1, seed=0, **few("cifar10"))
    best = short(folder, teacher, "cifar10", list(arms()))
    ranked = sorted(best, key=lambda name: -validation(shortly(folder, teacher, "cifar10", name, best[name], seed=0)))
    for seed in (1, 2):
        for name in ranked[:5]:
            shortly(folder, teacher, "cifar10", name, best[name], seed)


def teacher_of(folder: Path, data: str) -> Run:
    "The teacher of the long runs, which has seen all images."
    return go_on(train_teacher, folder / f"teacher-{Path(data).stem}", model=TEACHER, epochs=TEACHER_EPOCHS, lr=0.1, seed=0, **whole(data))


def same_epochs(folder: Path, data: str, seeds: str, *names: str) -> None:
    "Six epochs of each method; the weights are those that did best in a short run."
    teacher = teacher_of(folder, data)
    best = short(folder, teacher, data, names)
    for seed in range(int(seeds)):
        for name in names:
            student(name, best[name], seed, folder / f"6epochs-{Path(data).stem}", teacher, 6, **few(data))


def length(folder: Path, data: str, minutes: str, seeds: str, *names: str) -> None:
    "All training images for minutes of one thread; a METHOD with the weights that did best in a short run on held-out images, METHOD-0 to METHOD-2 with these."
    teacher = teacher_of(folder, data)
    seconds, best = step_seconds(folder), short(folder, teacher, data, [name for name in names if "-" not in name])
    best |= {name: int(number) for name, _, number in (name.partition("-") for name in names) if number}
    for seed in range(int(seeds)):
        for name, number in best.items():
            epochs = max(1, round(60 * float(minutes) / (seconds[name] * STEPS)))
            student(name, number, seed, folder / f"{minutes}min-{Path(data).stem}", teacher, epochs, **whole(data))


def measured(run: Run) -> dict:
    result, held_out = run.result, run.config["holdout"]
    accuracy = dict(validation=validation(run) if held_out else float("nan"), test_last=result["test_accuracy_last"], test_best=result["test_accuracy_best"])
    accuracy |= {f"test_step_{step}": value for step, value in enumerate(result.get("test_accuracy_last_by_step", ()), start=1)}
    cost = {name: round(result[name], digits) for name, digits in dict(firing_rate=4, microjoule=2).items() if name in result}  # of a spiking network
    return dict(state="finished") | {name: round(100 * value, 2) for name, value in accuracy.items()} | cost


def row(run: Run, seconds: Mapping) -> dict:
    "What a table says of a run."
    config, (name, number, _) = run.config, run.folder.name.rsplit("-", 2)
    images = round((config["train_images"] or 50_000) * (1 - config["holdout"]))  # that it learns from
    minutes = config["epochs"] * (images // BATCH) * seconds[name] / 60
    weights = "; ".join(f"{setting} {config[setting]:g}" for setting in arms()[name].weights)
    about = dict(part=run.folder.parent.name, data=Path(config["data"]).stem, images=images, minutes=round(minutes, 2), method=name, number=int(number))
    about |= dict(seed=config["seed"], epochs=config["epochs"], weights=weights)
    return about | (measured(run) if run.state == "finished" else dict(state="diverged"))


def table(folder: Path) -> None:
    """One row per ended run, beside this script; `chosen` are the weights that did best on held-out images, of so many `tried`. And one per epoch of these.

    What stands there of runs that FOLDER does not hold stays, so that several folders, one after another, fill one table."""
    seconds = step_seconds(folder)
    ended = [run for run in (Run(file.parent) for file in sorted(folder.glob("*/*/status.json"))) if run.state in ("finished", "failed")]
    rows = kept("runs.csv", pd.DataFrame([row(run, seconds) for run in ended]), RUN)
    first = rows[rows.seed == 0].sort_values("validation", na_position="first")
    best, tried = first.groupby(["part", "method"]).number.last(), first[first.part.str.startswith("short")].groupby(["data", "method"]).size()
    rows["chosen"] = rows.number.to_numpy() == best.reindex(zip(rows.part, rows.method)).to_numpy()
    rows["tried"] = tried.reindex(zip(rows.data, rows.method)).to_numpy()
    rows.to_csv(HERE / "runs.csv", index=False)
    curves = pd.concat([curve(run, row(run, seconds)) for run in ended if run.state == "finished"])
    curves = kept("curves.csv", curves, [*RUN, "minutes"]).merge(rows.loc[rows.chosen, RUN])
    curves.to_csv(HERE / "curves.csv", index=False)
    (HERE / "costs.json").write_text(json.dumps(costs(folder) | dict(seconds=seconds), indent=1))
    teachers = {place.name: run for place in sorted(folder.glob("teacher-*")) if (run := Run(place)).state == "finished"}
    learned = json.loads((HERE / "teachers.json").read_text()) | {name: dict(epochs=run.config["epochs"], **measured(run)) for name, run in teachers.items()}
    (HERE / "teachers.json").write_text(json.dumps(learned, indent=1))
    print(f"{len(rows)} runs; commit {subprocess.run(['git', 'rev-parse', 'HEAD'], capture_output=True, text=True).stdout.strip()}")


def kept(name: str, found: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    "A table beside this script with the rows that were found in place of those of the same keys."
    both = pd.concat([pd.read_csv(HERE / name), found])
    return both.drop_duplicates(keys, keep="last").sort_values(keys).reset_index(drop=True)


def curve(run: Run, about: Mapping) -> pd.DataFrame:
    "Accuracy on held-out images after each epoch, in percent, against minutes of steps."
    epochs, same = run.metrics.epoch, {name: about[name] for name in RUN}
    found = same | dict(minutes=(about["minutes"] * epochs / about["epochs"]).round(2))
    return pd.DataFrame(found | dict(validation=(100 * run.metrics.validation_accuracy).round(2)))


if __name__ == "__main__":
    what, place, *arguments = sys.argv[1:]
    dict(costs=costs, breadth=breadth, same_epochs=same_epochs, length=length, table=table)[what](Path(place), *arguments)
