"""What experienced people do wrong, or other libraries do otherwise: the right value, or a sentence, and never a number that only looks right."""

import copy
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.nn.utils import weight_norm as hooked_weight_norm
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.checkpoint import checkpoint
from torchvision import datasets

from sastc import LIF, Calibrator, Taps, assess, candidates, create_model, distill, kd_loss, sastc_loss, spiking, train_teacher
from sastc.data.batches import normalise
from sastc.data.datasets import frames_from, images_from
from sastc.data.events import Events
from sastc.data.frames import Change, FrameData, frames
from sastc.data.images import load_images
from sastc.methods.alignment import MapAlignment
from sastc.methods.attention import Compared
from sastc.metrics.energy import firing_rates, synaptic_operations
from sastc.metrics.mismatch import mismatch
from sastc.models.convert import watch_first_pass
from sastc.models.preprocessing import Preprocessing
from sastc.models.taps import evaluating
from sastc.neurons.network import over_time
from sastc.studies.comparisons import run_table
from sastc.studies.model_folder import read_model, write_model
from sastc.studies.report import write_report
from sastc.training import NotFinite, Run
from sastc.training.measure import anytime, measure
from sastc.training.opening import open_run
from sastc.training.runs import find_runs

DIGITS = load_images("digits", image_size=8)
GIVEN = dict(epochs=1, train_images=100, batch_size=20, lr=0.02)


def test_batches(data=DIGITS, **options):
    return data.batches("test", 128, shuffle=False, drop_last=False, **options)


test_batches.__test__ = False


def small(*end, **constants):
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)]
    network = nn.Sequential(*layers, *end)
    return spiking(network, **constants) if constants else network


def student(folder, **changes):
    given = GIVEN | dict(data="digits", image_size=8, student="resnet18", width=0.0625, method="baseline", folder=folder) | changes
    for name, belongs_to in dict(width="student", image_size="data").items():
        if not isinstance(given[belongs_to], str):
            del given[name]
    return distill(**given)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return train_teacher(
        **GIVEN | dict(epochs=4, train_images=0, lr=0.1), data=DIGITS, model="wrn16_2", width=0.25, folder=tmp_path_factory.mktemp("t") / "run"
    )


# ------------------------------------------------------------------------------------------------------------- measuring


@pytest.mark.parametrize("use", [lambda network, batches: measure(network, batches, 10), anytime], ids=["measure", "anytime"])
def test_outputs_that_are_no_numbers_have_no_accuracy(use):
    network = small(time_steps=2)
    network[-1].bias.data[3] = float("nan")
    with pytest.raises(NotFinite, match="network: expected outputs that are finite numbers, got others for 360 of 360 images"):
        use(network, test_batches())
    network[-1].bias.data[3] = -float("inf")  # a class that is ruled out
    assert use(network, test_batches())


def test_weights_that_break_in_the_last_step_end_no_run_in_silence(tmp_path, monkeypatch):
    import sastc.training.loop as loop

    step = loop.Trainer.step

    def broken(self, images, labels):
        step(self, images, labels)
        if self.progress["step"] == self.steps:
            next(iter(self.network.parameters())).data.fill_(float("nan"))

    monkeypatch.setattr(loop.Trainer, "step", broken)
    with pytest.raises(NotFinite, match="network: expected outputs that are finite numbers"):
        student(tmp_path / "run")
    run = Run(tmp_path / "run")
    assert run.state == "failed" and not run.result


@pytest.mark.parametrize("use", [lambda network, batches: measure(network, batches, 10), anytime], ids=["measure", "anytime"])
def test_no_images_have_no_accuracy(use):
    with pytest.raises(ValueError, match="batches: expected at least one image, got none"):
        use(small(time_steps=2), test_batches(chosen=slice(0)))


def test_a_network_sees_images_as_it_was_trained_wherever_it_is_measured(teacher):
    network, otherwise = teacher.model(), replace(DIGITS, mean=(0.9,), std=(0.1,))
    right = measure(network, test_batches(), 10)
    found = measure(network, test_batches(otherwise), 10)
    assert [found[name] for name in ("accuracy", "loss")] == pytest.approx([right[name] for name in ("accuracy", "loss")], rel=1e-3)


def test_a_module_that_is_trained_again_knows_what_it_saw_last(tmp_path):
    module = small()
    module.preprocessing = Preprocessing((0.1,), (0.9,), 224, resize="bicubic")  # of the library that it comes from
    run = train_teacher(**GIVEN, data=DIGITS, model=module, folder=tmp_path / "first")
    assert module.preprocessing == Preprocessing(DIGITS.mean, DIGITS.std, 8, tuple(DIGITS.classes))
    train_teacher(**GIVEN, data=replace(DIGITS, mean=(0.9,), std=(0.1,)), model=module, folder=tmp_path / "second")
    assert assess(run, data=DIGITS, student=module)["accuracy"] == pytest.approx(run.result["test_accuracy_best"])


def test_a_wrapped_network_costs_what_it_costs():
    network = small(time_steps=3)
    alone, wrapped = (measure(one, test_batches(), 10, costs=True) for one in (network, nn.Sequential(network)))
    for name in ("microjoule", "ann_microjoule", "operations"):
        assert alone[name] == pytest.approx(wrapped[name]), name
    one, other = (synaptic_operations(net, torch.rand(4, 1, 8, 8)).macs.tolist() for net in (network, nn.Sequential(network)))
    assert one == other


def test_an_ann_pays_for_every_frame_of_a_recording():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    x, y = torch.randint(0, 255, (6, 5, 2, 8, 8), dtype=torch.uint8), torch.arange(6) % 2
    data = FrameData("recordings", x, y, x, y, ["a", "b"], Change(1))
    found = measure(network, test_batches(data), 2, costs=True)
    assert found["operations"] == 5 * (4 * 36 * 18 + 4 * 2)


def test_counting_leaves_a_network_as_it_was():
    network, images = create_model("vgg11", in_channels=1, width=0.0625, time_steps=2), torch.rand(4, 1, 32, 32)
    before = copy.deepcopy(network.state_dict())
    firing_rates(network, images), synaptic_operations(network, images)
    assert network.training and all(torch.equal(value, network.state_dict()[name]) for name, value in before.items())


class Kernels(nn.Module):
    def __init__(self):
        super().__init__()
        self.kernels = nn.Parameter(torch.rand(4, 4, 3, 3))

    def forward(self, x):
        return F.conv2d(x, self.kernels)


def test_uncounted_kernels_are_named_and_parametrized_layers_are_counted(recwarn):
    images = torch.rand(2, 1, 8, 8)
    network = small(time_steps=2)
    plain = synaptic_operations(network, images).macs.tolist()
    for layer in (0, 2, 6):
        weight_norm(network[layer])
    assert synaptic_operations(network, images).macs.tolist() == plain
    assert not [warning for warning in recwarn if "not counted" in str(warning.message)]
    network[1] = nn.Sequential(network[1], Kernels())
    with pytest.warns(UserWarning, match=r"not counted, in 1\.1"):
        synaptic_operations(network, images)


def test_losses_broadcast_nothing():
    outputs = torch.randn(3, 4, 10)
    with pytest.raises(ValueError, match=r"student_logits: expected \[B, K\], of one step or of the mean over all, got \[3, 4, 10\]"):
        kd_loss(outputs, outputs)
    with pytest.raises(ValueError, match=r"distance: expected \[3, 4, 2, 1\], the shape of the attention, got \[3, 4, 2, 5\]"):
        sastc_loss(torch.rand(3, 4, 2, 1), torch.rand(3, 4, 2, 5))


def test_layers_of_a_compiled_network_are_found_by_their_names():
    network, images = create_model("wrn16_2", in_channels=1, width=0.125, time_steps=2).eval(), torch.rand(2, 1, 8, 8)
    compiled = torch.compile(network, backend="eager")
    assert candidates(compiled) == [f"_orig_mod.{name}" for name in candidates(network)]
    one, other = (Taps(net, candidates(net))(images)[1] for net in (network, compiled))
    assert all(torch.allclose(mine, theirs, atol=1e-5) for mine, theirs in zip(one, other))


def test_sums_of_spikes_are_additions_in_whatever_batch_they_come():
    torch.manual_seed(0)
    network = create_model("sew_resnet18", in_channels=1, width=0.0625, time_steps=2, image_size=8).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.bias.data += 0.6
    found = [measure(network, DIGITS.batches("test", size, shuffle=False, drop_last=False), 10, costs=True) for size in (1, 60)]
    # a batch of another size rounds otherwise, and a potential at its threshold may then fire
    assert found[0]["microjoule"] == pytest.approx(found[1]["microjoule"], rel=1e-3)
    assert found[0]["microjoule"] == pytest.approx(anytime(network, test_batches()).microjoule[-1].mean().item(), rel=1e-3)
    table = synaptic_operations(network, torch.rand(3, 1, 8, 8)).set_index("layer")
    assert table.spiking_input["stage1.1.branch.0"] and not table.spiking_input["stem.0"]  # behind a shortcut, where 2 spikes may meet
    with evaluating(network):
        (received,) = Taps(network, ["stage1.0"])(images := torch.rand(3, 1, 8, 8))[1]
    assert received.max() > 1
    one = synaptic_operations(network, images).set_index("layer").loc["stage1.1.branch.0"]
    assert one.operations == pytest.approx(received.sum().item() / 3 * one.macs / received[0, 0].numel(), rel=1e-4)  # fan-out of every spike


class Attends(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch, self.act, self.query, self.head = nn.Conv2d(1, 8, 4, 4), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 10)

    def forward(self, x):
        tokens = self.act(self.patch(x)).flatten(2).mT
        return self.head((self.query(tokens) @ tokens.mT @ tokens).mean(1))


def test_products_by_functions_are_named_as_uncounted(recwarn):
    for network in (Attends(), nn.Sequential(Attends())):
        with pytest.warns(UserWarning, match="got others, which are not counted, in (Attends|0)$"):
            synaptic_operations(network, torch.rand(2, 1, 8, 8))
    for name in ("resnet18", "spikformer4_256"):
        synaptic_operations(create_model(name, in_channels=1, width=0.25, time_steps=2, image_size=16), torch.rand(2, 1, 16, 16))
    assert not [warning for warning in recwarn if "not counted" in str(warning.message)]


class OfTheMean(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x).mean(0)


class Squeezed(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = small()

    def forward(self, x):
        return self.network(x).squeeze()


@pytest.mark.parametrize(
    "use, said",
    [
        (lambda: measure(OfTheMean(small(time_steps=3)), test_batches(), 10), r"network: expected outputs \[3, 128, 10\] for a batch of 128, got \[128, 10\]"),
        (lambda: anytime(OfTheMean(small(time_steps=3)), test_batches()), r"network: expected outputs \[3, 128, K\] for a batch of 128, got \[128, 10\]"),
        (lambda: measure(Squeezed(), DIGITS.batches("test", 359, shuffle=False, drop_last=False), 10), r"outputs \[1, 10\] for a batch of 1, got \[10\]"),
        (lambda: measure(small(), test_batches(), 5), "num_classes: expected 10, which the network tells apart, got 5"),
        (lambda: measure(small(), test_batches(), 10, "float16"), "precision: expected one of fp32, bf16, fp16, got 'float16'"),
        (lambda: measure(small(), DIGITS, 10), "batches: expected those of a data set, data.batches.*, got ImageData"),
    ],
)
def test_what_would_be_measured_wrongly_is_refused(use, said):
    with pytest.raises(ValueError, match=said):
        use()


def test_a_network_in_another_precision_gets_images_in_it():
    network, before = small(), measure(small(), test_batches(), 10)["loss"]
    assert measure(network.double(), test_batches(), 10)["loss"] == pytest.approx(before, rel=1e-4)
    assert measure(network.bfloat16(), test_batches(), 10)["loss"] == pytest.approx(before, rel=0.02)


class Signed(LIF):
    def fire(self, current, time_steps):
        return current.expand(time_steps, *current.shape[1:]).sign()


def test_spikes_with_a_sign_are_spikes():
    network = over_time(nn.Sequential(nn.Conv2d(1, 4, 3), Signed(2), nn.Flatten(), nn.Linear(144, 10)), 2)
    assert firing_rates(network, torch.randn(6, 1, 8, 8)) == {"1": 1.0}


@pytest.mark.parametrize(
    "change, said",
    [
        (dict(student=[torch.rand(2, 1, 4)], teacher=[torch.rand(1, 6)]), "student_features: expected at least two images, got 1"),
        (dict(student=[]), "student_features: expected layers with the same leading axes, got no layers"),
        (dict(student=[torch.rand(2, 5, 4), torch.rand(3, 5, 4)]), r"got \[2, 5\], \[3, 5\]"),
        (dict(weights=torch.full((1, 1), 3.0)), "weights: expected a sum of 1 at each step, got 3"),
    ],
)
def test_a_mismatch_of_nothing_is_no_number(change, said):
    given = dict(student=[torch.rand(2, 5, 4)], teacher=[torch.rand(5, 6)], weights=None) | change
    with pytest.raises(ValueError, match=said):
        mismatch(given["student"], given["teacher"], weights=given["weights"])


def test_temperatures_are_above_0():
    with pytest.raises(ValueError, match="temperature: expected a number above 0, got -1"):
        kd_loss(torch.randn(3, 4), torch.randn(3, 4), -1)


def test_a_calibrator_takes_features_of_any_precision():
    torch.manual_seed(0)
    calibrator = Calibrator([(4, 3, 3)], [(6, 2, 2)], 8)
    student, teacher = (torch.rand(2, 8, 4, 3, 3) > 0.5).float(), torch.rand(8, 6, 2, 2)
    expected = sastc_loss(*calibrator([student], [teacher])).item()
    for kind in (torch.float64, torch.bfloat16, torch.bool):
        features = student.to(kind), teacher if kind is torch.bool else teacher.to(kind)
        assert sastc_loss(*calibrator(*([feature] for feature in features))).item() == pytest.approx(expected, rel=0.02)


# -------------------------------------------------------------------------------------------------------------- networks


ACTIVATIONS = dict(gelu=F.gelu, relu=lambda x: x.relu(), clamp=lambda x: x.clamp(min=0), where=lambda x: torch.where(x > 0, x, 0.0), tanh=nn.Tanh())


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_beside_the_neurons_are_warned_of_whoever_makes_the_network(name, tmp_path):
    class Half(nn.Module):
        def __init__(self, num_classes, in_channels, act):
            super().__init__()
            self.first, self.act, self.second, self.head = nn.Conv2d(in_channels, 4, 3), act(), nn.Conv2d(4, 8, 3), nn.Linear(8, num_classes)

        def forward(self, x):
            return self.head(ACTIVATIONS[name](self.second(self.act(self.first(x)))).mean((2, 3)))

    def build(num_classes, in_channels, act):
        return Half(num_classes, in_channels, act)

    network = create_model(build, in_channels=1, time_steps=2)
    with pytest.warns(UserWarning, match="network: expected activations that are neurons, got .* in .*build, which stay analog"):
        network(torch.randn(5, 1, 8, 8))
    own = over_time(Half(10, 1, lambda: LIF(2)), 2)
    with pytest.warns(UserWarning, match="network: expected activations that are neurons, got .* in Half, which stay analog"):
        student(tmp_path / "run", student=own)


class Membrane(nn.Module):
    "A neuron that somebody wrote by hand."

    def forward(self, current):
        potential, spikes = 0, []
        for step in current.chunk(2):
            potential = 0.5 * potential + step
            spikes.append((potential > 0.5).float())
            potential = potential * (1 - spikes[-1])
        return torch.cat(spikes)


def test_neurons_of_any_origin_are_neurons(recwarn):
    network = over_time(nn.Sequential(nn.Conv2d(1, 8, 3), Membrane(), nn.Conv2d(8, 8, 3), Membrane(), nn.Flatten(), nn.Linear(128, 10)), 2, stem_once=False)
    watch_first_pass(network, "mine")
    network(torch.randn(4, 1, 8, 8))
    for name in ("sew_resnet18", "ms_resnet18", "spikformer4_256"):
        watch_first_pass(network := create_model(name, in_channels=1, width=0.25, time_steps=2, image_size=16), name)
        network(torch.randn(4, 1, 16, 16))
    assert not [warning for warning in recwarn if "stay analog" in str(warning.message)]


class Called(nn.Module):
    def forward(self, x):
        return torch.relu(x)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_compiled_modules_are_named():
    with pytest.raises(ValueError, match=r"ann: expected modules written in Python, whose activations can be exchanged, got the compiled one 2 \(torch.jit\)"):
        spiking(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), torch.jit.script(Called())), 2)


class Again(nn.Module):
    "Keeps something between two batches, or drops at random in evaluation, too."

    def __init__(self, network, drops):
        super().__init__()
        self.network, self.drops, self.kept, self.time_steps = network, drops, 0.0, getattr(network, "time_steps", None)

    def forward(self, x):
        logits = F.dropout(self.network(x), 0.5) if self.drops else self.network(x) + self.kept * torch.arange(10)
        self.kept += 1.0
        return logits


@pytest.mark.parametrize("argument", ["teacher", "student"])
@pytest.mark.parametrize("drops", [False, True], ids=["keeps", "drops"])
def test_a_network_that_says_something_else_the_second_time_is_warned_of(argument, drops, tmp_path):
    given = dict(method="kd", teacher=Again(small(), drops)) if argument == "teacher" else dict(student=Again(small(time_steps=2), drops))
    with pytest.warns(UserWarning, match=f"{argument}: expected the same outputs for the same images in evaluation mode, got others .* from Again"):
        student(tmp_path / "run", **given)


def test_a_teacher_that_ends_in_a_sigmoid_is_warned_of(tmp_path):
    with pytest.warns(UserWarning, match="teacher: expected a network that returns logits, got one whose outputs all lie from 0 to 1"):
        student(tmp_path / "run", method="kd", teacher=small(nn.Sigmoid()))


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.first, self.act, self.second, self.deep, self.reentrant = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), reentrant

    def forward(self, x):
        x = self.act(self.first(x))
        return checkpoint(lambda x: self.deep(self.second(x)), x, use_reentrant=self.reentrant).mean((2, 3))


@pytest.mark.filterwarnings("ignore:None of the inputs")
def test_features_keep_their_gradient_or_say_that_they_have_none():
    taps = [Taps(spiking(Checkpointed(reentrant), 2), ["deep"]) for reentrant in (False, True)]
    _, (feature,) = taps[0](torch.rand(4, 1, 8, 8))
    assert feature.requires_grad
    with pytest.raises(ValueError, match="names: expected modules that learn with the network, got 'deep', which runs without gradients"):
        taps[1](torch.rand(4, 1, 8, 8))


class Last(nn.Module):
    "Works on maps [N, H, W, C], as Swin and ConvNeXt do inside."

    def __init__(self):
        super().__init__()
        self.patch, self.layers, self.head = nn.Conv2d(1, 6, 2, 2), nn.ModuleList(nn.Sequential(nn.Linear(6, 6), nn.GELU()) for _ in range(4)), nn.Linear(6, 10)

    def forward(self, x):
        x = self.patch(x).permute(0, 2, 3, 1)
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean((1, 2)))


def test_maps_with_channels_last_are_maps_also_where_nobody_says_so(tmp_path):
    images = torch.rand(3, 1, 8, 8)
    _, (feature,) = Taps(network := Last(), ["layers.0.1"])(images)
    assert feature.equal(network.layers[0](network.patch(images).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)) and feature.shape == (3, 6, 4, 4)
    assert student(tmp_path / "run", method="sastc", beta=1, teacher=network).state == "finished"


def test_tokens_have_places_for_attention_maps_too():
    counts, tokens = torch.rand(2, 4, 3, 4, 4), torch.rand(4, 17, 6)  # a class token and 4x4 places
    maps = MapAlignment()(Compared([counts], [tokens]))
    assert maps.allclose(MapAlignment()(Compared([counts], [tokens[:, 1:].mT.unflatten(2, (4, 4))])))
    MapAlignment().build([(3, 4, 4)], [(17, 6)])


@pytest.mark.parametrize("argument", ["teacher", "student"])
def test_probabilities_are_no_logits(argument, tmp_path):
    given = dict(method="kd", teacher=small(nn.Softmax(-1))) if argument == "teacher" else dict(student=small(nn.Softmax(-1), time_steps=2))
    with pytest.raises(ValueError, match=f"{argument}: expected a network that returns logits, got one that returns probabilities, of sum 1"):
        student(tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()
    assert student(tmp_path / "logarithms", method="kd", teacher=small(nn.LogSoftmax(-1))).state == "finished"  # as good as logits


def test_outputs_of_another_shape_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"teacher: expected a network that returns logits \[3, 10\] for these images, got \[3, 1, 10\]"):
        student(tmp_path / "run", method="kd", teacher=small(nn.Unflatten(1, (1, 10))), time_steps=2)
    assert not (tmp_path / "run").exists()


def test_a_teacher_does_not_change_while_the_student_learns(tmp_path):
    ann = small()
    network = spiking(ann, 2)
    network[2].weight = ann[2].weight
    with pytest.raises(ValueError, match=r"teacher: expected weights of its own, got '2.weight', which the student has too and trains"):
        student(tmp_path / "run", student=network, teacher=ann, method="kd")
    assert not (tmp_path / "run").exists()


def test_class_names_that_differ_in_capitals_are_those_classes(tmp_path):
    names = "zero one two three four five six seven eight nine".split()
    named, turned = replace(DIGITS, classes=names), replace(DIGITS, classes=[name.title() for name in names[::-1]])
    taught = train_teacher(**GIVEN, data=named, model="wrn16_2", width=0.25, folder=tmp_path / "teacher")
    with pytest.raises(ValueError, match="teacher: expected one that numbers the classes as digits does .'zero' is 9., got one in which it is 0"):
        student(tmp_path / "run", data=turned, method="kd", teacher=taught.folder)
    signs = replace(DIGITS, classes=["+", "-", *names[2:]])  # told apart by nothing else
    assert student(tmp_path / "signs", data=signs, method="kd", teacher=taught.folder).state == "finished"


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_training_under_a_context_without_gradients(context, tmp_path):
    with context():
        run = student(tmp_path / "run")
    other = student(tmp_path / "other")
    states = run.checkpoint("last")["model"], other.checkpoint("last")["model"]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_weights_that_cannot_be_trained_are_refused(tmp_path):
    with torch.inference_mode():
        network = small(time_steps=2)
    with pytest.raises(ValueError, match="student: expected weights that can be trained, got those of Sequential, made under torch.inference_mode"):
        student(tmp_path / "run", student=network)
    assert not (tmp_path / "run").exists()


def test_another_default_dtype_is_told_before_anything_is_written(tmp_path):
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.raises(ValueError, match="student: expected a network that takes images of shape"):
            student(tmp_path / "run")
    finally:
        torch.set_default_dtype(torch.float32)
    assert not (tmp_path / "run").exists()


def test_conversion_finds_random_slopes_and_says_what_cannot_be_copied():
    with pytest.raises(ValueError, match="others stay analog: rrelu_with_noise in 3"):
        spiking(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.RReLU()), 2)
    network = small()
    with pytest.warns(FutureWarning):
        hooked_weight_norm(network[2])
    snn, images = spiking(network, 2), torch.rand(2, 1, 8, 8)  # its weight is the result of a computation, and is computed anew
    before = snn(images)
    snn[2].weight_g.data *= 100
    assert snn[2].weight_g is not network[2].weight_g and not snn(images).equal(before)
    network.file = open(os.devnull)
    with network.file, pytest.raises(ValueError, match="ann: expected a network that can be copied, got Sequential"):
        spiking(network, 2)


# ------------------------------------------------------------------------------------------------------------------ data


def test_floating_point_of_another_range_is_not_normalised():
    with pytest.raises(ValueError, match="images: expected floating point of 0..1, got numbers from 0 to 255"):
        normalise(torch.tensor([0.0, 255.0]).view(1, 1, 1, 2), (0.5,), (0.5,))


def recording(t, x):
    t, x = np.array(t), np.array(x)
    return Events(t, x, np.zeros_like(t), np.ones_like(t), 4, 4)


@pytest.mark.parametrize("by", ["count", "time"])
def test_events_are_taken_in_the_order_of_time(by):
    assert frames(recording([30, 20, 10, 0], [3, 2, 1, 0]), 2, by=by).equal(frames(recording([0, 10, 20, 30], [0, 1, 2, 3]), 2, by=by))


class Recordings:
    sensor_size = 4, 4, 2

    def __init__(self, times, dtype):
        self.times, self.dtype = times, np.dtype([("x", "<i8"), ("y", "<i8"), ("t", dtype), ("p", "?")])

    def __len__(self):
        return 20

    def __getitem__(self, number):
        events = np.zeros(len(self.times), self.dtype)
        events["t"], events["x"] = self.times, np.arange(len(self.times)) % 4
        return events, number % 2


def test_times_in_seconds_are_no_microseconds():
    with pytest.raises(ValueError, match="data: expected whole numbers in field 't', times in microseconds, got 0.01 in item 0 of train of recordings"):
        frames_from(Recordings(np.arange(8) * 0.01, "<f8"), 4, by="time")
    shapes = [frames_from(Recordings(np.arange(8) * 100, dtype), 4, by="time").x_train for dtype in ("<f8", "<i8")]
    assert shapes[0].equal(shapes[1])


@pytest.mark.parametrize("name, value", [("time_steps", 2.5), ("size", 1.5)])
def test_sizes_of_frames_are_whole_numbers(name, value):
    with pytest.raises(ValueError, match=f"{name}: expected a whole number of at least ., got {value}"):
        frames(recording([0, 1], [0, 1]), **dict(time_steps=2) | {name: value})


@pytest.mark.parametrize("workers", [0, 1])
def test_negative_labels_are_no_classes(workers):
    data = torch.utils.data.TensorDataset(torch.rand(20, 1, 8, 8), torch.arange(20) % 2 - 1)
    with pytest.raises(ValueError, match="classes: expected a name for every label, and labels from 0 on, got 2 names for labels from -1 to 0"):
        images_from(data, classes=["a", "b"], workers=workers)


def test_links_that_lead_back_add_no_images(tmp_path):
    for split in ("train", "test"):
        for number, name in enumerate("ab"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8), (100 * number, 40 * number, 90 - 50 * number)).save(tmp_path / split / name / "0.png")
    before = load_images(tmp_path, image_size=8)
    for name in ("one", "two"):  # two of them make 2^40 paths
        (tmp_path / "train" / "a" / name).symlink_to(tmp_path / "train" / "a")
    (tmp_path / "train" / "b" / "up").symlink_to(tmp_path / "train")
    after = load_images(tmp_path, image_size=8)
    assert after.x_train.equal(before.x_train) and after.y_train.tolist() == [0, 1]


def test_class_names_may_be_bytes(tmp_path):
    arrays = dict(x_train=np.random.default_rng(0).integers(0, 255, (4, 8, 8), np.uint8), y_train=np.arange(4) % 2)
    np.savez(tmp_path / "mine.npz", **arrays, x_test=arrays["x_train"], y_test=arrays["y_train"], class_names=np.array([b"cat", b"dog"]))
    assert load_images(tmp_path / "mine.npz", image_size=8).classes == ["cat", "dog"]


def test_test_images_that_are_learned_from_are_told(tmp_path):
    data = torch.utils.data.TensorDataset(torch.rand(40, 1, 8, 8), torch.arange(40) % 2)
    said = "data: 40 of 40 test images of tensordataset are among its training images, so its accuracy is not that of new images"
    for workers in (0, 1):
        with pytest.warns(UserWarning, match=said):
            student(tmp_path / f"run{workers}", data=images_from((data, data), workers=workers), train_images=0)
    for split in ("train", "test"):
        for number, name in enumerate("ab"):
            (tmp_path / "images" / split / name).mkdir(parents=True)
            for image in range(20 if split == "train" else 1):
                Image.new("RGB", (8, 8), (100 * number, 9 * image, 7 * image)).save(tmp_path / "images" / split / name / f"{image}.png")
    shutil.rmtree(tmp_path / "images" / "test" / "a")
    (tmp_path / "images" / "test" / "a").symlink_to(tmp_path / "images" / "train" / "a")
    for workers in (0, 1):
        with pytest.warns(UserWarning, match="data: 2[01] of 21 test images of images are among its training images"):
            student(tmp_path / f"folder{workers}", data=str(tmp_path / "images"), train_images=0, workers=workers)


def test_classes_without_training_images_are_told(tmp_path):
    with pytest.warns(UserWarning, match=r"data: digits has test images of class '10' \(label 10\) and none to learn from"):
        student(tmp_path / "run", data=replace(DIGITS, y_test=DIGITS.y_test + 1, classes=[*DIGITS.classes, "10"]))


def test_numbers_of_numpy_are_numbers(tmp_path):
    given = dict(seed=np.int64(3), epochs=np.int32(1), batch_size=np.uint8(20), lr=np.float64(0.02), keep_epochs=(np.int64(1),))
    runs = [student(tmp_path / "numpy", **given), student(tmp_path / "plain", seed=3, keep_epochs=(1,))]
    weights = [run.checkpoint("last")["model"] for run in runs]
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0]) and runs[0].config == runs[1].config | dict(folder=runs[0].config["folder"])
    assert distill(folder=runs[0].folder, resume=True, epochs=np.int64(2)).config["epochs"] == 2
    with pytest.raises(ValueError, match="seed: expected a number from 0 to 4294967295, got 4294967296"):
        student(tmp_path / "large", seed=2**32)


def test_files_that_use_few_of_their_bits_or_are_not_read_are_told(tmp_path):
    for split in ("train", "test"):
        for name in "ab":
            (tmp_path / split / name).mkdir(parents=True)
            Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 64).save(tmp_path / split / name / "0.png")  # 12 bits
    with pytest.warns(UserWarning, match="data: expected files of 16 bits to use them, got one without values above 4,095"):
        load_images(tmp_path, image_size=8)
    Image.new("L", (8, 8)).save(tmp_path / "train" / "a" / "1.gif")
    with pytest.warns(UserWarning, match="got others in '.*a', which are left out, '1.gif' for one"):
        load_images(tmp_path, image_size=8)


def test_pixels_are_those_that_the_file_stores(tmp_path):
    "As of torchvision's ImageFolder, which does not turn a picture as its EXIF entry says."
    for split in ("train", "test"):
        for name in "ab":
            (tmp_path / split / name).mkdir(parents=True)
            picture = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
            picture.getexif()[0x0112] = 6
            picture.save(tmp_path / split / name / "0.png", exif=picture.getexif())
    stored = np.asarray(datasets.ImageFolder(tmp_path / "train")[0][0])
    assert load_images(tmp_path, image_size=8).x_train[0].permute(1, 2, 0).numpy().tolist() == stored.tolist()


def test_a_program_that_trains_with_workers_ends_without_a_traceback(tmp_path):
    for split in ("train", "test"):
        for number, name in enumerate("ab"):
            (tmp_path / "images" / split / name).mkdir(parents=True)
            for image in range(20):
                Image.new("RGB", (8, 8), (100 * number, image + 20 * (split == "test"), 7)).save(tmp_path / "images" / split / name / f"{image}.png")
    given = GIVEN | dict(data=str(tmp_path / "images"), workers=1, image_size=8, student="resnet18", width=0.0625, method="baseline", train_images=0)
    program = f"from sastc import distill; run = distill(folder={str(tmp_path / 'run')!r}, **{given!r})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr


# ------------------------------------------------------------------------------------------------------------ run folders


@pytest.fixture
def runs(teacher, tmp_path):
    "A folder with three seeds."
    first = student(tmp_path / "runs" / "baseline-seed0")
    for seed in (1, 2):
        place = tmp_path / "runs" / f"baseline-seed{seed}"
        shutil.copytree(first.folder, place)
        change(place / "config.json", lambda content: content["settings"].update(seed=seed))
    return tmp_path / "runs"


def change(file, how):
    content = json.loads(file.read_text())
    how(content)
    file.write_text(json.dumps(content))


def test_hidden_copies_are_no_runs(runs):
    before = run_table(runs)
    for name in (".trash", ".ipynb_checkpoints"):
        shutil.copytree(runs / "baseline-seed0", runs / name)
        change(runs / name / "result.json", lambda content: content.update(test_accuracy_last=0.99))
    assert run_table(runs).equals(before)


def test_files_of_the_user_do_not_damage_a_run(runs):
    place, content = runs / "baseline-seed0", '{"image": 1, "said": 3}\n{"image": 2, "said": 5}\n'
    (place / "predictions.jsonl").write_text(content)
    assert len(run_table(runs)) == 3 and not find_runs(runs)[1]
    write_report(runs)
    (place / "result.json").unlink()
    distill(folder=place, resume=True, epochs=2)
    student(place, overwrite=True)
    assert (place / "predictions.jsonl").read_text() == content
    (place / "steps.jsonl").write_text('{"image": 1}\n')  # one of the run's own
    assert "steps.jsonl: line 1 is damaged" in find_runs(runs)[1][0]


@pytest.mark.parametrize(
    "how, sentence",
    [
        (lambda content: content.pop("test_accuracy_best"), "result.json: damaged .expected test_accuracy_last and test_accuracy_best."),
        (lambda content: content.update(test_accuracy_last=97.5), "result.json: damaged .test_accuracy_last: expected a number from 0 to 1, got 97.5."),
    ],
)
def test_results_that_cannot_be_are_named(how, sentence, runs):
    change(runs / "baseline-seed0" / "result.json", how)
    found, damaged = find_runs(runs)
    assert len(found) == len(run_table(runs)) == 2
    with pytest.raises(ValueError, match=sentence):
        raise ValueError(damaged[0])


def test_a_model_that_could_not_be_written_is_not_taken_for_an_older_one(teacher, tmp_path, monkeypatch):
    place, replaced = write_model(teacher, tmp_path / "model"), os.replace

    def full(source, target):
        if str(target).endswith("README.md"):
            raise OSError(28, "No space left on device")
        replaced(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_model(teacher, place, "last")
    with pytest.raises(FileNotFoundError, match="folder: expected config.json and model.safetensors"):
        read_model(place)


def test_images_that_are_not_square_are_told_to_be_stretched(tmp_path):
    images, labels = np.full((6, 8, 16, 3), 200, np.uint8), np.arange(6) % 3
    images[::2] = 10
    np.savez(tmp_path / "wide.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    with pytest.warns(UserWarning, match="data: expected square images, got 8 x 16 pixels in wide, which are stretched to 12 x 12"):
        assert load_images(tmp_path / "wide.npz", image_size=12).x_test.shape == (6, 3, 12, 12)
    np.savez(tmp_path / "later.npz", x_train=images[:, :, :8], y_train=labels, x_test=images, y_test=labels)  # those of the test alone
    with pytest.warns(UserWarning, match="got 8 x 16 pixels in later, which are stretched to 12 x 12"):
        load_images(tmp_path / "later.npz", image_size=12)


# ------------------------------------------------------------------------------------------------------------- what others get


class Overwrites(nn.Module):
    "Normalises its images in place: always, or in training only."

    def __init__(self, network, always=True):
        super().__init__()
        self.network, self.always = network, always

    def forward(self, x):
        return self.network(x.sub_(0.5) if self.always or self.training else x)


@pytest.mark.parametrize("always", [True, False], ids=["always", "in training"])
def test_a_student_that_works_in_place_on_its_images_is_refused(always, tmp_path, teacher):
    own = spiking(Overwrites(small(), always), 2)
    with pytest.raises(ValueError, match="student: expected one that leaves its images as they are, got Overwrites, which works on them in place"):
        student(tmp_path / "run", student=own, method="kd", teacher=teacher.folder)
    with pytest.raises(ValueError, match="model: expected one that leaves its images as they are, got Overwrites"):
        train_teacher(**GIVEN, data=DIGITS, model=Overwrites(small(), always), folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_whoever_works_in_place_on_images_is_refused_wherever_it_runs(tmp_path, teacher):
    with pytest.raises(ValueError, match="teacher: expected one that leaves its images as they are, got Overwrites"):
        student(tmp_path / "run", method="kd", teacher=Overwrites(small()))
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="network: expected one that leaves its images as they are"):
        measure(Overwrites(small()), test_batches(), 10)
    images, labels = next(test_batches().epoch(0))
    opened = open_run(student(tmp_path / "run", method="kd", teacher=teacher.folder))
    opened.__dict__["teacher"] = Overwrites(small())
    with pytest.raises(ValueError, match="network: expected one that leaves its images as they are"):
        opened.step(images, labels)
    with torch.inference_mode():  # where nothing can be noticed, the images of others are not touched
        assert measure(Overwrites(small()), test_batches(), 10)["accuracy"] == measure(Overwrites(small()), test_batches(), 10)["accuracy"]


WRAPPERS = dict(
    parallel=nn.DataParallel,
    averaged=torch.optim.swa_utils.AveragedModel,
    compiled=lambda network: torch.compile(network, backend="eager"),
    several=lambda network: torch.compile(nn.DataParallel(network), backend="eager"),
)


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_a_network_in_a_wrapper_is_the_network(wrap, teacher, tmp_path):
    network, otherwise = teacher.model(), replace(DIGITS, mean=(0.9,), std=(0.1,))
    wrapped, about = wrap(network), dict(data=otherwise, method="sastc", beta=1, epochs=1)
    assert measure(wrapped, test_batches(otherwise), 10) == measure(network, test_batches(otherwise), 10)
    runs = [student(tmp_path / name, teacher=one, **about) for name, one in dict(alone=network, wrapped=wrapped).items()]
    states = [run.checkpoint("last")["model"] for run in runs]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    turned = replace(DIGITS, classes=list(DIGITS.classes)[::-1])
    with pytest.raises(ValueError, match="teacher: expected one that numbers the classes as digits does"):
        student(tmp_path / "turned", data=turned, method="kd", teacher=wrapped)
    with pytest.raises(ValueError, match="teacher: expected an ANN, got .*, which is spiking .T = 2."):
        student(tmp_path / "spiking", method="kd", teacher=wrap(small(time_steps=2)))


def test_a_wrapper_that_nobody_knows_is_warned_of(teacher):
    with pytest.warns(UserWarning, match="network: expected to know how Overwrites was trained to see images, got that of its 'network' only"):
        measure(Overwrites(teacher.model(), always=False), test_batches(), 10)


def test_a_module_is_opened_for_two_checkpoints_and_stays_what_it_is(tmp_path):
    own = small(time_steps=2)
    run = student(tmp_path / "run", student=own, epochs=2, keep_epochs=[1], data=DIGITS)
    with torch.no_grad():
        for weight in own.parameters():
            weight.add_(1.0)  # as if it were trained further
    own.preprocessing, before = Preprocessing((0.7,), (0.7,)), copy.deepcopy(own.state_dict())
    first = open_run(run, "epoch-1", student=own, data=DIGITS).network
    last = open_run(run, "last", student=own, data=DIGITS).network
    assert assess(run, "last", student=own, data=DIGITS)["accuracy"] == run.result["test_accuracy_last"]
    for which, network in dict(zip(("epoch-1", "last"), (first, last))).items():
        assert all(network.state_dict()[name].equal(value) for name, value in run.checkpoint(which)["model"].items())
        assert network.preprocessing.mean == tuple(DIGITS.mean)
    assert all(own.state_dict()[name].equal(value) for name, value in before.items()) and own.preprocessing == Preprocessing((0.7,), (0.7,)) and own.training


# ------------------------------------------------------------------------------------------------------------- too late


class Says(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.network, self.value = small(), value

    def forward(self, x):
        return self.network(x) * self.value


def flat_maps():
    return spiking(nn.Sequential(nn.Conv2d(1, 4, 8), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4, 10)), 1)


LATE = {
    "batch_size: expected more images, with which Sequential can be trained, got 1 .Expected more than 1 value": lambda: dict(
        student=flat_maps(), batch_size=1
    ),
    "data: expected at least two test images for a mismatch, which compares them, got 1 in digits": lambda: dict(
        data=replace(DIGITS, x_test=DIGITS.x_test[:1], y_test=DIGITS.y_test[:1]), mismatch_batches=1, teacher=small()
    ),
    "teacher: expected a network whose outputs are finite numbers, got NaN": lambda: dict(method="kd", teacher=Says(float("nan"))),
    "teacher: expected a network with weights, got Sequential, in which '0' is lazy": lambda: dict(
        method="kd", teacher=nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10))
    ),
    "teacher: expected a network with weights, got Sequential, in which '1' is lazy": lambda: dict(
        mismatch_batches=1, teacher=nn.Sequential(nn.Flatten(), nn.LazyLinear(10), nn.ReLU(), nn.Linear(10, 10))
    ),
}


@pytest.mark.parametrize("sentence", LATE)
def test_what_would_fail_in_the_training_is_said_before_it(sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        student(tmp_path / "run", **LATE[sentence]())
    assert not (tmp_path / "run").exists()


def test_the_pass_before_the_training_leaves_no_trace(tmp_path, monkeypatch):
    import sastc.training.session as session

    own = [spiking(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(144, 10)), 2)]
    own.append(copy.deepcopy(own[0]))
    states = []
    for number, network in enumerate(own):
        states.append(student(tmp_path / str(number), student=network, seed=1).checkpoint("last")["model"])
        monkeypatch.setattr(session, "check_training", lambda *args: None)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_lazy_student_learns_from_a_teacher(tmp_path):
    lazy = spiking(nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10)), 2)
    assert student(tmp_path / "run", student=lazy, method="kd", teacher=small()).state == "finished"


def test_compiled_networks_teach_and_learn(tmp_path):
    for name, given in dict(kd=dict(method="kd"), watched=dict(mismatch_batches=1)).items():
        assert student(tmp_path / name, teacher=torch.compile(small(), backend="eager"), **given).state == "finished"
    narrow = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(36, 10))
    assert student(tmp_path / "run", student=torch.compile(spiking(narrow, 2), backend="eager")).state == "finished"
    analog = over_time(nn.Sequential(nn.Conv2d(1, 4, 3), LIF(2), nn.Conv2d(4, 4, 1), nn.SiLU(), nn.Flatten(), nn.Linear(144, 10)), 2)
    with pytest.warns(UserWarning, match="network: expected activations that are neurons, got silu in 3 in Sequential"):
        student(tmp_path / "analog", student=torch.compile(analog, backend="eager"))


def test_a_compiled_network_is_measured_and_tapped_whatever_was_compiled_before():
    network = create_model("vgg11", in_channels=1, width=0.0625, time_steps=2, image_size=8).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.bias.data += 0.6  # so that it fires
    compiled, images = torch.compile(network, backend="eager"), next(test_batches().epoch(0))[0]
    with torch.no_grad():
        compiled(images)  # compiled without hooks, which what is compiled does not ask for
    right, *found = (measure(one, test_batches(), 10, costs=True) for one in (network, compiled, compiled))
    for again in found:
        assert list(again.pop("rates").values()) == list(right["rates"].values())
        assert again == {name: value for name, value in right.items() if name != "rates"}
    assert Taps(compiled, ["_orig_mod.layer2"])(images)[1][0].equal(Taps(network, ["layer2"])(images)[1][0])


class InTraining(nn.Module):
    def forward(self, x):
        return F.silu(x) if self.training else x


@pytest.mark.parametrize("size", [8, 11], ids=["guessed", "not guessed"])
def test_an_activation_in_training_mode_only_is_found(size, tmp_path):
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1), InTraining(), nn.Flatten(), nn.Linear(4 * (size - 2) ** 2, 10)
    )
    with pytest.raises(
        ValueError, match="ann: expected a network whose activations are nn.ReLU modules, got Sequential, in which others stay analog: silu in 4"
    ):
        student(tmp_path / "run", student=spiking(network, 2), image_size=size)
    assert not (tmp_path / "run").exists()
    by_hand = over_time(nn.Sequential(nn.Conv2d(1, 4, 3), LIF(2), nn.Conv2d(4, 4, 1), InTraining(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)), 2)
    with pytest.warns(UserWarning, match="network: expected activations that are neurons, got silu in 3 in Sequential"):
        student(tmp_path / "by hand", student=by_hand)
