"""Exports, judged by running what was written: NIR by an interpreter of its own equations, programs in a process without this package."""

import subprocess
import sys
from dataclasses import asdict
from graphlib import TopologicalSorter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from sastc.cli import sastc_export
from sastc.training.config import Config, TeacherConfig
from sastc.studies.export import to_nir, to_torch_export, write_student
from sastc.models import Taps, create_model, list_models, spiking
from sastc.neurons.neuron import LIF
from sastc.training.runs import RunWriter

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
    neurons = [name for name, module in network.named_modules() if isinstance(module, LIF)]
    with torch.no_grad():
        logits, features = Taps(network, neurons)(x)
        outputs, spikes = interpret(graph, x if x.ndim == 5 else [x] * STEPS, **receiver)
    assert spikes.keys() == {name.replace(".", "_") for name in neurons}
    for name, feature in zip(neurons, features):
        assert torch.equal(spikes[name.replace(".", "_")], feature), name
    assert sum(feature.any() for feature in features) > len(features) / 2  # silence would prove nothing
    torch.testing.assert_close(outputs, logits, rtol=0, atol=1e-12)


# --- NIR: in double precision, where rounding moves no potential across the threshold


@pytest.mark.parametrize("name", list_models())
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
        (conv(padding_mode="circular", padding=1), act): "student: '0' (Conv2d) cannot leave as NIR: NIR pads with zeros only",
        (conv(groups=3), act): "one group of channels, and it has 3",
        (nn.Conv2d(3, 3, (3, 1)), act): "NIR counts [3, 6, 6] values where it has [3, 6, 8]",
        (act, nn.AvgPool2d(3, ceil_mode=True)): "rounds the size of a pooled map down",
        (act, nn.AvgPool2d(2, padding=1, count_include_pad=False)): "padding included",
        (act, nn.AdaptiveAvgPool2d(3)): "[8, 8] cannot be divided into [3, 3] equal windows",
        (nn.MaxPool2d(2), act): "what it pools are no spikes",
        (act, nn.Sigmoid()): "(Sigmoid) cannot leave as NIR: there is no NIR node for it",
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
        (lambda net, x: net.act(x) * 2, "(mul) cannot leave as NIR"),
        (lambda net, x: net.act(x) + 1, "sums of the outputs of two layers"),
        (lambda net, x: (s := net.act(x)) + s, "adds something to itself"),
        (lambda net, x: net.act(x).transpose(2, 3), "(transpose) cannot leave as NIR"),
        (lambda net, x: torch.cat([net.act(x)]), "does not take the output of one layer"),
    ],
)
def test_a_forward_pass_that_nir_cannot_follow_is_refused(forward, sentence):
    with pytest.raises(ValueError, match="student: ") as error:
        to_nir(spiking(Forward(forward), 2), (3, 8, 8))
    assert sentence in str(error.value)


def test_without_the_packages_a_sentence_says_what_to_install(monkeypatch, tmp_path):
    for package, to in (("nir", "nir"), ("onnxscript", "onnx")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(ImportError, match=rf'{package} is not installed; `pip install "sastc\[export\]"`'):
            write_student(student(), tmp_path / "file", (3, 16, 16), to)
    assert not list(tmp_path.iterdir())


# --- other packages that read NIR, where they are installed


@pytest.mark.parametrize("name", ["vgg11", "resnet18"])
def test_spikingjelly_reads_it(name):
    exchange = pytest.importorskip("spikingjelly.activation_based.nir_exchange.from_nir")
    network, x = student(name), torch.randn(2, 3, 16, 16)
    received, state, steps = exchange.import_from_nir(to_nir(network, (3, 16, 16)), dt=1e-4), None, []
    with torch.no_grad():
        for _ in range(STEPS):
            logits, state = received(x, state)
            steps.append(logits)
        torch.testing.assert_close(torch.stack(steps), network(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["vgg11", "resnet18"])
def test_snntorch_reads_it(name):
    exchange = pytest.importorskip("snntorch.import_nir")
    network, x = student(name), torch.randn(1, 3, 16, 16)  # it flattens the batch too, so one image at a time
    received, state, steps = exchange.import_from_nir(to_nir(network, (3, 16, 16))), None, []
    with torch.no_grad():
        for _ in range(STEPS):
            logits, state = received(x, state)
            steps.append(logits)
        torch.testing.assert_close(torch.stack(steps), network(x)[:, 0], rtol=0, atol=1e-5)


# --- programs


@pytest.mark.parametrize("name", ["wrn16_2", "pyramidnet20", "vgg13"])
def test_a_program_gives_the_logits(name):
    network = student(name, time_steps=2)
    program = to_torch_export(network, (3, 16, 16)).module()
    with torch.no_grad():
        for batch in (1, 5):
            x = torch.randn(batch, 3, 16, 16)
            torch.testing.assert_close(program(x), network(x), rtol=0, atol=1e-6)


def test_a_program_of_frames_and_one_of_a_fixed_batch():
    network = student(time_steps=2)
    frames = torch.randn(2, 4, 3, 16, 16)
    with torch.no_grad():
        program = to_torch_export(network, (2, 3, 16, 16)).module()
        torch.testing.assert_close(program(frames), network(frames), rtol=0, atol=1e-6)
        program = to_torch_export(network, (3, 16, 16), batch=4).module()
        torch.testing.assert_close(program(frames[0]), network(frames[0]), rtol=0, atol=1e-6)
        with pytest.raises((AssertionError, RuntimeError)):
            program(frames[0, :3])
    with pytest.raises(ValueError, match="batch: 0 given"):
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


def test_a_program_runs_where_sastc_is_not(tmp_path):
    network, x = student(time_steps=2), torch.randn(3, 3, 16, 16)
    program = write_student(network, tmp_path / "student.pt2", (3, 16, 16), to="torch")
    torch.save(x, tmp_path / "images.pt")
    files = [program, tmp_path / "images.pt", tmp_path / "logits.pt"]
    subprocess.run([sys.executable, "-c", ELSEWHERE, *map(str, files)], cwd=tmp_path, check=True)
    with torch.no_grad():
        torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), network(x), rtol=0, atol=1e-6)


def test_onnx_runtime_gives_the_logits(tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    network = student(time_steps=2)
    file = write_student(network, tmp_path / "student.onnx", (3, 16, 16), to="onnx")
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for batch in (1, 4):
        x = torch.randn(batch, 3, 16, 16)
        (logits,) = session.run(["logits"], dict(images=x.numpy()))
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(logits), network(x), rtol=0, atol=1e-5)


# --- runs


def run_of(network, folder, config):
    "The folder that training would leave, as far as exporting reads it."
    writer = RunWriter(folder, "student" if isinstance(config, Config) else "teacher", asdict(config), layers={})
    writer.checkpoint("best", dict(spec=network.spec, model=network.state_dict()))
    return str(folder)


def test_a_run_leaves_by_command(tmp_path, capsys):
    network = student("resnet18_sastc", time_steps=2)
    run = run_of(network, tmp_path / "run", Config(image_size=16))
    sastc_export(run, to="torch")
    assert capsys.readouterr().out.strip() == f"{run}/best.pt2"
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(torch.export.load(f"{run}/best.pt2").module()(x), network(x), rtol=0, atol=1e-6)
    sastc_export(run, file=str(tmp_path / "own" / "student.nir"), image_size=32)
    assert list(nir.read(tmp_path / "own" / "student.nir").input_type["input"]) == [3, 32, 32]
    assert [path.name for path in (tmp_path / "own").iterdir()] == ["student.nir"]


def test_wrong_exports_are_answered_in_a_sentence(tmp_path, capsys):
    run, teacher = run_of(student(), tmp_path / "run", Config()), run_of(student(), tmp_path / "teacher", TeacherConfig())
    for arguments, sentence in (
        (dict(run=teacher), "is the run of a teacher"),
        (dict(run=run, to="keras"), "to: 'keras' is not known"),
        (dict(run=run, which="first"), "first.pt; the folder has best"),
        (dict(run=run, image_size=64), "image_shape: [3, 64, 64] given; VGG11 does not run on that"),
    ):
        with pytest.raises(SystemExit) as stop:
            sastc_export(**arguments, file=str(tmp_path / "files" / "student"))
        assert stop.value.code == 2 and (said := capsys.readouterr().err).startswith("sastc_export: ") and sentence in said
    assert not (tmp_path / "files").exists()


def test_a_write_that_fails_keeps_the_file_that_was_there(tmp_path, monkeypatch):
    file = write_student(student(), tmp_path / "student.nir", (3, 16, 16))
    before = file.read_bytes()
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("no space left on device")))
    with pytest.raises(OSError, match="no space left"):
        write_student(student(), file, (3, 16, 16))
    assert file.read_bytes() == before and [path.name for path in tmp_path.iterdir()] == ["student.nir"]
    assert float(nir.read(file).metadata["dt"]) == 1e-4
