"""What the pages say of trained students beyond their records: `python nbs/results/cifar/measure.py RUN ...` for run folders with their checkpoints.

Measured on the first 1,280 test images, at the last epoch, and written to measured.json beside this file: the mismatch with the teacher and,
for students of a calibrator, the mean distance of each pair of layers, the mean attention of each step with its standard error between images
(of the difference from the first step), and for attention that the labels taught the mean pull of the labels."""

import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

from sastc import open_run
from sastc.methods.calibrator import calibrate, label_pull
from sastc.methods.losses import mean_output
from sastc.training.measure import evaluate_mismatch, fixed_batches

OUT = Path(__file__).with_name("measured.json")


def rounded(tensor: torch.Tensor) -> list:
    return tensor.double().numpy().round(4).tolist()


def pull_of_labels(opened, images, labels, teacher_features) -> torch.Tensor:
    student, method = opened.taps[0], opened.method
    outputs, features = student(images)
    gradients = torch.autograd.grad(F.cross_entropy(mean_output(outputs), labels), features)
    return label_pull(method.attention, method.alignment, features, teacher_features, gradients)


def of_calibrator(opened, batches) -> dict:
    method, found, pulls = opened.method, [], []
    for images, labels in batches.epoch(0):
        step = opened.step(images, labels)
        with torch.no_grad():
            features, stepwise = method.features(step)
            found.append(calibrate(method.attention, method.alignment, features, step.teacher_features, stepwise))
        if getattr(method.attention, "attention_gradient", "") == "labels":
            pulls.append(pull_of_labels(opened, images, labels, step.teacher_features))
    attention, distance = (torch.cat(parts, 1) for parts in zip(*found))
    differences = attention - attention[:1]
    measured = dict(distance=distance.mean((0, 1)), attention=attention.mean(1), difference_error=differences.std(1) / differences.shape[1] ** 0.5)
    return {name: rounded(value) for name, value in (measured | (dict(label_pull=torch.cat(pulls, 1).mean((0, 1))) if pulls else {})).items()}


def measure(folder: Path) -> dict:
    opened = open_run(folder, "last")
    batches = fixed_batches(opened.data, 20)
    measured = evaluate_mismatch(*opened.taps, batches)
    return measured | (of_calibrator(opened, batches) if hasattr(opened.method, "attention") else {})


if __name__ == "__main__":
    for folder in map(Path, sys.argv[1:]):
        known = json.loads(OUT.read_text()) if OUT.exists() else {}
        known[folder.name] = measure(folder)
        OUT.write_text(json.dumps(known, indent=1))
        print(folder.name, known[folder.name], flush=True)
