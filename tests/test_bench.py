"The benchmark command, the processes that measure memory, and what happens to a result that cannot be written."

import json
import os
from functools import partial

import pytest
import torch

from sastc.cli import main
from sastc.methods import KD, METHODS
from sastc.neurons.neuron import lif
from sastc.studies import bench
from sastc.studies.bench import (
    Step,
    build_step,
    machine,
    machine_words,
    neuron_cases,
    peak_memory,
    run_sections,
    sastc_cases,
    scaling_cases,
    student_cases,
    warm_backend,
    write_bench,
)


def test_command_prints_ratios_and_writes_json_and_page(tmp_path, capsys):
    before = os.environ.get("SASTC_BACKEND")
    assert main(["bench", "--sections", "input", "--rounds", "1", "--folder", str(tmp_path / "bench")]) == 0
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
    assert result["machine"] == machine() and {record["machine"] for record in result["records"]} == {machine_words(machine())}
    assert machine_words(machine()) in printed.splitlines()[0] and machine_words(machine()) in page


def test_the_machine_is_read_from_the_processor(monkeypatch):
    text = "processor : 0\nmodel name\t: A <fast> one\nflags\t\t: fpu avx2 avx512f amx_tile amx_bf16\n\nprocessor : 1\nmodel name\t: A <fast> one\n"
    monkeypatch.setattr(bench.Path, "exists", lambda path: True)
    monkeypatch.setattr(bench.Path, "read_text", lambda path: text)
    found = machine.__wrapped__()
    assert found["processor"] == "A <fast> one" and found["instructions"] == ["AMX", "AVX512", "AMX_BF16", "AVX2"]
    assert machine_words(found).startswith("A <fast> one (AMX, AVX512, AMX_BF16, AVX2; PyTorch uses ") or "beside A <fast> one" in machine_words(found)
    text = text.replace("\nflags", "\ncpu family\t: 25\nmodel\t\t: 17\nflags", 1)
    assert machine.__wrapped__()["processor"] == "A <fast> one (family 25, model 17)"
    monkeypatch.setattr(bench.Path, "exists", lambda path: False)  # another system
    assert machine.__wrapped__()["processor"] and machine.__wrapped__()["instructions"] == []


def test_without_a_compiler_neurons_are_eager_and_the_reason_is_kept(monkeypatch, tmp_path):
    def without_compiler(current, backend="auto"):
        if backend == "compiled":
            raise RuntimeError("no compiler")
        return lif(current, backend=backend)

    monkeypatch.delenv("SASTC_BACKEND", raising=False)
    monkeypatch.setattr(bench, "lif", without_compiler)
    monkeypatch.setattr(bench, "SECTIONS", dict(none=list))
    warm_backend.cache_clear()
    try:
        (case,) = neuron_cases([(2, 3)], [2])
        assert case.against == "sastc, eager" and case.against in case.build and not any("compiled" in name for name in case.build)
        result = run_sections(["none"])
        assert result["backend"] == "eager" and result["not_compiled"] == "no compiler"
    finally:
        warm_backend.cache_clear()


def test_a_step_can_be_timed_for_every_method():
    METHODS.register("soft labels only")(type("SoftLabels", (KD,), {}))
    try:
        for method in METHODS:
            call = build_step(Step(method=method, width=1 / 16, batch_size=8))
            assert 0 < call() < 1e4, method
    finally:
        del METHODS._found["soft labels only"]
    for case in scaling_cases():
        assert set(case.build) == {"baseline", "sastc, no projection", "sastc"} and case.against == "baseline"


@pytest.mark.parametrize("emulated, fast", [(True, "fp32"), (False, "bf16")])
def test_steps_are_timed_in_the_precision_that_is_fast_here(monkeypatch, emulated, fast):
    monkeypatch.setattr("sastc.training.config.computes_in_bf16", lambda: not emulated)
    monkeypatch.setattr(bench, "_device", lambda: torch.device("cpu"))
    assert Step().precision == fast
    for case in student_cases():
        assert (case.against, case.floor) == (f"sastc, {fast}", f"convolutions alone, {fast}")
        assert {"sastc, fp32", "convolutions alone, fp32", f"sastc, {fast}, saving memory"} < case.build.keys()
        assert any("bf16" in name for name in case.build) == (not emulated)
    for case in sastc_cases():
        assert ("SASTC, fp32" in case.build) == (not emulated) and {"KD", "SASTC", "routed", "routed, linear"} < case.build.keys()
    timed = [call.args[0].precision for case in (*student_cases(), *sastc_cases()) for call in case.build.values()]
    assert set(timed) == {fast, "fp32"}
    monkeypatch.setattr(bench, "SECTIONS", dict(none=list))
    assert run_sections(["none"])["precision"] == fast


def test_formulations_take_the_same_step():
    step = dict(method="sastc", options=dict(beta=10.0), width=1 / 16, batch_size=8, precision="fp32")
    losses = [build_step(Step(**step, formulation=formulation)) for formulation in ("sastc", "released")]
    for _ in range(2):  # the second after an update of the weights
        ours, theirs = (call() for call in losses)
        assert ours == pytest.approx(theirs, rel=1e-2)  # in float32 a spike may hang on rounding
    with pytest.raises(ValueError, match="formulation: expected one of"):
        build_step(Step(formulation="theirs"))


def test_wrong_arguments_are_refused_before_anything_is_measured(tmp_path):
    with pytest.raises(ValueError, match="sections: expected one of .*, got 'inputs' \\(did you mean 'input'\\?\\)"):
        run_sections(["input", "inputs"])
    with pytest.raises(ValueError, match="rounds: expected a whole number of at least 1, got 0"):
        run_sections(["input"], rounds=0)
    assert main(["bench", "--sections", "nothing", "--folder", str(tmp_path / "bench")]) == 2 and not (tmp_path / "bench").exists()


def test_wider_student_needs_more_memory():
    narrow, wide = (peak_memory(partial(build_step, Step(width=width, batch_size=16))) for width in (1 / 16, 1 / 2))
    assert 0 < narrow < wide


def test_process_that_dies_while_memory_is_measured_is_reported():
    with pytest.raises(RuntimeError, match=r"ended without an answer \(exit status 1\)"):
        peak_memory(partial(build_step, Step(student="vgg12")))


def test_what_a_stopped_benchmark_has_measured_is_kept_beside_the_earlier_one(tmp_path, monkeypatch):
    def stopped_at_the_second():
        yield bench.Case("quick", "a sum", {"one": lambda: lambda: sum(range(10))}, "one")
        raise KeyboardInterrupt

    earlier = (
        write_bench(dict(environment={}, machine=machine(), backend="eager", precision="fp32", missing={}, records=[]), tmp_path)
        .with_name("bench.json")
        .read_text()
    )
    sections = bench.SECTIONS
    monkeypatch.setattr(bench, "SECTIONS", sections | dict(input=stopped_at_the_second))
    command = ["bench", "--sections", "input", "--rounds", "1", "--folder", str(tmp_path)]
    assert main(command) == 130 and (tmp_path / "bench.json").read_text() == earlier
    kept = json.loads((tmp_path / "bench-unfinished.json").read_text())
    assert [record["case"] for record in kept["records"]] == ["a sum"] and kept["machine"] == machine()
    monkeypatch.setattr(bench, "SECTIONS", sections | dict(input=lambda: [next(stopped_at_the_second())]))
    assert main(command) == 0 and [path.name for path in sorted(tmp_path.iterdir())] == ["bench.html", "bench.json"]


def test_failed_write_leaves_the_earlier_result(tmp_path):
    earlier = '{"records": []}'
    (tmp_path / "bench.json").write_text(earlier)
    with pytest.raises(TypeError):
        write_bench(
            dict(environment={}, machine=machine(), backend="eager", precision="fp32", missing={}, records=[dict(section="neuron", case=object())]), tmp_path
        )
    assert (tmp_path / "bench.json").read_text() == earlier and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("name", ["bench.json", "bench.html", "bench-unfinished.json"])
def test_a_benchmark_takes_the_place_of_a_benchmark_alone(name, tmp_path):
    result = dict(environment={}, machine=machine(), backend="eager", precision="fp32", missing={}, records=[])
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=f"folder: expected one without another {name}, got .*, which is no benchmark of sastc"):
        write_bench(result, tmp_path)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]
    (tmp_path / name).unlink()
    assert write_bench(result, tmp_path) == write_bench(result, tmp_path)
