"""The scripts of the live views: their own tests in node, their style, their bundles, and the constants that Python has too."""

import json
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import plotly.colors
import pytest

from sastc.lab import AttentionView, RunBoard
from sastc.lab.live import STATIC, FigureView, bundle
from sastc.studies.figures import COLOURS

ROOT = Path(__file__).resolve().parent.parent
TESTS = sorted((ROOT / "tests" / "js").glob("*.test.mjs"))
SCRIPTS = [*sorted(STATIC.glob("*.js")), *sorted((ROOT / ".ci").glob("*.js")), *sorted((ROOT / "tests" / "js").glob("*.mjs")), ROOT / "eslint.config.mjs"]
WIDGETS = dict(view=FigureView, attention=AttentionView, board=RunBoard)
ESLINT = json.loads((ROOT / "package.json").read_text())["scripts"]["lint"].split()[2]  # one version, so that no new rule comes overnight
LEAST_NODE = 20  # its test runner is stable, and arrays have findLastIndex
RECORDED = ROOT / "nbs" / "results" / "cifar10_core" / "sastc-seed0"


@cache
def node_version() -> int:
    "Major version of node; 0 where it is not installed."
    if not shutil.which("node"):
        return 0
    return int(subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.lstrip("v").split(".")[0])


needs_node = pytest.mark.skipif(node_version() < LEAST_NODE, reason=f"node {LEAST_NODE} or newer is not on PATH (apt-get install nodejs)")


def run(*command, **options) -> subprocess.CompletedProcess:
    return subprocess.run([*map(str, command)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)


@needs_node
def test_the_scripts_pass_their_own_tests():
    found = run("node", "--test", *TESTS)
    assert found.returncode == 0 and TESTS, found.stdout


@needs_node
def test_every_script_is_javascript():
    for path in SCRIPTS:
        found = run("node", "--check", path)
        assert found.returncode == 0, found.stdout


@needs_node
@pytest.mark.parametrize("name", WIDGETS)
def test_bundles_and_pages_are_modules(name, tmp_path):
    "node refuses a name that is declared twice, also where the search of `bundle` does not see it."
    view = WIDGETS[name]() if name == "view" else WIDGETS[name](RECORDED)
    page = re.findall(r'<script type="module">(.*?)</script>', view.to_html(), re.S)
    assert len(page) == 1
    for kind, source in dict(bundle=bundle(f"{name}.js"), page=page[0]).items():
        assert not re.search(r"^import\b", source, re.M)
        (tmp_path / f"{kind}.mjs").write_text(source, encoding="utf-8")
        found = run("node", "--check", tmp_path / f"{kind}.mjs")
        assert found.returncode == 0, found.stdout


@needs_node
def test_eslint_finds_nothing():
    npx = shutil.which("npx")
    try:
        there = npx and run(npx, "--yes", ESLINT, "--version", timeout=120).returncode == 0
    except subprocess.TimeoutExpired:
        there = False
    if not there:
        pytest.skip("npx or the registry of npm cannot be reached, so ESLint cannot run")
    found = run(npx, "--yes", ESLINT, *SCRIPTS)
    assert found.returncode == 0, found.stdout


def constant(name: str):
    return json.loads(re.search(rf"^export const {name} = (\[.*?\]);$", (STATIC / "colours.js").read_text(encoding="utf-8"), re.M | re.S)[1])


def channels(colours) -> list[list[int]]:
    read = (plotly.colors.hex_to_rgb(colour) if colour.startswith("#") else plotly.colors.unlabel_rgb(colour) for colour in colours)
    return [[round(channel) for channel in colour] for colour in read]


def test_colours_are_those_of_the_figures():
    assert constant("PALETTE") == list(COLOURS)
    assert constant("WEIGHTS") == channels(plotly.colors.sequential.Cividis)
    assert constant("DIFFERENCES") == channels(plotly.colors.diverging.PuOr[::-1])


def test_every_file_belongs_to_a_widget():
    "What no widget imports would be shipped and never run."
    lab = "".join(path.read_text(encoding="utf-8") for path in STATIC.parent.glob("*.py"))
    scripts = "".join(path.read_text(encoding="utf-8") for path in STATIC.glob("*.js"))
    for path in STATIC.iterdir():
        assert f'"{path.name}"' in lab or f"'{path.name}'" in lab or f'from "./{path.name}"' in scripts, path.name


def test_no_script_ends_the_element_it_stands_in():
    for path in STATIC.iterdir():
        assert not re.search(r"</(script|style)|<!--", path.read_text(encoding="utf-8"), re.I), path.name
