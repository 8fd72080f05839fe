"""Exports, tested by running what was written: NIR by an interpreter of its own equations, programs in a process without this package."""

import copy
import subprocess
import sys
from functools import partial
from graphlib import TopologicalSorter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from sastc.cli import main
from sastc.common.settings import flat
from sastc.models import Taps, create_model, list_models, spiking
from sastc.models.preprocessing import Preprocessing
from sastc.neurons.network import over_time
from sastc.neurons.neuron import IF, LIF, PLIF, Neuron
from sastc.studies.export import export_run, to_nir, to_torch_export, write_student
from sastc.training.config import Config, TeacherConfig, settings_for
from sastc.training.runs import Run, RunWriter

nir = pytest.importorskip("nir")

STEPS = 3


def trained(network):
    "What training leaves: statistics and scales that are neither 0 nor 1, and neurons that fire."
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.7, 1.5)
            nn.init.normal_(module.bias, 0.2, 0.3)
    return network.eval()


def student(name="vgg11", time_steps=STEPS, **options):
    torch.manual_seed(0)
    size = dict(image_size=16) if name == "vgg11" else {}
    return trained(create_model(name, time_steps=time_steps, width=1 / 16, **size, **options))


@torch.no_grad()
def far_from_thresholds(network, count):
    """Images for which no spike hangs on rounding, for packages that compute in float32 only: weights that move by a hundred times as much
    change no logit by more than that."""
    images, moved = torch.randn(16 * count, 3, 16, 16), copy.deepcopy(network)
    expected, steady = network(images), torch.ones(16 * count, dtype=torch.bool)
    for _ in range(5):
        for to, weight in zip(moved.parameters(), network.parameters()):
            to.copy_(weight * (1 + 1e-5 * torch.randn_like(weight)))
        steady &= (moved(images) - expected).abs().amax((0, 2)) < 1e-3
    assert steady.sum() >= count
    return images[steady][:count]


def through_a_file(graph, tmp_path):
    nir.write(tmp_path / "graph.nir", graph)
    return nir.read(tmp_path / "graph.nir")


# --- a receiver of NIR, written from NIR's own description


def tensor(array):
    return torch.from_numpy(np.asarray(array))


def sizes(array):
    return array if isinstance(array, str) else tuple(int(size) for size in np.atleast_1d(array))


def stateless(node, x):
    match node:
        case nir.Conv2d():
            return F.conv2d(x, tensor(node.weight), tensor(node.bias), sizes(node.stride), sizes(node.padding), sizes(node.dilation), int(node.groups))
        case nir.Affine():
            return x @ tensor(node.weight).T + tensor(node.bias)
        case nir.Linear():
            return x @ tensor(node.weight).T
        case nir.AvgPool2d():
            return F.avg_pool2d(x, sizes(node.kernel_size), sizes(node.stride), sizes(node.padding))
        case nir.SumPool2d():
            return F.avg_pool2d(x, sizes(node.kernel_size), sizes(node.stride), sizes(node.padding), divisor_override=1)
        case nir.Threshold():
            return (x > tensor(node.threshold)).to(x.dtype)
        case nir.Flatten():
            batched = [int(axis) + 1 if axis >= 0 else int(axis) for axis in (node.start_dim, node.end_dim)]
            return x.flatten(*batched)
        case nir.Input() | nir.Output():
            return x
    raise NotImplementedError(type(node).__name__)


def stepped(node, v, current, dt, discretisation):
    "Potential before the reset."
    if isinstance(node, nir.IF):
        return v + dt * tensor(node.r) * current
    share = dt / tensor(node.tau) if discretisation == "euler" else -torch.expm1(-dt / tensor(node.tau))
    return v + share * (tensor(node.v_leak) - v + tensor(node.r) * current)


def interpret(graph, frames, dt=1e-4, discretisation="euler"):
    "Outputs [T, B, K] and, by node, spikes [T, B, ...]."
    before = {name: [source for source, end in graph.edges if end == name] for name in graph.nodes}
    (output,) = graph.outputs
    potential, outputs, spikes = {}, [], {}
    for frame in frames:
        value = {}
        for name in TopologicalSorter(before).static_order():
            node = graph.nodes[name]
            x = sum(value[source] for source in before[name]) if before[name] else frame
            if isinstance(node, (nir.LIF, nir.IF)):
                v = stepped(node, potential.get(name, torch.zeros_like(x)), x, dt, discretisation)
                fires = v > tensor(node.v_threshold)
                potential[name] = torch.where(fires, tensor(node.v_reset), v)
                x = fires.to(x.dtype)
                spikes.setdefault(name, []).append(x)
            else:
                x = stateless(node, x)
            value[name] = x
        outputs.append(value[output])
    return torch.stack(outputs), {name: torch.stack(steps) for name, steps in spikes.items()}


def assert_same(network, graph, x, **receiver):
    "Logits and every spike of every neuron."
    neurons = [name for name, module in network.named_modules() if isinstance(module, Neuron)]
    with torch.no_grad():
        logits, features = Taps(network, neurons)(x)
        outputs, spikes = interpret(graph, x if x.ndim == 5 else [x] * STEPS, **receiver)
    assert spikes.keys() == {name.replace(".", "_") for name in neurons}
    for name, feature in zip(neurons, features):
        assert torch.equal(spikes[name.replace(".", "_")], feature), name
    assert sum(feature.any() for feature in features) > len(features) / 2  # silence would prove nothing
    torch.testing.assert_close(outputs, logits, rtol=0, atol=1e-12)


# --- NIR: in double precision, where rounding moves no potential across the threshold


@pytest.mark.parametrize("name", [name for name in list_models() if not name.startswith("spikformer")])  # whose products have no node
def test_nir_gives_the_logits_and_spikes_of_every_network(name, tmp_path):
    network, size = student(name).double(), 48 if name == "vggsnn" else 16
    graph = through_a_file(to_nir(network, (3, size, size)), tmp_path)
    assert_same(network, graph, torch.randn(2, 3, size, size, dtype=torch.float64))


def test_nir_in_single_precision(tmp_path):
    # folded weights are rounded once more than the layers they come from: a potential within 1e-6 of the threshold may fall to the other side
    network = student("resnet18")
    graph = through_a_file(to_nir(network, (3, 16, 16)), tmp_path)
    assert graph.nodes["stem_0"].weight.dtype == graph.nodes["stem_2"].tau.dtype == np.float32
    x = torch.randn(4, 3, 16, 16)
    outputs, spikes = interpret(graph, [x] * STEPS)
    with torch.no_grad():
        logits, (feature,) = Taps(network, ["stage4.1.act"])(x)
    assert (spikes["stage4_1_act"] != feature).double().mean() < 1e-3
    torch.testing.assert_close(outputs, logits, rtol=0, atol=0.05)


@pytest.mark.parametrize("neuron", [dict(decay=0.9), dict(decay=0.0), dict(decay=1.0), dict(decay=0.3, threshold=0.6)], ids=str)
def test_nir_keeps_the_constants_of_the_neuron(neuron, tmp_path):
    network = student(**neuron, fc_neurons=True).double()
    graph = through_a_file(to_nir(network, (3, 16, 16), dt=1e-3), tmp_path)
    assert_same(network, graph, torch.randn(2, 3, 16, 16, dtype=torch.float64), dt=1e-3)


def of_neuron(kind, name="wrn16_2", **options):
    "A student whose layers differ in what they learned."
    network = student(name, neuron=kind, **options)
    for number, module in enumerate(module for module in network.modules() if isinstance(module, PLIF)):
        module.decay_logit.data.fill_(0.4 * number - 2)
    return network.double()


@pytest.mark.parametrize(
    "neuron",
    [dict(kind="if"), dict(kind="plif"), dict(kind=PLIF, threshold=0.6, surrogate="arctangent"), dict(kind=IF, surrogate="rectangle", gamma=0.4)],
    ids=str,
)
@pytest.mark.parametrize("discretisation", ["euler", "exponential"])
def test_nir_takes_every_neuron_with_hard_reset(neuron, discretisation, tmp_path):
    network = of_neuron(**neuron)
    graph = through_a_file(to_nir(network, (3, 16, 16), discretisation=discretisation), tmp_path)
    kinds = [type(node) for node in graph.nodes.values() if isinstance(node, (nir.IF, nir.LIF))]
    learned = any(isinstance(module, PLIF) for module in network.modules())
    assert set(kinds) == {nir.LIF if learned else nir.IF}
    assert_same(network, graph, torch.randn(2, 3, 16, 16, dtype=torch.float64), discretisation=discretisation)


class Leaky(LIF):
    "A neuron of somebody's own: its decay factor is worked out."

    def decay_factor(self):
        return self.decay**2


class Own(nn.Module):
    "Written with neurons, and one that keeps its name in the graph."

    def __init__(self, first, second):
        super().__init__()
        self.conv, self.norm, self.leaky = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), first
        self.fc, self.last, self.out = nn.Linear(256, 20), second, nn.Linear(20, 5)

    def forward(self, x):
        x = self.leaky(self.norm(self.conv(x)))
        return self.out(self.last(self.fc(x.flatten(1))))


def own_network(first=Leaky, second=PLIF, **options):
    torch.manual_seed(0)
    return over_time(Own(first(STEPS, decay=0.9), second(STEPS, threshold=0.1, **options)), STEPS)


def test_networks_and_neurons_of_your_own_leave_as_ours_do(tmp_path):
    network, x = trained(own_network()).double(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    graph = through_a_file(to_nir(network, (3, 8, 8)), tmp_path)
    assert float(graph.nodes["leaky"].tau.flat[0]) == pytest.approx(1e-4 / (1 - 0.81))
    assert_same(network, graph, x)
    with torch.no_grad():
        torch.testing.assert_close(to_torch_export(network, (3, 8, 8)).module()(x), network(x), rtol=0, atol=1e-12)


def test_nir_repeats_how_images_are_normalised(tmp_path):
    network = student()
    network.preprocessing = Preprocessing((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 16, ("a", "b"))
    notes = through_a_file(to_nir(network, (3, 16, 16)), tmp_path).metadata
    assert notes["mean"].tolist() == [0.1, 0.2, 0.3] and notes["std"].tolist() == [0.4, 0.5, 0.6] and int(notes["time_steps"]) == STEPS


def test_nir_for_exponential_steps(tmp_path):
    network = student(decay=0.5).double()
    graph = through_a_file(to_nir(network, (3, 16, 16), discretisation="exponential"), tmp_path)
    assert graph.metadata["discretisation"].startswith("exact")
    assert_same(network, graph, torch.randn(2, 3, 16, 16, dtype=torch.float64), discretisation="exponential")


def test_nir_takes_a_frame_a_step(tmp_path):
    network = student("wrn16_2", norm="tdbn", in_channels=2).double()
    graph = through_a_file(to_nir(network, (2, 16, 16)), tmp_path)
    assert_same(network, graph, torch.randn(STEPS, 2, 2, 16, 16, dtype=torch.float64))


class Odd(nn.Module):
    "Functions instead of modules, a neuron that is called twice, a linear layer with a norm and one without bias."

    def __init__(self):
        super().__init__()
        self.conv, self.again = nn.Conv2d(3, 4, 3, padding="same"), nn.Conv2d(4, 4, 3, padding=1)
        self.act, self.drop = nn.ReLU(), nn.Dropout(0.5)
        self.fc, self.norm, self.act2, self.out = nn.Linear(64, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 5, bias=False)

    def forward(self, x):
        x = self.act(self.conv(x))
        x = F.max_pool2d(x, 3, 2, padding=1)
        x += self.act(self.again(self.drop(x)))
        x = F.avg_pool2d(x, x.size(3) // 4).view(x.size(0), -1)
        return self.out(self.act2(self.norm(self.fc(x))))


def test_nir_of_networks_of_others(tmp_path):
    torch.manual_seed(0)
    for ann, size in ((Odd(), 16), (torchvision.models.resnet18(num_classes=5), 64)):
        network = trained(spiking(ann, STEPS, decay=0.5)).double()
        graph = through_a_file(to_nir(network, (3, size, size)), tmp_path)
        x = torch.randn(2, 3, size, size, dtype=torch.float64)
        with torch.no_grad():
            outputs, spikes = interpret(graph, [x] * STEPS)
            torch.testing.assert_close(outputs, network(x), rtol=0, atol=1e-12)
        assert sum(spike.any() for spike in spikes.values()) > len(spikes) / 2


def test_the_student_itself_is_left_as_it_was():
    network = student().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    to_nir(network, (3, 16, 16))
    to_torch_export(network, (3, 16, 16))
    assert network.training and all(parameter.requires_grad for parameter in network.parameters())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def net(*layers):
    return spiking(nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(2)), 2)


def test_what_nir_cannot_say_is_refused_in_a_sentence():
    conv, act = lambda **options: nn.Conv2d(3, 3, 3, **options), nn.ReLU()
    for layers, sentence in {
        (conv(padding_mode="circular", padding=1), act): "student: expected layers that have a NIR node, got '0' (Conv2d): NIR pads with zeros only",
        (conv(groups=3), act): "one group of channels, and it has 3",
        (nn.Conv2d(3, 3, (3, 1)), act): "NIR counts [3, 6, 6] values where it has [3, 6, 8]",
        (act, nn.AvgPool2d(3, ceil_mode=True)): "rounds the size of a pooled map down",
        (act, nn.AvgPool2d(2, padding=1, count_include_pad=False)): "padding included",
        (act, nn.AdaptiveAvgPool2d(3)): "[8, 8] cannot be divided into [3, 3] equal windows",
        (nn.MaxPool2d(2), act): "what it pools are no spikes",
        (act, nn.GroupNorm(1, 3)): "(GroupNorm): there is no NIR node for it",
        (nn.BatchNorm2d(3, track_running_stats=False), act): "normalises by the batch it sees",
    }.items():
        network = net(*layers)
        network(torch.zeros(1, 3, 8, 8))
        with pytest.raises(ValueError) as error:
            to_nir(network, (3, 8, 8))
        assert sentence in str(error.value) and str(error.value).startswith("student: "), error.value


class Forward(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.conv, self.act, self.fc, self.compute = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.Linear(192, 2), forward

    def forward(self, x):
        return self.fc(self.compute(self, x).flatten(1))


@pytest.mark.parametrize(
    "forward, sentence",
    [
        (lambda net, x: net.act(x) if x.sum() > -1 else x, "cannot be traced"),
        (lambda net, x: net.act(x) * 2, "(mul): "),
        (lambda net, x: net.act(x) + 1, "it is a sum, but not of the outputs of two layers"),
        (lambda net, x: (s := net.act(x)) + s, "adds something to itself"),
        (lambda net, x: net.act(x).transpose(2, 3), "(transpose): "),
        (lambda net, x: torch.cat([net.act(x)]), "does not take the output of one layer"),
    ],
)
def test_a_forward_pass_that_nir_cannot_follow_is_refused(forward, sentence):
    with pytest.raises(ValueError, match="student: ") as error:
        to_nir(spiking(Forward(forward), 2), (3, 8, 8))
    assert sentence in str(error.value)


def test_layers_that_do_more_than_their_weights_say_are_refused():
    def network():
        return spiking(nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 2)), 2)

    hooked, replaced = network(), network()
    hooked[0].register_forward_hook(lambda module, args, output: 2 * output)
    replaced[3].forward = lambda x: F.linear(x, replaced[3].weight)
    for net, name in ((hooked, "0"), (replaced, "3")):
        with pytest.raises(ValueError, match=f"student: expected layers without hooks or a forward pass of their own, which no NIR node has, got '{name}'"):
            to_nir(net, (3, 8, 8))
    assert len(to_nir(network(), (3, 8, 8)).nodes) == 6


class Adaptive(LIF):
    def fire(self, current, time_steps):
        return super().fire(2 * current, time_steps)


class Several(LIF):
    def decay_factor(self):
        return torch.tensor([0.1, 0.2])


class Growing(LIF):
    def decay_factor(self):
        return 1.5


def test_neurons_that_nir_does_not_have_are_refused_by_name():
    soft, own = dict(reset="soft"), partial(own_network, first=LIF)
    for network, size, sentence in [
        (student("resnet18", **soft), 16, "'stem.2' (LIF): NIR's neurons are reset to a value, and its reset is 'soft'; write it for torch or onnx"),
        (own(second=PLIF, **soft), 8, "'last' (PLIF): NIR's neurons are reset to a value"),
        (own(second=Adaptive), 8, "'last' (Adaptive): it fires in a way of its own"),
        (own(second=Growing), 8, "'last' (Growing): its decay factor is 1.5"),
    ]:
        with pytest.raises(ValueError) as error:
            to_nir(network, (3, size, size))
        assert sentence in str(error.value), error.value
    with pytest.raises(ValueError, match="no time constant gives its decay factor 0 in exponential steps"):
        to_nir(student(decay=0.0), (3, 16, 16), discretisation="exponential")
    with pytest.raises(ValueError, match="student: expected logits"):
        to_nir(over_time(nn.Sequential(nn.Flatten(), LIF(STEPS), nn.Linear(192, 8), nn.Unflatten(1, (2, 4))), STEPS), (3, 8, 8))
    with pytest.raises(ValueError, match="student: expected a spiking network .* got Sequential, which has no time_steps"):
        to_torch_export(nn.Sequential(nn.Flatten()), (3, 8, 8))


def test_without_the_packages_a_sentence_says_what_to_install(monkeypatch, tmp_path):
    for package, to in (("nir", "nir"), ("onnxscript", "onnx")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(ImportError, match=rf'to: expected the package {package} to be installed, got none .*; `pip install "sastc\[export\]"`'):
            write_student(student(), tmp_path / f"file.{to}", (3, 16, 16), to)
    assert not list(tmp_path.iterdir())


# --- other packages that read NIR, where they are installed


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("name", ["vgg11", "resnet18", "sew_resnet18", "ms_resnet18"])
def test_spikingjelly_reads_it(name):
    exchange = pytest.importorskip("spikingjelly.activation_based.nir_exchange.from_nir")
    network, x = student(name), torch.randn(2, 3, 16, 16)
    received, state, steps = exchange.import_from_nir(to_nir(network, (3, 16, 16)), dt=1e-4, dtype=torch.float64), None, []
    with torch.no_grad():
        for _ in range(STEPS):
            logits, state = received(x, state)
            steps.append(logits)
        torch.testing.assert_close(torch.stack(steps), network(x), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["vgg11", "resnet18", "sew_resnet18", "ms_resnet18"])
def test_snntorch_reads_it(name):
    exchange = pytest.importorskip("snntorch.import_nir")
    network = student(name)
    x = far_from_thresholds(network, 1)  # it flattens the batch too, so one image at a time
    received, state, steps = exchange.import_from_nir(to_nir(network, (3, 16, 16))), None, []
    with torch.no_grad():
        for _ in range(STEPS):
            logits, state = received(x, state)
            steps.append(logits)
        torch.testing.assert_close(torch.stack(steps), network(x)[:, 0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["vgg11", "sew_resnet18", "ms_resnet18"])
def test_norse_reads_another_network_or_none(name):
    "What the page about export says of it: once this fails, Norse reads more, and the page is to be mended."
    reader = pytest.importorskip("norse.torch")
    network, x, steps, state = student(name), torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)), [], None
    received = reader.from_nir(to_nir(network, (3, 16, 16)), ignore_warnings=True, dt=1e-4)
    with torch.no_grad():
        if name != "vgg11":  # the order of its nodes is another one in each process
            try:
                logits, _ = received(x, None)
            except RuntimeError as error:
                assert "size of tensor" in str(error) or "shapes cannot be multiplied" in str(error)
            else:
                assert logits.numel() != 10
            return
        for _ in range(STEPS):
            logits, state = received(x, state)
            steps.append(logits.reshape(1, -1))
        assert 0.01 < (torch.stack(steps) - network(x)).abs().max() < 1


# --- programs


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("name", ["wrn16_2", "pyramidnet20", "vgg13"])
def test_a_program_gives_the_logits(name):
    network = student(name, time_steps=2)
    program = to_torch_export(network, (3, 16, 16)).module()
    with torch.no_grad():
        for batch in (1, 5):
            x = torch.randn(batch, 3, 16, 16)
            torch.testing.assert_close(program(x), network(x), rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", ["lif", "if", "plif"])
@pytest.mark.parametrize("reset", ["hard", "soft"])
def test_a_program_has_the_neurons_of_the_student(kind, reset):
    network, x = of_neuron(kind, reset=reset), torch.randn(3, 3, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        expected = network(x)
        torch.testing.assert_close(to_torch_export(network, (3, 16, 16)).module()(x), expected, rtol=0, atol=1e-12)
        assert not torch.allclose(of_neuron(kind, reset="soft" if reset == "hard" else "hard")(x), expected)  # it makes a difference here


@pytest.mark.usefixtures("in_float64")
def test_a_program_of_frames_and_one_of_a_fixed_batch():
    network = student(time_steps=2)
    frames = torch.randn(2, 4, 3, 16, 16)
    with torch.no_grad():
        program = to_torch_export(network, (2, 3, 16, 16)).module()
        torch.testing.assert_close(program(frames), network(frames), rtol=0, atol=1e-9)
        program = to_torch_export(network, (3, 16, 16), batch=4).module()
        torch.testing.assert_close(program(frames[0]), network(frames[0]), rtol=0, atol=1e-9)
        with pytest.raises((AssertionError, RuntimeError)):
            program(frames[0, :3])
    with pytest.raises(ValueError, match="batch: expected a whole number of at least 1, got 0"):
        to_torch_export(network, (3, 16, 16), batch=0)


ELSEWHERE = """
import importlib.abc, sys
import torch

class NoSastc(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "sastc":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NoSastc())
program, images, logits = sys.argv[1:]
torch.save(torch.export.load(program).module()(torch.load(images)), logits)
assert "sastc" not in sys.modules
"""


@pytest.mark.usefixtures("in_float64")
def test_a_program_runs_where_sastc_is_not(tmp_path):
    network, x = student(time_steps=2), torch.randn(3, 3, 16, 16)
    program = write_student(network, tmp_path / "student.pt2", (3, 16, 16), to="torch")
    torch.save(x, tmp_path / "images.pt")
    files = [program, tmp_path / "images.pt", tmp_path / "logits.pt"]
    subprocess.run([sys.executable, "-c", ELSEWHERE, *map(str, files)], cwd=tmp_path, check=True)
    with torch.no_grad():
        torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), network(x), rtol=0, atol=1e-9)


@pytest.mark.parametrize("neuron", [dict(), dict(neuron="plif", reset="soft")], ids=str)
def test_onnx_runtime_gives_the_logits(neuron, tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    network = student("wrn16_2", time_steps=2, **neuron)
    file = write_student(network, tmp_path / "student.onnx", (3, 16, 16), to="onnx")
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for batch in (1, 4):
        x = far_from_thresholds(network, batch)
        (logits,) = session.run(["logits"], dict(images=x.numpy()))
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(logits), network(x), rtol=0, atol=1e-5)


# --- runs


def run_of(network, folder, kind=Config, data=None, **settings):
    "The folder that training would leave, as far as exporting reads it."
    writer = RunWriter(folder, "student" if kind is Config else "teacher", flat(settings_for(kind, settings)), layers={}, data=data)
    writer.checkpoint("best", dict(spec=getattr(network, "spec", None), model=network.state_dict()))
    return str(folder)


@pytest.mark.usefixtures("in_float64")
def test_a_run_leaves_by_command(tmp_path, capsys):
    network = student("resnet18_sastc", time_steps=2)
    run = run_of(network, tmp_path / "run", image_size=16)
    assert main(["export", run, "--to", "torch"]) == 0
    assert capsys.readouterr().out.strip() == f"{run}/best.pt2"
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(torch.export.load(f"{run}/best.pt2").module()(x), network(x), rtol=0, atol=1e-9)
    assert main(["export", run, "--file", str(tmp_path / "own" / "student.nir"), "--image-size", "32"]) == 0
    assert list(nir.read(tmp_path / "own" / "student.nir").input_type["input"]) == [3, 32, 32]
    assert [path.name for path in (tmp_path / "own").iterdir()] == ["student.nir"]


def test_wrong_exports_are_answered_in_a_sentence(tmp_path, capsys):
    run, teacher = run_of(student(), tmp_path / "run"), run_of(student(), tmp_path / "teacher", TeacherConfig)
    for arguments, sentence in (
        ([teacher], "expected the run of a student, got that of a teacher"),
        ([run, "--to", "keras"], "to: expected one of nir, torch, onnx, model, got 'keras'"),
        ([run, "--which", "first"], "first.pt, which is not there; the folder has best"),
        ([run, "--image-size", "64"], "image_shape: expected one on which VGG11 runs, got [3, 64, 64]"),
    ):
        assert main(["export", *arguments, "--file", str(tmp_path / "files" / "student.nir")]) == 2
        assert (said := capsys.readouterr().err).startswith("sastc export: ") and sentence in said, said
    assert not (tmp_path / "files").exists()


def test_a_run_of_a_network_of_your_own_leaves_with_the_module(tmp_path):
    network = trained(own_network())
    folder = run_of(network, tmp_path / "run", data=dict(name="bytes", shape=[3, 8, 8]), student=network)
    with pytest.raises(ValueError, match="student="):
        export_run(folder)
    graph = nir.read(export_run(Run(folder), student=own_network()))
    assert list(graph.input_type["input"]) == [3, 8, 8] and "leaky" in graph.nodes


@pytest.mark.usefixtures("in_float64")
def test_a_run_of_recordings_leaves_as_a_program_of_frames(tmp_path):
    network, data = student(in_channels=2), dict(name="recordings", shape=[STEPS, 2, 16, 16])
    folder = run_of(network, tmp_path / "run", data=data)
    frames = torch.randn(STEPS, 4, 2, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(torch.export.load(export_run(folder, "torch")).module()(frames), network(frames), rtol=0, atol=1e-9)
    assert list(nir.read(export_run(folder)).input_type["input"]) == [2, 16, 16]


def test_a_write_that_fails_keeps_the_file_that_was_there(tmp_path, monkeypatch):
    file = write_student(student(), tmp_path / "student.nir", (3, 16, 16))
    before = file.read_bytes()
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("no space left on device")))
    with pytest.raises(OSError, match="no space left"):
        write_student(student(), file, (3, 16, 16))
    assert file.read_bytes() == before and [path.name for path in tmp_path.iterdir()] == ["student.nir"]
    assert float(nir.read(file).metadata["dt"]) == 1e-4
