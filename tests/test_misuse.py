"""What experienced people do wrong, or other libraries do otherwise: the right value, or a sentence, and never a number that only looks right."""

import copy
import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.nn.utils import weight_norm as hooked_weight_norm
from torch.nn.utils.parametrizations import weight_norm

from sastc import Taps, assess, candidates, create_model, distill, kd_loss, sastc_loss, spiking, train_teacher
from sastc.data.batches import normalise
from sastc.data.datasets import frames_from, images_from
from sastc.data.events import Events
from sastc.data.frames import Change, FrameData, frames
from sastc.data.images import load_images
from sastc.metrics.energy import firing_rates, synaptic_operations
from sastc.models.preprocessing import Preprocessing
from sastc.studies.comparisons import run_table
from sastc.studies.model_folder import read_model, write_model
from sastc.studies.report import write_report
from sastc.training import NotFinite, Run
from sastc.training.measure import anytime, measure
from sastc.training.runs import find_runs

DIGITS = load_images("digits", image_size=8)
GIVEN = dict(epochs=1, train_images=100, batch_size=20, lr=0.02)


def test_batches(data=DIGITS, **options):
    return data.batches("test", 128, shuffle=False, drop_last=False, **options)


test_batches.__test__ = False


def small(*end, **constants):
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)]
    network = nn.Sequential(*layers, *end)
    return spiking(network, **constants) if constants else network


def student(folder, **changes):
    given = GIVEN | dict(data="digits", image_size=8, student="resnet18", width=0.0625, method="baseline", folder=folder) | changes
    for name, belongs_to in dict(width="student", image_size="data").items():
        if not isinstance(given[belongs_to], str):
            del given[name]
    return distill(**given)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return train_teacher(
        **GIVEN | dict(epochs=4, train_images=0, lr=0.1), data=DIGITS, model="wrn16_2", width=0.25, folder=tmp_path_factory.mktemp("t") / "run"
    )


# ------------------------------------------------------------------------------------------------------------- measuring


@pytest.mark.parametrize("use", [lambda network, batches: measure(network, batches, 10), anytime], ids=["measure", "anytime"])
def test_outputs_that_are_no_numbers_have_no_accuracy(use):
    network = small(time_steps=2)
    network[-1].bias.data[3] = float("nan")
    with pytest.raises(NotFinite, match="network: expected outputs that are finite numbers, got others for 360 of 360 images"):
        use(network, test_batches())
    network[-1].bias.data[3] = -float("inf")  # a class that is ruled out
    assert use(network, test_batches())


def test_weights_that_break_in_the_last_step_end_no_run_in_silence(tmp_path, monkeypatch):
    import sastc.training.loop as loop

    step = loop.Trainer.step

    def broken(self, images, labels):
        step(self, images, labels)
        if self.progress["step"] == self.steps:
            next(iter(self.network.parameters())).data.fill_(float("nan"))

    monkeypatch.setattr(loop.Trainer, "step", broken)
    with pytest.raises(NotFinite, match="network: expected outputs that are finite numbers"):
        student(tmp_path / "run")
    run = Run(tmp_path / "run")
    assert run.state == "failed" and not run.result


@pytest.mark.parametrize("use", [lambda network, batches: measure(network, batches, 10), anytime], ids=["measure", "anytime"])
def test_no_images_have_no_accuracy(use):
    with pytest.raises(ValueError, match="batches: expected at least one image, got none"):
        use(small(time_steps=2), test_batches(chosen=slice(0)))


def test_a_network_sees_images_as_it_was_trained_wherever_it_is_measured(teacher):
    network, otherwise = teacher.model(), replace(DIGITS, mean=(0.9,), std=(0.1,))
    right = measure(network, test_batches(), 10)
    found = measure(network, test_batches(otherwise), 10)
    assert [found[name] for name in ("accuracy", "loss")] == pytest.approx([right[name] for name in ("accuracy", "loss")], rel=1e-3)


def test_a_module_that_is_trained_again_knows_what_it_saw_last(tmp_path):
    module = small()
    module.preprocessing = Preprocessing((0.1,), (0.9,), 224, resize="bicubic")  # of the library that it comes from
    run = train_teacher(**GIVEN, data=DIGITS, model=module, folder=tmp_path / "first")
    assert module.preprocessing == Preprocessing(DIGITS.mean, DIGITS.std, 8, tuple(DIGITS.classes))
    train_teacher(**GIVEN, data=replace(DIGITS, mean=(0.9,), std=(0.1,)), model=module, folder=tmp_path / "second")
    assert assess(run, data=DIGITS, student=module)["accuracy"] == pytest.approx(run.result["test_accuracy_best"])


def test_a_wrapped_network_costs_what_it_costs():
    network = small(time_steps=3)
    alone, wrapped = (measure(one, test_batches(), 10, costs=True) for one in (network, nn.Sequential(network)))
    for name in ("microjoule", "ann_microjoule", "operations"):
        assert alone[name] == pytest.approx(wrapped[name]), name
    one, other = (synaptic_operations(net, torch.rand(4, 1, 8, 8)).macs.tolist() for net in (network, nn.Sequential(network)))
    assert one == other


def test_an_ann_pays_for_every_frame_of_a_recording():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    x, y = torch.randint(0, 255, (6, 5, 2, 8, 8), dtype=torch.uint8), torch.arange(6) % 2
    data = FrameData("recordings", x, y, x, y, ["a", "b"], Change(1))
    found = measure(network, test_batches(data), 2, costs=True)
    assert found["operations"] == 5 * (4 * 36 * 18 + 4 * 2)


def test_counting_leaves_a_network_as_it_was():
    network, images = create_model("vgg11", in_channels=1, width=0.0625, time_steps=2), torch.rand(4, 1, 32, 32)
    before = copy.deepcopy(network.state_dict())
    firing_rates(network, images), synaptic_operations(network, images)
    assert network.training and all(torch.equal(value, network.state_dict()[name]) for name, value in before.items())


class Kernels(nn.Module):
    def __init__(self):
        super().__init__()
        self.kernels = nn.Parameter(torch.rand(4, 4, 3, 3))

    def forward(self, x):
        return F.conv2d(x, self.kernels)


def test_uncounted_kernels_are_named_and_parametrized_layers_are_counted(recwarn):
    images = torch.rand(2, 1, 8, 8)
    network = small(time_steps=2)
    plain = synaptic_operations(network, images).macs.tolist()
    for layer in (0, 2, 6):
        weight_norm(network[layer])
    assert synaptic_operations(network, images).macs.tolist() == plain
    assert not [warning for warning in recwarn if "not counted" in str(warning.message)]
    network[1] = nn.Sequential(network[1], Kernels())
    with pytest.warns(UserWarning, match=r"not counted, in 1\.1"):
        synaptic_operations(network, images)


def test_losses_broadcast_nothing():
    outputs = torch.randn(3, 4, 10)
    with pytest.raises(ValueError, match=r"student_logits: expected \[B, K\], of one step or of the mean over all, got \[3, 4, 10\]"):
        kd_loss(outputs, outputs)
    with pytest.raises(ValueError, match=r"distance: expected \[3, 4, 2, 1\], the shape of the attention, got \[3, 4, 2, 5\]"):
        sastc_loss(torch.rand(3, 4, 2, 1), torch.rand(3, 4, 2, 5))


def test_layers_of_a_compiled_network_are_found_by_their_names():
    network, images = create_model("wrn16_2", in_channels=1, width=0.125, time_steps=2).eval(), torch.rand(2, 1, 8, 8)
    compiled = torch.compile(network, backend="eager")
    assert candidates(compiled) == [f"_orig_mod.{name}" for name in candidates(network)]
    one, other = (Taps(net, candidates(net))(images)[1] for net in (network, compiled))
    assert all(torch.allclose(mine, theirs, atol=1e-5) for mine, theirs in zip(one, other))


# -------------------------------------------------------------------------------------------------------------- networks


@pytest.mark.parametrize("argument", ["teacher", "student"])
def test_probabilities_are_no_logits(argument, tmp_path):
    given = dict(method="kd", teacher=small(nn.Softmax(-1))) if argument == "teacher" else dict(student=small(nn.Softmax(-1), time_steps=2))
    with pytest.raises(ValueError, match=f"{argument}: expected a network that returns logits, got one that returns probabilities, of sum 1"):
        student(tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()
    assert student(tmp_path / "logarithms", method="kd", teacher=small(nn.LogSoftmax(-1))).state == "finished"  # as good as logits


def test_outputs_of_another_shape_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"teacher: expected a network that returns logits \[3, 10\] for these images, got \[3, 1, 10\]"):
        student(tmp_path / "run", method="kd", teacher=small(nn.Unflatten(1, (1, 10))), time_steps=2)
    assert not (tmp_path / "run").exists()


def test_a_teacher_does_not_change_while_the_student_learns(tmp_path):
    ann = small()
    network = spiking(ann, 2)
    network[2].weight = ann[2].weight
    with pytest.raises(ValueError, match=r"teacher: expected weights of its own, got '2.weight', which the student has too and trains"):
        student(tmp_path / "run", student=network, teacher=ann, method="kd")
    assert not (tmp_path / "run").exists()


def test_class_names_that_differ_in_capitals_are_those_classes(tmp_path):
    names = "zero one two three four five six seven eight nine".split()
    named, turned = replace(DIGITS, classes=names), replace(DIGITS, classes=[name.title() for name in names[::-1]])
    taught = train_teacher(**GIVEN, data=named, model="wrn16_2", width=0.25, folder=tmp_path / "teacher")
    with pytest.raises(ValueError, match="teacher: expected one that numbers the classes as digits does .'zero' is 9., got one in which it is 0"):
        student(tmp_path / "run", data=turned, method="kd", teacher=taught.folder)
    signs = replace(DIGITS, classes=["+", "-", *names[2:]])  # told apart by nothing else
    assert student(tmp_path / "signs", data=signs, method="kd", teacher=taught.folder).state == "finished"


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_training_under_a_context_without_gradients(context, tmp_path):
    with context():
        run = student(tmp_path / "run")
    other = student(tmp_path / "other")
    states = run.checkpoint("last")["model"], other.checkpoint("last")["model"]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_weights_that_cannot_be_trained_are_refused(tmp_path):
    with torch.inference_mode():
        network = small(time_steps=2)
    with pytest.raises(ValueError, match="student: expected weights that can be trained, got those of Sequential, made under torch.inference_mode"):
        student(tmp_path / "run", student=network)
    assert not (tmp_path / "run").exists()


def test_another_default_dtype_is_told_before_anything_is_written(tmp_path):
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.raises(ValueError, match="student: expected a network that takes images of shape"):
            student(tmp_path / "run")
    finally:
        torch.set_default_dtype(torch.float32)
    assert not (tmp_path / "run").exists()


def test_conversion_finds_random_slopes_and_says_what_cannot_be_copied():
    with pytest.raises(ValueError, match="others stay analog: rrelu_with_noise in 3"):
        spiking(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.RReLU()), 2)
    network = small()
    with pytest.warns(FutureWarning):
        hooked_weight_norm(network[2])
    with pytest.raises(ValueError, match="ann: expected a network that can be copied, got Sequential"):
        spiking(network, 2)


# ------------------------------------------------------------------------------------------------------------------ data


def test_floating_point_of_another_range_is_not_normalised():
    with pytest.raises(ValueError, match="images: expected floating point of 0..1, got numbers from 0 to 255"):
        normalise(torch.tensor([0.0, 255.0]).view(1, 1, 1, 2), (0.5,), (0.5,))


def recording(t, x):
    t, x = np.array(t), np.array(x)
    return Events(t, x, np.zeros_like(t), np.ones_like(t), 4, 4)


@pytest.mark.parametrize("by", ["count", "time"])
def test_events_are_taken_in_the_order_of_time(by):
    assert frames(recording([30, 20, 10, 0], [3, 2, 1, 0]), 2, by=by).equal(frames(recording([0, 10, 20, 30], [0, 1, 2, 3]), 2, by=by))


class Recordings:
    sensor_size = 4, 4, 2

    def __init__(self, times, dtype):
        self.times, self.dtype = times, np.dtype([("x", "<i8"), ("y", "<i8"), ("t", dtype), ("p", "?")])

    def __len__(self):
        return 20

    def __getitem__(self, number):
        events = np.zeros(len(self.times), self.dtype)
        events["t"], events["x"] = self.times, np.arange(len(self.times)) % 4
        return events, number % 2


def test_times_in_seconds_are_no_microseconds():
    with pytest.raises(ValueError, match="data: expected whole numbers in field 't', times in microseconds, got 0.01 in item 0 of train of recordings"):
        frames_from(Recordings(np.arange(8) * 0.01, "<f8"), 4, by="time")
    shapes = [frames_from(Recordings(np.arange(8) * 100, dtype), 4, by="time").x_train for dtype in ("<f8", "<i8")]
    assert shapes[0].equal(shapes[1])


@pytest.mark.parametrize("name, value", [("time_steps", 2.5), ("size", 1.5)])
def test_sizes_of_frames_are_whole_numbers(name, value):
    with pytest.raises(ValueError, match=f"{name}: expected a whole number of at least ., got {value}"):
        frames(recording([0, 1], [0, 1]), **dict(time_steps=2) | {name: value})


@pytest.mark.parametrize("workers", [0, 1])
def test_negative_labels_are_no_classes(workers):
    data = torch.utils.data.TensorDataset(torch.rand(20, 1, 8, 8), torch.arange(20) % 2 - 1)
    with pytest.raises(ValueError, match="classes: expected a name for every label, and labels from 0 on, got 2 names for labels from -1 to 0"):
        images_from(data, classes=["a", "b"], workers=workers)


def test_links_that_lead_back_add_no_images(tmp_path):
    for split in ("train", "test"):
        for number, name in enumerate("ab"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8), (100 * number, 40 * number, 90 - 50 * number)).save(tmp_path / split / name / "0.png")
    before = load_images(tmp_path, image_size=8)
    for name in ("one", "two"):  # two of them make 2^40 paths
        (tmp_path / "train" / "a" / name).symlink_to(tmp_path / "train" / "a")
    (tmp_path / "train" / "b" / "up").symlink_to(tmp_path / "train")
    after = load_images(tmp_path, image_size=8)
    assert after.x_train.equal(before.x_train) and after.y_train.tolist() == [0, 1]


def test_class_names_may_be_bytes(tmp_path):
    arrays = dict(x_train=np.random.default_rng(0).integers(0, 255, (4, 8, 8), np.uint8), y_train=np.arange(4) % 2)
    np.savez(tmp_path / "mine.npz", **arrays, x_test=arrays["x_train"], y_test=arrays["y_train"], class_names=np.array([b"cat", b"dog"]))
    assert load_images(tmp_path / "mine.npz", image_size=8).classes == ["cat", "dog"]


# ------------------------------------------------------------------------------------------------------------ run folders


@pytest.fixture
def runs(teacher, tmp_path):
    "A folder with three seeds."
    first = student(tmp_path / "runs" / "baseline-seed0")
    for seed in (1, 2):
        place = tmp_path / "runs" / f"baseline-seed{seed}"
        shutil.copytree(first.folder, place)
        change(place / "config.json", lambda content: content["settings"].update(seed=seed))
    return tmp_path / "runs"


def change(file, how):
    content = json.loads(file.read_text())
    how(content)
    file.write_text(json.dumps(content))


def test_hidden_copies_are_no_runs(runs):
    before = run_table(runs)
    for name in (".trash", ".ipynb_checkpoints"):
        shutil.copytree(runs / "baseline-seed0", runs / name)
        change(runs / name / "result.json", lambda content: content.update(test_accuracy_last=0.99))
    assert run_table(runs).equals(before)


def test_files_of_the_user_do_not_damage_a_run(runs):
    place, content = runs / "baseline-seed0", '{"image": 1, "said": 3}\n{"image": 2, "said": 5}\n'
    (place / "predictions.jsonl").write_text(content)
    assert len(run_table(runs)) == 3 and not find_runs(runs)[1]
    write_report(runs)
    (place / "result.json").unlink()
    distill(folder=place, resume=True, epochs=2)
    student(place, overwrite=True)
    assert (place / "predictions.jsonl").read_text() == content
    (place / "steps.jsonl").write_text('{"image": 1}\n')  # one of the run's own
    assert "steps.jsonl: line 1 is damaged" in find_runs(runs)[1][0]


@pytest.mark.parametrize(
    "how, sentence",
    [
        (lambda content: content.pop("test_accuracy_best"), "result.json: damaged .expected test_accuracy_last and test_accuracy_best."),
        (lambda content: content.update(test_accuracy_last=97.5), "result.json: damaged .test_accuracy_last: expected a number from 0 to 1, got 97.5."),
    ],
)
def test_results_that_cannot_be_are_named(how, sentence, runs):
    change(runs / "baseline-seed0" / "result.json", how)
    found, damaged = find_runs(runs)
    assert len(found) == len(run_table(runs)) == 2
    with pytest.raises(ValueError, match=sentence):
        raise ValueError(damaged[0])


def test_a_model_that_could_not_be_written_is_not_taken_for_an_older_one(teacher, tmp_path, monkeypatch):
    place, replaced = write_model(teacher, tmp_path / "model"), os.replace

    def full(source, target):
        if str(target).endswith("README.md"):
            raise OSError(28, "No space left on device")
        replaced(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_model(teacher, place, "last")
    with pytest.raises(FileNotFoundError, match="folder: expected config.json and model.safetensors"):
        read_model(place)
