"""What the pages say of trained students beyond their records: `python nbs/results/cifar/measure.py RUN ...` for run folders with their checkpoints.

Measured on the first 1,280 test images, at the last epoch, and written to measured.json beside this file: the mismatch with the teacher and,
for students of a calibrator, the mean distance of each pair of layers, the mean attention of each step with its standard error between images
(of the difference from the first step), and for attention that the labels taught the mean pull of the labels."""

import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

from sastc.studies.comparisons import open_student, open_teacher
from sastc.methods.losses import mean_output
from sastc.training.runs import Run
from sastc.training.loop import _distiller, evaluate_mismatch
from sastc.training.measure import compared_layers, evaluating, fixed_batches

OUT = Path(__file__).with_name("measured.json")


def rounded(tensor: torch.Tensor) -> list:
    return tensor.double().numpy().round(4).tolist()


def of_calibrator(student, teacher, calibrator, batches) -> dict:
    found, pulls = [], []
    for images, labels in batches.epoch(0):
        outputs, features = student(images)
        targets = teacher(images)[1]
        found.append([part.detach() for part in calibrator(features, targets)])
        if calibrator.taught_by_labels:
            gradients = torch.autograd.grad(F.cross_entropy(mean_output(outputs), labels), features)
            pulls.append(calibrator.label_pull(features, targets, gradients))
    attention, distance = (torch.cat(parts, 1) for parts in zip(*found))
    differences = attention - attention[:1]
    measured = dict(distance=distance.mean((0, 1)), attention=attention.mean(1), difference_error=differences.std(1) / differences.shape[1] ** 0.5)
    return {name: rounded(value) for name, value in (measured | (dict(label_pull=torch.cat(pulls, 1).mean((0, 1))) if pulls else {})).items()}


def measure(folder: Path) -> dict:
    student = open_student(folder, "last")
    _, config, network, data = student
    ann, batches = open_teacher(student), fixed_batches(data, 20)
    compared = compared_layers(config, network, ann)
    measured = evaluate_mismatch(*compared, batches)
    state = Run(folder).checkpoint("last")["calibrator"]
    if state is None:
        return measured
    learner, _ = _distiller(network, ann, config, data)
    if learner.calibrator.state_dict().keys() != state.keys():
        raise ValueError(f"{folder}: the checkpoint holds another calibrator than its configuration")
    learner.calibrator.load_state_dict(state)
    with evaluating(learner), torch.enable_grad():
        return measured | of_calibrator(learner.taps, learner.teacher, learner.calibrator, batches)


if __name__ == "__main__":
    for folder in map(Path, sys.argv[1:]):
        known = json.loads(OUT.read_text()) if OUT.exists() else {}
        known[folder.name] = measure(folder)
        OUT.write_text(json.dumps(known, indent=1))
        print(folder.name, known[folder.name], flush=True)
