"""Data: sources, their error sentences, subsets, augmentation and the batch plan."""

import importlib.util
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F
from torchvision import datasets, transforms

from sastc.data.batches import Batches, augment, normalise
from sastc.data.images import ImageData, channel_statistics, load_images, split_holdout, subset

UNPACK = Path(__file__).resolve().parents[1].parent / "shared" / "tools" / "unpack_data.py"
quick = settings(deadline=None, max_examples=40)


def made(labels, size=4, channels=3, test_labels=None, **changes):
    "An `ImageData` whose first pixel numbers the image, so that images can be told apart."
    y = torch.as_tensor(labels)
    x = torch.full((len(y), channels, size, size), 7, dtype=torch.uint8)
    x[:, 0, 0, 0] = torch.arange(len(y)) % 256
    fields = dict(name="made", x_train=x, y_train=y, x_test=x[:1], y_test=y[:1], classes=[str(k) for k in range(int(y.max()) + 1)])
    return ImageData(**(fields | dict(mean=(0.5,) * channels, std=(0.25,) * channels, flip=True) | changes))


# ---------------------------------------------------------------- the container


@pytest.mark.parametrize(
    "changes, sentence",
    [
        (dict(x_train=torch.zeros(4, 3, 4, 4)), r"x_train: expected uint8 \[N, C, H, W\] .*, got torch\.float32 \[4, 3, 4, 4\]"),
        (dict(x_train=torch.zeros(4, 4, 4, dtype=torch.uint8)), r"x_train: expected .*, got torch\.uint8 \[4, 4, 4\]"),
        (dict(x_train=torch.zeros(4, 3, 4, 5, dtype=torch.uint8)), r"H = W, got torch\.uint8 \[4, 3, 4, 5\]"),
        (dict(x_test=torch.zeros(0, 3, 4, 4, dtype=torch.uint8)), r"x_test: expected .* at least one image"),
        (dict(y_train=torch.zeros(3, dtype=torch.int64)), r"y_train: expected one int64 label for each of the 4 images, \[4\], got torch\.int64 \[3\]"),
        (dict(y_train=torch.zeros(4)), r"y_train: expected one int64 label .*, got torch\.float32 \[4\]"),
        (dict(y_test=torch.tensor([2])), r"y_test: expected labels from 0 to 1 for 2 classes, got labels from 2 to 2"),
        (dict(y_train=torch.tensor([0, 1, -1, 0])), r"y_train: expected .*, got labels from -1 to 1"),
        (dict(x_test=torch.zeros(1, 1, 4, 4, dtype=torch.uint8)), r"x_test: expected images of shape \[3, 4, 4\], .*, got \[1, 4, 4\]"),
        (dict(classes=["a", "a"]), r"classes: expected a name of its own for each, got \['a', 'a'\]"),
        (dict(mean=(0.5,)), r"mean, std: expected 3 numbers each \(one per channel\), of values in 0..1 with std above 0, got \(0\.5,\)"),
        (dict(mean=(0.5, float("nan"), 0.5)), r"mean, std: .* of values in 0..1 with std above 0, got \(0\.5, nan, 0\.5\)"),
        (dict(mean=(125.3, 123.0, 113.9)), r"mean, std: .* of values in 0..1 with std above 0, got \(125\.3, 123\.0, 113\.9\)"),
        (dict(std=(0.2, float("inf"), 0.2)), r"mean, std: .* of values in 0..1 with std above 0, got .*inf"),
        (dict(std=(0.1, 0.0, 0.1)), r"std above 0, got .*0\.0"),
    ],
)
def test_image_data_refuses_parts_that_do_not_fit(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        made([0, 1, 0, 1], **changes)


def test_image_data_is_frozen_and_says_what_it_is():
    data = made([0, 1, 0, 1])
    with pytest.raises(AttributeError):
        data.name = "other"
    assert (data.num_classes, data.channels, data.image_size) == (2, 3, 4)
    assert "4 training and 1 test images of 3x4x4, 2 classes" in repr(data)
    assert len(repr(data)) < 200


@quick
@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 9), st.integers(0, 2**31))
def test_channel_statistics_equal_those_of_the_values(count, channels, size, seed):
    images = torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    mean, std = channel_statistics(images)
    values = images.double() / 255
    torch.testing.assert_close(torch.tensor(mean).double(), values.mean((0, 2, 3)), atol=6e-5, rtol=0)
    torch.testing.assert_close(torch.tensor(std).double(), values.std((0, 2, 3), correction=0), atol=6e-5, rtol=0)


# ---------------------------------------------------------------- sources


def test_digits():
    data, again = load_images("digits"), load_images("digits")
    assert (data.name, data.channels, data.image_size, data.num_classes, data.flip) == ("digits", 1, 32, 10, False)
    assert (len(data.x_train), len(data.x_test)) == (1437, 360)
    assert data.x_train.equal(again.x_train) and data.y_test.equal(again.y_test)
    assert data.y_test.bincount().tolist() == [36, 36, 35, 37, 36, 37, 36, 36, 35, 36]
    assert (data.mean, data.std) == channel_statistics(data.x_train)
    raw = load_images("digits", image_size=8)
    assert raw.x_train.unique().tolist() == [round(level * 255 / 16) for level in range(17)]
    assert raw.y_train.equal(data.y_train)


@pytest.mark.parametrize("name, near", [("cifar-10", "cifar10"), ("digit", "digits"), ("CIFAR100", "cifar100"), ("mnist!", "nmnist"), ("flowers", None)])
def test_unknown_name(name, near):
    with pytest.raises(
        ValueError, match=f"data: expected one of digits, cifar10, cifar100, nmnist, dvs_gesture, cifar10_dvs, the path of an .npz file, .*, got '{name}'"
    ) as caught:
        load_images(name)
    assert (f"did you mean {near!r}?" in str(caught.value)) == (near is not None)


@pytest.mark.parametrize("place", ["absent.npz", "some/folder"])
def test_missing_path(tmp_path, place):
    with pytest.raises(FileNotFoundError, match=f"data: expected a file or folder that is there, got '.*{place}'"):
        load_images(tmp_path / place)


def test_bad_image_size():
    with pytest.raises(ValueError, match="image_size: expected a number of at least 1, got 0"):
        load_images("digits", image_size=0)


def arrays(shape=(6, 5, 5), labels=(0, 1, 2, 0, 1, 2), **changes):
    x = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    y = np.array(labels, dtype=np.int32)
    return dict(x_train=x, y_train=y, x_test=x[:2], y_test=y[:2]) | changes


@pytest.mark.parametrize("shape, channels, flip", [((6, 5, 5), 1, False), ((6, 5, 5, 1), 1, False), ((6, 5, 5, 3), 3, True), ((6, 5, 7, 3), 3, True)])
def test_npz(tmp_path, shape, channels, flip):
    held = arrays(shape)
    np.savez(tmp_path / "own.npz", **held)
    data = load_images(tmp_path / "own.npz", image_size=5)
    assert (data.name, data.channels, data.flip, data.classes) == ("own", channels, flip, ["0", "1", "2"])
    assert data.x_train.shape == (6, channels, 5, 5) and data.x_train.is_contiguous()
    assert data.y_train.tolist() == held["y_train"].tolist()
    if shape[1] == shape[2]:
        assert data.x_train.permute(0, 2, 3, 1).numpy().ravel().tolist() == held["x_train"].ravel().tolist()
    assert load_images(str(tmp_path / "own.npz")).image_size == 32


def test_npz_is_never_unpickled(tmp_path):
    np.savez(tmp_path / "own.npz", **arrays(x_train=np.array([None] * 6)))
    with pytest.raises(ValueError, match=r"got '.*own\.npz', which cannot be read \(Object arrays cannot be loaded"):
        load_images(tmp_path / "own.npz", image_size=8)


def test_npz_whose_labels_begin_at_1_is_taken_when_all_classes_are_named(tmp_path):
    np.savez(tmp_path / "own.npz", **arrays(labels=(1, 2, 3, 1, 2, 3)), class_names=["none", "ant", "bee", "cat"])
    assert load_images(tmp_path / "own.npz").num_classes == 4


def test_npz_class_names(tmp_path):
    np.savez(tmp_path / "own.npz", **arrays(), class_names=["ant", "bee", "cat", "dog"])
    assert load_images(tmp_path / "own.npz").classes == ["ant", "bee", "cat", "dog"]


grey = np.zeros((6, 5, 5), np.uint8)


@pytest.mark.parametrize(
    "changes, sentence",
    [
        (dict(x_train=grey.astype(float)), r"x_train: expected non-empty uint8 \[N, H, W\] or .*, got float64 \[6, 5, 5\]"),
        (dict(x_test=grey[0]), r"x_test: expected .*, got uint8 \[5, 5\]"),
        (dict(x_train=np.zeros((6, 3, 32, 32), np.uint8)), r"x_train: expected .* C from 1 to 4, got uint8 \[6, 3, 32, 32\]"),
        (dict(x_train=grey[:0], y_train=np.zeros(0, int)), r"x_train: expected non-empty .*, got uint8 \[0, 5, 5\]"),
        (dict(y_train=np.zeros(6)), r"y_train: expected whole numbers \[N\], got float64 \[6\]"),
        (dict(y_train=np.zeros((6, 1), int)), r"y_train: expected whole numbers \[N\], got int64 \[6, 1\]"),
        (dict(y_test=np.zeros(0, int)), r"y_test: expected one int64 label for each of the 2 images"),
        (dict(y_train=np.zeros(5, int)), r"y_train: expected one int64 label for each of the 6 images"),
        (dict(y_train=np.full(6, -1)), r"y_train: expected labels from 0 .*, got labels from -1 to -1"),
        (dict(class_names=["a", "b"]), r"y_train: expected labels from 0 to 1 for 2 classes, got labels from 0 to 2"),
        (dict(x_train=grey), r"mean, std: .*std above 0"),
        (dict(x_test=np.zeros((2, 5, 5, 3), np.uint8)), r"x_test: expected images of shape \[1, 8, 8\], .*, got \[3, 8, 8\]"),
        (
            dict(y_train=np.arange(1, 7), y_test=np.array([1, 2])),
            r"y_train, y_test: expected labels from 0 on, each number in use, got labels from 1 to 6 without 0; renumber the 6 classes, or name all 7 in class_names",
        ),
        (
            dict(y_train=np.array([0, 2, 5, 0, 2, 5]), y_test=np.array([0, 2])),
            r"y_train, y_test: .* got labels from 0 to 5 without 1; renumber the 3 classes",
        ),
        (dict(y_train=np.arange(6, dtype=np.uint64) + 2**63), r"y_train: expected labels from 0 to"),
    ],
)
def test_npz_with_wrong_arrays(tmp_path, changes, sentence):
    np.savez(tmp_path / "own.npz", **arrays(**changes))
    with pytest.raises(ValueError, match=r"data: in '.*own\.npz', " + sentence):
        load_images(tmp_path / "own.npz", image_size=8)


def test_npz_that_is_none(tmp_path):
    path = tmp_path / "own.npz"
    np.savez_compressed(path, **arrays((6, 40, 40)))
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[200:260] = bytes(60)
    np.save(tmp_path / "array.npy", np.zeros(3))
    for content in (b"", b"no archive", whole[: len(whole) // 2], bytes(damaged), (tmp_path / "array.npy").read_bytes()):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"data: expected an \.npz file as numpy\.savez writes it, got '.*own\.npz', which cannot be read \(.+\)$"):
            load_images(path)


def test_npz_without_its_arrays(tmp_path):
    held = arrays()
    del held["y_test"], held["x_test"]
    np.savez(tmp_path / "own.npz", **held)
    with pytest.raises(
        ValueError, match=r"data: expected x_train, y_train, x_test and y_test in '.*own\.npz', got x_train, y_train \(without x_test, y_test\)"
    ):
        load_images(tmp_path / "own.npz")


def write_folder(root, train=("cat", "dog"), test=("cat", "dog"), count=3, size=(7, 9)):
    values = np.random.default_rng(1)
    for split, classes in (("train", train), ("test", test)):
        for label in classes:
            place = root / split / label
            place.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(values.integers(0, 256, (*size, 3), dtype=np.uint8)).save(place / f"{i}.png")
    return root


def test_image_folder(tmp_path):
    root = write_folder(tmp_path / "pets")
    Image.new("L", (4, 4), 200).save(root / "test" / "dog" / "grey.png")
    data = load_images(root, image_size=16)
    assert (data.name, data.classes, data.flip, data.channels, data.image_size) == ("pets", ["cat", "dog"], True, 3, 16)
    assert data.y_train.tolist() == [0, 0, 0, 1, 1, 1] and data.y_test.tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert (data.x_test[-1] == 200).all()
    usual = transforms.Compose([transforms.Resize(18), transforms.CenterCrop(16), transforms.PILToTensor()])
    assert data.x_train[4].equal(usual(Image.open(root / "train" / "dog" / "1.png")))


def test_images_of_the_wanted_size_stay_as_they_are(tmp_path):
    root = write_folder(tmp_path / "pets", size=(16, 16))
    for number, name in enumerate(("cat", "dog")):
        picture = np.asarray(Image.open(root / "train" / name / "2.png"))
        assert load_images(root, image_size=16).x_train[3 * number + 2].permute(1, 2, 0).numpy().tolist() == picture.tolist()


def test_hidden_files_and_folders_are_no_classes_and_no_images(tmp_path):
    root = write_folder(tmp_path / "pets")
    for place in (root / "train" / ".ipynb_checkpoints", root / "train" / "cat" / ".ipynb_checkpoints", root / "test" / "dog"):
        place.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(place / "0-checkpoint.png")
    (root / "test" / "dog" / "0-checkpoint.png").rename(root / "test" / "dog" / "._0.png")
    data = load_images(root, image_size=16)
    assert data.classes == ["cat", "dog"] and (len(data.x_train), len(data.x_test)) == (6, 6)


@pytest.mark.parametrize("mode", ["I;16", "L", "RGB", "P", "1", "RGBA"])
def test_every_depth_keeps_its_grey(tmp_path, mode):
    "200 of 255 is 51,400 of 65,535; a conversion that clips would make it white."
    root = write_folder(tmp_path / "pets")
    grey = Image.fromarray(np.full((4, 4), 51400, np.uint16)) if mode == "I;16" else Image.new("L", (4, 4), 255 if mode == "1" else 200).convert(mode)
    assert grey.mode == mode
    grey.save(root / "test" / "dog" / "grey.png")
    assert load_images(root, image_size=4).x_test[-1].unique().tolist() == [255 if mode == "1" else 200]


def test_values_without_a_known_range_are_refused(tmp_path):
    root = write_folder(tmp_path / "pets")
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(root / "test" / "dog" / "grey.tiff")
    with pytest.raises(ValueError, match=r"grey\.tiff', which cannot be decoded \(expected 8 or 16 bits for each value, got mode 'F'"):
        load_images(root)


def test_image_folder_that_cannot_be_used(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data: expected train/<class>/ and test/<class>/ with images in each, got '.*different' \(.*\)"):
        load_images(write_folder(tmp_path / "different", test=()))
    with pytest.raises(ValueError, match=r"data: expected the same class folders in train and test of '.*one', got cow, dog only on one side"):
        load_images(write_folder(tmp_path / "one", test=("cat", "cow")))
    with pytest.raises(FileNotFoundError, match=r"got '.*empty' \(.*cat.*\)"):
        load_images(write_folder(tmp_path / "empty", count=0))
    broken = write_folder(tmp_path / "broken") / "train" / "cat" / "1.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"data: expected an image, got '.*1\.png', which cannot be decoded \("):
        load_images(tmp_path / "broken")
    whole = (tmp_path / "broken" / "train" / "cat" / "0.png").read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"data: expected an image, got '.*1\.png', which cannot be decoded \("):
        load_images(tmp_path / "broken")


def test_a_header_that_claims_a_giant_image_is_named(tmp_path):
    "60,000 x 60,000 pixels in a file of 58 bytes: Pillow's guard against such bombs is no ValueError."
    root = write_folder(tmp_path / "pets")
    (root / "test" / "dog" / "bomb.bmp").write_bytes(
        struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 58, 0, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(4)
    )
    with pytest.raises(ValueError, match=r"data: expected an image, got '.*bomb\.bmp', which cannot be decoded \(.*pixels.*\)"):
        load_images(root)


@pytest.mark.parametrize("name, folder", [("cifar10", "cifar-10-batches-py"), ("cifar100", "cifar-100-python")])
def test_cifar_that_is_not_there(tmp_path, monkeypatch, name, folder):
    sentence = rf"data: expected the folder '{folder}' with the original files of {name} in root '{tmp_path}', got none that is whole; "
    with pytest.raises(FileNotFoundError, match=sentence + "no download was tried, since download=False"):
        load_images(name, root=tmp_path, download=False)

    def offline(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", offline)
    with pytest.raises(FileNotFoundError, match=sentence + r"a download was tried and failed \(no network\)"):
        load_images(name, root=tmp_path)


@pytest.mark.parametrize("name, kind, mean", [("cifar10", "CIFAR10", 0.491), ("cifar100", "CIFAR100", 0.5071)])
def test_cifar_from_torchvision(tmp_path, monkeypatch, name, kind, mean):
    "The original files are protected by checksums; a stand-in of the same shape shows what is made of them."
    asked = []

    class Stub:
        base_folder, classes = "none", [f"class {k}" for k in range(10)]

        def __init__(self, root, train, download):
            asked.append((root, train, download))
            self.data = np.arange(10 * 32 * 32 * 3, dtype=np.uint32).astype(np.uint8).reshape(10, 32, 32, 3) // (1 if train else 2)
            self.targets = list(range(10))

    monkeypatch.setattr(datasets, kind, Stub)
    data = load_images(name, root=tmp_path)
    assert asked == [(tmp_path, True, True), (tmp_path, False, True)]
    assert data.x_train[3, 2, 5, 7] == Stub(tmp_path, True, True).data[3, 5, 7, 2]
    assert (data.name, data.mean[0], data.flip, data.classes) == (name, mean, True, Stub.classes)
    assert load_images(name, root=tmp_path, image_size=16).image_size == 16


@pytest.fixture(scope="session")
def cifar_root(tmp_path_factory):
    if not UNPACK.exists():
        pytest.skip(f"real CIFAR-10 is not beside this checkout: no {UNPACK.name} in {UNPACK.parent}")
    spec = importlib.util.spec_from_file_location("unpack_data", UNPACK)
    unpack = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(unpack)
    root = tmp_path_factory.mktemp("cifar")
    unpack.cifar10(root)
    yield root
    shutil.rmtree(root)  # 180 MB, which pytest would keep for three sessions


def test_real_cifar10(cifar_root):
    data = load_images("cifar10", root=cifar_root, download=False)
    assert data.x_train.shape == (50000, 3, 32, 32) and data.x_test.shape == (10000, 3, 32, 32)
    assert (data.classes[data.y_train[0]], data.y_train[0], data.y_test[0]) == ("frog", 6, 3)
    assert data.y_train.bincount().tolist() == [5000] * 10
    # the released constants are the data's own to three digits
    mean, std = channel_statistics(data.x_train)
    torch.testing.assert_close(torch.tensor(mean + std), torch.tensor(data.mean + data.std), atol=6e-4, rtol=0)
    small = subset(data, 10_000, seed=0)
    assert small.y_train.bincount().tolist() == [1000] * 10
    train, validation = split_holdout(small, 0.1, seed=0)
    assert small.y_train[validation].bincount().tolist() == [100] * 10


# ---------------------------------------------------------------- fewer images, images held out

labellings = st.lists(st.integers(0, 4), min_size=1, max_size=60)


@quick
@given(labellings, st.data(), st.integers(0, 2**32 - 1))
def test_subset_is_exact_balanced_nested_and_repeatable(labels, draw, seed):
    data = made(labels)
    count = draw.draw(st.integers(1, len(labels)))
    small = subset(data, count, seed)
    number = small.x_train[:, 0, 0, 0].tolist()
    assert len(number) == count == len(set(number)) and number == sorted(number)
    assert small.y_train.equal(data.y_train[number]) and small.x_train.equal(data.x_train[number])
    assert subset(data, count, seed).x_train.equal(small.x_train)
    assert set(number) <= set(subset(data, min(count + 3, len(labels)), seed).x_train[:, 0, 0, 0].tolist())
    # no class is more than one image ahead of another that has images left
    kept, held = small.y_train.bincount(minlength=5), data.y_train.bincount(minlength=5)
    assert all(kept[k] >= kept.max() - 1 for k in range(5) if kept[k] < held[k])
    assert small.x_test is data.x_test and small.mean == data.mean


@pytest.mark.parametrize("count", [0, 5, -1])
def test_subset_of_an_impossible_size(count):
    with pytest.raises(ValueError, match=f"train_images: expected a number from 1 to 4, got {count}"):
        subset(made([0, 1, 0, 1]), count, seed=0)


@quick
@given(st.lists(st.integers(2, 12), min_size=1, max_size=5), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_holdout_is_exact_disjoint_stratified_and_repeatable(sizes, share, seed):
    data = made([k for k, size in enumerate(sizes) for _ in range(size)])
    total, count = sum(sizes), round(share * sum(sizes))
    if count and min(count, total - count) < len(sizes):
        with pytest.raises(ValueError, match=f"holdout: expected 0, or a share .*, got .*, which is {count} of {total} images"):
            split_holdout(data, share, seed)
        return
    train, validation = split_holdout(data, share, seed)
    assert (len(train), len(validation)) == (total - count, count)
    assert torch.cat([train, validation]).sort().values.equal(torch.arange(total))
    assert train.dtype == validation.dtype == torch.int64
    held = data.y_train[validation].bincount(minlength=len(sizes))
    assert all(abs(held[k] - count * size / total) <= 1 for k, size in enumerate(sizes))
    assert split_holdout(data, share, seed)[1].equal(validation)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_holdout_share_out_of_range(share):
    with pytest.raises(ValueError, match="holdout: expected a number from 0 to 1, got"):
        split_holdout(made([0, 1] * 5), share, seed=0)


def test_holdout_needs_two_images_of_a_class():
    with pytest.raises(ValueError, match="holdout: expected .*, got 0.5, which is 4 of 7 images"):
        split_holdout(made([0, 0, 0, 0, 0, 0, 1]), 0.5, seed=0)


# ---------------------------------------------------------------- augmentation


@quick
@given(st.integers(1, 6), st.integers(1, 3), st.integers(1, 7), st.integers(1, 7), st.integers(0, 4), st.booleans(), st.integers(0, 2**31))
def test_augment_equals_a_loop_over_images(count, channels, height, width, padding, as_bytes, seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, channels, height, width), generator=generator)
    images = images.to(torch.uint8) if as_bytes else images / 255
    before = images.clone()
    offsets = torch.randint(2 * padding + 1, (count, 2), generator=generator)
    mirrored = torch.rand(count, generator=generator) < 0.5
    result = augment(images, offsets, mirrored, padding)
    assert result.dtype == images.dtype and images.equal(before)
    for image, (top, left), mirror, made_of_it in zip(images, offsets.tolist(), mirrored, result):
        expected = F.pad(image, (padding,) * 4)[:, top : top + height, left : left + width]
        assert made_of_it.equal(expected.flip(2) if mirror else expected)


def test_normalise_equals_torchvision():
    images = torch.randint(0, 256, (4, 3, 5, 5), dtype=torch.uint8)
    mean, std = (0.1, 0.5, 0.9), (0.2, 0.3, 0.4)
    usual = transforms.Compose([transforms.ToPILImage(), transforms.ToTensor(), transforms.Normalize(mean, std)])
    before = images.clone()
    torch.testing.assert_close(normalise(images, mean, std), torch.stack([usual(image) for image in images]), atol=1e-6, rtol=0)
    torch.testing.assert_close(normalise(images / 255, mean, std), normalise(images, mean, std), atol=1e-6, rtol=0)
    assert images.equal(before)


def test_whole_numbers_that_are_no_bytes_are_not_taken_for_black_images():
    with pytest.raises(ValueError, match="images: expected uint8 of 0..255 or floating point of 0..1, got torch.int64"):
        normalise(torch.full((2, 3, 4, 4), 255), (0.5,) * 3, (0.25,) * 3)


def test_the_border_is_black_and_not_the_mean():
    "METHOD 4.1: the zeros are added before normalisation."
    grey = torch.full((50, 1, 4, 4), 128, dtype=torch.uint8)
    batches = Batches(grey, torch.zeros(50, dtype=torch.int64), 50, mean=(0.5,), std=(0.25,), shuffle=True, drop_last=True, crop_padding=2)
    (images, _), *_ = batches.epoch(0)
    torch.testing.assert_close(images.unique(), torch.tensor([-2.0, (128 / 255 - 0.5) / 0.25]))


# ---------------------------------------------------------------- batches


def batches(total, batch_size, size=3, **options):
    x = torch.randint(1, 256, (total, 2, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(total))
    options = dict(shuffle=True, drop_last=True, crop_padding=1, flip=True) | options
    # labels number the images, so that every image can be followed
    return Batches(x, torch.arange(total), batch_size, mean=(0.4, 0.5), std=(0.2, 0.3), **options)


@quick
@given(st.integers(1, 70), st.integers(1, 9), st.integers(1, 5), st.booleans(), st.booleans(), st.integers(0, 2**40), st.integers(0, 400))
def test_processes_together_see_the_joint_batches(total, batch_size, world, shuffle, drop_last, seed, epoch):
    assume(not drop_last or world * batch_size <= total)
    options = dict(shuffle=shuffle, drop_last=drop_last, seed=seed) | ({} if shuffle else dict(crop_padding=0, flip=False))
    joint = batches(total, world * batch_size, **options)
    parts = [batches(total, batch_size, rank=rank, world=world, **options) for rank in range(world)]
    seen = [list(part.epoch(epoch)) for part in parts]
    assert [len(batch) for batch in seen] == [len(part) for part in parts]
    count = 0
    for k, (images, labels) in enumerate(joint.epoch(epoch)):
        shares = [own[k] for own in seen if k < len(own)]
        assert torch.cat([share[0] for share in shares]).equal(images)
        assert torch.cat([share[1] for share in shares]).equal(labels)
        sizes = [len(own[k][1]) if k < len(own) else 0 for own in seen]
        assert max(sizes) - min(sizes) <= 1 and min(len(share[1]) for share in shares) >= 1
        count += len(labels)
    assert count == (total // (world * batch_size) * world * batch_size if drop_last else total)
    everything = torch.cat([labels for own in seen for _, labels in own])
    assert len(everything.unique()) == len(everything) == count
    if not shuffle:
        assert torch.cat([labels for _, labels in joint.epoch(epoch)]).equal(torch.arange(total)[:count])


@quick
@given(st.integers(1, 60), st.integers(1, 9), st.data(), st.booleans())
def test_a_later_start_sees_the_same_remaining_batches(total, batch_size, draw, drop_last):
    assume(not drop_last or batch_size <= total)
    source = batches(total, batch_size, drop_last=drop_last, seed=3)
    start = draw.draw(st.integers(0, len(source)))
    whole, rest = list(source.epoch(2)), list(source.epoch(2, start=start))
    assert len(rest) == len(source) - start
    for (images, labels), (images_again, labels_again) in zip(whole[start:], rest):
        assert images.equal(images_again) and labels.equal(labels_again)


def test_epochs_and_seeds_differ_and_repeat():
    def order(seed, epoch):
        return torch.cat([labels for _, labels in batches(64, 16, seed=seed).epoch(epoch)]).tolist()

    orders = [order(seed, epoch) for seed in range(3) for epoch in range(3)]
    assert len({tuple(each) for each in orders}) == 9
    assert order(1, 2) == orders[5]


def test_the_global_generator_is_left_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    list(batches(20, 5).epoch(0))
    subset(made([0, 1] * 5), 3, seed=0)
    split_holdout(made([0, 1] * 5), 0.4, seed=0)
    assert torch.rand(3).equal(expected)


def test_every_crop_and_both_sides_occur_about_equally_often():
    "One pixel marks where the image went: 9 places for padding 1, and 2 sides."
    x = torch.zeros(1800, 1, 5, 5, dtype=torch.uint8)
    x[:, :, 2, 1] = 255
    options = dict(mean=(0.0,), std=(1.0,), shuffle=True, drop_last=True, crop_padding=1, flip=True, seed=4)
    source = Batches(x, torch.zeros(1800, dtype=torch.int64), 1800, **options)
    (images, _), *_ = source.epoch(0)
    counts = images.sum((0, 1)).int()
    assert counts.sum() == 1800
    # mirrored images land in columns 2 to 4, the others in 0 to 2: column 2 is shared
    assert ((counts[1:4] - torch.tensor([100, 100, 200, 100, 100])).abs() < 50).all()


def test_what_is_not_asked_for_is_not_done():
    plain = batches(12, 12, crop_padding=0, flip=False)
    (images, labels), *_ = plain.epoch(0)
    assert images.equal(normalise(plain.x[labels], (0.4, 0.5), (0.2, 0.3)))
    assert plain.x.dtype == torch.uint8


@pytest.mark.parametrize(
    "total, batch_size, options, sentence",
    [
        (10, 11, {}, "batch_size: expected at most 10 .there are 10 images, and only full batches count., got 11"),
        (10, 6, dict(world=2), "batch_size: expected at most 5 on each of 2 processes .there are 10 images, .*, got 6"),
        (10, 0, {}, "batch_size: expected a number of at least 1, got 0"),
        (10, 2, dict(seed=-1), "seed: expected a number of at least 0, got -1"),
        (10, 2, dict(crop_padding=-1), "crop_padding: expected .*, got -1"),
        (10, 2, dict(world=0), "world: expected .*, got 0"),
        (10, 2, dict(rank=2, world=2), "rank: expected a number from 0 to 1, got 2"),
        (10, 2, dict(shuffle=False), "crop_padding, flip: expected 0 and False with shuffle=False, .*, got 1 and True"),
    ],
)
def test_batches_refuse_what_cannot_be(total, batch_size, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        batches(total, batch_size, **options)


def test_batches_refuse_images_and_labels_that_do_not_fit():
    statistics = dict(mean=(0.5,), std=(0.5,), shuffle=False, drop_last=False)
    bytes_, labels = torch.zeros(4, 1, 3, 3, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64)
    for x, y in ((bytes_.float(), labels), (bytes_[0], labels), (bytes_, labels[:3])):
        with pytest.raises(ValueError, match="x, y: expected uint8 images .* and one label for each, .*, got torch"):
            Batches(x, y, 2, **statistics)


def test_an_epoch_is_checked_before_its_first_batch():
    source = batches(10, 3)
    with pytest.raises(ValueError, match="start: expected a number from 0 to 3, got 4"):
        source.epoch(0, start=4)
    with pytest.raises(ValueError, match="epoch: expected a number of at least 0, got -1"):
        source.epoch(-1)


def test_a_part_of_the_data_trains():
    "What training does with these pieces: hold out, batch the rest, evaluate on what was held out."
    data = replace(made([0, 1] * 20), flip=False)
    train, validation = split_holdout(data, 0.25, seed=0)
    statistics = dict(mean=data.mean, std=data.std)
    learn = Batches(data.x_train[train], data.y_train[train], 8, **statistics, shuffle=True, drop_last=True, seed=0, flip=data.flip)
    check = Batches(data.x_train[validation], data.y_train[validation], 8, **statistics, shuffle=False, drop_last=False)
    assert (len(learn), len(check)) == (3, 2)
    assert sum(len(labels) for _, labels in check.epoch(0)) == 10
