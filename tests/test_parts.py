"""Parts of other people, as objects: networks that return more than logits, vision transformers as teachers, shortcuts past the first neuron."""

import pytest
import torch
from torch import nn
from torchvision.models import VisionTransformer

from sastc import Taps, assess, distill, open_run, spiking, train_teacher

GIVEN = dict(data="digits", epochs=1, train_images=200, batch_size=20, lr=0.02)


class Talkative(nn.Module):
    "Returns a dict while it is trained, and a tuple otherwise."

    def __init__(self):
        super().__init__()
        layers = [layer for channels in ((1, 8), (8, 8), (8, 8)) for layer in (nn.Conv2d(*channels, 3, 2), nn.ReLU())]
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))

    def forward(self, x):
        logits = self.body(x)
        return dict(logits=logits, loss=0.0) if self.training else (logits, x)


class Tokens(nn.Module):
    "A vision transformer for grey images."

    def __init__(self):
        super().__init__()
        self.grey = nn.Conv2d(1, 3, 1)
        self.vit = VisionTransformer(image_size=32, patch_size=8, num_layers=3, num_heads=2, hidden_dim=24, mlp_dim=32, num_classes=10)

    def forward(self, x):
        return self.vit(self.grey(x))


def test_networks_that_return_more_than_logits(tmp_path):
    teacher = train_teacher(model=Talkative(), folder=tmp_path / "teacher", **GIVEN)
    own = Talkative()
    own.load_state_dict(teacher.checkpoint()["model"])
    run = distill(student=spiking(Talkative(), 2), teacher=own, method="sastc", beta=1.0, folder=tmp_path / "student", **GIVEN)
    assert run.layers == dict(student=["body.3"], teacher=["body.3"])  # the activation between the first and the last
    with pytest.raises(ValueError, match="checkpoint: expected a network that can be built again, got one of your own"):
        assess(run)
    assert assess(run, student=spiking(Talkative(), 2), teacher=own)["accuracy"] == run.result["test_accuracy_best"]
    with pytest.raises(ValueError, match="names: expected a module that returns a tensor, got 'self_attn'"):
        Taps(nn.TransformerEncoderLayer(8, 2, batch_first=True), ["self_attn"])(torch.rand(2, 5, 8))


@pytest.mark.parametrize("method", ["sastc", "rsa", "routed", "feature_kd"])
def test_a_vision_transformer_teaches(method, tmp_path):
    layers = [f"vit.encoder.layers.encoder_layer_{number}" for number in range(3)]
    named = dict(teacher_layer=layers[1]) if method == "feature_kd" else dict(teacher_layers=layers)
    teacher = Tokens()
    run = distill(teacher=teacher, method=method, beta=1.0, width=0.0625, mismatch_batches=1, folder=tmp_path / "run", **GIVEN, **named)
    assert run.layers["teacher"] == list(named.values())[0] or run.layers["teacher"] == [layers[1]]
    opened = open_run(run, teacher=teacher)
    images, _ = next(opened.data.batches("test", 20, shuffle=False, drop_last=True).epoch(0))
    assert opened.step(images).teacher_features[0].shape == (20, 17, 24)  # 4x4 places and the class token
    if method != "feature_kd":
        torch.testing.assert_close(opened.method.attend(opened.step(images)).sum(-1), torch.ones(2, 20, 4))


class PreActivation(nn.Module):
    "A shortcut runs past the first activation."

    def __init__(self):
        super().__init__()
        self.first, self.act, self.second, self.head = nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 10)

    def forward(self, x):
        x = self.first(x)
        return self.head((x + self.second(self.act(x))).mean((2, 3)))


def test_a_shortcut_past_the_first_neuron_is_found_before_training(tmp_path):
    with pytest.raises(ValueError, match="stem_once"):
        distill(student=spiking(PreActivation(), 2), method="baseline", folder=tmp_path / "run", **GIVEN)
    assert not (tmp_path / "run").exists()
    assert distill(student=spiking(PreActivation(), 2, stem_once=False), method="baseline", folder=tmp_path / "run", **GIVEN).state == "finished"
