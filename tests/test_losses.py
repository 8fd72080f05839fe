"""The losses against METHOD 2.8 and 2.9 written out as loops."""

import itertools
import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sastc.methods.alignment import matrix_distance, squared_distance
from sastc.methods.blurred import restoring_loss, weighted_soft_loss
from sastc.methods.calibrator import Calibration, Calibrator
from sastc.methods.features import rkd_losses, sp_loss
from sastc.methods.logits import dist_losses, dkd_losses, head_tail_loss
from sastc.methods.loss import DistillationLoss
from sastc.methods.losses import kd_loss, mean_output, sastc_loss
from sastc.methods.maps import nld_loss, samd_loss
from sastc.methods.routed import weight_factor
from sastc.methods.selves import pair_loss, tks_loss
from sastc.methods.steps import right_steps, self_target, step_kd_loss

temperatures = st.floats(0.25, 20)
seeds = st.integers(0, 2**31)
sizes = st.integers(1, 4)


def drawn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def literal_softmax(logits, temperature):
    powers = [math.exp(logit / temperature) for logit in logits]
    return [power / sum(powers) for power in powers]


def literal_kl(student, teacher, temperature):
    total = 0.0
    for student_row, teacher_row in zip(student.tolist(), teacher.tolist()):
        for p_s, p_t in zip(literal_softmax(student_row, temperature), literal_softmax(teacher_row, temperature)):
            total += p_t * math.log(p_t / p_s)
    return temperature**2 * total / len(student)


def literal_ce(logits, labels):
    return sum(-math.log(literal_softmax(row, 1)[label]) for row, label in zip(logits.tolist(), labels.tolist())) / len(labels)


def literal_sastc(attention, distance):
    time_steps, batch, students, teachers = attention.shape
    total = 0.0
    for t, b, s, l in itertools.product(*map(range, attention.shape)):
        total += attention[t, b, s, l].item() * distance[t, b, s, l].item()
    return total / (batch * time_steps * students)


def assert_number(value, expected):
    assert value.shape == ()
    torch.testing.assert_close(value.item(), expected, atol=1e-10, rtol=1e-10)


# ---------------------------------------------------------------- soft labels


@given(seeds, sizes, st.integers(2, 6), temperatures)
def test_kl_equals_the_sum_written_out(seed, batch, classes, temperature):
    student, teacher = 3 * drawn(seed, 2, batch, classes)
    assert_number(kd_loss(student, teacher, temperature), literal_kl(student, teacher, temperature))


@given(seeds, sizes, st.integers(2, 6), temperatures)
def test_kl_of_equal_logits_is_zero_with_zero_gradient(seed, batch, classes, temperature):
    student = (3 * drawn(seed, batch, classes)).requires_grad_()
    loss = kd_loss(student, student.detach().clone(), temperature)
    loss.backward()
    assert abs(loss.item()) < 1e-12
    assert student.grad.abs().max() < 1e-12


@given(seeds, sizes, st.integers(2, 6), temperatures)
def test_gradient_of_kl_is_temperature_times_difference_of_probabilities_over_batch(seed, batch, classes, temperature):
    student, teacher = 3 * drawn(seed, 2, batch, classes)
    student.requires_grad_()
    kd_loss(student, teacher, temperature).backward()
    rows = zip(student.tolist(), teacher.tolist())
    pairs = [zip(literal_softmax(one, temperature), literal_softmax(other, temperature)) for one, other in rows]
    expected = torch.tensor([[temperature * (p_s - p_t) / batch for p_s, p_t in pair] for pair in pairs], dtype=torch.float64)
    torch.testing.assert_close(student.grad, expected, atol=1e-12, rtol=1e-10)


@given(seeds, sizes, st.integers(2, 6), temperatures)
def test_kl_is_not_negative_and_ignores_a_shift_of_the_logits(seed, batch, classes, temperature):
    student, teacher = 3 * drawn(seed, 2, batch, classes)
    loss = kd_loss(student, teacher, temperature)
    assert loss >= -1e-12
    torch.testing.assert_close(kd_loss(student + 7, teacher - 5, temperature), loss, atol=1e-10, rtol=1e-10)


def test_default_temperature_is_four():
    student, teacher = drawn(0, 2, 3, 5)
    assert_number(kd_loss(student, teacher), literal_kl(student, teacher, 4))


def test_kl_passes_gradcheck():
    student, teacher = drawn(0, 2, 3, 5)
    assert torch.autograd.gradcheck(lambda logits: kd_loss(logits, teacher, 3.0), student.requires_grad_())


def test_kl_of_certain_teachers_is_finite():
    "A class whose probability underflows must not give 0 * log 0."
    student = torch.tensor([[1000.0, -1000.0]], requires_grad=True)
    loss = kd_loss(student, torch.tensor([[-1000.0, 1000.0]]), 1.0)
    loss.backward()
    assert loss.item() == 2000 and student.grad.tolist() == [[1, -1]]


@pytest.mark.parametrize("shape", [(3, 4), (2, 5), (1, 5)])
def test_logits_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=rf"teacher_logits: expected \[3, 5\], the shape of the student's, got \[{shape[0]}, {shape[1]}\]"):
        kd_loss(torch.ones(3, 5), torch.ones(shape))


# ---------------------------------------------------------------- calibration


@given(seeds, sizes, sizes, sizes, sizes)
def test_sastc_equals_the_sum_written_out(seed, time_steps, batch, students, teachers):
    attention, distance = drawn(seed, 2, time_steps, batch, students, teachers).exp()
    attention = attention / attention.sum(-1, keepdim=True)
    assert_number(sastc_loss(attention, distance), literal_sastc(attention, distance))


@given(seeds, sizes, sizes, sizes, st.data())
def test_one_hot_attention_is_feature_kd_of_that_pair(seed, time_steps, batch, teachers, data):
    "Feature KD (METHOD 5): mean over steps of the mean over images of the pair's distance."
    chosen = data.draw(st.integers(0, teachers - 1))
    distance = drawn(seed, time_steps, batch, 1, teachers).exp()
    attention = torch.zeros_like(distance)
    attention[..., chosen] = 1
    feature_kd = sum(distance[t, b, 0, chosen].item() for t in range(time_steps) for b in range(batch)) / batch / time_steps
    assert_number(sastc_loss(attention, distance), feature_kd)


def test_one_hot_attention_is_the_calibrator_of_that_pair_alone():
    torch.manual_seed(0)
    student_shapes, teacher_shapes = [(3, 4, 4)], [(2, 4, 4), (4, 2, 2), (5,)]
    whole = Calibrator(student_shapes, teacher_shapes, 8).double()
    students, teachers = [drawn(1, 2, 8, 3, 4, 4)], [drawn(2 + l, 8, *shape) for l, shape in enumerate(teacher_shapes)]
    distance = whole(students, teachers).distance
    for l in range(3):
        pair = Calibrator(student_shapes, teacher_shapes[l : l + 1], attention="uniform").double()
        pair.alignment.projections[0][0].load_state_dict(whole.alignment.projections[0][l].state_dict())
        attention = torch.zeros_like(distance)
        attention[..., l] = 1
        torch.testing.assert_close(sastc_loss(*pair(students, teachers[l : l + 1])), sastc_loss(attention, distance), atol=1e-12, rtol=1e-12)


def test_sastc_passes_gradcheck_in_both_arguments():
    attention, distance = drawn(0, 2, 2, 3, 2, 3)
    assert torch.autograd.gradcheck(sastc_loss, (attention.requires_grad_(), distance.requires_grad_()))


def test_calibration_loss_passes_gradcheck_through_the_calibrator():
    torch.manual_seed(0)
    calibrator = Calibrator([(2, 3, 3)], [(2, 2, 2), (3,)], 4, factor=2).double()
    teachers = [drawn(1, 4, 2, 2, 2), drawn(2, 4, 3)]
    assert torch.autograd.gradcheck(lambda feature: sastc_loss(*calibrator([feature], teachers)), drawn(3, 2, 4, 2, 3, 3).requires_grad_(), atol=1e-6)


# ---------------------------------------------------------------- output and total


@given(seeds, st.integers(1, 7), sizes, st.integers(2, 6))
def test_student_output_is_the_mean_over_steps(seed, time_steps, batch, classes):
    outputs = drawn(seed, time_steps, batch, classes)
    expected = sum(outputs[t] for t in range(time_steps)) / time_steps
    torch.testing.assert_close(mean_output(outputs), expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_outputs_are_averaged_in_float32(dtype):
    outputs = torch.tensor([1.0, 1.0, 1.0, 1 + torch.finfo(dtype).eps], dtype=dtype)[:, None, None]
    assert mean_output(outputs).dtype == torch.float32
    assert mean_output(outputs).item() == 1 + torch.finfo(dtype).eps / 4


@st.composite
def batches(draw):
    seed, time_steps, batch, classes = draw(seeds), draw(st.integers(1, 4)), draw(sizes), draw(st.integers(2, 5))
    outputs, teacher_logits = drawn(seed, time_steps, batch, classes), drawn(seed + 1, batch, classes)
    labels = torch.randint(0, classes, (batch,), generator=torch.Generator().manual_seed(seed))
    shape = time_steps, batch, draw(sizes), draw(sizes)
    return outputs, labels, teacher_logits, Calibration(drawn(seed + 2, *shape).softmax(-1), drawn(seed + 3, *shape).exp())


@given(batches(), st.floats(0, 3), st.floats(0, 1000), temperatures)
def test_total_is_the_weighted_sum_of_its_parts(batch, alpha, beta, temperature):
    outputs, labels, teacher_logits, calibration = batch
    loss = DistillationLoss(alpha, beta, temperature)(outputs, labels, teacher_logits, calibration)
    mean = sum(outputs) / len(outputs)
    ce, kl = literal_ce(mean, labels), literal_kl(mean, teacher_logits, temperature)
    sastc = literal_sastc(*calibration)
    assert list(loss.parts()) == ["total", "ce", "kl", "sastc"]
    for value, expected in zip(loss, (ce + alpha * kl + beta * sastc, ce, kl, sastc)):
        assert_number(value, expected)


@given(batches())
def test_defaults_are_alpha_1_beta_800_temperature_4(batch):
    outputs, labels, teacher_logits, calibration = batch
    mean = sum(outputs) / len(outputs)
    expected = literal_ce(mean, labels) + literal_kl(mean, teacher_logits, 4) + 800 * literal_sastc(*calibration)
    assert_number(DistillationLoss()(*batch).total, expected)


@given(batches(), st.booleans(), st.booleans())
def test_parts_that_are_not_given_are_left_out(batch, with_teacher, with_calibration):
    outputs, labels, teacher_logits, calibration = batch
    loss = DistillationLoss(2.0, 3.0)(outputs, labels, teacher_logits if with_teacher else None, calibration if with_calibration else None)
    mean = sum(outputs) / len(outputs)
    expected = literal_ce(mean, labels)
    expected += 2 * literal_kl(mean, teacher_logits, 4) if with_teacher else 0
    expected += 3 * literal_sastc(*calibration) if with_calibration else 0
    assert_number(loss.total, expected)
    assert list(loss.parts()) == ["total", "ce"] + ["kl"] * with_teacher + ["sastc"] * with_calibration
    assert (loss.kl is not None, loss.sastc is not None) == (with_teacher, with_calibration)


@given(batches())
def test_gradient_reaches_every_step_alike(batch):
    "z is a mean, so a loss on z sends each step the same gradient."
    outputs, *rest = batch
    outputs.requires_grad_()
    DistillationLoss()(outputs, *rest).total.backward()
    for step in outputs.grad:
        torch.testing.assert_close(step, outputs.grad[0], atol=1e-12, rtol=0)
    assert outputs.grad.any()


def test_total_passes_gradcheck():
    labels, teacher_logits = torch.tensor([1, 0, 3]), drawn(0, 3, 4)
    attention, distance = drawn(1, 2, 2, 3, 2, 3)

    def total(outputs, attention, distance):
        return DistillationLoss(beta=5.0)(outputs, labels, teacher_logits, Calibration(attention, distance)).total

    assert torch.autograd.gradcheck(total, (drawn(2, 2, 3, 4).requires_grad_(), attention.requires_grad_(), distance.requires_grad_()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_logits_give_the_float32_loss(dtype):
    outputs, teacher_logits, labels = drawn(0, 2, 3, 5).to(dtype), drawn(1, 3, 5).to(dtype), torch.tensor([0, 4, 2])
    loss = DistillationLoss()(outputs, labels, teacher_logits)
    mean = sum(outputs.double()) / 2
    assert loss.total.dtype == torch.float32
    torch.testing.assert_close(loss.ce.item(), literal_ce(mean, labels), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(loss.kl.item(), literal_kl(mean, teacher_logits.double(), 4), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "options, sentence",
    [
        (dict(alpha=-1), "alpha: expected a number of at least 0, got -1"),
        (dict(beta=float("nan")), "beta: expected .*, got nan"),
        (dict(beta="800"), "beta: expected .*, got '800'"),
        (dict(temperature=0), "temperature: expected .*, got 0"),
        (dict(temperature=float("inf")), "temperature: expected .*, got inf"),
    ],
)
def test_distillation_loss_refuses(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        DistillationLoss(**options)


# ---------------------------------------------------------------- what does not belong together


def refused_pairs():
    "Calls of every public loss with one image, one class or one label, which a formula would repeat for the others."
    student, teacher, labels = torch.randn(4, 5), torch.randn(4, 5), torch.tensor([0, 1, 2, 3])
    outputs, maps = torch.randn(3, 4, 5), torch.randn(4, 6, 3, 3)
    of_logits = dict(kd_loss=kd_loss, dist=dist_losses, head_tail=head_tail_loss)
    of_logits |= dict(dkd=lambda *given: dkd_losses(given[0], given[1], labels, *given[2:]))
    of_logits |= dict(
        nld=lambda s, t, tau=2.0: nld_loss(s, t, torch.zeros(4, 5), temperature=tau), soft=lambda s, t, *tau: weighted_soft_loss(s, t, labels, *tau)
    )
    for name, loss in of_logits.items():
        yield f"{name}, one image", "teacher_logits", partial(loss, student, teacher[:1])
        yield f"{name}, one class", "teacher_logits", partial(loss, student, teacher[:, :1])
        yield f"{name}, negative temperature", "temperature", partial(loss, student, teacher, -4.0)
    yield "noise", "noise", lambda: nld_loss(student, teacher, torch.zeros(1, 5))
    yield "sp", "teacher", lambda: sp_loss(maps, maps[:1])
    yield "rkd", "teacher", lambda: rkd_losses(maps, maps[:1])
    yield "restored", "teacher", lambda: restoring_loss(maps, maps[:1])
    yield "distance", "target", lambda: squared_distance(outputs, teacher[:1])
    yield "matrices", "teacher", lambda: matrix_distance(torch.randn(2, 3, 4, 4), torch.randn(2, 1, 1))
    yield "steps", "target", lambda: step_kd_loss(outputs, teacher[:1])
    yield "labels of right steps", "labels", lambda: right_steps(outputs, labels[:1])
    yield "labels of TKS", "labels", lambda: tks_loss(outputs, labels[:1])
    yield "target", "kind", lambda: self_target(outputs, labels, "ensembles")
    yield "maps", "reading", lambda: samd_loss(torch.rand(4, 3, 3), torch.rand(4, 3, 3), reading="codes")
    yield "pairs", "pairing", lambda: pair_loss(outputs, "strong", pairing="cascades")
    yield "schedule", "schedule", lambda: weight_factor("earlier", 0.5, 0.1)
    yield "teaching", "teaching", lambda: pair_loss(outputs, "week")


@pytest.mark.parametrize("argument, call", [pytest.param(argument, call, id=name) for name, argument, call in refused_pairs()])
def test_what_a_formula_would_repeat_is_refused(argument, call):
    with pytest.raises(ValueError, match=f"^{argument}: expected "):
        call()
