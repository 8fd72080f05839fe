"""Parts of somebody else: a method, a neuron, a network and a data set from an installed package, without a change to this one."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from ending import at_step

from sastc.training import Run

PARTS = """
import torch
import torch.nn.functional as F
from torch import nn

from sastc.common.settings import setting
from sastc.data.images import ImageData
from sastc.data.sources import Source
from sastc.methods import Baseline, Step, Term
from sastc.neurons import Neuron


class Centred(Baseline):
    "Cross-entropy, and class means of the outputs that keep their distance"

    uses_teacher = False
    pull: float = setting(0.25, "weight of the distance", least=0)

    def build(self, shapes):
        self.centres = nn.Parameter(torch.zeros(shapes.num_classes, shapes.num_classes))

    def terms(self, step: Step) -> dict[str, Term]:
        distance = (step.logits - self.centres[step.labels]).square().mean()
        step.record("centres", dict(length=self.centres.detach().norm()))
        return super().terms(step) | dict(centred=Term(distance, self.pull, "distance to the centre of the class"))


class Tired(Neuron):
    "A neuron that forgets faster the longer the sequence is"

    rest: float = setting(0.3, "share that is left of the potential", least=0, most=1)

    def decay_factor(self):
        return self.rest


def small(num_classes: int, in_channels: int, act, channels: int = 8):
    layers = [nn.Conv2d(in_channels, channels, 3, 2, 1), nn.BatchNorm2d(channels), act()]
    for _ in range(3):
        layers += [nn.Conv2d(channels, channels, 3, 2, 1), nn.BatchNorm2d(channels), act()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))


class Bars(Source):
    "Horizontal and vertical bars"

    bars: int = setting(256, "how many", least=32)

    def load(self, frames: int = 0) -> ImageData:
        generator = torch.Generator().manual_seed(0)
        images, labels = torch.zeros(2 * self.bars, 1, 16, 16, dtype=torch.uint8), torch.randint(2, (2 * self.bars,), generator=generator)
        for image, label, place in zip(images, labels, torch.randint(16, (2 * self.bars,), generator=generator)):
            image[0, place] = 255
            if label:
                image[0] = image[0].T.clone()
        split = [(images[half], labels[half]) for half in (slice(self.bars), slice(self.bars, None))]
        (x, y), (x_test, y_test) = split
        return ImageData("bars", x, y, x_test, y_test, ["across", "down"], (0.1,), (0.3,), False)
"""
ENTRY_POINTS = """
[sastc.methods]
centred = plugged_parts:Centred
[sastc.neurons]
tired = plugged_parts:Tired
[sastc.networks]
small = plugged_parts:small
[sastc.data]
bars = plugged_parts:Bars
"""
GIVEN = "--data bars --bars 128 --student small --channels 6 --neuron tired --rest 0.4 --method centred --pull 0.5 --epochs 2 --batch_size 16 --lr 0.05 --log_every 2 --seed 3".split()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    "A folder as pip fills it, with the package and its entry points."
    site = tmp_path_factory.mktemp("site")
    (site / "plugged_parts.py").write_text(PARTS)
    info = site / "plugged-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    return site


def sastc(site, *arguments, folder=None, status=0, ending=""):
    "Run the command in a process of its own."
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH", "")]))
    program = [sys.executable, "-c", f"{ending}\nimport sys; from sastc.cli import main; sys.exit(main())", *map(str, arguments)]
    done = subprocess.run(program, capture_output=True, text=True, cwd=folder or site, env=os.environ | dict(PYTHONPATH=path, OMP_NUM_THREADS="1"))
    assert done.returncode == status, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def run(site, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "plugged"
    sastc(site, "distill", *GIVEN, "--folder", folder)
    return Run(folder)


def test_it_is_recorded_by_its_names(run):
    config = run.config
    assert {name: config[name] for name in ("data", "bars", "student", "channels", "neuron", "rest", "method", "pull")} == dict(
        data="bars", bars=128, student="small", channels=6, neuron="tired", rest=0.4, method="centred", pull=0.5
    )
    assert run.data["name"] == "bars" and run.data["shape"] == [1, 16, 16] and run.data["classes"] == ["across", "down"]
    assert run.terms["centred"]["label"] == "distance to the centre of the class"
    assert {"ce", "centred", "total"} <= set(run.steps) and {"train_ce", "train_centred"} <= set(run.metrics)
    assert [set(record) for record in run.lines("centres")][0] == {"step", "epoch", "length"}


def test_it_is_evaluated_in_a_new_process(run, site):
    assert f"test accuracy {run.result['test_accuracy_best']:.2%}" in sastc(site, "evaluate", run.folder)


def test_its_method_comes_back_with_what_it_learned(run, site):
    code = f"from sastc.training import open_run; m = open_run({str(run.folder)!r}).method; print(type(m).__name__, m.pull, float(m.centres.norm()) > 0)"
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | dict(PYTHONPATH=path))
    assert done.stdout.split() == ["Centred", "0.5", "True"], done.stderr


def test_it_is_resumed(run, site, tmp_path):
    "A run of one epoch that is stopped and goes on ends as the other one."
    folder = tmp_path / "stopped"
    sastc(site, "distill", *GIVEN, "--folder", folder, status=130, ending=at_step(9, signal.SIGINT))
    assert Run(folder).state == "stopped"
    sastc(site, "distill", "--folder", folder, "--resume")
    unbroken, resumed = (other.checkpoint("last") for other in (run, Run(folder)))
    assert all((unbroken[part][name] == resumed[part][name]).all() for part in ("model", "method") for name in unbroken[part])


def test_it_is_reported_explained_and_exported(run, site, tmp_path):
    folder = shutil.copytree(run.folder, tmp_path / "run")
    page = Path(sastc(site, "report", folder).strip().splitlines()[-1])
    assert "distance to the centre of the class" in page.read_text()
    assert "centred" in Path(sastc(site, "explain", folder, "--images", "16").strip().splitlines()[-1]).read_text()
    sastc(site, "export", folder, "--to", "torch")
    assert list(folder.glob("best.pt2"))


def test_it_is_compared_with_ours_and_shown_on_the_board(run, site, tmp_path):
    options = GIVEN.copy()
    del options[options.index("--method") : options.index("--method") + 2], options[options.index("--seed") :]
    said = sastc(site, "compare", *options, "--epochs", "1", "--methods", "centred,baseline", "--seeds", "0", "--folder", tmp_path / "both")
    assert "centred" in said and "baseline" in said
    pytest.importorskip("anywidget")
    code = f"from sastc import RunBoard; print([row['method'] for row in RunBoard({str(tmp_path / 'both')!r}).rows])"
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | dict(PYTHONPATH=path))
    assert "centred" in done.stdout, done.stderr


def test_a_folder_does_not_import_what_it_names(run, tmp_path):
    "Without the package the run is shown, and opening it asks for what is missing; nothing is imported because a folder says so."
    config = json.loads((run.folder / "config.json").read_text())
    evil = tmp_path / "evil"
    evil.mkdir()
    (evil / "evil_parts.py").write_text("raise SystemExit('imported')")
    config["settings"]["method"] = "evil_parts:Centred"
    (evil / "config.json").write_text(json.dumps(config))
    code = f"""
import sys; sys.path.insert(0, {str(evil)!r})
from sastc.training import Run
run = Run({str(evil)!r})
print(run.config["method"])
try: run.settings
except ValueError as error: print(error)
print("evil_parts" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.splitlines()[0] == "evil_parts:Centred" and done.stdout.splitlines()[-1] == "False", done.stdout + done.stderr
