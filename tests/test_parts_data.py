"""Data of other libraries as data of a run: what comes in is what the library gives, and order, seeds, resuming and processes keep their guarantees."""

import json
import os
import struct
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from sklearn.datasets import load_digits
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, TensorDataset
from torchvision.datasets import MNIST, ImageFolder
from torchvision.transforms import v2

from sastc import assess, distill, train_teacher
from sastc.data.datasets import StreamedData, frames_from, images_from
from sastc.data.frames import Change, FrameData
from sastc.data.images import ImageData
from sastc.data.sources import SOURCES, identity_of
from sastc.training import Run
from sastc.training.config import Config, settings_for
from sastc.training.inputs import perturbed_for, training_data
from sastc.training.loop import Trainer

SOURCE = load_digits()
PIXELS = torch.from_numpy(SOURCE.images * 15.9375).round().to(torch.uint8)[:300, None]  # [300, 1, 8, 8]
LABELS = torch.from_numpy(SOURCE.target).long()[:300]
GIVEN = dict(epochs=1, batch_size=20, lr=0.02, image_size=16, device="cpu", log_every=1)
STUDENT = GIVEN | dict(student="resnet18", width=0.0625, method="baseline")


class Digits(Dataset):
    "Pictures with text labels, in the way of nobody."

    def __init__(self, numbers):
        self.numbers = list(numbers)

    def __len__(self):
        return len(self.numbers)

    def __getitem__(self, place):
        number = self.numbers[place]
        return Image.fromarray(PIXELS[number, 0].numpy()), f"digit {LABELS[number]}"


PAIR = Digits(range(240)), Digits(range(240, 300))


def source_of(data, **given):
    "The source that a run makes of an object or a name."
    name = data if isinstance(data, str) else ""
    made = (SOURCES.find(name) if name else SOURCES.wrapped(data))(**given)
    if name:
        made.given_as = name
    return made


def same_weights(one, other):
    one, other = (Run(folder).checkpoint("last")["model"] for folder in (one, other))
    return all(torch.equal(one[name], other[name]) for name in one)


def test_a_pair_of_datasets_is_trained_on_evaluated_and_resumed(tmp_path, monkeypatch):
    run = distill(data=PAIR, folder=tmp_path / "run", **STUDENT)
    assert run.data["name"] == "digits" and run.data["shape"] == [1, 16, 16] and run.data["classes"] == [f"digit {i}" for i in range(10)]
    assert run.config["data"] == "own:digits" and (run.data["train_images"], run.data["test_images"]) == (240, 60)
    assert assess(run, data=PAIR)["accuracy"] == run.result["test_accuracy_best"]
    with pytest.raises(ValueError, match="data: expected those of the run .digits, test images 60."):
        assess(run, data=(PAIR[0], Digits(range(250, 300))))
    with pytest.raises(ValueError, match="data: expected the images that the run was trained on .digits., which were an object"):
        assess(run)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stopped_run_resumes_bit_by_bit(workers, tmp_path, monkeypatch):
    given = STUDENT | dict(data=PAIR, workers=workers)
    distill(folder=tmp_path / "whole", **given)
    step = Trainer.step

    def stopping(self, *batch):
        step(self, *batch)
        if self.progress["step"] == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "step", stopping)
    with pytest.raises(KeyboardInterrupt):
        distill(folder=tmp_path / "stopped", **given)
    monkeypatch.setattr(Trainer, "step", step)
    assert distill(data=PAIR, folder=tmp_path / "stopped", resume=True).state == "finished"
    assert same_weights(tmp_path / "whole", tmp_path / "stopped")
    with pytest.raises(ValueError, match="data: expected the data that the run in .* was started with"):
        distill(data=(PAIR[1], PAIR[0]), folder=tmp_path / "stopped", resume=True)


def test_workers_and_processes_change_no_batch():
    streamed = [source_of(PAIR, image_size=16, workers=workers).load() for workers in (1, 2)]
    assert all(isinstance(data, StreamedData) for data in streamed) and identity_of(streamed[0]) == identity_of(streamed[1])
    given = dict(shuffle=True, drop_last=True, seed=7, augment=True)
    one, two = (list(data.batches("train", 20, **given).epoch(3)) for data in streamed)
    parts = [list(streamed[0].batches("train", 10, rank=rank, world=2, **given).epoch(3)) for rank in (0, 1)]
    for (images, labels), (others, same), *shares in zip(one, two, *parts, strict=True):
        assert images.equal(others) and labels.equal(same)
        assert torch.cat([share for share, _ in shares]).equal(images)
    kept = source_of(PAIR, image_size=16).load()
    plain = dict(shuffle=False, drop_last=False)
    for (images, _), (others, _) in zip(kept.batches("test", 16, **plain).epoch(0), streamed[1].batches("test", 16, **plain).epoch(0), strict=True):
        assert images.equal(others)
    assert kept.mean == streamed[0].mean and kept.y_train.equal(streamed[0].y_train)


def test_the_bytes_are_those_of_the_dataset():
    floats = TensorDataset(PIXELS.float() / 255, LABELS)
    data = images_from(floats)
    assert isinstance(data, ImageData) and torch.cat([data.x_train, data.x_test]).sum() == PIXELS.sum()
    assert len(data.y_test) == 60 and data.y_test.bincount().min() >= 5  # a fifth, of every class
    assert images_from(floats).x_test.equal(data.x_test)
    assert images_from(Subset(floats, range(100, 200)), name="part").num_classes == 10


class Stream(IterableDataset):
    def __iter__(self):
        return iter([(PIXELS[0], 0)])


class Turned(Digits):
    def __getitem__(self, place):
        image, label = super().__getitem__(place)
        return v2.RandomRotation(20)(image), label


NORMALISED = TensorDataset((PIXELS.float() / 255 - 0.3) / 0.3, LABELS)
WIDE = TensorDataset(torch.zeros(40, 3, 8, 12, dtype=torch.uint8), torch.arange(40) % 2)


@pytest.mark.parametrize(
    "data, sentence",
    [
        (Stream(), "data: expected a dataset with a length and items by number, got Stream, a stream"),
        (DataLoader(NORMALISED), "data: expected a dataset, whose order a run draws from its own seed, got a DataLoader"),
        ((Turned(range(40)), PAIR[1]), "data: expected a dataset that gives the same image every time, got train of turned"),
        (NORMALISED, "reading fails: expected numbers from 0 to 1, got -1 to 2.12; leave Normalize out"),
        (TensorDataset(PIXELS, LABELS + 1), "classes: expected names, since the labels are not 0, 1, 2, and so on, each in use, but 10 numbers from 1 to 10"),
        (TensorDataset(PIXELS, LABELS / 2), "data: expected labels that are whole numbers or names, one for each image, got 0.0"),
        (Subset(PAIR[0], []), "data: expected items, got an empty dataset"),
        (TensorDataset(PIXELS), r"data: expected items \(image, label\), or with named columns, got tuple"),
        (Subset(PAIR[0], range(9)), "test_share: expected a share with at least 9 items"),
    ],
)
def test_what_cannot_be_used_is_refused_before_work_starts(data, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        distill(data=data, folder=tmp_path / "run", **STUDENT)
    assert not (tmp_path / "run").exists()


class Mixed(Dataset):
    "Every second image is smaller."

    def __len__(self):
        return 16

    def __getitem__(self, number):
        size = 8 - 4 * (number % 2)
        return PIXELS[number, :, :size, :size], number % 2


class Folderlike(Dataset):
    "Pictures in the grey of their class, numbered as an `ImageFolder` numbers the folders that it finds."

    GREYS = dict(ant=10, bee=100, cat=200)

    def __init__(self, classes):
        self.classes = list(classes)

    def __len__(self):
        return 4 * len(self.classes)

    def __getitem__(self, place):
        number = place % len(self.classes)
        return Image.fromarray(np.full((8, 8, 3), self.GREYS[self.classes[number]], np.uint8)), number


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("held", [("ant", "cat"), ("cat", "ant", "bee"), ("bee",)], ids=str)
def test_a_test_split_that_numbers_its_classes_otherwise_is_read_by_their_names(held, workers):
    data = images_from((Folderlike(["ant", "bee", "cat"]), Folderlike(held)), workers=workers)
    assert data.classes == ["ant", "bee", "cat"] and data.y_train.tolist() == [0, 1, 2] * 4
    assert data.y_test.tolist() == [["ant", "bee", "cat"].index(name) for name in held] * 4


def test_a_test_split_with_a_class_of_its_own_is_refused():
    with pytest.raises(ValueError, match="classes: expected those of the training split in the test split, got 'cat', which is none of them"):
        images_from((Folderlike(["ant", "bee"]), Folderlike(["ant", "cat"])))


def test_a_size_is_asked_for_where_there_is_none(tmp_path):
    with pytest.raises(ValueError, match="image_size: expected a height and width, since the images of train of tensordataset are of 8x12 pixels, got 0"):
        distill(data=WIDE, folder=tmp_path / "run", **STUDENT | dict(image_size=0))
    mixed = Mixed()
    with pytest.raises(ValueError, match="item 1 of train of mixed has 4x4 pixels and the first one 8"):
        images_from(mixed)
    assert images_from(mixed, image_size=8, test_share=0.25).image_size == 8


# ------------------------------------------------------------------------------------------------------------ torchvision


def write_idx(file, array):
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    file.write_bytes(header + array.astype(np.uint8).tobytes())


@pytest.fixture
def mnist(tmp_path):
    "Root of an MNIST in its original files, with the first digits of scikit-learn."
    raw = tmp_path / "root" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    images = torch.nn.functional.interpolate(PIXELS.float(), 28).to(torch.uint8)[:, 0].numpy()
    for name, part in dict(train=slice(240), t10k=slice(240, 300)).items():
        write_idx(raw / f"{name}-images-idx3-ubyte", images[part])
        write_idx(raw / f"{name}-labels-idx1-ubyte", LABELS[part].numpy())
    return tmp_path / "root"


def test_torchvision_by_name_and_by_object(mnist, tmp_path):
    named = train_teacher(data="torchvision:MNIST", root=mnist, model="wrn16_2", width=0.0625, folder=tmp_path / "named", **GIVEN)
    assert named.data["classes"][3] == "3 - three" and not source_of("torchvision:MNIST", root=str(mnist)).load().flip
    objects = MNIST(mnist, train=True, transform=v2.ToTensor()), MNIST(mnist, train=False)
    passed = train_teacher(data=objects, model="wrn16_2", width=0.0625, folder=tmp_path / "passed", **GIVEN)
    assert named.data == passed.data and same_weights(named.folder, passed.folder)
    assert assess(named)["accuracy"] == named.result["test_accuracy_best"]  # the run knows where they are
    plain = images_from(objects)
    assert plain.x_test.equal(objects[1].data[:, None]) and plain.y_train.equal(objects[0].targets)


def test_torchvision_names_are_checked(tmp_path):
    with pytest.raises(ValueError, match="got 'MINST' .did you mean 'MNIST'"):
        distill(data="torchvision:MINST", folder=tmp_path / "run", **STUDENT)


# ------------------------------------------------------------------------------------------------------------ Hugging Face


@pytest.fixture(scope="module")
def beans():
    "A dataset of two splits from memory, whose columns have names of their own."
    datasets = pytest.importorskip("datasets", reason="the extra `data` is not installed")
    features = datasets.Features(picture=datasets.Image(), kind=datasets.ClassLabel(names=[f"kind {i}" for i in range(10)]), id=datasets.Value("int64"))

    def split(part):
        pictures = [Image.fromarray(PIXELS[i, 0].numpy()).convert("RGB") for i in part]
        return datasets.Dataset.from_dict(dict(picture=pictures, kind=LABELS[list(part)].tolist(), id=list(part)), features=features)

    return datasets.DatasetDict(train=split(range(240)), validation=split(range(240, 300)))


def test_a_hugging_face_dataset(beans, tmp_path):
    run = distill(data=beans, folder=tmp_path / "run", **STUDENT)
    assert run.data["classes"][2] == "kind 2" and run.data["shape"] == [3, 16, 16] and run.data["test_images"] == 60
    data = images_from(beans)
    assert data.x_test.equal(PIXELS[240:].expand(-1, 3, -1, -1)) and data.y_train.equal(LABELS[:240]) and data.flip
    beans.save_to_disk(tmp_path / "saved")
    named = distill(data=f"hf:{tmp_path / 'saved'}", workers=1, folder=tmp_path / "named", **STUDENT)
    assert assess(named)["accuracy"] == named.result["test_accuracy_best"]
    assert images_from(beans["train"]).x_test.shape == (48, 3, 8, 8)


def test_columns_that_are_not_clear_are_asked_for(beans):
    twice = beans.map(
        lambda row: dict(coarse=row["kind"] // 5),
        features=type(beans["train"].features)(beans["train"].features | dict(coarse=beans["train"].features["kind"])),
    )
    with pytest.raises(ValueError, match=r"label_column: expected the name of the column with the label, since the data have several \(kind, coarse\)"):
        images_from(twice)
    assert images_from(twice, label_column="kind").y_test.equal(LABELS[240:])
    with pytest.raises(ValueError, match="label_column: expected one of picture, kind, id, got 'species'"):
        images_from(beans, label_column="species")
    with pytest.raises(ValueError, match="a stream"):
        images_from(beans) if SOURCES.wrapped(beans["train"].to_iterable_dataset()) else None


def test_a_dataset_that_is_nowhere_is_a_sentence(beans, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match="data: expected a dataset of the hub or a folder that save_to_disk wrote, got 'nobody/nothing'"):
        distill(data="hf:nobody/nothing", folder=tmp_path / "run", **STUDENT)


# ------------------------------------------------------------------------------------------------------------ tonic


def nmnist_file(path, label):
    "A recording of a bar whose place is its class, in the five bytes of N-MNIST."
    path.parent.mkdir(parents=True, exist_ok=True)
    events = bytearray()
    for step in range(200):
        events += bytes([3 * label + step % 3, step % 34, (step % 2) << 7, (step * 100) >> 8 & 0xFF, step * 100 & 0xFF])
    path.write_bytes(bytes(events))


def test_tonic(tmp_path, monkeypatch):
    tonic = pytest.importorskip("tonic", reason="the extra `tonic` is not installed")
    monkeypatch.setattr(tonic.datasets.NMNIST, "_check_exists", lambda self: True)  # which wants 60,000 files
    for split, count in dict(Train=12, Test=3).items():
        for label in range(10):
            for number in range(count):
                nmnist_file(tmp_path / "NMNIST" / split / str(label) / f"{number:05}.bin", label)
    pair = [tonic.datasets.NMNIST(str(tmp_path), train=train) for train in (True, False)]
    given = dict(GIVEN, image_size=17, time_steps=3, student="vggsnn", width=0.0625, method="baseline")
    run = distill(data=pair, folder=tmp_path / "passed", **given)
    assert run.data["shape"] == [3, 2, 17, 17] and run.data["classes"][1] == "1 - one"
    named = distill(data="tonic:NMNIST", root=tmp_path, folder=tmp_path / "named", **given)
    assert same_weights(run.folder, named.folder)
    ours = source_of("nmnist", root=str(tmp_path), image_size=17).load(3)
    theirs = source_of("tonic:NMNIST", root=str(tmp_path), image_size=17).load(3)
    order, other = (sorted(map(bytes, data.x_test.numpy())) for data in (ours, theirs))
    assert order == other
    framed = tonic.datasets.NMNIST(str(tmp_path), train=True, transform=tonic.transforms.ToFrame(sensor_size=(34, 34, 2), n_time_bins=3))
    with pytest.raises(ValueError, match="leave out a transform that cuts frames"):
        distill(data=framed, folder=tmp_path / "framed", **given)
    assert os.listdir(tmp_path / "NMNIST") == ["Train", "Test"] or set(os.listdir(tmp_path / "NMNIST")) == {"Train", "Test"}


# ---- labels are those that the items give ----


class Noisy(Digits):
    "Some labels are changed when an item is read; `targets` still lists the old ones."

    targets = property(lambda self: [f"digit {LABELS[number]}" for number in self.numbers])

    def __getitem__(self, place):
        image, label = super().__getitem__(place)
        return image, "digit 0" if place % 7 == 3 else label


@pytest.mark.parametrize("workers", [0, 1])
def test_labels_are_read_from_items_of_classes_that_nobody_knows(workers):
    data = images_from((Noisy(range(240)), PAIR[1]), workers=workers)
    wanted = [data.classes.index(PAIR[0][place][1] if place % 7 != 3 else "digit 0") for place in range(240)]
    assert data.y_train.tolist() == wanted


def folders(tmp_path, **classes):
    for split, names in classes.items():
        for number, name in enumerate(names):
            (tmp_path / split / name).mkdir(parents=True)
            for picture in range(4):
                Image.fromarray(np.full((8, 8), 40 * number + picture, np.uint8)).save(tmp_path / split / name / f"{picture}.png")


@pytest.mark.parametrize("workers", [0, 1])
def test_labels_that_a_transform_has_numbered_are_not_numbered_again(workers, tmp_path):
    folders(tmp_path, train="abc", test="bc")
    train, plain = ImageFolder(tmp_path / "train"), ImageFolder(tmp_path / "test")
    numbered = ImageFolder(tmp_path / "test", target_transform=lambda label: train.class_to_idx[plain.classes[label]])
    for test in (plain, numbered):
        data = images_from((train, test), workers=workers)
        assert data.y_test.tolist() == [1] * 4 + [2] * 4 and data.classes == ["a", "b", "c"]
    coarse = dict(target_transform=lambda label: int(label == 2))
    data = images_from((ImageFolder(tmp_path / "train", **coarse), ImageFolder(tmp_path / "train", **coarse)), workers=workers)
    assert data.classes == ["0", "1"] and data.y_train.tolist() == [0] * 8 + [1] * 4  # and none of the three names
    same = ImageFolder(tmp_path / "train", target_transform=torch.tensor)
    assert images_from((same, same), workers=workers).classes == ["a", "b", "c"]


def test_names_without_an_image_are_told():
    class Coarse(Digits):
        classes = [f"digit {number}" for number in range(10)]

        def __getitem__(self, place):
            return super().__getitem__(place)[0], place % 2

    with pytest.warns(UserWarning, match="classes: expected images of every class, got none of 'digit 2', .*8 of 10 classes have no image"):
        assert images_from(Coarse(range(60))).num_classes == 10


def read(data, workers):
    "What a run reads before it begins."
    return training_data(settings_for(Config, STUDENT | dict(data=data, workers=workers)), Accelerator(cpu=True))


@pytest.mark.parametrize("workers", [0, 1])
def test_test_images_that_are_learned_from_are_told_however_they_are_chosen(workers, tmp_path):
    every = ConcatDataset([Digits(range(100)), Digits(range(100, 240))])
    for train, test in ((Subset(every, range(200)), Subset(Subset(every, range(150, 240)), range(90))), (every, Subset(every.datasets[1], range(100)))):
        with pytest.warns(UserWarning, match="test images of .* are among its training images"):
            read((train, test), workers)
    folders(tmp_path, train="ab")
    place = tmp_path / "train"
    with pytest.warns(UserWarning, match="8 of 8 test images"):
        read((ImageFolder(place), ImageFolder(place)), workers)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    "said",
    [
        dict(mean=np.array([0.5]), std=tuple(np.array([0.25]))),
        dict(mean=np.float32([0.5]), std=torch.tensor([0.25])),
        dict(classes=np.array([f"kind {i}" for i in range(10)])),
        dict(classes=range(10)),
    ],
)
def test_data_described_with_numbers_of_other_libraries_are_trained_on_and_their_run_is_read_again(said, workers, tmp_path):
    data = images_from((TensorDataset(PIXELS[:240], LABELS[:240]), TensorDataset(PIXELS[240:], LABELS[240:])), workers=workers, image_size=16, **said)
    assert {type(value) for value in (*data.mean, *data.std)} == {float} and {type(name) for name in data.classes} == {str}
    if workers:
        return
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 10))
    run = train_teacher(model=model, data=data, folder=tmp_path / "run", device="cpu", batch_size=60, epochs=1)
    assert run.checkpoint("last")["preprocessing"]["classes"] == list(data.classes) == run.data["classes"]
    assert assess(run, student=model, data=data)["accuracy"] == run.result["test_accuracy_best"]


def test_data_described_with_no_list_are_refused():
    pair = TensorDataset(PIXELS, LABELS)
    for said, sentence in (
        (dict(mean=0.5, std=0.25), "mean: expected a list of numbers, got 0.5"),
        (dict(mean="0.5", std="0.25"), "mean: expected a list of numbers, got '0.5'"),
        (dict(classes=10), "classes: expected a list of names, got 10"),
        (dict(mean=(0.5, 0.5), std=(0.25, 0.25), workers=1), "mean, std: expected 1 numbers each"),
    ):
        with pytest.raises(ValueError, match=sentence):
            images_from(pair, **said)


def test_a_run_goes_on_only_with_data_that_are_mirrored_as_before(tmp_path):
    pair = TensorDataset(PIXELS[:240], LABELS[:240]), TensorDataset(PIXELS[240:], LABELS[240:])
    plain, mirrored = (images_from(pair, mirror=mirror) for mirror in ("no", "yes"))
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    given = dict(model=model, device="cpu", batch_size=60)
    for augment in (True, False):
        train_teacher(data=plain, folder=tmp_path / f"{augment}", epochs=1, augment=augment, **given)
    with pytest.raises(ValueError, match="data: expected the data that .* was started with .tensordataset, flip False., got tensordataset, flip True"):
        train_teacher(data=mirrored, folder=tmp_path / "True", resume=True, epochs=2, **given)
    assert train_teacher(data=mirrored, folder=tmp_path / "False", resume=True, epochs=2, **given).state == "finished"
    record = tmp_path / "True" / "data.json"
    record.write_text(json.dumps({name: value for name, value in json.loads(record.read_text()).items() if name != "flip"}))  # as older versions wrote it
    assert train_teacher(data=mirrored, folder=tmp_path / "True", resume=True, epochs=2, **given).state == "finished"


def test_frames_are_told_apart_by_what_augmentation_does_to_them():
    x, y = torch.zeros(4, 3, 2, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0, 1])
    still, moved = (identity_of(FrameData("made", x, y, x, y, np.array(["a", "b"]), Change(shift))) for shift in (0, np.int64(2)))
    assert still | dict(change=None) == moved | dict(change=None)
    assert json.loads(json.dumps(moved))["change"] == dict(shift=2, wrap=False, flip=False, rotate=0.0) != still["change"]


class Growing(Dataset):
    "Images of which one is larger than the others."

    def __init__(self, large):
        self.large = large

    def __len__(self):
        return 400

    def __getitem__(self, number):
        size = 12 if number == self.large else 8
        return torch.linspace(0, 1, size * size).view(1, size, size), number % 2


@pytest.mark.parametrize("workers", [0, 1])
def test_images_of_another_size_are_refused_where_none_is_asked_for(workers):
    with pytest.raises(
        ValueError, match="image_size: expected a height and width, since item 301 of train of growing has 12x12 pixels and the first one 8, got"
    ):
        images_from((Growing(301), Growing(-1)), workers=workers)
    with pytest.raises(ValueError, match="since item 7 of test of growing has 12x12 pixels and the first one 8, got 0"):
        images_from((Growing(-1), Growing(7)), workers=workers)
    assert images_from((Growing(301), Growing(-1)), workers=workers, image_size=8).image_size == 8


def test_an_image_of_another_size_that_is_met_in_training_is_refused_in_the_same_sentence():
    large = Growing(3)
    data = images_from((Growing(-1), Growing(-1)), workers=1)
    data = replace(data, workers=0, readers=data.readers | dict(train=data.readers["train"]._replace(dataset=large)))
    for options in (dict(shuffle=False), dict(shuffle=True, augment=True)):
        with pytest.raises(ValueError, match="image_size: expected a height and width, since item 3 of train of growing has 12x12 pixels"):
            list(data.batches("train", 20, drop_last=False, **options).epoch(0))


def test_a_run_of_an_older_version_whose_noise_came_to_no_label_goes_on(tmp_path):
    config = SimpleNamespace(folder=tmp_path, data=SimpleNamespace(label_noise=0.001, noise_seed=0))
    data = images_from(TensorDataset(PIXELS, LABELS))
    with pytest.raises(ValueError, match="label_noise: expected 0, or a share that perturbs at least one of the 240 training labels, got 0.001"):
        perturbed_for(config, data, resume=False)
    (tmp_path / "config.json").write_text('{"kind": "student", "settings": {}}')
    (tmp_path / "label_noise.csv").write_text("image,label,noisy_label\n")
    assert len(perturbed_for(config, data, resume=True)) == 0


class Named(Digits):
    "Pictures with numbers for labels, and names of the classes in some form."

    def __init__(self, numbers, classes):
        super().__init__(numbers)
        self.classes = classes

    def __getitem__(self, place):
        return super().__getitem__(place)[0], int(LABELS[self.numbers[place]])


WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    "classes, found",
    [
        (WORDS, WORDS),
        ({name: number for number, name in reversed([*enumerate(WORDS)])}, WORDS),  # a class_to_idx: its order is not that of the numbers
        (dict(enumerate(WORDS)), WORDS),
        (set(WORDS), [str(number) for number in range(10)]),  # in no order at all
        (dict(a=1), [str(number) for number in range(10)]),
    ],
)
def test_names_of_classes_go_by_their_numbers(classes, found, workers):
    assert images_from(Named(range(100), classes), workers=workers).classes == found


def test_names_that_are_passed_have_an_order():
    for classes in ({"a": 1, "b": 0}, {"a", "b"}):
        with pytest.raises(ValueError, match="classes: expected a list of names, got {"):
            images_from(Named(range(100), WORDS), classes=classes)


class Sliced(Named):
    "Arrays that are a view of others, as cv2's are once blue and red have changed places."

    def __init__(self, step):
        super().__init__(range(100), WORDS)
        self.step = step

    def __getitem__(self, place):
        return PIXELS[place, 0].numpy()[:, :: self.step], int(LABELS[place])


def test_arrays_of_any_strides_are_images():
    plain, turned = (images_from(Sliced(step)).x_train for step in (1, -1))
    assert turned.equal(plain.flip(3))


class Events(Dataset):
    sensor_size = 4, 4, 2

    def __init__(self, count=20, odd=3, **change):
        self.count, self.odd, self.change = count, odd, change

    def __len__(self):
        return self.count

    def __getitem__(self, number):
        change = self.change if number == self.odd else {}
        events = np.zeros(change.get("events", 8), [("x", "<i8"), ("y", "<i8"), ("t", "<i8"), ("p", "<i8")])
        events["t"] = np.arange(len(events))
        for field in events.dtype.names:
            if field in change:
                events[field] = change[field]
        return events, number % 2


class Wider(Events):
    sensor_size = 8, 4, 2


@pytest.mark.parametrize(
    "data, options, said",
    [
        (Events(x=4), {}, r"got others in item 3 of train of events \(x: expected numbers from 0 to 3, got 4 to 4\)"),
        (Events(p=-1), {}, r"of polarity 0 or 1, got others in item 3 of train of events \(polarity"),
        (Events(0), {}, "data: expected recordings, got none in train of events"),
        ((Events(), Events(0)), {}, "data: expected recordings, got none in test of events"),
        ((Events(), Wider()), dict(image_size=4), r"data: expected test recordings of the same sensor as the training ones, \(4, 4\), got \(8, 4\) in events"),
        ((Events(), Sliced(1)), {}, r"data: expected test recordings of the same sensor as the training ones, \(4, 4\), got none in events"),
        (Events(), dict(mirror="true"), "mirror: expected one of auto, yes, no, got 'true'"),
        (Events(), dict(mirror=True), "mirror: expected one of auto, yes, no, got True"),
        (Events(), dict(by="counts"), "by: expected one of count, time, got 'counts'"),
        (Events(), dict(test_share="0.2"), "test_share: expected a number from 0 to 1, got '0.2'"),
        (Events(), dict(image_size=2.5), "image_size: expected a whole number of at least 0, got 2.5"),
    ],
)
def test_recordings_that_cannot_be_cut_are_named(data, options, said):
    with pytest.raises(ValueError, match=said):
        frames_from(data, 2, **options)


def test_recordings_without_an_event_are_told():
    with pytest.warns(UserWarning, match="got none in 1 of train of events, whose frames are empty, item 3 for one"):
        data = frames_from(Events(events=0), 2)
    assert (data.x_train.flatten(1).sum(1) == 0).sum() + (data.x_test.flatten(1).sum(1) == 0).sum() == 1


@pytest.mark.parametrize("mirror", [True, False, "Yes", ""])
def test_whether_images_may_be_mirrored_is_said_in_a_known_word(mirror):
    with pytest.raises(ValueError, match="mirror: expected one of auto, yes, no, got"):
        images_from(Named(range(100), WORDS), mirror=mirror)
    assert images_from(Named(range(100), WORDS), mirror="yes").flip


def test_images_of_files_and_folders_are_mirrored_unless_it_is_said(tmp_path):
    "A folder of digits or of traffic signs could be trained on with mirrored images, or without augmentation."
    for split in ("train", "test"):
        for label in ("3", "8"):
            (tmp_path / "digits" / split / label).mkdir(parents=True)
            Image.fromarray(PIXELS[int(label), 0].numpy()).save(tmp_path / "digits" / split / label / "a.png")
    grey, labels = PIXELS[:4, 0].numpy(), np.arange(4) % 2
    np.savez(tmp_path / "grey.npz", x_train=grey, y_train=labels, x_test=grey, y_test=labels)
    for source, given, flips in (("digits", dict(workers=0), True), ("digits", dict(workers=1), True), ("grey.npz", {}, False)):
        loaded = {mirror: source_of(str(tmp_path / source), mirror=mirror, **given).load() for mirror in ("auto", "yes", "no")}
        assert {mirror: data.flip for mirror, data in loaded.items()} == dict(auto=flips, yes=True, no=False)
        assert identity_of(loaded["yes"]) != identity_of(loaded["no"])
    with pytest.raises(ValueError, match="mirror: expected one of auto, yes, no, got 'never'"):
        source_of(str(tmp_path / "digits"), mirror="never")
