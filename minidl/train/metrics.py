"""Metrics: figures gathered batch by batch, exact over the whole data set whatever the batch size.

Each has ``update(output, target)``, ``compute()`` and ``reset()``. ``output`` and ``target`` are NumPy arrays or
Tensors. Of class scores (logits or probabilities) the class axis is ``axis``: 1 as in PyTorch, or -1 for (batch, time,
vocabulary).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.backend import to_numpy
from minidl.core.context import no_grad
from minidl.core.tensor import as_tensor
from minidl.nn.loss import BCEWithLogitsLoss, SigmoidFocalLoss, as_module
from minidl.nn.loss import count as batch_count


def as_array(value: Any) -> np.ndarray:
    """A Tensor, a device's array or anything array-like as a NumPy array."""
    return np.asarray(to_numpy(getattr(value, "array", value) if hasattr(value, "requires_grad") else value))


class Metric:
    """Base of metrics. ``name`` is the key in the history; ``mode`` says whether "max" or "min" is better."""

    name = "metric"
    mode = "max"

    def reset(self) -> None:
        """Forget everything."""
        raise NotImplementedError(f"{type(self).__name__} defines no reset")

    def update(self, output: Any, target: Any) -> None:
        """Take in a batch."""
        raise NotImplementedError(f"{type(self).__name__} defines no update")

    def compute(self) -> Any:
        """The figure over all batches since the last ``reset``: a float (NaN if there were none), or an array."""
        raise NotImplementedError(f"{type(self).__name__} defines no compute")

    # What a checkpoint in the middle of an epoch keeps: everything that update() changes.

    def state_dict(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k.startswith("_")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)


class _Mean(Metric):
    """A weighted mean of numbers, of whatever they are made."""

    mode = "min"

    def __init__(self, name: str) -> None:
        self.name = name
        self.reset()

    def reset(self) -> None:
        self._sum, self._weight = 0.0, 0.0

    def _add(self, value: float, weight: float) -> None:
        if weight:  # a mean over nothing is NaN, and counts for nothing
            self._sum += float(value) * weight
            self._weight += weight

    def compute(self) -> float:
        return self._sum / self._weight if self._weight else math.nan


class Mean(_Mean):
    """Weighted mean of numbers: ``update(value, weight)``."""

    def __init__(self, name: str = "mean") -> None:
        super().__init__(name)

    def update(self, value: float, weight: float = 1.0) -> None:
        """Take in a number."""
        self._add(value, weight)


class LossMean(_Mean):
    """A loss over many batches as if they were one: the mean weighted by what each batch's mean was divided by
    (:func:`minidl.nn.loss.count`), or the sum of a loss that sums."""

    def reset(self) -> None:
        super().reset()
        self._summed = False

    def update(self, value: float, count: float | None) -> None:
        """Take in a batch's loss; ``count`` is None if it is a sum."""
        self._summed = count is None
        self._add(value, 1.0 if count is None else count)

    def compute(self) -> float:
        return self._sum if self._summed else super().compute()


class MeanLoss(LossMean):
    """A loss function over all samples, such as another loss than the trained one."""

    def __init__(self, loss: Callable[[Any, Any], Any], name: str = "mean_loss") -> None:
        self.loss = loss
        super().__init__(name)

    def update(self, output: Any, target: Any) -> None:
        output, target = as_tensor(output), as_tensor(target)
        with no_grad():
            value = self.loss(output, target)
        super().update(float(value), batch_count(self.loss, output, target))


def scores_and_labels(
    name: str, output: Any, target: Any, axis: int, ignore_index: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Class scores as (N, C) and labels as (N,), from outputs with the class axis at ``axis``; what is ignored is left
    out.

    Targets are class numbers of the output's shape without ``axis``, or class probabilities of its very shape. Raises
    ValueError for other shapes, and for classes that do not exist.
    """
    output, target = as_array(output), as_array(target)
    if output.ndim < 2 or not output.shape[axis]:
        raise ValueError(f"{name}: expected class scores with a class axis, got shape {output.shape}")
    output = np.moveaxis(output, axis, -1)
    if target.dtype.kind in "fV" and target.ndim == output.ndim:
        target = np.moveaxis(target, axis, -1).argmax(-1)
    if target.dtype.kind not in "iub" or target.shape != output.shape[:-1]:
        raise ValueError(
            f"{name}: class scores with the class axis at {axis} leave the shape {output.shape[:-1]}, so expected "
            f"integer targets of that shape, got {target.dtype}{list(target.shape)}"
        )
    scores, labels = output.reshape(-1, output.shape[-1]), target.reshape(-1)
    if ignore_index is not None:
        kept = labels != ignore_index
        scores, labels = scores[kept], labels[kept]
    return scores, _in_range(name, "target", labels, scores.shape[1])


def predicted_and_labels(
    name: str, output: Any, target: Any, axis: int, threshold: float, ignore_index: int | None = None
) -> tuple[np.ndarray, np.ndarray, int]:
    """Predicted and true class numbers, both (N,), and the number of classes. Where a score is NaN the predicted class
    is -1.

    An output of the target's own shape (or with one more axis of length 1) is a yes-or-no score, "yes" above
    ``threshold``; its targets are 0 and 1, or probabilities.
    """
    output, target = as_array(output), as_array(target)
    if output.ndim == target.ndim + 1 and output.shape[-1] == 1:
        output = output[..., 0]
    if output.shape == target.shape and (output.ndim < 2 or output.shape[axis] == 1):
        scores, labels = output.reshape(-1), target.reshape(-1)
        if ignore_index is not None:
            scores, labels = scores[labels != ignore_index], labels[labels != ignore_index]
        if labels.size and not (labels.min() >= 0 and labels.max() <= 1):
            raise ValueError(
                f"{name}: targets of a yes-or-no output must be in [0, 1], got {labels.min()} to {labels.max()}"
            )
        predicted, classes = (scores > threshold).astype(np.int64), 2
        labels = (labels > 0.5).astype(np.int64)
    else:
        scores, labels = scores_and_labels(name, output, target, axis, ignore_index)
        predicted, classes = scores.argmax(-1), scores.shape[1]
    missing = scores != scores
    return np.where(missing if missing.ndim == 1 else missing.any(1), -1, predicted), labels, classes


def _in_range(name: str, what: str, labels: np.ndarray, classes: int) -> np.ndarray:
    if labels.size and not (labels.min() >= 0 and labels.max() < classes):
        raise ValueError(f"{name}: {what} classes must be in 0…{classes - 1}, got {labels.min()}…{labels.max()}")
    return labels


class Accuracy(Metric):
    """Share of right predictions. A sample with a NaN among its scores is not right.

    Args:
        axis: class axis of the output.
        threshold: of a yes-or-no output (of the target's shape): 0.5 suits probabilities, 0 suits logits.
        ignore_index: targets with this value do not count; None: all count.

    >>> metric = Accuracy()
    >>> metric.update(np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]), np.array([0, 1, 1]))
    >>> round(metric.compute(), 4)
    0.6667
    """

    def __init__(self, axis: int = 1, threshold: float = 0.5, ignore_index: int | None = -100, name: str = "accuracy"):
        self.name, self.axis, self.threshold, self.ignore_index = name, axis, threshold, ignore_index
        self.reset()

    def reset(self) -> None:
        self._right, self._total = 0, 0

    def update(self, output: Any, target: Any) -> None:
        predicted, labels, _ = predicted_and_labels(
            "Accuracy", output, target, self.axis, self.threshold, self.ignore_index
        )
        self._right += int(np.count_nonzero(predicted == labels))
        self._total += len(labels)

    def compute(self) -> float:
        return self._right / self._total if self._total else math.nan


class TopK(Metric):
    """Share of samples whose class is among the ``k`` best scored.

    A class counts as soon as fewer than ``k`` classes score strictly higher, so ties favour the target. A target whose
    score is NaN is missed, and a NaN elsewhere counts as higher.

    Args:
        axis, ignore_index: as for :class:`Accuracy`.
    """

    def __init__(self, k: int = 5, axis: int = 1, name: str | None = None, ignore_index: int | None = -100) -> None:
        if k < 1:
            raise ValueError(f"TopK: k must be at least 1, got {k}")
        self.name, self.k, self.axis, self.ignore_index = name or f"top{k}", k, axis, ignore_index
        self.reset()

    def reset(self) -> None:
        self._right, self._total = 0, 0

    def update(self, output: Any, target: Any) -> None:
        scores, labels = scores_and_labels("TopK", output, target, self.axis, self.ignore_index)
        own = np.take_along_axis(scores, labels[:, None].astype(np.int64), 1)
        higher = (~(scores <= own)).sum(1)
        self._right += int(np.count_nonzero((higher < self.k) & (own == own)[:, 0]))
        self._total += len(labels)

    def compute(self) -> float:
        return self._right / self._total if self._total else math.nan


class ConfusionMatrix(Metric):
    """Counts, int64 of shape (C, C): row = true class, column = predicted class.

    Args:
        num_classes: C; by default as many as the output has scores (2 for a yes-or-no output).
        axis, threshold, ignore_index: as for :class:`Accuracy`.

    Raises ValueError for classes that do not exist and for scores that are NaN: they are in no column.

    >>> matrix = ConfusionMatrix()
    >>> matrix.update(np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]), np.array([0, 1, 1]))
    >>> matrix.compute()
    array([[1, 0],
           [1, 1]])
    """

    def __init__(
        self,
        num_classes: int | None = None,
        axis: int = 1,
        threshold: float = 0.5,
        name: str = "confusion_matrix",
        ignore_index: int | None = -100,
    ) -> None:
        self.name, self.num_classes, self.axis, self.threshold = name, num_classes, axis, threshold
        self.ignore_index = ignore_index
        self.reset()

    def reset(self) -> None:
        self._counts: np.ndarray | None = None

    def update(self, output: Any, target: Any) -> None:
        name = type(self).__name__
        predicted, labels, classes = predicted_and_labels(
            name, output, target, self.axis, self.threshold, self.ignore_index
        )
        if (predicted < 0).any():
            raise ValueError(f"{name}: {np.count_nonzero(predicted < 0)} of {len(labels)} samples have NaN scores")
        n = classes if self.num_classes is None else self.num_classes
        _in_range(name, "target", labels, n)
        _in_range(name, "predicted", predicted, n)
        counts = np.bincount(labels.astype(np.int64) * n + predicted, minlength=n * n).reshape(n, n)
        self._counts = counts if self._counts is None else self._counts + counts

    def compute(self) -> Any:
        if self._counts is None:
            return np.zeros((self.num_classes or 0,) * 2, np.int64)
        return self._counts


class _FromConfusion(ConfusionMatrix):
    """Precision, recall and F1 out of the confusion matrix.

    Args:
        average: "macro" is the plain mean over classes that occur in targets or predictions, as in scikit-learn;
            "micro" counts all decisions alike; "binary" is of class 1 alone; None gives one figure for each class.
        num_classes, axis, threshold, ignore_index: as for :class:`ConfusionMatrix`.

    Where a figure is 0/0 (a class never predicted, for precision), it is 0.
    """

    def __init__(
        self,
        average: str | None = "macro",
        num_classes: int | None = None,
        axis: int = 1,
        threshold: float = 0.5,
        name: str | None = None,
        ignore_index: int | None = -100,
    ) -> None:
        if average not in ("macro", "micro", "binary", None):
            raise ValueError(
                f"{type(self).__name__}: average must be 'macro', 'micro', 'binary' or None, got {average!r}"
            )
        self.average = average
        super().__init__(num_classes, axis, threshold, name or type(self).__name__.lower(), ignore_index)

    def figure(self, hits: Any, predicted: Any, actual: Any) -> Any:
        """The figure from true positives, predicted positives and actual positives."""
        raise NotImplementedError

    def compute(self) -> Any:
        if self._counts is None:
            return math.nan
        hits, predicted, actual = np.diag(self._counts), self._counts.sum(0), self._counts.sum(1)
        if self.average == "binary":
            if len(hits) != 2:
                raise ValueError(f"{type(self).__name__}: average='binary' with {len(hits)} classes; use 'macro'")
            return float(self.figure(hits[1], predicted[1], actual[1]))
        if self.average == "micro":
            return float(self.figure(hits.sum(), predicted.sum(), actual.sum()))
        figures = self.figure(hits, predicted, actual)
        occurs = predicted + actual > 0
        if self.average is None:
            return figures
        return float(figures[occurs].mean()) if occurs.any() else math.nan


def _ratio(a: Any, b: Any) -> Any:
    return np.where(b > 0, a / np.maximum(b, 1), 0.0)


class Precision(_FromConfusion):
    """True positives among predicted positives."""

    __doc__ += (_FromConfusion.__doc__ or "").split("\n", 1)[1]

    def figure(self, hits: Any, predicted: Any, actual: Any) -> Any:
        return _ratio(hits, predicted)


class Recall(_FromConfusion):
    """True positives among actual positives."""

    __doc__ += (_FromConfusion.__doc__ or "").split("\n", 1)[1]

    def figure(self, hits: Any, predicted: Any, actual: Any) -> Any:
        return _ratio(hits, actual)


class F1(_FromConfusion):
    """Harmonic mean of precision and recall: 2 TP / (predicted + actual positives)."""

    __doc__ += (_FromConfusion.__doc__ or "").split("\n", 1)[1]

    def figure(self, hits: Any, predicted: Any, actual: Any) -> Any:
        return _ratio(2 * hits, predicted + actual)


class Perplexity(Metric):
    """exp of the mean negative log-likelihood of the targets under softmax(output).

    Args:
        axis: class axis of the output.
        ignore_index: targets with this value do not count; None: all count.
    """

    mode = "min"

    def __init__(self, axis: int = 1, ignore_index: int | None = -100, name: str = "perplexity") -> None:
        self.name, self.axis, self.ignore_index = name, axis, ignore_index
        self.reset()

    def reset(self) -> None:
        self._nll, self._total = 0.0, 0

    def update(self, output: Any, target: Any) -> None:
        scores, labels = scores_and_labels("Perplexity", output, target, self.axis, self.ignore_index)
        scores = scores.astype(np.float64)
        top = scores.max(1, keepdims=True, initial=-np.inf)
        log_sum = np.log(np.exp(scores - top).sum(1)) + top[:, 0]
        own = np.take_along_axis(scores, labels[:, None].astype(np.int64), 1)[:, 0]
        self._nll += float((log_sum - own).sum())
        self._total += len(labels)

    def compute(self) -> float:
        return math.exp(min(self._nll / self._total, 700.0)) if self._total else math.nan


class MeanSquaredError(_Mean):
    """Mean over all elements of (output - target)²."""

    def __init__(self, name: str = "mse") -> None:
        super().__init__(name)

    def update(self, output: Any, target: Any) -> None:
        output, target = as_array(output), as_array(target)
        if output.shape != target.shape:
            raise ValueError(f"{type(self).__name__}: output {output.shape} and target {target.shape} differ in shape")
        error = self._of(output.astype(np.float64) - target.astype(np.float64))
        self._add(error.sum() / max(error.size, 1), error.size)

    def _of(self, difference: np.ndarray) -> np.ndarray:
        return np.square(difference)


class MeanAbsoluteError(MeanSquaredError):
    """Mean over all elements of |output - target|."""

    def __init__(self, name: str = "mae") -> None:
        super().__init__(name)

    def _of(self, difference: np.ndarray) -> np.ndarray:
        return np.abs(difference)


BY_NAME: dict[str, Callable[[], Metric]] = {
    "accuracy": Accuracy,
    "acc": lambda: Accuracy(name="acc"),
    "top5": TopK,
    "precision": Precision,
    "recall": Recall,
    "f1": F1,
    "confusion_matrix": ConfusionMatrix,
    "perplexity": Perplexity,
    "mse": MeanSquaredError,
    "mae": MeanAbsoluteError,
}


def get(metric: str | Metric, loss: Any = None) -> Metric:
    """A metric by name, made to suit ``loss`` (its ``ignore_index``; the threshold of logits), or the object itself.

    Raises ValueError that lists the names.
    """
    if isinstance(metric, Metric):
        return metric
    if metric not in BY_NAME:
        raise ValueError(f"unknown metric {metric!r}; known: {', '.join(sorted(BY_NAME))}")
    made: Any = BY_NAME[metric]()
    loss = as_module(loss)
    if hasattr(made, "ignore_index"):
        made.ignore_index = getattr(loss, "ignore_index", made.ignore_index)
    if hasattr(made, "threshold") and isinstance(loss, (BCEWithLogitsLoss, SigmoidFocalLoss)):
        made.threshold = 0.0
    return made
