"""How long the step of SGD takes in a training, PyTorch's usual one and the one in one pass through memory. In turns in one process.

OMP_NUM_THREADS=1 python one_pass.py > one_pass.csv"""

from statistics import median
from time import perf_counter

from sastc import create_model  # before torch, see nbs/common/04_package.ipynb
from sastc.neurons.kernels import expecting, keep_freed_memory  # isort: split

import pandas as pd
import torch
import torch.nn.functional as F

from sastc.studies.bench import machine, machine_words
from sastc.training.config import in_one_pass

ROUNDS, BATCH, SGD = 15, 16, dict(lr=0.01, momentum=0.9, weight_decay=5e-4)
WAYS = {"usual": lambda weights: torch.optim.SGD(weights, **SGD), "in one pass": lambda weights: in_one_pass(torch.optim.SGD, weights, **SGD)}


class Training:
    "Training steps of a network in bf16, of which the gradients and the update are timed."

    def __init__(self, student: str, width: float, way: str):
        self.network = create_model(student, width=width, time_steps=2).to(memory_format=torch.channels_last)
        self.images, self.labels = torch.rand(BATCH, 3, 32, 32).to(memory_format=torch.channels_last), torch.randint(10, (BATCH,))
        self.optimizer, self.seconds = WAYS[way](list(self.network.parameters())), []

    def step(self):
        began = perf_counter()
        with torch.autocast("cpu", torch.bfloat16):
            outputs = self.network(self.images).mean(0)
        F.cross_entropy(outputs.float(), self.labels).backward()
        between = perf_counter()
        self.optimizer.step()
        self.seconds.append((between - began, perf_counter() - between))
        self.optimizer.zero_grad()


def rows(student: str, width: float):
    trainings = {way: Training(student, width, way) for way in WAYS}
    for _ in range(ROUNDS + 2):
        for training in trainings.values():
            training.step()
    for way, training in trainings.items():
        gradients, update = (1e3 * median(seconds) for seconds in zip(*training.seconds[2:]))
        yield dict(student=student, width=width, way=way, gradients_ms=round(gradients, 1), update_ms=round(update, 1), machine=machine_words(machine()))


if __name__ == "__main__":
    keep_freed_memory()
    with expecting(10**12):  # neurons are compiled from the start, as in a long run
        table = pd.DataFrame([row for case in (("vgg11", 1.0), ("vgg11", 0.25), ("resnet18_sastc", 1.0)) for row in rows(*case)])
    print(table.to_csv(index=False), end="")
