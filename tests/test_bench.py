"The benchmark command, the processes that measure memory, and what happens to a result that cannot be written."

import json
import os
from functools import partial

import pytest

from sastc.studies.bench import Step, build_step, peak_memory, run_sections, write_bench
from sastc.cli import sastc_bench


def test_command_prints_ratios_and_writes_json_and_page(tmp_path, capsys):
    before = os.environ.get("SASTC_BACKEND")
    sastc_bench(sections="input", rounds=1, folder=str(tmp_path / "bench"))
    printed = capsys.readouterr().out
    result = json.loads((tmp_path / "bench" / "bench.json").read_text())
    step, batch = result["records"]
    assert step["ratio"] == 1 and batch["ratio"] == pytest.approx(batch["milliseconds"] / step["milliseconds"])
    assert os.environ.get("SASTC_BACKEND") == before
    (line,) = [line for line in printed.splitlines() if "batch of 64, augmented" in line]
    assert float(line.split()[-1]) == pytest.approx(batch["ratio"], abs=0.001)  # the file keeps more digits, and a digit rounded twice may differ
    page = (tmp_path / "bench" / "bench.html").read_text()
    assert "batch of 64, augmented" in page and "<script src=" not in page
    for name, reason in result["missing"].items():
        assert f"left out: {name} ({reason})" in printed


def test_wrong_arguments_are_refused_before_anything_is_measured(tmp_path):
    with pytest.raises(ValueError, match="sections: 'inputs' is not known \\(did you mean 'input'\\?\\)"):
        run_sections(["input", "inputs"])
    with pytest.raises(ValueError, match="rounds: 0 given; a whole number of at least 1 is accepted"):
        run_sections(["input"], rounds=0)
    with pytest.raises(SystemExit) as stopped:
        sastc_bench(sections="nothing", folder=str(tmp_path / "bench"))
    assert stopped.value.code == 2 and not (tmp_path / "bench").exists()


def test_wider_student_needs_more_memory():
    narrow, wide = (peak_memory(partial(build_step, Step(width=width, batch_size=16))) for width in (1 / 16, 1 / 2))
    assert 0 < narrow < wide


def test_process_that_dies_while_memory_is_measured_is_reported():
    with pytest.raises(RuntimeError, match=r"ended without an answer \(exit status 1\)"):
        peak_memory(partial(build_step, Step(student="vgg12")))


def test_failed_write_leaves_the_earlier_result(tmp_path):
    (tmp_path / "bench.json").write_text("earlier")
    with pytest.raises(TypeError):
        write_bench(dict(environment={}, missing={}, records=[dict(section="neuron", case=object())]), tmp_path)
    assert (tmp_path / "bench.json").read_text() == "earlier" and len(list(tmp_path.iterdir())) == 1
