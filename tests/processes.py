"""Processes that fork from one that has loaded what nearly all of them need, since loading takes longer than most of what they do."""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

LOADED = ["nbdev.test", "plotly.express", "sastc.cli.commands", "sastc.studies.report", "sastc.training", "sklearn.datasets"]
LOADED += ["torch._dynamo", "torchvision.transforms.v2"]


def in_own_process(function: Callable, *arguments) -> multiprocessing.Process:
    "A process, not yet started: what it leaves behind (seeds, hooks, threads, memory) is not there for the next."
    if "forkserver" not in multiprocessing.get_all_start_methods():  # Windows
        return multiprocessing.get_context("spawn").Process(target=function, args=arguments)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LOADED)
    return context.Process(target=_as_anywhere, args=(function, arguments))


def _as_anywhere(function, arguments):
    multiprocessing.set_start_method(None, force=True)  # what it starts is started as anywhere else
    function(*arguments)


def write_output_to(output: Path, errors: Path) -> None:
    "What this process prints from now on goes to files, whoever prints it."
    for number, path in ((1, output), (2, errors)):
        with open(path, "ab") as file:
            os.dup2(file.fileno(), number)


def run_sastc(arguments: list[str], cwd: str | Path | None, environment: dict[str, str]) -> subprocess.CompletedProcess:
    "As `subprocess.run` of the program `sastc`. Variables that Python or PyTorch read when they start or are loaded have no effect."
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("stdout", "stderr")]
        process = in_own_process(_sastc, arguments, cwd, environment, *paths)
        process.start()
        process.join(600)
        if process.is_alive():
            process.kill()
            raise subprocess.TimeoutExpired(arguments, 600)
        return subprocess.CompletedProcess(arguments, process.exitcode, *(path.read_text(encoding="utf-8") for path in paths))


def _sastc(arguments, cwd, environment, *paths):
    write_output_to(*paths)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd or ".")
    sys.path.insert(0, "")
    sys.argv = ["sastc", *arguments]
    from sastc.cli import main

    sys.exit(main())
