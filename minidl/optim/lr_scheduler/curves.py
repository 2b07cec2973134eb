"""Schedules that follow one curve. Each raises ValueError for an option out of range."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence

from minidl.core.trace import refuse
from minidl.optim.lr_scheduler.base import LRScheduler, per_group
from minidl.optim.optimizer import Optimizer
from minidl.ranges import Range, at_least, finite, fraction, whole

above_zero = Range(lambda value: 0 < value <= 1, "in (0, 1]")


class LambdaLR(LRScheduler):
    """``initial_lr * lr_lambda(t)``, with one function or one per group. Functions are not saved."""

    def __init__(
        self,
        optimizer: Optimizer,
        lr_lambda: Callable[[int], float] | Sequence[Callable[[int], float]],
        last_epoch: int = -1,
    ) -> None:
        self._attach(optimizer)
        self.lr_lambdas = per_group(lr_lambda, optimizer, "lr_lambda")
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        return [base * f(self.last_epoch) for base, f in zip(self.base_lrs, self.lr_lambdas)]

    closed_form = get_lr


class StepLR(LRScheduler):
    """Times ``gamma`` every ``step_size`` steps."""

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1) -> None:
        whole(1).check("StepLR: step_size", step_size)
        finite.check("StepLR: gamma", gamma)
        self.step_size, self.gamma = step_size, gamma
        super().__init__(optimizer, last_epoch)

    def factor(self, t: int) -> float:
        return self.gamma ** (t // self.step_size)


class MultiStepLR(LRScheduler):
    """Times ``gamma`` at each of ``milestones``."""

    def __init__(
        self, optimizer: Optimizer, milestones: Sequence[int], gamma: float = 0.1, last_epoch: int = -1
    ) -> None:
        for milestone in milestones:
            whole(0).check("MultiStepLR: a milestone", milestone)
        finite.check("MultiStepLR: gamma", gamma)
        self.milestones, self.gamma = sorted(milestones), gamma
        super().__init__(optimizer, last_epoch)

    def factor(self, t: int) -> float:
        return self.gamma ** bisect_right(self.milestones, t)


class ExponentialLR(LRScheduler):
    """Times ``gamma`` at every step."""

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1) -> None:
        finite.check("ExponentialLR: gamma", gamma)
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def factor(self, t: int) -> float:
        return self.gamma**t


class ConstantLR(LRScheduler):
    """Times ``factor`` for the first ``total_iters`` steps."""

    def __init__(self, optimizer: Optimizer, factor: float = 1 / 3, total_iters: int = 5, last_epoch: int = -1) -> None:
        above_zero.check("ConstantLR: factor", factor)
        whole(0).check("ConstantLR: total_iters", total_iters)
        self.constant_factor, self.total_iters = factor, total_iters
        super().__init__(optimizer, last_epoch)

    def factor(self, t: int) -> float:
        return self.constant_factor if t < self.total_iters else 1.0


class LinearLR(LRScheduler):
    """From ``start_factor`` to ``end_factor`` in ``total_iters`` steps: a warm-up."""

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        above_zero.check("LinearLR: start_factor", start_factor)
        fraction.check("LinearLR: end_factor", end_factor)
        whole(0).check("LinearLR: total_iters", total_iters)
        self.start_factor, self.end_factor, self.total_iters = start_factor, end_factor, total_iters
        super().__init__(optimizer, last_epoch)

    def factor(self, t: int) -> float:
        done = min(t, self.total_iters) / self.total_iters if self.total_iters else 1.0
        return self.start_factor + (self.end_factor - self.start_factor) * done


class PolynomialLR(LRScheduler):
    """``(1 - t / total_iters) ** power``, then zero."""

    def __init__(self, optimizer: Optimizer, total_iters: int = 5, power: float = 1.0, last_epoch: int = -1) -> None:
        whole(1).check("PolynomialLR: total_iters", total_iters)
        at_least(0).check("PolynomialLR: power", power)
        self.total_iters, self.power = total_iters, power
        super().__init__(optimizer, last_epoch)

    def factor(self, t: int) -> float:
        return (1 - min(t, self.total_iters) / self.total_iters) ** self.power


class CosineAnnealingLR(LRScheduler):
    """Half a cosine from the initial rate to ``eta_min`` in ``T_max`` steps, and back up after that (Loshchilov and
    Hutter, "SGDR", 2017, without restarts)."""

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1) -> None:
        whole(1).check("CosineAnnealingLR: T_max", T_max)
        at_least(0).check("CosineAnnealingLR: eta_min", eta_min)
        self.T_max, self.eta_min = T_max, eta_min
        super().__init__(optimizer, last_epoch)

    def factor(self, t: int) -> float:
        return (1 + math.cos(math.pi * t / self.T_max)) / 2


class CosineAnnealingWarmRestarts(LRScheduler):
    """Half cosines down to ``eta_min``, the first ``T_0`` steps long, each next ``T_mult`` times longer (SGDR, 2017).

    ``step(epoch)`` sets the position, which may be a fraction: ``step(epoch + batch / batches)``.
    """

    def __init__(
        self, optimizer: Optimizer, T_0: int, T_mult: int = 1, eta_min: float = 0.0, last_epoch: int = -1
    ) -> None:
        whole(1).check("CosineAnnealingWarmRestarts: T_0", T_0)
        whole(1).check("CosineAnnealingWarmRestarts: T_mult", T_mult)
        at_least(0).check("CosineAnnealingWarmRestarts: eta_min", eta_min)
        self.T_0, self.T_mult, self.eta_min = T_0, T_mult, eta_min
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        t, length = self.last_epoch, self.T_0
        if self.T_mult == 1:
            t %= length
        while t >= length:
            t -= length
            length *= self.T_mult
        wave = (1 + math.cos(math.pi * t / length)) / 2
        return [self.eta_min + (base - self.eta_min) * wave for base in self.base_lrs]

    closed_form = get_lr

    def step(self, epoch: float | None = None) -> None:
        refuse("a scheduler's step()", "call it after the step")
        if epoch is not None and epoch < 0:
            raise ValueError(f"CosineAnnealingWarmRestarts: epoch must be at least 0, got {epoch}")
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch  # type: ignore[assignment]  # a fraction
        self._set(self.get_lr())


class WarmupCosineLR(LRScheduler):
    """Linear warm-up, then half a cosine down to ``min_factor`` times the initial rate at ``total_steps``.

    The first step is at ``1 / (warmup_steps + 1)`` of the initial rate, not at zero, as in nanoGPT.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_steps: int,
        total_steps: int,
        min_factor: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        whole(1).check("WarmupCosineLR: total_steps", total_steps)
        whole(0, total_steps - 1).check("WarmupCosineLR: warmup_steps", warmup_steps)
        fraction.check("WarmupCosineLR: min_factor", min_factor)
        self.warmup_steps, self.total_steps, self.min_factor = warmup_steps, total_steps, min_factor
        super().__init__(optimizer, last_epoch)

    def factor(self, t: int) -> float:
        if t < self.warmup_steps:
            return (t + 1) / (self.warmup_steps + 1)
        done = min(1.0, (t - self.warmup_steps) / (self.total_steps - self.warmup_steps))
        return self.min_factor + (1 - self.min_factor) * (1 + math.cos(math.pi * done)) / 2
