"""Streamed image folders: the same batches however they are decoded, every image once, and training from files."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from sastc.data.folders import FolderData, load_data
from sastc.data.images import subset
from sastc.models import create_model
from sastc.training import assess, distill, measure, train_teacher

TRAINING = dict(augment=True, shuffle=True, drop_last=True, seed=3)
IN_ORDER = dict(shuffle=False, drop_last=False)


def write_folder(root, train=12, test=5, size=(40, 48)):
    "Noise in two classes, as PNG and JPEG files in turns."
    values = np.random.default_rng(1)
    for split, count in dict(train=train, test=test).items():
        for label in ("cat", "dog"):
            (root / split / label).mkdir(parents=True)
            for i in range(count):
                pixels = values.integers(0, 256, (*size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / label / f"{i:02}.{('png', 'jpg')[i % 2]}")
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("folders") / "pets")


@pytest.fixture(scope="module")
def pets(root):
    return load_data(root, workers=1)


def same(some, others):
    return len(some) == len(others) and all(a.equal(c) and b.equal(d) for (a, b), (c, d) in zip(some, others))


@pytest.mark.parametrize("epoch", [0, 3])
def test_batches_do_not_depend_on_the_number_of_workers_or_on_what_they_did_before(pets, epoch):
    one, two = (replace(pets, workers=workers).batches("train", 4, **TRAINING) for workers in (1, 2))
    expected = list(one.epoch(epoch))
    next(two.epoch(1))  # left at its first batch, with others under way
    assert same(expected, list(two.epoch(epoch))) and same(expected, list(two.epoch(epoch)))
    assert not same(expected, list(one.epoch(epoch + 1)))
    assert not same(expected, list(pets.batches("train", 4, **TRAINING | dict(seed=4)).epoch(epoch)))


def test_a_later_start_sees_the_remaining_batches_and_decodes_no_others(root, tmp_path):
    pets = load_data(write_folder(tmp_path / "pets"), workers=2)
    whole = list(pets.batches("train", 4, **TRAINING).epoch(2))
    order = next(pets.batches("train", 24, **TRAINING).epoch(2))[1]
    assert torch.cat([labels for _, labels in whole]).equal(order)
    for start in (1, 4, 6):
        assert same(whole[start:], list(pets.batches("train", 4, **TRAINING).epoch(2, start=start)))
    batches = pets.batches("train", 4, **TRAINING)
    batches.y = torch.arange(24)  # numbers in place of labels say which files come first
    for number in next(batches.epoch(2))[1].tolist():
        open(pets.x_train[number], "wb").close()
    assert same(whole[1:], list(pets.batches("train", 4, **TRAINING).epoch(2, start=1)))


@pytest.mark.parametrize("options", [TRAINING, IN_ORDER])
def test_two_processes_share_what_one_would_see(pets, options):
    split, count = ("train", 24) if options["shuffle"] else ("test", 10)
    joint = list(pets.batches(split, 8, **options).epoch(1))
    shares = [list(pets.batches(split, 4, rank=rank, world=2, **options).epoch(1)) for rank in range(2)]
    together = [tuple(torch.cat(parts) for parts in zip(*step)) for step in zip(*shares)]
    assert same(joint, together) and sum(len(labels) for _, labels in joint) == count


def test_evaluation_sees_every_image_once_and_in_order(pets):
    seen = list(pets.batches("test", 3, **IN_ORDER).epoch(0))
    assert [len(labels) for _, labels in seen] == [3, 3, 3, 1]
    assert torch.cat([labels for _, labels in seen]).equal(pets.y_test)
    images = torch.cat([images for images, _ in seen])
    assert images.shape == (10, 3, 32, 32) and len(images.flatten(1).unique(dim=0)) == 10


def test_a_single_image_is_a_set_of_images(pets):
    one = subset(pets, 1, seed=0)
    assert one.x_train.shape == one.y_train.shape == (1,)
    number = torch.tensor([7])
    ((images, labels),) = pets.batches("test", 4, chosen=number, **IN_ORDER).epoch(0)
    assert images.shape == (1, 3, 32, 32) and labels.equal(pets.y_test[number])


def test_two_epochs_at_a_time_are_refused(pets):
    batches = pets.batches("train", 4, **TRAINING)
    first = batches.epoch(0)
    next(first)
    next(batches.epoch(1))
    with pytest.raises(RuntimeError, match="epoch: expected one at a time, got another one of these batches"):
        next(first)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_is_named(tmp_path, workers):
    pets = load_data(write_folder(tmp_path / "pets", train=3, test=3), workers=1)
    (tmp_path / "pets" / "test" / "dog" / "01.jpg").write_bytes(b"no picture")
    batches = replace(pets, workers=workers).batches("test", 2, **IN_ORDER)
    with pytest.raises(ValueError, match=r"^data: expected an image, got '[^\n]*dog/01\.jpg', which cannot be decoded \([^\n]*\)$"):
        list(batches.epoch(0))


@pytest.mark.parametrize(
    "given, sentence",
    [
        (dict(batch_size=25), "batch_size: expected at most 24 .there are 24 images, .*, got 25"),
        (dict(shuffle=False), "augment: expected False with shuffle=False, .*, got True"),
        (dict(world=0), "world: expected .*, got 0"),
    ],
)
def test_what_cannot_be_is_refused(pets, given, sentence):
    with pytest.raises(ValueError, match=sentence):
        pets.batches("train", **dict(batch_size=4) | TRAINING | given)


def test_when_a_folder_is_streamed(root, tmp_path):
    assert isinstance(load_data(root, image_size=48, workers=1), FolderData)
    assert load_data(root, image_size=48).x_train.shape == (24, 3, 48, 48)
    assert load_data("digits", workers=2).x_train.shape == (1437, 1, 32, 32)
    (tmp_path / "odd" / "train" / "cat").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="data: expected train/<class>/ and test/<class>/ with images in each, got '.*odd'"):
        load_data(tmp_path / "odd", workers=1)
    with pytest.raises(FileNotFoundError, match="data: expected a file or folder that is there, got"):
        load_data(tmp_path / "missing", workers=1)


@pytest.mark.parametrize("size", [(40, 48), (64, 20), (32, 32)])
def test_memory_and_stream_see_the_same_images(tmp_path, size):
    "One rule makes a square of a file, whatever its shape; hidden files are none of them."
    root = write_folder(tmp_path / "pets", train=3, test=3, size=size)
    (root / "test" / ".ipynb_checkpoints").mkdir()
    Image.new("RGB", size).save(root / "test" / ".ipynb_checkpoints" / "0.png")
    memory, stream = load_data(root), load_data(root, workers=1)
    stream = replace(stream, mean=memory.mean, std=memory.std, workers=0)
    assert same(list(memory.batches("test", 4, **IN_ORDER).epoch(0)), list(stream.batches("test", 4, **IN_ORDER).epoch(0)))
    network = create_model("vgg11", 2, time_steps=2, width=0.0625)
    assert measure(network, memory.batches("test", 5, **IN_ORDER), 2) == measure(network, stream.batches("test", 5, **IN_ORDER), 2)


def test_training_from_a_folder(root, tmp_path):
    settings = dict(student="vgg11", method="baseline", width=0.0625, batch_size=4, epochs=1, train_images=20, holdout=0.2, log_every=1, lr=0.01)
    run = distill(data=str(root), workers=1, image_size=32, folder=tmp_path / "run", **settings)
    assert run.state == "finished" and run.status["step"] == 4
    assert (run.config["workers"], run.config["image_size"]) == (1, 32)
    assert assess(run.folder)["accuracy"] == pytest.approx(run.result["test_accuracy_best"])
    own = distill(data=load_data(root, workers=2), folder=tmp_path / "own", **settings)
    assert own.metrics.train_total.tolist() == run.metrics.train_total.tolist()  # by two workers, and as an object


def test_images_that_were_replaced_under_their_names_are_noticed(tmp_path):
    root, model = write_folder(tmp_path / "photos"), torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 2))
    given = dict(model=model, data=root, image_size=16, workers=1, device="cpu", batch_size=8, holdout=0)
    run = train_teacher(folder=tmp_path / "run", epochs=1, **given)
    assert assess(run, student=model)["accuracy"] == run.result["test_accuracy_last"]
    for path in root.glob("*/*/*"):
        Image.new("RGB", (40, 40), "green").save(path)
    with pytest.raises(ValueError, match="data: expected those of the run .photos, contents '"):
        assess(run, student=model)
    with pytest.raises(ValueError, match="data: expected the data that the run in .* was started with .photos, contents "):
        train_teacher(folder=tmp_path / "run", resume=True, epochs=2, **given)
    record = tmp_path / "run" / "data.json"
    record.write_text(json.dumps({name: value for name, value in json.loads(record.read_text()).items() if name != "contents"}))  # as older versions wrote it
    assert train_teacher(folder=tmp_path / "run", resume=True, epochs=2, **given).state == "finished"
