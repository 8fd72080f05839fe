"""Networks that the field uses now: their values are those of SpikingJelly's with the same weights, or of their definition, step by step; they train, come back and leave."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sastc import assess, candidates, create_model, distill, train_teacher
from sastc.models.spikformer import Spikformer
from sastc.studies.export import to_nir, to_torch_export

T = 3
GIVEN = dict(data="digits", image_size=16, epochs=1, train_images=100, batch_size=20, lr=0.02, device="cpu")


def alive(network):
    "Statistics and scales as after training, so that every layer fires."
    torch.manual_seed(1)
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm1d)):
            module.running_mean.normal_(0, 0.1)
            nn.init.uniform_(module.weight, 1, 2)
            nn.init.uniform_(module.bias, 0, 0.5)
    return network.eval()


def with_weights_of(ours, theirs):
    "Ours with the weights of theirs: the layers stand in the same order."
    one, other = ours.state_dict(), theirs.state_dict()
    assert [value.shape for value in one.values()] == [value.shape for value in other.values()]
    ours.load_state_dict(dict(zip(one, other.values(), strict=True)))
    return ours.eval()


def neuron_of_theirs():
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron", reason="the extra `students` (spikingjelly) is not installed")
    return dict(spiking_neuron=neuron.LIFNode, tau=2.0, decay_input=False)


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("name", ["sew_resnet18", "sew_resnet34"])
def test_sew_resnet_is_spikingjellys(name):
    kind = neuron_of_theirs()
    from spikingjelly.activation_based import functional
    from spikingjelly.activation_based.model import sew_resnet

    theirs = alive(getattr(sew_resnet, name)(cnf="ADD", num_classes=10, **kind))
    functional.set_step_mode(theirs, "m")
    ours = with_weights_of(create_model(f"imagenet_{name}", 10, T), theirs)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = theirs(x.expand(T, *x.shape))
        torch.testing.assert_close(ours(x), expected, atol=1e-9, rtol=1e-9)
    assert expected.std() > 1e-2


@pytest.mark.usefixtures("in_float64")
def test_ms_resnet_is_spikingjellys():
    kind = neuron_of_theirs()
    from spikingjelly.activation_based.model import ms_resnet

    theirs = alive(ms_resnet.ms_resnet18(T=T, num_classes=10, **kind))
    ours = with_weights_of(create_model("imagenet_ms_resnet18", 10, T), theirs)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x).mean(0), theirs(x), atol=1e-9, rtol=1e-9)


class Stepped(nn.Module):
    "A neuron as in the definition: one step for each call."

    def __init__(self):
        super().__init__()
        self.potential = 0

    def forward(self, current):
        self.potential = 0.5 * self.potential + current
        spikes = (self.potential > 1).to(current.dtype)
        self.potential = self.potential * (1 - spikes)
        return spikes


@pytest.mark.usefixtures("in_float64")
def test_spikformer_is_its_definition():
    folded = alive(create_model("spikformer4_256", 10, T, width=0.25))
    stepped = Spikformer(10, width=0.25, act=Stepped).eval()
    stepped.load_state_dict(folded.state_dict())
    sequence = torch.randn(T, 2, 3, 32, 32)
    with torch.no_grad():
        expected = torch.stack([stepped(image) for image in sequence])
        torch.testing.assert_close(folded(sequence), expected, atol=1e-9, rtol=1e-9)
    assert expected.std() > 1e-2


@pytest.mark.usefixtures("in_float64")
def test_spiking_attention_is_its_formula():
    from sastc.models.spikformer import SpikingAttention

    layer = alive(SpikingAttention(64, 2, Stepped, lambda channels, residual=False: nn.BatchNorm2d(channels)))
    x = (torch.rand(2, 64, 4, 4) < 0.6).double()
    with torch.no_grad():
        got = layer(x)
        for module in layer.modules():
            module.potential = 0
        rows = []
        for image in x[:, None]:
            query, key, value = (part(image)[0].flatten(1).T for part in (layer.query, layer.key, layer.value))  # [L, D]
            heads = [0.125 * (query[:, part] @ key[:, part].T) @ value[:, part] for part in (slice(0, 32), slice(32, 64))]
            rows.append(torch.cat(heads, 1).T.view(64, 4, 4))
            for module in layer.modules():
                module.potential = 0
        fired = (torch.stack(rows) > 1).double()
        conv, norm, _ = layer.out
        expected = (F.batch_norm(F.conv2d(fired, conv.weight, conv.bias), norm.running_mean, norm.running_var, norm.weight, norm.bias) > 1).double()
    assert got.equal(expected) and 0 < got.mean() < 1


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return train_teacher(**GIVEN, model="wrn16_2", width=0.125, folder=tmp_path_factory.mktemp("teacher") / "run")


@pytest.mark.parametrize("name", ["sew_resnet18", "ms_resnet18", "spikformer4_256"])
def test_they_are_distilled_evaluated_and_exported(name, teacher, tmp_path):
    run = distill(student=name, width=0.125, time_steps=2, method="sastc", beta=1.0, teacher=teacher.folder, folder=tmp_path / "run", **GIVEN)
    assert run.layers["student"] == candidates(create_model(name, width=0.125))
    assert assess(run)["accuracy"] == run.result["test_accuracy_best"]
    # as `in_float64`, which would hold for the training above as well
    student, images = alive(create_model(name, 10, 2, 1, width=0.125)).double(), torch.randn(3, 1, 16, 16, dtype=torch.float64)
    program = to_torch_export(student, (1, 16, 16)).module()
    with torch.no_grad():
        torch.testing.assert_close(program(images), student(images), atol=1e-9, rtol=1e-9)


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("name", ["sew_resnet18", "ms_resnet18"])
def test_they_come_back_from_nir(name, tmp_path):
    nir = pytest.importorskip("nir", reason="the extra `export` is not installed")
    from sastc.models import from_nir

    student, images = alive(create_model(name, 10, 2, 1, width=0.125)), torch.randn(3, 1, 16, 16)
    nir.write(tmp_path / "student.nir", to_nir(student, (1, 16, 16)))
    with torch.no_grad():
        torch.testing.assert_close(from_nir(tmp_path / "student.nir").eval()(images), student(images), atol=1e-9, rtol=1e-9)


def test_spikformer_has_no_nir(tmp_path):
    pytest.importorskip("nir", reason="the extra `export` is not installed")
    with pytest.raises(ValueError, match="student: expected layers that have a NIR node"):
        to_nir(create_model("spikformer4_256", 10, 2, 1, width=0.125), (1, 16, 16))
