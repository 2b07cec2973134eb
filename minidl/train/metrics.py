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


def as_array(value: Any) -> np.ndarray:
    """A Tensor, a device's array or anything array-like as a NumPy array."""
    return np.asarray(to_numpy(getattr(value, "data", value) if hasattr(value, "requires_grad") else value))


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


class MeanLoss(_Mean):
    """Mean over samples of a loss function that averages over its batch, such as another loss than the trained one."""

    def __init__(self, loss: Callable[[Any, Any], Any], name: str = "mean_loss") -> None:
        self.loss = loss
        super().__init__(name)

    def update(self, output: Any, target: Any) -> None:
        with no_grad():
            value = self.loss(as_tensor(output), as_tensor(target))
        self._add(float(value), len(target))


def scores_and_labels(name: str, output: Any, target: Any, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Class scores as (N, C) and labels as (N,), from outputs with the class axis at ``axis``.

    Targets are class numbers of the output's shape without ``axis``, or class probabilities of its very shape.
    """
    output, target = as_array(output), as_array(target)
    if output.ndim < 2:
        raise ValueError(f"{name}: expected class scores with a class axis, got shape {output.shape}")
    output = np.moveaxis(output, axis, -1)
    if target.dtype.kind == "f" and target.ndim == output.ndim:
        target = np.moveaxis(target, axis, -1).argmax(-1)
    if target.dtype.kind not in "iub" or target.shape != output.shape[:-1]:
        raise ValueError(
            f"{name}: class scores with the class axis at {axis} leave the shape {output.shape[:-1]}, so expected "
            f"integer targets of that shape, got {target.dtype}{list(target.shape)}"
        )
    return output.reshape(-1, output.shape[-1]), target.reshape(-1)


def predicted_and_labels(
    name: str, output: Any, target: Any, axis: int, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and true class numbers, both (N,).

    An output of the target's own shape (or with one more axis of length 1) is a yes-or-no score, "yes" above
    ``threshold``.
    """
    output, target = as_array(output), as_array(target)
    if output.ndim == target.ndim + 1 and output.shape[-1] == 1:
        output = output[..., 0]
    if output.shape == target.shape and (output.ndim < 2 or output.shape[axis] == 1):
        return (output > threshold).astype(np.int64).reshape(-1), target.astype(np.int64).reshape(-1)
    scores, labels = scores_and_labels(name, output, target, axis)
    return scores.argmax(-1), labels


class Accuracy(Metric):
    """Share of right predictions.

    Args:
        axis: class axis of the output.
        threshold: of a yes-or-no output (of the target's shape): 0.5 suits probabilities, 0 suits logits.
        ignore_index: targets with this value do not count.
    """

    def __init__(self, axis: int = 1, threshold: float = 0.5, ignore_index: int | None = None, name: str = "accuracy"):
        self.name, self.axis, self.threshold, self.ignore_index = name, axis, threshold, ignore_index
        self.reset()

    def reset(self) -> None:
        self._right, self._total = 0, 0

    def update(self, output: Any, target: Any) -> None:
        predicted, labels = predicted_and_labels("Accuracy", output, target, self.axis, self.threshold)
        right = predicted == labels
        if self.ignore_index is not None:
            right = right[labels != self.ignore_index]
        self._right += int(np.count_nonzero(right))
        self._total += len(right)

    def compute(self) -> float:
        return self._right / self._total if self._total else math.nan


class TopK(Metric):
    """Share of samples whose class is among the ``k`` best scored.

    A class counts as soon as fewer than ``k`` classes score strictly higher, so ties favour the target.
    """

    def __init__(self, k: int = 5, axis: int = 1, name: str | None = None) -> None:
        if k < 1:
            raise ValueError(f"TopK: k must be at least 1, got {k}")
        self.name, self.k, self.axis = name or f"top{k}", k, axis
        self.reset()

    def reset(self) -> None:
        self._right, self._total = 0, 0

    def update(self, output: Any, target: Any) -> None:
        scores, labels = scores_and_labels("TopK", output, target, self.axis)
        own = np.take_along_axis(scores, labels[:, None], 1)
        self._right += int(np.count_nonzero((scores > own).sum(1) < self.k))
        self._total += len(labels)

    def compute(self) -> float:
        return self._right / self._total if self._total else math.nan


class ConfusionMatrix(Metric):
    """Counts, int64 of shape (C, C): row = true class, column = predicted class.

    Args:
        num_classes: C; by default as many as the output has scores (2 for a yes-or-no output).
        axis, threshold: as for :class:`Accuracy`.
    """

    def __init__(
        self, num_classes: int | None = None, axis: int = 1, threshold: float = 0.5, name: str = "confusion_matrix"
    ) -> None:
        self.name, self.num_classes, self.axis, self.threshold = name, num_classes, axis, threshold
        self.reset()

    def reset(self) -> None:
        self._counts: np.ndarray | None = None

    def update(self, output: Any, target: Any) -> None:
        name = type(self).__name__
        predicted, labels = predicted_and_labels(name, output, target, self.axis, self.threshold)
        n = self.num_classes
        if n is None:
            shape = as_array(output).shape
            multi = len(shape) > 1 and shape[self.axis] > 1
            n = shape[self.axis] if multi else 2
        for what, values in (("target", labels), ("predicted", predicted)):
            if values.size and not (values.min() >= 0 and values.max() < n):
                raise ValueError(f"{name}: {what} classes must be in 0…{n - 1}, got {values.min()}…{values.max()}")
        counts = np.bincount(labels * n + predicted, minlength=n * n).reshape(n, n)
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
        num_classes, axis, threshold: as for :class:`ConfusionMatrix`.

    Where a figure is 0/0 (a class never predicted, for precision), it is 0.
    """

    def __init__(
        self,
        average: str | None = "macro",
        num_classes: int | None = None,
        axis: int = 1,
        threshold: float = 0.5,
        name: str | None = None,
    ) -> None:
        if average not in ("macro", "micro", "binary", None):
            raise ValueError(
                f"{type(self).__name__}: average must be 'macro', 'micro', 'binary' or None, got {average!r}"
            )
        self.average = average
        super().__init__(num_classes, axis, threshold, name or type(self).__name__.lower())

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
        return figures if self.average is None else float(figures[predicted + actual > 0].mean())


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
        ignore_index: targets with this value do not count.
    """

    mode = "min"

    def __init__(self, axis: int = 1, ignore_index: int | None = None, name: str = "perplexity") -> None:
        self.name, self.axis, self.ignore_index = name, axis, ignore_index
        self.reset()

    def reset(self) -> None:
        self._nll, self._total = 0.0, 0

    def update(self, output: Any, target: Any) -> None:
        scores, labels = scores_and_labels("Perplexity", output, target, self.axis)
        if self.ignore_index is not None:
            kept = labels != self.ignore_index
            scores, labels = scores[kept], labels[kept]
        top = scores.max(1, keepdims=True, initial=-np.inf)
        log_sum = np.log(np.exp(scores - top).sum(1, dtype=np.float64)) + top[:, 0]
        self._nll += float((log_sum - np.take_along_axis(scores, labels[:, None], 1)[:, 0]).sum())
        self._total += len(labels)

    def compute(self) -> float:
        return math.exp(min(self._nll / self._total, 700.0)) if self._total else math.nan


class MeanSquaredError(_Mean):
    """Mean over all elements of (output - target)²."""

    def __init__(self, name: str = "mse") -> None:
        super().__init__(name)

    def update(self, output: Any, target: Any) -> None:
        error = self._error(output, target)
        self._add(float(np.square(error, dtype=np.float64).sum()) / max(error.size, 1), error.size)

    def _error(self, output: Any, target: Any) -> np.ndarray:
        output, target = as_array(output), as_array(target)
        if output.shape != target.shape:
            raise ValueError(f"{type(self).__name__}: output {output.shape} and target {target.shape} differ in shape")
        return output - target


class MeanAbsoluteError(MeanSquaredError):
    """Mean over all elements of |output - target|."""

    def __init__(self, name: str = "mae") -> None:
        super().__init__(name)

    def update(self, output: Any, target: Any) -> None:
        error = self._error(output, target)
        self._add(float(np.abs(error).sum(dtype=np.float64)) / max(error.size, 1), error.size)


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


def get(metric: str | Metric) -> Metric:
    """A metric by name, or the object itself. Raises ValueError that lists the names."""
    if isinstance(metric, Metric):
        return metric
    if metric not in BY_NAME:
        raise ValueError(f"unknown metric {metric!r}; known: {', '.join(sorted(BY_NAME))}")
    return BY_NAME[metric]()
