"""Teachers of other libraries: their values are those of the library, they see images as they were trained to, and their tokens and maps are compared."""

import pytest
import torch
import torch.nn.functional as F
from torchvision.models import get_model

from sastc import Taps, assess, candidates, create_model, distill, open_run, train_teacher
from sastc.cli.commands import run_command
from sastc.models.preprocessing import Preprocessing, adapted
from sastc.training.checkpoints import load_model

GIVEN = dict(data="digits", epochs=1, train_images=100, batch_size=10, lr=0.02, holdout=0.0, device="cpu")
STUDENT = GIVEN | dict(student="resnet18", width=0.0625, beta=1.0)
needs_timm = pytest.mark.skipif(not __import__("importlib").util.find_spec("timm"), reason="the extra `teachers` (timm) is not installed")
needs_transformers = pytest.mark.skipif(
    not __import__("importlib").util.find_spec("transformers"), reason="the extra `teachers` (transformers) is not installed"
)


def timm_file(folder, name, ending="pth"):
    "Weights of a network of timm for ten classes in a file."
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(0)
    network, file = timm.create_model(name, num_classes=10).eval(), folder / f"{name}.{ending}"
    save_file(network.state_dict(), file) if ending == "safetensors" else torch.save(network.state_dict(), file)
    return network, f"timm:{name}:{file}"


@needs_timm
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_a_timm_teacher_sees_what_timm_would_show_it(ending, tmp_path):
    from timm.data import resolve_model_data_config

    theirs, source = timm_file(tmp_path, "vit_tiny_patch16_224", ending)
    ours, how = load_model(source), resolve_model_data_config(theirs)
    pixels = torch.randint(256, (3, 3, 40, 40), dtype=torch.uint8).float() / 255
    mean, std = (torch.tensor(how[name])[:, None, None] for name in ("mean", "std"))
    by_hand = (F.interpolate(pixels, 224, mode=how["interpolation"], antialias=True) - mean) / std
    seen = Preprocessing((0.4, 0.5, 0.6), (0.2, 0.3, 0.4), 40)  # as the data of a run are normalised
    shown = adapted((pixels - torch.tensor(seen.mean)[:, None, None]) / torch.tensor(seen.std)[:, None, None], seen, ours.preprocessing)
    torch.testing.assert_close(shown, by_hand, atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(ours(by_hand), theirs(by_hand), atol=1e-6, rtol=1e-6)


@needs_timm
def test_tokens_are_maps_and_the_class_token_stands_apart(tmp_path):
    theirs, source = timm_file(tmp_path, "vit_tiny_patch16_224")
    ours, images = load_model(source), torch.randn(2, 3, 224, 224)
    names = candidates(ours)
    assert names == ["blocks.2", "blocks.5", "blocks.8", "blocks.11"]
    _, [*maps, token] = Taps(ours, [*names, "blocks.8@class"])(images)
    with torch.no_grad():
        expected = theirs.forward_intermediates(images, indices=[2, 5, 8, 11], return_prefix_tokens=True, intermediates_only=True)
    for got, (places, _) in zip(maps, expected, strict=True):
        torch.testing.assert_close(got, places, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(token, expected[2][1][:, 0], atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="names: expected a layer with a class token, which NAME@class means, got 'patch_embed@class'"):
        Taps(ours, ["patch_embed@class"])


@needs_timm
@pytest.mark.parametrize(
    "name, channels, sides",
    [
        ("convnext_atto", [40, 80, 160, 320], [56, 28, 14, 7]),
        ("swin_tiny_patch4_window7_224", [96, 192, 384, 768], [56, 28, 14, 7]),
        ("resnet10t", [64, 128, 256, 512], [56, 28, 14, 7]),
    ],
)
def test_stages_of_timm_are_maps(name, channels, sides, tmp_path):
    theirs, source = timm_file(tmp_path, name)
    ours, images = load_model(source), torch.randn(1, 3, 224, 224)
    _, maps = Taps(ours, candidates(ours, "stages"))(images)
    assert [(feature.shape[1], feature.shape[2], feature.shape[3]) for feature in maps] == [(c, s, s) for c, s in zip(channels, sides)]
    with torch.no_grad():
        expected = theirs.forward_intermediates(images, intermediates_only=True)[-4:]
    for got, map_ in zip(maps, expected, strict=True):
        torch.testing.assert_close(got, map_, atol=1e-5, rtol=1e-5)


@needs_timm
@pytest.mark.parametrize("method", ["sastc", "kd"])
def test_a_timm_teacher_teaches_small_grey_digits(method, tmp_path):
    _, source = timm_file(tmp_path, "vit_tiny_patch16_224")
    given = STUDENT | dict(train_images=20, teacher=source, method=method)
    given = given if method == "sastc" else {name: value for name, value in given.items() if name != "beta"}
    run = distill(folder=tmp_path / "run", **given)
    assert run.config["teacher"] == source
    opened = open_run(run)
    images, _ = next(opened.data.batches("test", 4, shuffle=False, drop_last=True).epoch(0))
    step = opened.step(images)
    assert step.teacher_logits.shape == (4, 10)
    if method == "sastc":
        assert run.layers["teacher"] == ["blocks.2", "blocks.5", "blocks.8", "blocks.11"]
        assert [feature.shape for feature in step.teacher_features] == [(4, 192, 14, 14)] * 4
    with pytest.raises(ValueError, match="teacher: expected the weights with which the run"):
        distill(folder=run.folder, resume=True, teacher=timm_file_of_another_seed(tmp_path), epochs=2)


def timm_file_of_another_seed(folder):
    import timm

    torch.manual_seed(1)
    torch.save(timm.create_model("vit_tiny_patch16_224", num_classes=10).state_dict(), folder / "other.pth")
    return f"timm:vit_tiny_patch16_224:{folder / 'other.pth'}"


@needs_timm
@pytest.mark.parametrize(
    "source, kind, sentence",
    [
        ("timm:vit_tinny_patch16_224", ValueError, "teacher: expected one of .*did you mean 'vit_tiny_patch16_224'"),
        ("timm:resnet18:nowhere.pth", FileNotFoundError, "teacher: expected a file with weights of resnet18, got 'nowhere.pth'"),
        ("timm:resnet18.no_such_tag", ValueError, "teacher: expected one of resnet18"),
    ],
)
def test_a_timm_teacher_that_is_not_there_is_a_sentence(source, kind, sentence, tmp_path):
    with pytest.raises(kind, match=sentence):
        distill(teacher=source, method="sastc", folder=tmp_path / "run", **STUDENT)
    assert not (tmp_path / "run").exists()


@needs_timm
def test_weights_of_another_network_are_a_sentence(tmp_path):
    torch.save(get_model("resnet18", num_classes=10).state_dict(), tmp_path / "other.pth")
    with pytest.raises(ValueError, match="teacher: expected weights of vit_tiny_patch16_224, got .*other.pth, which do not fit"):
        load_model(f"timm:vit_tiny_patch16_224:{tmp_path / 'other.pth'}")


def test_without_the_library_its_extra_is_named(monkeypatch, tmp_path):
    import builtins
    import importlib

    real = importlib.import_module
    monkeypatch.setattr(
        importlib,
        "import_module",
        lambda name, *rest: builtins.__import__("no_such_" + name) if name in ("timm", "transformers", "datasets") else real(name, *rest),
    )
    for given, extra in (dict(teacher="timm:resnet18"), "teachers"), (dict(teacher="hf:mine"), "teachers"), (dict(data="hf:mine", method="baseline"), "data"):
        with pytest.raises(ImportError, match=rf'pip install "sastc\[{extra}\]"'):
            distill(**dict(GIVEN, student="resnet18", width=0.0625, folder=tmp_path / "run") | given)


# ------------------------------------------------------------------------------------------------------------ Hugging Face


def hf_folder(folder, kind="ViT", names=tuple("0123456789"), size=32):
    "An image classifier with its processor, as save_pretrained writes them."
    import transformers

    torch.manual_seed(0)
    small = dict(
        ViT=dict(hidden_size=24, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32, image_size=size, patch_size=8),
        ConvNext=dict(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], image_size=size),
        Swin=dict(embed_dim=8, depths=[1, 1], num_heads=[1, 1], window_size=4, image_size=size, patch_size=4),
    )[kind]
    config = getattr(transformers, f"{kind}Config")(**small, id2label=dict(enumerate(names)), label2id={name: number for number, name in enumerate(names)})
    network = getattr(transformers, f"{kind}ForImageClassification")(config).eval()
    network.save_pretrained(folder)
    transformers.ViTImageProcessor(size=dict(height=size, width=size), image_mean=[0.4] * 3, image_std=[0.3] * 3).save_pretrained(folder)
    return network


@needs_transformers
@pytest.mark.parametrize(
    "kind, shapes",
    [
        ("ViT", [(24, 4, 4)] * 4),
        ("ConvNext", [(8, 8, 8), (16, 4, 4), (24, 2, 2), (32, 1, 1)]),
        ("Swin", [(16, 4, 4), (16, 4, 4)]),
    ],
)
def test_a_hugging_face_folder_teaches(kind, shapes, tmp_path):
    theirs = hf_folder(tmp_path / "model", kind)
    ours, images = load_model(f"hf:{tmp_path / 'model'}"), torch.randn(2, 3, 32, 32)
    assert ours.preprocessing == Preprocessing((0.4,) * 3, (0.3,) * 3, 32, tuple("0123456789"), "bilinear")
    logits, features = Taps(ours, candidates(ours))(images)
    with torch.no_grad():
        expected = theirs(images, output_hidden_states=True)
    torch.testing.assert_close(logits, expected.logits, atol=1e-6, rtol=1e-6)
    assert [tuple(feature.shape[1:]) for feature in features] == shapes
    if kind == "ViT":
        for got, tokens in zip(features, expected.hidden_states[1:], strict=True):
            torch.testing.assert_close(got.flatten(2).transpose(1, 2), tokens[:, 1:], atol=1e-6, rtol=1e-6)
    run = distill(teacher=f"hf:{tmp_path / 'model'}", method="sastc", folder=tmp_path / "run", **STUDENT)
    assert run.state == "finished" and 0 <= assess(run)["accuracy"] <= 1


@needs_transformers
def test_a_hugging_face_teacher_of_other_classes_or_without_constants_is_refused(tmp_path):
    hf_folder(tmp_path / "turned", names=tuple("9876543210"))
    given = STUDENT | dict(method="kd", folder=tmp_path / "run")
    given.pop("beta")
    with pytest.raises(ValueError, match="teacher: expected one that numbers the classes as digits does .'9' is 9., got one in which it is 0"):
        distill(teacher=f"hf:{tmp_path / 'turned'}", **given)
    hf_folder(tmp_path / "model")
    (tmp_path / "model" / "preprocessor_config.json").unlink()
    with pytest.raises(FileNotFoundError, match="teacher: expected an image processor .preprocessor_config.json. beside the weights"):
        distill(teacher=f"hf:{tmp_path / 'model'}", **given)


# ------------------------------------------------------------------------------------------------------------ sastc layers


@needs_timm
def test_the_command_lists_and_draws_layers(tmp_path, capsys):
    _, source = timm_file(tmp_path, "vit_tiny_patch16_224")
    assert run_command("layers", [source]) == 0
    said = capsys.readouterr().out
    assert "for images of 3x224x224" in said and "blocks.5@class" in said and "192 x 14x14" in said
    assert run_command("layers", ["vgg11", "--time_steps", "2", "--csv"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[0] == "layer,module,channels,height,width,candidates" and len(rows) > 3
    assert run_command("layers", ["vgg_11"]) == 2 and "did you mean 'vgg11'" in capsys.readouterr().err


def test_vit_small_is_timms_for_any_size_and_comes_back(tmp_path):
    timm = pytest.importorskip("timm", reason="the extra `teachers` (timm) is not installed")
    name, count = "sastc.models.teachers:vit_small", lambda network: sum(weight.numel() for weight in network.parameters())
    assert count(create_model(name, 1000, image_size=224)) == count(timm.create_model("vit_small_patch16_224", pretrained=False)) == 22_050_664
    run = train_teacher(model=name, data="digits", image_size=32, width=0.25, epochs=1, train_images=100, batch_size=20, device="cpu", folder=tmp_path / "run")
    back = load_model(run.folder)
    assert back(torch.randn(2, 1, 32, 32)).shape == (2, 10)
    assert len(back.comparable.stages) == 4 and list(back.comparable.stages) == candidates(back, "stages")
    with pytest.raises(ValueError, match="image_size: expected a multiple of 16, the side of a patch, got 40"):
        create_model(name, 10, image_size=40)
