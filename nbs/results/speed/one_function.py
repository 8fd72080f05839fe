"""Would one function for normalisation and neuron be faster? Layers and whole steps, in turns in one process.

    OMP_NUM_THREADS=1 python one_function.py > one_function.csv

The function keeps the convolution's output and the statistics of its channels; currents are computed again in the backward pass. It is
no part of the package: speed.ipynb says why. Reads as `sastc.neurons.neuron` and PyTorch's batch normalisation, which it is made of."""

from statistics import median

from sastc import create_model  # before torch, see nbs/common/04_package.ipynb
from sastc.neurons.kernels import Kernel, expecting, keep_freed_memory, wide  # isort: split

import pandas as pd
import torch
from torch import nn

from sastc.neurons.memory import kept_mib, note_spikes, saving_memory
from sastc.neurons.neuron import LIF
from sastc.neurons.neuron import _recursion as recursion  # what both kernels of the package are made of
from sastc.studies.bench import Step, build_floor, in_turns, machine, machine_words
from sastc.training.config import SGD

ROUNDS, TIME_STEPS = 15, 2
LAYERS = (64, 64, 32), (16, 512, 8), (64, 16, 32), (64, 64, 16), (64, 128, 4)  # images, channels, side of the map
STEPS = (1.0, 16), (0.25, 64)  # width, images
SHARE_THAT_ROUNDS = {torch.float32: 1e-4, torch.bfloat16: 0.1}  # of gradients that differ, since a current beside the threshold is rounded to the other side


def currents(rows: torch.Tensor, affine: torch.Tensor) -> list[torch.Tensor]:
    "Normalised input of each step [M, C], in float32, from the rows of all [T, M, C] and scale and shift of each channel [2, 1, C]."
    scale, shift = affine.unbind()
    return [(wide(row) * scale).add_(shift) for row in rows.unbind()]


def spikes_of(rows, affine, *, neuron):
    return torch.stack([spike.to(rows.dtype) for spike in recursion(currents(rows, affine), neuron, neuron.decay)[1]])


def gradient_of(rows, grad_spikes, affine, *, neuron):
    deltas = []
    for potential, spike, _, arriving in zip(*map(reversed, (*recursion(currents(rows, affine), neuron, neuron.decay), grad_spikes.unbind()))):
        slope = neuron.surrogate(potential - neuron.threshold, neuron.gamma)
        delta = arriving * slope
        if deltas:
            delta += neuron.reset.slope(potential, spike, slope, neuron.threshold).mul_(deltas[-1]).mul_(neuron.decay)
        deltas.append(delta)
    return torch.stack([delta.to(rows.dtype) for delta in reversed(deltas)])


SPIKES, GRADIENT = Kernel(spikes_of), Kernel(gradient_of)


class NormAndNeuron(torch.autograd.Function):
    "Spikes of a batch-normalised current, in training mode; channels last."

    @staticmethod
    def forward(ctx, arriving, weight, bias, norm, neuron):
        mean, variance = torch.batch_norm_update_stats(arriving, norm.running_mean, norm.running_var, norm.momentum)
        norm.num_batches_tracked.add_(1)
        inverse = (variance + norm.eps).rsqrt()
        scale = inverse * weight
        affine = torch.stack([scale, bias - mean * scale])[:, None]
        spikes = SPIKES(rows_of(arriving), affine, neuron=neuron.dynamics, backend=neuron.backend)
        note_spikes(spikes)
        ctx.save_for_backward(arriving, weight, mean, inverse, affine)
        ctx.norm, ctx.neuron = norm, neuron
        return map_of(spikes, arriving)

    @staticmethod
    def backward(ctx, grad_spikes):
        (arriving, weight, mean, inverse, affine), norm = ctx.saved_tensors, ctx.norm
        of_current = GRADIENT(rows_of(arriving), rows_of(grad_spikes), affine, neuron=ctx.neuron.dynamics, backend=ctx.neuron.backend)
        running, wanted = (norm.running_mean, norm.running_var), [True, True, True]
        gradient = torch.ops.aten.native_batch_norm_backward(map_of(of_current, arriving), arriving, weight, *running, mean, inverse, True, norm.eps, wanted)
        return *gradient, None, None


def rows_of(maps: torch.Tensor) -> torch.Tensor:
    "[T*B, C, H, W] as [T, B*H*W, C]."
    return maps.permute(0, 2, 3, 1).reshape(TIME_STEPS, -1, maps.shape[1])


def map_of(rows: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    batch, channels, height, width = like.shape
    return rows.view(batch, height, width, channels).permute(0, 3, 1, 2)


def in_one(norm: nn.BatchNorm2d, neuron: LIF, arriving: torch.Tensor) -> torch.Tensor:
    return NormAndNeuron.apply(arriving, norm.weight, norm.bias, norm, neuron)


def layer_rows():
    "Forward and backward of normalisation and neuron."
    for (images, channels, side), precision, backend in [(*case, how) for how in ("compiled", "eager") for case in product_of(LAYERS)]:
        arriving = torch.randn(TIME_STEPS * images, channels, side, side).to(precision, memory_format=torch.channels_last)
        norm, neuron, upstream = nn.BatchNorm2d(channels), LIF(TIME_STEPS, backend=backend), torch.randn_like(arriving)
        arriving.requires_grad_()
        wanted = [arriving, norm.weight, norm.bias]
        calls = {
            "two functions": lambda: torch.autograd.grad(neuron(norm(arriving)), wanted, upstream),
            "one function": lambda: torch.autograd.grad(in_one(norm, neuron, arriving), wanted, upstream),
        }
        (mine, *_), (theirs, *_) = calls["one function"](), calls["two functions"]()
        assert ((mine - theirs).abs() > 1e-2 * theirs.abs().max()).float().mean() < SHARE_THAT_ROUNDS[precision]
        for variant, seconds in in_turns(calls, ROUNDS).items():
            yield dict(
                part="layer", case=f"{images}x{channels}x{side}x{side}, {backend}", precision=name_of(precision), variant=variant, seconds=median(seconds)
            )


def product_of(layers):
    return [(layer, precision) for precision in (torch.float32, torch.bfloat16) for layer in layers]


def name_of(precision: torch.dtype) -> str:
    return {torch.float32: "fp32", torch.bfloat16: "bf16"}[precision]


def joined(network: nn.Module) -> nn.Module:
    "The network with one function in each unit but the first, whose current has no time axis yet."
    for number in range(2, 9):
        convolution, norm, neuron = unit = getattr(network, f"layer{number}")
        unit.forward = lambda x, parts=(convolution, norm, neuron): in_one(*parts[1:], parts[0](x))
    return network


def step_rows():
    "A whole training step of VGG-11, and what it keeps for the backward pass."
    for (width, images), precision in product_of(STEPS):
        networks = {"two functions": vgg11(width), "one function": joined(vgg11(width))}
        batch = torch.randn(images, 3, 32, 32).to(memory_format=torch.channels_last), torch.randint(10, (images,))
        calls = {variant: step_of(network, *batch, precision) for variant, network in networks.items()}
        step = Step(width=width, batch_size=images, time_steps=TIME_STEPS, precision=name_of(precision))
        seconds = in_turns(calls | {"convolutions alone": build_floor(step)}, ROUNDS)
        kept = {variant: kept_mib(lambda: loss_of(network, *batch, precision)) for variant, network in networks.items()}
        with saving_memory(networks["two functions"]):
            kept["saving memory"] = kept_mib(lambda: loss_of(networks["two functions"], *batch, precision))
        for variant in [*seconds, "saving memory"]:
            about = dict(part="step", case=f"vgg11, width {width:g}, batch {images}", precision=name_of(precision), variant=variant)
            yield about | dict(seconds=median(seconds.get(variant, [float("nan")])), kept_mib=kept.get(variant))


def vgg11(width: float) -> nn.Module:
    torch.manual_seed(0)
    return create_model("vgg11", width=width, time_steps=TIME_STEPS).to(memory_format=torch.channels_last)


def loss_of(network, images, labels, precision):
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        outputs = network(images).mean(0)
    return nn.functional.cross_entropy(outputs.float(), labels)


def step_of(network, images, labels, precision):
    optimizer = SGD().build(list(network.parameters()))

    def call():
        loss_of(network, images, labels, precision).backward()
        optimizer.step()
        optimizer.zero_grad()

    return call


if __name__ == "__main__":
    keep_freed_memory()
    with expecting(10**12):  # neurons are compiled from the start, as in a long run
        table = pd.DataFrame([*layer_rows(), *step_rows()])
    table["milliseconds"], table["machine"] = (1e3 * table.pop("seconds")).round(3), machine_words(machine())
    print(table.round(2).to_csv(index=False), end="")
