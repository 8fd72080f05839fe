"""Reports say what they must, in every state of a run, and what attention says is said exactly when it is so."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sastc.cli.commands import run_command
from sastc.common.settings import flat
from sastc.methods import METHODS, Calibrated
from sastc.methods.attention import attention_bounds
from sastc.metrics.attention import attention_entropy
from sastc.studies.figures import attention_history, attention_map, attention_summary, method_comparison, rates_figure, training_curves
from sastc.studies.report import write_report
from sastc.training.config import Config, TeacherConfig, settings_for
from sastc.training.records import write_json
from sastc.training.runs import Run, RunWriter

LAYERS = dict(student=["layer2", "layer4"], teacher=["stage1", "stage2", "stage3"])


class Page(HTMLParser):
    "What a reader and a browser find in a page."

    def __init__(self, path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.open, self.texts, self.loads, self.attributes, self.figures, self.tables = [], [], [], [], 0, []
        self.feed(self.source)
        assert not self.open, f"{self.open} are not closed"

    def handle_starttag(self, tag, attributes):
        self.attributes += [(tag, *pair) for pair in attributes]
        loading = ("src", "href", "srcset", "data", "action", "poster")
        self.loads += [value for name, value in attributes if name in loading and not value.startswith("#")]
        if tag == "table":
            self.tables.append([])
        if tag not in ("meta", "br", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        inside = self.open[-1] if self.open else ""
        if inside == "script":
            self.figures += data.count("Plotly.newPlot(")
        elif inside != "style" and data.strip():
            self.texts.append((inside, data.strip()))
            if self.tables and inside in ("th", "td"):
                self.tables[-1].append(data.strip())

    def of(self, tag):
        return [text for inside, text in self.texts if inside == tag]

    @property
    def text(self):
        return " ".join(text for _, text in self.texts)


def begin(folder, kind="student", **settings):
    config = settings_for(Config if kind == "student" else TeacherConfig, settings)
    layers = LAYERS if kind == "student" and compares(config["method"]) else {}
    return RunWriter(folder, kind, flat(config), layers)


def compares(method):
    return issubclass(METHODS.find(method), Calibrated)


def record(writer, epochs=2, accuracy=0.5, attention=None):
    "Records as the trainer writes them."
    student = "attention" if json.loads((writer.folder / "layers.json").read_text()) else ""
    kind = json.loads((writer.folder / "config.json").read_text())["kind"]
    for epoch in range(1, epochs + 1):
        parts = dict(train_total=3 / epoch, train_ce=2 / epoch, train_accuracy=accuracy * epoch / epochs)
        parts |= dict(validation_accuracy=accuracy, validation_loss=1.0)
        rates = dict(rates={"layer1.2": 0.2, "layer2.2": 0.1}) if kind == "student" else {}
        writer.record("epochs", step=4 * epoch, epoch=epoch, lr=0.1, seconds=1.0, images_per_second=9.0, peak_memory_mib=1.0, **parts, **rates)
        if student:
            weights = attention or [[[0.5, 0.3, 0.2], [0.2, 0.3, 0.5]]] * 2
            writer.record("attention", step=4 * epoch, epoch=epoch, attention=weights, saturation=0.0)
    writer.status(state="running", epoch=epochs, epochs=4, step=4 * epochs, steps=16)


def finish(writer, accuracy=0.5):
    result = dict(test_accuracy_last=accuracy, test_accuracy_best=accuracy + 0.01, best_epoch=2, validation_accuracy_best=accuracy)
    result |= dict(parameters=1234, minutes=0.5)
    if json.loads((writer.folder / "config.json").read_text())["kind"] == "student":
        rates = {"layer1.2": 0.2, "layer2.2": 0.1}
        result |= dict(firing_rate=0.15, operations=1e6, microjoule=0.9, ann_microjoule=4.6, training_parameters=2345, rates=rates)
    writer.result(**result)
    writer.status(state="finished", epoch=4, epochs=4, step=16, steps=16)


@pytest.fixture
def study(tmp_path):
    teacher = begin(tmp_path / "study" / "teacher", "teacher", data="digits")
    record(teacher, accuracy=0.9)
    finish(teacher, 0.97)
    for method in ("baseline", "sastc"):
        for seed in (0, 1):
            writer = begin(tmp_path / "study" / f"{method}-seed{seed}", data="digits", method=method, seed=seed, teacher=str(teacher.folder))
            record(writer)
            finish(writer, 0.5 + 0.1 * seed + 0.2 * (method == "sastc"))
    return tmp_path / "study"


def test_a_study(study):
    page = Page(write_report(study))
    sections = ["Result", "Training", "Attention by time step", "Firing rates", "Settings", "Environment", "Run folders"]
    assert page.of("h2") == sections and page.of("h3") == ["sastc-seed0", "sastc-seed1"]
    assert page.loads == [] and page.figures == 5
    methods = page.tables[0]
    assert methods[:2] == ["method", "seeds"]
    assert methods[7:11] == ["baseline", "2", "55.00 % ± 7.07", "56.00 % ± 7.07"]
    assert methods[14:18] == ["sastc", "2", "75.00 % ± 7.07", "76.00 % ± 7.07"]
    assert "98.00%" in " ".join(page.tables[2]) and "2 seeds only" in page.text
    differing = next(table for table in page.tables if table[:3] == ["run", "seed", "method"] or table[:3] == ["run", "method", "seed"])
    assert "sastc-seed1" in differing and "temperature" not in differing
    assert not [kind for kind in page.attributes if kind[1:] == ("class", "warning")]


def test_tables_are_accessible(study):
    page = Page(write_report(study))
    tags = [inside for inside, _ in page.texts]
    assert tags.count("caption") == len(page.tables) >= 6
    scopes = [value for tag, name, value in page.attributes if (tag, name) == ("th", "scope")]
    assert set(scopes) == {"row", "col"} and "lang" in {name for tag, name, _ in page.attributes if tag == "html"}
    assert all(any(name == "aria-label" for tag, name, _ in page.attributes if tag == kind) for kind in ("figure", "nav", "div"))
    links = {value[1:] for tag, name, value in page.attributes if name == "href"}
    assert links == {value for tag, name, value in page.attributes if (tag, name) == ("section", "id")}


def test_the_browser_is_forbidden_to_load_anything(study):
    page = Page(write_report(study))
    policy = next(value for tag, name, value in page.attributes if name == "content" and "default-src" in value)
    assert policy.startswith("default-src 'none'") and "http" not in policy and "*" not in policy
    # plotly.js itself is in the page, once; nothing else runs in it but the calls that draw
    scripts = re.findall(r"<script[^>]*>", page.source)
    assert len([s for s in scripts if "src=" in s]) == 0 and page.source.count("plotly.js v") == 1
    assert "prefers-color-scheme: dark" in page.source


@pytest.mark.parametrize("method", METHODS)
def test_a_single_student(tmp_path, method):
    writer = begin(tmp_path / "run", data="digits", method=method, teacher="elsewhere")
    record(writer)
    finish(writer)
    page = Page(write_report(tmp_path / "run"))
    assert "test accuracy, best epoch" in page.tables[0] and "51.00%" in page.tables[0]
    assert ("Attention by time step" in page.of("h2")) == compares(method)
    assert page.figures == 2 + 2 * compares(method)
    assert page.loads == []


def test_a_single_teacher(tmp_path):
    writer = begin(tmp_path / "run", "teacher", data="digits")
    record(writer)
    finish(writer, 0.97)
    page = Page(write_report(tmp_path / "run"))
    assert page.of("h2") == ["Result", "Training", "Settings", "Environment", "Run folders"] and "98.00%" in page.tables[0]


@pytest.mark.parametrize(
    "status, said",
    [
        (dict(state="running", step=8, steps=16), "run: The run is being trained, at step 8 of 16. It last wrote at 20"),
        (dict(state="stopped", step=8, steps=16, saved=True), "run: The run was stopped at step 8 of 16. Resume continues from the last checkpoint."),
        (
            dict(state="failed", step=8, steps=16, reason="NotFinite: part 'sastc' is nan"),
            "run: The run failed at step 8 of 16: NotFinite: part 'sastc' is nan. There is no checkpoint yet",
        ),
        (dict(state="failed"), "run: The run failed before the first step: it left no reason."),
    ],
)
@pytest.mark.parametrize("recorded", [True, False])
def test_a_run_that_is_not_over_says_so(tmp_path, status, said, recorded):
    writer = begin(tmp_path / "run", data="digits")
    if recorded:
        record(writer)
    writer.status(**status)
    page = Page(write_report(tmp_path / "run"))
    assert said in page.text
    assert "Result" not in page.of("h2") and "Training" in page.of("h2")
    assert ("Attention by time step" in page.of("h2")) == recorded == ("Firing rates" in page.of("h2"))
    assert ("No epoch has ended yet." in page.source) != recorded


def test_a_run_whose_process_is_gone_is_lost(tmp_path):
    writer = begin(tmp_path / "run", data="digits")
    writer.status(state="running", step=8, steps=16)
    write_json(writer.folder / "status.json", Run(writer.folder).status | dict(pid=2**22 + 1))
    assert "run: The run broke off at step 8 of 16: its process is gone" in Page(write_report(tmp_path / "run")).text


def test_a_study_with_unfinished_runs(study):
    writer = begin(study / "kd-seed0", method="kd", data="digits", teacher=str(study / "teacher"))
    writer.status(state="failed", step=1, steps=16, reason="out of memory")
    (study / "kd-seed1").mkdir()
    page = Page(write_report(study))
    assert "kd-seed0: The run failed at step 1 of 16: out of memory." in page.text
    assert "kd" not in page.tables[0] and "55.00 % ± 7.07" in page.tables[0]
    assert "kd-seed1" not in page.text


def test_a_result_without_a_status_is_a_finished_run(study):
    for status in study.glob("*/status.json"):
        status.unlink()
    assert not [kind for kind in Page(write_report(study)).attributes if kind[1:] == ("class", "warning")]


def test_mixed_settings_are_named(study):
    writer = begin(study / "sastc-seed2", data="digits", method="sastc", seed=2, beta=3.0, teacher=str(study / "teacher"))
    record(writer)
    finish(writer)
    page = Page(write_report(study))
    assert "sastc, beta 3.0" in page.tables[0] and "55.00 % ± 7.07" in page.tables[0]  # the mean of the others is what it was


def test_the_teacher_of_a_student_elsewhere_is_shown(study):
    assert "teacher" in Page(write_report(study / "sastc-seed0")).tables[1]


def test_teachers_of_one_name_stand_beside_their_own_students(tmp_path):
    for number, where in enumerate("ab"):
        teacher = begin(tmp_path / where / "teacher", "teacher", data="digits", seed=number)
        record(teacher)
        finish(teacher, 0.9 + 0.05 * number)
        writer = begin(tmp_path / "all" / f"kd-{where}", data="digits", method="kd", teacher=str(teacher.folder), time_steps=2 + number)
        record(writer)
        finish(writer)
    page = Page(write_report(tmp_path / "all"))
    named = next(table for table in page.tables if "Teachers" in table or "a/teacher" in table)
    assert {"a/teacher", "b/teacher", "90.00%", "95.00%"} <= set(named)  # one was lost
    lines = [set(re.findall(r"teacher \d+.00%", part)) for part in page.source.split("<h3>Budget")[1:3]]
    assert lines == [{"teacher 90.00%", "teacher 91.00%"}, {"teacher 95.00%", "teacher 96.00%"}]  # of the last and of the best epoch


def test_strings_of_users_are_escaped(tmp_path):
    evil = "<script>alert('x')</script>&<b>"
    folder = tmp_path / evil.replace("/", "_")
    writer = begin(folder, data=evil, teacher=evil)
    (folder / "layers.json").write_text(json.dumps(dict(student=["a", evil], teacher=["1", "2", evil])))
    record(writer)
    finish(writer)
    writer.status(state="failed", reason=evil, step=1, steps=2)
    page = Page(write_report(folder))
    assert "alert('x')" not in re.sub(r"<script.*?</script>", "", page.source, flags=re.S).replace("&#39;", "")
    assert evil in page.text and "<script>alert" not in page.source
    assert page.of("h1") == [folder.name]


def test_where_it_is_written(study, tmp_path):
    assert write_report(study) == study / "report.html"
    assert write_report(str(study), tmp_path / "deep" / "page.html") == tmp_path / "deep" / "page.html"
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_page_takes_the_place_of_a_page_of_ours_alone(study, tmp_path):
    page = write_report(study, tmp_path / "page.html")
    ours = page.read_text()
    page.write_text(ours.replace('<meta name="generator" content="sastc">\n', ""))  # as older versions wrote it
    assert write_report(study, page) == page and '<meta name="generator" content="sastc">' in page.read_text()
    for text in ("<html><title>mine – sastc</title></html>", "notes", ours[ours.index("<style>") :]):
        page.write_text(text)
        with pytest.raises(
            ValueError, match="out: expected a new page, or one that sastc wrote, got .*page.html, which is another file; move it, or choose another"
        ):
            write_report(study, page)
        assert page.read_text() == text
    page.write_text("")
    assert write_report(study, page).stat().st_size
    (tmp_path / "report.html").write_text("mine")
    arguments = "--data digits --image_size 16 --student vgg11 --width 0.0625 --methods baseline --epochs 1 --folder".split()
    assert run_command("compare", [*arguments, str(tmp_path)]) == 2
    assert not (tmp_path / "baseline-seed0").exists() and (tmp_path / "report.html").read_text() == "mine"


def test_no_run(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match="folder: expected a run folder, or a folder of run folders, got .*, which holds no run"):
            write_report(folder)
    assert not list(tmp_path.iterdir())


def weights(seed, shape, sharpness):
    logits = sharpness * np.random.default_rng(seed).standard_normal(shape)
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


shapes = st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 6))


@given(seed=st.integers(0, 2**32 - 1), shape=shapes, sharpness=st.floats(0, 50), scale=st.sampled_from([0.0, 0.1, 1.0, 8.0]))
def test_numbers_of_attention_are_bounded(seed, shape, sharpness, scale):
    attention, names, bounds = weights(seed, shape, sharpness), [f"stage{n}" for n in range(shape[-1])], attention_bounds(shape[-1], scale)
    summary = attention_summary(attention, names, bounds)
    assert -1e-12 <= summary["entropy"] <= np.log(shape[-1]) + 1e-9
    for name in ("relative_entropy", "spread_layers", "spread_steps", "saturation"):
        assert -1e-12 <= summary[name] <= 1, name
    assert all(sentence.endswith(".") for sentence in summary["words"])
    order = np.random.default_rng(seed).permutation(shape[-1])
    permuted = attention_summary(attention[..., order], [names[n] for n in order], bounds)
    assert permuted["words"] == summary["words"]
    for name in ("entropy", "spread_layers", "spread_steps", "saturation"):
        assert permuted[name] == pytest.approx(summary[name], abs=1e-9)


@given(seed=st.integers(0, 2**32 - 1), shape=shapes)
def test_spreads_vanish_where_nothing_differs(seed, shape):
    steps, students, teachers = shape
    names = [str(n) for n in range(teachers)]
    one = weights(seed, (1, 1, teachers), 1.0)
    same = attention_summary(np.tile(one, (steps, students, 1)), names, attention_bounds(teachers))
    assert same["spread_layers"] == pytest.approx(0, abs=1e-12) and same["spread_steps"] == pytest.approx(0, abs=1e-12)
    steady = attention_summary(np.tile(weights(seed, (1, students, teachers), 1.0), (steps, 1, 1)), names, attention_bounds(teachers))
    assert steady["spread_steps"] == pytest.approx(0, abs=1e-12)


def said(attention, attn_scale=1.0, **more):
    "First words of what is said of a map."
    teachers = np.shape(attention)[-1]
    words = attention_summary(np.asarray(attention), [f"stage{n + 1}" for n in range(teachers)], attention_bounds(teachers, attn_scale), **more)["words"]
    return [re.match(r"(Attention (?:is|has) \w+|Attention agrees|There is one teacher layer)", sentence)[1] for sentence in words]


LOW, HIGH = attention_bounds(3)
REST = (1 - HIGH) / 2
SATURATED, COLLAPSED, UNIFORM, AGREES = "Attention is saturated", "Attention has collapsed", "Attention is uniform", "Attention agrees"


@pytest.mark.parametrize(
    "rows, words",
    [
        ([[HIGH, REST, REST]] * 4, [SATURATED, COLLAPSED]),
        ([[0.65, 0.2, 0.15]] * 4, [COLLAPSED]),
        ([[0.65, 0.2, 0.15]] * 3 + [[0.15, 0.65, 0.2]], []),  # one layer listens elsewhere
        ([[0.65, 0.2, 0.15]] * 3 + [[0.4, 0.3, 0.3]], [AGREES]),  # one layer hardly prefers it
        ([[HIGH, REST, REST], [REST, HIGH, REST], [REST, REST, HIGH], [HIGH, REST, REST]], [SATURATED]),
        ([[HIGH, REST, REST], [0.4, 0.4, 0.2], [0.4, 0.4, 0.2], [0.2, 0.4, 0.4]], []),  # a quarter
        ([[1 / 3] * 3] * 4, [UNIFORM]),
        ([[0.35, 0.33, 0.32]] * 4, [UNIFORM]),
        ([[0.35, 0.33, 0.32]] * 3 + [[0.5, 0.3, 0.2]], [AGREES]),
    ],
)
def test_words_come_exactly_when_they_are_due(rows, words):
    assert said([rows, rows]) == words


def test_words_of_special_cases():
    assert said(np.ones((2, 3, 1))) == ["There is one teacher layer"]
    assert said(np.full((2, 3, 4), 0.25), attn_scale=0.0) == [UNIFORM]
    assert said([[[0.7, 0.2, 0.1]]]) == []  # one student layer cannot collapse
    assert said([[[0.7, 0.2, 0.1]] * 2], attn_scale=8.0) == [COLLAPSED]
    # what was recorded image by image overrides what the mean shows
    assert said([[[0.4, 0.4, 0.2]] * 2], saturation=0.9) == [SATURATED]
    assert said([[[HIGH, REST, REST], [REST, HIGH, REST]]], saturation=0.1) == []
    with pytest.raises(ValueError, match=r"attention: expected shape \[T, S, 3\] .*, got \[2, 3\]"):
        attention_summary(np.ones((2, 3)), LAYERS["teacher"], (LOW, HIGH))
    with pytest.raises(ValueError, match="saturation: expected a number from 0 to 1, got 2"):
        attention_summary(np.full((1, 1, 3), 1 / 3), LAYERS["teacher"], (LOW, HIGH), saturation=2)
    with pytest.raises(ValueError, match="bounds: expected the least and the greatest weight"):
        attention_summary(np.full((1, 1, 3), 1 / 3), LAYERS["teacher"], (HIGH, LOW))


def test_entropy():
    assert attention_entropy([[1.0, 0.0], [0.5, 0.5]]) == pytest.approx([0, np.log(2)])


@given(shape=st.tuples(st.integers(1, 12), st.integers(1, 9), st.integers(1, 30)))
def test_maps_of_any_size(shape):
    names = [[str(n) for n in range(count)] for count in shape[1:]]  # names that look like numbers, as those of nn.Sequential
    figure = attention_map(weights(0, shape, 1.0), *names, attention_bounds(shape[-1]))
    assert len(figure.data) == shape[0] and figure.layout.xaxis.type == figure.layout.yaxis.type == "category"


def test_figures_of_runs_without_records(tmp_path):
    run = Run(begin(tmp_path / "run", data="digits").folder)
    figures = training_curves(run), attention_history(run), rates_figure(run), method_comparison([run])
    shown = [figure.layout.annotations[0].text for figure in figures]
    assert shown == [
        "No epoch has ended yet.", "No attention has been recorded.", "No firing rate has been recorded.", "No student has finished yet.",
    ]  # fmt: skip


def test_curves_of_runs_that_differ_in_length_and_validation(tmp_path):
    for seed, epochs in enumerate((1, 3)):
        record(begin(tmp_path / f"run{seed}", data="digits", method="baseline", seed=seed), epochs=epochs)
    runs = [Run(tmp_path / f"run{seed}") for seed in range(2)]
    for line in (tmp_path / "run1" / "epochs.jsonl",):
        records = [json.loads(text) for text in line.read_text().splitlines()]
        line.write_text("".join(json.dumps({k: v for k, v in r.items() if "validation" not in k}) + "\n" for r in records))
    figure = training_curves(runs)
    assert [trace.name for trace in figure.data if trace.showlegend] == ["baseline"]
    assert max(len(trace.x) for trace in figure.data if trace.name == "baseline") == 3


def test_what_a_method_of_ones_own_recorded_is_shown(tmp_path):
    writer = RunWriter(tmp_path / "run", "student", flat(settings_for(Config, dict(data="digits"))) | dict(method="elsewhere:Mine"), {})
    writer.terms(dict(ce=dict(label="cross-entropy", unit="nats"), pull=dict(label="pull <of> layers", unit="px")))
    writer.record("epochs", step=4, epoch=1, train_ce=2.0, train_pull=3.0, train_accuracy=0.5)
    writer.record("route", step=4, epoch=1, chosen=0.25, weights=[[1, 2]])
    page = Page(write_report(tmp_path / "run"))
    assert page.of("h2") == ["Training", "Other records", "Settings", "Environment", "Run folders"]
    assert "pull &lt;of&gt; layers, px" in page.source and "Recorded: route" in page.source
    assert "elsewhere:Mine" in page.text


def test_a_setting_says_what_it_means(tmp_path):
    begin(tmp_path / "run", data="digits", beta=3.0)
    [table] = [table for table in Page(write_report(tmp_path / "run")).tables if "meaning" in table]
    assert table[table.index("beta") :][:3] == ["beta", "3.0", "weight of the calibration"]
