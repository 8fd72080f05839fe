"""Routed calibration beside KD, RSA, the published method and controls of the route; called again it continues.

    python routed_runs.py FOLDER

FOLDER gets a run folder for each method and seed, and for the teacher. The records beside this file are those of the first runs (one
thread of an AMD EPYC, which other work kept busy, so their minutes compare nothing)."""

import sys
from pathlib import Path

from sastc import Run, distill, train_teacher

SHARED = dict(data="cifar10", root="data", train_images=10_000, schedule="cosine", warmup=1.0, precision="bf16", log_every=14)
METHODS = {
    "routed": dict(method="routed", beta=100),
    "kd": dict(method="kd"),
    "routed-auto": dict(method="routed", beta=100, projection="auto"),
    "routed-code": dict(method="routed", beta=100, projection="code"),
    "routed-depth": dict(method="routed", beta=100, route="depth", projection="code"),
    "routed-reversed": dict(method="routed", beta=100, route="reversed", projection="code"),
    "rsa": dict(method="rsa", beta=100),
    "routed-first": dict(method="routed", beta=100, route="first", projection="code"),
    "routed-random": dict(method="routed", beta=100, route="random", projection="code"),
    "sastc": dict(method="sastc", beta=100),
    "routed-2": dict(method="routed", beta=100, routes=2, projection="code"),
    "baseline": dict(method="baseline"),
    "routed-early": dict(method="routed", beta=100, projection="code", weight_schedule="early", calibrate_until=0.5),
}


def go_on(train, place: Path, **settings) -> None:
    "Train a run that is not finished."
    begun = (place / "config.json").exists()
    if not begun or Run(place).state != "finished":
        run = train(folder=place, resume=True) if begun else train(folder=place, **settings)
        if run.state != "finished":
            sys.exit(f"{place}: {run.state}")


if __name__ == "__main__":
    here = Path(sys.argv[1])
    go_on(train_teacher, here / "teacher", model="wrn16_2", epochs=20, lr=0.1, seed=0, **SHARED)
    student = dict(student="vgg11", width=0.25, time_steps=2, epochs=6, lr=0.05, teacher=str(here / "teacher"), **SHARED)
    for seed in (0, 1, 2):
        for name, settings in METHODS.items():
            go_on(distill, here / f"{name}-seed{seed}", seed=seed, **student, **settings)
