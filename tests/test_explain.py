"""Analyses agree with their definitions, written out as loops, and every figure is drawn from a run that was really made."""

import math
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from sastc.cli import main
from sastc.common.settings import flat
from sastc.data.frames import load_frames
from sastc.data.images import balanced_sample, load_images, subset
from sastc.methods import KD, SASTC, Method, Term
from sastc.metrics.energy import synaptic_operations
from sastc.metrics.mismatch import mismatch, pair_weights, stm_score
from sastc.models import Taps, create_model, spiking
from sastc.neurons.neuron import IF, LIF, PLIF
from sastc.studies import explain
from sastc.studies.comparisons import compare_methods
from sastc.studies.explain import (
    activation_figure,
    activation_map,
    activation_maps,
    cost,
    cost_figure,
    costs,
    energy_figure,
    exit_figure,
    fisher_figure,
    fisher_information,
    information_centroid,
    layer_costs,
    overlap,
    sample_words,
    similarity_figure,
    spike_activation_map,
    write_explanation,
)  # fmt: skip
from sastc.studies.figures import mismatch_history, mismatch_table
from sastc.studies.report import write_report
from sastc.training.config import TEACHER_MODES, Config, settings_for
from sastc.training.measure import compared_layers, evaluate_mismatch, fixed_batches
from sastc.training.opening import assess
from sastc.training.runs import Run
from sastc.training.session import distill, train_teacher


def scaled(heat):
    span = heat.max() - heat.min()
    return (heat - heat.min()) / (span if span else 1)


def maps_by_definition(spikes, gamma, include_now):
    "The formula, spike by spike."
    steps, batch, channels, height, width = spikes.shape
    maps = torch.zeros(steps, batch, height, width, dtype=torch.float64)
    for t, b, i, j in np.ndindex(steps, batch, height, width):
        for k in range(channels):
            past = [s for s in range(t + include_now) if spikes[s, b, k, i, j]]
            maps[t, b, i, j] += spikes[t, b, k, i, j] * sum(math.exp(-gamma * (t - s)) for s in past)
    for t, b in np.ndindex(steps, batch):
        maps[t, b] = scaled(maps[t, b])
    return maps


@given(seed=st.integers(0, 10**6), gamma=st.sampled_from([0.0, 0.5, 2.0]), include_now=st.booleans(), rate=st.sampled_from([0.0, 0.2, 0.7, 1.0]))
def test_spike_activation_maps_are_the_formula(seed, gamma, include_now, rate):
    spikes = (torch.rand(4, 2, 2, 2, 3, generator=torch.Generator().manual_seed(seed)) < rate).double()
    torch.testing.assert_close(spike_activation_map(spikes, gamma, include_now), maps_by_definition(spikes, gamma, include_now))


def test_regular_spiking_beats_sparse_spiking_and_a_lone_spike_counts_one():
    spikes = torch.zeros(6, 1, 1, 1, 4, dtype=torch.float64)
    spikes[:, ..., 0], spikes[[0, 5], ..., 1], spikes[5, ..., 2] = 1, 1, 1  # regular, sparse, lone, silent
    regular, sparse, lone, silent = spike_activation_map(spikes, gamma=0.5)[5, 0, 0].tolist()
    assert regular == 1 and regular > sparse > lone > silent == 0
    counted = sum(math.exp(-0.5 * ago) for ago in range(6))  # N of the regular neuron, so that the scale is known
    assert lone * counted == pytest.approx(1) and sparse * counted == pytest.approx(1 + math.exp(-2.5))
    assert spike_activation_map(spikes, include_now=False)[0].max() == 0


def test_maps_take_the_size_that_is_asked_for_and_refuse_what_they_cannot_read():
    spikes, features = (torch.rand(3, 2, 4, 4, 4) > 0.5).float(), torch.randn(2, 4, 4, 4)
    assert spike_activation_map(spikes, size=16).shape == (3, 2, 16, 16)
    assert activation_map(features, (8, 12)).shape == (2, 8, 12)
    torch.testing.assert_close(activation_map(features)[1], scaled(features[1].relu().sum(0)))
    assert spike_activation_map(torch.ones(2, 1, 1, 4, 4, dtype=torch.bool)).abs().max() == 0  # no contrast
    for wrong, sentence in [
        (spikes[0], r"spikes: expected \[T, B, C, H, W\], got \[2, 4, 4, 4\]"),
        (spikes * 0.5, "values other than 0 and 1"),
        (spikes * torch.nan, "values other than 0 and 1"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            spike_activation_map(wrong)
    with pytest.raises(ValueError, match="gamma: expected a number of at least 0, got -1"):
        spike_activation_map(spikes, gamma=-1)
    with pytest.raises(ValueError, match=r"features: expected .*, got \[2, 4, 4\]"):
        activation_map(features[:, 0])


@given(seed=st.integers(0, 10**6))
def test_overlap_is_correlation_and_intersection_of_the_brightest(seed):
    left, right = torch.rand(2, 3, 5, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    agreed = overlap(left, right)
    for number, (a, b) in enumerate(zip(left.flatten(1).numpy(), right.flatten(1).numpy())):
        assert agreed.correlation[number].item() == pytest.approx(np.corrcoef(a, b)[0, 1])
        brightest = [set(np.argsort(values)[-4:]) for values in (a, b)]  # a fifth of 20
        assert agreed.iou[number].item() == pytest.approx(len(brightest[0] & brightest[1]) / len(brightest[0] | brightest[1]))


def test_overlap_stretches_over_time_and_says_where_there_is_nothing_to_compare():
    student, teacher = torch.rand(4, 3, 8, 8), torch.rand(3, 8, 8)
    student[0, 1] = 0
    agreed = overlap(student, teacher)
    assert agreed.iou.shape == agreed.correlation.shape == (4, 3)
    assert agreed.iou.isnan().sum() == agreed.correlation.isnan().sum() == 1 and agreed.iou[0, 1].isnan()
    with pytest.raises(ValueError, match=r"teacher_map: expected maps of \[8, 8\], as the student's, got \[4, 8\]"):
        overlap(student, teacher[:, :4])


def test_stm_is_zero_for_equal_features_and_normalised_does_not_see_scale():
    teacher = [torch.rand(8, 5, 2, 2, dtype=torch.float64), torch.rand(8, 6, dtype=torch.float64)]
    same = [feature.expand(3, *feature.shape) for feature in teacher[:1]]
    assert mismatch(same, teacher[:1]).item() == 0 and stm_score(same, teacher[:1]) == -math.inf
    student = [torch.rand(3, 8, 7, dtype=torch.float64) for _ in range(2)]
    larger = [0.01 * f for f in student], [30 * f for f in teacher]
    assert stm_score(*larger, normalize=True) == pytest.approx(stm_score(student, teacher, normalize=True))
    assert stm_score(*larger) != pytest.approx(stm_score(student, teacher), abs=1)
    assert math.isfinite(stm_score([torch.zeros(3, 8, 7)], teacher, normalize=True))  # a silent layer


def test_stm_with_chosen_pairs_is_the_loop_over_them():
    student, teacher = [torch.rand(2, 6, 4, dtype=torch.float64) for _ in range(3)], [torch.rand(6, 5, dtype=torch.float64) for _ in range(2)]
    attention = torch.rand(2, 3, 2, dtype=torch.float64).softmax(-1)
    diagonal = [(0, 0), (1, 0), (2, 1)]

    def pair(t, s, n):
        return (student[s][t] @ student[s][t].T - teacher[n] @ teacher[n].T).square().mean()

    expected = {
        "all": sum(pair(t, s, n) for t, s, n in np.ndindex(2, 3, 2)) / 12,
        "diagonal": sum(pair(t, s, n) for t in range(2) for s, n in diagonal) / 6,
        "attention": sum(attention[t, s, n] * pair(t, s, n) for t, s, n in np.ndindex(2, 3, 2)) / 6,
    }
    for pairs, value in expected.items():
        weights = pair_weights(3, 2, pairs, attention if pairs == "attention" else None).double()
        torch.testing.assert_close(mismatch(student, teacher, weights=weights), value)
    with pytest.raises(ValueError, match="pairs: expected one of .*, got 'diagonals'"):
        pair_weights(3, 2, "diagonals")


def fisher_by_definition(network, images, labels):
    "One image, one step, one parameter at a time."
    totals = torch.zeros(network.time_steps, dtype=torch.float64)
    for image, label in zip(images, labels):
        for t in range(network.time_steps):
            network.zero_grad()
            outputs = network(image[None])
            torch.stack(outputs[: t + 1].unbind()).mean(0).log_softmax(-1)[0, label].backward()
            totals[t] += sum(p.grad.double().square().sum() for p in network.parameters())
    return totals / len(images)


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    network = create_model("vgg11", time_steps=3, in_channels=1, width=1 / 32).eval()
    return network.double(), torch.rand(4, 1, 32, 32, dtype=torch.float64), torch.tensor([1, 7, 3, 0])  # no spike hangs on rounding


def test_fisher_information_is_the_loop_over_images(tiny):
    network, images, labels = tiny
    found = fisher_information(network, images, labels)
    np.testing.assert_allclose(found, fisher_by_definition(network, images, labels), rtol=1e-6)
    assert 1 <= information_centroid(found) <= 3
    together = fisher_information(network, images, labels, group=4)
    assert (together <= found * (1 + 1e-6)).all()  # the square of a mean is at most the mean of squares
    sequence = images.expand(3, *images.shape)
    np.testing.assert_allclose(fisher_information(network, sequence, labels), found, rtol=1e-6)


def test_drawn_labels_give_the_trace_of_the_fisher_matrix():
    "For a linear network the trace is known: the sum over classes, weighted by their probabilities."

    class Linear(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(0.3 * torch.randn(3, 4, generator=torch.Generator().manual_seed(3)))

        def forward(self, x):
            return torch.stack([x.flatten(1), 2 * x.flatten(1)]) @ self.weight.T

    network, image = Linear(), torch.randn(1, 1, 2, 2, generator=torch.Generator().manual_seed(4))
    images = image.expand(300, 1, 2, 2)
    outputs, found = network(image).detach()[:, 0], fisher_information(network, images)
    for t, scale in enumerate([1, 1.5]):
        p = outputs[: t + 1].mean(0).softmax(-1)
        squares = (torch.eye(3) - p).square().sum(-1) * scale**2 * image.square().sum()
        expected = p @ squares
        assert abs(found[t] - expected) < 3 * (p @ (squares - expected).square() / len(images)).sqrt()  # three standard errors of the draw
    np.testing.assert_array_equal(found, fisher_information(network, images))
    assert (found != fisher_information(network, images, seed=1)).any()


def test_fisher_information_leaves_the_network_as_it_was_and_refuses_nonsense(tiny):
    network, images, labels = tiny
    network.zero_grad(set_to_none=True)
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    fisher_information(network, images[:1])
    assert network.training and all(p.grad is None for p in network.parameters())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    network.eval()
    for group, sentence in [(3, "group: expected a divisor of 4"), (0, "group: expected .*, got 0"), (5, "group: expected .*, got 5")]:
        with pytest.raises(ValueError, match=sentence):
            fisher_information(network, images, labels, group=group)
    for wrong in ([], [0, 0], [-1, 2], [[1.0]], [math.nan, 1]):
        with pytest.raises(ValueError, match="information: expected .* got"):
            information_centroid(wrong)


SMALL = dict(data="digits", train_images=128, batch_size=32, lr=0.05, log_every=2, seed=0)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    teacher = train_teacher(model="wrn16_2", width=0.25, epochs=2, folder=str(folder / "teacher"), **SMALL)
    config = settings_for(Config, dict(teacher=str(teacher.folder), width=0.125, beta=1.0, epochs=2, keep_epochs=(1, 2), mismatch_batches=1, **SMALL))
    compare_methods(folder, ["baseline", "feature_kd", "sastc"], [0], config)
    return folder


def test_the_mismatch_of_every_method_is_recorded_on_the_same_images(study, tmp_path):
    for name in ("baseline", "feature_kd", "sastc"):
        run = Run(study / f"{name}-seed0")
        assert run.metrics[["stm_raw", "stm_norm"]].notna().all(axis=None) and len(run.metrics) == 2
        student, teacher = run.model("last"), Run(study / "teacher").model()
        again = evaluate_mismatch(*compared_layers(run.settings.method, student, teacher), fixed_batches(load_images("digits"), 1))
        assert again["stm_norm"] == pytest.approx(run.metrics.stm_norm.iloc[-1], abs=1e-4)
    table = mismatch_table([Run(study / f"{name}-seed0") for name in ("baseline", "sastc")], epochs=1)
    assert table.stm_raw["baseline"] == Run(study / "baseline-seed0").metrics.stm_raw.iloc[-1] and table.stm_raw_sd.isna().all()
    assert len(mismatch_history(Run(study / "baseline-seed0")).data) == 2
    assert {"stm_raw", "stm_norm"} <= set(assess(study / "baseline-seed0"))
    assert "Mismatch with the teacher" in write_report(study, tmp_path / "page.html").read_text()


def test_looking_at_the_teacher_changes_nothing_in_the_student(study, tmp_path):
    run = Run(study / "baseline-seed0")
    plain = distill(**{**run.config, "mismatch_batches": 0, "folder": str(tmp_path / "plain")})
    assert "stm_raw" not in plain.metrics
    theirs = run.checkpoint("last")["model"]
    assert all(torch.equal(value, theirs[name]) for name, value in plain.checkpoint("last")["model"].items())


def test_recording_the_mismatch_needs_a_teacher(tmp_path):
    with pytest.raises(ValueError, match="teacher: expected a run folder .* for mismatch_batches, got none"):
        distill(method="baseline", mismatch_batches=1, folder=str(tmp_path / "run"), **SMALL)
    assert not (tmp_path / "run").exists()


def test_figures_of_a_run(study):
    run = Run(study / "sastc-seed0")
    looks = activation_figure(run, [0, 5])
    assert len(looks.data) == 2 * (1 + 2 + 1) and looks.data[1].z.dtype == np.int8
    maps = activation_maps(study / "sastc-seed0", [0], layer="layer4", teacher_layer="stage1")
    assert maps.layers == ("layer4.2", "stage1") and maps.student.shape == (2, 1, 32, 32)
    arranged = similarity_figure(str(run.folder), images=8)
    assert len(arranged.data) == 4 * 2 + 3
    assert all(set(np.diag(trace.z)) <= {0, 100} for trace in arranged.data)  # 0 for an image at which a student layer is silent
    assert all(np.diag(trace.z).min() == 100 for trace in arranged.data[-3:])
    assert len(fisher_figure([run, study / "baseline-seed0"], images=4).data) == 2
    assert [trace.name.split(":")[0] for trace in energy_figure([study / "baseline-seed0", run]).data] == ["baseline", "sastc", "as an ANN"]


def test_information_at_several_epochs_stands_side_by_side(study, tmp_path):
    runs = [Run(study / f"{name}-seed0") for name in ("baseline", "sastc")]
    epochs = fisher_figure(runs, images=4, which=("epoch-1", "epoch-2"))
    assert [trace.xaxis for trace in epochs.data] == ["x", "x2", "x", "x2"] and [trace.legend for trace in epochs.data] == ["legend", "legend2"] * 2
    assert [note.text for note in epochs.layout.annotations] == ["epoch 1", "epoch 2"] and len(epochs.layout.shapes) == 4
    for trace, which, run in zip(epochs.data, ["epoch-1", "epoch-2"] * 2, [runs[0]] * 2 + [runs[1]] * 2):
        (alone,) = fisher_figure(run, images=4, which=which).data
        assert (alone.y, alone.name) == (trace.y, trace.name)
        data, chosen = load_images("digits"), balanced_sample(load_images("digits"), 4)
        found = fisher_information(run.model(which), next(data.batches("test", 4, chosen=chosen, shuffle=False, drop_last=False).epoch(0))[0])
        assert trace.y == pytest.approx(found / found.sum(), rel=1e-3) and trace.name.startswith(
            f"{run.config['method']}: centroid {information_centroid(found):.2f}"
        )
    assert epochs.data[0].y != epochs.data[1].y
    with pytest.raises(FileNotFoundError, match="epoch-3.pt, which is not there; the folder has best, last, epoch-1, epoch-2"):
        fisher_figure(runs, which=("epoch-1", "epoch-3"))
    with pytest.raises(ValueError, match="which: expected at least one name"):
        fisher_figure(runs, which=[])


def test_calibration_costs_nothing_at_inference(study):
    baseline, sastc = study / "baseline-seed0", study / "sastc-seed0"
    table = costs([baseline, sastc], steps=2)
    for name in ("parameters", "first_macs", "ann_microjoule"):
        assert table[name].nunique() == 1
    assert table.training_only["baseline-seed0"] == 0 < table.training_only["sastc-seed0"]
    assert layer_costs(baseline)[["layer", "macs", "spiking_input"]].equals(layer_costs(sastc)[["layer", "macs", "spiking_input"]])
    assert (table.filter(like="_seconds") >= 0).all(axis=None) and (table.peak_memory_mib > 0).all()
    parts = ["teacher_seconds", "student_seconds", "method_seconds", "method_attention_seconds", "method_alignment_seconds", "backward_seconds"]
    assert (table.loc["sastc-seed0", parts] > 0).all()
    assert table.loc["sastc-seed0", parts[3:5]].sum() < table.method_seconds["sastc-seed0"]
    assert (table.loc["baseline-seed0", [parts[0], *parts[3:5]]] == 0).all() and table.method_seconds["baseline-seed0"] > 0
    bars = cost_figure(table).data
    assert [trace.name for trace in bars] == ["teacher", "student", "method: attention", "method: alignment", "method: other", "backward", "rest"]
    assert np.sum([trace.x for trace in bars], axis=0) == pytest.approx(1000 * table.step_seconds, rel=0.05)


def test_costs_are_those_of_the_package_and_say_on_which_images(study):
    run, data = Run(study / "sastc-seed0"), load_images("digits")
    chosen = balanced_sample(data, 40)
    assert data.y_test[chosen].bincount().tolist() == [4] * 10
    table = layer_costs(run, images=40)
    x = next(data.batches("test", 40, chosen=chosen, shuffle=False, drop_last=False).epoch(0))[0]
    assert table.equals(synaptic_operations(run.model(), x)) and table.attrs["images"] == "40 of 360 test images, 4 of each class"
    found = cost(run, steps=1, images=40)
    assert found["microjoule"] == pytest.approx(table.picojoule.sum() / 1e6) and found["test_images"] == 40
    whole = cost(run, steps=1, images=0)
    for name in ("firing_rate", "operations", "microjoule", "ann_microjoule"):
        assert whole[name] == pytest.approx(run.result[name])
    assert layer_costs(run, images=0).picojoule.sum() / 1e6 == pytest.approx(run.result["microjoule"])
    for figure in (energy_figure(run, images=40), fisher_figure(run, images=15), similarity_figure(run, images=15)):
        assert ("40 of 360 test images, 4 of each class" in figure.layout.title.subtitle.text) or (
            "15 of 360 test images, 1 to 2 of each class" in figure.layout.title.subtitle.text
        )
    assert sample_words(data, torch.arange(360)) == "all 360 test images"


@given(seed=st.integers(0, 10**6), count=st.integers(1, 70))
def test_a_balanced_sample_is_dealt_in_turns(seed, count):
    "The definition: one of each class per turn, in the order of the test set, until the count is reached."

    class Labelled:
        y_test = torch.randint(5, (60,), generator=torch.Generator().manual_seed(seed))

    waiting = [(Labelled.y_test == label).nonzero().flatten().tolist() for label in range(5)]
    dealt = []
    while any(waiting):
        dealt += sorted(of_class.pop(0) for of_class in waiting if of_class)
    assert balanced_sample(Labelled, count).tolist() == sorted(dealt[:count])


def test_one_page_with_everything(study, tmp_path, capsys):
    page = write_explanation(study, tmp_path / "all.html", images=4).read_text()
    assert page.count("Plotly.newPlot(") == 1 + 3 + 3 + 1 + 1 + 1 + 1 and "src=" not in page.split("<body>")[1]
    assert "epoch 1" in page and "epoch 2" in page  # which all runs kept
    assert main(["explain", str(study / "sastc-seed0"), "--out", str(tmp_path / "one.html"), "--images", "4"]) == 0
    assert (tmp_path / "one.html").exists() and "one.html" in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match="holds no finished student"):
        write_explanation(study / "teacher")


def test_runs_of_other_budgets_are_no_seeds_of_one_another(study, tmp_path):
    first = Run(study / "baseline-seed0")
    longer = distill(**flat(first.settings) | dict(time_steps=3, epochs=1, keep_epochs=(), folder=str(tmp_path / "longer")))
    wider = distill(**flat(first.settings) | dict(width=0.25, epochs=1, keep_epochs=(), folder=str(tmp_path / "wider")))
    runs = [first, longer, wider]
    for figure in (fisher_figure, energy_figure):
        together = [trace.name.rsplit(": ", 1) for trace in figure(runs, images=4).data if trace.name]
        alone = [figure(run, images=4).data[0] for run in runs]
        assert [said for _, said in together[:3]] == [trace.name.rsplit(": ", 1)[1] for trace in alone]
        assert ["time_steps 3" in name for name, _ in together[:3]] == [False, True, False]
    assert [name.endswith("as an ANN") for name, _ in together] == [False] * 3 + [True] * 2  # of the wider network another one
    curves = {trace.name: trace.x[1] for trace in exit_figure(runs, images=20, thresholds=(0, 1)).data if trace.x[0] == 1}
    assert list(curves.values()) == [2, 3, 2] and all("baseline, " in name for name in curves)
    with pytest.raises(ValueError, match="run: expected the run of a student, got that of a teacher"):
        energy_figure([first, study / "teacher"])


def test_a_page_shows_each_budget_and_few_images_for_all(study, tmp_path, monkeypatch):
    first = Run(study / "sastc-seed0")
    longer = flat(first.settings) | dict(time_steps=3, epochs=1, keep_epochs=(), folder=str(tmp_path / "all" / "longer"))
    distill(**longer)
    shutil.copytree(first.folder, tmp_path / "all" / "first")
    seen, drawn = [], explain.similarity_figure
    monkeypatch.setattr(explain, "similarity_figure", lambda run, images, **own: (seen.append((run.folder.name, images)), drawn(run, 4, **own))[1])
    monkeypatch.setattr(explain, "fisher_figure", lambda runs, images, **own: fisher_figure(runs, 2, **own))
    page = write_explanation(tmp_path / "all", images=0).read_text()
    assert seen == [("first", 32), ("longer", 32)]  # of ten thousand images a matrix would be no figure
    assert page.count("Budget: ") == 2 and "time_steps 3" in page


def test_sentences(study, tmp_path):
    run = Run(study / "sastc-seed0")
    for wrong, sentence in [
        (lambda: activation_figure(study / "teacher"), "expected the run of a student, got that of a teacher"),
        (lambda: activation_figure(run, []), "images: expected at least one number of a test image, got none"),
        (lambda: activation_figure(run, [400]), "images: expected a whole number from 0 to 359, got 400"),
        (lambda: activation_figure(run, layer="layer44"), "layer: expected one of .*, got 'layer44'"),
        (lambda: costs(run, steps=0), "steps: expected a whole number of at least 1, got 0"),
        (lambda: layer_costs(run, images=-1), "images: expected a whole number of at least 0, got -1"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            wrong()
    with pytest.raises(FileNotFoundError, match="teacher: expected a run folder or checkpoint, got .*gone"):
        similarity_figure(run, teacher=tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match="first.pt, which is not there; the folder has best, last"):
        activation_figure(run, which="first")


def write_recording(path, generator, brightest):
    "In the format of N-MNIST: events around a column that moves with time."
    path.parent.mkdir(parents=True, exist_ok=True)
    t = np.arange(300)
    x, y = (brightest + t // 30 + generator.integers(-2, 3, 300)) % 34, generator.integers(34, size=300)
    path.write_bytes(np.stack([x, y, (t % 2) << 7, t >> 8, t & 255], 1).astype(np.uint8).tobytes())


@pytest.fixture(scope="module")
def events(tmp_path_factory):
    "A folder with a run of each teacher mode, on recordings of two classes."
    root, generator = tmp_path_factory.mktemp("events"), np.random.default_rng(0)
    for split, count in dict(Train=8, Test=3).items():
        for label in range(2):
            for number in range(count):
                write_recording(root / "NMNIST" / split / f"{label}/{number:05}.bin", generator, 5 + 12 * label)
    common = dict(data="nmnist", root=str(root), image_size=16, batch_size=4, holdout=0.0, lr=0.02, width=1 / 16, log_every=1, augment=False)
    teacher = train_teacher(model="wrn16_2", frames=3, epochs=1, folder=str(root / "teacher"), **common)
    common |= dict(teacher=str(teacher.folder), student="vggsnn", time_steps=3, threshold=0.2, beta=1.0, factor=2, epochs=2, mismatch_batches=1)
    for mode in TEACHER_MODES:
        distill(method="sastc", teacher_mode=mode, folder=str(root / "runs" / mode), **common)
    return root


@pytest.mark.parametrize("mode", TEACHER_MODES)
def test_maps_of_recordings_show_what_the_student_was_taught(events, mode):
    run, ann = Run(events / "runs" / mode), Run(events / "teacher").model()
    x = next(load_frames("nmnist", events, 3, 16).batches("test", 6, shuffle=False, drop_last=False).epoch(0))[0][:, [1, 4]]
    maps = activation_maps(run, [1, 4], layer="layer2", teacher_layer="stage2")
    with torch.no_grad():
        spikes = Taps(run.model(), [maps.layers[0]])(x)[1][0]
        by_frame, of_mean = torch.stack([Taps(ann, ["stage2"])(frame)[1][0] for frame in x]), Taps(ann, ["stage2"])(x.mean(0))[1][0]
    assert spikes.any()
    torch.testing.assert_close(maps.student, spike_activation_map(spikes, size=16))
    features = dict(fold_mean=by_frame.mean(0), mean_frame=of_mean, fold_step=by_frame)[mode]
    assert maps.teacher.shape == (*features.shape[:-3], 16, 16)
    for index in np.ndindex(features.shape[:-3]):
        expected = F.interpolate(features[index].relu().sum(0)[None, None], 16, mode="bilinear")[0, 0]
        torch.testing.assert_close(maps.teacher[index], scaled(expected), atol=1e-4, rtol=1e-3)
    for number in range(2):
        torch.testing.assert_close(maps.images[number], scaled(x[:, number].sum((0, 1))))
    figure = activation_figure(run, [1, 4], layer="layer2", teacher_layer="stage2")
    assert len(figure.data) == 2 * (1 + 3 + (3 if mode == "fold_step" else 1))
    assert [trace.showscale for trace in figure.data].count(False) == 2  # the pictures, in grey
    shown = [trace.z for trace in figure.data if trace.showscale is False]
    assert all(np.array_equal(z, (100 * image).round()) for z, image in zip(shown, maps.images))
    assert activation_maps(run, [0]).student.shape == (3, 1, 16, 16)


@pytest.mark.parametrize("mode", TEACHER_MODES)
def test_the_mismatch_of_recordings_is_with_what_the_student_was_taught(events, mode):
    run = Run(events / "runs" / mode)
    student, teacher = compared_layers(run.settings.method, run.model("last"), Run(events / "teacher").model())
    x = next(fixed_batches(load_frames("nmnist", events, 3, 16), 1).epoch(0))[0]
    with torch.no_grad():
        spikes, of_mean = student(x)[1], teacher(x.mean(0))[1]
        by_frame = list(zip(*(teacher(frame)[1] for frame in x)))  # of each layer, T features
    seen = dict(fold_mean=[sum(steps) / 3 for steps in by_frame], mean_frame=of_mean)
    by_step = [mismatch([layer[t : t + 1] for layer in spikes], seen.get(mode, [steps[t] for steps in by_frame])) for t in range(3)]
    expected = torch.stack(by_step).mean().log().item()
    assert run.metrics.stm_raw.iloc[-1] == pytest.approx(expected, abs=1e-3)
    assert assess(run, "last")["stm_raw"] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("mode", TEACHER_MODES)
def test_matrices_of_recordings_are_sorted_by_class_and_have_the_steps_of_their_teacher(events, mode):
    run, ann = Run(events / "runs" / mode), Run(events / "teacher").model()
    figure, stepwise = similarity_figure(run), mode == "fold_step"
    assert len(figure.data) == 3 * (len(run.layers["student"]) + len(run.layers["teacher"]) * stepwise) + len(run.layers["teacher"]) * (not stepwise)
    x, labels = next(load_frames("nmnist", events, 3, 16).batches("test", 6, shuffle=False, drop_last=False).epoch(0))
    assert labels.tolist() == [0, 0, 0, 1, 1, 1] and all(trace.z.shape == (6, 6) for trace in figure.data)
    frame = x.mean(0) if mode == "mean_frame" else x[2]
    feature = Taps(ann, run.layers["teacher"][-1:])(frame)[1][0].detach().flatten(1)
    if mode == "fold_mean":
        feature = torch.stack([Taps(ann, run.layers["teacher"][-1:])(frame)[1][0].detach().flatten(1) for frame in x]).mean(0)
    cosines = F.normalize(feature) @ F.normalize(feature).T
    assert np.abs(figure.data[-1].z - 100 * cosines.numpy()).max() < 1.5


def test_everything_else_of_recordings(events, tmp_path):
    runs = [Run(events / "runs" / mode) for mode in TEACHER_MODES]
    assert all(len(trace.x) == 3 for trace in fisher_figure(runs[:1], images=2).data)
    table = costs(runs, steps=1)
    assert (table.filter(like="_seconds") >= 0).all(axis=None) and table.first_macs.nunique() == 1
    assert (table[["teacher_seconds", "student_seconds", "method_alignment_seconds"]] > 0).all(axis=None)
    for run in runs:
        page = write_explanation(run.folder, tmp_path / "page.html", images=4).read_text()
        assert page.count("Plotly.newPlot(") == 7 and "What it looks at" in page


# --- networks, neurons, methods and data of one's own


class Read(KD):
    "and the teacher's logits at each step, through a layer that is learned"

    def build(self, shapes):
        self.reading = torch.nn.Linear(shapes.num_classes, shapes.num_classes)

    def terms(self, step):
        read = self.reading(step.outputs)
        return super().terms(step) | dict(read=Term(F.mse_loss(read, step.teacher_logits.expand_as(read)), 0.1))


class Plain(Method):
    "Labels alone, without any module or teacher"

    uses_teacher = False

    def terms(self, step):
        return dict(ce=Term(F.cross_entropy(step.logits, step.labels)))


class Steep(LIF):
    "A neuron of somebody's own."

    def decay_factor(self):
        return self.decay**2


def plain(channels, neuron=None):
    "Two layers for images of 16 by 16 pixels, which declare nothing; with a neuron as a student."
    torch.manual_seed(channels)
    layers = [
        torch.nn.Conv2d(1, channels, 3, 2, 1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(channels, 8, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(512, 10),
    ]
    network = torch.nn.Sequential(*layers)
    return network if neuron is None else spiking(network, 2, neuron=neuron, threshold=0.5)


OWN = dict(train_images=64, holdout=0.0, batch_size=16, lr=0.02, log_every=2, seed=0, epochs=1)


@pytest.mark.parametrize("neuron", [PLIF, IF, Steep], ids=lambda kind: kind.__name__)
def test_a_run_of_objects_of_your_own_is_explained(neuron, tmp_path):
    digits, network = subset(load_images("digits", image_size=16), 200, seed=0), plain(6, neuron)
    own = dict(student=network, teacher=plain(4), data=digits, method=Read())
    run = distill(**own, folder=str(tmp_path / "run"), **OWN)
    maps = activation_maps(run, **own)
    assert maps.layers == ("1", "3") and len(set(maps.labels)) == 4
    assert len(similarity_figure(run, 8, **own).data) == 2 * 2 + 2
    assert len(fisher_figure(run, 4, **own).data) == 1 and layer_costs(run, **own).layer.tolist() == ["0", "2", "5"]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = cost(run, steps=1, **own)
    assert found["method_seconds"] > found["method_reading_seconds"] > 0 and found["teacher_seconds"] > 0 and found["training_only"] == 110
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert write_explanation(run.folder, images=8, **own).read_text().count("Plotly.newPlot(") == 6
    lacking = write_explanation(run.folder, tmp_path / "lacking.html", 8, student=network, data=digits).read_text()
    assert "learned from a teacher of your own" in lacking and lacking.count("Plotly.newPlot(") == 3
    with pytest.raises(ValueError, match="teacher: expected the module itself"):
        activation_maps(run, student=network, data=digits)
    for lost in ("student", "data"):
        with pytest.raises(ValueError, match=f"expected .*pass .*{lost}="):
            layer_costs(run, **{name: thing for name, thing in own.items() if name != lost})


def test_a_method_without_modules_and_a_sum_of_methods_are_timed(study, tmp_path):
    teacher = str(study / "teacher")
    alone = distill(method=Plain(), width=0.125, folder=str(tmp_path / "alone"), data="digits", **OWN)
    both = distill(method=SASTC(beta=1.0) + Read(), teacher=teacher, width=0.125, folder=str(tmp_path / "both"), data="digits", **OWN)
    table = costs([alone, both], steps=1)
    inside = [name for name in table if name.startswith("method_") and name != "method_seconds"]
    assert len(inside) == 2 and "method_sastc_seconds" in inside
    assert (table.loc["both", [*inside, "method_seconds"]] > 0).all() and table.method_seconds["alone"] > 0
    assert (table.loc["alone", [*inside, "teacher_seconds", "training_only"]] == 0).all()
    assert len(cost_figure(table).data) == 7


def test_a_method_whose_class_is_not_found_by_name_is_passed(tmp_path):
    class Hidden(Plain):
        "Defined where no import reaches"

    run = distill(method=Hidden(), width=0.125, folder=str(tmp_path / "run"), data="digits", **OWN)
    with pytest.raises(ValueError, match="Hidden"):
        cost(run, steps=1)
    assert cost(run, steps=1, method=Hidden())["method_seconds"] > 0


def test_a_network_without_maps_is_refused_by_name_and_has_the_rest_of_the_page(study, tmp_path):
    layers = [torch.nn.Flatten(), torch.nn.Linear(1024, 16), torch.nn.ReLU(), torch.nn.Linear(16, 16), torch.nn.ReLU(), torch.nn.Linear(16, 10)]
    network = spiking(torch.nn.Sequential(*layers), 2)
    run = distill(student=network, method="kd", teacher=str(study / "teacher"), folder=str(tmp_path / "run"), data="digits", **OWN)
    with pytest.raises(ValueError, match="layer: expected a network with maps, got Sequential"):
        activation_maps(run, student=network)
    page = write_explanation(run.folder, student=network, images=8).read_text()
    assert "Activation maps are left out. layer: expected a network with maps" in page and "Fisher information over time steps" in page


def test_a_layer_without_a_place_in_time_costs_the_page_its_early_exit_only(tmp_path):
    class Thrice(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.head, self.act = torch.nn.Linear(1024, 16), torch.nn.Linear(16, 10), torch.nn.ReLU()

        def forward(self, x):
            spikes = self.act(self.first(x.flatten(1)))
            return self.head(spikes.repeat(3, 1))[: len(spikes)]

    network = spiking(Thrice(), 2)
    run = distill(student=network, method="baseline", folder=str(tmp_path / "run"), data="digits", **OWN)
    page = write_explanation(run.folder, student=network, images=8).read_text()
    assert "Curves are left out. network: expected layers that run once" in page and "Fisher information over time steps" in page
