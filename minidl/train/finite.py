"""NaN and infinity end a training before they are saved."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from minidl.errors import UserError
from minidl.train.metrics import as_array

if TYPE_CHECKING:
    from minidl.train.trainer import Trainer

_ADVICE = "Try a lower learning rate or grad_clip_norm"


class NonFiniteLossError(UserError, ArithmeticError):
    """A loss, or a weight, became NaN or infinite. No checkpoint has been written since; the earlier ones are kept."""


def check_batch_loss(trainer: Trainer, loss: float) -> None:
    """Raise NonFiniteLossError if ``loss`` is not finite, before (or with ``jit`` after) the step that it is for."""
    if trainer.on_nan == "raise" and not math.isfinite(loss):
        raise NonFiniteLossError(
            f"the loss is {loss} at step {trainer.step + 1} (epoch {trainer.epoch + 1}, batch {trainer.place.batches}; "
            f"lr {trainer.current_rates()[0]:.4g}). {_ADVICE}; minidl.autograd.detect_anomaly() names the operation "
            "that makes the first NaN."
        )


def check_validation_loss(trainer: Trainer, loss: float) -> None:
    """Raise NonFiniteLossError if the validation loss is not finite."""
    if trainer.on_nan == "raise" and not math.isfinite(loss):
        raise NonFiniteLossError(
            f"the validation loss is {loss} after step {trainer.step} (epoch {trainer.epoch + 1}). {_ADVICE}. Or does "
            "the validation data hold NaN, or no target at all?"
        )


def check_weights(trainer: Trainer) -> None:
    """Raise NonFiniteLossError if a parameter that learns holds a NaN or an infinity."""
    if trainer.on_nan != "raise":
        return
    for name, parameter in trainer.model.named_parameters():
        if parameter.requires_grad and not np.isfinite(as_array(parameter)).all():
            raise NonFiniteLossError(
                f"{name} is not finite after step {trainer.step} (epoch {trainer.epoch + 1}). {_ADVICE}."
            )
