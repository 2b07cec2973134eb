"""Trainer: the training loop, with validation, checkpoints and exact resume."""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
import random
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minidl import serialization
from minidl.core.context import no_grad
from minidl.core.tensor import Tensor, as_tensor
from minidl.errors import UserError
from minidl.jit import jit as capture
from minidl.optim import ExponentialMovingAverage, clip_grad_norm_, clip_grad_value_
from minidl.optim.lr_scheduler import ReduceLROnPlateau
from minidl.random import Generator, default_generator
from minidl.train import checkpoint
from minidl.train import progress as display
from minidl.train.callbacks import Callback
from minidl.train.metrics import Mean, Metric, as_array, get


class NonFiniteLossError(UserError, ArithmeticError):
    """The loss became NaN or infinite. The weights are those from before the step."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C was pressed; the state is saved at ``checkpoint`` (None: there is no run folder to save it in)."""

    def __init__(self, message: str, checkpoint: Path | None) -> None:
        super().__init__(message)
        self.checkpoint = checkpoint


class Trainer:
    """Trains a model::

        trainer = Trainer(model, nn.CrossEntropyLoss(), optim.Adam(model.parameters()), metrics=["accuracy"])
        history = trainer.fit(train_loader, val_loader, epochs=5)
        trainer.evaluate(test_loader)

    A batch is ``(input, …, target)``; a step computes ``loss(model(input, …), target)``. To compute something else,
    override :meth:`compute`.

    Args:
        model, loss, optimizer: the loss is averaged over the batch's first axis.
        metrics: :class:`~minidl.train.metrics.Metric` objects or their names, computed on training and validation
            data.
        scheduler: changes the learning rate.
        scheduler_interval: when it steps: "step" (after every optimizer step), "epoch" (after every epoch), or
            "plateau" (after every epoch, with the value of ``monitor``). By default "plateau" for ReduceLROnPlateau,
            otherwise "step" or "epoch", which has to be said.
        monitor: name of the figure that a plateau scheduler watches.
        callbacks: :class:`~minidl.train.callbacks.Callback` objects, called in this order.
        grad_clip_norm, grad_clip_value: limit the gradient's total norm, or each of its elements.
        accumulate_steps: batches whose gradients are averaged, weighted by their sizes, into one optimizer step.
        ema: average of the weights, used for validation: a :class:`~minidl.optim.ExponentialMovingAverage`, or its
            decay (buffers are averaged too then).
        seed: seeds the default generator when ``fit`` starts (dropout, and what else draws from it).
        carry_state: truncated back-propagation through time: the model is called as ``model(input, …, state)`` and
            returns ``(output, state)``; the state, detached, is what the next batch gets. It starts as None in every
            epoch and every evaluation.
        run_dir: folder for checkpoints; none are written without it.
        checkpoint_every: epochs from one checkpoint to the next (0: none but on Ctrl-C).
        checkpoint_steps: also every so many optimizer steps.
        keep_checkpoints: how many to keep.
        on_nan: "raise" :class:`NonFiniteLossError` when the loss is not finite, or "ignore".
        jit: capture the training step with :func:`minidl.jit` and replay it. A loss that is not finite is then noticed
            after its update. Not with ``accumulate_steps``.
        progress: show progress: a live bar on a terminal, plain lines elsewhere.

    Attributes:
        history: a dict for each finished epoch: "epoch", "step", "lr", "loss", metrics, "val_loss" …
        epoch, step: epochs and optimizer steps done.
        batch_loss, rates: the last batch's loss, and the learning rates (one a parameter group) of the last step.
        should_stop: set it (in a callback) to stop after the step under way.
    """

    def __init__(
        self,
        model: Any,
        loss: Callable[[Any, Any], Any],
        optimizer: Any,
        *,
        metrics: Sequence[str | Metric] = (),
        scheduler: Any = None,
        scheduler_interval: str | None = None,
        monitor: str = "val_loss",
        callbacks: Sequence[Callback] = (),
        grad_clip_norm: float | None = None,
        grad_clip_value: float | None = None,
        accumulate_steps: int = 1,
        ema: Any = None,
        seed: int | None = None,
        carry_state: bool = False,
        run_dir: str | Path | None = None,
        checkpoint_every: int = 1,
        checkpoint_steps: int | None = None,
        keep_checkpoints: int = 2,
        on_nan: str = "raise",
        jit: bool = False,
        progress: bool | display.Silent = True,
    ) -> None:
        if accumulate_steps < 1:
            raise ValueError(f"Trainer: accumulate_steps must be at least 1, got {accumulate_steps}")
        if jit and accumulate_steps > 1:
            raise ValueError("Trainer: jit=True captures one batch a step; accumulate_steps must be 1")
        if keep_checkpoints < 1:
            raise ValueError(f"Trainer: keep_checkpoints must be at least 1, got {keep_checkpoints}")
        if on_nan not in ("raise", "ignore"):
            raise ValueError(f"Trainer: on_nan must be 'raise' or 'ignore', got {on_nan!r}")
        self.model, self.loss, self.optimizer = model, loss, optimizer
        self.metrics = [get(m) for m in metrics]
        self.scheduler, self.monitor = scheduler, monitor
        self.scheduler_interval = _interval(scheduler, scheduler_interval)
        self.callbacks = list(callbacks)
        self.grad_clip_norm, self.grad_clip_value = grad_clip_norm, grad_clip_value
        self.accumulate_steps, self.seed, self.carry_state = accumulate_steps, seed, carry_state
        self.ema = ExponentialMovingAverage(model, ema, buffers=True) if isinstance(ema, float) else ema
        self.run_dir = None if run_dir is None else Path(run_dir)
        if run_dir is not None:
            serialization.library()  # an ImportError now, not after the first epoch
        self.checkpoint_every, self.checkpoint_steps = checkpoint_every, checkpoint_steps
        self.keep_checkpoints = keep_checkpoints
        self.on_nan, self.display = on_nan, display.choose(progress)
        self._captured = capture(self._whole_step) if jit else None

        self.history: list[dict[str, Any]] = []
        self.epoch = self.step = 0
        self.should_stop = False
        self.batch_loss, self.rates = math.nan, self._rates()
        self.resume_hint = "call fit(…, resume=True) in the same program"
        self._running: list[Metric] = [Mean("loss"), *self.metrics]
        self._mid_epoch = False  # an epoch has begun and is not recorded in the history yet
        self._trained = False  # its batches are used up; validation may still be to come
        self._batches = 0  # taken from the loader in this epoch
        self._seconds = 0.0  # spent in this epoch before it was interrupted
        self._started_at = (0, 0)  # epoch and step at which the last fit() began: its limits count from there
        self._state: Any = None  # what the model carries from batch to batch
        self._interrupts = 0

    # The loop

    def fit(
        self,
        train_loader: Iterable,
        val_loader: Iterable | None = None,
        epochs: int | None = None,
        max_steps: int | None = None,
        resume: bool | str | Path = False,
    ) -> list[dict[str, Any]]:
        """Train for ``epochs`` more epochs, or ``max_steps`` more optimizer steps, whichever ends first.

        Args:
            resume: go on with the interrupted ``fit`` of this very call: True from the latest checkpoint in
                ``run_dir`` (from the start if there is none), or from the checkpoint given.

        Returns:
            The history.

        Raises:
            NonFiniteLossError: the loss is NaN or infinite.
            Interrupted: Ctrl-C was pressed. The state has been saved if there is a run folder. A second Ctrl-C
                stops at once, with KeyboardInterrupt.
            CheckpointError: the checkpoint to resume from is damaged; the message names an earlier one.
        """
        if epochs is None and max_steps is None:
            raise ValueError("fit: give epochs or max_steps")
        if not self._resume(resume, train_loader):
            self._started_at = (self.epoch, self.step)
            if self.seed is not None:
                # Folded, so that dropout does not draw the very numbers that made the initial weights.
                state = Generator(self.seed).fold_in(0x747261696E).get_state()
                default_generator().set_state(state)
            self.should_stop = False
        last_epoch = math.inf if epochs is None else self._started_at[0] + epochs
        last_step = math.inf if max_steps is None else self._started_at[1] + max_steps
        self.model.train()
        with self._catch_interrupts(), self._showing():
            self._call("on_fit_begin")
            while not self.should_stop and self.epoch < last_epoch and (self.step < last_step or self._mid_epoch):
                self._fit_epoch(train_loader, val_loader, epochs, last_step)
            self._call("on_fit_end")
        return self.history

    def _fit_epoch(self, train_loader: Iterable, val_loader: Iterable | None, epochs: Any, last_step: float) -> None:
        began = time.monotonic() - self._seconds
        if not self._mid_epoch:
            self._mid_epoch, self._trained, self._batches, self._state = True, False, 0, None
            for metric in self._running:
                metric.reset()
            self._call("on_epoch_begin")
        title = f"epoch {self.epoch + 1}" + (f"/{self._started_at[0] + epochs}" if epochs is not None else "")
        total = -(-len(train_loader) // self.accumulate_steps) if hasattr(train_loader, "__len__") else None
        self.display.begin(title, total, self._batches // self.accumulate_steps)

        with contextlib.closing(self._groups(train_loader)) as groups:
            for group in groups:
                self._train_step(group)
                row = self._row()
                self.display.advance(row)
                self._call("on_step_end", row)
                self._seconds = time.monotonic() - began
                if self._due(self.step, self.checkpoint_steps):
                    self.save_checkpoint(train_loader)
                self._save_if_interrupted(train_loader)
                if self.step >= last_step or self.should_stop:
                    break
        self.display.end()
        if not self._batches:
            raise ValueError("fit: the training data gave no batches; is it an iterator, which can be used only once?")
        if not self._trained and hasattr(train_loader, "set_epoch"):  # cut short: the next epoch is a new one
            train_loader.set_epoch(train_loader.epoch + 1)
        self._trained = True

        row = self._row()
        if val_loader is not None:
            if hasattr(val_loader, "set_epoch"):
                val_loader.set_epoch(self.epoch)
            row |= self._evaluate(val_loader, f"{title} validation")
            self._save_if_interrupted(train_loader)
        self._seconds = time.monotonic() - began
        row["seconds"] = round(self._seconds, 3)
        if self.scheduler_interval == "epoch":
            self.scheduler.step()
        elif self.scheduler_interval == "plateau":
            self.scheduler.step(self._monitored(row))
        self.epoch += 1
        self._mid_epoch, self._seconds = False, 0.0
        self.history.append(row)
        self._call("on_epoch_end", row)
        self.display.message(f"{title}  {display.figures(row)}  {row['seconds']:.1f} s")
        if self._due(self.epoch, self.checkpoint_every):
            self.save_checkpoint(train_loader)
        self._save_if_interrupted(train_loader)

    def _groups(self, loader: Iterable) -> Iterator[list]:
        """The epoch's remaining batches in groups that make one optimizer step each."""
        if self._trained:
            return
        batches = iter(loader)
        if not hasattr(loader, "state_dict"):  # one that cannot go on by itself: skip what was done
            batches = itertools.islice(batches, self._batches, None)
        try:
            while group := list(itertools.islice(batches, self.accumulate_steps)):
                self._batches += len(group)
                self._trained = len(group) < self.accumulate_steps  # then the loader has ended its epoch
                yield group
            self._trained = True
        finally:
            if hasattr(batches, "close"):
                batches.close()  # ends the loader's workers

    def _train_step(self, group: list) -> None:
        """One optimizer step on a group of batches, mostly of one."""
        if self._captured is not None:
            self._replay_step(group[0])
        else:
            self.optimizer.zero_grad()
            samples = 0
            for batch in group:
                loss, output, target = self.compute(batch)
                self._check_finite(loss)
                n = len(target)
                samples += n
                if len(group) == 1:
                    loss.backward()
                else:
                    (loss * n).backward()
                self._note(loss, output, target)
            if len(group) > 1:
                for parameter in self._parameters():
                    if parameter.grad is not None:
                        parameter.grad = parameter.grad * (1 / samples)
            self._clip_gradients()
            self.rates = self._rates()
            self.optimizer.step()
        self.step += 1
        if self.scheduler_interval == "step":
            self.scheduler.step()
        if self.ema is not None:
            self.ema.update()

    def _note(self, loss: Any, output: Any, target: Any) -> None:
        """Take a batch's loss and metrics into the epoch's."""
        self.batch_loss = loss.item()
        self._running[0].update(self.batch_loss, len(target))
        for metric in self.metrics:
            metric.update(output, target)

    def _replay_step(self, batch: Any) -> None:
        """The same by way of ``minidl.jit``."""
        self.rates = self._rates()
        loss, output, self._state = self._captured(tuple(as_tensor(part) for part in batch), self._state)
        self._check_finite(loss)
        self._note(loss, output, as_tensor(batch[-1]))

    def _whole_step(self, batch: Any, state: Any) -> tuple[Any, Any, Any]:
        """What ``minidl.jit`` captures: everything from the batch to the update, with the carried state passed in."""
        self._state = state
        self.optimizer.zero_grad()
        loss, output, _ = self.compute(batch)
        loss.backward()
        self._clip_gradients()
        self.optimizer.step()
        return loss, output, self._state

    def compute(self, batch: Any) -> tuple[Any, Any, Any]:
        """Loss (a Tensor with one element), output and target of a batch, in training and in evaluation."""
        *inputs, target = (as_tensor(part) for part in batch)
        if self.carry_state:
            output, state = self.model(*inputs, self._state)
            self._state = _map(Tensor.detach, state)
        else:
            output = self.model(*inputs)
        return self.loss(output, target), output, target

    def _check_finite(self, loss: Any) -> None:
        if self.on_nan == "raise" and not math.isfinite(loss.item()):
            raise NonFiniteLossError(
                f"the loss is {loss.item()} at step {self.step + 1} (epoch {self.epoch + 1}, batch {self._batches}; "
                f"lr {self._rates()[0]:.4g}). Try a lower learning rate or grad_clip_norm; "
                "minidl.autograd.detect_anomaly() names the operation that makes the first NaN."
            )

    def _clip_gradients(self) -> None:
        if self.grad_clip_value is not None:
            clip_grad_value_(self._parameters(), self.grad_clip_value)
        if self.grad_clip_norm is not None:
            clip_grad_norm_(self._parameters(), self.grad_clip_norm)

    def _parameters(self) -> list:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def _rates(self) -> list[float]:
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def _row(self) -> dict[str, Any]:
        row = {"epoch": self.epoch + 1, "step": self.step, "lr": self.rates[0]}
        return row | {m.name: _plain(m.compute()) for m in self._running}

    def _monitored(self, row: dict[str, Any]) -> float:
        if self.monitor not in row:
            raise ValueError(f"Trainer: monitor={self.monitor!r} is not among the figures: {', '.join(row)}")
        return row[self.monitor]

    def _call(self, event: str, *args: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(self, *args)

    def _due(self, done: int, every: int | None) -> bool:
        return self.run_dir is not None and bool(every) and done % every == 0

    # Evaluation

    def evaluate(self, loader: Iterable) -> dict[str, Any]:
        """Loss and metrics over all of ``loader``, with the averaged weights if there is an ``ema``."""
        with self._showing():
            return {name.removeprefix("val_"): value for name, value in self._evaluate(loader, "evaluate").items()}

    def _evaluate(self, loader: Iterable, title: str) -> dict[str, Any]:
        figures = [Mean("loss"), *(copy.deepcopy(m) for m in self.metrics)]
        for metric in figures:
            metric.reset()
        self.display.begin(title, len(loader) if hasattr(loader, "__len__") else None)
        with self._evaluating():
            for batch in loader:
                loss, output, target = self.compute(batch)
                figures[0].update(loss.item(), len(target))
                for metric in figures[1:]:
                    metric.update(output, target)
                self.display.advance({f"val_{m.name}": _plain(m.compute()) for m in figures})
                if self._interrupts:
                    break
        self.display.end()
        return {f"val_{m.name}": _plain(m.compute()) for m in figures}

    def predict(self, data: Any, batch_size: int = 256) -> np.ndarray:
        """The model's outputs for all of ``data``, with the averaged weights if there is an ``ema``: see
        :func:`predict`."""
        with contextlib.nullcontext() if self.ema is None else self.ema.average_parameters():
            return predict(self.model, data, batch_size, self.carry_state)

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[None]:
        """In evaluation mode, on the averaged weights, with a carried state of its own."""
        carried, self._state = self._state, None
        averaged = contextlib.nullcontext() if self.ema is None else self.ema.average_parameters()
        try:
            with evaluating(self.model), averaged:
                yield
        finally:
            self._state = carried

    # Checkpoints

    def weights(self) -> dict[str, np.ndarray]:
        """A copy of the model's ``state_dict``, with the averaged weights in it if there is an ``ema``."""
        with contextlib.nullcontext() if self.ema is None else self.ema.average_parameters():
            return {name: np.array(as_array(value)) for name, value in self.model.state_dict().items()}

    def save_weights(self, path: str | Path) -> None:
        """Write :meth:`weights` as a safetensors file."""
        serialization.save(path, self.weights())

    def save_checkpoint(self, train_loader: Any = None, folder: str | Path | None = None) -> Path:
        """Write everything that going on needs to ``folder``; by default to ``run_dir/checkpoints/step-…``."""
        if folder is None:
            if self.run_dir is None:
                raise ValueError("save_checkpoint: this Trainer has no run_dir; give a folder")
            folder = self.run_dir / "checkpoints" / checkpoint.name_of(self.step)
        training = {
            "epoch": self.epoch,
            "step": self.step,
            "mid_epoch": self._mid_epoch,
            "trained": self._trained,
            "batches": self._batches,
            "seconds": self._seconds,
            "started_at": self._started_at,
            "rates": self.rates,
            "should_stop": self.should_stop,
            "history": self.history,
            "metrics": {name: metric.state_dict() for name, metric in _numbered(self._running).items()},
            "carried": self._state,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "loader": train_loader.state_dict() if hasattr(train_loader, "state_dict") else None,
            "callbacks": {name: s for name, c in _numbered(self.callbacks).items() if (s := c.state_dict())},
            "random": _random_state(),
        }
        path = checkpoint.save(folder, self.model.state_dict(), training)
        if self.run_dir is not None and path.parent == self.run_dir / "checkpoints":
            checkpoint.prune(path.parent, self.keep_checkpoints)
        return path

    def load_checkpoint(self, folder: str | Path, train_loader: Any = None) -> None:
        """Take over the state that :meth:`save_checkpoint` wrote.

        Raises:
            CheckpointError: it is damaged, or was made by another model, optimizer, scheduler or data set.
        """
        model, training = checkpoint.load(folder)
        try:
            self.model.load_state_dict(model)
            self.optimizer.load_state_dict(training["optimizer"])
            for part, name in ((self.scheduler, "scheduler"), (self.ema, "ema")):
                if (part is None) != (training[name] is None):
                    raise ValueError(f"it was saved {'without' if training[name] is None else 'with'} {name}")
                if part is not None:
                    part.load_state_dict(training[name])
            if hasattr(train_loader, "load_state_dict") and training["loader"] is not None:
                train_loader.load_state_dict(training["loader"])
            for what, own in (("metrics", self._running), ("callbacks", self.callbacks)):
                named, saved = _numbered(own), training[what]
                if homeless := saved.keys() - named.keys():
                    raise ValueError(f"it was saved with {what} that this Trainer lacks: {', '.join(homeless)}")
                for name, state in saved.items():
                    named[name].load_state_dict(state)
        except (ValueError, KeyError, RuntimeError, TypeError) as error:
            raise checkpoint.CheckpointError(f"{folder}: does not fit this Trainer: {error}") from error
        self.epoch, self.step = training["epoch"], training["step"]
        self._mid_epoch, self._trained = training["mid_epoch"], training["trained"]
        self._batches = training["batches"]
        self._seconds, self._started_at = training["seconds"], tuple(training["started_at"])
        self.rates, self.should_stop = training["rates"], training["should_stop"]
        self.history, self._state = training["history"], _map(as_tensor, training["carried"])
        _set_random_state(training["random"])

    def _resume(self, resume: bool | str | Path, train_loader: Any) -> bool:
        """Load what ``fit(resume=…)`` asks for; False if there is nothing to go on with."""
        if resume is False:
            return False
        if resume is True:
            if self.run_dir is None:
                raise ValueError("fit: resume=True needs a run_dir, or pass the checkpoint's path")
            found = checkpoint.listed(self.run_dir / "checkpoints")
            if not found:
                return False
            resume = found[-1]
        self.load_checkpoint(resume, train_loader)
        return True

    # Ctrl-C

    @contextlib.contextmanager
    def _catch_interrupts(self) -> Iterator[None]:
        """The first Ctrl-C is noted, so that the step under way is finished; a second one stops at once."""
        ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # a background job's
        if ignored or threading.current_thread() is not threading.main_thread():  # others get no signals
            yield
            return

        def note(signum: int, frame: Any) -> None:
            self._interrupts += 1
            if self._interrupts > 1:
                raise KeyboardInterrupt

        before = signal.signal(signal.SIGINT, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
            self._interrupts = 0

    def _save_if_interrupted(self, train_loader: Any) -> None:
        if not self._interrupts:
            return
        if self.run_dir is None:
            raise Interrupted("interrupted; nothing is saved, as there is no run_dir", None)
        path = self.save_checkpoint(train_loader)
        self.display.message(f"Saved {path}\nTo go on: {self.resume_hint}")
        raise Interrupted(f"interrupted; saved {path}", path)

    @contextlib.contextmanager
    def _showing(self) -> Iterator[None]:
        self.display.start()
        try:
            yield
        finally:
            self.display.end()
            self.display.stop()


@contextlib.contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Inside, ``model`` is in evaluation mode and no gradients are recorded; afterwards layers have their old modes."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def predict(model: Any, data: Any, batch_size: int = 256, carry_state: bool = False) -> np.ndarray:
    """The model's outputs for all of ``data``: an array of inputs, or a loader of batches.

    Of the batches of a loader, ``(input, …, target)`` or the bare input, the targets are not used.
    """
    if isinstance(data, (np.ndarray, Tensor)):
        batches: Iterable = ((data[i : i + batch_size],) for i in range(0, len(data), batch_size))
    else:
        batches = (tuple(b[:-1]) if isinstance(b, (tuple, list)) and len(b) > 1 else (b,) for b in data)
    outputs, state = [], None
    with evaluating(model):
        for inputs in batches:
            inputs = tuple(as_tensor(part) for part in inputs)
            if carry_state:
                output, state = model(*inputs, state)
            else:
                output = model(*inputs)
            outputs.append(as_array(output))
    if not outputs:
        raise ValueError("predict: there are no batches")
    return np.concatenate(outputs)


def _interval(scheduler: Any, interval: str | None) -> str | None:
    """When a scheduler steps, checked."""
    if scheduler is None:
        return None
    plateau = isinstance(scheduler, ReduceLROnPlateau)
    if interval is None and plateau:
        interval = "plateau"
    if interval not in ("step", "epoch", "plateau") or plateau != (interval == "plateau"):
        wanted = "'plateau'" if plateau else "'step' or 'epoch'"
        raise ValueError(
            f"Trainer: scheduler_interval must be {wanted} for {type(scheduler).__name__}, got {interval!r}"
        )
    return interval


def _plain(value: Any) -> Any:
    """A metric's value as JSON has it: a number or nested lists of them."""
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


def _numbered(parts: Sequence[Any]) -> dict[str, Any]:
    """Metrics or callbacks by class name and number, so that their saved states find them."""
    count: dict[str, int] = {}
    named = {}
    for part in parts:
        name = type(part).__name__
        count[name] = count.get(name, -1) + 1
        named[f"{name}{count[name]}"] = part
    return named


def _map(function: Callable[[Any], Any], tree: Any) -> Any:
    """``function`` on every leaf of nested tuples, lists and dicts; lists become tuples, None stays None."""
    if tree is None:
        return None
    if isinstance(tree, (tuple, list)):
        return tuple(_map(function, t) for t in tree)
    if isinstance(tree, dict):
        return {k: _map(function, t) for k, t in tree.items()}
    return function(tree)


def _random_state() -> dict[str, Any]:
    """Python's, NumPy's and minidl's global generators."""
    version, words, gauss = random.getstate()
    return {
        "minidl": default_generator().get_state(),
        "numpy": np.random.get_state(),
        "python": (version, np.array(words, np.uint32), gauss),
    }


def _set_random_state(state: dict[str, Any]) -> None:
    default_generator().set_state(state["minidl"])
    np.random.set_state(tuple(state["numpy"]))
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
