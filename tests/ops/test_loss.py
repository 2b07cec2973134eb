"""Losses against PyTorch and finite differences."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidl import as_tensor, ops
from minidl.testing import gradcheck, gradgradcheck

torch = pytest.importorskip("torch", reason="these tests compare with PyTorch")
F = torch.nn.functional
pytestmark = pytest.mark.filterwarnings("ignore:reduction. 'mean'")  # PyTorch's opinion on kl_div

REDUCTIONS = ["mean", "sum", "none"]
every_reduction = pytest.mark.parametrize("reduction", REDUCTIONS)


def rng(seed=0):
    return np.random.default_rng(seed)


def t(a):
    return None if a is None else torch.tensor(np.array(a))


def compare(ours, theirs, inputs, rtol=1e-10, atol=1e-12):
    """Values and gradients of two functions of the float arrays ``inputs``."""
    a = [as_tensor(np.array(x), requires_grad=True) for x in inputs]
    b = [torch.tensor(np.array(x), requires_grad=True) for x in inputs]
    ya, yb = ours(*a), theirs(*b)
    assert ya.shape == tuple(yb.shape) and ya.dtype == inputs[0].dtype
    np.testing.assert_allclose(ya.detach().numpy(), yb.detach().numpy(), rtol=rtol, atol=atol)
    g = rng(7).normal(size=ya.shape).astype(ya.dtype)
    ya.backward(g)
    yb.backward(torch.tensor(g))
    for x, y in zip(a, b):
        assert x.grad.dtype == x.dtype
        np.testing.assert_allclose(x.grad.numpy(), y.grad.numpy(), rtol=rtol, atol=atol)


# Elementwise losses: name -> (ours, PyTorch's, how to make (input, target) of a shape)


def _pair(shape, r):
    return r.normal(scale=2, size=shape), r.normal(scale=2, size=shape)


def _probabilities(shape, r):
    return r.uniform(0.01, 0.99, shape), r.uniform(0.05, 0.95, shape)


def _scores(shape, r):
    return r.normal(scale=3, size=shape), r.uniform(0.05, 0.95, shape)


def _divergence(shape, r):
    return np.log(r.uniform(0.1, 0.9, shape)), r.uniform(0.1, 0.9, shape)


def _log_divergence(shape, r):
    return np.log(r.uniform(0.1, 0.9, shape)), np.log(r.uniform(0.1, 0.9, shape))


ELEMENTWISE = {
    "mse": (ops.mse_loss, F.mse_loss, _pair),
    "l1": (ops.l1_loss, F.l1_loss, _pair),
    "smooth_l1": (ops.smooth_l1_loss, F.smooth_l1_loss, _pair),
    "smooth_l1_0.3": (
        lambda x, y, reduction: ops.smooth_l1_loss(x, y, reduction, beta=0.3),
        lambda x, y, reduction: F.smooth_l1_loss(x, y, reduction=reduction, beta=0.3),
        _pair,
    ),
    "smooth_l1_0": (
        lambda x, y, reduction: ops.smooth_l1_loss(x, y, reduction, beta=0),
        lambda x, y, reduction: F.smooth_l1_loss(x, y, reduction=reduction, beta=0),
        _pair,
    ),
    "huber": (
        lambda x, y, reduction: ops.huber_loss(x, y, reduction, delta=0.7),
        lambda x, y, reduction: F.huber_loss(x, y, reduction=reduction, delta=0.7),
        _pair,
    ),
    "bce": (ops.binary_cross_entropy, F.binary_cross_entropy, _probabilities),
    "bce_with_logits": (ops.binary_cross_entropy_with_logits, F.binary_cross_entropy_with_logits, _scores),
    "kl_div": (ops.kl_div, F.kl_div, _divergence),
    "kl_div_log": (
        lambda x, y, reduction: ops.kl_div(x, y, reduction, log_target=True),
        lambda x, y, reduction: F.kl_div(x, y, reduction=reduction, log_target=True),
        _log_divergence,
    ),
    "hinge": (
        lambda x, y, reduction: ops.hinge_loss(x, np.sign(y.detach().array), reduction=reduction),
        lambda x, y, reduction: (
            getattr((1 - torch.sign(y.detach()) * x).clamp(min=0), reduction)()
            if reduction != "none"
            else (1 - torch.sign(y.detach()) * x).clamp(min=0)
        ),
        _pair,
    ),
    "hinge_embedding": (
        lambda x, y, reduction: ops.hinge_embedding_loss(x, np.sign(y.detach().array), 0.5, reduction),
        lambda x, y, reduction: F.hinge_embedding_loss(x, torch.sign(y.detach()), 0.5, reduction=reduction),
        _pair,
    ),
}
every = pytest.mark.parametrize("name", ELEMENTWISE)
CONSTANT_TARGET = ("hinge", "hinge_embedding")


def check_elementwise(name, shape, reduction, dtype=np.float64, seed=0, **tolerances):
    ours, theirs, make = ELEMENTWISE[name]
    x, y = (a.astype(dtype) for a in make(shape, rng(seed)))
    if name in CONSTANT_TARGET:
        compare(
            lambda x: ours(x, as_tensor(y), reduction=reduction),
            lambda x: theirs(x, t(y), reduction=reduction),
            [x],
            **tolerances,
        )
    else:
        compare(
            lambda x, y: ours(x, y, reduction=reduction),
            lambda x, y: theirs(x, y, reduction=reduction),
            [x, y],
            **tolerances,
        )


@every
@every_reduction
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_elementwise_losses_equal_pytorch(name, reduction, dtype):
    exact = dtype == np.float64
    check_elementwise(name, (3, 4), reduction, dtype, rtol=1e-9 if exact else 1e-4, atol=1e-12 if exact else 1e-5)


@every
@settings(max_examples=6, deadline=None)
@given(shape=st.lists(st.integers(0, 4), max_size=3).map(tuple), seed=st.integers(0, 999))
def test_elementwise_losses_of_any_shape(name, shape, seed):
    check_elementwise(name, shape, "sum", seed=seed)


@every
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_elementwise_losses_against_finite_differences(name, reduction):
    ours, _, make = ELEMENTWISE[name]
    x, y = make((2, 3), rng(3))
    if name in CONSTANT_TARGET:
        gradcheck(lambda x: ours(x, as_tensor(y), reduction=reduction), x)
    else:
        gradcheck(lambda x, y: ours(x, y, reduction=reduction), x, y)
    if name not in (*CONSTANT_TARGET, "l1", "smooth_l1_0"):  # (their second derivative is 0 everywhere)
        gradgradcheck(lambda x, y: ours(x, y, reduction=reduction), x, y)


@every
def test_non_contiguous_inputs(name):
    ours, theirs, make = ELEMENTWISE[name]
    x, y = (a.T[::2, ::-1] for a in make((4, 6), rng()))
    expected = theirs(t(x), t(y), reduction="none").numpy()
    np.testing.assert_allclose(
        ours(as_tensor(x), as_tensor(y), reduction="none").numpy(), expected, rtol=1e-10, atol=1e-12
    )


@every
def test_shapes_that_merely_broadcast_are_refused(name):
    ours, _, make = ELEMENTWISE[name]
    x, _ = make((3, 1), rng())
    _, y = make((3,), rng())
    with pytest.raises(ValueError, match=r"input float64\[3, 1\] and target float64\[3\] must have the same shape"):
        ours(as_tensor(x), as_tensor(y), reduction="mean")


@every
def test_nan_is_passed_on_and_empty_mean_is_nan(name):
    ours, _, make = ELEMENTWISE[name]
    x, y = make((4,), rng())
    x[1] = np.nan
    y = np.sign(y) if name in CONSTANT_TARGET else y
    found = ours(as_tensor(x), as_tensor(y), reduction="none").numpy()
    assert np.isnan(found).tolist() == [False, True, False, False]
    empty = as_tensor(np.zeros((0, 3)))
    assert np.isnan(ours(empty, empty, reduction="mean").item())
    assert ours(empty, empty, reduction="sum").item() == 0


@every
def test_unknown_reduction(name):
    ours, _, make = ELEMENTWISE[name]
    x, y = make((3,), rng())
    with pytest.raises(ValueError, match=r"reduction must be one of .*'average'"):
        ours(as_tensor(x), as_tensor(y), reduction="average")


# Binary cross-entropy


@every_reduction
def test_bce_weights(reduction):
    x, y = _scores((4, 3), rng())
    w, pos = rng(1).uniform(0.5, 2, (4, 3)), rng(2).uniform(0.5, 2, 3)
    compare(
        lambda x, y: ops.binary_cross_entropy_with_logits(x, y, w, reduction, pos_weight=pos),
        lambda x, y: F.binary_cross_entropy_with_logits(x, y, t(w), reduction=reduction, pos_weight=t(pos)),
        [x, y],
    )
    p = 1 / (1 + np.exp(-x))
    compare(
        lambda x, y: ops.binary_cross_entropy(x, y, w, reduction),
        lambda x, y: F.binary_cross_entropy(x, y, t(w), reduction=reduction),
        [p, y],
    )


def test_bce_pos_weight_gradient():
    x, y = _scores((4, 3), rng())
    f = lambda x, y, p: ops.binary_cross_entropy_with_logits(x, y, pos_weight=p, reduction="none")
    gradcheck(f, x, y, np.array([0.5, 1.0, 2.0]))
    gradgradcheck(f, x, y, np.array([0.5, 1.0, 2.0]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bce_at_zero_and_one_is_limited_as_in_pytorch(dtype):
    x = np.array([0, 1, 0, 1, 0.5], dtype)
    y = np.array([0, 1, 1, 0, 1], dtype)
    theirs = lambda x: F.binary_cross_entropy(x, t(y), reduction="none")
    compare(lambda x: ops.binary_cross_entropy(x, y, reduction="none"), theirs, [x], rtol=1e-6)


def test_bce_with_logits_far_out():
    x = np.array([1e4, -1e4, 1e4, -1e4, 88, -88, 1e30, -1e30], np.float32)
    y = np.array([1, 0, 0, 1, 1, 0, 0, 1], np.float32)
    compare(
        lambda x: ops.binary_cross_entropy_with_logits(x, y, reduction="none"),
        lambda x: F.binary_cross_entropy_with_logits(x, t(y), reduction="none"),
        [x],
        rtol=1e-6,
        atol=1e-30,
    )
    # a confident and right answer keeps its small loss instead of losing it to cancellation
    small = ops.binary_cross_entropy_with_logits(
        as_tensor(np.array([-30.0, 30.0])), as_tensor(np.array([0.0, 1.0])), reduction="none"
    )
    np.testing.assert_allclose(small.numpy(), np.log1p(np.exp(-30.0)), rtol=1e-14)


def test_bce_wants_probabilities():
    with pytest.raises(ValueError, match=r"\[0, 1\].*binary_cross_entropy_with_logits"):
        ops.binary_cross_entropy(as_tensor([0.5, 1.5]), as_tensor([0.0, 1.0]))


def test_kl_div_batchmean_and_zero_targets():
    x, y = _divergence((4, 3), rng())
    compare(lambda x, y: ops.kl_div(x, y, "batchmean"), lambda x, y: F.kl_div(x, y, reduction="batchmean"), [x, y])
    y[0] = 0
    compare(lambda x: ops.kl_div(x, y, "none"), lambda x: F.kl_div(x, t(y), reduction="none"), [x])


# Cross-entropy


def classes(shape, seed=0, ignored=False):
    r = rng(seed)
    x = r.normal(scale=2, size=shape)
    count = shape[0] if len(shape) == 1 else shape[1]
    target = r.integers(0, count, (*shape[: min(1, len(shape) - 1)], *shape[2:]))
    if ignored and target.ndim:
        target.flat[0] = -100
    return x, target, r.uniform(0.5, 2, count)


@pytest.mark.parametrize("shape", [(5, 4), (4,), (2, 3, 4), (2, 3, 2, 2)])
@pytest.mark.parametrize(
    "weighted, smoothing, reduction", list(itertools.product([False, True], [0.0, 0.1, 1.0], REDUCTIONS))
)
def test_cross_entropy_of_classes(shape, weighted, smoothing, reduction):
    x, target, w = classes(shape, ignored=True)
    w = w if weighted else None
    compare(
        lambda x: ops.cross_entropy(x, as_tensor(target), w, reduction=reduction, label_smoothing=smoothing),
        lambda x: F.cross_entropy(x, t(target), t(w), reduction=reduction, label_smoothing=smoothing),
        [x],
    )


@pytest.mark.parametrize("shape", [(5, 4), (4,), (2, 3, 2, 2)])
@pytest.mark.parametrize(
    "weighted, smoothing, reduction", list(itertools.product([False, True], [0.0, 0.1], REDUCTIONS))
)
def test_cross_entropy_of_probabilities(shape, weighted, smoothing, reduction):
    x, _, w = classes(shape)
    y = rng(1).dirichlet(np.ones(4), size=shape).sum(-1) / np.prod(shape)
    w = w if weighted else None
    compare(
        lambda x, y: ops.cross_entropy(x, y, w, reduction=reduction, label_smoothing=smoothing),
        lambda x, y: F.cross_entropy(x, y, t(w), reduction=reduction, label_smoothing=smoothing),
        [x, y],
    )


@every_reduction
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_ignore_index_and_int32(reduction, weighted):
    x, target, w = classes((6, 4))
    target[[1, 3]] = 2
    w = w if weighted else None
    compare(
        lambda x: ops.cross_entropy(x, target.astype(np.int32), w, ignore_index=2, reduction=reduction),
        lambda x: F.cross_entropy(x, t(target), t(w), ignore_index=2, reduction=reduction),
        [x],
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 2)])
@every_reduction
def test_cross_entropy_derivatives_against_finite_differences(shape, weighted, smoothing, reduction):
    x, target, w = classes(shape, ignored=True)
    w = w if weighted else None
    f = lambda x: ops.cross_entropy(x, target, w, reduction=reduction, label_smoothing=smoothing)
    gradcheck(f, x)
    gradgradcheck(f, x)


@settings(max_examples=25, deadline=None)
@given(
    shape=st.lists(st.integers(1, 4), min_size=2, max_size=4).map(tuple),
    seed=st.integers(0, 999),
    reduction=st.sampled_from(REDUCTIONS),
)
def test_cross_entropy_of_any_shape(shape, seed, reduction):
    x, target, _ = classes(shape, seed)
    compare(
        lambda x: ops.cross_entropy(x, target, reduction=reduction),
        lambda x: F.cross_entropy(x, t(target), reduction=reduction),
        [x],
    )


def test_cross_entropy_in_float32_far_out():
    x = np.array([[1e4, -1e4, 0], [-1e4, 1e4, 9990], [1e30, 0, -1e30], [3, 2, 1]], np.float32)
    target = np.array([1, 1, 0, 2])
    compare(
        lambda x: ops.cross_entropy(x, target, reduction="none"),
        lambda x: F.cross_entropy(x, t(target), reduction="none"),
        [x],
        rtol=1e-6,
        atol=1e-7,
    )


def test_cross_entropy_loses_nothing_on_a_large_common_offset():
    x = np.array([[0.0, 1.0, 2.0]])
    for offset in (0.0, 1e4):
        x32 = as_tensor((x + offset).astype(np.float32), requires_grad=True)
        loss = ops.cross_entropy(x32, np.array([0]))
        loss.backward()
        np.testing.assert_allclose(loss.item(), np.log(np.exp(x).sum()), rtol=1e-6)
        np.testing.assert_allclose(x32.grad.numpy()[0, 1], np.exp(1) / np.exp(x).sum(), rtol=1e-6)


def test_cross_entropy_with_masked_logits():
    x = np.array([[0.5, -np.inf, 1.0]])
    compare(lambda x: ops.cross_entropy(x, np.array([2])), lambda x: F.cross_entropy(x, t(np.array([2]))), [x])
    assert ops.cross_entropy(as_tensor(x), np.array([1])).item() == np.inf


def test_cross_entropy_without_targets():
    x = as_tensor(np.ones((2, 3)), requires_grad=True)
    ignored = np.array([-100, -100])
    assert np.isnan(ops.cross_entropy(x, ignored).item())
    assert ops.cross_entropy(x, ignored, reduction="sum").item() == 0
    empty = as_tensor(np.zeros((0, 3)), requires_grad=True)
    loss = ops.cross_entropy(empty, np.zeros(0, int), reduction="sum")
    loss.backward()
    assert loss.item() == 0 and empty.grad.shape == (0, 3)


def test_cross_entropy_does_not_change_its_inputs():
    x, target, _ = classes((3, 4))
    before = x.copy(), target.copy()
    a = as_tensor(x, requires_grad=True)
    ops.cross_entropy(a, target).backward()
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(target, before[1])


@every_reduction
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(5, 4), (4,), (2, 3, 4)])
def test_nll_loss(reduction, weighted, shape):
    x, target, w = classes(shape, ignored=True)
    w = w if weighted else None
    compare(
        lambda x: ops.nll_loss(x, target, w, reduction=reduction),
        lambda x: F.nll_loss(x, t(target), t(w), reduction=reduction),
        [x],
    )


CLASS_LOSSES = {"cross_entropy": ops.cross_entropy, "nll_loss": ops.nll_loss, "focal_loss": ops.focal_loss}


@pytest.mark.parametrize("name", CLASS_LOSSES)
def test_bad_class_targets(name):
    f = CLASS_LOSSES[name]
    x = as_tensor(np.zeros((2, 3), np.float32))
    with pytest.raises(IndexError, match=rf"{name}: target contains class 3, but input float32\[2, 3\] has 3 classes"):
        f(x, np.array([0, 3]))
    with pytest.raises(IndexError, match="class -1"):
        f(x, np.array([-1, 0]))
    with pytest.raises(ValueError, match=rf"{name}: target int64\[3\] does not fit input float32\[2, 3\]; expected"):
        f(x, np.array([0, 1, 2]))
    with pytest.raises(ValueError, match=r"int64\[2, 3\]"):
        f(x, np.zeros((2, 3), int))
    with pytest.raises(TypeError, match="must be integers, got target bool"):
        f(x, np.array([True, False]))
    with pytest.raises(ValueError, match=r"weight float64\[2\] does not fit 3 classes"):
        f(x, np.array([0, 1]), weight=np.ones(2))


def test_bad_cross_entropy_arguments():
    x = as_tensor(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="probabilities of the same shape"):
        ops.cross_entropy(x, np.zeros(2))
    with pytest.raises(ValueError, match="label_smoothing"):
        ops.cross_entropy(x, np.array([0, 1]), label_smoothing=2)


# Focal losses


@every_reduction
@pytest.mark.parametrize("gamma", [0, 0.5, 2])
def test_focal_loss_is_its_formula(reduction, gamma):
    x, target, w = classes((5, 4), ignored=True)

    def formula(x):
        valid = t(target) != -100
        index = t(target).clamp(min=0)
        log_p = x.log_softmax(1).gather(1, index[:, None])[:, 0]
        loss = torch.where(valid, -((1 - log_p.exp()) ** gamma) * log_p * t(w)[index], 0.0)
        return loss if reduction == "none" else loss.sum() / (valid.sum() if reduction == "mean" else 1)

    compare(lambda x: ops.focal_loss(x, target, gamma, w, reduction=reduction), formula, [x])


def test_focal_loss_with_gamma_0_is_cross_entropy():
    x, target, _ = classes((2, 3, 4))
    np.testing.assert_allclose(
        ops.focal_loss(as_tensor(x), target, gamma=0).item(), ops.cross_entropy(as_tensor(x), target).item(), rtol=1e-12
    )


@every_reduction
@pytest.mark.parametrize("alpha, gamma", [(0.25, 2), (-1, 2), (0.5, 0.5), (0.25, 0)])
def test_sigmoid_focal_loss_is_torchvisions_formula(alpha, gamma, reduction):
    x = rng().normal(scale=2, size=(4, 3))
    y = rng(1).integers(0, 2, (4, 3)).astype(float)

    def formula(x):
        p, target = torch.sigmoid(x), t(y)
        loss = F.binary_cross_entropy_with_logits(x, target, reduction="none")
        loss = loss * (1 - (p * target + (1 - p) * (1 - target))) ** gamma
        if alpha >= 0:
            loss = loss * (alpha * target + (1 - alpha) * (1 - target))
        return loss if reduction == "none" else getattr(loss, reduction)()

    compare(lambda x: ops.sigmoid_focal_loss(x, y, alpha, gamma, reduction), formula, [x])


@pytest.mark.parametrize("gamma", [0.5, 1, 2])
def test_focal_gradients_are_finite_for_sure_predictions(gamma):
    x = as_tensor(np.array([[1e4, -1e4], [200, -200]], np.float32), requires_grad=True)
    y = np.array([[1, 0], [1, 0]], np.float32)
    (ops.sigmoid_focal_loss(x, y, gamma=gamma).sum() + ops.focal_loss(x, np.array([0, 0]), gamma)).backward()
    assert np.isfinite(x.grad.numpy()).all()


# Margins


@every_reduction
@pytest.mark.parametrize("shape", [(5, 4), (4,)])
@pytest.mark.parametrize("p, margin, weighted", [(1, 1.0, False), (2, 0.7, True), (1, 0.5, True)])
def test_multi_margin_loss(reduction, p, margin, weighted, shape):
    x, target, w = classes(shape)
    w = w if weighted else None
    compare(
        lambda x: ops.multi_margin_loss(x, target, p, margin, w, reduction),
        lambda x: F.multi_margin_loss(x, t(target), p, margin, t(w), reduction=reduction),
        [x],
    )


@every_reduction
@pytest.mark.parametrize("p, swap", [(2.0, False), (2.0, True), (1.0, False), (3.0, False)])
def test_triplet_margin_loss(reduction, p, swap):
    for shape in [(5, 4), (4,)]:
        inputs = [rng(i).normal(size=shape) for i in range(3)]
        compare(
            lambda a, b, c: ops.triplet_margin_loss(a, b, c, 0.8, p, swap=swap, reduction=reduction),
            lambda a, b, c: F.triplet_margin_loss(a, b, c, 0.8, p, swap=swap, reduction=reduction),
            inputs,
        )


def test_triplet_of_equal_points_has_a_finite_gradient():
    a, b, c = (as_tensor(np.ones((2, 3)), requires_grad=True) for _ in range(3))
    ops.triplet_margin_loss(a, b, c).backward()
    assert all(np.isfinite(x.grad.numpy()).all() for x in (a, b, c))


@every_reduction
def test_cosine_embedding_loss(reduction):
    x1, x2 = rng().normal(size=(6, 4)), rng(1).normal(size=(6, 4))
    x2[0] = 0
    y = np.array([1, -1, 1, -1, -1, 1])
    compare(
        lambda a, b: ops.cosine_embedding_loss(a, b, y, 0.1, reduction),
        lambda a, b: F.cosine_embedding_loss(a, b, t(y), 0.1, reduction=reduction),
        [x1, x2],
        rtol=1e-8,
    )


@every_reduction
def test_margin_ranking_loss(reduction):
    x1, x2 = rng().normal(size=(6,)), rng(1).normal(size=(6,))
    y = np.array([1, -1, 1, -1, -1, 1.0])
    compare(
        lambda a, b: ops.margin_ranking_loss(a, b, y, 0.2, reduction),
        lambda a, b: F.margin_ranking_loss(a, b, t(y), 0.2, reduction=reduction),
        [x1, x2],
    )


def test_cosine_similarity_and_pairwise_distance():
    a, b = rng().normal(size=(3, 4, 2)), rng(1).normal(size=(3, 4, 2))
    compare(lambda a, b: ops.cosine_similarity(a, b, axis=1), lambda a, b: F.cosine_similarity(a, b, dim=1), [a, b])
    compare(ops.pairwise_distance, F.pairwise_distance, [a, b])
    gradgradcheck(ops.cosine_similarity, a[0], b[0])


def test_targets_must_be_signs():
    x = as_tensor(np.ones(2))
    for f in (ops.hinge_loss, ops.hinge_embedding_loss):
        with pytest.raises(ValueError, match="targets must be -1 or 1"):
            f(x, np.array([0.0, 1.0]))


# CTC


def ctc_case(dtype=np.float64, seed=0, steps=8):
    x = rng(seed).normal(scale=2, size=(steps, 4, 5)).astype(dtype)
    targets = np.array([[1, 1, 2], [3, 2, 0], [4, 0, 0], [1, 2, 1]])
    return x, targets, [steps, steps - 1, 4, steps], [3, 2, 1, 3]


@every_reduction
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_ctc_equals_pytorch(reduction, dtype):
    x, targets, n, s = ctc_case(dtype)
    exact = dtype == np.float64
    compare(
        lambda x: ops.ctc_loss(ops.log_softmax(x), targets, n, s, reduction=reduction),
        lambda x: F.ctc_loss(x.log_softmax(-1), t(targets), t(n), t(s), reduction=reduction),
        [x],
        rtol=1e-9 if exact else 1e-4,
        atol=1e-12 if exact else 1e-5,
    )


@settings(max_examples=25, deadline=None)
@given(data=st.data(), blank=st.sampled_from([0, 2]), seed=st.integers(0, 999))
def test_ctc_of_any_lengths(data, blank, seed):
    count, steps, n_classes = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 7)), 4
    lengths = [data.draw(st.integers(1, steps)) for _ in range(count)]
    sizes = [data.draw(st.integers(0, max(1, n // 2))) for n in lengths]
    labels = [c for c in range(n_classes) if c != blank]
    targets = rng(seed).choice(labels, size=(count, max(1, *sizes) if len(sizes) > 1 else max(1, sizes[0])))
    x = rng(seed).normal(size=(steps, count, n_classes))
    args = dict(blank=blank, zero_infinity=True, reduction="none")
    compare(
        lambda x: ops.ctc_loss(ops.log_softmax(x), targets, lengths, sizes, **args),
        lambda x: F.ctc_loss(x.log_softmax(-1), t(targets), t(lengths), t(sizes), **args),
        [x],
    )


def test_ctc_is_the_sum_over_all_alignments():
    x = np.log(rng().dirichlet(np.ones(3), size=(4, 1)))
    total = 0.0
    for path in itertools.product(range(3), repeat=4):
        collapsed = [k for i, k in enumerate(path) if k != 0 and (i == 0 or path[i - 1] != k)]
        if collapsed == [1, 2]:
            total += np.exp(sum(x[i, 0, k] for i, k in enumerate(path)))
    loss = ops.ctc_loss(as_tensor(x), np.array([[1, 2]]), [4], [2], reduction="none")
    np.testing.assert_allclose(loss.item(), -np.log(total), rtol=1e-12)


def test_ctc_derivatives_against_finite_differences():
    x, targets, n, s = ctc_case(steps=5)
    f = lambda x: ops.ctc_loss(x, targets, n, s, reduction="none", zero_infinity=True)
    n[1:3] = 4, 4
    gradcheck(f, x)
    gradgradcheck(f, x)


def test_ctc_forms_of_targets():
    x, targets, n, s = ctc_case()
    whole = ops.ctc_loss(as_tensor(x), targets, n, s, reduction="none").numpy()
    joined = np.concatenate([row[:k] for row, k in zip(targets, s)])
    np.testing.assert_array_equal(ops.ctc_loss(as_tensor(x), joined, n, s, reduction="none").numpy(), whole)
    one = ops.ctc_loss(as_tensor(x[:, 0]), as_tensor(targets[0]), n[0], s[0], reduction="none")
    assert one.shape == () and one.item() == whole[0]


def test_ctc_long_sequences_in_float32_do_not_underflow():
    x = rng().normal(size=(2000, 2, 6)).astype(np.float32)
    targets = rng(1).integers(1, 6, (2, 150))
    compare(
        lambda x: ops.ctc_loss(ops.log_softmax(x), targets, [2000, 1500], [150, 100], reduction="none"),
        lambda x: F.ctc_loss(x.log_softmax(-1), t(targets), (2000, 1500), (150, 100), reduction="none"),
        [x],
        rtol=1e-3,
        atol=2e-3,
    )


def test_ctc_impossible_target():
    x, targets, _, s = ctc_case()
    lengths = [3, 8, 8, 8]  # 1 1 2 needs four steps
    infinite = ops.ctc_loss(as_tensor(x), targets, lengths, s, reduction="none").numpy()
    assert infinite[0] == np.inf and np.isfinite(infinite[1:]).all()
    a = as_tensor(x, requires_grad=True)
    loss = ops.ctc_loss(a, targets, lengths, s, reduction="none", zero_infinity=True)
    loss.sum().backward()
    assert loss.detach().numpy()[0] == 0
    assert (a.grad.numpy()[:, 0] == 0).all() and np.isfinite(a.grad.numpy()).all()


def test_ctc_without_input():
    x = as_tensor(np.log(np.full((2, 2, 3), 1 / 3)))
    loss = ops.ctc_loss(x, np.array([[1], [1]]), [0, 0], [0, 1], reduction="none").numpy()
    assert loss.tolist() == [0, np.inf]


def test_ctc_bad_arguments():
    x, targets, n, s = ctc_case()
    x = as_tensor(x)
    with pytest.raises(IndexError, match="not the blank"):
        ops.ctc_loss(x, np.zeros((4, 3), int), n, s)
    with pytest.raises(IndexError, match=r"\[0, 5\)"):
        ops.ctc_loss(x, targets + 4, n, s)
    with pytest.raises(ValueError, match="input_lengths must be in"):
        ops.ctc_loss(x, targets, [9] * 4, s)
    with pytest.raises(ValueError, match="4 integers as target_lengths"):
        ops.ctc_loss(x, targets, n, s[:2])
    with pytest.raises(ValueError, match="blank 7"):
        ops.ctc_loss(x, targets, n, s, blank=7)
    with pytest.raises(TypeError, match="targets must be integers"):
        ops.ctc_loss(x, targets * 1.0, n, s)
    with pytest.raises(ValueError, match="expected log_probs"):
        ops.ctc_loss(x[0, 0], targets, n, s)
    with pytest.raises(ValueError, match="do not fit 4 sequences"):
        ops.ctc_loss(x, targets[:3], n, s)


# Captured steps


@pytest.mark.parametrize(
    "loss",
    [
        ops.cross_entropy,
        ops.nll_loss,
        ops.focal_loss,
        ops.multi_margin_loss,
        lambda x, y: ops.cross_entropy(x, y, np.arange(1, 6.0), label_smoothing=0.1),
        lambda x, y: ops.ctc_loss(ops.log_softmax(x[:, None]), y[None], [4], [4]),
    ],
)
def test_a_captured_step_reads_its_targets_anew(loss):
    import minidl

    step = minidl.jit(loss)
    for seed in range(3):
        x, y = as_tensor(rng(seed).normal(size=(4, 5))), as_tensor(rng(seed).choice([1, 2, 3, 4], 4, replace=False))
        assert step(x, y).item() == pytest.approx(loss(x, y).item(), rel=1e-12)
