"""What came in goes out: a model folder with a card, and NIR graphs that other libraries read."""

import json

import pytest
import torch
from safetensors.torch import load_file

from sastc import create_model, distill, spiking, train_teacher
from sastc.cli.commands import run_command
from sastc.neurons import LIF
from sastc.studies.model_folder import model_card, read_model, write_model
from sastc.training.checkpoints import load_model

GIVEN = dict(data="digits", image_size=8, epochs=1, train_images=100, batch_size=20, lr=0.02, device="cpu")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return train_teacher(**GIVEN, model="wrn16_2", width=0.125, folder=tmp_path_factory.mktemp("teacher") / "run")


@pytest.mark.parametrize("name", ["vgg11", "ms_resnet18", "spikformer4_256"])
def test_a_model_folder_gives_the_network_back(name, teacher, tmp_path, capsys):
    run = distill(student=name, width=0.0625, time_steps=2, method="kd", teacher=teacher.folder, folder=tmp_path / "run", **GIVEN)
    assert run_command("export", [str(run.folder), "--to", "model", "--file", str(tmp_path / "model")]) == 0
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["README.md", "config.json", "model.safetensors"]
    network, images = read_model(tmp_path / "model"), torch.randn(4, 1, 8, 8)
    assert network(images).equal(load_model(run.folder)(images)) and network.preprocessing == load_model(run.folder).preprocessing
    card, weights = (tmp_path / "model" / "README.md").read_text(), load_file(tmp_path / "model" / "model.safetensors")
    for said in (
        f"{run.result['test_accuracy_best']:.2%}",
        f"{run.result['microjoule']:.3f} µJ",
        "| method | kd |",
        "| data | digits",
        "mean 0.3",
        "library_name: sastc",
    ):
        assert said in card
    assert str(tmp_path) not in card and str(tmp_path) not in (tmp_path / "model" / "config.json").read_text()
    assert weights.keys() == run.checkpoint()["model"].keys()


def test_a_network_of_ones_own_and_a_teacher(teacher, tmp_path):
    own = create_model("resnet18", 10, in_channels=1, width=0.0625)
    run = distill(student=spiking(own, 2), method="baseline", folder=tmp_path / "run", **GIVEN)
    place = write_model(run, tmp_path / "model", "last")
    with pytest.raises(ValueError, match="network: expected the module itself"):
        read_model(place)
    back = read_model(place, spiking(own, 2))
    assert all(value.equal(back.state_dict()[name]) for name, value in run.checkpoint("last")["model"].items())
    with pytest.raises(ValueError, match="network: expected one that the weights in .* fit, got ResNet"):
        read_model(place, spiking(create_model("resnet18", 10, in_channels=1, width=0.125), 2))
    images = torch.randn(2, 1, 8, 8)
    assert read_model(write_model(teacher, tmp_path / "teacher"))(images).equal(load_model(teacher.folder)(images))
    assert "(ANN)" in (tmp_path / "teacher" / "README.md").read_text()


def test_a_network_of_other_time_steps_or_neurons_is_not_that_of_a_model_folder(tmp_path):
    own = create_model("resnet18", 10, in_channels=1, width=0.0625)
    run = distill(student=spiking(own, 2), method="baseline", folder=tmp_path / "run", **GIVEN)
    place, other = write_model(run, tmp_path / "model"), spiking(own, 4)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(ValueError, match=r"network: expected the one that the weights in .* are of \(time_steps 2\), got one with 4"):
        read_model(place, other)
    assert all(value.equal(before[name]) for name, value in other.state_dict().items())
    with pytest.raises(ValueError, match=r"network: expected the one that .*neuron '.*'threshold': 1.0.*got one with .*'threshold': 0.5"):
        read_model(place, spiking(own, 2, neuron=LIF(threshold=0.5)))
    about = json.loads((place / "config.json").read_text())
    del about["network"]  # as a folder of an older version
    (place / "config.json").write_text(json.dumps(about))
    assert read_model(place, other) is other


class Graded(LIF):
    "Of the user's own."


def test_a_card_names_the_neurons_of_a_module_of_ones_own(tmp_path):
    student = spiking(create_model("resnet18", 10, in_channels=1, width=0.0625), 2, neuron=Graded)
    run = distill(student=student, method="baseline", folder=tmp_path / "run", **GIVEN)
    assert "2 time steps, Graded neurons" in model_card(run)


def test_what_is_no_model_is_a_sentence(teacher, tmp_path):
    place = write_model(teacher, tmp_path / "model")
    with pytest.raises(FileExistsError, match="folder: expected a new or empty one, or one with a model, got .*, which holds"):
        write_model(teacher, teacher.folder)
    about = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps(about | dict(format="theirs")))
    with pytest.raises(ValueError, match="folder: expected a model written by sastc"):
        read_model(place)
    (place / "config.json").write_text(json.dumps(about | dict(spec=about["spec"] | dict(name="evil_parts:network"))))
    with pytest.raises(ValueError, match="network: expected network of a module that is imported, got 'evil_parts:network'"):
        read_model(place)  # a folder imports nothing
    (place / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(ValueError, match="folder: expected undamaged files written by sastc"):
        read_model(place)


def test_a_model_takes_no_folder_of_another_library(teacher, tmp_path):
    place = tmp_path / "theirs"
    place.mkdir()
    for name in ("config.json", "README.md", "model.safetensors"):
        (place / name).write_text('{"architectures": ["ViT"]}')
    with pytest.raises(
        FileExistsError, match="folder: expected a new or empty one, or one with a model that sastc wrote, got .*, which holds another config.json"
    ):
        write_model(teacher, place)
    assert {path.read_text() for path in place.iterdir()} == {'{"architectures": ["ViT"]}'}
    ours = write_model(teacher, tmp_path / "ours")
    for name in ("config.json", "README.md"):  # a write that failed
        (ours / name).unlink()
    assert write_model(teacher, ours) == ours
