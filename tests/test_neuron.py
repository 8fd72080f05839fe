"""The neuron against recursions written out here: METHOD 2.1 and 2.2, number by number."""

import copy
import itertools
import shutil

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint

from sastc.neurons.network import over_time
from sastc.neurons.neuron import IF, LIF, PLIF, Neuron, lif
from sastc.neurons.time import fold, unfold

LOW = {torch.bfloat16: 2**-7, torch.float16: 2**-10, torch.float32: 2**-20}  # relative rounding of a gradient, with a few bits to spare

shapes = st.lists(st.integers(1, 4), min_size=0, max_size=4)
steps = st.integers(1, 7)
constants = st.fixed_dictionaries(
    dict(
        decay=st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0]) | st.floats(0, 1),
        threshold=st.sampled_from([0.5, 1.0]) | st.floats(0.1, 2),
        gamma=st.sampled_from([0.5, 1.0, 2.0]) | st.floats(0.1, 3),
        detach_reset=st.booleans(),
    )
)
seeds = st.integers(0, 2**31)
many = settings(max_examples=200)  # an example takes a millisecond


class TriangleSpike(torch.autograd.Function):
    "Strict Heaviside step whose derivative is the triangle of METHOD 2.2."

    @staticmethod
    def forward(ctx, potential, threshold, gamma):
        ctx.save_for_backward(potential)
        ctx.constants = threshold, gamma
        return (potential > threshold).to(potential.dtype)

    @staticmethod
    def backward(ctx, grad):
        (potential,) = ctx.saved_tensors
        threshold, gamma = ctx.constants
        return grad * (gamma - (potential - threshold).abs()).clamp(min=0) / gamma**2, None, None


def by_autograd(current, decay=0.5, threshold=1.0, gamma=1.0, detach_reset=False):
    remaining, spikes = torch.zeros_like(current[0]), []
    for arriving in current:
        potential = decay * remaining + arriving
        spike = TriangleSpike.apply(potential, threshold, gamma)
        remaining = potential * (1 - (spike.detach() if detach_reset else spike))
        spikes.append(spike)
    return torch.stack(spikes)


def by_delta_recursion(current, upstream, decay=0.5, threshold=1.0, gamma=1.0, detach_reset=False):
    "One neuron as plain numbers: lists over t in, spikes and dL/dI out."
    remaining, potentials, spikes = 0.0, [], []
    for arriving in current:
        potentials.append(decay * remaining + arriving)
        spikes.append(1.0 if potentials[-1] > threshold else 0.0)
        remaining = potentials[-1] * (1 - spikes[-1])
    deltas, later = [], 0.0
    for u, o, g in reversed(list(zip(potentials, spikes, upstream))):
        slope = max(0.0, gamma - abs(u - threshold)) / gamma**2
        kept = (1 - o) - (0 if detach_reset else u * slope)
        later = g * slope + decay * later * kept
        deltas.insert(0, later)
    return spikes, deltas


def drawn(seed, time_steps, shape, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    current = 0.8 + torch.randn(time_steps, *shape, generator=generator, dtype=torch.float64)
    return current.to(dtype), torch.randn(time_steps, *shape, generator=generator, dtype=torch.float64).to(dtype)


def run(function, current, upstream, **options):
    leaf = current.detach().clone().requires_grad_()
    spikes = function(leaf, **options)
    return spikes.detach(), torch.autograd.grad(spikes, leaf, upstream)[0]


# ---------------------------------------------------------------- by hand


def test_hand_checked_spikes_and_gradient():
    current = torch.tensor([0.4, 0.9, 0.6], dtype=torch.float64)
    spikes, gradient = run(lif, current, torch.ones(3, dtype=torch.float64))
    assert spikes.tolist() == [0, 1, 0]
    # u = 0.4, 1.1, 0.6; slopes 0.4, 0.9, 0.6: 0.6; 0.9 + 0.5 * 0.6 * (0 - 1.1 * 0.9); 0.4 + 0.5 * 0.603 * (1 - 0.4 * 0.4)
    torch.testing.assert_close(gradient.tolist(), [0.65326, 0.603, 0.6], atol=1e-12, rtol=0)


def test_hand_checked_gradient_with_detached_reset():
    current = torch.tensor([0.4, 0.9, 0.6], dtype=torch.float64)
    _, gradient = run(lif, current, torch.ones(3, dtype=torch.float64), detach_reset=True)
    # the spike at the second step cuts the path from the third: 0.6; 0.9; 0.4 + 0.5 * 0.9
    torch.testing.assert_close(gradient.tolist(), [0.85, 0.9, 0.6], atol=1e-12, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_potential_at_the_threshold_does_not_fire(dtype):
    assert lif(torch.ones(4, dtype=dtype)).tolist() == [0, 1, 0, 1]
    assert lif(torch.full((2,), 0.25, dtype=dtype), threshold=0.25, decay=0).tolist() == [0, 0]


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_surrogate_is_a_triangle_of_half_width_gamma_and_peak_one_over_gamma(gamma):
    offsets = torch.tensor([-2 * gamma, -gamma, -gamma / 2, 0, gamma / 2, gamma, 2 * gamma], dtype=torch.float64)
    _, gradient = run(lif, (1 + offsets)[None], torch.ones(1, 7, dtype=torch.float64), gamma=gamma)
    torch.testing.assert_close(gradient[0].tolist(), [0.0, 0.0, 0.5 / gamma, 1 / gamma, 0.5 / gamma, 0.0, 0.0], atol=1e-12, rtol=0)


@pytest.mark.parametrize("neuron", [LIF(), PLIF(), LIF(reset="soft"), LIF(surrogate="sigmoid")], ids=lambda neuron: f"{type(neuron).__name__}-{neuron.reset}")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_nan_is_passed_on_and_infinity_is_not_made_into_it(neuron, dtype):
    "A comparison with NaN is false: a broken network would look like a silent one."
    nan, infinity = float("nan"), float("inf")
    current = torch.tensor([[nan, infinity, -infinity, 1.5], [1.0, nan, 2.0, 0.0]], dtype=dtype, requires_grad=True)
    spikes = neuron(current)
    assert spikes.isnan().tolist() == [[True, False, False, False], [True, True, False, False]]
    assert spikes[0, 1:].tolist() == [1, 0, 1]
    gradient = torch.autograd.grad(spikes[:, 3].sum(), current)[0][:, 3]
    assert gradient.isfinite().all()


# ---------------------------------------------------------------- against literal recursions


@many
@given(seeds, steps, shapes, constants)
def test_spikes_and_gradient_equal_an_autograd_loop(seed, time_steps, shape, options):
    current, upstream = drawn(seed, time_steps, shape)
    spikes, gradient = run(lif, current, upstream, **options)
    expected_spikes, expected_gradient = run(by_autograd, current, upstream, **options)
    assert spikes.equal(expected_spikes)
    torch.testing.assert_close(gradient, expected_gradient, atol=1e-12, rtol=1e-12)


@many
@given(seeds, steps, shapes, constants)
def test_spikes_and_gradient_equal_the_delta_recursion(seed, time_steps, shape, options):
    current, upstream = drawn(seed, time_steps, shape)
    spikes, gradient = run(lif, current, upstream, **options)
    columns = [x.reshape(time_steps, -1).T.tolist() for x in (current, upstream, spikes, gradient)]
    for one_current, one_upstream, one_spikes, one_gradient in zip(*columns):
        expected_spikes, expected_gradient = by_delta_recursion(one_current, one_upstream, **options)
        assert one_spikes == expected_spikes
        torch.testing.assert_close(one_gradient, expected_gradient, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("dtype", LOW, ids=str)
@many
@given(seed=seeds, time_steps=steps, shape=shapes, options=constants)
def test_low_precision_input_gives_the_spikes_of_the_float32_recursion(dtype, seed, time_steps, shape, options):
    current, upstream = drawn(seed, time_steps, shape, dtype)
    spikes, gradient = run(lif, current, upstream, **options)
    expected_spikes, expected_gradient = run(by_autograd, current.float(), upstream.float(), **options)
    assert spikes.dtype == gradient.dtype == dtype
    assert spikes.float().equal(expected_spikes)
    # terms of opposite sign may cancel, so the error is relative to the largest gradient
    scale = expected_gradient.abs().max().item()
    torch.testing.assert_close(gradient, expected_gradient.to(dtype), atol=LOW[dtype] * scale, rtol=LOW[dtype])


def test_rounding_the_potential_to_bfloat16_would_change_spikes():
    "The case that makes float32 necessary: 1 + 1/512 is 1 in bfloat16, and 1 does not fire."
    current = torch.tensor([1 / 256, 1.0], dtype=torch.bfloat16)
    assert (0.5 * current[0] + current[1]).item() == 1
    assert lif(current).tolist() == [0, 1]


# ---------------------------------------------------------------- memory layouts


def as_channels_last(x):
    return x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, x.shape[:2])


LAYOUTS = dict(
    transposed=lambda x: x.transpose(0, -1).contiguous().transpose(0, -1),
    strided=lambda x: torch.stack([x, -x], dim=-1)[..., 0],
    channels_last=as_channels_last,
    batch_first=lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
)


@pytest.mark.parametrize("layout", LAYOUTS)
@given(seed=seeds, time_steps=st.integers(2, 5), options=constants)
def test_memory_layout_makes_no_difference(layout, seed, time_steps, options):
    current, upstream = drawn(seed, time_steps, (2, 3, 4, 5))
    other = LAYOUTS[layout](current)
    assert other.equal(current) and not other.is_contiguous()
    leaf = other.detach().requires_grad_()
    spikes = lif(leaf, **options)
    gradient = torch.autograd.grad(spikes, leaf, LAYOUTS[layout](upstream))[0]
    expected_spikes, expected_gradient = run(by_autograd, current, upstream, **options)
    assert spikes.equal(expected_spikes)
    torch.testing.assert_close(gradient, expected_gradient, atol=1e-12, rtol=1e-12)


@many
@given(seeds, steps, shapes, constants)
def test_expanded_static_current_equals_its_copies(seed, time_steps, shape, options):
    current, _ = drawn(seed, 1, shape)
    _, upstream = drawn(seed + 1, time_steps, shape)
    leaf = current.clone().requires_grad_()
    spikes = lif(leaf.expand(time_steps, *shape), **options)
    gradient = torch.autograd.grad(spikes, leaf, upstream)[0]
    expected_spikes, expected_gradient = run(by_autograd, current.repeat(time_steps, *[1] * len(shape)), upstream, **options)
    assert spikes.equal(expected_spikes)
    torch.testing.assert_close(gradient, expected_gradient.sum(0, keepdim=True), atol=1e-12, rtol=1e-12)


def test_expanded_upstream_gradient_is_read_as_its_copies():
    current, _ = drawn(0, 4, (3, 5))
    _, gradient = run(lif, current, torch.ones(()).double().expand(4, 3, 5))
    torch.testing.assert_close(gradient, run(by_autograd, current, torch.ones(4, 3, 5).double())[1], atol=1e-12, rtol=1e-12)


def test_channels_last_output_stays_channels_last_in_a_folded_network():
    folded = torch.randn(6, 4, 3, 3).contiguous(memory_format=torch.channels_last)
    assert LIF(3)(folded).is_contiguous(memory_format=torch.channels_last)


# ---------------------------------------------------------------- what autograd keeps


def kept_by_autograd(function):
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        function()
    return kept


@pytest.mark.parametrize("time_steps", [1, 2, 7])
def test_autograd_keeps_exactly_one_tensor_whatever_the_number_of_steps(time_steps):
    current = torch.randn(time_steps, 2, 3, requires_grad=True)
    kept = kept_by_autograd(lambda: lif(current))
    assert len(kept) == 1
    assert kept[0].shape == current.shape


def test_static_current_is_kept_once_and_not_once_a_step():
    image = torch.randn(2, 3, requires_grad=True)
    kept = kept_by_autograd(lambda: lif(image.expand(7, 2, 3)))
    assert len(kept) == 1
    assert kept[0].untyped_storage().nbytes() == image.untyped_storage().nbytes()


def test_nothing_is_kept_without_gradient():
    assert kept_by_autograd(lambda: lif(torch.randn(3, 2))) == []


def test_double_backward_raises():
    current = torch.full((3,), 0.7, requires_grad=True)
    (gradient,) = torch.autograd.grad(lif(current).square().sum(), current, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_current_and_upstream_gradient_are_left_as_they_were():
    current, upstream = drawn(5, 4, (2, 3))
    before = current.clone(), upstream.clone()
    leaf = current.requires_grad_()
    lif(leaf).backward(upstream)
    assert current.detach().equal(before[0]) and upstream.equal(before[1])


# ---------------------------------------------------------------- edges


EDGES = [0.0, -0.0, 1.0, -1.0, 2.0, 1e-30, -1e-30, 5e-324, 1e30, -1e30, 3e38, -3e38]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("detach_reset", [False, True])
def test_finite_currents_give_finite_spikes_and_gradients(dtype, detach_reset):
    "Every sequence of three edge values; -3e38 twice overflows the float32 potential, which must not reach the gradient."
    current = torch.tensor(list(itertools.product(EDGES, repeat=3)), dtype=torch.float64).T.to(dtype)
    spikes, gradient = run(lif, current, torch.ones_like(current), detach_reset=detach_reset)
    assert set(spikes.unique().tolist()) == {0, 1}
    assert gradient.isfinite().all()


def test_infinite_current_fires_resets_and_gets_no_gradient():
    current = torch.tensor([float("inf"), 0.6, 0.6], dtype=torch.float64)
    spikes, gradient = run(lif, current, torch.ones_like(current))
    assert spikes.tolist() == [1, 0, 0]
    rest = by_delta_recursion([0.6, 0.6], [1.0, 1.0])[1]
    torch.testing.assert_close(gradient.tolist(), [0.0, *rest], atol=1e-12, rtol=0)


def test_zero_current_is_silent_and_gets_no_gradient():
    spikes, gradient = run(lif, torch.zeros(4, 3), torch.ones(4, 3))
    assert not spikes.any() and not gradient.any()


def test_empty_batch_passes():
    spikes, gradient = run(lif, torch.zeros(3, 0, 2), torch.zeros(3, 0, 2))
    assert spikes.shape == gradient.shape == (3, 0, 2)


def test_each_call_starts_at_rest():
    neuron = LIF()
    current = torch.full((3, 2), 0.9)
    first = neuron(current)
    neuron(torch.full((5, 2), 0.9))
    assert neuron(current).equal(first)
    assert not neuron.state_dict() and not list(neuron.parameters())


@given(seeds, steps, st.integers(1, 4))
def test_images_of_a_batch_do_not_touch_each_other(seed, time_steps, batch):
    current, _ = drawn(seed, time_steps, (batch, 3))
    alone = torch.cat([lif(current[:, number : number + 1]) for number in range(batch)], dim=1)
    assert lif(current).equal(alone)


@given(seeds, st.integers(2, 7), st.integers(1, 6))
def test_later_currents_do_not_reach_earlier_spikes(seed, time_steps, cut):
    current, _ = drawn(seed, time_steps, (4,))
    assert lif(current)[:cut].equal(lif(current[:cut]))


@pytest.mark.parametrize(
    "options, sentence",
    [
        (dict(decay=-0.1), "decay: expected a number from 0 to 1, got -0.1"),
        (dict(decay=1.5), "decay: expected a number from 0 to 1, got 1.5"),
        (dict(decay=float("nan")), "decay: expected .*, got nan"),
        (dict(threshold=0), "threshold: expected a number of at least 0.001, got 0"),
        (dict(threshold=float("inf")), "threshold: expected .*, got inf"),
        (dict(gamma=-1.0), "gamma: expected .*, got -1.0"),
        (dict(gamma=float("nan")), "gamma: expected .*, got nan"),
    ],
)
def test_constants_out_of_range_are_refused_by_function_and_module(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        lif(torch.ones(2), **options)
    with pytest.raises(ValueError, match=sentence):
        LIF(**options)


@pytest.mark.parametrize("time_steps", [0, -1, 2.5])
def test_time_steps_must_be_a_whole_number_of_at_least_one(time_steps):
    with pytest.raises(ValueError, match=f"time_steps: expected a whole number of at least 1, got {time_steps}"):
        LIF(time_steps)


@pytest.mark.parametrize("current", [torch.ones(2, dtype=torch.int64), torch.ones(2, dtype=torch.bool), torch.ones(2, dtype=torch.complex64)])
def test_current_that_is_not_floating_point_is_refused(current):
    with pytest.raises(TypeError, match="current: expected a floating-point tensor, got torch"):
        lif(current)


@pytest.mark.parametrize("shape", [(), (0,), (0, 3)])
def test_current_without_a_time_step_is_refused(shape):
    with pytest.raises(ValueError, match=r"current: expected \[T, ...\] with at least one time step, got"):
        lif(torch.ones(shape))


# ---------------------------------------------------------------- time in the batch


@given(seeds, steps, st.integers(1, 4), constants)
def test_folded_neuron_equals_the_loop_over_a_time_axis(seed, time_steps, batch, options):
    current, _ = drawn(seed, time_steps, (batch, 3))
    folded = LIF(time_steps, **options)(current.reshape(time_steps * batch, 3))
    assert folded.reshape(time_steps, batch, 3).equal(by_autograd(current, **options))


@given(steps, st.integers(1, 5), st.integers(1, 3))
def test_unfold_inverts_fold_without_copying(time_steps, batch, channels):
    sequence = torch.rand(time_steps, batch, channels)
    again = unfold(fold(sequence), time_steps, batch)
    assert again.equal(sequence) and again.data_ptr() == sequence.data_ptr()


@pytest.mark.parametrize(
    "rows, time_steps, batch, sentence",
    [(5, 3, 2, "3 x 2 = 6 rows"), (4, 2, 3, "2 x 3 = 6 rows"), (5, 2, None, "a multiple of T = 2")],
)
def test_rows_that_do_not_fit_the_time_steps_are_refused(rows, time_steps, batch, sentence):
    with pytest.raises(ValueError, match=sentence):
        unfold(torch.ones(rows, 2), time_steps, batch)


class Recorder(nn.Module):
    "Passes its input on and remembers how many rows it had; fails when told to."

    def __init__(self):
        super().__init__()
        self.rows, self.error = None, None

    def forward(self, x):
        self.rows = len(x)
        if self.error:
            raise self.error
        return x


def recorded(time_steps, stem_once=True):
    stem, later = Recorder(), Recorder()
    return over_time(nn.Sequential(stem, LIF(time_steps), later, nn.Flatten()), time_steps, stem_once), stem, later


def test_layers_before_the_first_neuron_run_once_for_a_static_image():
    network, stem, later = recorded(4)
    images = torch.rand(2, 3, 2, 2)
    network(images)
    assert (stem.rows, later.rows) == (2, 8)
    network(images.repeat(4, 1, 1, 1, 1))
    assert (stem.rows, later.rows) == (8, 8)


def test_stem_once_false_repeats_the_image_at_the_input():
    network, stem, later = recorded(4, stem_once=False)
    network(torch.rand(2, 3, 2, 2))
    assert (stem.rows, later.rows) == (8, 8)


@given(steps, st.integers(1, 4))
def test_sequence_whose_batch_equals_its_time_steps_is_not_taken_for_an_image(time_steps, batch):
    network, *_ = recorded(time_steps)
    sequence = torch.rand(time_steps, batch, 2, 2, 2) * 2
    assert network(sequence).equal(by_autograd(sequence).flatten(2))


def interrupted(error):
    network, _, later = recorded(2)
    later.error = error
    with pytest.raises(type(error)):
        network(torch.rand(4, 3, 2, 2))
    later.error = None
    return network


def test_forward_pass_that_raises_leaves_no_batch_behind():
    "A neuron that believed in the old batch would take a folded tensor of that many rows for a static image."
    assert interrupted(RuntimeError("failed"))[1].batch is None


@pytest.mark.parametrize("error", [RuntimeError("failed"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_network_works_after_a_forward_pass_that_raised(error):
    images = torch.rand(2, 3, 2, 2) * 2
    assert interrupted(error)(images).equal(by_autograd(images.repeat(2, 1, 1, 1, 1)).flatten(2))


@pytest.mark.parametrize("shape", [(3, 2, 2), (3, 1, 3, 2, 2), (1, 2, 1, 3, 2, 2)])
def test_input_of_another_rank_or_length_is_refused(shape):
    network, *_ = recorded(2)
    with pytest.raises(ValueError, match=r"x: expected \[B, C, H, W\] or \[T, B, C, H, W\] with T = 2, got \["):
        network(torch.rand(shape))


def test_neurons_of_other_time_steps_than_their_network_are_refused():
    "They moved images from one step into another: T = 4 after building for 2 gave [4, B / 2], and a neuron without T took the images for steps."
    network, *_ = recorded(2)
    network.time_steps = 4
    with pytest.raises(ValueError, match="an output for each of T = 4 steps and 8 images, 32 rows, got 16 from Sequential"):
        network(torch.rand(8, 3, 2, 2))
    with pytest.raises(ValueError, match="network: expected one whose time is not folded yet, got Sequential with T = 4"):
        over_time(network, 4)
    for shape in ((8, 3, 2, 2), (4, 8, 3, 2, 2)):
        network = over_time(nn.Sequential(LIF(), nn.Flatten()), 4)
        with pytest.raises(ValueError, match="time_steps: expected the T of the folded network around it, got None in LIF"):
            network(torch.rand(shape))
        assert network[0](torch.rand(shape)).shape == shape  # by itself it has an axis of time


def test_an_output_that_no_neuron_has_met_is_refused():
    class Aside(nn.Module):
        def __init__(self):
            super().__init__()
            self.neuron = LIF(2)

        def forward(self, x):
            self.neuron(x)
            return x.flatten(1)

    with pytest.raises(ValueError, match="2 steps and 4 images, 8 rows, got 4 from Aside; .* let its neurons stand between images and output"):
        over_time(Aside(), 2)(torch.rand(4, 3, 2, 2))


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpoints_around_the_first_neuron(reentrant):
    class Checked(nn.Sequential):
        def forward(self, x):
            for layer in self:
                x = checkpoint(layer, x, use_reentrant=reentrant)
            return x

    network = over_time(Checked(nn.Sequential(nn.Conv2d(3, 4, 1), LIF(2)), nn.Sequential(nn.Flatten(), nn.Linear(16, 5))), 2, stem_once=False)
    images, gradients = torch.rand(3, 3, 2, 2, requires_grad=True), []
    for kept in (network, over_time(nn.Sequential(*network), 2)):
        (kept(images) ** 2).sum().backward()
        gradients.append(network[0][0].weight.grad.clone())
        network.zero_grad()
    assert gradients[0].allclose(gradients[1], atol=1e-6) and gradients[0].any()


def test_deep_copy_keeps_time_and_shares_nothing():
    network, *_ = recorded(3)
    images = torch.rand(2, 3, 2, 2) * 2
    twin = copy.deepcopy(network)
    assert twin(images).equal(network(images))
    assert twin[1] is not network[1]
    twin[1].decay = 0.9
    assert network[1].dynamics.decay == 0.5 and twin[1].dynamics.decay == 0.9


# ---------------------------------------------------------------- every neuron, reset and surrogate


def literal_slope(distance, gamma, surrogate):
    if surrogate == "triangle":
        return (gamma - distance.abs()).clamp(min=0) / gamma**2
    if surrogate == "arctangent":
        return 1 / (gamma * (1 + (torch.pi * distance / gamma) ** 2))
    if surrogate == "sigmoid":
        steep = 4 / gamma
        return steep * torch.sigmoid(steep * distance) * torch.sigmoid(-steep * distance)
    return (distance.abs() < gamma).to(distance.dtype) / (2 * gamma)


class LiteralSpike(torch.autograd.Function):
    @staticmethod
    def forward(ctx, potential, threshold, gamma, surrogate):
        ctx.save_for_backward(potential)
        ctx.constants = threshold, gamma, surrogate
        return (potential > threshold).to(potential.dtype)

    @staticmethod
    def backward(ctx, grad):
        (potential,) = ctx.saved_tensors
        threshold, gamma, surrogate = ctx.constants
        return grad * literal_slope(potential - threshold, gamma, surrogate), None, None, None


def literal(current, decay, threshold, gamma, surrogate, reset, detach_reset):
    remaining, spikes = torch.zeros_like(current[0]), []
    for arriving in current:
        potential = decay * remaining + arriving
        spike = LiteralSpike.apply(potential, threshold, gamma, surrogate)
        fired = spike.detach() if detach_reset else spike
        remaining = potential * (1 - fired) if reset == "hard" else potential - threshold * fired
        spikes.append(spike)
    return torch.stack(spikes)


kinds = st.sampled_from([LIF, IF, PLIF])
dynamics = st.fixed_dictionaries(
    dict(
        threshold=st.sampled_from([0.5, 1.0]) | st.floats(0.1, 2),
        gamma=st.sampled_from([0.5, 1.0, 2.0]) | st.floats(0.1, 3),
        surrogate=st.sampled_from(["triangle", "arctangent", "sigmoid", "rectangle"]),
        reset=st.sampled_from(["hard", "soft"]),
        detach_reset=st.booleans(),
    )
)
decays = st.sampled_from([0.25, 0.5, 0.9]) | st.floats(0.01, 0.99)


def made(kind, decay, options, **more):
    return kind(**options, **({} if kind is IF else dict(decay=decay)), **more)


def literal_run(neuron, current, upstream, options):
    "Spikes, gradient of the current and, of a learned decay factor, of its logit, in float64."
    leaf = current.detach().double().requires_grad_()
    logit = neuron.decay_logit.detach().double().requires_grad_() if isinstance(neuron, PLIF) else None
    decay = {IF: lambda: 1.0, LIF: lambda: neuron.decay, PLIF: lambda: logit.sigmoid()}[type(neuron)]()
    spikes = literal(leaf, decay, **options)
    return spikes.detach(), *torch.autograd.grad(spikes, [leaf] + [logit] * isinstance(neuron, PLIF), upstream.double(), materialize_grads=True)


def neuron_run(neuron, current, upstream):
    leaf = current.detach().clone().requires_grad_()
    spikes = neuron(leaf)
    return spikes.detach(), *torch.autograd.grad(spikes, [leaf, *neuron.parameters()], upstream)


def unambiguous(neuron, current, options, margin=1e-5):
    "No potential so near to the threshold, and with a rectangle to its edges, that rounding decides."
    _, potentials = literal_run(neuron, current, torch.zeros_like(current), options), []
    remaining, decay = torch.zeros_like(current[0], dtype=torch.float64), float(neuron.decay_factor())
    for arriving in current.double():
        potentials.append(decay * remaining + arriving)
        spike = (potentials[-1] > neuron.threshold).double()
        remaining = potentials[-1] * (1 - spike) if neuron.reset == "hard" else potentials[-1] - neuron.threshold * spike
    distance = (torch.stack(potentials) - neuron.threshold).abs()
    return bool((distance > margin).all() and ((distance - neuron.gamma).abs() > margin).all())


@many
@given(seed=seeds, time_steps=steps, shape=shapes, kind=kinds, decay=decays, options=dynamics)
def test_every_neuron_equals_a_literal_loop(seed, time_steps, shape, kind, decay, options):
    current, upstream = drawn(seed, time_steps, shape)
    neuron = made(kind, decay, options, backend="eager").double()
    expected, found = literal_run(neuron, current, upstream, options), neuron_run(neuron, current, upstream)
    assert found[0].equal(expected[0]) and len(found) == (3 if kind is PLIF else 2)
    for one, other in zip(found[1:], expected[1:], strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-10)


@given(seed=seeds, time_steps=steps, kind=kinds, decay=decays, options=dynamics)
def test_every_neuron_takes_a_static_current_for_its_copies(seed, time_steps, kind, decay, options):
    current, _ = drawn(seed, 1, (3, 2))
    _, upstream = drawn(seed + 1, time_steps, (3, 2))
    neuron = made(kind, decay, options).double()
    leaf = current.clone().requires_grad_()
    spikes = neuron.fire(leaf, time_steps)
    found = torch.autograd.grad(spikes, [leaf, *neuron.parameters()], upstream)
    expected_spikes, expected, *of_decay = literal_run(neuron, current.repeat(time_steps, 1, 1), upstream, options)
    assert spikes.equal(expected_spikes)
    torch.testing.assert_close(list(found), [expected.sum(0, keepdim=True), *of_decay], atol=1e-10, rtol=1e-10)


@given(seed=seeds, time_steps=steps, kind=kinds, decay=decays, options=dynamics, dtype=st.sampled_from([torch.bfloat16, torch.float16, torch.float32]))
def test_every_neuron_computes_in_float32_at_least(seed, time_steps, kind, decay, options, dtype):
    current, upstream = drawn(seed, time_steps, (4, 3), dtype)
    neuron = made(kind, decay, options)
    assume(unambiguous(neuron, current, options))
    spikes, gradient, *of_decay = neuron_run(neuron, current, upstream)
    expected_spikes, expected, *expected_of_decay = literal_run(neuron, current, upstream, options)
    assert spikes.dtype == gradient.dtype == dtype and all(each.dtype == torch.float32 for each in of_decay)
    assert spikes.double().equal(expected_spikes)
    scale = max(1e-3, expected.abs().max().item())
    torch.testing.assert_close(gradient.double(), expected, atol=max(LOW[dtype], 1e-5) * scale, rtol=max(LOW[dtype], 1e-4))
    for one, other in zip(of_decay, expected_of_decay):
        torch.testing.assert_close(one.double(), other, atol=max(LOW[dtype], 1e-4) * scale * current.numel(), rtol=1e-2)


@pytest.mark.parametrize("reset", ["hard", "soft"])
@pytest.mark.parametrize("surrogate", ["triangle", "arctangent", "sigmoid", "rectangle"])
@pytest.mark.parametrize("kind", [LIF, IF, PLIF])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_infinite_currents_leave_every_gradient_finite(kind, surrogate, reset, dtype):
    "All sequences of three edges, which may overflow, and of three edges or infinities of one sign: inf - inf has no answer."
    sequences = list(itertools.product(EDGES, repeat=3))
    for infinity in (float("inf"), float("-inf")):
        sequences += itertools.product([edge for edge in EDGES if abs(edge) < 1e38] + [infinity], repeat=3)
    current = torch.tensor(sequences, dtype=torch.float64).T.to(dtype)
    spikes, gradient, *of_decay = neuron_run(kind(surrogate=surrogate, reset=reset), current, torch.ones_like(current))
    assert set(spikes.unique().tolist()) == {0, 1}
    assert gradient.isfinite().all()
    assert all(each.isfinite() for each in of_decay)


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler on this machine")
@pytest.mark.parametrize("kind, options", [
    (PLIF, dict(surrogate="sigmoid", reset="soft", detach_reset=False)),
    (PLIF, dict(surrogate="triangle", reset="hard", detach_reset=True)),
    (IF, dict(surrogate="rectangle", reset="soft", detach_reset=True)),
    (LIF, dict(surrogate="arctangent", reset="hard", detach_reset=False)),
])  # fmt: skip
def test_compiled_neurons_equal_the_eager_ones_and_the_literal_loop(kind, options):
    options = dict(threshold=0.8, gamma=0.7) | options
    current, upstream = drawn(11, 3, (4, 5, 6), torch.float32)
    eager, compiled = (made(kind, 0.4, options, backend=backend) for backend in ("eager", "compiled"))
    assert unambiguous(eager, current, options)
    found, expected = neuron_run(compiled, current, upstream), literal_run(compiled, current, upstream, options)
    for one, other, exact in zip(found, neuron_run(eager, current, upstream), expected, strict=True):
        torch.testing.assert_close(one, other, atol=2e-6, rtol=2e-6)
        torch.testing.assert_close(one.double(), exact, atol=2e-5, rtol=2e-5)
    static = neuron_run(compiled, current[:1], upstream[:1])  # compiled anew for one row
    torch.testing.assert_close(list(static), list(neuron_run(eager, current[:1], upstream[:1])), atol=2e-6, rtol=2e-6)


def test_a_learned_decay_factor_learns():
    "A target that only another decay factor reaches."
    torch.manual_seed(0)
    current = torch.rand(6, 400)
    target, neuron = LIF(decay=0.9)(current), PLIF(decay=0.3, surrogate="sigmoid")
    optimizer = torch.optim.Adam(neuron.parameters(), 0.05)
    for _ in range(120):
        optimizer.zero_grad()
        ((neuron(current) - target).mean(1) ** 2).sum().backward()
        optimizer.step()
    assert 0.8 < float(neuron.decay_factor()) < 0.97


def test_a_subclass_is_a_neuron():
    class Fading(Neuron):
        share: float = 0.7

        def decay_factor(self):
            return self.share**2

    current, upstream = drawn(3, 4, (5,))
    options = dict(threshold=1.0, gamma=1.0, surrogate="triangle", reset="hard", detach_reset=False)
    assert run(Fading(share=0.5), current, upstream)[0].equal(literal(current, 0.25, **options))
    assert Fading(3, share=0.5).time_steps == 3 and "share=0.5" in repr(Fading(share=0.5))


@pytest.mark.parametrize("options, sentence", [
    (dict(surrogate="triangel"), "surrogate: expected one of triangle, arctangent, sigmoid, rectangle, got 'triangel' .did you mean 'triangle'"),
    (dict(reset="hart"), "reset: expected one of hard, soft, got 'hart'"),
    (dict(detach_reset=1), "detach_reset: expected True or False, got 1"),
])  # fmt: skip
def test_neurons_refuse_unknown_dynamics(options, sentence):
    for kind in (LIF, IF, PLIF):
        with pytest.raises(ValueError, match=sentence):
            kind(**options)
    with pytest.raises(TypeError, match="decay"):
        IF(decay=0.5)
    for decay in (0, 1, 1.5):
        with pytest.raises(ValueError, match="decay: expected a number from 0.001 to 0.999"):
            PLIF(decay=decay)
