"""A student that is asked before its last step: accuracy at every step, and early exit with its energy."""

import json

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sastc.lab import RunBoard
from sastc.metrics.energy import StepRecorder, synaptic_operations
from sastc.models import create_model, from_library
from sastc.neurons.network import over_time
from sastc.neurons.neuron import LIF
from sastc.studies.explain import exit_figure, exits
from sastc.studies.figures import accuracy_by_step
from sastc.studies.report import write_report
from sastc.training import Run, assess, distill, open_run
from sastc.training.measure import EXIT_THRESHOLDS, AnyTime, anytime, early_exit, measure
from sastc.training.records import Damaged
from sastc.training.runs import compare

TINY = dict(data="digits", method="baseline", batch_size=32, lr=0.05, schedule="cosine", width=1 / 16, time_steps=3, epochs=3, device="cpu")
FIELDS = "test_accuracy_last_by_step", "test_accuracy_best_by_step"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return distill(**TINY, folder=tmp_path_factory.mktemp("anytime") / "run")


def stopped(run, steps):
    "The trained student as a network that has only so many steps."
    shorter = create_model("vgg11", in_channels=1, width=TINY["width"], time_steps=steps)
    shorter.load_state_dict(run.checkpoint("best")["model"])
    return shorter.eval()


@pytest.fixture(scope="module")
def batches(run):
    return open_run(run).data.batches("test", 128, shuffle=False, drop_last=False)


def test_a_result_has_the_accuracy_of_every_step(run):
    for name, field in zip(("last", "best"), FIELDS):
        assert len(run.result[field]) == 3 and run.result[field][-1] == run.result[f"test_accuracy_{name}"]
    assert len(set(run.result[FIELDS[0]])) > 1


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_stopping_is_running_a_network_of_fewer_steps(steps, run, batches):
    "Accuracy and energy of the first steps are those of a network with the same weights that has no others."
    whole, shorter = measure(stopped(run, 3), batches, 10), measure(stopped(run, steps), batches, 10, costs=True)
    assert whole["accuracy_by_step"][steps - 1] == pytest.approx(shorter["accuracy"], abs=2 / 360)
    found = anytime(stopped(run, 3), batches)
    assert found.microjoule[steps - 1].mean().item() == pytest.approx(shorter["microjoule"], rel=1e-3)
    assert found.right[steps - 1].double().mean().item() == pytest.approx(shorter["accuracy"], abs=2 / 360)


def test_energy_of_each_image_is_that_of_the_image_alone(run):
    images, student = torch.rand(5, 1, 32, 32), stopped(run, 3)
    with torch.no_grad(), StepRecorder(student) as recorder:
        student(images)
    alone = [synaptic_operations(student, image[None]).picojoule.sum() / 1e6 for image in images]
    assert recorder.spent(3, 5)[-1].tolist() == pytest.approx(alone, rel=1e-3)
    with torch.no_grad(), recorder:
        student(images)
    with pytest.raises(ValueError, match="network: expected layers that run once, or once for each of 4 steps, got 15 rows"):
        recorder.spent(4, 5)


@pytest.mark.parametrize("name", ["vgg11", "resnet18", "sew_resnet18", "ms_resnet18", "spikformer4_256"])
def test_steps_of_every_network_add_up_to_what_is_counted_for_the_whole(name):
    torch.manual_seed(0)
    student, images = create_model(name, time_steps=3, width=0.125, image_size=32).eval(), torch.rand(4, 3, 32, 32)
    for module in student.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.constant_(module.weight, 4.0)  # so that all of it fires
    table = synaptic_operations(student, images)
    assert (table.operations > 0).all()
    with torch.no_grad(), StepRecorder(student) as recorder:
        student(images)
    assert recorder.spent(3, 4)[-1].mean().item() == pytest.approx(table.picojoule.sum() / 1e6, rel=1e-4)


def test_steps_of_a_network_that_is_called_for_each_are_told_apart():
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron", reason="the extra `students` (spikingjelly) is not installed")
    torch.manual_seed(0)
    shared = nn.Conv2d(6, 6, 3, padding=1)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, 2, 1), neuron.LIFNode(v_threshold=0.2), shared, neuron.LIFNode(v_threshold=0.1), shared, neuron.IFNode(v_threshold=0.1),
        nn.Flatten(), nn.Linear(6 * 64, 10),
    ).eval()  # fmt: skip
    images = torch.rand(4, 3, 16, 16)
    spent = {}
    for steps in (1, 2, 3):
        student = from_library(network, steps)
        with torch.no_grad(), StepRecorder(student) as recorder:
            student(images)
        spent[steps] = recorder.spent(steps, 4)
        assert spent[steps][-1].mean().item() == pytest.approx(synaptic_operations(student, images).picojoule.sum() / 1e6, rel=1e-4)
    for steps in (1, 2):  # the first steps do not know how many follow
        torch.testing.assert_close(spent[3][:steps], spent[steps])


def test_an_ann_has_one_answer(batches):
    ann = create_model("vgg11", in_channels=1, width=1 / 16)
    assert "accuracy_by_step" not in measure(ann, batches, 10)
    with pytest.raises(ValueError, match="network: expected a spiking network, got VGG11, which has no time steps"):
        anytime(ann, batches)


@given(st.integers(1, 4), st.integers(1, 6), st.floats(0, 1), st.integers(0, 10_000))
def test_each_image_stops_at_its_first_sure_step(steps, images, threshold, seed):
    generator = torch.Generator().manual_seed(seed)
    confidence, right = torch.rand(steps, images, generator=generator), torch.rand(steps, images, generator=generator) > 0.5
    spent = torch.rand(steps, images, generator=generator, dtype=torch.float64).cumsum(0)
    (row,) = early_exit(AnyTime(confidence, right, spent), [threshold]).to_dict("records")
    at = [next((t for t in range(steps) if confidence[t, n] > threshold), steps - 1) for n in range(images)]
    expected = [sum(float(values[t, n]) for n, t in enumerate(at)) / images for values in (right, spent)]
    assert [row["accuracy"], row["microjoule"]] == pytest.approx(expected) and row["steps"] == pytest.approx(sum(at) / images + 1)


def test_a_curve_runs_from_one_step_to_all_of_them(run):
    table, whole = exits(run, images=0), assess(run)
    first, last = table.iloc[0], table.iloc[-1]
    assert table.threshold.tolist() == list(EXIT_THRESHOLDS) and table.steps.is_monotonic_increasing and table.microjoule.is_monotonic_increasing
    assert (first.steps, last.steps) == (1, 3) and last.accuracy == pytest.approx(whole["accuracy"]) and last.microjoule == pytest.approx(whole["microjoule"])
    assert first.accuracy == pytest.approx(whole["accuracy_by_step"][0])
    figure = exit_figure(run, images=40, thresholds=(0, 0.5, 1))
    assert (
        [list(trace.x) for trace in figure.data][1] == sorted(figure.data[1].x) and len(figure.data) == 2 and "40 of 360" in figure.layout.title.subtitle.text
    )
    with pytest.raises(ValueError, match="thresholds: expected a number from 0 to 1, got 1.5"):
        exits(run, thresholds=[1.5])


def test_figure_board_and_report_show_it(run, tmp_path):
    figure = accuracy_by_step(run)
    assert [trace.y[-1] for trace in figure.data] == pytest.approx([100 * run.result[f"test_accuracy_{name}"] for name in ("last", "best")], abs=0.01)
    assert len(figure.data) == 2 and list(figure.data[0].x) == [1, 2, 3]
    (row,) = RunBoard(run.folder).rows
    assert row["by_step"] == " ".join(f"{100 * accuracy:.1f}" for accuracy in run.result[FIELDS[1]])
    assert "Accuracy when stopped early" in write_report(run.folder, tmp_path / "report.html").read_text()


def test_networks_of_other_lengths_stand_apart(run, tmp_path):
    other = distill(**TINY | dict(time_steps=2, epochs=1), folder=tmp_path / "run")
    assert [trace.name for trace in accuracy_by_step([run, other]).data] == ["baseline, T = 3", "baseline, T = 2"] * 2
    figure = exit_figure([run, other], images=40, thresholds=(0, 1))
    assert [("time_steps 2" in trace.name, trace.x[1]) for trace in figure.data if trace.x[0] == 1] == [(False, 3), (True, 2)]


@pytest.fixture
def older(run, tmp_path):
    "The run as a version before this one would have left it."
    folder = tmp_path / "older"
    folder.mkdir()
    for path in run.folder.glob("*.json*"):
        (folder / path.name).write_bytes(path.read_bytes())
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps({name: value for name, value in result.items() if name not in FIELDS}))
    return Run(folder)


def test_an_older_run_shows_nothing(older, run):
    assert "No student has recorded it." in str(accuracy_by_step(older)) and len(accuracy_by_step([older, run]).data) == 2
    assert RunBoard(older.folder).rows[0]["by_step"] == "" and "Accuracy when stopped early" not in write_report(older.folder).read_text()
    assert list(compare([older, run]).columns) == list(compare([older]).columns)


@pytest.mark.parametrize("value", ["high", [], ["0.5"], [0.5, None], {"1": 0.5}, 0.5], ids=str)
def test_a_damaged_list_is_said(older, value):
    path = older.folder / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {FIELDS[1]: value}))
    with pytest.raises(Damaged, match=f"{FIELDS[1]}: expected a list of numbers from 0 to 1, got"):
        assert not Run(older.folder).result
    assert RunBoard(older.folder).rows[0]["state"] == "damaged"


def test_a_layer_that_runs_twice_is_counted_twice():
    layer = nn.Linear(4, 4)
    network = nn.Sequential(layer, nn.ReLU(), layer)
    with torch.no_grad(), StepRecorder(network) as recorder:
        network(torch.rand(5, 4) + 0.5)
    assert recorder.spent(1, 5)[0].tolist() == pytest.approx([2 * 16 * 4.6e-6] * 5)
    assert recorder.spent(1, 5).sum() == 0


class Shared(nn.Module):
    "One layer sees the image, mirrored as well, and then spikes; another one maps of two sizes."

    def __init__(self, time_steps):
        super().__init__()
        self.first, self.later = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(2))
        self.neurons = nn.ModuleList(LIF(time_steps) for _ in range(4))
        self.head = nn.Linear(3 * 16, 10)

    def forward(self, x):
        spikes = self.neurons[0](self.first(x) + self.first(x.flip(-1)))
        spikes = self.neurons[1](2 * self.first(spikes))
        spikes = self.neurons[2](2 * self.later(spikes))
        return self.head(self.neurons[3](2 * self.later(F.max_pool2d(spikes, 2))).flatten(1))


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_layer_pays_in_each_place_for_what_it_gets_there(steps):
    torch.manual_seed(0)
    student, images, calls = over_time(Shared(steps), steps).eval(), 3 * torch.randn(5, 3, 8, 8), []
    for module in (student.first, student.later, student.head):
        module.register_forward_hook(lambda module, args, output: calls.append((args[0], output[0].numel() * module.weight[0].numel())))
    with torch.no_grad(), StepRecorder(student) as recorder:
        student(images)
    expected = as_ann = 0
    for received, macs in calls:
        spiking = bool((received == received.round()).all())
        expected += macs * len(received) / 5 * (0.9 * received.mean().item() if spiking else 4.6)
        as_ann += 4.6 * macs
    table = synaptic_operations(student, images)
    assert table.picojoule.sum() == pytest.approx(expected) and table.ann_picojoule.sum() == pytest.approx(as_ann)
    assert table.spiking_input.tolist() == [False, True, True]
    assert recorder.spent(steps, 5)[-1].mean().item() == pytest.approx(expected / 1e6)


def test_layers_that_run_otherwise_are_refused():
    class Twice(nn.Module):
        time_steps = 2

        def __init__(self):
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            return self.head(x.repeat(3, 1))

    network = Twice()
    with torch.no_grad(), StepRecorder(network) as recorder:
        network(torch.rand(5, 4))
    with pytest.raises(ValueError, match="got 15 rows in head for 5 images"):
        recorder.spent(2, 5)
