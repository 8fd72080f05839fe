"""Saving memory: what is kept comes back as it was, the gradients are the same bit by bit, and what is not known to be spikes is left alone."""

import contextlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sastc import create_model, distill, spiking, train_teacher
from sastc.neurons import LIF, PLIF, Neuron, over_time, saving_memory
from sastc.neurons.memory import kept_mib, pack_bits, unpack_bits
from sastc.training.loop import memory_format_for


def loss_of(network, images, saves, precision=torch.float32):
    with saving_memory(network) if saves else contextlib.nullcontext(), torch.autocast("cpu", precision, enabled=precision != torch.float32):
        return network(images).float().square().mean()


def assert_same_gradients(network, images, precision=torch.float32):
    weights = [p for p in network.parameters() if p.requires_grad]
    state = {name: value.clone() for name, value in network.state_dict().items()}
    found = []
    for saves in (False, True):
        network.load_state_dict(state)
        torch.manual_seed(0)
        loss = loss_of(network, images, saves, precision)
        found.append([loss, *torch.autograd.grad(loss, weights, allow_unused=True), *network.buffers()])
        found[-1] = [value if value is None else value.clone() for value in found[-1]]
    assert len(found[0]) == len(found[1]) > 3
    for mine, theirs in zip(*found):
        assert (mine is None and theirs is None) or mine.equal(theirs)


@given(st.integers(1, 200), st.integers(0, 2**31), st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]))
def test_bits_are_the_spikes_again(count, seed, dtype):
    spikes = (torch.rand(count, generator=torch.Generator().manual_seed(seed)) > 0.5).to(dtype)
    packed = pack_bits(spikes)
    assert packed.dtype == torch.uint8 and len(packed) == -(-count // 8)
    assert unpack_bits(packed, count, dtype).equal(spikes)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["vgg11", "resnet18_sastc", "wrn16_2", "pyramidnet20"])
def test_gradients_and_running_statistics_are_the_same_bit_by_bit(name, precision):
    torch.manual_seed(0)
    network = create_model(name, width=0.0625, time_steps=2, neuron=PLIF() if name == "vgg11" else LIF(reset="soft"))
    order = memory_format_for(network, torch.device("cpu"))  # as the trainer lays it out
    assert_same_gradients(network.to(memory_format=order), torch.rand(3, 3, 32, 32), precision)


@pytest.mark.parametrize("training", [True, False])
def test_sequences_evaluation_mode_and_frozen_layers_too(training):
    torch.manual_seed(0)
    network = create_model("resnet18_sastc", width=0.0625, time_steps=3).train(training)
    network.stage1.requires_grad_(False).eval() if hasattr(network, "stage1") else network[1].requires_grad_(False).eval()
    assert_same_gradients(network, torch.rand(3, 2, 3, 16, 16))


def test_a_converted_network_with_sums_in_place():
    from torchvision.models import resnet18

    torch.manual_seed(0)
    network = spiking(resnet18(num_classes=5), time_steps=2)
    assert_same_gradients(network, torch.rand(2, 3, 32, 32))


class Graded(Neuron):
    "Its spikes have sizes."

    def fire(self, current, time_steps):
        return super().fire(current, time_steps) * current.abs()


class Halved(nn.Module):
    "Writes into a copy, as dropout in place does."

    def forward(self, x):
        return x.clone().mul_(0.5)


@pytest.mark.parametrize("odd", [Graded(2), nn.Sequential(LIF(2), Halved()), nn.Sequential(LIF(2), nn.AvgPool2d(2))])
def test_what_is_not_spikes_or_is_not_any_more_is_kept_as_it_is(odd):
    torch.manual_seed(0)
    network = over_time(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), odd, nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), LIF(2), nn.Flatten()), 2)
    assert_same_gradients(network, torch.rand(3, 3, 8, 8))


class ByName(nn.Module):
    "Calls a normalisation with its argument by name."

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x):
        return self.norm(input=x)


def hooked(change):
    norm = nn.BatchNorm2d(4)
    norm.register_forward_hook(lambda module, arguments, current: change(current))
    return norm


def replaced():
    norm = nn.BatchNorm2d(4)
    norm.forward = lambda x: nn.BatchNorm2d.forward(norm, 2 * x) + 1
    return norm


class Noise(nn.Module):
    "Draws at random whenever the weight is asked for."

    def forward(self, weight):
        return weight + torch.rand_like(weight)


def noisy():
    return torch.nn.utils.parametrize.register_parametrization(nn.BatchNorm2d(4), "weight", Noise())


norms = dict(
    with_noise_on_its_weights=noisy,
    by_name=ByName,
    changed_by_a_hook=lambda: hooked(lambda current: 2 * current),
    changed_in_place_by_a_hook=lambda: hooked(lambda current: current.mul_(2)),
    normalised_twice_by_a_hook=lambda: hooked(nn.BatchNorm2d(4).requires_grad_(False)),
    seen_by_a_hook=lambda: hooked(lambda current: None),
    with_another_forward_pass=replaced,
    without_weights=lambda: nn.BatchNorm2d(4, affine=False),
    of_each_batch=lambda: nn.BatchNorm2d(4, track_running_stats=False),
)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", norms)
def test_what_is_not_a_plain_normalisation_is_kept_as_it_is(name, precision):
    torch.manual_seed(0)
    network = over_time(nn.Sequential(nn.Conv2d(3, 4, 3), norms[name](), LIF(2), nn.Conv2d(4, 4, 3), norms[name](), LIF(2), nn.Flatten()), 2)
    assert_same_gradients(network, torch.rand(3, 3, 8, 8), precision)


def test_two_networks_at_once_and_two_backward_passes():
    torch.manual_seed(0)
    first, second = (create_model("vgg11", width=0.0625, time_steps=2) for _ in range(2))
    images = torch.rand(3, 3, 32, 32)
    with saving_memory(first):
        one = first(images).square().mean()
        with saving_memory(second):
            other = second(images).square().mean()
    weights = [*first.parameters(), *second.parameters()]
    once = torch.autograd.grad(one + other, weights, retain_graph=True)
    again = torch.autograd.grad(one + other, weights)
    assert all(mine.equal(theirs) for mine, theirs in zip(once, again))
    alone = [torch.autograd.grad(loss_of(network, images, False), list(network.parameters())) for network in (first, second)]
    assert all(mine.equal(theirs) for mine, theirs in zip(once, [*alone[0], *alone[1]]))


def test_weights_that_changed_before_the_backward_pass_are_refused():
    network = create_model("vgg11", width=0.0625, time_steps=2)
    loss = loss_of(network, torch.rand(3, 3, 32, 32), True)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation|saving_memory: expected"):
        loss.backward()


def add_in_place(conv, x):
    x += conv(x)
    return x


def change_a_view(conv, x):
    branch = conv(x)
    x.detach()[:1].mul_(2)
    return branch


def change_a_result(conv, x):
    return conv(x).sigmoid().mul_(2)


def add_to_the_branch(conv, x):
    branch = conv(x)
    branch += x
    return branch


class Unit(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.conv, self.what = nn.Conv2d(4, 4, 3, padding=1), forward

    def forward(self, x):
        return self.what(self.conv, x)


def gradients_with(forward, saves, before=()):
    torch.manual_seed(0)
    network = over_time(nn.Sequential(nn.Conv2d(3, 4, 3), *before, Unit(forward), nn.BatchNorm2d(4), LIF(2), nn.Flatten()), 2)
    loss_of(network, torch.rand(3, 3, 8, 8), saves).backward()
    return [parameter.grad for parameter in network.parameters()]


def assert_equal_lists(mine, theirs):
    assert len(mine) == len(theirs) and all(one.equal(other) for one, other in zip(mine, theirs))


@pytest.mark.parametrize("forward", [add_in_place, change_a_view, change_a_result])
def test_what_was_changed_in_place_after_it_was_kept_is_refused_as_without_saving(forward):
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        gradients_with(forward, saves=False)
    with pytest.raises(RuntimeError, match="saving_memory: expected tensors of the forward pass unchanged .* got one of shape"):
        gradients_with(forward, saves=True)


def test_a_change_in_place_that_no_operation_minds_is_as_without_saving():
    assert_equal_lists(*(gradients_with(add_to_the_branch, saves) for saves in (True, False)))


def test_a_noted_current_is_computed_again_as_it_was_whatever_became_of_it():
    apart = gradients_with(lambda conv, x: x + conv(x), False, [nn.BatchNorm2d(4)])
    assert_equal_lists(gradients_with(add_in_place, True, [nn.BatchNorm2d(4)]), apart)


@pytest.mark.parametrize("precision, most", [(torch.float32, 0.5), (torch.bfloat16, 0.6)], ids=str)
@pytest.mark.parametrize("name", ["vgg11", "resnet18_sastc"])
def test_half_of_the_memory_is_kept_at_most(name, precision, most):
    network = create_model(name, width=0.125, time_steps=4).to(memory_format=torch.channels_last)
    images = torch.rand(4, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    usual, saving = (kept_mib(lambda: loss_of(network, images, saves, precision)) for saves in (False, True))
    assert 0 < saving < most * usual


def test_nothing_is_left_behind():
    network = create_model("vgg11", width=0.0625, time_steps=2)
    hooks = [len(module._forward_hooks) for module in network.modules()]
    with pytest.raises(ZeroDivisionError), saving_memory(network):
        network(torch.rand(3, 3, 32, 32))
        raise ZeroDivisionError
    assert hooks == [len(module._forward_hooks) for module in network.modules()]
    with torch.no_grad(), saving_memory(network):
        assert not network(torch.rand(3, 3, 32, 32)).requires_grad


@pytest.mark.parametrize("method", ["kd", "sastc", "routed"])
def test_a_run_ends_in_the_same_weights(method, tmp_path):
    tiny = dict(data="digits", train_images=96, batch_size=16, lr=0.02, epochs=1, width=0.0625, device="cpu")
    teacher = train_teacher(**tiny, model="wrn16_2", folder=tmp_path / "teacher")
    weight = {} if method == "kd" else dict(beta=0.5)
    runs = [distill(**tiny, **weight, method=method, teacher=teacher.folder, save_memory=saves, folder=tmp_path / str(saves)) for saves in (False, True)]
    assert runs[1].config["save_memory"] is True
    states = [run.checkpoint("last")["model"] for run in runs]
    assert all(states[0][name].equal(states[1][name]) for name in states[0])
