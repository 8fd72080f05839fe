"""Training steps per second of a VGG-11, to be compared with what it is beside a busy program.

    python busy.py                                        a small network in fp32, in a loop of your own
    python busy.py 0.25                                   a wider one in bf16
    python busy.py 0.25 placed                            each thread on a core of its own, as in the trainings of sastc
    GOMP_SPINCOUNT=300000 python busy.py                  PyTorch as it comes
    OMP_NUM_THREADS=1 python busy.py                      one thread

Beside another program: run `python -c "while True: pass" &` first, or `setsid` before it, as for one that another user started.
What it printed on one machine, everything in turns, is in busy.csv."""

import contextlib
import sys
from time import perf_counter

from sastc import create_model  # before torch, see nbs/common/04_package.ipynb
from sastc.common.threads import one_core_each
from sastc.neurons.kernels import expecting  # isort: split

import torch
import torch.nn.functional as F

SECONDS, BATCH = 3, 32


def training_step(width: float):
    "A function that trains one batch; in bf16 from a quarter of the width on."
    network = create_model("vgg11", width=width, time_steps=2).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), 0.05)
    images, labels = torch.rand(BATCH, 3, 32, 32).to(memory_format=torch.channels_last), torch.randint(10, (BATCH,))

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=width >= 0.25):
            outputs = network(images).mean(0)
        optimizer.zero_grad()
        F.cross_entropy(outputs.float(), labels).backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    placed = one_core_each() if sys.argv[2:] == ["placed"] else contextlib.nullcontext()
    with expecting(10**12), placed:  # neurons are compiled from the start, as in a long run
        step = training_step(float(sys.argv[1]) if len(sys.argv) > 1 else 0.125)
        for _ in range(3):
            step()
        count, began = 0, perf_counter()
        while perf_counter() - began < SECONDS:
            step()
            count += 1
    print(f"{count / (perf_counter() - began):.1f} steps per second")
