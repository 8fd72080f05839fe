"""Networks of other spiking libraries as students: their values are those of the library run by itself, nothing is left between calls, every method trains them."""

import copy
import math

import pandas as pd
import pytest
import torch
from torch import nn

from sastc import Taps, assess, create_model, distill, firing_rates, open_run, spiking, synaptic_operations, train_teacher
from sastc.methods import METHODS
from sastc.metrics.energy import CostRecorder, StepRecorder
from sastc.models import from_library, from_nir
from sastc.studies.export import to_nir
from sastc.training import Run
from sastc.training.loop import Trainer

T = 4
GIVEN = dict(data="digits", image_size=8, epochs=1, train_images=100, batch_size=20, lr=0.02, device="cpu")
IMAGES = 3 * torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
SEQUENCE = 3 * torch.rand(T, 5, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def layers(first, second, third=None):
    "Convolutions and a classifier with neurons between them."
    torch.manual_seed(0)
    body = [nn.Conv2d(1, 6, 3, 2, 1), nn.BatchNorm2d(6), first, nn.Conv2d(6, 8, 3, 2, 1), second, nn.Flatten(), nn.Linear(32, 10)]
    return body if third is None else [*body, third]


def spikingjelly(mode="s", last=False, membrane=False):
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron", reason="the extra `students` (spikingjelly) is not installed")
    third = neuron.LIFNode(v_threshold=float("inf") if membrane else 0.2) if last else None
    network = nn.Sequential(*layers(neuron.LIFNode(tau=1.5), neuron.ParametricLIFNode(), third))
    if mode == "m":
        from spikingjelly.activation_based import functional
        from spikingjelly.activation_based import layer as library

        torch.manual_seed(0)
        network = nn.Sequential(
            library.Conv2d(1, 6, 3, 2, 1), library.BatchNorm2d(6), neuron.LIFNode(tau=1.5), library.Conv2d(6, 8, 3, 2, 1), neuron.ParametricLIFNode(), library.Flatten(), library.Linear(32, 10),
            *([third] if last else []),
        )  # fmt: skip
        functional.set_step_mode(network, "m")
    return network


def by_spikingjelly(network, x):
    from spikingjelly.activation_based import functional

    functional.reset_net(network)
    sequence = x if x.ndim == 5 else x.expand(T, *x.shape)
    output = network(sequence) if network[0].__class__.__module__.startswith("spikingjelly") else torch.stack([network(image) for image in sequence])
    functional.reset_net(network)
    return output


def snntorch():
    snn = pytest.importorskip("snntorch", reason="the extra `students` (snntorch) is not installed")
    return nn.Sequential(
        *layers(
            snn.Leaky(beta=0.5, init_hidden=True),
            snn.Synaptic(alpha=0.4, beta=0.8, init_hidden=True),
            snn.Leaky(beta=0.9, threshold=0.2, init_hidden=True, output=True),
        )
    )


def by_snntorch(network, x):
    from snntorch import utils

    utils.reset(network)
    sequence = x if x.ndim == 5 else x.expand(T, *x.shape)
    steps = [network(image) for image in sequence]
    return torch.stack([spikes for spikes, _ in steps]), torch.stack([potential for _, potential in steps])


class Loop(nn.Module):
    "The form of snnTorch's tutorials: states are made in forward, and the loop is there."

    def __init__(self, repeats):
        import snntorch as snn

        super().__init__()
        torch.manual_seed(0)
        self.conv, self.lif1 = nn.Conv2d(1, 6, 3, 2, 1), snn.Leaky(beta=0.5)
        self.fc, self.lif2 = nn.Linear(96, 10), snn.Leaky(beta=0.9)
        self.repeats = repeats

    def forward(self, x):
        first, second, spikes, potentials = self.lif1.init_leaky(), self.lif2.init_leaky(), [], []
        for step in range(T):
            fired, first = self.lif1(self.conv(x if self.repeats else x[step]), first)
            fired, second = self.lif2(self.fc(fired.flatten(1)), second)
            spikes.append(fired)
            potentials.append(second)
        return torch.stack(spikes), torch.stack(potentials)


def norse(sequence=False):
    library = pytest.importorskip("norse.torch", reason="the extra `students` (norse) is not installed")
    if not sequence:
        return library.SequentialState(*layers(library.LIFCell(), library.LIFCell(library.LIFParameters(v_th=torch.tensor(0.5))), library.LICell()))
    parts = layers(library.LIF(), library.LIF(), library.LI())
    return library.SequentialState(*(part if type(part).__module__.startswith("norse") else library.Lift(part) for part in parts))


def by_norse(network, x):
    sequence, state, outputs = x if x.ndim == 5 else x.expand(T, *x.shape), None, []
    if any(type(part).__name__ == "LIF" for part in network):
        return network(sequence)[0]
    for image in sequence:
        output, state = network(image, state)
        outputs.append(output)
    return torch.stack(outputs)


def same(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("x", [IMAGES, SEQUENCE], ids=["images", "sequence"])
@pytest.mark.parametrize("mode", ["s", "m"])
def test_spikingjelly(mode, x):
    student, alone = from_library(spikingjelly(mode), T), spikingjelly(mode)
    assert student.steps == dict(s="each", m="all")[mode]
    for _ in range(2):  # nothing is left from the first call
        same(student(x), by_spikingjelly(alone, x))
    last, with_last = from_library(spikingjelly(mode, last=True), T), spikingjelly(mode, last=True)
    same(last(x), by_spikingjelly(with_last, x))
    read = from_library(spikingjelly(mode, last=True, membrane=True), T, read_out="membrane")
    expected, potential = by_spikingjelly(alone := spikingjelly(mode), x), 0
    potentials = [potential := potential + (current - potential) / 2 for current in expected]  # an LIFNode of tau 2 that never fires
    torch.testing.assert_close(read(x), torch.stack(potentials), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("x", [IMAGES, SEQUENCE], ids=["images", "sequence"])
def test_snntorch(x):
    network, alone = snntorch(), snntorch()
    spikes, potentials = by_snntorch(alone, x)
    student = from_library(network, T)
    same(student(x), spikes)
    same(student(x), by_snntorch(alone, x)[0])
    same(from_library(snntorch(), T, read_out="membrane")(x), potentials)
    assert spikes.sum() > 0


def test_a_network_of_snntorch_that_loops_is_asked_how():
    pytest.importorskip("snntorch", reason="the extra `students` (snntorch) is not installed")
    with pytest.raises(ValueError, match="steps: expected 'all' for a forward pass that takes the sequence .* or 'image'"):
        from_library(Loop(True), T)
    for repeats, steps, x in ((True, "image", IMAGES), (False, "all", SEQUENCE)):
        spikes, potentials = Loop(repeats)(x)
        same(from_library(Loop(repeats), T, steps=steps)(x), spikes)
        student = from_library(Loop(repeats), T, steps=steps, read_out="membrane")
        same(student(x), potentials)
        features = Taps(student, ["spikes.lif1"])(x)[1]
        assert features[0].shape == (T, 5, 6, 4, 4)
    with pytest.raises(ValueError, match="x: expected images .B, C, H, W. for a network that repeats them by itself, got a sequence"):
        from_library(Loop(True), T, steps="image")(SEQUENCE)
    with pytest.raises(ValueError, match="network: expected neurons that fire once in each of 3 steps for 5 images, got 'lif1', which gave 4 times"):
        from_library(Loop(True), 3, steps="image")(IMAGES)


@pytest.mark.parametrize("x", [IMAGES, SEQUENCE], ids=["images", "sequence"])
@pytest.mark.parametrize("sequence", [False, True])
def test_norse(sequence, x):
    student = from_library(norse(sequence), T)
    assert student.steps == ("all" if sequence else "each") and list(student.spikes) == ["2", "4"]  # the integrator at the end fires nothing
    expected = by_norse(norse(sequence), x)
    same(student(x), expected)
    same(student(x), expected)
    if sequence:
        with pytest.raises(ValueError, match="read_out: expected 'output' for a Norse network that takes a sequence"):
            from_library(norse(True), T, read_out="membrane")
    else:
        same(from_library(norse(), T, read_out="membrane")(x), expected)  # an integrator's output is its potential


# ------------------------------------------------------------------------------------------------------------ taps, rates, operations


def heard(network, x, kinds):
    "Mean of what each neuron fires, by hooks of our own, and rows that each layer receives with their sums."
    fired, received = {}, {}
    for name, module in network.named_modules():
        if type(module).__name__ in kinds:
            module.register_forward_hook(
                lambda module, args, output, name=name: fired.setdefault(name, []).append((output[0] if isinstance(output, tuple) else output).detach())
            )
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(lambda module, args, output, name=name: received.setdefault(name, []).append(args[0].detach()))
    return fired, received


@pytest.mark.parametrize("library", ["spikingjelly s", "spikingjelly m", "snntorch", "norse"])
def test_rates_taps_and_operations_are_those_by_hand(library):
    build, run, kinds = {
        "spikingjelly s": (spikingjelly, by_spikingjelly, ("LIFNode", "ParametricLIFNode")),
        "spikingjelly m": (lambda: spikingjelly("m"), by_spikingjelly, ("LIFNode", "ParametricLIFNode")),
        "snntorch": (snntorch, by_snntorch, ("Leaky", "Synaptic")),
        "norse": (norse, by_norse, ("LIFCell",)),
    }[library]
    student, alone = from_library(build(), T).eval(), build().eval()
    fired, received = heard(alone, IMAGES, kinds)
    run(alone, IMAGES)
    multi = library.endswith(" m")
    stacked = {f"spikes.{name}": parts[0] if multi else torch.stack(parts) for name, parts in fired.items()}
    assert sum(part.sum() for part in stacked.values()) > 0
    rates = firing_rates(student, IMAGES)
    assert rates == pytest.approx({name: part.ne(0).float().mean().item() for name, part in stacked.items()})
    for feature, name in zip(Taps(student, list(stacked))(IMAGES)[1], stacked, strict=True):
        same(feature, stacked[name])
    table = synaptic_operations(student, IMAGES).set_index("layer")
    for name, parts in received.items():
        module, rows = alone.get_submodule(name), torch.cat([part.flatten(0, 1) if multi else part for part in parts])
        place = {"0": 16, "3": 4}.get(name, 1)  # places of the map that it makes
        row = table.loc[f"network.{name}"]
        macs = module.weight.numel() * place
        assert row.macs == macs
        spikes = bool(((rows == 0) | (rows == 1)).all())
        assert row.spiking_input == spikes
        assert row.operations == pytest.approx(macs * len(rows) / len(IMAGES) * (rows.mean().item() if spikes else 1), rel=1e-5)


# ------------------------------------------------------------------------------------------------------------ training


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return train_teacher(**GIVEN, model="wrn16_2", width=0.125, folder=tmp_path_factory.mktemp("teacher") / "run")


def test_every_method_trains_them(teacher, tmp_path):
    for name in METHODS:
        student = from_library(spikingjelly("m", last=True), T)
        before = copy.deepcopy(student.state_dict())
        named = dict(student_layers=["spikes.2", "spikes.4"]) if hasattr(METHODS[name], "student_layers") else {}
        named |= dict(student_layer="spikes.4") if hasattr(METHODS[name], "student_layer") else {}
        taught = dict(teacher=teacher.folder) if METHODS[name].uses_teacher else {}
        run = distill(student=student, method=name, folder=tmp_path / name, **GIVEN, **named, **taught)
        assert run.state == "finished" and run.config["time_steps"] == T, name
        assert any(not before[key].equal(value) for key, value in student.state_dict().items()), name


@pytest.mark.parametrize("library", ["spikingjelly s", "snntorch", "norse", "norse m"])
def test_a_run_is_opened_evaluated_and_resumed(library, teacher, tmp_path, monkeypatch):
    network = {"spikingjelly s": lambda: spikingjelly(last=True), "snntorch": snntorch, "norse": norse, "norse m": lambda: norse(True)}[library]

    def build():
        return from_library(network(), T)

    given = GIVEN | dict(method="sastc", student_layers=["spikes.2", "spikes.4"], beta=1.0, teacher=teacher.folder, log_every=1)
    run = distill(student=build(), folder=tmp_path / "whole", **given)
    assert run.networks["network"]["neurons"]["spikes.2"]["neuron"].startswith(library.split()[0])
    assert run.attention.shape[1:3] == (T, 2)
    assert assess(run, student=build())["accuracy"] == run.result["test_accuracy_best"]
    step = Trainer.step

    def stopping(self, *batch):
        step(self, *batch)
        if self.progress["step"] == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "step", stopping)
    with pytest.raises(KeyboardInterrupt):
        distill(student=build(), folder=tmp_path / "stopped", **given)
    monkeypatch.setattr(Trainer, "step", step)
    distill(student=build(), folder=tmp_path / "stopped", resume=True)
    one, other = (Run(tmp_path / name).checkpoint("last")["model"] for name in ("whole", "stopped"))
    assert all(one[name].equal(other[name]) for name in one)
    opened = open_run(run, student=build())
    images, _ = next(opened.data.batches("test", 4, shuffle=False, drop_last=True).epoch(0))
    assert opened.step(images).student_features[0].shape == (T, 4, 6, 4, 4)


def test_other_constants_are_another_network(teacher, tmp_path):
    run = distill(student=from_library(snntorch(), T), method="baseline", folder=tmp_path / "run", **GIVEN)
    other = snntorch()
    other[2].reset_delay = False
    with pytest.raises(ValueError, match="student: expected the network that the run trained .networks.json: neuron 'spikes.2'"):
        assess(run, student=from_library(other, T))


@pytest.mark.parametrize(
    "build, sentence",
    [
        (
            lambda: spiking(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10)), 2),
            "network: expected neurons of SpikingJelly, snnTorch or Norse, got none",
        ),
        (
            lambda: nn.Sequential(spikingjelly(), snntorch()),
            "network: expected neurons of SpikingJelly, snnTorch or Norse, got those of SpikingJelly and snnTorch",
        ),
        (lambda: nn.Sequential(spikingjelly("m"), spikingjelly("s")), "network: expected neurons that all take one step or all take a sequence"),
    ],
)
def test_what_is_not_clear_is_refused(build, sentence):
    with pytest.raises(ValueError, match=sentence):
        from_library(build(), T)


def test_a_mean_over_time_is_refused_before_training(tmp_path):
    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = spikingjelly("m")

        def forward(self, x):
            return self.body(x).mean(0)

    with pytest.raises(ValueError, match=r"student: expected outputs of every step, \[T, B, K\] = \[4, 9, K\], got \[9, 10\]; return them without a mean"):
        distill(student=from_library(Mean(), T), method="baseline", folder=tmp_path / "run", **GIVEN)
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------------------------------------ NIR


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize(
    "name, given",
    [("imagenet_resnet18", dict(in_channels=2)), ("resnet18", dict(in_channels=1)), ("resnet18", dict(in_channels=1, neuron="if")), ("vgg11", {})],
)
@pytest.mark.parametrize("discretisation", ["euler", "exponential"])
def test_what_was_exported_as_nir_comes_back(name, given, discretisation, tmp_path):
    nir = pytest.importorskip("nir", reason="the extra `export` is not installed")
    torch.manual_seed(0)
    student = create_model(name, time_steps=3, width=0.0625, **given).eval()
    channels = given.get("in_channels", 3)
    for module in student.modules():  # statistics and scales as after training, with spikes in every layer
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            nn.init.uniform_(module.weight, 1, 2)
            nn.init.uniform_(module.bias, 0, 1)
    nir.write(tmp_path / "student.nir", to_nir(student, (channels, 32, 32), discretisation=discretisation))
    back, images = from_nir(tmp_path / "student.nir").eval(), torch.randn(4, channels, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(back(images), student(images), atol=1e-9, rtol=1e-9)
    assert min(firing_rates(back, images).values()) > 0 and len(firing_rates(back, images)) == len(firing_rates(student, images))


def test_a_nir_graph_is_trained(tmp_path):
    pytest.importorskip("nir", reason="the extra `export` is not installed")
    graph = to_nir(spiking(nn.Sequential(*layers(nn.ReLU(), nn.ReLU())), 2), (1, 8, 8))
    back = from_nir(graph)
    before = copy.deepcopy(back.state_dict())
    run = distill(student=back, method="baseline", folder=tmp_path / "run", **GIVEN)
    assert run.config["time_steps"] == 2 and any(not before[name].equal(value) for name, value in back.state_dict().items())
    assert assess(run, student=from_nir(graph))["accuracy"] == run.result["test_accuracy_best"]


def test_what_a_student_cannot_have_is_named():
    nir = pytest.importorskip("nir", reason="the extra `export` is not installed")
    import numpy as np

    def graph(neuron):
        nodes = dict(input=nir.Input(np.array([3])), lif=neuron, output=nir.Output(np.array([3])))
        return nir.NIRGraph(nodes, [("input", "lif"), ("lif", "output")])

    ones = np.ones(3)
    lif = dict(tau=1e-3 * ones, r=ones, v_leak=0 * ones, v_threshold=ones, v_reset=0 * ones)
    for given, reason in (
        (dict(tau=np.array([1e-3, 2e-3, 3e-3])), "its neurons differ in tau .0.001 to 0.003"),
        (dict(v_reset=0.5 * ones), "its v_reset is 0.5, and neurons here rest at 0"),
        (dict(tau=1e-5 * ones), "a step of 0.0001 s gives tau 1e-05 s the decay factor -9"),
    ):
        with pytest.raises(ValueError, match=f"graph: expected nodes that a student can have, got 'lif' .LIF.: {reason}"):
            from_nir(graph(nir.LIF(**lif | given)), 4, dt=1e-4)
    with pytest.raises(ValueError, match="got 'lif' .Delay.: it is none of"):
        from_nir(graph(nir.Delay(ones)), 4, dt=1e-4)


@pytest.mark.parametrize("build", [spikingjelly, snntorch, norse])
def test_memory_is_saved_on_neurons_of_ours_only(build, tmp_path):
    given = dict(method="baseline", save_memory=True, folder=tmp_path / "run", **GIVEN)
    with pytest.raises(ValueError, match="save_memory: expected only with neurons of this package, .*, got it for LibraryNetwork, which has none"):
        distill(student=from_library(build(), T), **given)
    assert not (tmp_path / "run").exists()
    run = distill(student=spiking(create_model("resnet18", 10, in_channels=1, width=0.0625), T), **given)
    assert run.state == "finished" and run.config["save_memory"] is True


class Watched(nn.Module):
    "A network of ours that keeps its last output for whoever wants to look at it, graph included."

    def __init__(self):
        super().__init__()
        self.network = create_model("vgg11", in_channels=1, width=1 / 16, time_steps=2)
        self.time_steps, self.stem_once = 2, True

    def forward(self, x):
        self.last = self.network(x)
        return self.last


@pytest.mark.parametrize("name", ["snntorch", "own"])
def test_a_student_that_keeps_tensors_with_a_graph_trains_to_the_end(name, tmp_path):
    def student():
        if name == "own":
            return Watched()
        pytest.importorskip("snntorch", reason="the extra `students` (snntorch) is not installed")
        return from_library(Loop(True), T, steps="image")

    given = GIVEN | (dict(image_size=32) if name == "own" else {})
    trained = student()
    run = distill(student=trained, method="baseline", folder=tmp_path / "run", holdout=0.0, **given)
    assert run.state == "finished" and assess(run.folder, student=student())["accuracy"] == run.result["test_accuracy_best"]
    last = run.checkpoint("last")["model"]
    assert all(torch.equal(value, last[key]) for key, value in trained.state_dict().items())
    if name == "snntorch":
        trained.train()(IMAGES)
        copy.deepcopy(trained)


# ---------------------------------------------------------------- what is counted, however the layers are called


class Counted(nn.Module):
    "A spiking network whose linear layers take [T, B, C] as it is, or folded, or step by step."

    time_steps, stem_once = 3, True

    def __init__(self, how):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.how = nn.Linear(16, 8), nn.Linear(8, 10), how

    def forward(self, x):
        spikes = (x.expand(3, *x.shape) > torch.tensor([0.2, 0.5, 0.8])[:, None, None, None, None]).float().flatten(2)
        if self.how == "sequence":
            return self.second((self.first(input=spikes) > 0).float())
        if self.how == "folded":
            return self.second((self.first(spikes.flatten(0, 1)) > 0).float()).unflatten(0, (3, len(x)))
        return torch.stack([self.second((self.first(step) > 0).float()) for step in spikes])


@pytest.mark.parametrize("sizes", [(5, 2), (3,), (1, 4)], ids=str)
def test_operations_do_not_depend_on_how_a_layer_gets_its_steps(sizes):
    images = torch.rand(sum(sizes), 1, 4, 4, generator=torch.Generator().manual_seed(0))
    tables, spent = [], []
    for how in ("folded", "each", "sequence"):
        network = Counted(how)
        with torch.no_grad(), CostRecorder(network) as recorder, StepRecorder(network) as steps:
            parts = []
            for batch in images.split(sizes):
                network(batch)
                parts.append(steps.spent(3, len(batch)))
        tables.append(recorder.table())
        spent.append(torch.cat(parts, 1))
    assert tables[0].macs.tolist() == [128, 80]
    spikes = (images.flatten() > torch.tensor([0.2, 0.5, 0.8])[:, None]).sum().item()
    assert tables[0].operations[0] == pytest.approx(8 * spikes / len(images))
    for table, energies in zip(tables[1:], spent[1:]):
        pd.testing.assert_frame_equal(table, tables[0])
        torch.testing.assert_close(energies, spent[0])
    assert spent[0][-1].mean().item() == pytest.approx(tables[0].picojoule.sum() / 1e6, rel=1e-6)


@pytest.mark.parametrize(
    "layer, shape, macs",
    [
        (nn.Conv1d(4, 6, 3, padding=1), (4, 7), 7 * 6 * 4 * 3),
        (nn.Conv3d(2, 3, 2), (2, 4, 4, 4), 27 * 3 * 2 * 8),
        (nn.ConvTranspose2d(4, 6, 2, 2), (4, 3, 3), 9 * 4 * 6 * 4),
        (nn.Conv2d(4, 6, 3, groups=2), (4, 5, 5), 9 * 6 * 2 * 9),
    ],
    ids=str,
)
def test_every_convolution_is_counted(layer, shape, macs):
    network = nn.Sequential(nn.Flatten(), nn.Unflatten(1, shape), layer)
    assert synaptic_operations(network, torch.rand(5, 1, 1, math.prod(shape)) + 0.1).macs.tolist() == [macs]


def test_a_layer_that_stands_in_two_places_costs_an_ann_twice():
    layer = nn.Linear(4, 4)
    table = synaptic_operations(nn.Sequential(nn.Flatten(), layer, nn.ReLU(), layer), torch.rand(5, 1, 2, 2))
    assert table.operations.tolist() == [32] and table.ann_picojoule.tolist() == [pytest.approx(32 * 4.6)]


def test_weights_that_are_not_counted_are_named():
    network = nn.Sequential(nn.Flatten(2), nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), nn.RNN(4, 4))
    with pytest.warns(UserWarning, match="got others, which are not counted, in 1.self_attn, 2$"):
        CostRecorder(network)


class OfOneSize(nn.Sequential):
    "No image of a usual size fits, so that nothing has been tried before the first pass."

    def __init__(self, num_classes=10, in_channels=1, act=nn.ReLU):
        layers = [nn.Conv2d(in_channels, 4, 3), nn.BatchNorm2d(4), act(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), act()]
        super().__init__(*layers, nn.Flatten(), nn.Linear(4 * 20 * 20, num_classes))


def recorded_by(kind):
    def look(network, images):
        with kind(network):
            network(images)

    return look


@pytest.mark.filterwarnings("error:network")
@pytest.mark.parametrize("look", [synaptic_operations, firing_rates, recorded_by(StepRecorder), lambda network, images: Taps(network, ["3"])(images)])
def test_what_looks_at_a_first_pass_is_no_part_of_the_network(look):
    watched, images = spiking(OfOneSize(), time_steps=2).eval(), torch.rand(4, 1, 24, 24)
    assert "_watching" in vars(watched)
    look(watched, images)
    rounding = spiking(OfOneSize(), time_steps=2)
    rounding[0].register_forward_hook(lambda module, args, output: output.round())
    with pytest.raises(ValueError, match="in which others stay analog: round in 0"):  # what changes the network is
        look(rounding, images)


@pytest.mark.filterwarnings("error:network")
def test_a_run_of_a_builder_is_measured_without_a_false_alarm(tmp_path):
    tiny = dict(data="digits", image_size=24, train_images=64, holdout=0.0, batch_size=16, epochs=1, lr=0.02, method="baseline")
    run = distill(student=OfOneSize, folder=tmp_path / "run", **tiny)
    assert assess(run)["accuracy"] >= 0
