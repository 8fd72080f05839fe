"""The calibrator against METHOD 2.4-2.8 written out as loops over time, student layer, teacher layer and image."""

import copy
import itertools
import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from sastc.methods.attention import attention_bounds, rsa_attention
from sastc.methods.calibrator import Calibrator, label_pull
from sastc.methods.losses import sastc_loss
from sastc.metrics.similarity import similarity

some = settings(max_examples=60)

# a layer is a map (C, H, H) or a vector (C,)
layers = st.tuples(st.integers(1, 3)) | st.tuples(st.integers(1, 3), st.integers(1, 5)).map(lambda pair: (pair[0], pair[1], pair[1]))
OPTIONS = dict(
    projection=st.sampled_from(["code", "code", "semckd", "bottleneck", "linear", "none"]),
    student_pool=st.sampled_from(["max", "avg"]),
    teacher_pool=st.sampled_from(["avg", "max"]),
    attn_scale=st.sampled_from([0.5, 1.0, 4.0]),
    alignment=st.sampled_from(["features", "similarity"]),
    similarity_norm=st.sampled_from(["raw", "row", "frobenius"]),
    attention=st.sampled_from(["self", "self", "self", "rsa", "uniform"]),
    relative_distance=st.booleans(),
    attention_gradient=st.sampled_from(["flows", "embedding", "labels", "none"]),
    factor=st.integers(1, 2),
)
TAKEN = dict(  # which of them a choice takes; others would have no effect and are refused
    self={"factor", "attn_scale", "attention_gradient", "similarity_norm"},
    rsa={"attn_scale"},
    uniform=set(),
    features={"projection", "student_pool", "teacher_pool", "relative_distance"},
    similarity={"projection", "student_pool", "teacher_pool", "relative_distance", "similarity_norm"},
)


def with_effect(options):
    return {name: value for name, value in options.items() if name in {"attention", "alignment"} | TAKEN[options["attention"]] | TAKEN[options["alignment"]]}


@st.composite
def cases(draw, **fixed):
    "A calibrator in float64 and features that fit it. Binary features can be silent, which only raw matrices leave smooth."
    options = {name: fixed[name] if name in fixed else draw(strategy) for name, strategy in OPTIONS.items()}
    options["alignment"] = "similarity" if options["projection"] == "none" else options["alignment"]
    student_shapes, teacher_shapes = (draw(st.lists(layers, min_size=1, max_size=most)) for most in (2, 3))
    time_steps, batch, seed = draw(st.integers(1, 3)), draw(st.integers(4, 6)), draw(st.integers(0, 2**31))
    binary = options["similarity_norm"] == "raw" and draw(st.booleans())
    torch.manual_seed(seed)
    calibrator = shaken(Calibrator(student_shapes, teacher_shapes, batch, **with_effect(options)).double())
    students = [torch.rand(time_steps, batch, *shape, dtype=torch.float64) for shape in student_shapes]
    students = [(feature > 0.6).double() if binary else feature for feature in students]
    teachers = [torch.randn(batch, *shape, dtype=torch.float64) for shape in teacher_shapes]
    return options, calibrator, students, teachers


def shaken(module):
    "Parameters and statistics that no default hides: scale 1, shift 0, mean 0 and variance 1 would make several mistakes invisible."
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor, low, high in ((norm.weight, 0.5, 1.5), (norm.bias, 0.1, 0.5), (norm.running_mean, -1, 1), (norm.running_var, 0.5, 2)):
                nn.init.uniform_(tensor, low, high)
    return module


# ---------------------------------------------------------------- METHOD 2.4-2.8, literally


def literal_gram(feature, norm):
    rows = feature.reshape(len(feature), -1)
    matrix = torch.stack([torch.stack([(one * other).sum() for other in rows]) for one in rows])
    if norm == "row":
        return torch.stack([row / row.square().sum().sqrt() if row.any() else row for row in matrix])
    return matrix / matrix.square().sum().sqrt() if norm == "frobenius" and matrix.any() else matrix


def literal_embedding(row, weights, side, number):
    "E(x) = n(W2 relu(W1 x + c1) + c2) for one instance."
    w1, c1, w2, c2 = (weights[f"attention.{side}.{part}"][number] for part in ("hidden_weight", "hidden_bias", "output_weight", "output_bias"))
    vector = F.linear(F.relu(F.linear(row, w1.T, c1[0])), w2.T, c2[0])
    return vector / vector.square().sum().sqrt()


def literal_projection(x, weights, statistics, s, l, kind):
    at = f"alignment.projections.{s}.{l}"
    for position, padding in enumerate(dict(code=[1], semckd=[0, 1], bottleneck=[0], linear=[])[kind]):
        norm = f"{at}.norms.{position}"
        x = F.conv2d(x, weights[f"{at}.convs.{position}.weight"], padding=padding)
        mean, variance = statistics[f"{norm}.running_mean"], statistics[f"{norm}.running_var"]
        x = F.batch_norm(x, mean, variance, weights[f"{norm}.weight"], weights[f"{norm}.bias"], training=True, momentum=0.1, eps=1e-5)
        statistics[f"{norm}.num_batches_tracked"] += 1
        x = F.relu(x)
    return F.conv2d(x, weights[f"{at}.last.weight"], weights.get(f"{at}.last.bias"))


LITERAL_POOL = dict(max=F.adaptive_max_pool2d, avg=F.adaptive_avg_pool2d)


def literal_pair(student, teacher, o):
    "Features of one step brought to one map size."
    student, teacher = (x.reshape(*x.shape, 1, 1) if x.ndim == 2 else x for x in (student, teacher))
    if student.shape[-1] > teacher.shape[-1]:
        return LITERAL_POOL[o["student_pool"]](student, teacher.shape[-1]), teacher
    return student, LITERAL_POOL[o["teacher_pool"]](teacher, student.shape[-1])


def literal_distances(projected, target, o):
    if o["alignment"] == "similarity":
        projected, target = literal_gram(projected, o["similarity_norm"]), literal_gram(target, o["similarity_norm"])
    unit = (target - target.mean()).square().mean() if o["relative_distance"] else 1
    unit = 1 if unit == 0 else unit
    return [(projected[b] - target[b]).square().mean() / unit for b in range(len(target))]


def literal_agreement(student, teacher, b):
    "Correlation, over the other images, between how alike to image b each of them is in two layers. Correlation of a constant is 0."

    def correlation(one, other):
        one, other = one - one.mean(), other - other.mean()
        scale = (one.square().sum() * other.square().sum()).sqrt()
        return (one * other).sum() / scale if scale > 1e-12 else scale * 0

    def alike(features, other):
        rows = features.reshape(len(features), -1)
        rows = rows - rows.mean(0)
        scale = (rows[b].square().sum() * rows[other].square().sum()).sqrt()
        return (rows[b] * rows[other]).sum() / scale if scale > 1e-12 else scale * 0

    others = [other for other in range(len(student)) if other != b]
    return correlation(*(torch.stack([alike(features, other) for other in others]) for features in (student, teacher)))


def literal(calibrator, students, teachers, o):
    "Attention and distance [T, B, S, N] and the statistics afterwards. Attention is read first: it has no statistics."
    weights, statistics = dict(calibrator.named_parameters()), {name: buffer.clone() for name, buffer in calibrator.named_buffers()}
    (time_steps, batch), count = students[0].shape[:2], len(teachers)
    attention, distance = ([[[[None] * count for _ in students] for _ in range(batch)] for _ in range(time_steps)] for _ in range(2))
    for t, s in itertools.product(range(time_steps), range(len(students))):
        if o["attention"] == "uniform":
            for b in range(batch):
                attention[t][b][s] = [torch.tensor(1 / count, dtype=torch.float64)] * count
            continue
        if o["attention"] == "rsa":
            for b in range(batch):
                agreement = torch.stack([literal_agreement(students[s][t], teacher, b) for teacher in teachers]).detach()
                attention[t][b][s] = list((8 * o["attn_scale"] * agreement).softmax(0))
            continue
        seen = students[s][t] if o["attention_gradient"] == "flows" else students[s][t].detach()
        gram, teacher_grams = literal_gram(seen, o["similarity_norm"]), [literal_gram(teacher, o["similarity_norm"]) for teacher in teachers]
        for b in range(batch):
            query = literal_embedding(gram[b], weights, "query", s)
            logits = [(query * literal_embedding(teacher_grams[l][b], weights, "key", l)).sum() * o["attn_scale"] for l in range(count)]
            total = sum(logit.exp() for logit in logits)
            attention[t][b][s] = [logit.exp() / total for logit in logits]
    for s, l in itertools.product(range(len(students)), range(count)):
        for t in range(time_steps):
            if o["projection"] == "none":
                projected, target = students[s][t], teachers[l]
            else:
                student, target = literal_pair(students[s][t], teachers[l], o)
                projected = literal_projection(student, weights, statistics, s, l, o["projection"])
            for b, value in enumerate(literal_distances(projected, target, o)):
                distance[t][b][s][l] = value
    return nested_stack(attention), nested_stack(distance), statistics


def nested_stack(lists):
    return torch.stack([nested_stack(item) if isinstance(item, list) else item for item in lists])


def literal_loss(attention, distance):
    time_steps, batch, students, teachers = attention.shape
    total = 0
    for t, b, s, l in itertools.product(*map(range, attention.shape)):
        total = total + attention[t, b, s, l] * distance[t, b, s, l]
    return total / (batch * time_steps * students)


def assert_equal_to_literal(options, calibrator, students, teachers):
    students = [feature.requires_grad_() for feature in students]
    trained = [parameter for parameter in calibrator.parameters() if parameter.requires_grad]
    expected_attention, expected_distance, statistics = literal(calibrator, students, teachers, options)
    expected_loss = literal_loss(expected_attention, expected_distance)
    expected = torch.autograd.grad(expected_loss, [*students, *trained], materialize_grads=True)

    attention, distance = calibrator(students, teachers)
    loss = sastc_loss(attention, distance)
    gradients = torch.autograd.grad(loss, [*students, *trained], materialize_grads=True)
    assert attention.shape == distance.shape == expected_attention.shape
    for one, other in [(attention, expected_attention), (distance, expected_distance), (loss, expected_loss), *zip(gradients, expected)]:
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-9)
    for name, buffer in calibrator.named_buffers():
        torch.testing.assert_close(buffer, statistics[name], atol=1e-9, rtol=1e-9)
    return gradients


@some
@given(case=cases())
def test_values_gradients_and_statistics_equal_the_literal_loops(case):
    assert_equal_to_literal(*case)


@pytest.mark.parametrize("projection", ["code", "semckd", "bottleneck", "linear"])
@pytest.mark.parametrize("student_pool, teacher_pool", [("max", "avg"), ("avg", "max")])
def test_literal_loops_on_larger_smaller_and_vector_features(projection, student_pool, teacher_pool):
    "Every relation of map sizes at once, whatever the drawn examples happen to hold."
    torch.manual_seed(0)
    options = dict(projection=projection, student_pool=student_pool, teacher_pool=teacher_pool, factor=2)
    student_shapes, teacher_shapes = [(2, 5, 5), (3, 2, 2), (4,)], [(3, 4, 4), (2, 2, 2), (3,)]
    calibrator = shaken(Calibrator(student_shapes, teacher_shapes, 6, **options).double())
    students = [torch.rand(2, 6, *shape).double() for shape in student_shapes]
    teachers = [torch.randn(6, *shape).double() for shape in teacher_shapes]
    defaults = dict(attn_scale=1.0, alignment="features", similarity_norm="raw", attention="self", attention_gradient="flows", relative_distance=False)
    gradients = assert_equal_to_literal(defaults | options, calibrator, students, teachers)
    assert all(gradient.any() for gradient in gradients)


@some
@given(cases(attention_gradient="none", attention="self"))
def test_gradient_none_leaves_the_embeddings_untrained(case):
    _, calibrator, students, teachers = case
    assert not any(parameter.requires_grad for parameter in calibrator.attention.parameters())
    assert not calibrator(students, teachers).attention.requires_grad


def test_defaults_are_those_of_the_released_code():
    torch.manual_seed(0)
    student_shapes, teacher_shapes = [(2, 5, 5), (3, 2, 2)], [(3, 4, 4), (2, 3, 3)]
    default = Calibrator(student_shapes, teacher_shapes, 8)
    named = dict(factor=4, projection="code", student_pool="max", teacher_pool="avg", attn_scale=1.0, alignment="features", similarity_norm="raw")
    explicit = Calibrator(student_shapes, teacher_shapes, 8, **named, attention="self", attention_gradient="flows", relative_distance=False)
    explicit.load_state_dict(default.state_dict())
    students, teachers = [torch.rand(2, 8, *shape) for shape in student_shapes], [torch.rand(8, *shape) for shape in teacher_shapes]
    assert all(one.equal(other) for one, other in zip(default(students, teachers), explicit(students, teachers)))


@given(batch=st.integers(3, 9), seed=st.integers(0, 2**31))
def test_rsa_attention_knows_no_scale_order_or_batch_size(batch, seed):
    torch.manual_seed(seed)
    students, teachers = (
        [torch.rand(2, batch, 3, 4, 4).double(), torch.rand(2, batch, 5).double()],
        [torch.randn(batch, 4, 2, 2).double(), torch.rand(batch, 6).double()],
    )
    attention = rsa_attention(students, teachers)
    order = torch.randperm(batch)
    torch.testing.assert_close(rsa_attention([f[:, order] for f in students], [f[order] for f in teachers]), attention[:, order])
    torch.testing.assert_close(rsa_attention([300 * f + 2 for f in students], [0.01 * f - 5 for f in teachers]), attention)
    torch.testing.assert_close(rsa_attention(students, teachers[::-1]), attention.flip(-1))


@given(cases(attention="rsa"))
def test_rsa_attention_passes_no_gradient_and_has_no_parameters(case):
    _, calibrator, students, teachers = case
    assert not list(calibrator.attention.parameters()) and not calibrator([f.requires_grad_() for f in students], teachers).attention.requires_grad


def test_rsa_attention_needs_three_images():
    with pytest.raises(ValueError, match="teacher_features: expected at least 3 images, .* got 2"):
        rsa_attention([torch.rand(1, 2, 4)], [torch.rand(2, 4)])


@some
@given(cases(attention_gradient="labels", attention="self", similarity_norm="raw"), st.booleans())
def test_label_pull_compares_a_step_down_with_a_step_up(case, silent):
    options, calibrator, students, teachers = case
    gradients = [torch.randn_like(feature) for feature in students]
    if silent:  # an image whose feature is silent or whose loss is flat is not moved
        students[0][:, 0], gradients[-1][0] = 0, 0

    def moved(sign):
        features = [feature.clone() for feature in students]
        for feature, gradient in zip(features, gradients):
            for t, b in itertools.product(*map(range, feature.shape[:2])):
                length = gradient[t, b].square().sum().sqrt()
                if length > 0:
                    feature[t, b] += sign * 0.1 * feature[t, b].square().sum().sqrt() / length * gradient[t, b]
        return features

    before = copy.deepcopy(calibrator)
    down, up = (literal(before, moved(sign), teachers, options)[1] for sign in (-1, 1))
    pull = label_pull(calibrator.attention, calibrator.alignment, [feature.requires_grad_() for feature in students], teachers, gradients)
    assert not pull.requires_grad
    torch.testing.assert_close(pull, torch.nan_to_num((down - up) / (down + up)), atol=1e-9, rtol=1e-9)


# ---------------------------------------------------------------- similarity


@given(
    time_steps=st.none() | st.integers(1, 3),
    batch=st.integers(1, 5),
    shape=st.lists(st.integers(1, 3), min_size=3, max_size=3) | st.lists(st.integers(1, 5), min_size=1, max_size=1),
    norm=st.sampled_from(["raw", "row", "frobenius"]),
    seed=st.integers(0, 2**31),
)
def test_similarity_equals_dot_products_one_by_one(time_steps, batch, shape, norm, seed):
    leading = [] if time_steps is None else [time_steps]
    features = torch.randn(*leading, batch, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = torch.stack([literal_gram(step, norm) for step in features]) if leading else literal_gram(features, norm)
    torch.testing.assert_close(similarity(features, norm), expected, atol=1e-10, rtol=1e-10)


def test_similarity_of_spikes_counts_neurons_that_fire_in_both():
    spikes = torch.tensor([[1.0, 1, 0, 0], [1, 0, 1, 1], [0, 0, 0, 0]])
    assert similarity(spikes).tolist() == [[2, 1, 0], [1, 3, 0], [0, 0, 0]]


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype, count", [(torch.bfloat16, 257), (torch.float16, 70_000), (torch.float32, 1_000_003)])
def test_similarity_counts_in_float32(dtype, count, autocast):
    "257 is not a bfloat16 number, and 70,000 is beyond float16."
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        matrix = similarity(torch.ones(2, count, dtype=dtype))
    assert matrix.dtype == torch.float32 and matrix.tolist() == [[count] * 2] * 2


@pytest.mark.parametrize("shape", [(3,), (1, 1, 1, 1, 1, 1)])
def test_similarity_refuses_other_ranks(shape):
    with pytest.raises(ValueError, match=r"features: expected \[B, C\], \[B, C, H, W\], \[T, B, C\] or \[T, B, C, H, W\], got \[\d"):
        similarity(torch.ones(shape))


# ---------------------------------------------------------------- attention


METHOD_BOUNDS = {2: (0.119, 0.881), 3: (0.063, 0.787), 4: (0.043, 0.711)}


@pytest.mark.parametrize("count, bounds", METHOD_BOUNDS.items())
def test_attention_bounds_are_those_of_the_method(count, bounds):
    assert tuple(round(bound, 3) for bound in attention_bounds(count)) == bounds


@some
@given(case=cases(attention="self"))
def test_attention_sums_to_one_within_its_bounds(case):
    options, calibrator, students, teachers = case
    attention = calibrator(students, teachers).attention
    torch.testing.assert_close(attention.sum(-1), torch.ones_like(attention[..., 0]), atol=1e-12, rtol=0)
    others = len(teachers) - 1
    scale = options["attn_scale"]
    assert attention.min() >= 1 / (1 + others * math.exp(2 * scale)) - 1e-12
    assert attention.max() <= 1 / (1 + others * math.exp(-2 * scale)) + 1e-12


def usual(batch=8, time_steps=3, dtype=torch.float64, seed=0, **options):
    torch.manual_seed(seed)
    student_shapes, teacher_shapes = [(3, 4, 4), (4, 2, 2)], [(3, 4, 4), (2, 2, 2), (5,)]
    calibrator = shaken(Calibrator(student_shapes, teacher_shapes, batch, **options).to(dtype))
    # sparse but not binary: the maximum of many spikes is 1 everywhere, and normalisation leaves nothing of a constant
    students = [(torch.rand(time_steps, batch, *shape) * (torch.rand(time_steps, batch, *shape) > 0.5)).to(dtype) for shape in student_shapes]
    return calibrator, students, [torch.randn(batch, *shape).to(dtype) for shape in teacher_shapes]


def test_attention_differs_over_instances_steps_and_layers():
    calibrator, students, teachers = usual(batch=16)
    attention = calibrator(students, teachers).attention
    for axis in range(4):
        assert attention.std(axis).median() > 1e-3


def test_layers_that_are_equal_at_all_steps_get_equal_attention_at_all_steps():
    calibrator, students, teachers = usual()
    still = [feature[:1].expand(4, *feature.shape[1:]) for feature in students]
    attention, distance = calibrator(still, teachers)
    assert len(attention) == 4
    for t in range(1, 4):
        torch.testing.assert_close(attention[t], attention[0], atol=1e-12, rtol=0)
        torch.testing.assert_close(distance[t], distance[0], atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("order", [[2, 0, 1], [1, 0, 2]])
def test_permuting_teacher_layers_permutes_attention_and_leaves_the_loss(order):
    calibrator, students, teachers = usual()
    twin = Calibrator([f.shape[2:] for f in students], [teachers[l].shape[1:] for l in order], 8).double()
    for name, parameter in calibrator.attention.key.named_parameters():
        twin.attention.key.get_parameter(name).data = parameter.data[order]
    twin.attention.query.load_state_dict(calibrator.attention.query.state_dict())
    for s, l in itertools.product(range(2), range(3)):
        twin.alignment.projections[s][l].load_state_dict(calibrator.alignment.projections[s][order[l]].state_dict())
    one, other = calibrator(students, teachers), twin(students, [teachers[l] for l in order])
    torch.testing.assert_close(other.attention, one.attention[..., order], atol=1e-12, rtol=0)
    torch.testing.assert_close(other.distance, one.distance[..., order], atol=1e-12, rtol=0)
    torch.testing.assert_close(sastc_loss(*other), sastc_loss(*one), atol=1e-12, rtol=0)


def test_a_step_is_calibrated_without_knowledge_of_the_others():
    calibrator, students, teachers = usual()
    whole = calibrator(students, teachers)
    alone = [calibrator([feature[t : t + 1] for feature in students], teachers) for t in range(3)]
    for part in range(2):
        torch.testing.assert_close(whole[part], torch.cat([step[part] for step in alone]), atol=1e-12, rtol=0)


def test_uniform_attention_is_exact_and_needs_no_batch_size():
    calibrator = Calibrator([(3,)], [(3,), (2,), (4,)], attention="uniform").double()
    students, teachers = [torch.rand(2, 5, 3).double()], [torch.rand(5, count).double() for count in (3, 2, 4)]
    attention = calibrator(students, teachers).attention
    assert attention.shape == (2, 5, 1, 3)
    torch.testing.assert_close(attention.double(), torch.full((2, 5, 1, 3), 1 / 3, dtype=torch.float64), atol=1e-15, rtol=0)
    assert calibrator([students[0][:, :3]], [teacher[:3] for teacher in teachers]).attention.shape == (2, 3, 1, 3)


def test_one_dimensional_embedding_warns_and_does_not_learn():
    with pytest.warns(UserWarning, match=r"batch_size // factor = 7 // 4 = 1: .* passes no gradient, so attention will not be learned"):
        calibrator = Calibrator([(3,)], [(3,), (2,)], 7).double()
    students, teachers = [torch.rand(2, 7, 3).double()], [torch.rand(7, 3).double(), torch.rand(7, 2).double()]
    sastc_loss(*calibrator(students, teachers)).backward()
    assert all(parameter.grad.abs().max() < 1e-9 for parameter in calibrator.attention.parameters())


def test_two_dimensional_embedding_does_not_warn_and_learns():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        calibrator, students, teachers = usual(batch=8)
    sastc_loss(*calibrator(students, teachers)).backward()
    assert all(parameter.grad.any() for parameter in calibrator.parameters())


# ---------------------------------------------------------------- SemCKD


class SemCKD(nn.Module):
    "The single-step ancestor (METHOD: [S]): loss of one batch, features without a time axis."

    def __init__(self, student_shapes, teacher_shapes, batch):
        super().__init__()

        def mlp():
            return nn.Sequential(nn.Linear(batch, 2 * (batch // 4)), nn.ReLU(), nn.Linear(2 * (batch // 4), batch // 4))

        def projection(c_in, c_out):
            hidden = 2 * c_out
            first = nn.Conv2d(c_in, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU()
            second = nn.Conv2d(hidden, hidden, 3, padding=1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU()
            return nn.Sequential(*first, *second, nn.Conv2d(hidden, c_out, 1, bias=False))

        self.queries = nn.ModuleList(mlp() for _ in student_shapes)
        self.keys = nn.ModuleList(mlp() for _ in teacher_shapes)
        self.projections = nn.ModuleList(nn.ModuleList(projection(s[0], t[0]) for t in teacher_shapes) for s in student_shapes)

    def forward(self, students, teachers):
        batch = len(students[0])
        keys = torch.stack([F.normalize(mlp(f.flatten(1) @ f.flatten(1).T)) for mlp, f in zip(self.keys, teachers)], dim=1)
        total = 0
        for mlp, student, row in zip(self.queries, students, self.projections):
            query = F.normalize(mlp(student.flatten(1) @ student.flatten(1).T))
            weight = torch.bmm(keys, query[:, :, None])[..., 0].softmax(dim=1)
            for l, (projection, target) in enumerate(zip(row, teachers)):
                source, size = student, min(student.shape[-1], target.shape[-1])
                if student.shape[-1] > size:
                    source = F.adaptive_avg_pool2d(student, size)
                elif target.shape[-1] > size:
                    target = F.adaptive_avg_pool2d(target, size)
                distance = (projection(source) - target).square().flatten(1).mean(1)
                total = total + (weight[:, l] * distance).sum()
        return total / (batch * len(students))


@pytest.mark.parametrize("seed", range(3))
def test_one_step_with_semckd_projection_and_pooling_is_semckd(seed):
    torch.manual_seed(seed)
    student_shapes, teacher_shapes = [(3, 6, 6), (4, 3, 3)], [(2, 5, 5), (3, 3, 3), (4, 2, 2)]
    reference = shaken(SemCKD(student_shapes, teacher_shapes, 8).double())
    calibrator = Calibrator(student_shapes, teacher_shapes, 8, projection="semckd", student_pool="avg").double()
    for embeddings, mlps in ((calibrator.attention.query, reference.queries), (calibrator.attention.key, reference.keys)):
        for number, mlp in enumerate(mlps):
            for name, linear in (("hidden", mlp[0]), ("output", mlp[2])):
                embeddings.get_parameter(f"{name}_weight").data[number] = linear.weight.data.T
                embeddings.get_parameter(f"{name}_bias").data[number, 0] = linear.bias.data
    for projection, layers_ in zip(itertools.chain(*calibrator.alignment.projections), itertools.chain(*reference.projections)):
        for mine, theirs in zip([*projection.convs, *projection.norms, projection.last], [layers_[n] for n in (0, 3, 1, 4, 6)]):
            mine.load_state_dict(theirs.state_dict())
    students = [torch.rand(8, *shape, dtype=torch.float64, requires_grad=True) for shape in student_shapes]
    teachers = [torch.randn(8, *shape, dtype=torch.float64) for shape in teacher_shapes]
    loss, expected = sastc_loss(*calibrator([feature[None] for feature in students], teachers)), reference(students, teachers)
    torch.testing.assert_close(loss, expected, atol=1e-10, rtol=1e-10)
    for one, other in zip(torch.autograd.grad(loss, students), torch.autograd.grad(expected, students)):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-10)


# ---------------------------------------------------------------- statistics, silence, precision


def literal_map(feature):
    "[C, H, W] -> unit vector [H*W], entry by entry."
    channels, height, width = feature.shape
    energy = torch.stack([sum(feature[c, i, j] ** 2 for c in range(channels)) / channels for i in range(height) for j in range(width)])
    length = energy.square().sum().sqrt()
    return energy / length if length > 0 else energy


@settings(max_examples=20)
@given(student_size=st.integers(2, 4), teacher_size=st.integers(2, 4), attention=st.sampled_from(["self", "uniform"]), seed=st.integers(0, 2**31))
def test_attention_maps_equal_a_literal_loop(student_size, teacher_size, attention, seed):
    torch.manual_seed(seed)
    shapes = [(2, student_size, student_size), (3, 3, 3)], [(4, teacher_size, teacher_size)]
    calibrator = Calibrator(*shapes, 4, alignment="attention_map", attention=attention, **(dict(factor=2) if attention == "self" else {})).double()
    students = [(torch.rand(3, 4, *shape, dtype=torch.float64) > 0.6).double().requires_grad_() for shape in shapes[0]]
    teachers = [torch.randn(4, *shape, dtype=torch.float64) for shape in shapes[1]]
    distance, wanted = calibrator(students, teachers).distance, torch.empty(3, 4, 2, 1, dtype=torch.float64)
    for t, b, s in itertools.product(range(3), range(4), range(2)):
        counts, target = sum(students[s][step, b] for step in range(3)), teachers[0][b]
        size = min(counts.shape[-1], target.shape[-1])
        counts = F.adaptive_max_pool2d(counts, size) if counts.shape[-1] > size else counts
        target = F.adaptive_avg_pool2d(target, size) if target.shape[-1] > size else target
        wanted[t, b, s, 0] = (literal_map(counts) - literal_map(target)).square().sum()
    torch.testing.assert_close(distance, wanted)
    weights = torch.rand_like(wanted)
    for ours, literal in zip(*(torch.autograd.grad((weights * value).sum(), students, retain_graph=True) for value in (distance, wanted))):
        torch.testing.assert_close(ours, literal)


def test_attention_maps_have_nothing_to_learn_and_stay_finite_for_silent_layers():
    calibrator = Calibrator([(2, 4, 4)], [(3, 2, 2)], alignment="attention_map", attention="uniform")
    assert not list(calibrator.parameters())
    student = torch.zeros(2, 5, 2, 4, 4, requires_grad=True)
    distance = calibrator([student], [torch.rand(5, 3, 2, 2)]).distance
    distance.sum().backward()
    assert distance.allclose(torch.ones(())) and student.grad.eq(0).all()
    with pytest.raises(
        ValueError,
        match="relative_distance: expected only with alignment features, similarity, got True with alignment 'attention_map', where it has no effect",
    ):
        Calibrator([(2, 4, 4)], [(3, 2, 2)], alignment="attention_map", attention="uniform", relative_distance=True)


def test_evaluation_mode_uses_and_keeps_the_running_statistics():
    calibrator, students, teachers = usual()
    calibrator.eval()
    before = {name: buffer.clone() for name, buffer in calibrator.named_buffers()}
    whole = calibrator(students, teachers).distance
    assert all(buffer.equal(before[name]) for name, buffer in calibrator.named_buffers())
    # without batch statistics an image does not depend on its neighbours
    shuffled = calibrator([feature.flip(1) for feature in students], [feature.flip(0) for feature in teachers]).distance
    torch.testing.assert_close(shuffled.flip(1), whole, atol=1e-12, rtol=0)


def test_running_statistics_are_updated_once_for_each_step():
    calibrator, students, teachers = usual()
    calibrator(students, teachers)
    assert {int(buffer) for name, buffer in calibrator.named_buffers() if "tracked" in name} == {3}


@pytest.mark.parametrize("silent", ["student", "teacher", "both"])
@pytest.mark.parametrize("norm", ["raw", "row", "frobenius"])
@pytest.mark.parametrize("alignment", ["features", "similarity"])
def test_silent_layers_give_finite_values_and_gradients(alignment, norm, silent):
    calibrator, students, teachers = usual(alignment=alignment, similarity_norm=norm, dtype=torch.float32)
    if silent != "teacher":
        students = [torch.zeros_like(feature) for feature in students]
    if silent != "student":
        teachers = [torch.zeros_like(feature) for feature in teachers]
    for feature in students:
        feature.requires_grad_()
    calibration = calibrator(students, teachers)
    sastc_loss(*calibration).backward()
    assert all(part.isfinite().all() for part in calibration)
    assert all(tensor.grad.isfinite().all() for tensor in [*students, *calibrator.parameters()])


@pytest.mark.parametrize("norm", ["raw", "row", "frobenius"])
def test_one_silent_image_does_not_blow_up_the_gradient(norm):
    "Dividing a row of zeros by an epsilon turns its gradient into 1/epsilon: finite, and the end of the training."
    calibrator, students, teachers = usual(similarity_norm=norm)
    students = [feature.clone() for feature in students]
    for feature in students:
        feature[:, 0] = 0
        feature.requires_grad_()
    sastc_loss(*calibrator(students, teachers)).backward()
    assert max(feature.grad.abs().max() for feature in students) < 10


def test_embedding_of_zero_length_gives_finite_attention():
    calibrator, students, teachers = usual(dtype=torch.float32)
    for parameter in calibrator.attention.parameters():
        nn.init.zeros_(parameter)
    calibration = calibrator(students, teachers)
    torch.testing.assert_close(calibration.attention, torch.full_like(calibration.attention, 1 / 3))
    sastc_loss(*calibration).backward()
    assert all(parameter.grad.isfinite().all() for parameter in calibrator.parameters())


def test_bf16_autocast_leaves_similarity_and_attention_in_float32():
    calibrator, students, teachers = usual(dtype=torch.float32)
    twin = copy.deepcopy(calibrator)
    students, teachers = ([feature.bfloat16() for feature in features] for features in (students, teachers))
    exact = calibrator(*([feature.float() for feature in features] for features in (students, teachers)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        calibration = twin(students, teachers)
        assert similarity(students[0]).dtype == torch.float32
    assert calibration.attention.dtype == calibration.distance.dtype == torch.float32
    torch.testing.assert_close(calibration.attention, exact.attention, atol=1e-6, rtol=0)
    torch.testing.assert_close(calibration.distance, exact.distance, atol=0.05, rtol=0.05)
    sastc_loss(*calibration).backward()
    assert all(parameter.grad.dtype == torch.float32 and parameter.grad.isfinite().all() for parameter in twin.parameters())


def test_state_round_trip():
    calibrator, students, teachers = usual()
    again, *_ = usual(seed=1)
    again.load_state_dict(calibrator.state_dict())
    assert all(one.equal(other) for one, other in zip(calibrator(students, teachers), again(students, teachers)))


def test_features_are_left_as_they_were():
    calibrator, students, teachers = usual()
    before = [feature.clone() for feature in [*students, *teachers]]
    calibrator(students, teachers)
    assert all(feature.equal(old) for feature, old in zip([*students, *teachers], before))


# ---------------------------------------------------------------- errors


def with_batch(features, axis, batch):
    return [feature.narrow(axis, 0, batch) for feature in features]


BAD_FEATURES = dict(
    batch_smaller_than_m=(lambda s, t: (with_batch(s, 1, 5), with_batch(t, 0, 5)), "student_features: expected exactly 8 images, .* got 5"),
    different_batches=(lambda s, t: (s, with_batch(t, 0, 5)), "teacher_features: expected the batch of the student, 8 images, got 5"),
    missing_student_layer=(lambda s, t: (s[:1], t), "student_features: expected 2 layers, got 1"),
    extra_teacher_layer=(lambda s, t: (s, [*t, t[0]]), "teacher_features: expected 3 layers, got 4"),
    no_time_axis=(lambda s, t: ([f[0] for f in s], t), r"student_features: expected \[T, B\] \+ \[3, 4, 4\] for layer 0, .* got \[8, 3, 4, 4\]"),
    teacher_with_time_axis_of_its_own=(lambda s, t: (s, [f[None] for f in t]), "teacher_features: expected 3 steps, as the student has, or none, got 1"),
    teacher_with_two_time_axes=(
        lambda s, t: (s, [f[None, None] for f in t]),
        r"teacher_features: expected \[B\] \+ \[3, 4, 4\] for layer 0, .* got \[1, 1, 8, 3, 4, 4\]",
    ),
    channels=(lambda s, t: ([s[0], s[1][:, :, :3]], t), r"student_features: expected \[T, B\] \+ \[4, 2, 2\] for layer 1, .* got \[3, 8, 3, 2, 2\]"),
    map_size=(lambda s, t: (s, [t[0][..., :2], *t[1:]]), r"teacher_features: expected \[B\] \+ \[3, 4, 4\] for layer 0, .* got \[8, 3, 4, 2\]"),
    time_steps_differ=(lambda s, t: ([s[0], s[1][:2]], t), "student_features: expected .* for layer 1, with the same leading axes in every layer, got"),
    batches_differ=(lambda s, t: (s, [t[0], t[1][:5], t[2]]), "teacher_features: expected .* for layer 1, with the same leading axes in every layer, got"),
)


@pytest.mark.parametrize("case", BAD_FEATURES)
def test_features_that_do_not_fit_are_refused(case):
    spoil, sentence = BAD_FEATURES[case]
    calibrator, students, teachers = usual()
    before = copy.deepcopy(calibrator.state_dict())
    with pytest.raises(ValueError, match=sentence):
        calibrator(*spoil(students, teachers))
    assert all(value.equal(before[name]) for name, value in calibrator.state_dict().items())


@pytest.mark.parametrize(
    "options, sentence",
    [
        (dict(projection="cod"), "projection: expected one of code, semckd, bottleneck, linear, got 'cod' \\(did you mean 'code'\\?\\)"),
        (dict(projection="none"), "projection: expected one of code, semckd, bottleneck, linear, got 'none'"),
        (dict(alignment="similarity", projection="non"), "projection: expected one of code, semckd, bottleneck, linear, none, got 'non'"),
        (dict(student_pool="mean"), "student_pool: expected one of max, avg, got 'mean'"),
        (dict(teacher_pool="maxx"), "teacher_pool: expected one of max, avg, got 'maxx' \\(did you mean 'max'"),
        (dict(alignment="feature"), "alignment: expected .*, got 'feature' \\(did you mean 'features'"),
        (dict(align="features"), "setting: expected a setting of this run \\(did you mean 'alignment'\\?\\), got 'align'"),
        (dict(similarity_norm="rows"), "similarity_norm: expected .*, got 'rows' \\(did you mean 'row'"),
        (dict(attention="selfish"), "attention: expected .*, got 'selfish' \\(did you mean 'self'"),
        (dict(attention_gradient="flow"), "attention_gradient: expected .*, got 'flow' \\(did you mean 'flows'"),
        (dict(factor=0), "factor: expected a number of at least 1, got 0"),
        (dict(factor=9), "batch_size: expected at least factor = 9 .*, got 8"),
        (dict(batch_size=None), "batch_size: expected the number of images in every batch, got None"),
        (dict(batch_size=3), "batch_size: expected at least factor = 4 .*, got 3"),
        (dict(student_shapes=[]), "student_shapes: expected at least one layer, got none"),
        (dict(teacher_shapes=[]), "teacher_shapes: expected at least one layer, got none"),
    ],
)
def test_calibrator_refuses(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        Calibrator(**dict(student_shapes=[(3, 4, 4)], teacher_shapes=[(2, 2, 2)], batch_size=8) | options)
