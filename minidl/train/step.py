"""One optimizer step: loss and gradients of a group of batches, clipping, update."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from minidl.core.tensor import as_tensor
from minidl.errors import UserError
from minidl.jit import jit as captured
from minidl.optim import clip_grad_norm_, clip_grad_value_

if TYPE_CHECKING:
    from minidl.train.trainer import Trainer


class NonFiniteLossError(UserError, ArithmeticError):
    """The loss became NaN or infinite. The weights are those from before the step."""


class EagerStep:
    """Runs the step operation by operation. The trainer's options are read anew at each step: a callback may change
    them."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def __call__(self, group: list) -> None:
        """Train on a group of batches, mostly of one, as if they were one large batch."""
        trainer = self.trainer
        trainer.optimizer.zero_grad()
        counted = 0.0
        for batch in group:
            loss, output, target = trainer.compute(batch)
            count = self.take_in(loss, output, target)
            counted += count or 0
            (loss if len(group) == 1 or count is None else loss * count).backward()
        if len(group) > 1 and counted:
            for parameter in self.parameters():
                if parameter.grad is not None:
                    parameter.grad = parameter.grad * (1 / counted)
        self.clip_gradients()
        trainer.rates = trainer.current_rates()
        trainer.optimizer.step()

    def take_in(self, loss: Any, output: Any, target: Any) -> float | None:
        """A batch's loss and metrics into the epoch's; returns what the batch counts for.

        Raises NonFiniteLossError if that is wanted and the loss is NaN or infinite, though the batch counts for more
        than nothing.
        """
        trainer, value = self.trainer, loss.item()
        count = trainer.count(output, target)
        if trainer.on_nan == "raise" and not math.isfinite(value) and count != 0:
            raise NonFiniteLossError(
                f"the loss is {value} at step {trainer.step + 1} (epoch {trainer.epoch + 1}, "
                f"batch {trainer.place.batches}; lr {trainer.current_rates()[0]:.4g}). Try a lower learning rate or "
                "grad_clip_norm; minidl.autograd.detect_anomaly() names the operation that makes the first NaN."
            )
        trainer.note(value, count, output, target)
        return count

    def clip_gradients(self) -> None:
        """Limit each element of the gradient, and then its total norm, as far as the trainer asks for it."""
        if self.trainer.grad_clip_value is not None:
            clip_grad_value_(self.parameters(), self.trainer.grad_clip_value)
        if self.trainer.grad_clip_norm is not None:
            clip_grad_norm_(self.parameters(), self.trainer.grad_clip_norm)

    def parameters(self) -> list:
        """What the optimizer updates."""
        return [p for group in self.trainer.optimizer.param_groups for p in group["params"]]


class CapturedStep(EagerStep):
    """Captures the step with :func:`minidl.jit` once and then replays it."""

    def __init__(self, trainer: Trainer) -> None:
        super().__init__(trainer)
        self.captured = captured(self.whole)

    def __call__(self, group: list) -> None:
        """Train on a group of one batch."""
        trainer, (batch,) = self.trainer, group
        trainer.rates = trainer.current_rates()
        loss, output, trainer.carried = self.captured(tuple(as_tensor(part) for part in batch), trainer.carried)
        self.take_in(loss, output, as_tensor(batch[-1]))

    def whole(self, batch: Any, carried: Any) -> tuple[Any, Any, Any]:
        """What is captured: everything from the batch to the update, with the carried state passed in and out."""
        trainer = self.trainer
        trainer.carried = carried
        trainer.optimizer.zero_grad()
        loss, output, _ = trainer.compute(batch)
        loss.backward()
        self.clip_gradients()
        trainer.optimizer.step()
        return loss, output, trainer.carried
