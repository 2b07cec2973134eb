"""``compile``, ``fit``, ``evaluate`` and ``predict`` as people from Keras know them, on the same Trainer.

Once ``minidl.train`` is imported, every Module has these functions as methods::

    import minidl.train
    from minidl import nn

    model = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))
    model.compile("adam", "sparse_categorical_crossentropy", ["accuracy"])
    model.fit(x, y, epochs=5, validation_split=0.1)

Unlike Keras', the cross-entropies take logits, so a model for them does not end in a softmax, and its ``predict``
returns logits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from minidl import nn, optim
from minidl.core.dtypes import default_dtype
from minidl.data import ArrayDataset, DataLoader
from minidl.train import evaluation
from minidl.train.metrics import Metric, as_array
from minidl.train.progress import choose
from minidl.train.trainer import Trainer


def _muon(parameters: Iterable) -> optim.Muon:
    """Muon for the matrices, its AdamW for all other parameters."""
    parameters = list(parameters)
    groups = [{"params": [p for p in parameters if (p.ndim == 2) == u], "use_muon": u} for u in (True, False)]
    return optim.Muon([group for group in groups if group["params"]])


OPTIMIZERS = {
    name.lower(): getattr(optim, name)
    for name in (
        "SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Adadelta", "NAdam", "RAdam", "LAMB", "LARS", "Lion",
    )
} | {"muon": _muon}  # fmt: skip

LOSSES = {
    "cross_entropy": nn.CrossEntropyLoss,
    "sparse_categorical_crossentropy": nn.CrossEntropyLoss,
    "categorical_crossentropy": nn.CrossEntropyLoss,
    "binary_crossentropy": nn.BCEWithLogitsLoss,
    "bce": nn.BCEWithLogitsLoss,
    "mse": nn.MSELoss,
    "mean_squared_error": nn.MSELoss,
    "mae": nn.L1Loss,
    "mean_absolute_error": nn.L1Loss,
    "huber": nn.HuberLoss,
}


class History:
    """What ``fit`` returns: ``epoch``, the epochs' numbers, and ``history``, a list of values per figure."""

    def __init__(self, rows: Sequence[dict[str, Any]]) -> None:
        self.epoch = [row["epoch"] for row in rows]
        names = dict.fromkeys(name for row in rows for name in row if name not in ("epoch", "step"))
        self.history = {name: [row[name] for row in rows if name in row] for name in names}


def compile(
    model: Any, optimizer: Any = "adam", loss: Any = None, metrics: Sequence[str | Metric] = (), **options: Any
) -> None:
    """Configure how ``model`` is trained.

    Args:
        optimizer: a name ("sgd", "adam", "adamw", "rmsprop" …, with default options), or an optimizer created with
            ``model.parameters()``.
        loss: a name ("cross_entropy", "sparse_categorical_crossentropy", "binary_crossentropy", "mse", "mae",
            "huber"), or a function of (output, target). The cross-entropies take logits.
        metrics: names ("accuracy", "top5", "f1", "mae" …) or objects.
        options: other arguments of :class:`~minidl.train.Trainer`.

    Raises:
        ValueError: a name is unknown, or the model ends in a softmax or sigmoid before a loss that wants logits.

    >>> import minidl.train
    >>> from minidl import nn
    >>> model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2))
    >>> model.compile("adam", "cross_entropy", ["accuracy"])
    >>> x = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
    >>> history = model.fit(x, np.array([0, 1, 1, 0]), epochs=2, verbose=0)
    >>> history.epoch, len(history.history["loss"])
    ([1, 2], 2)
    """
    if isinstance(loss, str):
        loss = _by_name("loss", loss, LOSSES)()
    if loss is None:
        raise ValueError(f"compile: give a loss: a function of (output, target) or one of {', '.join(LOSSES)}")
    last = list(model.modules())[-1]
    for kinds, losses in (((nn.Softmax, nn.LogSoftmax), nn.CrossEntropyLoss), ((nn.Sigmoid,), nn.BCEWithLogitsLoss)):
        if isinstance(last, kinds) and isinstance(loss, losses):
            raise ValueError(f"compile: {losses.__name__} takes logits; leave out the {type(last).__name__} at the end")
    if isinstance(optimizer, str):
        optimizer = _by_name("optimizer", optimizer, OPTIMIZERS)(model.parameters())
    model._trainer = Trainer(model, loss, optimizer, metrics=metrics, **options)


def _by_name(what: str, name: str, known: dict[str, Any]) -> Any:
    if name.lower() not in known:
        raise ValueError(f"compile: unknown {what} {name!r}; known: {', '.join(known)}")
    return known[name.lower()]


def _compiled(model: Any, method: str) -> Trainer:
    if not hasattr(model, "_trainer"):
        raise RuntimeError(f"{method}: call model.compile(optimizer, loss) first")
    return model._trainer


def fit(
    model: Any,
    x: Any,
    y: Any = None,
    batch_size: int = 32,
    epochs: int = 1,
    verbose: int = 1,
    callbacks: Sequence[Any] = (),
    validation_split: float = 0.0,
    validation_data: Any = None,
    shuffle: bool = True,
) -> History:
    """Train for ``epochs`` more epochs.

    Args:
        x, y: arrays of inputs and targets; or ``x`` alone, an iterable of batches such as a DataLoader.
        validation_split: use this fraction of the samples, the last ones before shuffling, for validation.
        validation_data: (x, y) or an iterable of batches.
        verbose: 0 shows nothing.

    Raises:
        RuntimeError: the model is not compiled.
        ValueError: lengths differ, or ``validation_split`` is given with inputs that cannot be split.
    """
    compiled = _compiled(model, "fit")
    if validation_split:
        if y is None or not 0 < validation_split < 1:
            raise ValueError(f"fit: validation_split must be in (0, 1) and needs arrays x, y; got {validation_split}")
        if validation_data is not None:
            raise ValueError("fit: give validation_split or validation_data, not both")
        x, y = _array(x), _array(y)
        first = int(len(x) * (1 - validation_split))
        x, y, validation_data = x[:first], y[:first], (x[first:], y[first:])
    if isinstance(validation_data, tuple):
        held_out_x, held_out_y = validation_data
        validation_data = _loader(held_out_x, held_out_y, batch_size)
    loader = _loader(x, y, batch_size, shuffle)
    if y is not None:
        loader.set_epoch(compiled.epoch)  # a second fit() goes on with new orders
    before, rows = compiled.callbacks, len(compiled.history)
    compiled.callbacks = [*before, *callbacks]
    try:
        with _shown(compiled, verbose):
            compiled.fit(loader, validation_data, epochs=epochs)
    finally:
        compiled.callbacks = before
    return History(compiled.history[rows:])


def evaluate(
    model: Any, x: Any, y: Any = None, batch_size: int = 32, verbose: int = 0, return_dict: bool = False
) -> Any:
    """The loss over all samples; with metrics, a list of the loss and the metrics, or with ``return_dict`` a dict."""
    compiled = _compiled(model, "evaluate")
    with _shown(compiled, verbose):
        figures = compiled.evaluate(_loader(x, y, batch_size))
    if return_dict:
        return figures
    return figures["loss"] if len(figures) == 1 else list(figures.values())


def predict(model: Any, x: Any, batch_size: int = 32) -> np.ndarray:
    """The model's outputs for inputs ``x``: an array, or an iterable of batches."""
    return evaluation.predict(model, _array(x) if hasattr(x, "__array__") else x, batch_size)


@contextlib.contextmanager
def _shown(compiled: Trainer, verbose: int) -> Iterator[None]:
    """Show progress inside the ``with`` block if ``verbose``."""
    before, compiled.display = compiled.display, choose(bool(verbose))
    try:
        yield
    finally:
        compiled.display = before


def _array(values: Any) -> np.ndarray:
    """As in Keras, float64 becomes the default dtype."""
    array = as_array(values)
    return array.astype(default_dtype()) if array.dtype == np.float64 else array


def _loader(x: Any, y: Any, batch_size: int, shuffle: bool = False) -> Any:
    if y is None:
        if isinstance(x, np.ndarray):
            raise ValueError("give the targets y too, or batches of (inputs, targets)")
        return x
    return DataLoader(ArrayDataset(_array(x), _array(y)), batch_size, shuffle=shuffle)


for method in (compile, fit, evaluate, predict):
    setattr(nn.Module, method.__name__, method)
