"""Parts of somebody who has read the pages and nothing else: what is refused is refused in a sentence, and what is read back is what was trained."""

import importlib
import os
import random
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from processes import Program
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from sastc import assess, create_model, distill, open_run, train_teacher
from sastc.cli import main
from sastc.cli.running import find_parts
from sastc.data.datasets import frames_from, images_from
from sastc.methods import KD, SASTC, TET, Baseline, FeatureKD, Term
from sastc.methods.alignment import SimilarityAlignment
from sastc.methods.routed import RoutedAlignment
from sastc.metrics.energy import firing_rates
from sastc.models import Taps, candidates, from_library, spiking
from sastc.neurons import LIF, Neuron
from sastc.studies.export import to_nir
from sastc.studies.report import write_report
from sastc.training import Run
from sastc.training.config import Config
from sastc.training.loop import Trainer
from sastc.training.measure import compared_layers
from sastc.training.session import rehearse

TINY = dict(data="digits", train_images=128, batch_size=16, lr=0.02, log_every=2, device="cpu", epochs=1, image_size=16)
NETWORK = """
from torch import nn

def small(num_classes: int, in_channels: int, act):
    return nn.Sequential(nn.Conv2d(in_channels, 4, 3, 4, 1), act(), nn.Flatten(), nn.Linear(64, num_classes))
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    "A working folder with parts in it that is no place for modules, as for an installed command."
    (tmp_path / "mine_parts.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place not in ("", str(tmp_path))])
    yield tmp_path
    sys.modules.pop("mine_parts", None)


def test_a_command_finds_parts_in_the_working_folder_and_imports_them_when_it_is_told(here, capsys, monkeypatch):
    options = [text for name, value in TINY.items() for text in (f"--{name}", str(value))]
    assert main(["distill", *options, "--method", "baseline", "--student", "mine_parts:small", "--folder", "run"]) == 0
    assert "next: sastc evaluate run --parts mine_parts" in capsys.readouterr().out

    def said(*arguments, status):
        del sys.modules["mine_parts"]  # as in a new process
        monkeypatch.setattr(sys, "path", [place for place in sys.path if place != str(here)])
        assert main([*arguments]) == status
        return "".join(capsys.readouterr())

    assert f"test accuracy {Run('run').result['test_accuracy_best']:.2%}" in said("evaluate", "run", "--parts", "mine_parts", status=0)
    assert "best.pt2" in said("export", "run", "--to", "torch", "--parts=mine_parts", status=0)
    said("distill", "--folder", "run", "--resume", "--epochs", "2", "--parts", "mine_parts", status=0)
    assert Run("run").config["epochs"] == 2
    assert "import mine_parts first (for a command: --parts mine_parts)" in said("evaluate", "run", status=2)
    assert "mine_parts" not in sys.modules
    assert main(["evaluate", "run", "--parts", "other_parts"]) == 2
    assert "sastc evaluate: parts: expected modules that can be imported, from here or from PYTHONPATH, got 'other_parts'" in capsys.readouterr().err


def test_the_working_folder_comes_last_and_only_if_a_part_in_it_is_named(here, monkeypatch):
    places = sys.path.copy()
    for arguments, found in [
        (["run"], False),
        (["--teacher", "timm:vit_tiny"], False),
        (["--method", "kd+mine_parts:Mine"], True),
        (["--student=mine_parts:small"], True),
        (["run", "--parts", "mine_parts"], True),
    ]:
        monkeypatch.setattr(sys, "path", places.copy())
        find_parts(arguments)
        assert sys.path == places + [str(here)] * found
    assert "mine_parts" in sys.modules


class Stream(IterableDataset):
    def __iter__(self):
        yield Image.new("L", (8, 8)), 0


IMAGES = TensorDataset(torch.rand(20, 1, 8, 8), torch.arange(20) % 2)


@pytest.mark.parametrize(
    "thing, said",
    [
        (Stream(), "data: expected a dataset with a length and items by number, got Stream, a stream"),
        (DataLoader(IMAGES), "data: expected a dataset, whose order a run draws from its own seed, got a DataLoader"),
        ([IMAGES[0]] * 20, "data: expected a dataset, a pair of a training and a test dataset, or a mapping with 'train', got list of 20"),
        (dict(test=IMAGES), "or a mapping with 'train', got dict with test"),
        (IMAGES.tensors, "TensorDataset(images, labels) makes one of tensors"),
    ],
)
def test_what_is_no_dataset_is_refused_in_the_same_sentence_wherever_it_is_passed(thing, said, tmp_path):
    for use in (images_from, lambda data: distill(method="baseline", student="vgg11", width=0.0625, folder=tmp_path / "run", **TINY | dict(data=data))):
        with pytest.raises(ValueError) as refused:
            use(thing)
        assert said in str(refused.value)


def test_images_are_no_recordings():
    with pytest.raises(ValueError, match="data: expected recordings of tonic, which know their `sensor_size`"):
        frames_from(IMAGES)


PARTS = """
import torch
from torch import nn

from sastc.common.settings import setting
from sastc.methods import Attention, Alignment, Baseline, Term
from sastc.neurons import Neuron
from sastc.training.config import Optimizer, Schedule


def fast(distance, gamma):
    return 1 / (gamma * (1 + distance.abs() / gamma) ** 2) / 2


def steep(distance, gamma):
    return fast(distance, gamma / 2)


class Depthwise(nn.Module):
    def __init__(self, student_channels, teacher_channels):
        super().__init__()
        self.depth = nn.Conv2d(student_channels, student_channels, 3, padding=1, groups=student_channels)
        self.point = nn.Conv2d(student_channels, teacher_channels, 1)

    def forward(self, folded, time_steps):
        return self.point(self.depth(folded))


class Shrinking(Depthwise):
    def forward(self, folded, time_steps):
        return super().forward(folded, time_steps)[..., :1]


class Narrow(Attention):
    def forward(self, compared):
        return torch.ones(len(compared.student), len(compared.teacher))


class Mean(Alignment):
    def forward(self, compared):
        return torch.ones(len(compared.student), len(compared.teacher))


class Bare(Baseline):
    def terms(self, step):
        return super().terms(step) | dict(bare=step.logits.square().mean())


class Each(Baseline):
    def terms(self, step):
        return super().terms(step) | dict(each=Term(step.logits.square().mean(1)))


class Nothing(Baseline):
    def terms(self, step):
        pass


class Step(Baseline):
    def terms(self, step):
        step.record("mine", dict(step=step.logits.mean()))
        return super().terms(step)


class Spoken(Baseline):
    def terms(self, step):
        step.record("mine", dict(word="loud"))
        return super().terms(step)


class Focus(Baseline):
    def terms(self, step):
        step.record("attention", dict(mean=step.logits.mean()))
        return super().terms(step)


class Derived(Baseline):
    def terms(self, step):
        step.record("mine", dict(mean=step.logits.mean()), lambda averages: 3)
        return super().terms(step)


class Unweighted(Baseline):
    def terms(self, step):
        return super().terms(step) | dict(mean=Term(step.logits.mean(), None))


class Half(Baseline):
    def layers(self, student, teacher):
        return ["layer2"]


class Lion(Optimizer):
    "Sign of a momentum that keeps two sums."

    lion_beta: float = setting(0.9, "share of the momentum in a step", least=0, most=1)

    def build(self, trained):
        return _Lion(trained, dict(lr=self.lr, beta=self.lion_beta))


class _Lion(torch.optim.Optimizer):
    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for weight in group["params"]:
                sums = self.state[weight].setdefault("sums", torch.zeros_like(weight))
                weight -= group["lr"] * torch.sign(group["beta"] * sums + (1 - group["beta"]) * weight.grad)
                sums.lerp_(weight.grad, 0.01)


class Restarts(Schedule):
    "A ramp that begins anew."

    ramps: int = setting(2, "how often", least=1)

    def factor(self, share):
        return 1 - share * self.ramps % 1


class Newton(Optimizer):
    def build(self, trained):
        return torch.optim.LBFGS(trained, self.lr)


class Closed(Optimizer):
    def build(self, trained):
        return type("Short", (torch.optim.SGD,), dict(step=lambda self: None))(trained, self.lr)


class Unbuilt(Optimizer):
    def build(self, trained):
        return [weight.grad for weight in trained]


class Below(Schedule):
    def factor(self, share):
        return -1.0


class Returning(Neuron):
    "A layer of neurons whose spikes come back through a matrix."

    units: int = setting(12, "neurons of the layer", least=1)

    def __post_init__(self):
        super().__post_init__()
        self.back = nn.Linear(self.units, self.units, bias=False)

    def fire(self, current, time_steps):
        potential, spike, spikes = 0.0, torch.zeros_like(current[0]), []
        for step in range(time_steps):
            potential = 0.5 * potential * (1 - spike) + current[step % len(current)] + self.back(spike)
            spike = self.spike(potential - self.threshold)
            spikes.append(spike)
        return torch.stack(spikes)


def looped(num_classes: int, in_channels: int, act, image_size: int, units: int = 12):
    "A network with a setting that its neurons have too."
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size**2, units), act(), nn.Linear(units, num_classes))


class Alone(nn.Module):
    "It loops by itself, and its neuron is asked for spikes without being called."

    def __init__(self, num_classes, pixels, time_steps):
        super().__init__()
        self.time_steps, self.neuron = time_steps, Returning()
        self.enter, self.leave = nn.Linear(pixels, 12), nn.Linear(12, num_classes)

    def forward(self, x):
        current = self.enter((x if x.ndim == 5 else x.expand(self.time_steps, *x.shape)).flatten(2))
        return torch.stack([self.leave(self.neuron.spike(step - 1)) for step in current])


def alone(num_classes: int, in_channels: int, image_size: int, time_steps: int):
    return Alone(num_classes, in_channels * image_size**2, time_steps)
"""


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outside")
    (folder / "outside_parts.py").write_text(PARTS)
    sys.path.insert(0, str(folder))
    yield importlib.import_module("outside_parts")
    sys.path.remove(str(folder))
    del sys.modules["outside_parts"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return train_teacher(model="resnet32x4", width=0.0625, folder=tmp_path_factory.mktemp("outside") / "teacher", **TINY)


STUDENT = dict(student="vgg11", width=0.0625, time_steps=2)


def test_a_surrogate_is_a_function_by_its_name_or_path_and_is_used(parts, tmp_path):
    runs = [distill(method="baseline", surrogate=chosen, folder=tmp_path / name, **STUDENT, **TINY)
            for name, chosen in dict(path="outside_parts:fast", function=parts.fast, other=parts.steep).items()]  # fmt: skip
    assert [run.config["surrogate"] for run in runs] == ["outside_parts:fast", "outside_parts:fast", "outside_parts:steep"]
    weights = [run.checkpoint("last")["model"] for run in runs]
    same, other = ([weights[0][name].equal(found[name]) for name in found] for found in weights[1:])
    assert all(same) and not all(other)
    assert assess(runs[0])["accuracy"] == pytest.approx(runs[0].result["test_accuracy_best"])
    longer = distill(folder=tmp_path / "path", resume=True, epochs=2)
    assert longer.config["epochs"] == 2 and longer.config["surrogate"] == "outside_parts:fast"


def test_the_gradient_of_a_surrogate_of_somebody_else_is_exact(parts):
    current = torch.randn(1, 5, dtype=torch.float64, requires_grad=True)
    LIF(surrogate=parts.fast, threshold=0.5, gamma=0.7)(current).sum().backward()
    assert torch.allclose(current.grad, 1 / (0.7 * (1 + (current - 0.5).abs() / 0.7) ** 2) / 2)


def test_a_surrogate_that_no_other_process_would_find_is_refused(parts):
    for wrong, said in {
        (lambda distance, gamma: distance): "can be found by its import path, got .*<lambda>.*define it at the top of a module",
        "outside_parts:none": "has no attribute 'none'",
        "arctan": "did you mean 'arctangent'",
    }.items():
        with pytest.raises(ValueError, match=f"surrogate: expected.*{said}"):
            LIF(surrogate=wrong)


def test_a_run_folder_does_not_import_the_surrogate_that_it_names(parts, tmp_path):
    run = distill(method="baseline", surrogate=parts.fast, folder=tmp_path / "run", **STUDENT, **TINY)
    code = f"from sastc import open_run\ntry: open_run({str(run.folder)!r}).network\nexcept ValueError as error: print(error)"
    said, faults = Program(code).communicate()
    assert "import outside_parts first (for a command: --parts outside_parts)" in said, faults


def test_a_projection_is_a_class_and_comes_back_with_what_it_learned(parts, teacher, tmp_path):
    run = distill(method="sastc", beta=1, projection=parts.Depthwise, teacher=teacher.folder, folder=tmp_path / "run", **STUDENT, **TINY)
    assert run.config["projection"] == "outside_parts:Depthwise"
    kinds = {type(projection) for row in open_run(run.folder).method.alignment.projections for projection in row}
    assert kinds == {parts.Depthwise}
    assert RoutedAlignment(projection="auto").projection == "auto" and SimilarityAlignment(projection="none").projection == "none"
    routed = RoutedAlignment(projection="outside_parts:Depthwise")
    routed.build([(2, 4, 4)], [(3, 4, 4)])
    assert isinstance(routed.projections[0][0], parts.Depthwise)


@pytest.mark.parametrize(
    "given, said",
    [
        (dict(attention="Narrow"), r"attention: expected \[T, B, S, N\] = \[2, 16, \d, \d\] from Narrow, got \[\d, \d\]"),
        (dict(alignment="Mean"), r"alignment: expected \[T, B, S, N\] = \[2, 16, \d, \d\] from Mean, got \[\d, \d\]"),
        (dict(projection="Shrinking"), r"projection: expected \[T\*B, C, H, W\] = .* from Shrinking, got"),
    ],
)
def test_weights_and_distances_of_another_shape_are_refused_instead_of_being_multiplied(given, said, parts, teacher, tmp_path):
    given = {name: f"outside_parts:{value}" for name, value in given.items()}
    with pytest.raises(ValueError, match=said):
        distill(method="sastc", teacher=teacher.folder, folder=tmp_path / "run", **given, **STUDENT, **TINY)


@pytest.mark.parametrize(
    "method, said",
    [
        ("Bare", "terms: expected a Term with a tensor for 'bare' of Bare, got Tensor"),
        ("Each", r"terms: expected one number for 'each' of Each, got shape \[16\]"),
        ("Nothing", "terms: expected a dict with at least one Term from Nothing, got None"),
        ("Step", "record: expected other names than step and epoch, .* got 'step' in 'mine'"),
        ("Spoken", "record: expected tensors or numbers in 'mine', got others"),
        ("Focus", r"record: expected weights `attention` \[T, S, N\] and a number `saturation` .* got mean \[\]; call it otherwise"),
        ("Derived", "record: expected numbers by name from what is derived of 'mine', got others"),
        ("Unweighted", "terms: expected a number as weight of 'mean' of Unweighted, got None"),
        ("Half", r"layers: expected a list of student layers and one of teacher layers from Half, got \['layer2'\]"),
    ],
)
def test_terms_and_records_that_the_loop_cannot_add_up_are_refused(method, said, parts, tmp_path):
    with pytest.raises(ValueError, match=said):
        distill(method=getattr(parts, method), folder=tmp_path / "run", **STUDENT, **TINY)


class Several(Neuron):
    def decay_factor(self):
        return torch.full((4,), 0.5)


def test_a_decay_factor_for_each_channel_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match=r"decay_factor: expected a number or a tensor of one entry from Several, got \[4\]; override `fire`"):
        Several()(torch.rand(2, 4))


def test_modules_of_spikingjelly_in_two_step_modes_are_named():
    pytest.importorskip("spikingjelly")
    from spikingjelly.activation_based import layer, neuron

    network = nn.Sequential(
        layer.Conv2d(1, 4, 3, step_mode="m"), neuron.LIFNode(step_mode="s"), layer.Flatten(step_mode="m"), layer.Linear(144, 10, step_mode="m")
    )
    with pytest.raises(ValueError, match="steps: expected one step_mode .* got step_mode 'm' in '0' and 's' in the neuron '1'"):
        from_library(network, time_steps=2)


FIGURES = """
import plotly.graph_objects as go

def loss(runs):
    "The loss that I look at"
    return go.Figure([go.Scatter(x=[*run.steps.index], y=run.steps["total"].tolist(), name=f"mine of {run.folder.name}") for run in runs])

def none(runs):
    return 1

def wrong(runs):
    return runs[0].steps["nothing"]
"""


def test_a_figure_is_one_function_for_the_report_and_the_live_view(here, tmp_path, capsys):
    (here / "mine_parts.py").write_text(FIGURES)
    run = distill(method="baseline", folder=here / "run", **STUDENT, **TINY)
    assert main(["report", "run", "--figures", "mine_parts:loss"]) == 0
    page = (here / "run" / "report.html").read_text()
    assert "Figures of your own" in page and "mine of run" in page and "The loss that I look at" in page
    assert "Figures of your own" not in write_report(run.folder).read_text()
    capsys.readouterr()
    assert main(["report", "run", "--figures", "mine_parts:none"]) == 2
    assert "figures: expected functions that return a Plotly figure, got int from none" in capsys.readouterr().err
    assert main(["report", "run", "--figures", "mine_parts:wrong"]) == 2
    assert "figures: expected a figure of the records from wrong, got KeyError: 'nothing'" in capsys.readouterr().err

    pytest.importorskip("anywidget")
    from sastc.lab import LiveFigure

    view = LiveFigure(sys.modules["mine_parts"].loss, here / "other")
    assert view.figure["data"] == [] and "loss" in view.figure["layout"]["annotations"][0]["text"]
    distill(method="baseline", folder=here / "other", **STUDENT, **TINY)
    view.refresh()
    assert [trace["name"] for trace in view.figure["data"]] == ["mine of other"]
    assert view.figure["data"][0]["line"]["color"] and view.picture() is not None and "<img" in view.fragment()  # a figure that leaves colours to Plotly


def test_a_learned_constant_that_no_optimiser_sees_is_refused():
    norse = pytest.importorskip("norse.torch")
    learned = nn.Parameter(torch.tensor(0.3))
    network = norse.SequentialState(nn.Flatten(), nn.Linear(64, 10), norse.LIFCell(norse.LIFParameters(v_th=learned)), nn.Linear(10, 10))
    with pytest.raises(ValueError, match="network: expected constants that are learned to be parameters of the network, got v_th of '2'"):
        from_library(network, time_steps=2)
    network[2].register_parameter("v_th", learned)
    student = from_library(network, time_steps=2)
    student(torch.rand(4, 1, 8, 8) * 9).sum().backward()
    assert learned.grad is not None and any(parameter is learned for parameter in student.parameters())

    snn = pytest.importorskip("snntorch")
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), snn.Leaky(beta=nn.Parameter(torch.tensor(0.9)), init_hidden=True))
    with pytest.raises(ValueError, match="got beta of '2'"):
        from_library(network, time_steps=2)
    assert from_library(nn.Sequential(nn.Flatten(), nn.Linear(64, 10), snn.Leaky(beta=0.9, learn_beta=True, init_hidden=True)), time_steps=2)


def from_spikingjelly(num_classes: int, in_channels: int, time_steps: int):
    from spikingjelly.activation_based import neuron

    return from_library(nn.Sequential(nn.Conv2d(in_channels, 4, 3, 4, 1), neuron.LIFNode(), nn.Flatten(), nn.Linear(64, num_classes)), time_steps=time_steps)


def of_four_steps(num_classes: int, in_channels: int):
    return from_spikingjelly(num_classes, in_channels, 4)


def without_neurons(num_classes: int, in_channels: int):
    return nn.Sequential(nn.Conv2d(in_channels, 4, 3, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(64, num_classes))


def half_converted(num_classes: int, in_channels: int, act):
    return nn.Sequential(nn.Conv2d(in_channels, 4, 3, 4, 1), act(), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(64, num_classes))


def of_some_depth(num_classes: int, in_channels: int, act, depth: int):
    raise AssertionError


def test_a_builder_of_another_library_gets_the_steps_of_the_run(tmp_path):
    pytest.importorskip("spikingjelly")
    given = TINY | dict(method="baseline", folder=tmp_path / "run")
    run = distill(student=from_spikingjelly, time_steps=3, **given)
    assert len(run.result["test_accuracy_last_by_step"]) == run.config["time_steps"] == 3
    assert assess(run)["accuracy"] == pytest.approx(run.result["test_accuracy_best"])
    with pytest.raises(ValueError, match="time_steps: expected 4, with which .*of_four_steps builds its network, got 2"):
        distill(student=of_four_steps, time_steps=2, overwrite=True, **given)
    with pytest.raises(ValueError, match="neuron: expected none for .*from_spikingjelly, whose builder has no parameter act"):
        distill(student=from_spikingjelly, neuron="plif", time_steps=3, overwrite=True, **given)


def test_a_builder_that_forgets_to_spike_is_refused_or_warned_of(tmp_path):
    given = TINY | dict(method="baseline", folder=tmp_path / "run")
    for time_steps in (1, 2):  # with one step an ANN would pass for a spiking network
        with pytest.raises(ValueError, match="network: expected activations that are made by the builder's parameter act, got .*without_neurons"):
            distill(student=without_neurons, time_steps=time_steps, **given)
    with pytest.warns(UserWarning, match="network: expected activations that are neurons, got relu in 3 in .*half_converted, which stay analog"):
        distill(student=half_converted, **given)
    with pytest.raises(ValueError, match="network: expected a default for every parameter but .*, got .*of_some_depth, whose depth has none"):
        distill(student=of_some_depth, overwrite=True, **given)


class Recorded:
    "Recordings as tonic gives them."

    sensor_size, classes = (8, 8, 2), ["left", "right"]

    def __len__(self):
        return 20

    def __getitem__(self, number):
        generator = np.random.default_rng(number)
        events = np.zeros(50, dtype=[("x", "i2"), ("y", "i2"), ("t", "i8"), ("p", "i1")])
        events["x"], events["y"], events["t"] = 4 * (number % 2) + generator.integers(0, 4, 50), generator.integers(0, 8, 50), np.arange(50)
        return events, number % 2


def test_recordings_in_a_cache_of_tonic_are_recordings_and_no_images():
    tonic = pytest.importorskip("tonic")
    cached = frames_from(tonic.MemoryCachedDataset(Recorded()), 4)
    assert torch.equal(torch.as_tensor(cached.x_train), torch.as_tensor(frames_from(Recorded(), 4).x_train)) and cached.classes == ["left", "right"]
    for recordings in (Recorded(), tonic.MemoryCachedDataset(Recorded())):
        with pytest.raises(ValueError, match=r"data: expected images, got recordings of events \(recorded\)"):
            images_from(recordings)


class Growing(Baseline):
    def terms(self, step):
        step.record("mine", dict(row=torch.zeros(1 + int(4 * step.progress))))
        return super().terms(step)


class Fixed(Baseline):
    def terms(self, step):
        return {name: term._replace(value=term.value.detach()) for name, term in super().terms(step).items()}


class Late(Baseline):
    def terms(self, step):
        if not hasattr(self, "late"):
            self.late = nn.Parameter(torch.ones(()))
        return super().terms(step) | dict(late=Term((self.late * step.logits).square().mean()))


class Forgetful(Baseline):
    def terms(self, step):
        self.mean = step.logits.detach().mean(0)
        return super().terms(step)


@pytest.mark.parametrize(
    "method, said",
    [
        (Growing, r"record: expected 'row' of 'mine' to keep its shape \[1\], got \[2\]"),
        (Fixed, "terms: expected at least one with a gradient from Fixed, got none in ce"),
        (Late, "build: expected all that Late learns, got 'late', which its `terms` makes: too late to be trained"),
    ],
)
def test_what_a_method_would_lose_in_silence_is_refused(method, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        distill(method=method, folder=tmp_path / "run", **STUDENT, **TINY | dict(log_every=20))


class Counting(Baseline):
    def build(self, shapes):
        self.steps = 0

    def terms(self, step):
        self.steps += 1
        return super().terms(step)


@pytest.mark.parametrize("method, name", [(Forgetful, "mean"), (Counting, "steps")])
def test_a_state_that_no_checkpoint_holds_is_warned_of(method, name, tmp_path):
    said = (
        rf"{method.__name__}: expected a state in buffers \(register_buffer in `build`\), got '{name}', which `terms` makes or changes and a resumed run would"
    )
    with pytest.warns(UserWarning, match=said):
        distill(method=method, folder=tmp_path / "run", **STUDENT, **TINY)


class Learned(Baseline):
    def build(self, shapes):
        self.weight = nn.Parameter(torch.ones(()))

    def terms(self, step):
        return {name: term._replace(weight=self.weight) for name, term in super().terms(step).items()}


def test_a_weight_that_is_learned_learns_from_1_on(tmp_path):
    run = distill(method=Learned, folder=tmp_path / "run", **STUDENT, **TINY)
    assert run.checkpoint("last")["method"]["weight"] < 0.99  # the loss is its gradient


class Fading(Baseline):
    def terms(self, step):
        return {name: term._replace(weight=1 - step.progress) for name, term in super().terms(step).items()}


@pytest.mark.parametrize("other, late", [(Fading, True), (Learned, False)])
def test_a_sum_loses_no_weight_that_changes(other, late, tmp_path):
    said = r"terms: expected terms of one name to be one quantity, which a sum counts once, got two called 'ce'"
    with pytest.raises(ValueError, match=said):
        distill(method=Baseline() + other(), folder=tmp_path / "run", **STUDENT, **TINY)
    assert len(Run(tmp_path / "run").steps) <= late


class Reusing(KD):
    def layers(self, student, teacher):
        self.head = teacher.classifier
        return [], []


def test_a_method_does_not_train_the_teacher(teacher, tmp_path):
    with pytest.raises(ValueError, match="teacher: expected weights of its own, got 'classifier.weight', which the method has too and trains; copy one of"):
        distill(method=Reusing, teacher=teacher.folder, folder=tmp_path / "run", **STUDENT, **TINY)
    assert not (tmp_path / "run").exists()


def stopped_at(step, monkeypatch):
    "A context in which a run ends as by Ctrl-C."
    made = Trainer.step

    def broken(self, images, labels):
        if self.progress["step"] == step:
            raise KeyboardInterrupt
        made(self, images, labels)

    monkeypatch.setattr(Trainer, "step", broken)
    return pytest.raises(KeyboardInterrupt)


class Mixed(Baseline):
    def terms(self, step):
        share = random.random() + np.random.default_rng(np.random.randint(2**31)).random() + np.random.beta(0.5, 0.5)
        return {name: term._replace(value=share * term.value) for name, term in super().terms(step).items()}


def test_what_a_method_draws_goes_on_where_it_stopped(tmp_path, monkeypatch):
    given = STUDENT | TINY | dict(method=Mixed, epochs=2)
    whole = distill(**given, folder=tmp_path / "whole")
    with monkeypatch.context() as patched, stopped_at(11, patched):
        distill(**given, folder=tmp_path / "run")
    run = distill(method=Mixed, folder=tmp_path / "run", resume=True)
    assert run.steps.total.tolist() == whole.steps.total.tolist()


def small(width=4):
    return spiking(nn.Sequential(nn.Conv2d(1, width, 3, 4, 1), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten(), nn.Linear(16 * width, 10)), 2)


def frozen():
    network = small()
    network[0].requires_grad_(False)
    return network


def evaluating():
    network = small()
    network[1].eval()
    return network


@pytest.mark.parametrize(
    "other, said",
    [
        (
            lambda: dict(student=small(8)),
            r"student: expected the one that the run trained, in which '0.weight' has shape \[4, 1, 3, 3\], got Sequential with \[",
        ),
        (
            lambda: dict(student=frozen()),
            r"student: expected the network that the run trained \(networks.json: frozen: no '0.weight'\), got one with '0.weight'",
        ),
        (lambda: dict(student=evaluating()), r"student: .* \(networks.json: evaluating: no '1'\), got one with '1'"),
        (lambda: dict(student=small(), method=Learned()), "method: expected 'baseline', with which"),
    ],
)
def test_a_resume_that_is_refused_leaves_a_finished_run_as_it_was(other, said, tmp_path):
    run = distill(student=small(), method="baseline", folder=tmp_path / "run", **TINY)
    before = {path: path.read_bytes() for path in sorted(run.folder.rglob("*")) if path.is_file()}
    with pytest.raises(ValueError, match=said):
        distill(folder=run.folder, resume=True, epochs=2, **other())
    assert before == {path: path.read_bytes() for path in sorted(run.folder.rglob("*")) if path.is_file()}


def test_an_optimiser_that_does_not_fit_leaves_a_finished_run_as_it_was(tmp_path, monkeypatch):
    run = distill(student=small(), method="baseline", folder=tmp_path / "run", **TINY)

    def broken(self, content):
        raise ValueError("loaded state dict contains a parameter group that doesn't match the size of optimizer's group")

    monkeypatch.setattr(Trainer, "resume", broken)
    with pytest.raises(ValueError, match="folder: expected the optimiser with which the run in .* was trained, got another .*parameter group"):
        distill(folder=run.folder, resume=True, epochs=2, student=small())
    assert Run(run.folder).state == "finished" and Run(run.folder).result == run.result


class Refitted(Baseline):
    width = 1

    def build(self, shapes):
        self.weight = nn.Parameter(torch.ones(self.width))

    def terms(self, step):
        return {name: term._replace(weight=self.weight.mean()) for name, term in super().terms(step).items()}


def test_a_method_that_does_not_fit_leaves_a_finished_run_as_it_was(tmp_path, monkeypatch):
    run = distill(student=small(), method=Refitted, folder=tmp_path / "run", **TINY)
    monkeypatch.setattr(Refitted, "width", 2)
    with pytest.raises(ValueError, match=r"method: expected the one that the run trained, in which 'weight' has shape \[1\], got Refitted with \[2\]"):
        distill(folder=run.folder, resume=True, epochs=2, student=small(), method=Refitted)
    with pytest.raises(ValueError, match="method: expected the one that the run trained"):  # before a long training is begun
        rehearse(None, Config, folder=run.folder, resume=True, epochs=2, student=small(), method=Refitted)
    assert Run(run.folder).state == "finished" and Run(run.folder).result == run.result


def test_weights_to_begin_with_that_are_typed_at_a_resume_are_those_of_the_run(tmp_path):
    first, other = (distill(**STUDENT, **TINY, method="baseline", seed=seed, folder=tmp_path / f"seed{seed}") for seed in (0, 1))
    run = distill(**STUDENT, **TINY, method="baseline", init=str(first.folder), folder=tmp_path / "run")
    with pytest.raises(ValueError, match="init: expected the weights with which the run in .* was started"):
        distill(folder=run.folder, resume=True, epochs=2, init=str(other.folder))
    assert Run(run.folder).state == "finished"
    assert distill(folder=run.folder, resume=True, epochs=2, init=str(first.folder)).state == "finished"


def test_an_optimiser_and_a_schedule_are_classes_and_come_back(parts, tmp_path, capsys):
    given = dict(method="baseline", optimizer=parts.Lion, lion_beta=0.8, schedule="outside_parts:Restarts", ramps=3)
    whole = distill(folder=tmp_path / "whole", **given, **STUDENT, **TINY | dict(epochs=2, lr=0.001))
    assert {name: whole.config[name] for name in ("optimizer", "lion_beta", "schedule", "ramps")} == dict(
        optimizer="outside_parts:Lion", lion_beta=0.8, schedule="outside_parts:Restarts", ramps=3
    )
    rates = whole.steps.lr.to_numpy()
    assert (np.diff(rates) > 0).any() and rates.max() <= 0.001  # it begins anew
    usual = distill(folder=tmp_path / "usual", method="baseline", optimizer="adam", **STUDENT, **TINY | dict(lr=0.001))
    assert not torch.equal(*(list(run.checkpoint("last")["model"].values())[0] for run in (whole, usual)))
    part = distill(folder=tmp_path / "part", **given, **STUDENT, **TINY | dict(lr=0.001))
    longer, again = distill(folder=part.folder, resume=True, epochs=2), open_run(whole.folder)
    assert longer.state == "finished" and type(again.settings.optimisation.optimizer) is parts.Lion
    sums = longer.checkpoint("last")["optimizer"]["state"]
    assert sums and all("sums" in held for held in sums.values())
    options = ["--optimizer", "outside_parts:Lion", "--lion_beta", "0.7", "--print-config"]
    assert main(["distill", "--method", "baseline", *options]) == 0
    assert "lion_beta: 0.7" in capsys.readouterr().out
    code = f"import outside_parts; from sastc import open_run; print(open_run({str(whole.folder)!r}).settings['lion_beta'])"
    path = os.pathsep.join([os.path.dirname(parts.__file__), os.environ.get("PYTHONPATH", "")])
    said, faults = Program(code, environment=os.environ | dict(PYTHONPATH=path)).communicate()
    assert said.strip() == "0.8", faults


@pytest.mark.parametrize(
    "given, said",
    [
        (dict(optimizer="Newton"), "optimizer: expected one that makes a step from gradients, got LBFGS"),
        (dict(optimizer="Closed"), "optimizer: expected a method step\\(self, closure=None\\), .* got one without closure in Short"),
        (dict(optimizer="Unbuilt"), "optimizer: expected a torch.optim.Optimizer from `build` of Unbuilt, got list"),
        (dict(schedule="Below"), "factor of Below after 0% of the epochs: expected a number of at least 0, got -1.0"),
        (dict(optimizer="Restarts"), "optimizer: expected a subclass of Optimizer, got 'outside_parts:Restarts'"),
    ],
)
def test_an_optimiser_that_makes_no_step_is_refused_and_leaves_no_folder(given, said, parts, tmp_path):
    with pytest.raises(ValueError, match=said):
        distill(method="baseline", folder=tmp_path / "run", **{name: f"outside_parts:{value}" for name, value in given.items()}, **STUDENT, **TINY)
    assert not (tmp_path / "run").exists()


def test_a_setting_beside_an_optimiser_that_was_passed_is_refused_by_its_name(parts, tmp_path):
    with pytest.raises(ValueError, match=r"lr: expected inside the object that was passed, as optimizer=outside_parts:Lion\(lr=0.02\), got 0.02 beside it"):
        distill(method="baseline", optimizer=parts.Lion(), folder=tmp_path / "run", **STUDENT, **TINY)


def test_a_run_folder_as_a_configuration_has_the_settings_of_its_parts_and_imports_none(parts, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    distill(method="baseline", optimizer=parts.Lion, lion_beta=0.8, folder=tmp_path / "run", **STUDENT, **TINY)
    distill(method="baseline", surrogate=parts.fast, folder=tmp_path / "other", **STUDENT, **TINY)
    assert main(["distill", "--config", "run", "--print-config"]) == 0
    (tmp_path / "same.yaml").write_text(capsys.readouterr().out)
    for place in ("run", "same.yaml"):
        assert main(["distill", "--config", place, "--folder", place[:4] + "-again", "--epochs", "1"]) == 0
        assert Run(place[:4] + "-again").config["lion_beta"] == 0.8
    code = "import sys; from sastc.cli import main; status = main(['distill', '--config', *sys.argv[1:]]); print('outside_parts' in sys.modules, status)"
    environment = os.environ | dict(PYTHONPATH=os.pathsep.join([os.path.dirname(parts.__file__), os.environ.get("PYTHONPATH", "")]))
    for place, named in (("run", "optimizer"), ("other", "surrogate")):
        said, faults = Program(code, [place, "--folder", "none"], environment=environment).communicate()
        assert said.split() == ["False", "2"] and f"{named}: expected" in faults and "--parts outside_parts" in faults, faults


def test_a_recurrent_neuron_may_have_a_setting_of_its_networks_name(parts, tmp_path):
    given = dict(method="baseline", student=parts.looped, neuron=parts.Returning, time_steps=3)
    run = distill(folder=tmp_path / "run", **given, **TINY)
    assert run.config["units"] == run.config["neuron.units"] == 12
    assert assess(run.folder)["accuracy"] == run.result["test_accuracy_best"]
    other = distill(folder=tmp_path / "other", **given, **{"units": 9, "neuron.units": 9}, **TINY)
    assert open_run(other.folder).network[2].back.weight.shape == (9, 9)
    assert distill(folder=other.folder, resume=True, epochs=2).state == "finished"


def test_a_network_whose_neurons_never_run_is_trained_without_rates_and_says_so(parts, tmp_path, capsys):
    teacher = train_teacher(model=parts.looped, folder=tmp_path / "teacher", **TINY)
    with pytest.warns(UserWarning, match="network: expected neurons that are called, got some that never were, so nothing is known of their rates"):
        run = distill(method="kd", student=parts.alone, teacher=teacher.folder, folder=tmp_path / "run", **TINY)
        found = assess(run.folder)
    assert "firing_rate" not in run.result and "rates" not in run.result and run.result["microjoule"] > 0
    assert found["accuracy"] == run.result["test_accuracy_best"] and "stm_raw" not in found
    assert "the mismatch with the teacher is left out (names: expected modules that run once" in "".join(capsys.readouterr())


def test_the_page_of_a_study_has_figures_of_ones_own(here):
    (here / "mine_parts.py").write_text(FIGURES)
    distill(method="baseline", folder=here / "study" / "base-seed0", **STUDENT, **TINY)
    assert main(["report", "study", "--figures", "mine_parts:loss"]) == 0
    assert "Figures of your own" in (here / "study" / "report.html").read_text()


def test_the_mismatch_of_a_sum_is_that_of_the_layers_which_it_compares(teacher):
    student, ann = create_model("vgg11", width=0.0625, time_steps=2, in_channels=1), create_model("resnet32x4", width=0.0625, in_channels=1)
    several = SASTC(student_layers=("layer2", "layer4"), teacher_layers=("stage3",))
    for method in (several, several + TET(), TET() + several):
        assert [taps.names for taps in compared_layers(method, student, ann)] == [["layer2", "layer4"], ["stage3"]]
    assert [taps.names for taps in compared_layers(FeatureKD(student_layer="layer2"), student, ann)] == [candidates(student), candidates(ann)]


# ---------------------------------------------------------------- relatives of what other libraries' tutorials use


def snntorch_in_parallel():
    snn = pytest.importorskip("snntorch", reason="the extra `students` (snntorch) is not installed")

    class Parallel(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.between = snn.LeakyParallel(64, 12), snn.LeakyParallel(12, 10), nn.Linear(12, 12)

        def forward(self, x):
            return self.second(self.between(self.first(x.flatten(2))))

    return Parallel()


def norse_with_conductances():
    norse = pytest.importorskip("norse.torch", reason="the extra `students` (norse) is not installed")
    return norse.SequentialState(nn.Flatten(), nn.Linear(64, 12), norse.CobaLIFCell(12, 12), nn.Linear(12, 10), norse.LICell())


def spikingjelly_with_a_loop():
    pytest.importorskip("spikingjelly", reason="the extra `students` (spikingjelly) is not installed")
    from spikingjelly.activation_based import layer, neuron

    back = layer.LinearRecurrentContainer(neuron.IFNode(), 12, 12, bias=True)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), back, layer.SynapseFilter(tau=2.0, learnable=True), nn.Linear(12, 10), neuron.ParametricLIFNode())


@pytest.mark.parametrize(
    "build, spiking",
    [(snntorch_in_parallel, ["first", "second"]), (norse_with_conductances, ["2"]), (spikingjelly_with_a_loop, ["2-sub_module", "5"])],
)
def test_relatives_of_the_usual_neurons_are_tapped_and_forget(build, spiking):
    torch.manual_seed(0)
    network, images = from_library(build(), 3).eval(), torch.rand(4, 1, 8, 8)
    first, again = network(images), network(images)
    assert torch.equal(first, again) and first.shape == (3, 4, 10)
    assert [name.removeprefix("spikes.") for name in firing_rates(network, images)] == spiking


def test_a_student_of_another_library_is_explained_and_not_written_as_nir():
    pytest.importorskip("spikingjelly", reason="the extra `students` (spikingjelly) is not installed")
    from spikingjelly.activation_based import neuron

    layers = nn.Conv2d(1, 4, 3, 2, 1), neuron.IFNode(), nn.Conv2d(4, 4, 3, 2, 1), neuron.LIFNode(), nn.Flatten(), nn.Linear(16, 10)
    network = from_library(nn.Sequential(*layers), 2)
    assert _last_neuron_of(network) == "spikes.3"
    with pytest.raises(ValueError, match="student: expected neurons of this package, got LibraryNetwork with those of another library"):
        to_nir(network, (1, 8, 8))


def _last_neuron_of(network):
    spikes = torch.zeros(2, 1, 8, 8)
    names = candidates(network, "stages")
    assert [feature.shape for feature in Taps(network, names)(spikes)[1]] == [(2, 2, 4, 4, 4), (2, 2, 4, 2, 2)]
    return names[-1]
