"""A core for each thread while something is trained: the same numbers, and everything as it was afterwards."""

import contextlib
import os
from pathlib import Path

import pytest
import torch

from sastc import distill
from sastc.common import threads
from sastc.data.folders import StreamedBatches

pytestmark = pytest.mark.skipif(len(threads.cores()) < 2, reason="a machine with two cores whose system says which they are")
GIVEN = dict(data="digits", image_size=8, student="vgg11", width=0.0625, method="baseline", epochs=1, train_images=200, batch_size=50, lr=0.02)


@pytest.fixture
def as_many_threads_as_cores():
    torch.set_num_threads(len(threads.cores()))
    yield
    torch.set_num_threads(1)


def single() -> list[int]:
    "Cores of threads of this process that have one only."
    masks = []
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):  # it has ended in between
            masks.append(os.sched_getaffinity(int(thread)))
    return [core for mask in masks if len(mask) == 1 for core in mask]


def trained(folder, **given) -> dict:
    return distill(folder=str(folder), **GIVEN | given).checkpoint("last")["model"]


def test_a_training_has_the_same_weights_to_the_last_bit_and_leaves_every_thread_as_it_was(as_many_threads_as_cores, monkeypatch, tmp_path):
    placed = []
    with monkeypatch.context() as watched:
        watched.setattr(threads, "_place", lambda *given, place=threads._place: (place(*given), placed.append(len(single()))))
        here = trained(tmp_path / "placed")
    assert not single()
    monkeypatch.setenv("OMP_PLACES", "cores")  # users who place threads themselves are left alone
    free = trained(tmp_path / "free")
    assert all(torch.equal(here[name], free[name]) for name in free)
    gnu = "libgomp" in Path("/proc/self/maps").read_text()  # nothing is done where PyTorch has another OpenMP
    assert [count > 0 for count in placed] == [True, False] * gnu and placed[:1] >= [2] * gnu


def test_a_training_that_fails_lets_its_threads_go(as_many_threads_as_cores, tmp_path):
    with pytest.raises(ArithmeticError):
        trained(tmp_path / "run", lr=1e30)
    assert not single() and not threads._SPREAD


def cores_of_a_worker(number: int) -> torch.Tensor:
    return torch.full((1, 4, 4), len(os.sched_getaffinity(0)), dtype=torch.uint8)


def test_workers_that_read_images_have_all_cores(as_many_threads_as_cores):
    kind = dict(image_size=4, mean=(0.0,), std=(1.0,), shuffle=False, drop_last=False)
    with threads.one_core_each() as placed:
        assert len(single()) >= len(placed)
        batches = StreamedBatches(cores_of_a_worker, torch.zeros(4, dtype=torch.int64), 2, workers=1, **kind)
        seen = [round(255 * float(images.max())) for images, _ in batches.epoch(0)]
        batches.close()
    assert seen == [len(threads.cores())] * 2


@pytest.mark.parametrize("name", ["GOMP_CPU_AFFINITY", "OMP_PROC_BIND", "OMP_PLACES"])
def test_what_the_user_has_chosen_stays(name, as_many_threads_as_cores, monkeypatch):
    monkeypatch.setenv(name, "false")
    with threads.one_core_each() as placed:
        assert placed == [] and not single()


def test_nothing_changes_on_another_device_nor_with_fewer_threads_than_cores(as_many_threads_as_cores):
    with threads.one_core_each("meta") as placed:
        assert placed == []
    torch.set_num_threads(1)
    with threads.one_core_each() as placed:
        assert placed == []
