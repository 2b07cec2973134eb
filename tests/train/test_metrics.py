"""Metrics against values computed by hand and by other formulas; exactness over batches of any size."""

import math

import numpy as np
import pytest

import minidl
from minidl import nn, ops
from minidl.train import metrics as M

RNG = np.random.default_rng(0)


def scores(n=50, classes=4):
    return RNG.normal(size=(n, classes)).astype(np.float32), RNG.integers(0, classes, n)


def streamed(metric, output, target, batch=7):
    for i in range(0, len(output), batch):
        metric.update(output[i : i + batch], target[i : i + batch])
    return metric.compute()


def test_accuracy_by_hand():
    output = np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    assert streamed(M.Accuracy(), output, np.array([1, 0, 0, 0]), batch=3) == 0.75


def test_accuracy_takes_tensors():
    metric = M.Accuracy()
    metric.update(minidl.tensor([[0.0, 1.0], [1.0, 0.0]], requires_grad=True), minidl.tensor([1, 1]))
    assert metric.compute() == 0.5


def test_accuracy_axes_soft_targets_and_ignored():
    output, target = RNG.normal(size=(3, 5, 2)), RNG.integers(0, 5, (3, 2))
    want = (output.argmax(1) == target).mean()
    assert streamed(M.Accuracy(), output, target) == pytest.approx(want)
    assert streamed(M.Accuracy(axis=-1), output.transpose(0, 2, 1), target) == pytest.approx(want)
    soft = np.eye(5)[target].transpose(0, 2, 1) * 0.8 + 0.04
    assert streamed(M.Accuracy(), output, soft) == pytest.approx(want)
    ignoring = np.where(target == 0, -100, target)
    kept = ignoring != -100
    assert streamed(M.Accuracy(ignore_index=-100), output, ignoring) == pytest.approx(
        (output.argmax(1) == target)[kept].mean()
    )


def test_accuracy_of_yes_or_no_outputs():
    p, y = np.array([0.2, 0.6, 0.9, 0.4]), np.array([0, 1, 0, 1])
    assert streamed(M.Accuracy(), p, y) == 0.5
    assert streamed(M.Accuracy(), p[:, None], y) == 0.5
    assert streamed(M.Accuracy(), p[:, None], y[:, None]) == 0.5
    assert streamed(M.Accuracy(threshold=0.3), p, y) == 0.75


def test_nan_scores_are_a_miss():
    nan = np.nan
    output = np.array([[nan, 0, 0], [0, nan, 1], [nan, nan, nan], [0.1, 0.2, 0.3]], np.float32)
    target = np.array([0, 2, 1, 2])  # argmax takes the first NaN for the largest
    assert streamed(M.Accuracy(), output, target) == 0.25
    assert streamed(M.TopK(1), output, target) == 0.25
    assert streamed(M.TopK(2), output, target) == 0.5  # the second: at most one class scores higher
    assert streamed(M.TopK(3), output, target) == 0.5  # a NaN of its own is always a miss
    assert streamed(M.Accuracy(), np.array([nan, nan, 0.9]), np.array([0, 1, 1])) == pytest.approx(1 / 3)
    assert math.isnan(streamed(M.Perplexity(), output, target))
    assert math.isnan(streamed(M.MeanSquaredError(), output, output))
    for name in ("confusion_matrix", "precision", "recall", "f1"):
        with pytest.raises(ValueError, match="3 of 4 samples have NaN scores"):
            streamed(M.get(name), output, target)


@pytest.mark.parametrize("name", ["accuracy", "top5", "confusion_matrix", "perplexity", "f1"])
def test_ignored_targets_count_for_nothing(name):
    output, target = scores(50, 6)
    ignored = np.arange(50) % 3 == 0
    want = streamed(M.get(name), output[~ignored], target[~ignored])
    np.testing.assert_allclose(streamed(M.get(name), output, np.where(ignored, -100, target)), want, rtol=1e-12)
    zero = M.get(name, nn.CrossEntropyLoss(ignore_index=99))  # by name, they ignore what the loss ignores
    np.testing.assert_allclose(streamed(zero, output, np.where(ignored, 99, target)), want, rtol=1e-12)
    everything = M.get(name)
    everything.update(output, np.full(50, -100))
    assert np.isnan(everything.compute()).all() or not np.any(everything.compute())


@pytest.mark.parametrize("name", ["accuracy", "top5", "confusion_matrix", "perplexity"])
@pytest.mark.parametrize("bad", [-1, 6, 2**40])
def test_classes_that_do_not_exist_are_refused(name, bad):
    output, target = scores(5, 6)
    target[2] = bad
    with pytest.raises(ValueError, match=r"target classes must be in 0…5"):
        M.get(name).update(output, target)


def test_targets_of_yes_or_no_outputs():
    logits, y = np.array([-2.0, 0.3, 2.0]), np.array([0, 1, 1])
    assert streamed(M.get("accuracy", nn.BCEWithLogitsLoss()), logits, y) == 1
    assert streamed(M.get("accuracy"), logits, y) == pytest.approx(2 / 3)  # as probabilities
    assert streamed(M.get("accuracy", ops.binary_cross_entropy_with_logits), logits, y) == 1
    assert streamed(M.Accuracy(), np.array([0.2, 0.8]), np.array([0.1, 0.9], np.float32)) == 1  # smoothed
    with pytest.raises(ValueError, match=r"must be in \[0, 1\], got -1 to 1"):
        M.Accuracy().update(logits, np.array([-1, 1, 1]))


def test_integers_and_half_precision_do_not_overflow():
    assert streamed(M.MeanSquaredError(), np.zeros(3, np.uint8), np.full(3, 200, np.uint8)) == 40000
    assert streamed(M.MeanAbsoluteError(), np.zeros(3, np.uint8), np.full(3, 200, np.uint8)) == 200
    half = np.full(4, 300, np.float16)
    assert streamed(M.MeanSquaredError(), half, -half) == 360000
    assert streamed(M.Perplexity(), np.zeros((70000, 2), np.float16), np.zeros(70000, int), 70000) == pytest.approx(2)


def test_bad_targets_are_refused():
    with pytest.raises(ValueError, match=r"Accuracy.*class axis at 1.*\(4, 5\).*int64\[4, 3\]"):
        M.Accuracy().update(np.zeros((4, 3, 5)), np.zeros((4, 3), int))
    with pytest.raises(ValueError, match="integer targets"):
        M.Accuracy().update(np.zeros((4, 3)), np.zeros(4))
    with pytest.raises(ValueError, match=r"predicted classes must be in 0…1|target classes must be in 0…1"):
        M.ConfusionMatrix(2).update(np.eye(3), np.arange(3))


def test_top_k():
    output, target = scores()
    for k in (1, 2, 4):
        want = np.mean([t in np.argsort(-o)[:k] for o, t in zip(output, target)])
        assert streamed(M.TopK(k), output, target) == pytest.approx(want)
    with pytest.raises(ValueError, match="at least 1"):
        M.TopK(0)


def test_confusion_matrix():
    output, target = scores()
    want = np.zeros((4, 4), int)
    for o, t in zip(output, target):
        want[t, o.argmax()] += 1
    np.testing.assert_array_equal(streamed(M.ConfusionMatrix(), output, target), want)
    np.testing.assert_array_equal(streamed(M.ConfusionMatrix(6), output, target)[:4, :4], want)


def by_definition(kind, prediction, target, average, classes):
    figures, hits, predicted, actual = [], 0, 0, 0
    for c in range(classes):
        tp, fp, fn = (
            np.sum((prediction == c) & (target == c)),
            np.sum((prediction == c) & (target != c)),
            np.sum((prediction != c) & (target == c)),
        )
        p, r = (tp / (tp + fp) if tp + fp else 0.0), (tp / (tp + fn) if tp + fn else 0.0)
        f = 2 * p * r / (p + r) if p + r else 0.0
        hits, predicted, actual = hits + tp, predicted + tp + fp, actual + tp + fn
        if tp + fp + fn or average is None:
            figures.append({"precision": p, "recall": r, "f1": f}[kind])
    if average is None:
        return figures
    if average == "micro":
        return hits / predicted
    return figures[1] if average == "binary" else np.mean(figures)


@pytest.mark.parametrize("kind", ["precision", "recall", "f1"])
@pytest.mark.parametrize("average", ["macro", "micro", None])
def test_precision_recall_f1(kind, average):
    output, target = scores(60, 5)
    output[:, 3] = -10  # class 3 is never predicted
    target[target == 4] = 0  # and class 4 does not occur
    metric = M.BY_NAME[kind]()
    metric.average = average
    want = by_definition(kind, output.argmax(1), target, average, 5)
    np.testing.assert_allclose(streamed(metric, output, target), want, rtol=1e-12)


@pytest.mark.parametrize("kind", ["precision", "recall", "f1"])
def test_binary_average(kind):
    p, y = RNG.random(40), RNG.integers(0, 2, 40)
    metric = {"precision": M.Precision, "recall": M.Recall, "f1": M.F1}[kind]("binary")
    want = by_definition(kind, (p > 0.5).astype(int), y, "binary", 2)
    assert streamed(metric, p, y) == pytest.approx(want)


def test_agrees_with_scikit_learn():
    sk = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    output, target = scores(200, 6)
    prediction = output.argmax(1)
    for average in ("macro", "micro"):
        for ours, theirs in (
            (M.Precision, sk.precision_score), (M.Recall, sk.recall_score), (M.F1, sk.f1_score),
        ):  # fmt: skip
            assert streamed(ours(average), output, target) == pytest.approx(theirs(target, prediction, average=average))


def test_averages_are_checked():
    with pytest.raises(ValueError, match="'macro', 'micro', 'binary' or None"):
        M.F1("weighted")
    metric = M.F1("binary")
    metric.update(*scores(10, 3))
    with pytest.raises(ValueError, match="3 classes"):
        metric.compute()


def test_perplexity():
    output, target = scores(31, 7)
    p = np.exp(output.astype(float))
    p /= p.sum(1, keepdims=True)
    want = np.exp(-np.log(p[np.arange(31), target]).mean())
    assert streamed(M.Perplexity(), output, target) == pytest.approx(want, rel=1e-6)
    large = output * 1e3  # the naive formula overflows here
    assert math.isfinite(streamed(M.Perplexity(), large, target))
    ignoring = np.where(target < 3, -1, target)
    want = np.exp(-np.log(p[np.arange(31), target])[ignoring >= 0].mean())
    assert streamed(M.Perplexity(ignore_index=-1), output, ignoring) == pytest.approx(want, rel=1e-6)
    uniform = np.zeros((2, 3, 65))
    assert streamed(M.Perplexity(axis=-1), uniform, np.ones((2, 3), int)) == pytest.approx(65)


def test_errors_and_means():
    output, target = RNG.normal(size=(11, 2)), RNG.normal(size=(11, 2))
    assert streamed(M.MeanSquaredError(), output, target) == pytest.approx(((output - target) ** 2).mean())
    assert streamed(M.MeanAbsoluteError(), output, target) == pytest.approx(np.abs(output - target).mean())
    with pytest.raises(ValueError, match="differ in shape"):
        M.MeanSquaredError().update(output, target[:, 0])
    mean = M.Mean()
    mean.update(1.0, 3)
    mean.update(5.0, 1)
    assert mean.compute() == 2.0
    loss = M.MeanLoss(lambda a, b: ((a - b) ** 2).mean())
    assert streamed(loss, output, target) == pytest.approx(((output - target) ** 2).mean())


@pytest.mark.parametrize("name", sorted(M.BY_NAME))
def test_reset_and_state(name):
    metric, other = M.get(name), M.get(name)
    output, target = scores(12, 2)
    if name in ("mse", "mae"):
        target = np.eye(2)[target]
    streamed(metric, output, target)
    half = M.get(name)
    half.update(output[:6], target[:6])
    other.load_state_dict(half.state_dict())
    other.update(output[6:], target[6:])
    np.testing.assert_allclose(other.compute(), metric.compute())
    metric.reset()
    assert np.all(np.isnan(metric.compute())) or name == "confusion_matrix"


def test_unknown_names_are_listed():
    with pytest.raises(ValueError, match=r"unknown metric 'acuracy'; known: acc, accuracy"):
        M.get("acuracy")
