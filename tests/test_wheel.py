"""The package as somebody has it who installs the wheel, without the source tree."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    "Built from the source distribution, as `python -m build` does, in a copy of what is packaged."
    pytest.importorskip("build", reason="the package build is not installed")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("sastc", "settings.ini", "setup.py", "README.md", "LICENSE", "MANIFEST.in"):
        place = ROOT / name
        shutil.copytree(place, source / name, ignore=shutil.ignore_patterns("__pycache__")) if place.is_dir() else shutil.copy(place, source)
    done = subprocess.run([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return next(out.glob("*.whl"))


def test_it_has_every_module_and_file(wheel):
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("sastc/")}
    wanted = {path.relative_to(ROOT).as_posix() for path in (ROOT / "sastc").rglob("*") if path.is_file() and path.parent.name != "__pycache__"}
    assert packed == wanted


def test_it_runs_without_the_source_tree(wheel, tmp_path):
    pytest.importorskip("anywidget", reason="the extra `lab` is not installed")
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)  # which is all that pip does with a wheel of pure Python
    environment = os.environ | dict(PYTHONPATH=str(site), OMP_NUM_THREADS="1", SASTC_DEMO_EPOCHS="1")
    done = subprocess.run([sys.executable, str(ROOT / ".ci" / "wheel.py")], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert f"from {site / 'sastc'}: commands, demo, report, panel and board work" in done.stdout


@pytest.mark.parametrize("arguments", [[], ["recipes"], ["--version"]])
def test_what_needs_no_pytorch_does_not_load_it(arguments):
    code = f"import sys; from sastc.cli import main; main({arguments!r}); print(sorted({{'torch', 'torchvision', 'plotly', 'sklearn'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr
