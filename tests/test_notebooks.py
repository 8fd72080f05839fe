"""Every notebook runs from top to bottom, and keeps to the rules that make it a page worth reading (CONTRIBUTING.md)."""

import json
import os
import re
import sys
import tempfile
from pathlib import Path
from urllib.parse import unquote

import pytest
from processes import in_own_process, write_output_to

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
LONGEST_CELL = 60
MOST_HIDDEN = 2
NOTEBOOKS = sorted(path for path in NBS.rglob("*.ipynb") if not re.search(r"(^|/)[_.]", path.relative_to(NBS).as_posix()))

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.relative_to(NBS).with_suffix("").as_posix())


def cells(path, kind):
    return ["".join(cell["source"]) for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


def execute(path: str, log: Path, temporary: str) -> None:
    "Run the cells of a notebook, with what it prints in a file, and its temporary files in a folder."
    write_output_to(log, log)
    import torch
    from nbdev.test import nbdev_test
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    torch.manual_seed(0)  # what a cell draws without a seed is the same in every run
    cache_dir()  # stays where it is: all share the kernels that one has compiled
    os.environ["TMPDIR"], tempfile.tempdir = temporary, None
    os.chdir(ROOT)
    nbdev_test(path=path, n_workers=0, do_print=True)
    sys.stdout.flush()
    os._exit(0)  # workers of a notebook's data loaders may be in no hurry; `passed` below asks whether all went well


@each_notebook
def test_runs(path, tmp_path):
    log = tmp_path / "log.txt"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:  # not in tmp_path, which is too long a name for sockets
        process = in_own_process(execute, str(path), log, temporary)
        process.start()
        process.join(900)
        process.kill()
    said = log.read_text(errors="replace")
    # nbdev_test also ends well when it found nothing to run, and runs every notebook when it is given no path
    assert re.findall(r"^Starting (.*)", said, re.M) == [str(path)], said
    passed = process.exitcode == 0 and "Success." in said
    assert passed, f"{path.relative_to(ROOT)} failed; the cell and its error:\n{said}"


@each_notebook
def test_has_a_title_and_a_summary(path):
    first = cells(path, "markdown")[0]
    assert re.match(r"# \S.*\n\n> \S", first), f"{path.name} should open with `# title`, an empty line and `> summary`; it opens with {first[:80]!r}"


@each_notebook
def test_has_short_and_visible_cells(path):
    sources = cells(path, "code")
    long = [source.splitlines()[:3] for source in sources if len(source.splitlines()) > LONGEST_CELL]
    assert not long, f"{path.name}: cells of more than {LONGEST_CELL} lines, which begin {long}"
    hidden = [source for source in sources if re.search(r"^#\| *(hide\b|include: *false|echo: *false)", source, re.M)]
    assert len(hidden) <= MOST_HIDDEN, f"{path.name}: {len(hidden)} hidden cells; at most {MOST_HIDDEN} are accepted"


@each_notebook
def test_its_links_lead_to_files(path):
    linked = [target for source in cells(path, "markdown") for target in re.findall(r"""(?:\]\(|(?:href|src)=["'])([^)\s"'#]+)""", source)]
    here = [unquote(target) for target in linked if not re.match(r"[a-z]+:|/", target)]
    dead = [target for target in here if not (path.parent / target).exists()]
    assert not dead, f"{path.relative_to(ROOT)}: expected links to files, such as 02_neuron.ipynb for a page, got {', '.join(dead)}"


def test_every_module_comes_from_a_notebook():
    exported = {match[1] for path in NOTEBOOKS for source in cells(path, "code") if (match := re.search(r"^#\| *default_exp +(\S+)", source, re.M))}
    modules = {".".join(path.relative_to(ROOT / "sastc").with_suffix("").parts).removesuffix(".__init__") for path in (ROOT / "sastc").rglob("*.py")}
    assert modules - {"__init__", "_modidx"} <= exported | {name.rpartition(".")[0] for name in exported}
