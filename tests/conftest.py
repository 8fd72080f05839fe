"""Settings that every test shares: the same examples and the same arithmetic on every machine."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from sastc.methods.alignment import difference_kernel
from sastc.neurons.neuron import gradient_kernel, spike_kernel
from sastc.training import Run

ROOT = Path(__file__).resolve().parent.parent

os.environ.setdefault("PLOTLY_RENDERER", "plotly_mimetype")
# deadline: a first call into torch is slow for reasons that are not the test's; derandomize: a red run is red again tomorrow
settings.register_profile("sastc", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("sastc")
# small tensors gain nothing from more, and threads of several processes that wait for each other lose a great deal; a process that a test starts
# has as many, since sums depend on it and runs are compared bit by bit
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(autouse=True)
def same_numbers():
    "Whatever a test draws without a seed of its own is the same in any order of tests and in any worker."
    torch.manual_seed(0)


@pytest.fixture
def in_float64():
    """Networks and tensors of a test are made in float64.

    Two ways to compute a spiking network agree up to rounding, but for a potential that lies within rounding of its threshold: in float32
    a deep network has one now and then, another one on each kind of processor, and its spike changes all that follows."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(autouse=True)
def nothing_seen_yet():
    "A kernel counts what passes through it and then compiles; a test must not depend on how much others passed before it."
    for kernel in (spike_kernel, gradient_kernel, difference_kernel):
        kernel.seen = 0


def written(folder: Path) -> dict[Path, tuple[int, int]]:
    "Size of every file and when it was written."
    files = (path for path in folder.rglob("*") if path.is_file() and path.parent.name != "__pycache__")
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """A folder that a fixture made for several tests is the same after each of them: which tests run before which is another matter in every run.

    A test that writes there takes a copy, or names a file of its own."""
    used = [value.folder if isinstance(value, Run) else value for value in item.funcargs.values()]
    mine = [ROOT, *filter(None, [item.funcargs.get("tmp_path")])]
    used = {folder for folder in used if isinstance(folder, Path) and folder.is_dir() and not any(map(folder.is_relative_to, mine))}
    before = {folder: written(folder) for folder in used}
    result = yield
    for folder, held in before.items():
        now = written(folder)
        changed = sorted(str(path) for path in held.keys() | now.keys() if held.get(path) != now.get(path))
        assert not changed, f"other tests use what this one changed: {changed}"
    return result


def pytest_xdist_auto_num_workers():
    "One more than cores: many tests wait, for a browser, a kernel or a process."
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items):
    # A notebook takes as long as dozens of other tests. One that starts last leaves the other workers idle, so each worker
    # begins with its share of them: worksteal gives every worker one stretch of this list.
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    long = [item for item in items if item.nodeid.startswith("tests/test_notebooks.py::test_runs")]
    short = [item for item in items if item not in long]
    ends = [len(short) * worker // workers for worker in range(workers + 1)]
    for item in items:
        if "browser" in item.fixturenames:
            # JupyterLab, a kernel and Chromium have races of their own: one more try, which the summary lists. It has the same
            # server and the same folder of notebooks, so a test begins by taking away what its first try has left there.
            item.add_marker(pytest.mark.flaky(reruns=1))
        else:  # a machine that had no time for us for minutes says nothing of the code
            item.add_marker(pytest.mark.flaky(reruns=1, only_rerun=["TimeoutExpired", "TimeoutError", "ended or hung"]))
    items[:] = [item for worker in range(workers) for item in long[worker::workers] + short[ends[worker] : ends[worker + 1]]]


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="the long form of tests that have one (tests/test_faults.py)")
