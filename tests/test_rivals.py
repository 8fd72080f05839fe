"""Other ways to distil: values worked out apart from the code, literal loops, properties, and each of them through training, resuming and reloading."""

import itertools
import json
import math
import os
import signal

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from processes import Program

from sastc.methods import (
    BKDSNN,
    CKDSNN,
    DIST,
    DKD,
    METHODS,
    RKD,
    SASTC,
    SP,
    TET,
    TKS,
    TSER,
    TWD,
    Baseline,
    HeadTail,
    Shapes,
    Step,
    Strong2Weak,
    Weak2Strong,
    about,
)
from sastc.methods.attention import SelfAttention
from sastc.methods.losses import kd_loss
from sastc.models import Taps, create_model, tap_shapes
from sastc.training import Run, distill, open_run, train_teacher
from sastc.training.loop import Trainer
from sastc.training.opening import assess

TINY = dict(data="digits", train_images=64, holdout=0.0, batch_size=16, lr=0.02, log_every=2, width=1 / 16, seed=3, device="cpu")
PAPER = ("baseline", "kd", "feature_kd", "sastc", "uniform", "rate", "rsa", "routed")
RIVALS = [name for name in METHODS if name not in PAPER and METHODS[name].__module__.startswith("sastc.methods.")]


def a_step(seed=0, time_steps=3, batch=4, classes=5, student=(3, 2, 2), teacher=(4, 2, 2), progress=0.3, frames=False):
    "Random logits and features in float64; those of the student have gradients."
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return 2 * torch.randn(shape, generator=generator, dtype=torch.float64)

    labels = torch.randint(classes, (batch,), generator=generator)
    outputs, features = draw(time_steps, batch, classes).requires_grad_(), draw(time_steps, batch, *student).requires_grad_()
    theirs = draw(*([time_steps] * frames), batch, *teacher)
    step = Step(torch.zeros(batch, 1, 8, 8), labels, outputs, [features], draw(batch, classes), [theirs], progress)
    return step, Shapes([student], [teacher], batch, classes, time_steps)


def built(method, shapes):
    torch.manual_seed(1)
    if isinstance(method, CKDSNN):  # what `layers` takes from the teacher
        method.register_buffer("head", torch.randn(shapes.num_classes, shapes.teacher[0][0]), persistent=False)
    method.build(shapes)
    return method.double()


def total(terms):
    return sum(term.weight * term.value for term in terms.values())


# ---------------------------------------------------------------- the example of the dossier

OUTPUTS = torch.tensor([[[2.0, 0, 1]], [[0.0, 1, 0]]], dtype=torch.float64)
TEACHER, LABEL = torch.tensor([[3.0, 1, 0]], dtype=torch.float64), torch.tensor([0])
EXAMPLE = [
    (TET(tet_lambda=0), 0.979525),
    (TET(tet_lambda=0.05), 0.963882),
    (TET(tet_lambda=1), 0.666667),
    (TWD(twd_alpha=1, twd_beta=0), 0.979525 + 0.727761),
    (TWD(twd_alpha=1, twd_beta=0, step_temperature=4), 0.979525 + 0.735130),
    (TWD(twd_alpha=0, twd_beta=1), 0.979525 + 0.374225),
    (TWD(twd_alpha=0, twd_beta=1, self_target="ensemble"), 0.979525 + 0.194302),
    (TWD(twd_alpha=0, twd_beta=1, self_target="ensemble", step_temperature=4), 0.979525 + 0.194650),
    (TSER(tser_alpha=0.5, tser_gamma=0.1, step_temperature=1), 0.666057),
    (Strong2Weak(), 0.794377 + 0.181024),
    (Weak2Strong(pairing="cascade", pair_weight=2), 0.794377 + 2 * 0.200721),
    (TKS(tks_alpha=1), 11.297744),
    (TKS(tks_alpha=0), 0.794377),
]


@pytest.mark.parametrize("method, expected", EXAMPLE, ids=str)
def test_the_example(method, expected):
    step = Step(None, LABEL, OUTPUTS, teacher_logits=TEACHER, progress=1.0)
    assert total(method.terms(step)).item() == pytest.approx(expected, abs=2e-6)


# ---------------------------------------------------------------- literal loops


def softmax(logits, tau=1.0):
    powers = [(value / tau).exp() for value in logits]
    return [power / sum(powers) for power in powers]


def kl(p, q):
    return sum(a * (a / b).log() for a, b in zip(p, q))


def soft(target, student, tau):
    return tau**2 * kl(softmax(target, tau), softmax(student, tau))


def cross_entropy(logits, label):
    return -softmax(logits)[label].log()


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def by_step(step, loss):
    "Mean over steps and images of a loss of a student's logits, the teacher's, a label."
    return mean(loss(z, y, int(c)) for output in step.outputs for z, y, c in zip(output, step.teacher_logits, step.labels))


def of_mean(step, loss):
    return mean(loss(z, y, int(c)) for z, y, c in zip(step.outputs.mean(0), step.teacher_logits, step.labels))


def ce(step):
    return of_mean(step, lambda z, y, c: cross_entropy(z, c))


def ce_steps(step):
    return by_step(step, lambda z, y, c: cross_entropy(z, c))


def tet(step):
    pull = mean((value - 0.7) ** 2 for value in step.outputs.flatten())
    return 0.9 * ce_steps(step) + 0.1 * pull


def twd(step, reading):
    found = []
    for b, label in enumerate(step.labels):
        each = step.outputs[:, b]
        right = [z.detach() for z in each if z.argmax() == label]
        target = each.detach().mean(0) if reading == "ensemble" else sum(right) / len(right) if right else torch.zeros_like(each[0])
        found.append(mean(soft(target, z, 2.0) for z in each))
    return ce_steps(step) + 0.3 * by_step(step, lambda z, y, c: soft(y, z, 2.0)) + 0.6 * mean(found)


def tser(step):
    entropy = by_step(step, lambda z, y, c: -sum(p * p.log() for p in softmax(z)))
    return 0.6 * ce_steps(step) + 0.4 * by_step(step, lambda z, y, c: soft(y, z, 2.0)) - 0.2 * entropy


def dkd(z, y, c):
    p, q = softmax(y, 3.0), softmax(z, 3.0)
    others = [k for k in range(len(p)) if k != c]
    binary = kl([p[c], sum(p[k] for k in others)], [q[c], sum(q[k] for k in others)])
    return 9 * (0.5 * binary + 2 * kl(softmax(y[others], 3.0), softmax(z[others], 3.0)))


def pearson(a, b):
    a, b = ([value - mean(side) for value in side] for side in (a, b))
    return sum(x * y for x, y in zip(a, b)) / (sum(x**2 for x in a) * sum(y**2 for y in b)).sqrt()


def dist(output, teacher):
    p, q = ([softmax(logits, 3.0) for logits in side] for side in (teacher, output))
    inter = 1 - mean(pearson(a, b) for a, b in zip(q, p))
    intra = 1 - mean(pearson(a, b) for a, b in zip(zip(*q), zip(*p)))
    return 9 * (1.5 * inter + 0.5 * intra)


def head_tail(z, y, c):
    p, q = softmax(y, 3.0), softmax(z, 3.0)
    ranks = sorted(range(len(p)), key=lambda k: -p[k])
    gaps = [abs(p[k] - q[k]).detach() for k in ranks]
    head = [gap for n, gap in enumerate(gaps) if n == 0 or sum(p[k] for k in ranks[: n + 1]) <= 0.6]
    share = sum(head) / sum(gaps)
    return 9 * (share * kl(p, q) + (1 - share) * kl(q, p))


def length(vector):
    return sum(value**2 for value in vector).sqrt()


def sp(student, teacher):
    sides = []
    for feature in (student, teacher):
        gram = [[(a * b).sum() for b in feature] for a in feature]
        sides.append([[value / torch.stack(row).norm() for value in row] for row in gram])
    return sum((a - b) ** 2 for rows in zip(*sides) for a, b in zip(*rows)) / len(student) ** 2


def smooth(difference):
    return 0.5 * difference**2 if abs(difference) < 1 else abs(difference) - 0.5


def rkd(student, teacher):
    distances, cosines = [], []
    for feature in (student, teacher):
        rows = [[channel.mean() for channel in image] for image in feature]
        apart = [[length([x - y for x, y in zip(a, b)]) if a is not b else 0 for b in rows] for a in rows]
        scale = mean(value for line in apart for value in line if value > 0)
        distances.append([value / scale for line in apart for value in line])
        angle = []
        for i, a, b in itertools.product(range(len(rows)), repeat=3):
            ways = [[x - y for x, y in zip(rows[j], rows[i])] for j in (a, b)]
            angle.append(0 if i in (a, b) else sum(x * y for x, y in zip(*ways)) / length(ways[0]) / length(ways[1]))
        cosines.append(angle)
    parts = [mean(smooth(a - b) for a, b in zip(*sides)) for sides in (distances, cosines)]
    return 3 * parts[0] + 2 * parts[1]


def pairs(step, strong, cascade):
    sure = [mean(max(softmax(z)) for z in output) for output in step.outputs]
    order = sorted(range(len(sure)), key=lambda t: -sure[t])
    chosen = list(zip(order, order[1:])) if cascade else [(order[0], order[-1])]
    found = []
    for first, last in chosen:
        teaching, taught = (first, last) if strong else (last, first)
        found.append(mean(kl(softmax(y.detach(), 3.0), softmax(z, 3.0)) for z, y in zip(step.outputs[taught], step.outputs[teaching])))
    return ce(step) + 0.5 * mean(found)


def tks(step):
    found = []
    for b, label in enumerate(step.labels):
        each = step.outputs[:, b]
        target = softmax(sum((z for z in each if z.argmax() == label), torch.zeros_like(each[0])), 2.0)
        found.append(mean(-4 * sum(p * q.log() for p, q in zip(target, softmax(z))) for z in each))
    share = 0.9 * step.progress
    return (1 - share) * ce(step) + share * mean(found)


def bkdsnn(step, method):
    "Without a mask, whose own test is below."
    ours, theirs = step.student_features[0].mean(0), step.teacher_features[0]
    theirs = theirs.mean(0) if theirs.ndim == 5 else theirs
    restored = method.restorer.restore(method.restorer.align(ours))
    squares = mean(sum((a - b) ** 2 for a, b in zip(image.flatten(), other.flatten())) for image, other in zip(restored, theirs))

    def weighted(z, y, c):
        weight = 1 - (-cross_entropy(z, c) / (cross_entropy(y, c) + 1e-7)).exp()
        return weight.detach() * -9 * sum(p * q.log() for p, q in zip(softmax(y, 3.0), softmax(z, 3.0)))

    return ce(step) + 0.4 * of_mean(step, weighted) + 0.01 * squares


def ckdsnn(step, method, reading):
    ours, theirs = step.student_features[0], step.teacher_features[0]
    theirs = theirs.mean(0) if theirs.ndim == 5 else theirs
    rows, columns = ours.shape[-2:]
    spikes = [[ours[:, b, :, i, j].sum() for i in range(rows) for j in range(columns)] for b in range(len(step.labels))]
    seen = []
    for feature, y in zip(theirs, step.teacher_logits):
        weights = method.head[y.argmax()]
        seen.append([(weights * feature[:, i, j]).sum().clamp(min=0) for i in range(rows) for j in range(columns)])
    if reading == "code":
        for maps in (spikes, seen):
            least = min(value for one in maps for value in one)
            most = max(value - least for one in maps for value in one)
            maps[:] = [[(value - least) / (most + 1e-3) for value in one] for one in maps]
    places = mean(kl(softmax(p, 3.0), softmax(q, 3.0)) for p, q in zip(seen, spikes)) * (9 if reading == "paper" else 1)
    noise, soft_ = torch.randn(step.labels.shape[0], step.outputs.shape[2]).double(), []
    for z, y, n in zip(step.outputs.mean(0), step.teacher_logits, noise):
        middle = mean(z)
        variance = sum((value - middle) ** 2 for value in z) / (len(z) - 1)
        if reading == "paper":
            soft_.append(soft(y, torch.stack([value + 0.2 * (middle + k * variance.sqrt()) for value, k in zip(z, n)]), 3.0))
        else:
            drawn = softmax([middle + k * variance for k in n], 3.0)
            soft_.append(9 * kl(softmax(y, 3.0), [0.8 * p + 0.2 * q for p, q in zip(softmax(z, 3.0), drawn)]))
    return ce(step) + 0.6 * places + 0.4 * mean(soft_)


def of_features(step, loss, per_step):
    ours, theirs = step.student_features[0], step.teacher_features[0]
    frames = theirs.ndim == ours.ndim
    if not per_step:
        return loss(ours.mean(0), theirs.mean(0) if frames else theirs)
    return mean(loss(feature, theirs[t] if frames else theirs) for t, feature in enumerate(ours))


LITERAL = {
    "tet": (TET(tet_lambda=0.1, tet_phi=0.7), tet),
    "twd": (TWD(twd_alpha=0.3, twd_beta=0.6, step_temperature=2), lambda step: twd(step, "correct")),
    "twd, ensemble": (TWD(twd_alpha=0.3, twd_beta=0.6, step_temperature=2, self_target="ensemble"), lambda step: twd(step, "ensemble")),
    "tser": (TSER(tser_alpha=0.4, tser_gamma=0.2, step_temperature=2), tser),
    "tks": (TKS(tks_alpha=0.9, step_temperature=2), tks),
}
for kind, pairing in itertools.product((Strong2Weak, Weak2Strong), ("extremes", "cascade")):
    LITERAL[f"{kind.__name__}, {pairing}"] = (
        kind(pair_weight=0.5, pair_temperature=3, pairing=pairing),
        lambda step, strong=kind is Strong2Weak, cascade=pairing == "cascade": pairs(step, strong, cascade),
    )
restoring = BKDSNN(bkd_weight=0.01, bkd_blur=0, wsld_weight=0.4, wsld_temperature=3)
LITERAL["bkdsnn"] = restoring, lambda step: bkdsnn(step, restoring)
for reading in ("code", "paper"):
    seeing = CKDSNN(samd_weight=0.6, nld_weight=0.4, samd_reading=reading, nld_reading=reading, nld_noise=0.2, ckd_temperature=3)
    LITERAL[f"ckdsnn, {reading}"] = seeing, lambda step, method=seeing, reading=reading: ckdsnn(step, method, reading)
for per_step, average in {False: of_mean, True: by_step}.items():
    more, form = dict(temperature=3, logits_per_step=per_step), ", per step" * per_step
    LITERAL[f"dkd{form}"] = (
        DKD(dkd_target=0.5, dkd_others=2, dkd_warmup=0, **more),
        lambda step, average=average: ce(step) + average(step, dkd),
    )
    LITERAL[f"hta_kl{form}"] = (
        HeadTail(hta_weight=0.7, head_share=0.6, **more),
        lambda step, average=average: ce(step) + 0.7 * average(step, head_tail),
    )
    LITERAL[f"dist{form}"] = (
        DIST(dist_inter=1.5, dist_intra=0.5, **more),
        lambda step, per_step=per_step: (
            ce(step) + mean(dist(output, step.teacher_logits) for output in (step.outputs if per_step else step.outputs.mean(0, keepdim=True)))
        ),
    )
    LITERAL[f"sp{form}"] = (
        SP(sp_weight=3, features_per_step=per_step),
        lambda step, per_step=per_step: ce(step) + 3 * of_features(step, sp, per_step),
    )
    LITERAL[f"rkd{form}"] = (
        RKD(rkd_distance=3, rkd_angle=2, features_per_step=per_step),
        lambda step, per_step=per_step: ce(step) + of_features(step, rkd, per_step),
    )


@pytest.mark.parametrize("name", LITERAL)
@examples(max_examples=4)
@given(st.integers(0, 10_000), st.integers(2, 3), st.booleans())
def test_values_and_gradients_are_those_of_a_literal_loop(name, seed, time_steps, frames):
    method, loop = LITERAL[name]
    step, shapes = a_step(seed, time_steps, frames=frames)
    built(method, shapes)
    found = []
    for loss in (lambda: total(method.terms(step)), lambda: loop(step)):
        torch.manual_seed(seed)  # of what is drawn
        found.append(loss())
    found, expected = found
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)
    leaves = [step.outputs, *step.student_features]
    for one, other in zip(*(torch.autograd.grad(loss, leaves, allow_unused=True) for loss in (found, expected))):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


# ---------------------------------------------------------------- properties


@given(st.integers(0, 10_000), st.integers(1, 4), st.floats(0.5, 8))
def test_a_loss_of_every_step_is_at_least_that_of_the_mean(seed, time_steps, tau):
    step, _ = a_step(seed, time_steps)
    terms = TWD(step_temperature=tau, self_target="ensemble").terms(step)
    assert terms["twd_kl"].value >= kd_loss(step.logits, step.teacher_logits, tau) - 1e-9
    assert terms["ce_steps"].value >= Baseline().terms(step)["ce"].value - 1e-9
    if time_steps == 1:
        torch.testing.assert_close(terms["twd_kl"].value, kd_loss(step.logits, step.teacher_logits, tau))
        assert terms["twd_self"].value.item() == pytest.approx(0, abs=1e-9)


@given(st.integers(0, 10_000))
def test_the_self_target_is_no_way_for_a_gradient(seed):
    "The gradient of one step's part is that of a fixed target, so it sums to zero over the classes and vanishes where the step is the target."
    step, _ = a_step(seed, time_steps=1)
    own = TWD(self_target="ensemble").terms(step)["twd_self"].value
    assert torch.autograd.grad(own, step.outputs)[0].abs().max() < 1e-9


@given(st.integers(0, 10_000), st.floats(0.5, 8))
def test_decoupled_parts_add_up_to_soft_labels(seed, tau):
    step, _ = a_step(seed, batch=1)
    terms = DKD(temperature=tau).terms(step)
    sure = (step.teacher_logits / tau).softmax(-1)[0, step.labels[0]]
    expected = kd_loss(step.logits, step.teacher_logits, tau)
    torch.testing.assert_close(terms["dkd_target"].value + (1 - sure) * terms["dkd_others"].value, expected, rtol=1e-6, atol=1e-9)


@given(st.floats(0, 1), st.floats(0, 1))
def test_decoupled_weights_grow_with_the_training(progress, warmup):
    step, _ = a_step(progress=progress)
    terms = DKD(dkd_warmup=warmup, dkd_others=8).terms(step)
    factor = 1.0 if progress >= warmup else progress / warmup
    assert terms["dkd_others"].weight == pytest.approx(8 * factor) and terms["dkd_target"].weight == pytest.approx(factor) and terms["ce"].weight == 1


@given(st.integers(0, 10_000))
def test_where_student_and_teacher_agree_nothing_is_left(seed):
    step, shapes = a_step(seed, teacher=(3, 2, 2))
    step.teacher_logits, step.teacher_features = step.outputs.mean(0).detach(), [step.student_features[0].mean(0).detach()]
    for method in (DKD(), DIST(), HeadTail(), SP(), RKD()):
        for name, term in built(method, shapes).terms(step).items():
            assert name == "ce" or term.value.item() == pytest.approx(0, abs=1e-7), (method, name)


@given(st.integers(0, 10_000), st.floats(0.1, 10), st.integers(2, 8))
def test_relations_know_no_scale_and_distances_no_place(seed, scale, batch):
    step, shapes = a_step(seed, batch=batch)
    moved = a_step(seed, batch=batch)[0]
    moved.student_features = [scale * step.student_features[0]]
    for kind in (SP, RKD):
        before, after = (built(kind(), shapes).terms(one) for one in (step, moved))
        torch.testing.assert_close(total(before), total(after), rtol=1e-5, atol=1e-7)
    moved.student_features = [scale * step.student_features[0] + 3]
    before, after = (built(RKD(), shapes).terms(one) for one in (step, moved))
    torch.testing.assert_close(total(before), total(after), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", [SP, RKD])
def test_silent_and_equal_images_have_finite_gradients(kind):
    step, shapes = a_step()
    step.student_features = [torch.zeros_like(step.student_features[0]).requires_grad_()]
    value = total(built(kind(), shapes).terms(step))
    assert value.isfinite() and torch.autograd.grad(value, step.student_features)[0].isfinite().all()


@given(st.integers(0, 10_000))
def test_a_threshold_of_one_makes_head_and_tail_the_soft_labels(seed):
    step, _ = a_step(seed, classes=40)
    torch.testing.assert_close(HeadTail(head_share=1.0).terms(step)["hta_kl"].value, kd_loss(step.logits, step.teacher_logits), rtol=1e-6, atol=1e-9)


def test_a_single_step_has_nobody_to_teach():
    with pytest.raises(ValueError, match="time_steps: expected at least 2, since one step teaches another, got 1"):
        Strong2Weak().build(a_step(time_steps=1)[1])


@given(st.integers(0, 10_000), st.integers(2, 5), st.sampled_from(["extremes", "cascade"]))
def test_who_teaches_gets_no_gradient(seed, time_steps, pairing):
    step, _ = a_step(seed, time_steps)
    order = step.outputs.detach().softmax(-1).amax(-1).mean(1).argsort(descending=True).tolist()
    for kind, teaching in ((Strong2Weak, order[0]), (Weak2Strong, order[-1])):
        value = kind(pairing=pairing).terms(step)[f"{kind.teaching}_step"].value
        moved = torch.autograd.grad(value, step.outputs)[0].abs().sum((1, 2)) > 0
        assert not moved[teaching] and int(moved.sum()) == (1 if pairing == "extremes" else time_steps - 1)


@given(st.floats(0, 1), st.integers(0, 10_000))
def test_a_blurred_channel_passes_nothing(blur, seed):
    step, shapes = a_step(seed, student=(4, 2, 2), batch=16)
    method = built(BKDSNN(bkd_blur=blur), shapes)
    gradient = torch.autograd.grad(method.terms(step)["bkd"].value, step.student_features)[0].abs().sum((0, 3, 4))
    silent = (gradient == 0).double().mean().item()
    assert abs(silent - blur) < 5 * (blur * (1 - blur) / 64) ** 0.5 + 1e-9
    method.eval()  # nothing is drawn where nothing is trained
    assert torch.equal(*(method.terms(step)["bkd"].value for _ in range(2)))
    assert (torch.autograd.grad(method.terms(step)["bkd"].value, step.student_features)[0].abs().sum((0, 3, 4)) > 0).all()


@pytest.mark.parametrize("teacher", [(5,), (9, 5), (5, 4, 4), (5, 1, 1)], ids=str)
def test_a_feature_is_restored_to_whatever_the_teacher_gives(teacher):
    "A vector, tokens, a larger map, a single place."
    step, shapes = a_step(student=(3, 2, 2), teacher=teacher)
    value = built(BKDSNN(), shapes).terms(step)["bkd"].value
    assert value.isfinite() and torch.autograd.grad(value, step.student_features)[0].any()


def test_weighted_labels_of_equal_outputs_weigh_one_minus_one_over_e():
    step, shapes = a_step(teacher=(4, 2, 2))
    step.teacher_logits = step.logits.detach()
    soft_labels = built(BKDSNN(), shapes).terms(step)["wsld"].value
    entropy = torch.special.entr((step.logits / 2).softmax(-1)).sum(-1)
    torch.testing.assert_close(soft_labels, 4 * (1 - math.exp(-1)) * entropy.mean(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("reading", ["code", "paper"])
def test_equal_logits_and_far_logits_under_noise_have_finite_gradients(reading):
    for logits in (torch.zeros(4, 5), torch.tensor([[1e4, 0, 0, 0, 0]]).expand(4, 5)):
        step, shapes = a_step()
        step.outputs = logits.double().expand(3, 4, 5).clone().requires_grad_()
        step.__dict__.pop("logits", None)
        value = built(CKDSNN(nld_reading=reading), shapes).terms(step)["nld"].value
        assert value.isfinite() and torch.autograd.grad(value, step.outputs)[0].isfinite().all()


@pytest.mark.parametrize("spread", [1.0, 200.0, 1e4])
def test_an_entropy_of_far_outputs_has_a_gradient_that_is_a_number(spread):
    logits = torch.tensor([[0.0, 1.0, -2.0], [3.0, 3.0, 0.0]])
    found = []
    for dtype in (torch.float32, torch.float64):
        outputs = (spread * logits).to(dtype)[None].requires_grad_()
        step = Step(torch.zeros(2, 1, 8, 8), torch.tensor([0, 1]), outputs, teacher_logits=logits.to(dtype))
        total(TSER(tser_gamma=1.0).terms(step)).backward()
        found.append(outputs.grad.double())
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)


def test_attention_at_its_bounds_has_an_entropy_with_a_gradient_that_is_a_number():
    step, shapes = a_step(batch=8)
    step.outputs, step.student_features = step.outputs.float(), [step.student_features[0].float()]
    step.teacher_logits, step.teacher_features = step.teacher_logits.float(), [step.teacher_features[0].float(), step.teacher_features[0].float().square()]
    torch.manual_seed(0)
    method = SASTC(attention=SelfAttention(attn_scale=100.0, entropy_weight=0.1, factor=1))
    method.build(shapes._replace(teacher=shapes.teacher * 2))
    total(method.terms(step)).backward()
    assert all(weight.grad.isfinite().all() for weight in method.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("bias", [0.0, 1.0])
def test_a_student_that_says_the_same_of_all_images_is_not_torn_away(bias, dtype):
    "A silent network has outputs that differ by nothing, or by rounding; dividing that by its length would give gradients of millions."
    step, _ = a_step(batch=8, seed=2)
    outputs = (bias * torch.linspace(-1, 1, 5, dtype=dtype)).expand(3, 8, 5).clone().requires_grad_()
    step = Step(step.images, step.labels, outputs, teacher_logits=step.teacher_logits.to(dtype))
    terms = DIST().terms(step)
    assert terms["dist_intra"].value.item() == pytest.approx(16)  # temperature squared: no correlation
    terms["dist_intra"].value.backward()
    assert outputs.grad.abs().max() == 0


def test_without_noise_the_paper_s_reading_is_soft_labels():
    step, shapes = a_step()
    method = built(CKDSNN(nld_reading="paper"), shapes).eval()
    torch.testing.assert_close(method.terms(step)["nld"].value, kd_loss(step.logits, step.teacher_logits, 2.0))


@pytest.mark.parametrize("kind, sizes, said", [
    (BKDSNN, dict(student=[(4,)]), "student_layer: expected a layer that gives maps .* got .4."),
    (DIST, dict(batch_size=2), "batch_size: expected at least 3 for method dist, .* got 2"),
    (DIST, dict(num_classes=2), "num_classes: expected at least 3 for method dist, .* got 2"),
    (SP, dict(batch_size=1), "batch_size: expected at least 2, .* got 1"),
    (RKD, dict(batch_size=1), "batch_size: expected at least 2, .* got 1"),
])  # fmt: skip
def test_what_cannot_be_compared_is_refused(kind, sizes, said):
    with pytest.raises(ValueError, match=said):
        kind().build(a_step()[1]._replace(**sizes))


@pytest.mark.parametrize("given_, said", [
    (dict(method="tet", tet_lambda=2), "tet_lambda: expected a number from 0 to 1, got 2"),
    (dict(method="tet", tet_lambda=0, tet_phi=2), "tet_phi: expected only together with tet_lambda"),
    (dict(method="twd", self_target="all"), "self_target: expected one of"),
    (dict(method="sp", student_layer="layer12"), "student_layer: expected one of"),
    (dict(method="kd", twd_alpha=1), "twd_alpha: expected only with method twd"),
])  # fmt: skip
def test_bad_input_is_refused_before_anything_is_written(given_, said, teacher, tmp_path):
    with pytest.raises(ValueError, match=said):
        distill(**TINY, **given_, epochs=1, teacher=teacher.folder, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------- any two combine


@pytest.fixture(scope="module")
def networks():
    return create_model("vgg11", width=1 / 16, time_steps=2), create_model("wrn16_2", width=1 / 8)


def terms_of(method, networks):
    "Of random features of the layers that it asks for, the same for the same layers."
    layers, image = method.layers(*networks), torch.zeros(1, 3, 32, 32)
    shapes = Shapes(*([tuple(shape) for shape in tap_shapes(Taps(*side), image)[1]] for side in zip(networks, layers)), 8, 10, 2)
    torch.manual_seed(1)
    method.build(shapes)
    method.eval()
    drawn = [
        [torch.rand(*leading, *shape, generator=torch.Generator().manual_seed(0)) for shape in side]
        for leading, side in (((2, 8), shapes.student), ((8,), shapes.teacher))
    ]
    logits = torch.randn(3, 8, 10, generator=torch.Generator().manual_seed(0))
    return method.terms(Step(torch.zeros(8, 3, 32, 32), torch.arange(8), logits[:2], drawn[0], logits[2], drawn[1], 0.5))


@pytest.mark.parametrize("name", RIVALS)
def test_every_rival_can_be_added_to_every_method(name, networks):
    "With the defaults of both. The sum has the terms of both, those that both have once."
    alone = terms_of(METHODS[name](), networks)
    for other in METHODS:
        if other == name:
            continue
        both = METHODS[name]() + METHODS[other]()
        found = terms_of(both, networks)
        assert found.keys() == alone.keys() | terms_of(METHODS[other](), networks).keys(), other
        for key, term in alone.items():
            if key != "bkd":  # whose weights are drawn after those of the other method
                torch.testing.assert_close(found[key].value, term.value)
        assert METHODS.name_of(type(both)) == f"{name}+{other}"


def test_a_method_is_not_added_to_itself():
    "Its own part would be drawn twice, and be one term of two values."
    for sum_ in (lambda: BKDSNN() + BKDSNN(), lambda: BKDSNN() + (TET() + BKDSNN()), METHODS.find("bkdsnn+tet+bkdsnn")):
        with pytest.raises(ValueError, match="method: expected a sum of different methods, got BKDSNN twice"):
            sum_()


# ---------------------------------------------------------------- training


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return train_teacher(**TINY | dict(model="wrn16_2", width=0.25, epochs=1, folder=tmp_path_factory.mktemp("rivals") / "teacher"))


def settings_of(name, teacher):
    "Teacher and weights with which a run of so few steps stays finite."
    given_ = TINY | dict(method=name, epochs=2) | (dict(sp_weight=1.0) if "sp" in name.split("+") else {})
    return given_ | (dict(teacher=str(teacher.folder)) if METHODS.find(name).uses_teacher else {})


@pytest.fixture(scope="module")
def runs(teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rivals-runs")
    return {name: distill(**settings_of(name, teacher), folder=folder / name) for name in RIVALS}


@pytest.mark.parametrize("name", RIVALS)
def test_every_rival_trains_and_says_what_it_does(name, runs):
    run, kind = runs[name], METHODS[name]
    assert run.state == "finished" and run.config["method"] == name and about(kind)
    assert {*run.terms, "total"} < set(run.steps) and run.steps[[*run.terms]].notna().all(axis=None)
    assert all(term["label"] for term in run.terms.values())
    alone, learned = create_model("vgg11", in_channels=1, width=1 / 16, time_steps=2), run.checkpoint("last")
    assert learned["model"].keys() == alone.state_dict().keys()  # what a method learns beside the student is no part of it
    assert bool(learned["method"]) == (name == "bkdsnn")
    assert bool(kind.compares_layers) == bool(run.layers)
    assert assess(run.folder)["accuracy"] == run.result["test_accuracy_best"]


@pytest.mark.parametrize("name", RIVALS)
def test_every_rival_resumes_bit_by_bit(name, runs, teacher, tmp_path, monkeypatch):
    "Stopped within the second epoch, between two records."
    plain, seen = Trainer.step, []

    def step(self, images, labels):
        plain(self, images, labels)
        seen.append(1)
        if len(seen) == len(runs[name].steps) * TINY["log_every"] - 1:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Trainer, "step", step)
    stopped = distill(**settings_of(name, teacher), folder=tmp_path / "run")
    assert stopped.state == "stopped"
    again, whole = distill(folder=tmp_path / "run", resume=True), runs[name]
    for part in ("model", "method"):
        ours, theirs = (run.checkpoint("last")[part] for run in (again, whole))
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    drop = ["images_per_second", "peak_memory_mib"]
    assert again.steps.drop(columns=drop).equals(whole.steps.drop(columns=drop)) and again.terms == whole.terms


def losses(folders, teacher):
    "Terms of a batch of test images by each run's reloaded method, in evaluation mode."
    found = {}
    for name, folder in folders.items():
        opened = open_run(folder, teacher=teacher)
        images, labels = next(opened.data.batches("test", 16, shuffle=False, drop_last=True).epoch(0))
        torch.manual_seed(0)  # of what a method draws
        found[name] = {key: term.value.item() for key, term in opened.method.terms(opened.step(images, labels)).items()}
    return found


def test_every_rival_is_reloaded_in_another_process(runs, teacher):
    folders, place = {name: str(run.folder) for name, run in runs.items()}, str(teacher.folder)
    code = f"import json, sys\nsys.path.insert(0, {os.path.dirname(__file__)!r})\nimport torch\ntorch.set_num_threads(1)\nfrom test_rivals import losses\nprint(json.dumps(losses({folders!r}, {place!r})))"
    elsewhere = Program(code)
    said, faults = elsewhere.communicate()
    assert elsewhere.returncode == 0, faults[-2000:]
    there = json.loads(said.splitlines()[-1])
    for name, terms in losses(folders, place).items():
        assert there[name] == pytest.approx(terms, rel=1e-5, abs=1e-7) and all(math.isfinite(value) for value in terms.values())


@pytest.mark.parametrize("name, more", [("routed+twd", dict(beta=1.0, alpha=0.0)), ("sastc+tet", dict(beta=1.0)), ("sp+dkd", {}), ("bkdsnn+ckdsnn", {})])
def test_two_train_together(name, more, teacher, tmp_path):
    run = distill(**settings_of(name, teacher) | more, folder=tmp_path / "run")
    assert run.state == "finished" and run.config["method"] == name
    parts = [METHODS[part]() for part in name.split("+")]
    assert (len(run.attention) > 0) == any(hasattr(part, "attend") for part in parts)
    again = open_run(Run(run.folder))
    assert METHODS.name_of(type(again.method)) == name
    assert assess(run.folder)["accuracy"] == run.result["test_accuracy_best"]
