"""Event data: readers against writers, damage at every place, frames, data sets and their cache, teacher modes, and a run on N-MNIST."""

import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch.nn import functional as F
from torchvision.transforms import v2

from sastc.data import frames as framing
from sastc.data.batches import Batches
from sastc.data.events import Events, read_aedat2, read_aedat3, read_aedat4, read_events, read_nmnist
from sastc.data.folders import load_data
from sastc.data.frames import EVENT_SETS, Change, FrameBatches, FrameData, frames, load_frames
from sastc.data.images import check_data, load_images, split_holdout, subset
from sastc.methods import SASTC, Shapes
from sastc.methods.attention import ATTENTIONS
from sastc.methods.calibrator import Calibrator
from sastc.models import Taps, create_model
from sastc.training import Config, Run, assess, distill, measure, train_teacher
from sastc.training.config import settings_for
from sastc.training.learner import Learner, taught

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"
NMNIST, AEDAT4 = SHARED / "nmnist_small" / "raw_bin.zip", SHARED / "event_samples" / "sample_320x240.aedat4"
needs_nmnist = pytest.mark.skipif(not NMNIST.exists(), reason="the excerpt of N-MNIST is not beside the repository (../shared/data/nmnist_small)")
needs_aedat4 = pytest.mark.skipif(not AEDAT4.exists(), reason="the AEDAT 4 sample is not beside the repository (../shared/data/event_samples)")
quick = settings(max_examples=30)


# ---------------------------------------------------------------- writers


def bin_bytes(t, x, y, polarity):
    "N-MNIST: five bytes an event; row 240 when the 13-bit clock goes round is left to the caller."
    t, x, y, polarity = (np.asarray(part, np.int64) for part in (t, x, y, polarity))
    return np.stack([x, y, polarity << 7 | t >> 16, t >> 8 & 255, t & 255], 1).astype(np.uint8).tobytes()


AEDAT2_HEADER = b"#!AER-DAT2.0\r\n# This is a raw AE data file - do not edit\r\n# created by a test\r\n"


def aedat2_bytes(t, x, y, polarity):
    t, x, y, polarity = (np.asarray(part, np.int64) for part in (t, x, y, polarity))
    address = (127 - x) << 8 | (127 - y) << 1 | (1 - polarity)
    return AEDAT2_HEADER + np.stack([address, t & 0xFFFFFFFF], 1).astype(">u4").tobytes()


AEDAT3_HEADER = b"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: DVS128\r\n#!END-HEADER\r\n"


def packet(words, kind=1, size=8, turns=0, room=None, count=None):
    count = len(words) if count is None else count
    head = struct.pack("<hhiiiiii", kind, 1, size, 4, turns, len(words) if room is None else room, count, count)
    return head + np.asarray(words, "<u4").tobytes()


def aedat3_bytes(t, x, y, polarity, a_packet=7):
    "Packets of some events each, as many as have the same turn of the clock; between them a packet of another kind."
    t, x, y, polarity = (np.asarray(part, np.int64) for part in (t, x, y, polarity))
    words = np.stack([x << 17 | y << 2 | polarity << 1 | 1, t & 0x7FFFFFFF], 1)
    data, first = AEDAT3_HEADER, 0
    while first < len(t):
        same = (t[first : first + a_packet] >> 31) == t[first] >> 31
        last = first + (len(same) if same.all() else int(same.argmin()))
        data += packet(words[first:last], turns=int(t[first] >> 31)) + packet(np.zeros((2, 1)), kind=0, size=4)
        first = last
    return data


WRITERS = dict(bin=(bin_bytes, read_nmnist, 34, 1 << 23), aedat2=(aedat2_bytes, read_aedat2, 128, 1 << 32), aedat3=(aedat3_bytes, read_aedat3, 128, 1 << 33))


@st.composite
def recordings(draw, size, clock):
    "Columns of a recording with rising times, as its writers take them."
    count = draw(st.integers(1, 40))
    t = np.sort(draw(arrays(np.int64, count, elements=st.integers(0, clock - 1))))
    x, y = (draw(arrays(np.int64, count, elements=st.integers(0, size - 1))) for _ in range(2))
    return t, x, y, draw(arrays(np.int64, count, elements=st.integers(0, 1)))


def some(count=20, size=34, seed=0, until=100_000):
    values = np.random.default_rng(seed)
    return np.sort(values.integers(until, size=count)), *values.integers(size, size=(2, count)), values.integers(2, size=count)


def columns(events):
    return events.t, events.x, events.y, events.polarity


def same(events, given):
    return all(np.array_equal(got, want) for got, want in zip(columns(events), given, strict=True))


# ---------------------------------------------------------------- readers


@pytest.mark.parametrize("kind", WRITERS)
@quick
@given(st.data())
def test_readers_give_what_was_written_and_writing_gives_the_bytes_again(kind, tmp_path_factory, data):
    write, read, size, clock = WRITERS[kind]
    given = data.draw(recordings(size, clock))
    path = tmp_path_factory.mktemp("events") / "recording.bin"
    path.write_bytes(write(*given))
    for events in (read(path), read_events(path)):
        assert same(events, given) and (events.height, events.width) == (size, size)
        assert write(*columns(events)) == path.read_bytes()


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_cut_anywhere_gives_a_sentence_or_whole_events(kind, tmp_path):
    "Nothing in between: no exception of another kind, no event that was not written, and the byte named lies in the file."
    write, read, *_ = WRITERS[kind]
    given, path = some(20), tmp_path / "cut.bin"
    data = write(*given)
    whole_events = 0
    for length in range(len(data)):
        path.write_bytes(data[:length])
        try:
            events = read(path)
        except ValueError as error:
            said = str(error)
            assert said.startswith(f"data: {str(path)!r} is damaged at byte ") and said.count("\n") == 0
            assert int(said.split("at byte ")[1].split(":")[0]) <= length
        else:
            whole_events += 1
            assert same(events, [part[: len(events)] for part in given])
    # only where an event (or here, for AEDAT 3.1, a packet) ends can a cut not be seen
    assert whole_events == dict(bin=19, aedat2=19, aedat3=5)[kind]


def test_a_recording_of_n_mnist_whose_clock_goes_round(tmp_path):
    path = tmp_path / "long.bin"
    path.write_bytes(bin_bytes([8000, 0, 5, 8191, 0, 7], [1, 0, 2, 3, 0, 4], [1, 240, 2, 3, 240, 4], [0, 0, 1, 0, 0, 1]))
    assert same(read_nmnist(path), ([8000, 8197, 16383, 16391], [1, 2, 3, 4], [1, 2, 3, 4], [0, 1, 0, 1]))


def test_the_32_bit_clock_of_aedat2_goes_round_and_small_steps_back_are_kept(tmp_path):
    path = tmp_path / "long.aedat"
    t = np.array([5, 3, 2**32 - 1, 2**32 + 4, 2**32 + 2, 2**33 - 7, 2**33 + 1])
    given = t, *np.arange(14).reshape(2, 7), np.zeros(7)
    path.write_bytes(aedat2_bytes(*given))
    assert same(read_aedat2(path), given)


def test_marks_and_invalid_events_are_no_events(tmp_path):
    path = tmp_path / "marks.aedat"
    path.write_bytes(AEDAT2_HEADER + np.array([0x8000, 1, 0x7F01, 2], ">u4").tobytes())
    assert same(read_aedat2(path), ([2], [0], [127], [0]))
    path.write_bytes(AEDAT3_HEADER + packet([[3 << 17 | 4 << 2, 1], [5 << 17 | 6 << 2 | 3, 2], [0, 0]], count=2))
    assert same(read_aedat3(path), ([2], [5], [6], [1]))


@pytest.mark.parametrize(
    "content, byte, what",
    [
        (bin_bytes(*[[1, 2]] * 2, [1, 34], [0, 1]), 5, "column 2, row 34 is outside the sensor of 34x34"),
        (b"", 0, "without an event"),
        (AEDAT2_HEADER + struct.pack(">IIII", 0, 1, 0x10002, 2), len(AEDAT2_HEADER) + 8, "the address 0x10002 has more than 16 bits"),
        (AEDAT3_HEADER + packet([[128 << 17 | 1, 5]]), len(AEDAT3_HEADER) + 28, "column 128, row 0 is outside the sensor of 128x128"),
        (AEDAT3_HEADER + packet([[1, 5]], count=3), len(AEDAT3_HEADER), "with 3 events of 8 bytes and room for 1 cannot be"),
        (AEDAT3_HEADER + packet([[1, 5]], room=2), len(AEDAT3_HEADER), "needs 16 bytes and the file has 8 more"),
        (AEDAT3_HEADER + packet([[1, 5]], size=4), len(AEDAT3_HEADER), "kind 1 with 1 events of 4 bytes"),
        (AEDAT3_HEADER.replace(b"#!END", b"#END"), len(AEDAT3_HEADER) - 1, "no last line"),
    ],
)
def test_damage_is_named_with_its_byte(content, byte, what, tmp_path):
    path = tmp_path / "broken.bin"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"broken.bin' is damaged at byte {byte}: .*{what}"):
        read_events(path)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("#!AER-DAT1.0\n")
    with pytest.raises(ValueError, match="data: expected a file in AEDAT 2.0, 3.1 or 4.0, or a .bin file of N-MNIST, got '.*notes.txt'"):
        read_events(tmp_path / "notes.txt")
    (tmp_path / "two.aedat").write_bytes(AEDAT2_HEADER + bytes(8))
    with pytest.raises(ValueError, match="two.aedat' is damaged at byte 0: it does not start with '#!AER-DAT3.1'"):
        read_aedat3(tmp_path / "two.aedat")


@needs_nmnist
def test_original_files_of_n_mnist(tmp_path):
    with zipfile.ZipFile(NMNIST) as archive:
        files = {name: archive.read(name) for name in archive.namelist() if name.endswith(".bin")}
    assert len(files) == 20
    rows = {split: np.load(NMNIST.parent / f"{split}.npz") for split in ("train", "test")}
    for name, content in files.items():
        (tmp_path / "one.bin").write_bytes(content)
        events = read_events(tmp_path / "one.bin")
        assert bin_bytes(*columns(events)) == content
        split, label, number = name.split("/")[-3:]
        table = rows[split.lower()]
        (row,) = np.flatnonzero((table["sample_id"] % 60000 == int(Path(number).stem)) & (table["label"] == int(label)))
        part = slice(ends := table["n_events"][:row].sum(), ends + table["n_events"][row])
        t = np.cumsum(table["dt_us"][part], dtype=np.int64)
        assert same(events, (t, table["x"][part], table["y"][part], np.unpackbits(table["p"])[part]))


@needs_aedat4
def test_a_real_aedat4_recording(tmp_path):
    pytest.importorskip("aedat", reason="the optional package aedat is not installed")
    events = read_events(AEDAT4)
    assert (len(events), events.height, events.width) == (111_954, 240, 320)
    assert 0.5e6 < np.ptp(events.t) < 0.7e6 and set(np.unique(events.polarity)) == {0, 1}
    assert frames(events, 5, size=64).shape == (5, 2, 64, 64)
    data, path = AEDAT4.read_bytes(), tmp_path / "cut.aedat4"
    for length in (0, 5, 14, 16, 20, 2333, 2334, 3000, 10_295, 500_000, 700_000):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"cut.aedat4' is damaged at byte \d+: |got '.*cut.aedat4'") as caught:
            read_events(path)
        if "byte" in str(caught.value):
            assert int(str(caught.value).split("at byte ")[1].split(":")[0]) <= length


def test_aedat4_without_its_package_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "aedat", None)
    with pytest.raises(ImportError, match=r"pip install 'sastc\[aedat\]'"):
        read_aedat4(tmp_path / "any.aedat4")


# ---------------------------------------------------------------- frames


def recording(t, x, y, polarity, size=34):
    return Events(*(np.asarray(part, np.int64) for part in (t, x, y, polarity)), size, size)


@quick
@given(recordings(16, 1 << 40), st.integers(1, 9), st.sampled_from(["count", "time"]))
def test_frames_hold_every_event_once_in_its_place(given, time_steps, by):
    maps = frames(recording(*given, 16), time_steps, by=by)
    assert maps.shape == (time_steps, 2, 16, 16) and maps.dtype == torch.float32
    expected = torch.zeros(2, 16, 16)
    for _, x, y, polarity in zip(*given):
        expected[polarity, y, x] += 1
    assert maps.sum(0).equal(expected)
    assert frames(recording(*given, 16), time_steps, by=by, values="binary").equal(maps.clamp(max=1))
    torch.testing.assert_close(16 * frames(recording(*given, 16), time_steps, size=4, by=by), F.avg_pool2d(maps, 4, divisor_override=1))


@quick
@given(recordings(16, 1 << 40), st.integers(1, 9))
def test_slices_by_count_are_even_and_in_the_order_of_the_file(given, time_steps):
    events = recording(*given, 16)
    counts = frames(events, time_steps).sum((1, 2, 3))
    assert counts.max() - counts.min() <= 1
    ends = counts.cumsum(0).long().tolist()
    for step, (first, last) in enumerate(zip([0, *ends], ends)):
        if last > first:
            assert frames(events[first:last], 1)[0].equal(frames(events, time_steps)[step])


@quick
@given(recordings(16, 1 << 40), st.integers(1, 9))
def test_slices_by_time_are_of_equal_length(given, time_steps):
    t = given[0]
    counts = frames(recording(*given, 16), time_steps, by="time").sum((1, 2, 3))
    # Python's whole numbers, since a float cannot hold 2^40 microseconds times the steps exactly
    expected = [sum(step == (int(when) - int(t.min())) * time_steps // int(t.max() - t.min() + 1) for when in t) for step in range(time_steps)]
    assert counts.tolist() == expected


@pytest.mark.parametrize("dtype", [np.uint32, np.int32, np.uint64, np.uint16])
def test_times_of_any_whole_numbers_give_the_same_frames(dtype):
    "Seventy minutes in 32 bits without a sign: times the number of steps they leave that range."
    until = min(2**32, np.iinfo(dtype).max)
    t, x, y, polarity = some(400, until=until)
    narrow = Events(t.astype(dtype), x.astype(np.uint16), y.astype(np.uint8), polarity.astype(bool), 34, 34)
    assert {column.dtype for column in columns(narrow)} == {np.dtype(np.int64)}
    for by in ("count", "time"):
        assert frames(narrow, 9, by=by).equal(frames(recording(t, x, y, polarity), 9, by=by))
    counts = frames(narrow, 4, by="time").sum((1, 2, 3))
    assert counts.sum() == 400 and counts.min() > 70


@pytest.mark.parametrize("spoil", [lambda t: t[:-1], lambda t: t / 2, lambda t: t[:, None]], ids=["length", "dtype", "rank"])
def test_columns_that_do_not_fit_are_refused(spoil):
    t, x, y, polarity = some()
    with pytest.raises(ValueError, match=r"t, x, y, polarity: expected four columns of whole numbers \[n\], got "):
        Events(spoil(t), x, y, polarity, 34, 34)


@pytest.mark.parametrize("spoil", [dict(polarity=[-1, 1, 1, -1]), dict(x=[0, 1, 8, 2]), dict(y=[0, -1, 3, 2])])
def test_events_off_the_sensor_are_named(spoil):
    columns = dict(t=[0, 1, 2, 3], x=[0, 1, 2, 3], y=[3, 2, 1, 0], polarity=[0, 1, 0, 1]) | spoil
    with pytest.raises(ValueError, match=f"{next(iter(spoil))}: expected numbers from 0 to [17], got "):
        frames(Events(**{name: np.array(column) for name, column in columns.items()}, height=8, width=8), 2)


def test_frames_of_unordered_and_of_no_events():
    back = recording([30, 10, 20], [0, 1, 2], [0, 0, 0], [1, 1, 1])
    for by in ("count", "time"):  # the order of a file need not be that of time
        assert [maps.nonzero()[:, 2].tolist() for maps in frames(back, 3, by=by)] == [[1], [2], [0]]
        assert not frames(back[:0], 3, by=by).any()


@pytest.mark.parametrize(
    "given, sentence",
    [
        (dict(time_steps=0), "time_steps: expected .*, got 0"),
        (dict(size=-1), "size: expected .*, got -1"),
        (dict(values="count"), "values: expected one of counts, binary, got 'count'"),
    ],
)
def test_frames_refuse_bad_settings(given, sentence):
    with pytest.raises(ValueError, match=sentence):
        frames(recording(*some()), **dict(time_steps=2) | given)


def test_48_pixels_of_128_are_those_of_the_published_preprocessing():
    "METHOD 4.5: binary frames, resized as 8-bit images; ours are rounded after the resizing instead of before."
    events = recording(*some(4000, 128), 128)
    ours = framing.as_bytes(frames(events, 2, 48, values="binary"), "binary")
    images = (frames(events, 2, values="binary") * 255).byte()
    published = torch.stack([v2.functional.pil_to_tensor(v2.functional.resize(v2.functional.to_pil_image(maps), [48, 48])) for maps in images.flatten(0, 1)])
    difference = torch.from_numpy(ours).flatten(0, 1).int() - published[:, 0].int()
    assert difference.abs().max() <= 2


def test_counts_are_shares_of_the_largest_of_each_frame_and_a_dark_frame_stays_dark():
    maps = torch.zeros(2, 2, 3, 3)
    maps[0, 0, 0, 0], maps[0, 1, 1, 1] = 4, 1
    assert framing.as_bytes(maps, "counts")[0].max() == 255 and framing.as_bytes(maps, "counts")[0, 1, 1, 1] == 64
    assert not framing.as_bytes(maps, "counts")[1].any()
    assert framing.as_bytes(maps.clamp(max=1), "binary")[0, 1, 1, 1] == 255


# ---------------------------------------------------------------- batches


def noise(count=7, time_steps=3, size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, time_steps, 2, size, size), dtype=torch.uint8, generator=generator), torch.arange(count) % 2


def test_frames_of_one_recording_move_together_and_as_images_do():
    "A recording of equal frames stays one, and its place and mirror are those that `Batches` gives an image in that place of the plan."
    x, y = noise()
    still = x[:, :1].expand(-1, 3, -1, -1, -1)
    options = dict(shuffle=True, drop_last=False, seed=5)
    moved = FrameBatches(still, y, 3, change=Change(2, flip=True), **options)
    images = Batches(still[:, 0], y, 3, mean=(0, 0), std=(1, 1), crop_padding=2, flip=True, **options)
    for (shown, labels), (pictures, of) in zip(moved.epoch(1), images.epoch(1), strict=True):
        assert shown.eq(shown[:1]).all() and labels.equal(of)
        torch.testing.assert_close(shown[0], pictures)


def test_a_change_without_amount_changes_nothing_and_leaves_the_data_alone():
    x, y = noise()
    before = x.clone()
    for change in (Change(0), Change(0, wrap=True, rotate=1e-12), Change(3, flip=True, rotate=20.0)):
        ((shown, labels),) = FrameBatches(x, y, 7, change=change, shuffle=True, drop_last=True).epoch(0)
        assert shown.shape == (3, 7, 2, 8, 8) and x.equal(before)
        if change.shift == 0:
            (plain,) = FrameBatches(x, y, 7, shuffle=True, drop_last=True).epoch(0)
            torch.testing.assert_close(shown, plain[0], atol=1e-5, rtol=0)


def test_two_processes_do_together_what_one_does():
    x, y = noise(8)
    options = dict(change=Change(2, wrap=True, flip=True, rotate=5.0), shuffle=True, drop_last=True, seed=3)
    pair = [FrameBatches(x, y, 2, rank=rank, world=2, **options) for rank in range(2)]
    for (shown, labels), *shares in zip(FrameBatches(x, y, 4, **options).epoch(2), *(process.epoch(2) for process in pair), strict=True):
        assert shown.equal(torch.cat([share[0] for share in shares], 1)) and labels.equal(torch.cat([share[1] for share in shares]))


@pytest.mark.parametrize(
    "changes, sentence",
    [
        (dict(x_train=torch.zeros(4, 3, 2, 8, 8)), r"x_train: expected uint8 \[N, T, 2, H, W\] .*, got torch\.float32"),
        (dict(x_test=noise(2, 4)[0]), r"x_test: expected .*the same for both splits"),
        (dict(y_test=torch.tensor([0, 2])), r"y_test: expected one int64 label from 0 to 1 for each of the 2 recordings"),
        (dict(y_train=torch.zeros(3, dtype=torch.int64)), r"y_train: expected .* each of the 4 recordings, got torch.int64 \[3\]"),
    ],
)
def test_frame_data_refuse_parts_that_do_not_fit(changes, sentence):
    (x, y), (x_test, y_test) = noise(4), noise(2)
    whole = dict(name="made", x_train=x, y_train=y, x_test=x_test, y_test=y_test, classes=["a", "b"], change=Change(1))
    assert "4 training and 2 test recordings of 3 frames of 2x8x8, 2 classes" in repr(FrameData(**whole))
    with pytest.raises(ValueError, match=sentence):
        FrameData(**whole | changes)


# ---------------------------------------------------------------- data sets


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.fixture
def nmnist(tmp_path):
    for split, count in dict(Train=3, Test=1).items():
        for label in range(2):
            for number in range(count):
                put(tmp_path / "NMNIST" / split / f"{label}/{number:05}.bin", bin_bytes(*some(60, seed=10 * label + number)))
    return tmp_path


def test_n_mnist_goes_by_its_folders(nmnist):
    data = load_frames("nmnist", nmnist, time_steps=3)
    assert (data.num_classes, data.channels, data.image_size, data.time_steps, data.classes[1]) == (10, 2, 34, 3, "1")
    assert (data.y_train.tolist(), data.y_test.tolist()) == ([0, 0, 0, 1, 1, 1], [0, 1])
    one = frames(recording(*some(60, seed=11)), 3)
    expected = (one / one.amax((1, 2, 3), keepdim=True) * 255).round().byte()
    assert data.x_train[4].equal(expected)
    assert len(subset(data, 4, 0).x_train) == 4 and [len(part) for part in split_holdout(data, 0.34, 0)] == [4, 2]


def test_cifar10_dvs_learns_from_the_first_900_of_each_class(tmp_path):
    for name in EVENT_SETS["cifar10_dvs"].classes[:2]:
        for number in (0, 9, 10, 899, 900, 999):
            put(tmp_path / "CIFAR10DVS" / name / f"cifar10_{name}_{number}.aedat", aedat2_bytes(*some(50, 128, seed=number)))
    data = load_data("cifar10_dvs", tmp_path, time_steps=2, values="binary")
    assert (data.x_train.shape, data.y_train.tolist(), data.y_test.tolist()) == ((8, 2, 2, 48, 48), [0] * 4 + [1] * 4, [0, 0, 1, 1])
    assert data.x_test[1].equal(torch.from_numpy(framing.as_bytes(frames(recording(*some(50, 128, seed=999), 128), 2, 48, values="binary"), "binary")))
    assert data.change.flip and data.change.wrap


LABELS = "class,startTime_usec,endTime_usec\n1,0,50000\n11,50000,100000\n"


def gestures(root):
    folder = root / "DvsGesture"
    for user in ("user01_led", "user24_led"):
        put(folder / f"{user}.aedat", aedat3_bytes(*some(300, 128, seed=len(user) + int(user[4:6]))))
        (folder / f"{user}_labels.csv").write_text(LABELS)
    (folder / "trials_to_train.txt").write_text("user01_led.aedat\n")
    (folder / "trials_to_test.txt").write_text("user24_led.aedat\n\n")
    return folder


def test_gestures_are_cut_out_of_sessions(tmp_path):
    folder = gestures(tmp_path)
    data = load_frames("dvs_gesture", tmp_path, time_steps=4, by="time")
    assert (data.x_train.shape, data.y_train.tolist(), data.y_test.tolist()) == ((2, 4, 2, 64, 64), [0, 10], [0, 10])
    assert not data.change.flip and data.change.rotate
    session = read_aedat3(folder / "user24_led.aedat")
    second = frames(session[(session.t >= 50_000) & (session.t < 100_000)], 4, 64, "time")
    assert data.x_test[1].equal(torch.from_numpy(framing.as_bytes(second, "counts")))


@pytest.mark.parametrize(
    "table, sentence",
    [
        (LABELS.replace("11,", "12,"), "data: expected rows of class \\(1 to 11\\), .* in '.*user01_led_labels.csv', got .*'12'"),
        (LABELS.replace("50000,100000", "50000"), "data: expected rows of class"),
        (LABELS + "2,200000,300000\n", "data: expected events from 200000 to 300000 microseconds, .*, got none in '.*user01_led.aedat'; it may be cut short"),
    ],
)
def test_wrong_tables_of_gestures_are_named(table, sentence, tmp_path):
    (gestures(tmp_path) / "user01_led_labels.csv").write_text(table)
    with pytest.raises(ValueError, match=sentence):
        load_frames("dvs_gesture", tmp_path)


@pytest.mark.parametrize("name", EVENT_SETS)
def test_data_that_are_not_there_say_what_to_download(name, tmp_path):
    for attempt in (lambda: load_frames(name, tmp_path), lambda: check_data(name, tmp_path), lambda: train_teacher(data=name, root=str(tmp_path))):
        with pytest.raises(FileNotFoundError, match=f"data: expected the files of {name} in '.*{EVENT_SETS[name].folder}', got none or too few; unpack "):
            attempt()
    with pytest.raises(ValueError, match=f"data: expected an image data set, got '{name}', which are event recordings"):
        load_images(name)


def cached(root):
    (path,) = (root / "frames").glob("*.npz")
    return path


def test_frames_are_cut_once(nmnist, monkeypatch):
    first = load_frames("nmnist", nmnist, 2)
    monkeypatch.setattr(framing, "_cut", lambda *args, **settings: pytest.fail("read again"))
    assert load_frames("nmnist", nmnist, 2).x_train.equal(first.x_train)


@pytest.mark.parametrize("change", ["content", "more", "fewer"])
def test_other_recordings_are_cut_again(nmnist, change):
    first, folder = load_frames("nmnist", nmnist, 2), nmnist / "NMNIST/Train/1"
    if change == "content":
        put(folder / "00001.bin", bin_bytes(*some(61, seed=99)))
    elif change == "more":
        put(folder / "00009.bin", bin_bytes(*some(60, seed=99)))
    else:
        (folder / "00001.bin").unlink()
    again = load_frames("nmnist", nmnist, 2)
    assert again.x_train.shape != first.x_train.shape or not again.x_train.equal(first.x_train)
    assert len(list((nmnist / "frames").iterdir())) == 1


def test_a_damaged_file_of_frames_is_made_again(nmnist):
    first = load_frames("nmnist", nmnist, 2, 4)
    path = cached(nmnist)
    whole, values = path.read_bytes(), np.random.default_rng(0)
    damaged = [whole[:length] for length in np.linspace(0, len(whole) - 1, 12).astype(int)]
    for position in values.integers(len(whole), size=60):
        damaged.append(whole[:position] + bytes([whole[position] ^ 1 << values.integers(8)]) + whole[position + 1 :])
    for content in damaged:
        path.write_bytes(content)
        again = load_frames("nmnist", nmnist, 2, 4)
        for part in ("x_train", "y_train", "x_test", "y_test"):
            assert getattr(again, part).equal(getattr(first, part))


def test_frames_that_cannot_be_kept_are_used_all_the_same(nmnist):
    (nmnist / "frames").write_text("in the way")
    with pytest.warns(UserWarning, match="frames could not be kept in .* the next run will read the recordings again"):
        assert len(load_frames("nmnist", nmnist, 2).x_train) == 6


def test_one_damaged_recording_is_named_before_training_and_can_be_left_out(nmnist, monkeypatch):
    short = nmnist / "NMNIST/Train/1/00002.bin"
    short.write_bytes(short.read_bytes()[:-3])
    sentence = f"data: '{short}' is damaged at byte 295: the file ends after 2 of the 5 bytes of an event; mend it, or leave it out with skip_damaged"
    settings = dict(data="nmnist", root=str(nmnist), model="wrn16_2", width=1 / 16, frames=2, batch_size=2, holdout=0.0, epochs=1)
    with pytest.raises(ValueError) as caught:
        train_teacher(**settings, folder=str(nmnist / "run"))
    assert str(caught.value) == sentence and not (nmnist / "run").exists()
    monkeypatch.setattr(framing, "_cut", lambda *args, **settings: pytest.fail("the others were lost"))
    with pytest.warns(UserWarning, match="goes without 1 damaged files: .*00002.bin' is damaged at byte 295"):
        run = train_teacher(**settings, skip_damaged=True, folder=str(nmnist / "run"))
    assert run.state == "finished"


# ---------------------------------------------------------------- teacher modes


def still(time_steps=3, batch=4, seed=0):
    image = torch.rand(batch, 2, 16, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return image.expand(time_steps, *image.shape)


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    teacher = create_model("resnet19", 5, None, 2, width=1 / 16).double().eval()
    student = create_model("vggsnn", 5, 3, 2, width=1 / 16, image_size=16).double()
    return Taps(teacher, ["stage1", "stage2", "stage3"]), student


def test_modes_are_what_they_say(networks):
    teacher, _ = networks
    images = still() + torch.rand(3, 4, 2, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    each = [teacher(frame) for frame in images]
    logits, features = taught(teacher, images, "fold_step")
    torch.testing.assert_close(logits, sum(output for output, _ in each) / 3)
    for number, feature in enumerate(features):
        torch.testing.assert_close(feature, torch.stack([maps[number] for _, maps in each]))
    mean_logits, means = taught(teacher, images)
    torch.testing.assert_close(mean_logits, logits)
    for mean, feature in zip(means, features):
        torch.testing.assert_close(mean, feature.mean(0))
    logits, features = taught(teacher, images, "mean_frame")
    expected = teacher(images.mean(0))
    torch.testing.assert_close([logits, *features], [expected[0], *expected[1]])
    with pytest.raises(ValueError, match="teacher_mode: expected one of fold_mean, mean_frame, fold_step, got 'fold'"):
        taught(teacher, images, "fold")


@pytest.mark.parametrize("attention", ["self", "rsa", "uniform"])
def test_modes_agree_where_nothing_changes_over_time(networks, attention):
    "Loss and every gradient; and they are those of the image itself, as static data give it."
    teacher, student = networks
    shapes = [[shape[1:] for shape in (feature.shape for feature in taught(teacher, still())[1])]]
    layers = ["layer2", "layer6"]
    student_shapes = [feature.shape[2:] for feature in Taps(student, layers)(still())[1]]
    torch.manual_seed(1)
    method = SASTC(beta=1.0, attention=ATTENTIONS[attention](**(dict(factor=2) if attention == "self" else {})))
    method.build(Shapes(student_shapes, shapes[0], batch_size=4, num_classes=5, time_steps=3))
    method.double()
    labels, results = torch.tensor([0, 1, 2, 3]), {}
    for mode, images in dict(fold_mean=still(), mean_frame=still(), fold_step=still(), static=still()[0]).items():
        learner = Learner(student, method, layers, teacher, mode if mode != "static" else "fold_mean")
        outcome = learner(images, labels)
        trained = [p for p in learner.parameters() if p.requires_grad]
        assert list(outcome.terms) == ["ce", "kl", "sastc"]
        results[mode] = [outcome.total, *(term.value for term in outcome.terms.values()), *torch.autograd.grad(outcome.total, trained, allow_unused=True)]
    for mode, values in results.items():
        for value, expected in zip(values, results["fold_mean"], strict=True):
            torch.testing.assert_close(value, expected, atol=1e-9, rtol=1e-7, msg=lambda text: f"{mode}: {text}")


def test_the_calibrator_compares_step_by_step_with_teachers_of_their_own():
    "As many calibrators as steps, and float64 gradients of the student through all of them."
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    calibrator = Calibrator([(2, 2, 2), (3,)], [(2, 2, 2), (2, 1, 1)], batch_size=3, factor=1).double()
    student, teacher = [draw(3, 3, 2, 2, 2), draw(3, 3, 3)], [draw(3, 3, 2, 2, 2), draw(3, 3, 2, 1, 1)]
    together = calibrator(student, teacher)
    for step in range(3):
        alone = calibrator([feature[step : step + 1] for feature in student], [feature[step] for feature in teacher])
        for part, expected in zip(together, alone):
            torch.testing.assert_close(part[step : step + 1], expected)
    calibrator.eval()  # so that repeated passes of the numerical gradient see the same statistics
    assert torch.autograd.gradcheck(lambda *features: calibrator([*features], teacher), [feature.requires_grad_() for feature in student], atol=1e-4)
    with pytest.raises(ValueError, match="teacher_features: expected 3 steps, as the student has, or none, got 2"):
        calibrator(student, [feature[:2] for feature in teacher])


@pytest.mark.parametrize("name", ["vgg11", "resnet18_sastc", "wrn16_2", "vggsnn"])
def test_students_and_teachers_take_frames_and_leave_them_as_they_were(name):
    frames_in = torch.rand(3, 2, 2, 16, 16)
    before = frames_in.clone()
    sized = dict(image_size=16) if name.startswith("vgg") else {}
    for time_steps in (3, None):
        network = create_model(name, 5, time_steps, 2, width=1 / 16, **sized)
        outputs, features = Taps(network, network.taps)(frames_in)
        assert outputs.shape == (3, 2, 5) and all(feature.shape[:2] == (3, 2) for feature in features)
    taught(Taps(network, network.taps), frames_in, "mean_frame")
    assert frames_in.equal(before)


# ---------------------------------------------------------------- training


@pytest.mark.parametrize(
    "given, sentence",
    [
        (dict(teacher_mode="fold"), "teacher_mode: expected one of fold_mean, mean_frame, fold_step, got 'fold'"),
        (
            dict(teacher_mode="fold_step", method="rate"),
            "teacher_mode: expected fold_mean or mean_frame for method rate, which joins the steps, got 'fold_step'",
        ),
        (dict(teacher_mode="fold_step", method="kd+rate"), "teacher_mode: expected fold_mean or mean_frame for method kd.rate"),
        (dict(teacher_mode="mean_frame", data="digits"), "teacher_mode: expected only with event recordings, got 'mean_frame' with data 'digits'"),
        (dict(frames_by="events"), "frames_by: expected one of count, time, got 'events'"),
        (dict(frame_values="rates"), "frame_values: expected one of counts, binary, got 'rates'"),
        (
            dict(frames_by="time", data="digits"),
            "frames_by: expected only with data nmnist, dvs_gesture, cifar10_dvs, tonic:NAME, got 'time' with data 'digits'",
        ),
        (dict(frames=3), "setting: expected .*, got 'frames'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(given, sentence):
    with pytest.raises(ValueError, match=sentence):
        settings_for(Config, dict(data="nmnist") | given)


def test_a_student_takes_one_frame_a_step(nmnist):
    data = load_frames("nmnist", nmnist, 3)
    with pytest.raises(ValueError, match="student: expected 3 time steps, as nmnist has frames, got 2"):
        distill(data=data, method="baseline", time_steps=2, batch_size=2, holdout=0.0, folder=str(nmnist / "run"))
    with pytest.raises(ValueError, match=r"model: expected a network that takes images of shape \[2, 34, 34\], got WRN"):
        train_teacher(data=data, model=create_model("wrn16_2", width=1 / 16), batch_size=2, folder=str(nmnist / "run"))


@needs_nmnist
def test_from_the_original_files_to_a_student(tmp_path):
    "Ten real recordings of each split; teacher, student in each mode, and the same again from the cache."
    with zipfile.ZipFile(NMNIST) as archive:
        for name in archive.namelist():
            if name.endswith(".bin"):
                put(tmp_path / "NMNIST" / Path(*Path(name).parts[-3:]), archive.read(name))
    common = dict(data="nmnist", root=str(tmp_path), batch_size=5, holdout=0.0, lr=0.02, epochs=2, width=1 / 16, log_every=1)
    teacher = train_teacher(model="wrn16_2", frames=3, folder=tmp_path / "teacher", **common)
    assert teacher.model().spec["in_channels"] == 2
    common |= dict(teacher=str(teacher.folder), student="resnet18", time_steps=3, beta=1.0, factor=2)
    runs = {mode: distill(method="sastc", teacher_mode=mode, folder=tmp_path / mode, **common) for mode in ("fold_mean", "mean_frame", "fold_step")}
    runs["again"] = distill(method="sastc", teacher_mode="fold_mean", folder=tmp_path / "again", **common)
    runs["kd"] = distill(method="kd", folder=tmp_path / "kd", **{name: value for name, value in common.items() if name not in ("beta", "factor")})
    losses = {name: run.steps.total.tolist() for name, run in runs.items()}
    assert losses["again"] == losses["fold_mean"] and len({tuple(values) for values in losses.values()}) == 4
    assert runs["fold_step"].attention.shape == (4, 3, 4, 3)
    assessed = assess(tmp_path / "fold_step")
    assert assessed["accuracy"] == pytest.approx(runs["fold_step"].result["test_accuracy_best"])
    assert np.isfinite([assessed["stm_raw"], assessed["stm_norm"]]).all()
    data = load_frames("nmnist", tmp_path, 3)
    batches = data.batches("test", 3, shuffle=False, drop_last=False)
    assert measure(teacher.model(), batches, 10)["accuracy"] == pytest.approx(teacher.result["test_accuracy_best"])
    assert Run(tmp_path / "kd").config["teacher_mode"] == "fold_mean"
