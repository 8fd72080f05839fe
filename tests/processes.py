"""Processes that fork from one that has loaded what nearly all of them need, since loading takes longer than most of what they do."""

import multiprocessing
import os
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable, Mapping, Sequence
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


class Program:
    """Code in a process of its own, with what `subprocess.Popen` calls the same, for a test that does not ask how a process starts.

    Variables that Python or PyTorch read when they start have no effect, PYTHONPATH excepted. The status of one that an exception ends is 1."""

    def __init__(self, code: str, arguments: Sequence[str] = (), cwd: str | Path | None = None, environment: Mapping[str, str] | None = None):
        self.arguments, self._folder = ["-c", *arguments], tempfile.TemporaryDirectory()
        self._paths = [Path(self._folder.name) / name for name in ("stdout", "stderr")]
        self._process = in_own_process(_run, code, self.arguments, cwd, dict(os.environ if environment is None else environment), *self._paths)
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float = 600) -> int:
        self._process.join(timeout)
        if self._process.is_alive():
            raise subprocess.TimeoutExpired(self.arguments, timeout)
        return self._process.exitcode

    def communicate(self, timeout: float = 600) -> tuple[str, str]:
        self.wait(timeout)
        return tuple(path.read_text(encoding="utf-8") for path in self._paths)

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()


SASTC = "import sys; sys.argv[0] = 'sastc'; from sastc.cli import main; sys.exit(main())"


def run_sastc(arguments: list[str], cwd: str | Path | None, environment: dict[str, str]) -> subprocess.CompletedProcess:
    "As `subprocess.run` of the program `sastc`."
    program = Program(SASTC, arguments, cwd, environment)
    try:
        said = program.communicate()
    except subprocess.TimeoutExpired:
        program.kill()
        raise
    return subprocess.CompletedProcess(arguments, program.returncode, *said)


def _run(code, arguments, cwd, environment, *paths):
    write_output_to(*paths)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd or ".")
    sys.path[:0] = ["", *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv = arguments
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    exec(compile(code, "<string>", "exec"), main.__dict__)
