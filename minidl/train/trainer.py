"""Trainer: the training loop, with validation, checkpoints and exact resume."""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
from collections import abc
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from pathlib import Path
from typing import Any

import numpy as np

from minidl import serialization
from minidl.core.tensor import Tensor, as_tensor
from minidl.nn.loss import count as batch_count
from minidl.optim import ExponentialMovingAverage
from minidl.optim.lr_scheduler import ReduceLROnPlateau
from minidl.random import Generator, default_generator
from minidl.ranges import above, one_of, optional, whole
from minidl.train import checkpoint, evaluation, finite, run_dir
from minidl.train import progress as display
from minidl.train.callbacks import Callback
from minidl.train.interrupts import Interrupted, Interrupts
from minidl.train.metrics import LossMean, Metric, as_array, get
from minidl.train.state import Clock, Place, gather, map_leaves, restore
from minidl.train.step import CapturedStep, EagerStep

#: The ranges of the Trainer's options.
OPTIONS = {
    "grad_clip_norm": optional(above(0)),
    "grad_clip_value": optional(above(0)),
    "accumulate_steps": whole(1),
    "checkpoint_every": whole(0),
    "checkpoint_steps": optional(whole(1)),
    "keep_checkpoints": whole(1),
    "on_nan": one_of("raise", "ignore"),
}


class Trainer:
    """Trains a model::

        trainer = Trainer(model, nn.CrossEntropyLoss(), optim.Adam(model.parameters()), metrics=["accuracy"])
        history = trainer.fit(train_loader, val_loader, epochs=5)
        trainer.evaluate(test_loader)

    A batch is ``(input, …, target)``; a step computes ``loss(model(input, …), target)``. To compute something else,
    override :meth:`compute`.

    Args:
        model, loss, optimizer: the loss of a batch is a mean or a sum. What its mean was divided by, and so how much
            the batch counts, is what the loss's method ``count(output, target)`` says (:func:`minidl.nn.loss.count`):
            for minidl's losses without ignored targets and by class weight, for other functions ``len(target)``.
        metrics: :class:`~minidl.train.metrics.Metric` objects or their names, computed on training and validation
            data. Those given by name leave out the targets that the loss ignores.
        scheduler: changes the learning rate.
        scheduler_interval: when it steps: "step" (after every optimizer step), "epoch" (after every epoch), or
            "plateau" (after every epoch, with the value of ``monitor``). By default "plateau" for ReduceLROnPlateau,
            for others there is no default: give "step" or "epoch".
        monitor: name of the figure that a plateau scheduler watches.
        callbacks: :class:`~minidl.train.callbacks.Callback` objects, called in this order.
        grad_clip_norm, grad_clip_value: limit the gradient's total norm, or each of its elements.
        accumulate_steps: batches whose gradients make one optimizer step, the same as that of one large batch.
        ema: average of the weights, used for validation: a :class:`~minidl.optim.ExponentialMovingAverage`, or its
            decay (buffers are averaged too then).
        seed: seeds the default generator when ``fit`` starts (dropout and everything else that draws from it).
        carry_state: truncated back-propagation through time: the model is called as ``model(input, …, state)`` and
            returns ``(output, state)``; the state, detached, is what the next batch gets. It starts as None in every
            epoch and every evaluation.
        run_dir: folder for checkpoints; none are written without it. One process at a time may train there.
        checkpoint_every: epochs from one checkpoint to the next (0: none but on Ctrl-C).
        checkpoint_steps: optimizer steps from one checkpoint to the next, besides those at ends of epochs.
        keep_checkpoints: how many to keep.
        on_nan: "raise" :class:`NonFiniteLossError` when a loss, or a weight at the end of an epoch or before a
            checkpoint, is NaN or infinite, or "ignore". No checkpoint is written then.
        jit: capture the training step with :func:`minidl.jit` and replay it. A loss that is not finite is then noticed
            after its update. Not with ``accumulate_steps``.
        progress: show progress: a live bar on a terminal, plain lines elsewhere.

    Attributes:
        history: a dict per finished epoch: "epoch", "step", "lr", "loss", metrics, "val_loss" …, and the time it took,
            "seconds" by the clock and "cpu_seconds" of processors.
        epoch, step: epochs and optimizer steps done.
        batch_loss, rates: the last batch's loss, and the learning rates (one per parameter group) of the last step.
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
        given = vars()
        for name, allowed in OPTIONS.items():
            allowed.check(f"Trainer: {name}", given[name])
        if jit and accumulate_steps > 1:
            raise ValueError("Trainer: jit=True captures one batch per step; accumulate_steps must be 1")
        if run_dir is not None:
            serialization.library()  # an ImportError now, not after the first epoch
        self.model, self.loss, self.optimizer = model, loss, optimizer
        self.metrics = [get(m, loss) for m in metrics]
        self.scheduler, self.monitor = scheduler, monitor
        self.scheduler_interval = _interval(scheduler, scheduler_interval)
        self.callbacks = list(callbacks)
        self.grad_clip_norm, self.grad_clip_value = grad_clip_norm, grad_clip_value
        self.accumulate_steps, self.seed, self.carry_state = accumulate_steps, seed, carry_state
        self.ema = ExponentialMovingAverage(model, ema, buffers=True) if isinstance(ema, float) else ema
        self.run_dir = None if run_dir is None else Path(run_dir)
        self.checkpoint_every, self.checkpoint_steps = checkpoint_every, checkpoint_steps
        self.keep_checkpoints = keep_checkpoints
        self.on_nan, self.display = on_nan, display.choose(progress)
        self.resume_hint = "call fit(…, resume=True) in the same program"

        # What a checkpoint keeps (see minidl.train.state)
        self.history: list[dict[str, Any]] = []
        self.epoch = self.step = 0
        self.place, self.clock = Place(), Clock()
        self.started_at = (0, 0)  # epoch and step at which the last fit() began: its limits count from there
        self.should_stop = False
        self.batch_loss, self.rates = math.nan, self.current_rates()
        self.running: list[Metric] = [LossMean("loss"), *self.metrics]  # over the epoch under way
        self.carried: Any = None  # what the model carries from batch to batch

        self._step = CapturedStep(self) if jit else EagerStep(self)
        self._interrupts = Interrupts()

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
            resume: continue an interrupted ``fit`` that was called with the same arguments: True from the latest
                undamaged checkpoint in ``run_dir`` (from the start if there is none at all), a path from that
                checkpoint.

        Returns:
            The history.

        Raises:
            NonFiniteLossError: the loss is NaN or infinite.
            Interrupted: Ctrl-C was pressed, or SIGTERM came. The state has been saved if there is a run folder. A
                second one stops at once, with KeyboardInterrupt.
            CheckpointError: the checkpoint to resume from is damaged; the message names an earlier one.
            InUseError: another process, or another thread, trains in ``run_dir``.
        """
        if epochs is None and max_steps is None:
            raise ValueError("fit: give epochs or max_steps")
        optional(whole(0)).check("fit: epochs", epochs)
        optional(whole(0)).check("fit: max_steps", max_steps)
        with run_dir.owned(self.run_dir):
            if not self._resume(resume, train_loader):
                self.started_at = (self.epoch, self.step)
                self.place = Place()  # an epoch that an error ended is not taken up again
                if self.seed is not None:
                    # Folded, so that dropout does not draw the same numbers as the initial weights.
                    state = Generator(self.seed).fold_in(0x747261696E).get_state()
                    default_generator().set_state(state)
                self.should_stop = False
            last_epoch = math.inf if epochs is None else self.started_at[0] + epochs
            last_step = math.inf if max_steps is None else self.started_at[1] + max_steps
            self.model.train()
            with self._interrupts.caught(), self._showing():
                self._call("on_fit_begin")
                while (
                    not self.should_stop and self.epoch < last_epoch and (self.step < last_step or self.place.mid_epoch)
                ):
                    self._fit_epoch(train_loader, val_loader, epochs, last_step)
                self._call("on_fit_end")
        return self.history

    def _fit_epoch(self, train_loader: Iterable, val_loader: Iterable | None, epochs: Any, last_step: float) -> None:
        self.clock = Clock(self.place.seconds, self.place.cpu_seconds)
        if not self.place.mid_epoch:
            self.place, self.carried = Place(mid_epoch=True), None
            for metric in self.running:
                metric.reset()
            self._call("on_epoch_begin")
        title = f"epoch {self.epoch + 1}" + (f"/{self.started_at[0] + epochs}" if epochs is not None else "")
        self._train_epoch(train_loader, title, last_step)
        finite.check_weights(self)
        row = self._row()
        if val_loader is not None:
            if hasattr(val_loader, "set_epoch"):
                val_loader.set_epoch(self.epoch)
            row |= self._evaluate(val_loader, f"{title} validation")
            self._save_if_interrupted(train_loader)
            finite.check_validation_loss(self, row["val_loss"])
        row["seconds"], row["cpu_seconds"] = (round(seconds, 3) for seconds in self.clock.read())
        if self.scheduler_interval == "epoch":
            self.scheduler.step()
        elif self.scheduler_interval == "plateau":
            self.scheduler.step(self._monitored(row))
        self.epoch += 1
        self.place = Place()
        self.history.append(row)
        run_dir.check_there(self.run_dir)
        self._call("on_epoch_end", row)
        self.display.message(f"{title}  {display.figures(row)}  {row['seconds']:.1f} s")
        if self._due(self.epoch, self.checkpoint_every):
            self.save_checkpoint(train_loader)
        self._save_if_interrupted(train_loader)

    def _train_epoch(self, train_loader: Any, title: str, last_step: float) -> None:
        """What is left of the epoch's optimizer steps."""
        batches = len(train_loader) if isinstance(train_loader, Sized) else None
        total = None if batches is None else -(-batches // self.accumulate_steps)
        self.display.begin(title, total, self.place.batches // self.accumulate_steps)
        with contextlib.closing(self._groups(train_loader)) as groups:
            for group in groups:
                self._train_step(group)
                row = self._row()
                self.display.advance(row)
                self._call("on_step_end", row)
                if self._due(self.step, self.checkpoint_steps):
                    self.save_checkpoint(train_loader)
                self._save_if_interrupted(train_loader)
                if self.step >= last_step or self.should_stop:
                    break
        self.display.end()
        if not self.place.batches:
            raise ValueError("fit: the training data gave no batches; is it an iterator, which can be used only once?")
        if not self.place.trained and hasattr(train_loader, "set_epoch"):  # cut short: the next epoch is a new one
            train_loader.set_epoch(train_loader.epoch + 1)
        self.place.trained = True

    def _groups(self, loader: Iterable) -> abc.Generator[list, None, None]:
        """The epoch's remaining batches in groups that make one optimizer step each."""
        if self.place.trained:
            return
        batches = iter(loader)
        if not hasattr(loader, "state_dict"):  # it cannot resume by itself: skip what was done
            batches = itertools.islice(batches, self.place.batches, None)
        try:
            while group := list(itertools.islice(batches, self.accumulate_steps)):
                self.place.batches += len(group)
                self.place.trained = len(group) < self.accumulate_steps  # then the loader has ended its epoch
                yield group
            self.place.trained = True
        finally:
            if hasattr(batches, "close"):
                batches.close()  # ends the loader's workers

    def _train_step(self, group: list) -> None:
        """One optimizer step on a group of batches, mostly of one, and what goes with it."""
        self._step(group)
        self.step += 1
        if self.scheduler_interval == "step":
            self.scheduler.step()
        if self.ema is not None:
            self.ema.update()

    def compute(self, batch: Any) -> tuple[Any, Any, Any]:
        """Loss (a Tensor with one element), output and target of a batch, in training and in evaluation."""
        *inputs, target = (as_tensor(part) for part in batch)
        if self.carry_state:
            output, state = self.model(*inputs, self.carried)
            self.carried = map_leaves(Tensor.detach, state)
        else:
            output = self.model(*inputs)
        return self.loss(output, target), output, target

    def count(self, output: Any, target: Any) -> float | None:
        """What the loss of a batch was divided by, None if it is a sum: see :func:`minidl.nn.loss.count`."""
        return batch_count(self.loss, output, target)

    def note(self, loss: float, count: float | None, output: Any, target: Any) -> None:
        """Take a batch's loss and metrics into the epoch's."""
        self.batch_loss = loss
        self.running[0].update(loss, count)
        for metric in self.metrics:
            metric.update(output, target)

    def current_rates(self) -> list[float]:
        """The learning rates that the optimizer has now."""
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def _row(self) -> dict[str, Any]:
        row = {"epoch": self.epoch + 1, "step": self.step, "lr": self.rates[0]}
        return row | {m.name: _plain(m.compute()) for m in self.running}

    def _monitored(self, row: dict[str, Any]) -> float:
        if self.monitor not in row:
            raise ValueError(f"Trainer: monitor={self.monitor!r} is not among the figures: {', '.join(row)}")
        return row[self.monitor]

    def _call(self, event: str, *args: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(self, *args)

    def _due(self, done: int, every: int | None) -> bool:
        return self.run_dir is not None and every is not None and every > 0 and done % every == 0

    # Evaluation

    def evaluate(self, loader: Iterable) -> dict[str, Any]:
        """Loss and metrics over all of ``loader``, with the averaged weights if there is an ``ema``."""
        with self._showing():
            return {name.removeprefix("val_"): value for name, value in self._evaluate(loader, "evaluate").items()}

    def _evaluate(self, loader: Iterable, title: str) -> dict[str, Any]:
        figures = [LossMean("loss"), *(copy.deepcopy(m) for m in self.metrics)]
        for metric in figures:
            metric.reset()
        self.display.begin(title, len(loader) if isinstance(loader, Sized) else None)
        with self._evaluating():
            for batch in loader:
                loss, output, target = self.compute(batch)
                figures[0].update(loss.item(), self.count(output, target))
                for metric in figures[1:]:
                    metric.update(output, target)
                self.display.advance({f"val_{m.name}": _plain(m.compute()) for m in figures})
                if self._interrupts:
                    break
        self.display.end()
        return {f"val_{m.name}": _plain(m.compute()) for m in figures}

    def predict(self, data: Any, batch_size: int = 256) -> np.ndarray:
        """The model's outputs for all of ``data``, with the averaged weights if there is an ``ema``: see
        :func:`minidl.train.evaluation.predict`."""
        with contextlib.nullcontext() if self.ema is None else self.ema.average_parameters():
            return evaluation.predict(self.model, data, batch_size, self.carry_state)

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[None]:
        """In evaluation mode, on the averaged weights, with a carried state of its own."""
        carried, self.carried = self.carried, None
        averaged = contextlib.nullcontext() if self.ema is None else self.ema.average_parameters()
        try:
            with evaluation.evaluating(self.model), averaged:
                yield
        finally:
            self.carried = carried

    # Checkpoints

    def weights(self) -> dict[str, np.ndarray]:
        """A copy of the model's ``state_dict``, with the averaged weights in it if there is an ``ema``."""
        with contextlib.nullcontext() if self.ema is None else self.ema.average_parameters():
            return {name: np.array(as_array(value)) for name, value in self.model.state_dict().items()}

    def save_weights(self, path: str | Path) -> None:
        """Write :meth:`weights` as a safetensors file."""
        serialization.save(self.weights(), path)

    def save_checkpoint(self, train_loader: Any = None, folder: str | Path | None = None) -> Path:
        """Write everything needed to resume to ``folder``; by default ``run_dir/checkpoints/step-…``."""
        if folder is None:
            if self.run_dir is None:
                raise ValueError("save_checkpoint: this Trainer has no run_dir; give a folder")
            folder = run_dir.checkpoints(self.run_dir) / checkpoint.name_of(self.step)
            run_dir.check_there(self.run_dir)
        finite.check_weights(self)
        if self.place.mid_epoch:
            self.place.seconds, self.place.cpu_seconds = self.clock.read()
        path = checkpoint.save(folder, self.model.state_dict(), gather(self, train_loader))
        if self.run_dir is not None and path.parent == run_dir.checkpoints(self.run_dir):
            checkpoint.prune(path.parent, self.keep_checkpoints)
        return path

    def load_checkpoint(self, folder: str | Path, train_loader: Any = None) -> None:
        """Take over the state that :meth:`save_checkpoint` wrote.

        Raises:
            CheckpointError: it is damaged, or was made by another model, optimizer, scheduler or data set.
        """
        self._restore(folder, checkpoint.load(folder), train_loader)

    def _restore(self, folder: str | Path, content: tuple[dict, dict], train_loader: Any) -> None:
        try:
            restore(self, *content, train_loader)
        except (ValueError, KeyError, RuntimeError, TypeError, AttributeError, IndexError) as error:
            raise checkpoint.CheckpointError(f"{folder}: does not fit this Trainer: {error}") from error

    def _resume(self, resume: bool | str | Path, train_loader: Any) -> bool:
        """Load what ``fit(resume=…)`` asks for; False if there is nothing to resume from."""
        if resume is False:
            return False
        if resume is True:
            if self.run_dir is None:
                raise ValueError("fit: resume=True needs a run_dir, or pass the checkpoint's path")
            found, content, problem = checkpoint.latest(run_dir.checkpoints(self.run_dir))
            if problem:
                self.display.message(f"{problem}\nResuming from {found}")
            if found is not None:
                self._restore(found, content, train_loader)
            return found is not None
        self.load_checkpoint(resume, train_loader)
        return True

    # Ctrl-C and SIGTERM

    def _save_if_interrupted(self, train_loader: Any) -> None:
        if not self._interrupts:
            return
        if self.run_dir is None:
            raise Interrupted("interrupted; nothing is saved, as there is no run_dir", None, self._interrupts.signum)
        path = self.save_checkpoint(train_loader)
        self.display.message(f"Saved {path}\nTo resume: {self.resume_hint}")
        raise Interrupted(f"interrupted; saved {path}", path, self._interrupts.signum)

    @contextlib.contextmanager
    def _showing(self) -> Iterator[None]:
        self.display.start()
        try:
            yield
        finally:
            self.display.end()
            self.display.stop()


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
