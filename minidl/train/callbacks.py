"""Callbacks: code that runs at certain points while a Trainer trains."""

from __future__ import annotations

import csv
import io
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from minidl import serialization
from minidl.files import atomic_write
from minidl.train.progress import TIMES

if TYPE_CHECKING:
    from minidl.train.trainer import Trainer


class Callback:
    """Base of callbacks; override what you need.

    ``row`` has the figures so far: those of the running epoch after a step, those that go into the history after an
    epoch. What a callback adds to it shows up in the history. State that a resumed run needs goes into
    ``state_dict``.
    """

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Training starts or resumes."""

    def on_epoch_begin(self, trainer: Trainer) -> None:
        """An epoch starts. A resumed run does not call this again for the epoch that was under way."""

    def on_step_end(self, trainer: Trainer, row: dict[str, Any]) -> None:
        """An optimizer step is done."""

    def on_epoch_end(self, trainer: Trainer, row: dict[str, Any]) -> None:
        """An epoch is done, validation included; its checkpoint is written after this."""

    def on_fit_end(self, trainer: Trainer) -> None:
        """Training is done (not called when it is interrupted)."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class LambdaCallback(Callback):
    """Calls functions: ``LambdaCallback(on_epoch_end=lambda trainer, row: print(row))``."""

    def __init__(self, **functions: Callable[..., Any]) -> None:
        events = [name for name in vars(Callback) if name.startswith("on_")]
        for event, function in functions.items():
            if event not in events:
                raise ValueError(f"LambdaCallback: unknown event {event!r}; known: {', '.join(events)}")
            setattr(self, event, function)


class _Best(Callback):
    """Knows whether the figure it watches is the best so far."""

    def __init__(self, monitor: str, mode: str, min_delta: float = 0.0) -> None:
        if mode not in ("auto", "min", "max"):
            raise ValueError(f"{type(self).__name__}: mode must be 'auto', 'min' or 'max', got {mode!r}")
        if mode == "auto":
            smaller = ("loss", "perplexity", "mse", "mae", "error")
            mode = "min" if monitor.endswith(smaller) else "max"
        self.monitor, self.mode, self.min_delta = monitor, mode, min_delta
        self.best: float | None = None

    def improved(self, row: dict[str, Any]) -> bool:
        """Take in an epoch's figure; True if it is better than the best before by more than ``min_delta``."""
        if self.monitor not in row:
            raise ValueError(f"{type(self).__name__}: no figure {self.monitor!r}; there are {', '.join(row)}")
        value = row[self.monitor]
        if math.isnan(value):
            return False
        sign = 1 if self.mode == "max" else -1
        if self.best is None or sign * (value - self.best) > self.min_delta:
            self.best = value
            return True
        return False


class EarlyStopping(_Best):
    """Stops when ``monitor`` has not improved for ``patience`` epochs.

    Args:
        min_delta: a smaller change than this does not count as one.
        mode: "min" or "max" is better; "auto" takes "min" for losses, errors and perplexity.
        restore_best: put the best epoch's weights back into the model at the end.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        patience: int = 3,
        min_delta: float = 0.0,
        mode: str = "auto",
        restore_best: bool = False,
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        self.patience, self.restore_best = patience, restore_best
        self.waited = 0
        self.weights: dict[str, np.ndarray] | None = None

    def on_epoch_end(self, trainer: Trainer, row: dict[str, Any]) -> None:
        if self.improved(row):
            self.waited = 0
            if self.restore_best:
                self.weights = trainer.weights()
            return
        self.waited += 1
        if self.waited >= self.patience:
            trainer.should_stop = True

    def on_fit_end(self, trainer: Trainer) -> None:
        if self.weights is not None:
            trainer.model.load_state_dict(self.weights)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.waited, self.weights = state["best"], state["waited"], state["weights"]


class ModelCheckpoint(_Best):
    """Writes the model's weights to ``path`` (safetensors) each time ``monitor`` is better than ever before.

    With an ``ema`` these are the averaged weights, as it is they that were validated.

    Args:
        restore_best: put the best weights back into the model at the end. They are then part of checkpoints, too, so
            that a resumed run has them even if ``path`` is lost.
    """

    def __init__(
        self, path: str | Path, monitor: str = "val_loss", mode: str = "auto", restore_best: bool = False
    ) -> None:
        super().__init__(monitor, mode)
        self.path, self.restore_best = Path(path), restore_best
        self.epoch: int | None = None
        self.weights: dict[str, np.ndarray] | None = None
        serialization.library()

    def on_fit_begin(self, trainer: Trainer) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.weights is not None:
            self._write(self.weights)

    def on_epoch_end(self, trainer: Trainer, row: dict[str, Any]) -> None:
        if self.improved(row):
            self.epoch = row["epoch"]
            weights = trainer.weights()
            self._write(weights)
            if self.restore_best:
                self.weights = weights

    def on_fit_end(self, trainer: Trainer) -> None:
        if self.weights is not None:
            trainer.model.load_state_dict(self.weights)

    def _write(self, weights: dict[str, np.ndarray]) -> None:
        content = serialization.to_bytes(weights)
        with atomic_write(self.path, parents=False) as file:
            file.write(content)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "epoch": self.epoch, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.epoch, self.weights = state["best"], state["epoch"], state["weights"]


def jsonable(value: Any) -> Any:
    """``value`` with null for what JSON has no numbers for: NaN and infinities."""
    if isinstance(value, dict):
        return {k: jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class _History(Callback):
    """Rewrites a file from the history after every epoch, so that a resumed run leaves no line twice."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def on_fit_begin(self, trainer: Trainer) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def on_epoch_end(self, trainer: Trainer, row: dict[str, Any]) -> None:
        content = self.content(trainer.history)
        with atomic_write(self.path, parents=False) as file:
            file.write(content)

    def content(self, history: list[dict[str, Any]]) -> bytes:
        raise NotImplementedError


class JSONLLogger(_History):
    """The history as a file with a JSON object on each line."""

    def content(self, history: list[dict[str, Any]]) -> bytes:
        return "".join(json.dumps(jsonable(row)) + "\n" for row in history).encode()


class CSVLogger(_History):
    """The history as a CSV file, with a column for every figure that is a number."""

    def content(self, history: list[dict[str, Any]]) -> bytes:
        columns = list(dict.fromkeys(k for row in history for k, v in row.items() if not isinstance(v, (list, dict))))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
        return text.getvalue().encode()


class LearningCurve(_History):
    """A PNG of the history: losses on the left, the other figures on the right. Needs matplotlib.

    It is drawn after an epoch if the last drawing is ``interval`` seconds old, and at the end.
    """

    def __init__(self, path: str | Path, interval: float = 10.0) -> None:
        super().__init__(path)
        self.interval, self.drawn_at = interval, -math.inf
        _matplotlib()

    def on_epoch_end(self, trainer: Trainer, row: dict[str, Any]) -> None:
        if time.monotonic() - self.drawn_at >= self.interval:
            super().on_epoch_end(trainer, row)
            self.drawn_at = time.monotonic()

    def on_fit_end(self, trainer: Trainer) -> None:
        if trainer.history:
            super().on_epoch_end(trainer, trainer.history[-1])

    def content(self, history: list[dict[str, Any]]) -> bytes:
        figure_class, canvas = _matplotlib()
        names = [k for k, v in history[-1].items() if isinstance(v, (int, float)) and not isinstance(v, bool)]
        names = [k for k in names if k not in ("epoch", "step", *TIMES) and not k.startswith("lr")]
        losses = [k for k in names if k.endswith("loss")]
        panels = [p for p in (losses, [k for k in names if k not in losses]) if p]
        figure = figure_class(figsize=(5 * len(panels), 3.5), layout="constrained")
        canvas(figure)
        for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
            for name in panel:
                rows = [row for row in history if name in row]
                style = "-" if name.startswith("val_") else "--"
                axes.plot([r["epoch"] for r in rows], [r[name] for r in rows], style, marker=".", label=name)
            axes.set_xlabel("epoch")
            axes.grid(alpha=0.3)
            axes.legend()
        image = io.BytesIO()
        figure.savefig(image, format="png", dpi=110)
        return image.getvalue()


def _matplotlib() -> tuple[Any, Any]:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('LearningCurve needs matplotlib: pip install "minidl[train]"') from error
    return Figure, FigureCanvasAgg


class TensorBoard(Callback):
    """Writes event files for TensorBoard to ``folder``, by tensorboardX: every epoch's figures, and every
    ``every``-th step's loss and learning rate (0: none)."""

    def __init__(self, folder: str | Path, every: int = 10) -> None:
        try:
            import tensorboardX
        except ImportError as error:
            raise ImportError('TensorBoard needs tensorboardX: pip install "minidl[train]"') from error
        self.folder, self.every = Path(folder), every
        self._writer_class = tensorboardX.SummaryWriter
        self._writer: Any = None

    def on_fit_begin(self, trainer: Trainer) -> None:
        # purge_step hides what an interrupted run had written beyond its checkpoint.
        self._writer = self._writer_class(str(self.folder), purge_step=trainer.step + 1 if trainer.step else None)

    def on_step_end(self, trainer: Trainer, row: dict[str, Any]) -> None:
        if self.every and trainer.step % self.every == 0:
            self._writer.add_scalar("step/loss", trainer.batch_loss, trainer.step)
            self._writer.add_scalar("step/lr", row["lr"], trainer.step)

    def on_epoch_end(self, trainer: Trainer, row: dict[str, Any]) -> None:
        for name, value in row.items():
            if isinstance(value, (int, float)) and name not in ("epoch", "step"):
                self._writer.add_scalar(f"epoch/{name}", value, trainer.step)
        self._writer.flush()

    def on_fit_end(self, trainer: Trainer) -> None:
        self._writer.close()


class LRMonitor(Callback):
    """Adds every parameter group's learning rate, as of the epoch's last step, to the history: "lr/0", "lr/1" …"""

    def on_epoch_end(self, trainer: Trainer, row: dict[str, Any]) -> None:
        row.update({f"lr/{i}": rate for i, rate in enumerate(trainer.rates)})
