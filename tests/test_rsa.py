"""A run by method `rsa` through everything that reads attention: records, per-image view, report, and a resume from its checkpoint."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from sastc.lab.attention import image_attention
from sastc.methods.attention import RSA_SCALE, attention_bounds
from sastc.studies.report import write_report
from sastc.training.runs import Run
from sastc.training.session import distill, train_teacher

DIGITS = dict(data="digits", train_images=200, batch_size=16, epochs=1, lr=0.05, log_every=4)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rsa")
    teacher = train_teacher(model="wrn16_2", width=0.25, folder=folder / "teacher", **DIGITS)
    return distill(method="rsa", student="vgg11", width=0.0625, beta=1.0, teacher=teacher.folder, folder=folder / "rsa", **DIGITS)


def test_every_record_says_how_attention_is_spread(run):
    assert len(run.attention) and run.attention.shape[1] == run.config["time_steps"]
    np.testing.assert_allclose(run.attention.sum(-1), 1, atol=1e-4)
    steps = run.attention_steps
    teachers = run.attention.shape[-1]
    assert steps.saturation.between(0, 1).all() and steps.entropy.between(0, np.log(teachers)).all()
    assert steps.spread_layers.between(0, 1).all() and steps.spread_steps.between(0, 1).all()


def test_images_have_attention_of_their_own(run):
    weights = image_attention(run).attention
    assert weights.shape == (run.config["time_steps"], run.config["batch_size"], *run.attention.shape[2:])
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
    assert np.ptp(weights, axis=1).max() > 0


def test_the_report_shows_it(run, tmp_path):
    page = write_report(run.folder, tmp_path / "page.html").read_text()
    assert "Attention by time step" in page and "Difference between student layers" in page


def test_bounds_are_those_of_its_scale(run):
    teachers = run.attention.shape[-1]
    assert run.attention_bounds == pytest.approx(attention_bounds(teachers, RSA_SCALE), abs=1e-5)
    assert run.settings.but(attn_scale=0.5).method.attention.bounds(teachers) == attention_bounds(teachers, RSA_SCALE / 2)
    assert run.settings.but(method="sastc").method.attention.bounds(teachers) == attention_bounds(teachers)


def test_resuming_a_finished_run_changes_nothing(run, capsys):
    losses = Run(run.folder).steps
    assert distill(folder=run.folder, epochs=1, resume=True).result == run.result
    assert Run(run.folder).steps.equals(losses)
    assert f"{run.folder} is finished, and nothing is left to train" in capsys.readouterr().err


def test_a_run_without_its_last_checkpoint_does_not_begin_again_and_drop_its_records(run, tmp_path):
    light = Path(shutil.copytree(run.folder, tmp_path / "light", ignore=shutil.ignore_patterns("checkpoints")))
    held = {path: path.read_bytes() for path in light.iterdir()}
    assert distill(folder=light, resume=True).result == run.result
    for longer in (True, "auto"):
        with pytest.raises(FileNotFoundError, match="expected a run with the checkpoint that it goes on from, .*light, whose checkpoints/last.pt is gone"):
            distill(folder=light, resume=longer, epochs=2)
    assert held == {path: path.read_bytes() for path in light.iterdir()}
