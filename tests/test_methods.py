"""Methods as objects: their terms, sums of two, and a method of one's own through training, stopping, resuming and opening."""

import json
import os
import signal
import sys

import numpy as np
import pytest
import torch
from ending import at_step
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import Program
from torch import nn
from torch.nn import functional as F

from sastc.common.settings import flat, setting
from sastc.methods import KD, METHODS, RSA, SASTC, Baseline, DistillationLoss, FeatureKD, Method, Shapes, Step, Term, about
from sastc.methods.attention import Attention, SelfAttention
from sastc.methods.calibrator import Calibrator
from sastc.models import candidates, create_model
from sastc.training import Run, distill, open_run, train_teacher
from sastc.training import learner as learner_module
from sastc.training.opening import assess

OURS = ("baseline", "kd", "feature_kd", "sastc", "uniform", "rate", "rsa", "routed")  # others: test_rivals.py
TINY = dict(data="digits", train_images=64, holdout=0.0, batch_size=16, lr=0.02, log_every=2, width=1 / 16, seed=3, device="cpu")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return train_teacher(**TINY | dict(model="wrn16_2", width=0.25, epochs=1, folder=tmp_path_factory.mktemp("methods") / "teacher"))


def a_step(seed=0, time_steps=2, batch=8, students=((3, 4, 4), (4, 2, 2)), teachers=((3, 4, 4), (2, 2, 2), (5,)), classes=5):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.rand(shape, generator=generator)

    labels = torch.randint(classes, (batch,), generator=generator)
    student = [(draw(time_steps, batch, *shape) * 2 - 0.5).requires_grad_() for shape in students]
    outputs = 3 * draw(time_steps, batch, classes) + sum(feature.flatten(2).mean(2, keepdim=True) for feature in student)
    step = Step(draw(batch, 1, 8, 8), labels, outputs, student, draw(batch, classes), [draw(batch, *shape) for shape in teachers], 0.5)
    return step, Shapes(list(students), list(teachers), batch, classes, time_steps)


SINGLE = dict(students=((3, 4, 4),), teachers=((2, 2, 2),))


def built(method, seed=0, **sizes):
    step, shapes = a_step(seed, **(SINGLE if isinstance(method, FeatureKD) else {}) | sizes)
    torch.manual_seed(1)
    method.build(shapes)
    return method, step


# ---------------------------------------------------------------- terms


@pytest.mark.parametrize("name", OURS)
def test_terms_have_values_weights_labels_and_units(name):
    method, step = built(METHODS[name]())
    terms = method.terms(step)
    expected = dict(
        [("cross-entropy", 1.0)]
        + [("soft labels (KL)", getattr(method, "alpha", None))] * method.uses_teacher
        + [("calibration", getattr(method, "beta", None))] * hasattr(method, "beta")
    )
    assert {term.label: term.weight for term in terms.values()} == expected
    for term in terms.values():
        assert term.value.shape == () and term.value.isfinite() and term.recorded and term.unit == ("" if term.label == "calibration" else "nats")
    assert about(method) and about(METHODS[name]) == about(method)
    assert set(step.records) == ({"attention"} if name == "routed" or getattr(getattr(method, "attention", None), "watched", False) else set())


@settings(max_examples=20)
@given(st.sampled_from(["sastc", "uniform", "rsa"]), st.floats(0, 3), st.floats(0, 100), st.floats(0.5, 8), st.integers(0, 99))
def test_the_weighted_sum_of_the_terms_is_the_loss_of_the_paper(name, alpha, beta, temperature, seed):
    "Against the calibrator and the loss that other people's loops use, with the same weights."
    method, step = built(METHODS[name](alpha=alpha, beta=beta, temperature=temperature), seed)
    options = dict(attention=dict(sastc="self", uniform="uniform", rsa="rsa")[name])
    calibrator = Calibrator([f.shape[2:] for f in step.student_features], [f.shape[1:] for f in step.teacher_features], 8, **options)
    calibrator.load_state_dict(method.state_dict())
    expected = DistillationLoss(alpha, beta, temperature)(
        step.outputs, step.labels, step.teacher_logits, calibrator(step.student_features, step.teacher_features)
    )
    terms = method.terms(step)
    total = sum(term.weight * term.value for term in terms.values())
    torch.testing.assert_close(total, expected.total)
    for key, term in terms.items():
        torch.testing.assert_close(term.value, expected.parts()[key])
    parameters = [*method.parameters(), *step.student_features]
    others = [*calibrator.parameters(), *step.student_features]
    for one, other in zip(torch.autograd.grad(total, parameters, retain_graph=True), torch.autograd.grad(expected.total, others, retain_graph=True)):
        torch.testing.assert_close(one, other)


def test_rate_compares_means_over_time():
    method, step = built(METHODS["rate"]())
    other, _ = built(SASTC())
    other.load_state_dict(method.state_dict())
    mean, _ = a_step()
    mean.student_features = [feature.mean(0, keepdim=True) for feature in step.student_features]
    torch.testing.assert_close(method.terms(step)["sastc"].value, other.terms(mean)["sastc"].value)
    assert step.records["attention"].values["attention"].shape == (1, 2, 3)


def test_entropy_and_labels_add_terms_that_are_not_shown():
    step, shapes = a_step()
    method = SASTC(attention=SelfAttention(entropy_weight=0.5, attention_gradient="labels"))
    method.build(shapes)
    terms = method.terms(step)
    assert {name: (term.recorded, term.weight) for name, term in terms.items()} == dict(
        ce=(True, 1), kl=(True, 1), pull=(False, 800), sastc=(True, 800), entropy=(False, -0.5)
    )
    assert terms["pull"].value == 0 and 0 < terms["entropy"].value <= np.log(3)
    assert not [p for p in method.alignment.parameters() if torch.autograd.grad(terms["pull"].value, p, retain_graph=True, allow_unused=True)[0] is not None]


def test_a_method_without_terms_says_so():
    class Empty(Method):
        "Nothing."

    step, shapes = a_step()
    with pytest.raises(NotImplementedError, match="Empty: expected a method `terms`, got none"):
        Empty().terms(step)


# ---------------------------------------------------------------- letting the teacher go


@pytest.mark.parametrize("method", ("kd", "sastc", "routed", "twd", "routed+tet"))
def test_a_teacher_that_is_let_go_is_not_run_any_more(method, teacher, tmp_path, monkeypatch):
    asked, ask = [], learner_module.taught
    monkeypatch.setattr(learner_module, "taught", lambda *args: asked.append(1) or ask(*args))
    given = TINY | dict(teacher=teacher.folder, student="vgg11", time_steps=2, method=method, epochs=4)  # four steps each
    whole = distill(**given, folder=tmp_path / "whole")
    of_all = len(asked)
    asked.clear()
    run = distill(**given, teacher_until=0.25, folder=tmp_path / "let_go")
    assert len(asked) == of_all - 12
    parts = run.metrics.filter(like="train_").drop(columns=["train_total", "train_accuracy"])
    taught, alone = parts.iloc[0].dropna(), parts.iloc[1:].dropna(axis="columns", how="all")
    assert alone.notna().all(axis=None) and "train_ce" in alone and len(taught) > 1
    if method != "routed+tet":  # where a part of the method needs no teacher, it stays
        assert list(alone) == ["train_ce"]
        np.testing.assert_allclose(run.metrics.train_total.iloc[1:], alone.train_ce, rtol=1e-6)
    assert run.metrics.train_total.iloc[0] == whole.metrics.train_total.iloc[0] and open_run(run.folder).settings.teacher_until == 0.25


def test_nobody_is_let_go_where_there_is_no_teacher(tmp_path):
    with pytest.raises(ValueError, match="teacher_until: expected only with a method that has a teacher, got 0.5 with method 'baseline'"):
        distill(**TINY, student="vgg11", method="baseline", teacher_until=0.5, folder=tmp_path / "run")
    with pytest.raises(ValueError, match="teacher_until: expected a number from 0.01 to 1, got 0"):
        distill(**TINY, student="vgg11", method="kd", teacher="nobody", teacher_until=0, folder=tmp_path / "run")


# ---------------------------------------------------------------- own methods

OWN = """
import torch
from sastc.common.settings import setting
from sastc.methods import Method, Term
from torch import nn


class StepLogits(Method):
    "every step imitates the teacher by itself"

    share: float = setting(0.5, "weight of the step-by-step term", least=0)

    def build(self, shapes):
        self.scale = nn.Parameter(torch.ones(shapes.time_steps))

    def terms(self, step):
        distance = (self.scale[:, None, None] * step.outputs - step.teacher_logits).square().mean((1, 2))
        if round(step.progress * 8) % 3 == 0:  # not at every step
            step.record("scales", dict(scale=self.scale, spread=step.outputs.std()), lambda averages: dict(largest=float(averages["scale"].max())))
        found = dict(each=Term(distance.mean(), self.share, "each step", "squared logits"), ce=Term(nn.functional.cross_entropy(step.logits, step.labels), label="cross-entropy", unit="nats"))
        if step.progress >= 0.5:
            found["late"] = Term(self.scale.square().mean(), 0.01, "late")
        return found
"""
exec(OWN, own_module := dict(__name__="own_methods"))
own_module["StepLogits"].__module__ = "own_methods"
StepLogits = own_module["StepLogits"]


@pytest.fixture
def own_methods(tmp_path, monkeypatch):
    "The method as a module that may be imported here and in another process."
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "own_methods.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path / "own"))
    sys.modules.pop("own_methods", None)
    import own_methods

    yield own_methods
    sys.modules.pop("own_methods", None)


def same_state(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def assert_same_run(run, reference):
    for part in ("model", "method"):
        assert same_state(run.checkpoint("last")[part], reference.checkpoint("last")[part])
    for stream in ("scales", "attention"):
        assert run.lines(stream) == reference.lines(stream)
    drop = ["images_per_second", "peak_memory_mib"]
    assert run.steps.drop(columns=drop).equals(reference.steps.drop(columns=drop)) and run.terms == reference.terms


def test_a_method_of_ones_own_is_recorded_resumed_and_opened(own_methods, teacher, tmp_path):
    given = TINY | dict(method="own_methods:StepLogits", share=0.25, epochs=2, teacher=str(teacher.folder))
    run = distill(**given, folder=tmp_path / "whole")
    assert (run.config["method"], run.config["share"], run.layers) == ("own_methods:StepLogits", 0.25, dict(student=[], teacher=[]))
    assert run.terms == dict(each=dict(label="each step", unit="squared logits"), ce=dict(label="cross-entropy", unit="nats"), late=dict(label="late", unit=""))
    assert {"total", "each", "ce"} <= set(run.steps) and run.steps.late.notna().tolist() == [False, False, True, True]
    total = run.steps.ce + 0.25 * run.steps.each
    np.testing.assert_allclose(total[:2], run.steps.total[:2], rtol=1e-5)
    np.testing.assert_allclose(total[2:] + 0.01 * run.steps.late[2:], run.steps.total[2:], rtol=1e-5)
    scales = run.lines("scales")
    assert [record["step"] for record in scales] == [2, 4, 8]  # recorded at steps 0, 3, 6 of 8, and averaged over those alone
    assert all(0.9 < record["largest"] < 1.1 and len(record["scale"]) == 2 for record in scales) and scales[0]["scale"] == [1.0, 1.0]
    # stopped within an epoch
    stopped = tmp_path / "stopped"
    code = f"{at_step(3, signal.SIGINT)}\nfrom sastc.training import distill\ndistill(**{given | dict(folder=str(stopped))!r})"
    environment = os.environ | dict(PYTHONPATH=os.pathsep.join([str(tmp_path / "own"), os.environ.get("PYTHONPATH", "")]))
    program = Program(code, environment=environment)
    _, faults = program.communicate()
    assert program.returncode == 0 and Run(stopped).state == "stopped" and Run(stopped).status["step"] == 3, faults[-2000:]
    again = distill(folder=str(stopped), resume=True)
    assert again.state == "finished"
    assert_same_run(again, run)
    # opened in this process and by its class in another
    opened = open_run(run.folder)
    assert type(opened.method) is own_methods.StepLogits and same_state(opened.method.state_dict(), run.checkpoint("last")["method"])
    assert (opened.settings["share"], opened.method.share) == (0.25, 0.25)
    images, labels = next(opened.data.batches("test", 16, shuffle=False, drop_last=True).epoch(0))
    step = opened.step(images, labels)
    assert list(opened.method.terms(step)) == ["each", "ce", "late"] and step.outputs.shape == (2, 16, 10)
    assert assess(run.folder)["accuracy"] == pytest.approx(run.result["test_accuracy_best"])
    code = f"import own_methods\nfrom sastc.training import open_run\nprint(type(open_run({str(run.folder)!r}).method).__name__)"
    assert Program(code, environment=environment).communicate()[0].strip() == "StepLogits"
    code = f"from sastc.training import open_run\nopen_run({str(run.folder)!r}).method"
    _, said = Program(code, environment=environment).communicate()
    assert "import own_methods first (for a command: --parts own_methods), or pass the object itself" in said


def test_a_method_that_is_passed_as_an_object_or_a_class(own_methods, teacher, tmp_path):
    kind, given = own_methods.StepLogits, TINY | dict(epochs=1, teacher=teacher.folder)
    runs = [
        distill(**given, method=method, folder=tmp_path / str(number), **more)
        for number, (method, more) in enumerate([(kind(share=0.25), {}), (kind, dict(share=0.25)), ("own_methods:StepLogits", dict(share=0.25))])
    ]
    for run in runs[1:]:
        assert same_state(run.checkpoint("last")["method"], runs[0].checkpoint("last")["method"]) and run.config["method"] == "own_methods:StepLogits"
    method = kind(share=0.25)
    distill(**given, method=method, folder=tmp_path / "kept")
    assert not list(method.parameters())  # a method that is passed twice learns twice, from the beginning


def test_a_method_of_a_notebook_is_passed_again(teacher, tmp_path):
    "Its class stands in no module that could be imported."
    given = TINY | dict(epochs=1, teacher=teacher.folder)

    class Local(KD):
        "like KD, with a weight that is learned"

        share: float = setting(0.5, "share", least=0)

        def build(self, shapes):
            self.weight = nn.Parameter(torch.zeros(()))

        def terms(self, step):
            return super().terms(step) | dict(own=Term(self.weight.square() + self.weight, self.share, "own"))

    run = distill(**given, method=Local(share=0.25), folder=tmp_path / "run")
    assert run.terms["own"]["label"] == "own" and run.config["share"] == 0.25
    with pytest.raises(ValueError, match="method: expected a class that can be imported, got '.*Local', which was made in a function; pass the object itself"):
        _ = open_run(run).method
    opened = open_run(run, method=Local(share=0.25))
    assert opened.method.weight == run.checkpoint("last")["method"]["weight"] != 0
    assert distill(folder=run.folder, resume=True, method=Local(share=0.25)).state == "finished"
    with pytest.raises(ValueError, match="share: expected 0.25, .*, got 0.5"):
        distill(folder=run.folder, resume=True, method=Local())


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("name", ["lr", "accuracy", "step", "steps", "epochs", "images", "right", "a/b"])
@pytest.mark.parametrize("what", ["term", "record"])
def test_names_of_files_and_other_columns_are_refused(what, name, late, tmp_path):
    class Named(Baseline):
        "a term or a record with a name that is taken"

        def terms(self, step):
            found = super().terms(step)
            if step.progress > 0.3 * late - 0.1 and what == "record":
                step.record(name, dict(value=1.0))
            return found | ({name: Term(step.outputs.sum() * 0)} if step.progress > 0.3 * late - 0.1 and what == "term" else {})

    with pytest.raises(ValueError, match=f"terms: expected other names than .*, got '{name}' from method Named"):
        distill(**TINY, method=Named(), epochs=1, folder=tmp_path / "run")


# ---------------------------------------------------------------- sums


def test_a_sum_counts_shared_terms_once():
    first, second = SASTC(alpha=2.0), StepLogits(share=0.25)
    both = first + second
    step, shapes = a_step()
    torch.manual_seed(1)
    with pytest.raises(ValueError, match="layers: expected to be called before `build` and `terms`, .* got 2 student and 3 teacher layers"):
        both.build(shapes)
    both.counts = [2, 3]  # what `layers` finds
    both.build(shapes)
    terms = both.terms(step)
    assert sorted(terms) == ["ce", "each", "kl", "late", "sastc"] and both.uses_teacher
    alone = first.terms(a_step()[0]) | {name: term for name, term in second.terms(a_step()[0]).items() if name != "ce"}
    for name, term in terms.items():
        torch.testing.assert_close(term.value, alone[name].value)
        assert term.weight == alone[name].weight
    assert METHODS.name_of(type(both)) == "sastc+own_methods:StepLogits"
    assert METHODS.find("sastc+kd+baseline")().second.second.__class__ is Baseline


def test_a_sum_refuses_weights_that_differ():
    with pytest.raises(ValueError, match="alpha: expected the same value in both methods, got 1.0 and 2.0"):
        SASTC() + KD(alpha=2.0)


def test_each_summand_gets_its_own_layers():
    student, teacher = create_model("vgg11", time_steps=2, width=1 / 32), create_model("wrn16_2", width=1 / 8)
    both = SASTC(student_layers=("layer2",)) + Deep()
    assert both.layers(student, teacher) == (["layer2", "layer6"], [*candidates(teacher), "stage3"])


class Deep(Method):
    "The deepest layers."

    def layers(self, student, teacher):
        return ["layer6"], ["stage3"]

    def terms(self, step):
        return dict(ce=Term(2 * F.cross_entropy(step.logits, step.labels), label="another cross-entropy"))


@pytest.mark.parametrize("one, other", [(SASTC, RSA), (SASTC, FeatureKD), (KD, SASTC)])
def test_a_sum_weights_layers_once(one, other):
    if one is KD:
        assert hasattr(one() + other(), "attend") and hasattr((one() + other()) + Baseline(), "attend") and not hasattr(one() + Baseline(), "attend")
    else:
        with pytest.raises(ValueError, match=f"method: expected a sum in which one method weights layers by attention, got SASTC and {other.__name__}"):
            one() + other()


def test_a_sum_drops_no_term_in_silence():
    both = Baseline() + Deep()
    with pytest.raises(
        ValueError, match="terms: expected terms of one name to be one quantity, which a sum counts once, got two called 'ce': 1 x 1.* and 1 x 2"
    ):
        both.terms(Step(torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 0]), torch.zeros(2, 4, 3)))


def test_a_sum_trains_records_both_and_is_reloaded(own_methods, teacher, tmp_path):
    given = TINY | dict(epochs=2, teacher=str(teacher.folder))
    run = distill(**given, method=SASTC(beta=0.5) + own_methods.StepLogits(share=0.25), folder=tmp_path / "object")
    assert list(run.terms) == ["each", "ce", "kl", "sastc", "late"]
    assert run.config["method"] == "sastc+own_methods:StepLogits" and (run.config["beta"], run.config["share"]) == (0.5, 0.25)
    assert len(run.attention) == 4 and run.attention.shape[1:] == (2, 4, 3) and len(run.lines("scales")) == 3
    assert run.attention_bounds[0] > 0
    total = run.steps.ce + run.steps.kl + 0.5 * run.steps.sastc + 0.25 * run.steps.each + 0.01 * run.steps.late.fillna(0)
    np.testing.assert_allclose(total, run.steps.total, rtol=1e-5)
    named = distill(**given, method="sastc+own_methods:StepLogits", beta=0.5, share=0.25, folder=tmp_path / "named")
    assert_same_run(named, run)
    # its training, but for the other's terms, is that of the first method
    assert run.layers == dict(student=["layer2", "layer4", "layer6", "layer8"], teacher=["stage1", "stage2", "stage3"])
    opened = open_run(run.folder)
    method = opened.method
    assert (type(method.first), type(method.second), method.first.beta) == (SASTC, own_methods.StepLogits, 0.5)
    assert same_state(method.state_dict(), run.checkpoint("last")["method"])
    images, labels = next(opened.data.batches("test", 16, shuffle=False, drop_last=True).epoch(0))
    assert set(method.terms(opened.step(images, labels))) == {"ce", "kl", "sastc", "each", "late"}
    assert assess(run.folder)["accuracy"] == pytest.approx(run.result["test_accuracy_best"])
    settings_of = json.loads((run.folder / "config.json").read_text())["settings"]
    assert flat(run.settings) == {name: tuple(value) if isinstance(value, list) else value for name, value in settings_of.items()}


# ---------------------------------------------------------------- own parts


def test_an_attention_of_ones_own_trains_and_is_watched(teacher, tmp_path):
    class Deepest(Attention):
        "All weight on the last teacher layer, up to a learned share."

        start: float = setting(2.0, "logit of the last layer", least=0)

        def build(self, student_layers, teacher_layers, batch_size):
            self.logits = nn.Parameter(torch.tensor([0.0] * (teacher_layers - 1) + [self.start]))

        def forward(self, compared):
            shape = *compared.student[0].shape[:2], len(compared.student), len(compared.teacher)
            return self.logits.softmax(0).expand(shape)

    given = TINY | dict(epochs=1, teacher=teacher.folder)
    run = distill(**given, method=SASTC(beta=0.5, attention=Deepest(start=3.0)), folder=tmp_path / "run")
    assert run.attention.shape[1:] == (2, 4, 3) and (run.attention[..., -1] > 0.8).all() and run.attention_bounds == (0.0, 1.0)
    assert run.config["attention"].endswith("Deepest") and run.config["start"] == 3.0
    config = open_run(run, method=SASTC(beta=0.5, attention=Deepest(start=3.0)))
    assert config.method.attention.logits.shape == (3,)


def test_loss_terms_reach_a_plain_loop():
    "What somebody with a loop of their own writes."
    student, teacher = create_model("vgg11", time_steps=2, width=1 / 32), create_model("wrn16_2", width=1 / 8)
    method = KD(temperature=2.0)
    images, labels = torch.rand(4, 3, 32, 32), torch.tensor([0, 1, 2, 3])
    step = Step(images, labels, student(images), teacher_logits=teacher(images).detach())
    total = sum(term.weight * term.value for term in method.terms(step).values())
    mean = step.outputs.mean(0)
    expected = F.cross_entropy(mean, labels) + 4 * F.kl_div((mean / 2).log_softmax(-1), (step.teacher_logits / 2).softmax(-1), reduction="batchmean")
    torch.testing.assert_close(total, expected)
    assert isinstance(Run, type) and flat(method) == dict(alpha=1.0, temperature=2.0)
