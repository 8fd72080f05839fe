"""Networks, taps, conversion: the tables of METHOD section 3, and students against step-by-step simulation."""

import copy
import io
import math
from functools import cache

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from sastc.common.settings import flat
from sastc.methods.calibrator import Calibrator
from sastc.methods.loss import DistillationLoss
from sastc.models import Taps, candidates, convert, create_model, list_models, spiking, tap_shapes
from sastc.models.blocks import he_init
from sastc.models.taps import evaluating
from sastc.neurons.neuron import IF, LIF, PLIF, Neuron

few = settings(max_examples=15)

# METHOD 3.1 and 3.3: parameters for 10 and 100 classes, then the taps as C x H x W for 32x32 images
TABLE = dict(
    vgg11=(34_440_970, 34_809_700, "64x32x32 128x16x16 256x8x8 512x4x4 512x2x2 4096"),
    resnet18_sastc=(12_630_858, 12_653_988, "64x32x32 128x32x32 256x16x16 512x8x8 256"),
    wrn16_2_sastc=(20_524_618, 20_547_748, "64x32x32 512x32x32 1024x16x16 2048x8x8 256"),
    resnet19=(12_502_090, 12_548_260, "64x32x32 128x32x32 256x16x16 512x8x8 512"),
    pyramidnet20=(2_933_675, 2_953_205, "16x32x32 83x32x32 216x8x8 216x1x1"),
    wrn28_4=(5_849_050, 5_872_180, "16x32x32 64x32x32 128x16x16 256x8x8 256"),
    vgg13=(None, 9_462_180, "64x32x32 128x16x16 256x8x8 512x4x4 512x4x4 512"),
    resnet32x4=(None, 7_433_860, "32x32x32 64x32x32 128x16x16 256x8x8 256"),
    wrn40_2=(2_243_546, 2_255_156, "16x32x32 32x32x32 64x16x16 128x8x8 128"),
)
COUNTS = [(name, classes, row[column]) for name, row in TABLE.items() for column, classes in enumerate((10, 100)) if row[column]]
STUDENTS = ["vgg11", "resnet18_sastc", "resnet18", "wrn16_2_sastc", "wrn16_2", "vggsnn"]
NEWER = [
    "sew_resnet18",
    "sew_resnet34",
    "imagenet_sew_resnet18",
    "imagenet_sew_resnet34",
    "ms_resnet18",
    "imagenet_ms_resnet18",
    "spikformer4_256",
    "spikformer4_384",
]
TEACHERS = ["resnet19", "pyramidnet20", "wrn28_4", "vgg13", "resnet32x4", "wrn40_2"]


def sized(name, size):
    "What a network must be told of images of that size: those without a global average have a linear layer that follows it."
    return dict(image_size=size) if name in ("vgg11", "vggsnn") else {}


def on_meta(name, *args, **options):
    "A network without numbers: full width at no cost."
    with torch.device("meta"):
        return create_model(name, *args, **options)


def tapped_shapes(network, names, image=(3, 32, 32)):
    time_steps = getattr(network, "time_steps", None)
    output, features = Taps(network, names)(torch.empty(2, *image, device="meta"))
    leading = (2,) if time_steps is None else (time_steps, 2)
    assert all(feature.shape[: len(leading)] == leading for feature in [output, *features])
    return [tuple(feature.shape[len(leading) :]) for feature in features]


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def sizes(text):
    return [tuple(map(int, shape.split("x"))) for shape in text.split()]


# METHOD 3.2: parameters for 1000 classes and the taps for 224x224 images, stem after its pooling
IMAGENET_TAPS = "64x56x56 64x56x56 128x28x28 256x14x14 512x7x7 512"


@pytest.mark.parametrize("name, count", dict(imagenet_resnet18=11_689_512, imagenet_resnet34=21_797_672).items())
@pytest.mark.parametrize("time_steps", [None, 2])
def test_imagenet_networks_have_the_parameters_and_taps_of_the_method(name, count, time_steps):
    network = on_meta(name, 1000, time_steps)
    assert parameters(network) == count
    assert tapped_shapes(network, network.taps, (3, 224, 224)) == sizes(IMAGENET_TAPS)
    assert candidates(network) == ["stage1", "stage2", "stage3", "stage4"]


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("name", ["resnet18", "resnet34"])
def test_imagenet_networks_compute_what_torchvisions_do(name):
    torch.manual_seed(0)
    theirs, ours = torchvision.models.get_model(name, num_classes=7).eval(), create_model(f"imagenet_{name}", 7).eval()
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))  # the layers come in the same order
    images = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(ours(images), theirs(images))
    spiking_ours, spiking_theirs = create_model(f"imagenet_{name}", 7, time_steps=3).eval(), spiking(theirs, 3).eval()
    spiking_ours.load_state_dict(ours.state_dict())
    torch.testing.assert_close(spiking_ours(images), spiking_theirs(images))


WIDTHS = dict(wrn16_2_sastc=1 / 32)  # 2048 channels at full width


def build(name, time_steps=2, size=16):
    "A narrow float64 network for small images."
    return create_model(name, time_steps=time_steps, width=WIDTHS.get(name, 1 / 16), **sized(name, size)).double()


@cache
def lively(name, time_steps=2, size=16):
    "The same, with weights and statistics under which every layer fires: a silent layer would hide what stands behind it."
    torch.manual_seed(0)
    network = build(name, time_steps, size)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Linear):
                module.weight *= 6
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 1, 2)
                nn.init.uniform_(module.bias, 0, 0.5)
                module.momentum = 1.0
        network(images(16, size=size))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1
    return network


def lively_copy(name, *args):
    return copy.deepcopy(lively(name, *args))


def images(batch=3, *leading, seed=1, size=16):
    return torch.randn(*leading, batch, 3, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---------------------------------------------------------------- tables


def test_every_network_has_its_name():
    assert set(list_models("student")) == {*STUDENTS, *NEWER, "imagenet_resnet18", "imagenet_resnet34"}
    assert list_models("teacher") == TEACHERS
    assert list_models() == list_models("student") + TEACHERS


@pytest.mark.parametrize("time_steps", [None, 3], ids=["ann", "snn"])
@pytest.mark.parametrize("name, classes, count", COUNTS)
def test_parameter_counts(name, classes, count, time_steps):
    assert parameters(on_meta(name, classes, time_steps)) == count


@pytest.mark.parametrize("time_steps", [None, 3], ids=["ann", "snn"])
@pytest.mark.parametrize("name", TABLE)
def test_tap_shapes(name, time_steps):
    network = on_meta(name, 10, time_steps)
    assert tapped_shapes(network, network.taps) == sizes(TABLE[name][2])


@pytest.mark.parametrize(
    "name, classes, channels, count", [("resnet18_sastc", 11, 2, 12_630_539), ("resnet19", 10, 2, 12_501_514), ("vggsnn", 10, 2, 9_271_498)]
)
def test_parameter_counts_for_event_data(name, classes, channels, count):
    assert parameters(on_meta(name, classes, 4, channels)) == count


def test_taps_of_vggsnn_on_frames_of_48_pixels():
    "METHOD 3.2; the same whether the time axis is of a student or of frames shown to an ANN."
    for time_steps in (None, 4):
        network = on_meta("vggsnn", 10, time_steps, 2)
        output, features = Taps(network, network.taps)(torch.empty(4, 3, 2, 48, 48, device="meta"))
        assert output.shape == (4, 3, 10)
        assert [tuple(feature.shape[2:]) for feature in features] == sizes("64x48x48 128x48x48 256x24x24 512x12x12 512x6x6 4608")


@pytest.mark.parametrize("name, millions", [("resnet18", "11.2"), ("wrn16_2", "0.7")])
def test_true_namesakes_have_the_published_size(name, millions):
    assert f"{parameters(on_meta(name, 10, 2)) / 1e6:.1f}" == millions


@pytest.mark.parametrize(
    "name, expected",
    [
        ("resnet18", "64x32x32 64x32x32 128x16x16 256x8x8 512x4x4 512"),
        ("wrn16_2", "16x32x32 32x32x32 64x16x16 128x8x8 128"),
    ],
)
def test_tap_shapes_of_the_true_namesakes(name, expected):
    network = on_meta(name, 10, 2)
    assert tapped_shapes(network, network.taps) == sizes(expected)


PRESETS = [("vgg11", "resnet19", (4, 5), (3, 4)), ("resnet18_sastc", "pyramidnet20", (3, 4), (2, 3)), ("wrn16_2_sastc", "wrn28_4", (4, 4), (3, 3))]


@pytest.mark.parametrize("student, teacher, paper, code", PRESETS)
def test_presets_have_the_candidate_counts_of_the_paper_and_of_the_code(student, teacher, paper, code):
    networks = on_meta(teacher), on_meta(student, time_steps=2)
    assert tuple(len(candidates(network, "paper")) for network in networks) == paper
    assert tuple(len(candidates(network, "code")) for network in networks) == code


@pytest.mark.parametrize("name", TABLE)
def test_presets_are_slices_of_the_table(name):
    network, table = on_meta(name), sizes(TABLE[name][2])
    assert tapped_shapes(network, candidates(network)) == tapped_shapes(network, candidates(network, "code")) == table[1:-1]
    assert tapped_shapes(network, candidates(network, "paper")) == table[:-1]


def test_preset_stages_adds_the_second_stage_of_pyramidnet():
    network = on_meta("pyramidnet20")
    assert tapped_shapes(network, candidates(network, "stages")) == sizes("83x32x32 149x16x16 216x8x8")


TRAINING_ONLY = dict(
    vgg11=dict(resnet19="25.5", pyramidnet20="8.0", wrn28_4="12.1", vgg13="40.6", resnet32x4="12.1", wrn40_2="5.9"),
    resnet18_sastc=dict(pyramidnet20="5.2", wrn28_4="7.8", resnet32x4="7.8", wrn40_2="3.8"),
    wrn16_2_sastc=dict(resnet19="59.9", pyramidnet20="19.6", wrn28_4="29.4"),
)


@pytest.mark.parametrize("student, teacher, millions", [(s, t, count) for s, row in TRAINING_ONLY.items() for t, count in row.items()])
def test_training_only_parameters(student, teacher, millions):
    "METHOD 3.4: attention and projections, preset code, M = 64."
    with torch.device("meta"):
        calibrator = Calibrator(sizes(TABLE[student][2])[1:-1], sizes(TABLE[teacher][2])[1:-1], batch_size=64)
    assert f"{parameters(calibrator) / 1e6:.1f}" == millions


# ---------------------------------------------------------------- students against a simulation


class Stepwise(nn.Module):
    "A neuron that is called once a time step and remembers its potential: the definition, without any folding."

    def __init__(self):
        super().__init__()
        self.remaining = 0.0

    def forward(self, current):
        potential = 0.5 * self.remaining + current
        slope = (1 - (potential - 1).abs()).clamp(min=0).detach()
        spike = (potential > 1).to(potential) + slope * (potential - potential.detach())
        self.remaining = potential * (1 - spike)
        return spike


def stepwise_twin(name, state):
    ann = build(name, None)
    ann.load_state_dict(state)
    for parent in list(ann.modules()):
        for child_name, child in parent.named_children():
            if isinstance(child, nn.ReLU):
                setattr(parent, child_name, Stepwise())
    return ann


@pytest.mark.parametrize("name", STUDENTS + TEACHERS)
def test_student_equals_the_ann_with_neurons_simulated_step_by_step(name):
    "Evaluation mode, so that steps do not meet in the batch statistics; outputs, taps and every gradient."
    student = lively_copy(name, 3).eval()
    twin = stepwise_twin(name, student.state_dict()).eval()
    frames, weight = images(2, 3), torch.randn(3, 2, 10, dtype=torch.float64)
    outputs, features = Taps(student, student.taps)(frames)
    assert all(feature.any() for feature in features)
    steps = [Taps(twin, student.taps)(frame) for frame in frames]
    torch.testing.assert_close(outputs, torch.stack([output for output, _ in steps]), atol=1e-10, rtol=1e-10)
    for number, feature in enumerate(features):
        torch.testing.assert_close(feature, torch.stack([step[number] for _, step in steps]), atol=1e-10, rtol=1e-10)
    gradients = torch.autograd.grad((outputs * weight).sum(), student.parameters())
    total = sum((output * w).sum() for (output, _), w in zip(steps, weight))
    for gradient, expected in zip(gradients, torch.autograd.grad(total, twin.parameters())):
        assert gradient.any()
        torch.testing.assert_close(gradient, expected, atol=1e-9 * expected.abs().max(), rtol=1e-9)


@pytest.mark.parametrize("name", STUDENTS + TEACHERS)
def test_static_image_equals_its_repetition(name):
    "Training mode: the batch statistics of T copies of an image are those of the image. Outputs, taps and gradients."
    results = []
    for x in (images(3), images(3).repeat(2, 1, 1, 1, 1)):
        student = lively_copy(name)
        x.requires_grad_()
        outputs, features = Taps(student, student.taps)(x)
        gradients = torch.autograd.grad(outputs.square().sum(), [x, *student.parameters()])
        results.append(([outputs, *features], gradients))
    (alone, (at_image, *alone_gradients)), (repeated, (at_frames, *repeated_gradients)) = results
    for one, other in zip(alone, repeated, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-9)
    assert at_image.any()
    for one, other in zip([at_image, *alone_gradients], [at_frames.sum(0), *repeated_gradients], strict=True):
        torch.testing.assert_close(one, other, atol=max(1e-9, 1e-8 * at_image.abs().max().item()), rtol=1e-8)


@pytest.mark.parametrize("width", [1 / 64, 1 / 32, 1 / 16, 0.1, 0.25])
@pytest.mark.parametrize("name", STUDENTS + TEACHERS)
def test_every_width_takes_static_images(name, width):
    "Narrow networks round neighbouring widths to the same number, where a shortcut may need no projection."
    with torch.device("meta"):
        network = create_model(name, 7, 3, width=width, **sized(name, 32))
        assert network(torch.empty(2, 3, 32, 32)).shape == (3, 2, 7)


@few
@given(time_steps=st.integers(1, 7), batch=st.integers(1, 4), name=st.sampled_from(["vgg11", "resnet18_sastc", "wrn16_2"]), static=st.booleans())
def test_outputs_and_taps_have_time_first(time_steps, batch, name, static):
    network = create_model(name, 5, time_steps, width=1 / 32).eval()
    x = torch.rand(*([] if static else [time_steps]), batch, 3, 32, 32)
    output, features = Taps(network, network.taps)(x)
    assert output.shape == (time_steps, batch, 5)
    assert all(feature.shape[:2] == (time_steps, batch) for feature in features)


@few
@given(time_steps=st.integers(2, 7), cut=st.integers(1, 6), seed=st.integers(0, 99))
def test_later_frames_do_not_reach_earlier_outputs(time_steps, cut, seed):
    cut, outputs = min(cut, time_steps), []
    frames = images(2, time_steps, seed=seed, size=8)
    for steps in (time_steps, cut):
        network = build("resnet18_sastc", steps).eval()
        network.load_state_dict(lively("resnet18_sastc").state_dict())
        outputs.append(network(frames[:steps])[:cut])
    torch.testing.assert_close(*outputs, atol=1e-12, rtol=1e-12)


BINARY_TAPS = dict(
    vgg11=5,  # the last tap is a linear layer without neuron
    vggsnn=5,  # the last tap is an average of spikes
    resnet18_sastc=5,
    wrn16_2_sastc=5,
)


@pytest.mark.parametrize("name", BINARY_TAPS)
def test_taps_of_students_are_spikes(name):
    student = lively_copy(name)
    _, features = Taps(student, student.taps)(images(4))
    for feature in features[: BINARY_TAPS[name]]:
        assert feature.unique().tolist() == [0, 1]


@pytest.mark.parametrize("name", TEACHERS)
def test_taps_of_residual_sums_are_raw_and_taps_after_relu_are_not_negative(name):
    "METHOD 3.3: WRN taps 0-3 and all but the last of PyramidNet stand before the next normalisation and ReLU."
    network = create_model(name, width=1 / 16)
    _, features = Taps(network, network.taps)(torch.randn(4, 3, 32, 32))
    raw = [bool((feature < 0).any()) for feature in features]
    assert raw == ([True] * (len(raw) - 1) + [False] if name.startswith(("wrn", "pyramid")) else [False] * len(raw))


# ---------------------------------------------------------------- blocks written out


def norm_of(x, norm):
    return F.batch_norm(x, None, None, norm.weight, norm.bias, training=True)


def randomised(module):
    "Scales and shifts of its own for every normalisation, so that none of them can be exchanged unnoticed."
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.uniform_(norm.bias, -0.5, 0.5)
    return module


def convs_and_norms(block):
    modules = list(block.modules())
    return [m for m in modules if isinstance(m, nn.Conv2d)], [m for m in modules if isinstance(m, nn.BatchNorm2d)]


def teacher_block(name, stage, position):
    return randomised(getattr(create_model(name, width=1 / 8).double(), stage)[position])


@pytest.mark.parametrize("stage, position, stride", [("stage1", 0, 1), ("stage2", 0, 2), ("stage2", 1, 1)])
@pytest.mark.parametrize("name", ["resnet19", "resnet32x4"])
def test_basic_block_is_post_activation(name, stage, position, stride):
    block = teacher_block(name, stage, position)
    convs, norms = convs_and_norms(block)
    x = torch.randn(2, convs[0].in_channels, 8, 8, dtype=torch.float64)
    y = F.conv2d(norm_of(F.conv2d(x, convs[0].weight, stride=stride, padding=1), norms[0]).relu(), convs[1].weight, padding=1)
    shortcut = norm_of(F.conv2d(x, convs[2].weight, stride=stride), norms[2]) if len(convs) == 3 else x
    assert (len(convs) == 3) == (position == 0)
    torch.testing.assert_close(block(x), (norm_of(y, norms[1]) + shortcut).relu(), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("stage, position, stride", [("stage1", 0, 1), ("stage2", 0, 2), ("stage1", 1, 1)])
def test_bottleneck_block(stage, position, stride):
    block = teacher_block("wrn16_2_sastc", stage, position)
    convs, norms = convs_and_norms(block)
    x = torch.randn(2, convs[0].in_channels, 8, 8, dtype=torch.float64)
    y = norm_of(F.conv2d(x, convs[0].weight), norms[0]).relu()
    y = norm_of(F.conv2d(y, convs[1].weight, stride=stride, padding=1), norms[1]).relu()
    y = norm_of(F.conv2d(y, convs[2].weight), norms[2])
    shortcut = norm_of(F.conv2d(x, convs[3].weight, stride=stride), norms[3]) if len(convs) == 4 else x
    assert (len(convs) == 4) == (position == 0)
    torch.testing.assert_close(block(x), (y + shortcut).relu(), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("stage, position, stride", [("stage1", 0, 1), ("stage2", 0, 2), ("stage2", 1, 1)])
def test_wide_residual_block_is_pre_activation(stage, position, stride):
    "A changing width takes its shortcut from the activated input, as the reference wide residual network does."
    block = teacher_block("wrn28_4", stage, position)
    convs, norms = convs_and_norms(block)
    x = torch.randn(2, convs[0].in_channels, 8, 8, dtype=torch.float64)
    active = norm_of(x, norms[0]).relu()
    y = norm_of(F.conv2d(active, convs[0].weight, stride=stride, padding=1), norms[1]).relu()
    shortcut = F.conv2d(active, convs[2].weight, stride=stride) if len(convs) == 3 else x
    assert (len(convs) == 3) == (position == 0)
    torch.testing.assert_close(block(x), F.conv2d(y, convs[1].weight, padding=1) + shortcut, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("stage, position, stride, size", [("stage1", 0, 1, 8), ("stage2", 0, 2, 8), ("stage2", 0, 2, 7), ("stage3", 2, 1, 8)])
def test_pyramid_block_pads_its_shortcut_and_has_no_activation_after_the_sum(stage, position, stride, size):
    block = teacher_block("pyramidnet20", stage, position)
    convs, norms = convs_and_norms(block)
    x = torch.randn(2, convs[0].in_channels, size, size, dtype=torch.float64)
    y = norm_of(F.conv2d(norm_of(x, norms[0]), convs[0].weight, stride=stride, padding=1), norms[1]).relu()
    y = norm_of(F.conv2d(y, convs[1].weight, padding=1), norms[2])
    shortcut = F.avg_pool2d(x, 2, ceil_mode=True) if stride == 2 else x
    y[:, : x.shape[1]] += shortcut
    torch.testing.assert_close(block(x), y, atol=1e-10, rtol=1e-10)


# ---------------------------------------------------------------- building


@pytest.mark.parametrize("name", STUDENTS + TEACHERS)
def test_width_scales_every_hidden_channel(name):
    full, half = on_meta(name, 10), on_meta(name, 10, width=0.5, **sized(name, 32))
    for one, other in zip(full.modules(), half.modules()):
        if isinstance(one, nn.Conv2d):
            # the widths of PyramidNet are odd and inner widths are halves of rounded outer ones: one channel of rounding
            assert abs(one.out_channels / 2 - other.out_channels) <= 1
            assert one.in_channels == other.in_channels == 3 or abs(one.in_channels / 2 - other.in_channels) <= 1
    assert half(torch.empty(2, 3, 32, 32, device="meta")).shape == (2, 10)


@pytest.mark.parametrize("threshold", [1.0, 0.5])
def test_tdbn_scales_start_at_the_threshold_and_before_a_sum_at_its_share(threshold):
    network = create_model("resnet18_sastc", time_steps=2, width=1 / 16, norm="tdbn", threshold=threshold)
    first = network.stage2[0]
    before_sum = {norm for norm in first.modules() if isinstance(norm, nn.BatchNorm2d)} - {first.branch[1]}
    assert len(before_sum) == 2
    for norm in before_sum:
        torch.testing.assert_close(norm.weight, torch.full_like(norm.weight, threshold / math.sqrt(2)))
    for norm in (network.stem[1], first.branch[1]):
        torch.testing.assert_close(norm.weight, torch.full_like(norm.weight, threshold))
    plain = create_model("resnet18_sastc", time_steps=2, width=1 / 16, threshold=threshold)
    assert all((norm.weight == 1).all() for norm in plain.modules() if isinstance(norm, nn.BatchNorm2d))


def test_teachers_start_from_he_normal_fan_out():
    weight = create_model("resnet19", width=0.5).stage2[0].branch[0].weight  # 3x3, 64 -> 128 channels, 73,728 numbers
    assert weight.shape == (128, 64, 3, 3)
    assert abs(weight.std().item() / math.sqrt(2 / (128 * 9)) - 1) < 0.02
    # normal and not uniform: a uniform distribution ends at sqrt(3) standard deviations
    assert weight.abs().max() > 3 * weight.std()


def test_students_start_from_pytorch_defaults():
    weight = create_model("resnet18_sastc", time_steps=2, width=0.5).stage2[0].branch[0].weight
    bound = 1 / math.sqrt(weight[0].numel())
    assert weight.abs().max() <= bound
    assert weight.abs().max() > 0.99 * bound


def test_he_init_returns_the_network_and_leaves_linear_layers():
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Linear(3, 4))
    before = network[1].weight.detach().clone()
    assert he_init(network) is network and network[1].weight.equal(before)


LIF_SETTINGS = dict(threshold=1.0, gamma=1.0, surrogate="triangle", reset="hard", detach_reset=False, decay=0.5)


def neurons(network):
    return [module for module in network.modules() if isinstance(module, LIF)]


@pytest.mark.parametrize("fc_neurons, count", [(False, 8), (True, 10)])
def test_vgg11_head_spikes_on_request(fc_neurons, count):
    network = create_model("vgg11", time_steps=2, width=1 / 32, fc_neurons=fc_neurons)
    assert len(neurons(network)) == count
    _, (feature,) = Taps(network, ["layer10"])(5 * torch.randn(4, 3, 32, 32))
    assert (set(feature.unique().tolist()) <= {0, 1}) == fc_neurons


def test_vgg11_head_follows_the_image_size():
    assert create_model("vgg11", time_steps=2, width=1 / 32, image_size=28)(torch.rand(2, 3, 28, 28)).shape == (2, 2, 10)


@pytest.mark.parametrize("name", STUDENTS + TEACHERS)
def test_ann_and_snn_differ_in_their_activations_alone(name):
    ann, snn = on_meta(name), on_meta(name, time_steps=2, decay=0.25, threshold=0.5, gamma=2.0, detach_reset=True)
    assert list(ann.state_dict()) == list(snn.state_dict())
    pairs = [(one, other) for one, other in zip(ann.modules(), snn.modules()) if type(one) is not type(other)]
    assert pairs and all(isinstance(one, nn.ReLU) and isinstance(other, LIF) for one, other in pairs)
    assert not neurons(ann) and not any(isinstance(module, nn.ReLU) for module in snn.modules())
    assert all(
        flat(neuron) == LIF_SETTINGS | dict(decay=0.25, threshold=0.5, gamma=2.0, detach_reset=True) and neuron.backend == "auto" for neuron in neurons(snn)
    )
    assert all(neuron.time_steps == 2 for neuron in neurons(snn))


def test_spec_rebuilds_the_network():
    network = create_model("vgg11", 7, 3, 1, width=1 / 32, image_size=28, decay=0.25)
    again = create_model(**network.spec)
    again.load_state_dict(network.state_dict())
    x = torch.rand(2, 1, 28, 28)
    assert again.eval()(x).equal(network.eval()(x))


ERRORS = [
    (dict(name="vgg12"), "network: expected one of vgg11, .*, got 'vgg12' \\(did you mean 'vgg1[13]'\\?\\)"),
    (dict(name="resnet-19"), "did you mean 'resnet19'"),
    (dict(name="vgg11", num_classes=1), "num_classes: expected a whole number of at least 2, got 1"),
    (dict(name="vgg11", num_classes=2.5), "num_classes: expected a whole number of at least 2, got 2.5"),
    (dict(name="vgg11", in_channels=0), "in_channels: expected a whole number of at least 1, got 0"),
    (dict(name="vgg11", in_channels=1.5), "in_channels: expected a whole number of at least 1, got 1.5"),
    (dict(name="vgg11", width=0), "width: expected a number from .*, got 0"),
    (dict(name="vgg11", width=float("nan")), "width: expected a number from .*, got nan"),
    (dict(name="vgg11", time_steps=0), "time_steps: expected a whole number of at least 1, got 0"),
    (dict(name="vgg11", time_steps=1.5), "time_steps: expected a whole number of at least 1, got 1.5"),
    (dict(name="vgg11", norm="bm"), "norm: expected one of bn, tdbn, got 'bm'"),
    (dict(name="vgg11", time_steps=2, thresold=1.0), "option of vgg11: expected one of .*, got 'thresold' \\(did you mean 'threshold'"),
    (dict(name="resnet18", fc_neurons=True), "option of resnet18: expected one of width, norm, got 'fc_neurons'"),
    (dict(name="vgg11", decay=0.5), "decay: expected only together with time_steps, got it for an ANN"),
    (dict(name="vgg11", time_steps=2, decay=2.0), "decay: expected a number from 0 to 1, got 2.0"),
    (dict(name="vgg11", time_steps=2, threshold=0.0), "threshold: expected a number of at least 0.001, got 0.0"),
]


@pytest.mark.parametrize("options, sentence", ERRORS)
def test_create_model_refuses(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        create_model(**{"width": 1 / 32} | options)


def test_list_models_and_candidates_refuse_unknown_names():
    with pytest.raises(ValueError, match="kind: expected one of student, teacher, got 'students' \\(did you mean 'student'"):
        list_models("students")
    with pytest.raises(ValueError, match="preset: expected one of code, paper, stages, got 'stage' \\(did you mean 'stages'"):
        candidates(on_meta("vgg13"), "stage")
    with pytest.raises(ValueError, match="candidates: expected a network with at least three taps or activations, got Sequential with 1; .*its children are 0"):
        candidates(nn.Sequential(nn.ReLU()))


# ---------------------------------------------------------------- taps


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.once, self.twice, self.never = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.overwritten, self.act = nn.Conv2d(3, 3, 1), nn.ReLU(inplace=True)

    def forward(self, x):
        return self.act(self.overwritten(self.twice(self.twice(self.once(x))))).flatten(1)


@pytest.mark.parametrize(
    "name, sentence",
    [
        ("twise", "names: expected one of once, twice, never, overwritten, act, got 'twise' \\(did you mean 'twice'"),
        ("", "names: expected one of once, twice, never, overwritten, act, got ''"),
        ("twice", "got 'twice', which runs more than once"),
        ("never", "got 'never', which does not run"),
        ("overwritten", "got 'overwritten', whose output a later layer overwrites in place"),
    ],
)
def test_taps_refuse_a_module_that_gives_no_feature(name, sentence):
    network = Branches()
    with pytest.raises(ValueError, match=sentence):
        Taps(network, [name])(torch.rand(2, 3, 2, 2))
    assert not any(module._forward_hooks for module in network.modules())


def test_taps_give_what_the_modules_put_out_in_the_order_asked_for():
    network = Branches()
    x = torch.rand(2, 3, 2, 2)
    output, (last, first) = Taps(network, ["act", "once"])(x)
    assert output.equal(network(x)) and first.equal(network.once(x)) and last.flatten(1).equal(output)
    assert first.requires_grad
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
def test_taps_work_without_gradients(guard):
    network = lively_copy("vgg11")
    with guard():
        _, features = Taps(network, network.taps)(images(2))
    assert not any(feature.requires_grad for feature in features)


def test_features_of_inference_mode_are_those_before_a_later_layer_overwrites_them():
    "Tensors of inference mode keep no count of writes, so the sentence cannot be given; the values are right instead."
    network, x = Branches(), torch.rand(2, 3, 2, 2) - 0.5
    with torch.inference_mode():
        output, (before,) = Taps(network, ["overwritten"])(x)
        expected = network.overwritten(network.twice(network.twice(network.once(x))))
        assert before.equal(expected) and (before < 0).any() and output.equal(expected.relu().flatten(1))
        student = lively_copy("resnet18_sastc").eval()
        assert all(one.equal(other) for one, other in zip(Taps(student, student.taps)(images(2))[1], outside_inference(student)))


def outside_inference(student):
    with torch.inference_mode(False), torch.no_grad():
        return Taps(student, student.taps)(images(2))[1]


@pytest.fixture
def process_group(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_taps_in_a_wrapper_for_several_processes_have_their_time_axis(process_group):
    student = lively_copy("vgg11").float()
    wrapped = nn.parallel.DistributedDataParallel(student)
    assert candidates(wrapped) == [f"module.{name}" for name in candidates(student)]
    x = images(3).float()
    for taps in (Taps(wrapped, candidates(wrapped)), Taps(wrapped, ["module.layer2", "module.layer4", "module.layer6", "module.layer8"])):
        output, features = taps(x)
        expected_output, expected = Taps(student, candidates(student))(x)
        assert output.shape == (2, 3, 10) and all(feature.shape[:2] == (2, 3) for feature in features)
        assert tap_shapes(taps, x[:1])[1] == tap_shapes(Taps(student, candidates(student)), x[:1])[1]
    ann = nn.parallel.DistributedDataParallel(create_model("vgg11", width=1 / 32))
    assert Taps(ann, ["module.layer2"])(torch.rand(2, 3, 32, 32))[1][0].shape == (2, 4, 16, 16)


def test_a_network_takes_its_input_by_name():
    student, x = lively_copy("resnet18_sastc").eval(), images(2)
    assert student(x=x).equal(student(x)) and student(x=x.expand(2, *x.shape)).shape == (2, 2, 10)
    assert all(neuron.batch is None for neuron in neurons(student))
    with pytest.raises(ValueError, match=r"x: expected \[B, C, H, W\]"):
        student(x=x[0])
    with pytest.raises(TypeError, match="x: expected images or a sequence, got nothing"):
        student()


def test_evaluating_leaves_every_mode_as_it_was():
    network = create_model("resnet18_sastc", time_steps=3, width=1 / 16)
    network.stage2.eval()
    modes = [module.training for module in network.modules()]
    with pytest.raises(ZeroDivisionError), evaluating(network):
        assert not any(module.training for module in network.modules()) and not torch.is_grad_enabled()
        raise ZeroDivisionError
    assert [module.training for module in network.modules()] == modes and torch.is_grad_enabled()


def test_tap_shapes_leave_modes_statistics_and_weights_alone():
    network = create_model("resnet18_sastc", time_steps=3, width=1 / 16)
    network.stage2.eval()
    modes, state = [module.training for module in network.modules()], copy.deepcopy(network.state_dict())
    output, shapes = tap_shapes(Taps(network, network.taps), torch.rand(1, 3, 32, 32))
    assert output == (3, 1, 10) and list(map(tuple, shapes)) == sizes("4x32x32 8x32x32 16x16x16 32x8x8 16")
    assert [module.training for module in network.modules()] == modes
    assert all(value.equal(state[name]) for name, value in network.state_dict().items())


# ---------------------------------------------------------------- passes


@pytest.mark.parametrize("name", STUDENTS + TEACHERS)
def test_forward_pass_leaves_its_input_as_it_was(name):
    for network in (build(name, None), build(name)):
        x = images(2)
        version = x._version
        network(x)
        assert x.equal(images(2)) and x._version == version


def test_teacher_gets_no_gradient_when_its_features_are_detached():
    teacher, student = create_model("resnet19", width=1 / 16), create_model("vgg11", time_steps=2, width=1 / 16)
    x = torch.randn(8, 3, 32, 32)
    teacher_logits, teacher_features = Taps(teacher, candidates(teacher))(x)
    outputs, features = Taps(student, candidates(student))(x)
    calibrator = Calibrator([f.shape[2:] for f in features], [f.shape[1:] for f in teacher_features], batch_size=8)
    calibration = calibrator(features, [feature.detach() for feature in teacher_features])
    DistillationLoss()(outputs, torch.arange(8), teacher_logits.detach(), calibration).total.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    for module in (student, calibrator):
        assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in module.parameters())
        assert any(parameter.grad.any() for parameter in module.parameters())


@pytest.mark.parametrize("name", ["vgg11", "resnet18_sastc", "wrn16_2_sastc"])
def test_bf16_autocast_keeps_spikes_binary(name):
    student = lively_copy(name).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs, features = Taps(student, student.taps)(images(4).float())
    assert outputs.dtype == torch.bfloat16
    for feature in features[: BINARY_TAPS[name]]:
        assert feature.float().unique().tolist() == [0, 1]
    outputs.float().mean().backward()
    assert all(parameter.grad.isfinite().all() and parameter.grad.dtype == torch.float32 for parameter in student.parameters())


@pytest.mark.parametrize("name", ["vgg11", "resnet18_sastc"])
def test_channels_last_gives_the_same_outputs(name):
    student = lively_copy(name).eval()
    expected = student(images(3))
    student = student.to(memory_format=torch.channels_last)
    torch.testing.assert_close(student(images(3).contiguous(memory_format=torch.channels_last)), expected, atol=1e-10, rtol=1e-10)


def test_deep_copy_is_an_independent_equal_network():
    student = lively_copy("resnet18_sastc").eval()
    twin = copy.deepcopy(student)
    assert twin(images(3)).equal(student(images(3)))
    nn.init.zeros_(twin.stem[0].weight)
    assert not twin(images(3)).equal(student(images(3)))


def test_saved_state_restores_the_network():
    student = lively_copy("resnet18_sastc").eval()
    file = io.BytesIO()
    torch.save(student.state_dict(), file)
    file.seek(0)
    again = build("resnet18_sastc").eval()
    again.load_state_dict(torch.load(file, weights_only=True))
    assert again(images(3)).equal(student(images(3)))


def test_forward_pass_that_raises_leaves_the_network_usable():
    student = lively_copy("resnet18_sastc").eval()
    expected = student(images(2))
    bad = student.stage2.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        student(images(4))
    bad.remove()
    assert all(neuron.batch is None for neuron in neurons(student))
    assert student(images(2)).equal(expected)


# ---------------------------------------------------------------- conversion


def test_spiking_twin_of_torchvision_resnet18_shares_names_values_and_size():
    ann = torchvision.models.resnet18(num_classes=10)
    snn = spiking(ann, 2)
    assert list(ann.state_dict()) == list(snn.state_dict())
    assert all(one.equal(other) and one.data_ptr() != other.data_ptr() for one, other in zip(ann.parameters(), snn.parameters()))
    assert not any(isinstance(module, nn.ReLU) for module in snn.modules())
    assert not neurons(ann) and ann(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    output, features = Taps(snn, ["layer1", "layer2", "layer3", "layer4"])(torch.randn(2, 3, 64, 64))
    assert output.shape == (2, 2, 10)
    assert all(set(feature.unique().tolist()) <= {0, 1} for feature in features) and features[0].any()
    output.sum().backward()
    assert snn.conv1.weight.grad.isfinite().all() and snn.conv1.weight.grad.any()


# METHOD 3.2: taps for 224x224 images, and the parameters of torchvision
IMAGENET = "64x56x56 64x56x56 128x28x28 256x14x14 512x7x7 512x1x1"


@pytest.mark.parametrize("name, count", [("resnet18", 11_689_512), ("resnet34", 21_797_672)])
def test_imagenet_students_and_teachers(name, count):
    with torch.device("meta"):
        ann = getattr(torchvision.models, name)()
    names = ["maxpool", "layer1", "layer2", "layer3", "layer4", "avgpool"]
    for network in (ann, spiking(ann, 4)):
        assert parameters(network) == count
        assert tapped_shapes(network, names, (3, 224, 224)) == sizes(IMAGENET)


@pytest.mark.parametrize("name", ["vgg11_bn", "mobilenet_v2", "resnext50_32x4d", "alexnet"])
def test_spiking_twins_of_other_torchvision_networks(name):
    with torch.device("meta"):
        ann = getattr(torchvision.models, name)(num_classes=10)
    rectifiers = sum(isinstance(module, (nn.ReLU, nn.ReLU6)) for module in ann.modules())
    snn = spiking(ann, 3)
    assert len(neurons(snn)) == rectifiers > 0
    assert list(ann.state_dict()) == list(snn.state_dict())
    assert snn(torch.empty(2, 3, 64, 64, device="meta")).shape == (3, 2, 10)


def test_rectifier_used_in_several_places_is_replaced_in_all():
    "One nn.ReLU object under several names is common in hand-written networks."
    act = nn.ReLU()
    ann = nn.Sequential(nn.Conv2d(3, 4, 3), act, nn.Conv2d(4, 4, 3), act, nn.Sequential(act, nn.Flatten(), nn.Linear(64, 5)))
    snn = spiking(ann, 2)
    assert not any(isinstance(module, nn.ReLU) for module in snn.modules())
    assert snn(torch.rand(2, 3, 8, 8)).shape == (2, 2, 5)


def test_spiking_twin_with_a_shortcut_past_the_first_neuron_needs_the_repeated_image():
    class PreActivation(nn.Module):
        def __init__(self):
            super().__init__()
            self.act, self.head = nn.ReLU(), nn.Sequential(nn.Flatten(), nn.Linear(12, 5))

        def forward(self, x):
            return self.head(x + self.act(x))

    still = torch.rand(3, 3, 2, 2)
    snn = spiking(PreActivation(), 2, stem_once=False)
    torch.testing.assert_close(snn(still), snn(still.repeat(2, 1, 1, 1, 1)))
    assert snn(still).shape == (2, 3, 5)


def test_spiking_passes_the_constants_on():
    snn = spiking(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), 2, decay=0.25, threshold=0.5, gamma=2.0, detach_reset=True)
    assert flat(neurons(snn)[0]) == LIF_SETTINGS | dict(decay=0.25, threshold=0.5, gamma=2.0, detach_reset=True)


class Functional(nn.Module):
    def forward(self, x):
        return F.relu(x).flatten(1)


@pytest.mark.parametrize(
    "ann, time_steps, sentence",
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU()), 2, "ann: expected a network with nn.ReLU activations, got Sequential, which has no ReLU module"),
        (
            nn.Sequential(nn.ReLU(), nn.Conv2d(3, 3, 1), Functional()),
            2,
            "ann: expected a network whose activations are nn.ReLU modules, got Sequential, in which others stay analog: relu in 2",
        ),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), 0, "time_steps: expected a whole number of at least 1, got 0"),
    ],
)
def test_spiking_refuses(ann, time_steps, sentence):
    with pytest.raises(ValueError, match=sentence):
        spiking(ann, time_steps)


def test_spiking_refuses_a_network_that_spikes():
    with pytest.raises(ValueError, match="ann: expected a ReLU network, got ResNet, which is spiking already \\(T = 2\\)"):
        spiking(on_meta("resnet18", time_steps=2), 3)


class Between(nn.Module):
    "Two converted activations with something of one's own between them."

    def __init__(self, own, size=8):
        super().__init__()
        self.first, self.second = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()), nn.Conv2d(4, 4, 3, padding=1)
        self.own, self.last = own, nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))

    def forward(self, x):
        return self.last(self.own(self.second(self.first(x))))


class Calls(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = (function,)  # out of sight of an exchange of attributes

    def forward(self, x):
        return self.function[0](x)


class Recurrent(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x.flatten(2).mT)[0].mT.unflatten(2, x.shape[2:])


ACTIVATIONS = dict(
    relu=F.relu, relu_in_place=lambda x: F.relu_(x.clone()), relu6=F.relu6, method=lambda x: x.relu(), gelu=F.gelu, silu=F.silu, mish=F.mish, hardtanh=F.hardtanh, leaky=F.leaky_relu,
    elu=F.elu, selu=F.selu, sigmoid=torch.sigmoid, tanh=torch.tanh, clamp=lambda x: x.clamp(min=0), mask=lambda x: x * (x > 0), where=lambda x: torch.where(x > 0, x, 0.0),
    maximum=lambda x: torch.maximum(x, torch.zeros(())), softplus=F.softplus, hardswish=F.hardswish, threshold=lambda x: F.threshold(x, 0.1, 0.0), sine=torch.sin,
    half_wave=lambda x: (x + x.abs()) * 0.5, logsigmoid=F.logsigmoid, roots=lambda x: (x + (x * x).sqrt()) / 2, in_place=lambda x: x.clone().abs_().add_(x),
    in_another_shape=lambda x: (x.flatten(1) + x.view(len(x), -1).abs()).view_as(x), parabola=lambda x: x + x * x, softsign=lambda x: x / (1 + x.abs()),
    mean_of_both=lambda x: torch.lerp(x, x.abs(), 0.5), glu=lambda x: torch.cat([F.glu(x, 1)] * 2, 1), swiglu=lambda x: torch.cat([F.silu(x[:, :2]) * x[:, 2:]] * 2, 1),
)  # fmt: skip
MODULES = dict(
    lstm=Recurrent(nn.LSTM(4, 4, batch_first=True)),
    gru=Recurrent(nn.GRU(4, 4, batch_first=True)),
    prelu=nn.PReLU(),
    gelu=nn.GELU(),
    silu=nn.SiLU(),
    elu=nn.ELU(inplace=True),
    gate=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1), nn.Sigmoid()),
)


@pytest.mark.parametrize("name", [*ACTIVATIONS, *(f"{name}_module" for name in MODULES)])
def test_whatever_acts_as_an_activation_is_refused(name):
    own = MODULES[name.removesuffix("_module")] if name.endswith("_module") else Calls(ACTIVATIONS[name])
    with pytest.raises(
        ValueError, match=r"ann: expected a network whose activations are nn.ReLU modules, got Between, in which others stay analog: \w+ in own"
    ):
        spiking(Between(own), 2)


class RootMeanSquare(nn.Module):
    def forward(self, x):
        return x / (x.pow(2).mean(1, keepdim=True) + 1e-6).sqrt()


HARMLESS = dict(
    dropout=nn.Dropout(), norm=nn.BatchNorm2d(4), groups=nn.GroupNorm(2, 4), pool=nn.MaxPool2d(2), average=nn.AvgPool2d(2), scale=Calls(lambda x: 2 * x - 1), softmax=nn.Softmax(1),
    unit=Calls(lambda x: F.normalize(x, dim=1)), root=RootMeanSquare(), standard=Calls(lambda x: (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1e-5)),
    parametrised=torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 1)), spectral=torch.nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 4, 1)),
    twice=nn.Sequential(nn.ReLU(), Calls(F.relu)), gates=Calls(lambda x: x * x.flip(1)), largest=Calls(lambda x: x / x.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-6)),
    halves=Calls(lambda x: torch.cat(x.chunk(2, 1)[::-1], 1)), cast=Calls(lambda x: x.double().float()),
)  # fmt: skip


@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_no_activation_is_left_alone(name):
    ann, before = Between(HARMLESS[name]), torch.get_rng_state()
    snn = spiking(ann, 2)
    assert torch.get_rng_state().equal(before)
    assert snn.train()(torch.randn(4, 3, 8, 8)).shape == (2, 4, 5)
    assert len(snn._forward_pre_hooks) == len(snn._forward_hooks) == 1  # nothing is watched any more
    assert not any(module._forward_hooks for module in snn.modules() if module is not snn)


class Tokens(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, **options)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.layer(self.patches(x).flatten(2).mT).mean(1))


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("activation", ["relu", F.relu, nn.ReLU()], ids=["name", "function", "module"])
def test_a_transformer_layer_is_converted_with_its_short_cut(activation):
    "Its fast path computes a ReLU by itself, whatever stands in the place of the activation; gradients and training keep it off the path."
    torch.manual_seed(0)
    ann = Tokens(activation=activation)
    with pytest.raises(ValueError, match="stem_once: expected False for a network in which a shortcut runs past the first ReLU, got True"):
        spiking(ann, 3)
    snn = spiking(ann, 3, stem_once=False)
    assert len(neurons(snn)) == 1 and list(snn.state_dict()) == list(ann.state_dict())
    x = torch.randn(2, 3, 16, 16)
    slow = snn.train()(x)
    with torch.no_grad():
        assert snn.eval()(x).allclose(slow, atol=1e-9)
    assert not ann.eval()(x).allclose(slow.mean(0), atol=1e-3)
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_transformer_layer_with_another_activation_is_refused():
    with pytest.raises(ValueError, match="others stay analog: gelu in 2.layer"):
        spiking(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), Tokens(activation="gelu")), 2)


class Sized(nn.Module):
    "Takes images of 12 pixels only, so that its conversion cannot be tried before it is used."

    def __init__(self, own=None):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 6), own or nn.Identity(), nn.Linear(6, 5))

    def forward(self, x):
        return self.body(x)


def test_a_network_that_cannot_be_tried_is_watched_in_its_first_own_pass():
    x = torch.randn(2, 3, 12, 12)
    bad = spiking(Sized(nn.SiLU()), 2)
    for network in (copy.deepcopy(bad), bad, bad):
        with pytest.raises(ValueError, match="got Sized, in which others stay analog: silu in body.4"):
            network(x)
        assert all(neuron.batch is None for neuron in neurons(network))
    good = spiking(Sized(), 2)
    with pytest.raises(RuntimeError):
        good(torch.randn(2, 3, 13, 13))
    assert torch.backends.mha.get_fastpath_enabled() and not good.body._forward_hooks
    twin = copy.deepcopy(good)
    assert twin(x).shape == good(x=x).shape == twin.eval()(x).shape == good.eval()(x).shape == (2, 2, 5)  # in either mode
    assert all(len(network._forward_hooks) == len(network._forward_pre_hooks) == 1 for network in (good, twin))


@pytest.mark.parametrize(
    "neuron, kind", [("plif", PLIF), (IF, IF), (LIF(decay=0.25, threshold=0.5), LIF), (PLIF(reset="soft"), PLIF)], ids=["name", "class", "object", "learned"]
)
@pytest.mark.parametrize("build", ["create_model", "spiking"])
def test_networks_take_neurons_by_name_class_or_object(neuron, kind, build):
    ann = create_model("resnet18_sastc", width=1 / 16)
    snn = spiking(ann, 3, neuron=neuron) if build == "spiking" else create_model("resnet18_sastc", time_steps=3, width=1 / 16, neuron=neuron)
    found = [module for module in snn.modules() if isinstance(module, Neuron)]
    assert len(found) == len({id(each) for each in found}) and {type(each) for each in found} == {kind}
    if isinstance(neuron, Neuron):
        assert all(flat(each) == flat(neuron) and each is not neuron for each in found)
    learned = [each.decay_logit for each in found if kind is PLIF]
    assert len({id(parameter) for parameter in learned}) == len(learned) == (len(found) if kind is PLIF else 0)
    assert sum(p.numel() for p in snn.parameters()) - sum(p.numel() for p in ann.parameters()) == len(learned)
    assert snn(torch.rand(2, 3, 16, 16)).shape == (3, 2, 10)
    if build == "create_model":
        again = create_model(**snn.spec)
        again.load_state_dict(snn.state_dict())
        assert again.eval()(images(2).float()).equal(snn.eval()(images(2).float()))


def test_settings_of_a_neuron_are_those_of_its_kind():
    with pytest.raises(ValueError, match="option of vgg11: expected one of .*, got 'decay'"):
        create_model("vgg11", time_steps=2, width=1 / 32, neuron="if", decay=0.5)
    with pytest.raises(ValueError, match="neuron: expected one of lif, if, plif, got 'lof' .did you mean 'lif'"):
        create_model("vgg11", time_steps=2, width=1 / 32, neuron="lof")
    with pytest.raises(ValueError, match="neuron: expected only together with time_steps"):
        create_model("vgg11", width=1 / 32, neuron="plif")


class UsedAgain(nn.Module):
    "Something goes on with the input of a ReLU; in place, with what the ReLU made of it."

    def __init__(self, inplace, kind=nn.ReLU):
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 1))
        self.relu, self.branch, self.head = kind(inplace=inplace), nn.Conv2d(4, 4, 1), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout())

    def forward(self, x):
        x = self.enter(x)
        return self.head(self.branch(self.relu(x)) + x)


@pytest.mark.parametrize("kind", [nn.ReLU, nn.ReLU6])
def test_what_a_relu_overwrites_for_others_is_refused(kind):
    "A shortcut that carried a ReLU's output carried raw currents in the spiking network, without a word."
    ann = UsedAgain(True, kind).half()
    with pytest.raises(ValueError, match="ann: expected a network that computes the same with inplace=False in its ReLUs, .* got UsedAgain"):
        spiking(ann, 2)
    assert ann.relu.inplace and ann.training
    assert spiking(UsedAgain(False, kind), 2)(torch.rand(3, 3, 8, 8)).shape == (2, 3, 4)


def test_what_takes_a_shape_alone_is_never_taken_for_an_activation(monkeypatch):
    "Dropout begins with `empty_like`, whose values are whatever lies in memory: now and then they bent, and the network was refused."
    looked_at, probe = [], convert.probed
    monkeypatch.setattr(convert, "probed", lambda operation, *given: looked_at.append(operation.overloadpacket.__name__) or probe(operation, *given))

    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.enter, self.head = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), nn.Sequential(nn.Dropout(), nn.Flatten(), nn.Linear(3600, 4))

        def forward(self, x):
            x = self.enter(x)
            return self.head(x + 0 * torch.rand_like(x) + x.new_zeros(1))

    assert spiking(Noisy(), 2)(torch.rand(2, 3, 32, 32)).shape == (2, 2, 4)
    assert "add" in looked_at and not [name for name in looked_at if name.endswith("_like") or name.startswith("new_")]
