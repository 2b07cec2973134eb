"""One optimizer step: loss and gradients of a group of batches, clipping, update."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minidl.core.tensor import as_tensor
from minidl.core.trace import guard
from minidl.jit import jit as captured
from minidl.optim import clip_grad_norm_, clip_grad_value_
from minidl.train.finite import check_batch_loss

if TYPE_CHECKING:
    from minidl.train.trainer import Trainer


class EagerStep:
    """Runs the step operation by operation. The trainer's options are read at each step: a callback may change
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

        Raises NonFiniteLossError as :func:`~minidl.train.finite.check_batch_loss` does, unless the batch counts for
        nothing: a mean over nothing is NaN.
        """
        trainer, value = self.trainer, loss.item()
        count = trainer.count(output, target)
        if count != 0:
            check_batch_loss(trainer, value)
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
        self.captured = captured(self.whole, also=(trainer.loss, trainer.model))

    def __call__(self, group: list) -> None:
        """Train on a group of one batch."""
        trainer, (batch,) = self.trainer, group
        trainer.rates = trainer.current_rates()
        loss, output, trainer.carried = self.captured(tuple(as_tensor(part) for part in batch), trainer.carried)
        self.take_in(loss, output, as_tensor(batch[-1]))

    def whole(self, batch: Any, carried: Any) -> tuple[Any, Any, Any]:
        """What is captured: everything from the batch to the update, with the carried state passed in and out."""
        trainer = self.trainer
        guard(lambda: (trainer.grad_clip_norm, trainer.grad_clip_value))
        trainer.carried = carried
        trainer.optimizer.zero_grad()
        loss, output, _ = trainer.compute(batch)
        loss.backward()
        self.clip_gradients()
        trainer.optimizer.step()
        return loss, output, trainer.carried
