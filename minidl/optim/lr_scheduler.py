"""Learning-rate schedules: ``scheduler.step()`` after every epoch (or batch) sets ``lr`` of every parameter group.

Names, arguments and values are PyTorch's. Most schedules are a curve of factors ``f(t)``: left alone, ``lr`` is
``initial_lr * f(t)`` after ``t`` steps. They get there by multiplying the current ``lr`` by ``f(t) / f(t - 1)``, so
that they can be chained and so that a change of ``lr`` by hand stays.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any

from minidl.optim.optimizer import Optimizer


class LRScheduler:
    """Base class. A subclass sets its options, calls ``super().__init__`` last, and defines :meth:`factor`, or
    :meth:`get_lr` if its curve is no factor.

    ``last_epoch`` is the number of steps taken; given (rather than -1), the schedule starts one step after it, from the
    groups' ``initial_lr``. Raises KeyError if a group then has none.
    """

    #: where the factors are relative to: ``eta_min + (initial_lr - eta_min) * f(t)``
    eta_min = 0.0

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        self._attach(optimizer)
        for i, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", group["lr"])
            elif "initial_lr" not in group:
                raise KeyError(f"{type(self).__name__}: last_epoch={last_epoch}, but group {i} has no 'initial_lr'")
        if last_epoch == -1:
            self.begin()
        else:
            self.last_epoch = last_epoch + 1
            self._set(self.closed_form())

    def _attach(self, optimizer: Optimizer) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(self).__name__}: expected an Optimizer, got {type(optimizer).__name__}")
        self.optimizer = optimizer

    @property
    def base_lrs(self) -> list[float]:
        """The groups' learning rates before any schedule."""
        return [group.setdefault("initial_lr", group["lr"]) for group in self.optimizer.param_groups]

    def factor(self, t: int) -> float:
        """The curve: what the initial learning rate is multiplied by after ``t`` steps."""
        raise NotImplementedError

    def closed_form(self) -> list[float]:
        """Learning rates at ``last_epoch`` had nothing else changed them."""
        return [self.eta_min + (base - self.eta_min) * self.factor(self.last_epoch) for base in self.base_lrs]

    def get_lr(self) -> list[float]:
        """Learning rates at ``last_epoch``, from those one step before."""
        now = self.factor(self.last_epoch)
        before = self.factor(self.last_epoch - 1) if self.last_epoch > 0 else 1.0
        lrs = [group["lr"] for group in self.optimizer.param_groups]
        if now == before:
            return lrs
        if before == 0:
            return [lr + (base - self.eta_min) * now for lr, base in zip(lrs, self.base_lrs)]
        return [self.eta_min + (lr - self.eta_min) * (now / before) for lr in lrs]

    def _set(self, lrs: Sequence[float]) -> None:
        for group, lr in zip(self.optimizer.param_groups, lrs, strict=True):
            group["lr"] = lr

    def begin(self) -> None:
        """Apply the curve's first value to the current learning rates."""
        self.last_epoch = 0
        self._set(self.get_lr())

    def step(self) -> None:
        """Go one step along the curve."""
        self.last_epoch += 1
        self._set(self.get_lr())

    def get_last_lr(self) -> list[float]:
        """The groups' current learning rates."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimizer (whose own state holds the learning rates) and functions."""
        return {k: v for k, v in vars(self).items() if k not in ("optimizer", "lr_lambdas", "_schedulers")}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave. Raises ValueError if it is another scheduler's."""
        differing = state_dict.keys() ^ LRScheduler.state_dict(self).keys()
        if differing:
            raise ValueError(f"{type(self).__name__}: the saved state is another scheduler's: {sorted(differing)}")
        vars(self).update(state_dict)


class LambdaLR(LRScheduler):
    """``initial_lr * lr_lambda(t)``, with one function or one per group. Functions are not saved."""

    def __init__(
        self,
        optimizer: Optimizer,
        lr_lambda: Callable[[int], float] | Sequence[Callable[[int], float]],
        last_epoch: int = -1,
    ) -> None:
        self._attach(optimizer)
        self.lr_lambdas = _per_group(lr_lambda, optimizer, "lr_lambda")
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        return [base * f(self.last_epoch) for base, f in zip(self.base_lrs, self.lr_lambdas)]

    closed_form = get_lr


class StepLR(LRScheduler):
    """Times ``gamma`` every ``step_size`` steps."""

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1) -> None:
        self.step_size, self.gamma = step_size, gamma
        super().__init__(optimizer, last_epoch)

    def factor(self, t: int) -> float:
        return self.gamma ** (t // self.step_size)


class MultiStepLR(LRScheduler):
    """Times ``gamma`` at each of ``milestones``."""

    def __init__(
        self, optimizer: Optimizer, milestones: Sequence[int], gamma: float = 0.1, last_epoch: int = -1
    ) -> None:
        self.milestones, self.gamma = sorted(milestones), gamma
        super().__init__(optimizer, last_epoch)

    def factor(self, t: int) -> float:
        return self.gamma ** bisect_right(self.milestones, t)


class ExponentialLR(LRScheduler):
    """Times ``gamma`` at every step."""

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1) -> None:
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def factor(self, t: int) -> float:
        return self.gamma**t


class ConstantLR(LRScheduler):
    """Times ``factor`` for the first ``total_iters`` steps. Raises ValueError for a factor outside (0, 1]."""

    def __init__(self, optimizer: Optimizer, factor: float = 1 / 3, total_iters: int = 5, last_epoch: int = -1) -> None:
        if not 0 < factor <= 1:
            raise ValueError(f"ConstantLR: factor must be in (0, 1], got {factor}")
        self.constant_factor, self.total_iters = factor, total_iters
        super().__init__(optimizer, last_epoch)

    def factor(self, t: int) -> float:
        return self.constant_factor if t < self.total_iters else 1.0


class LinearLR(LRScheduler):
    """From ``start_factor`` to ``end_factor`` in ``total_iters`` steps: a warm-up. Raises ValueError for a
    ``start_factor`` outside (0, 1] or an ``end_factor`` outside [0, 1]."""

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        if not 0 < start_factor <= 1 or not 0 <= end_factor <= 1:
            raise ValueError(
                f"LinearLR: expected start_factor in (0, 1] and end_factor in [0, 1], got {start_factor}, {end_factor}"
            )
        self.start_factor, self.end_factor, self.total_iters = start_factor, end_factor, total_iters
        super().__init__(optimizer, last_epoch)

    def factor(self, t: int) -> float:
        done = min(t, self.total_iters) / self.total_iters if self.total_iters else 1.0
        return self.start_factor + (self.end_factor - self.start_factor) * done


class PolynomialLR(LRScheduler):
    """``(1 - t / total_iters) ** power``, then zero."""

    def __init__(self, optimizer: Optimizer, total_iters: int = 5, power: float = 1.0, last_epoch: int = -1) -> None:
        self.total_iters, self.power = total_iters, power
        super().__init__(optimizer, last_epoch)

    def factor(self, t: int) -> float:
        return (1 - min(t, self.total_iters) / self.total_iters) ** self.power


class CosineAnnealingLR(LRScheduler):
    """Half a cosine from the initial rate to ``eta_min`` in ``T_max`` steps, and back up after that (Loshchilov and
    Hutter, "SGDR", 2017, without restarts)."""

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1) -> None:
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
        if not all(isinstance(n, int) and n >= 1 for n in (T_0, T_mult)):
            raise ValueError(f"CosineAnnealingWarmRestarts: T_0 and T_mult must be ints from 1 on, got {T_0}, {T_mult}")
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
        if epoch is not None and epoch < 0:
            raise ValueError(f"CosineAnnealingWarmRestarts: epoch must be at least 0, got {epoch}")
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        self._set(self.get_lr())


class OneCycleLR(LRScheduler):
    """Up from ``max_lr / div_factor`` to ``max_lr`` in ``pct_start`` of ``total_steps``, then down to
    ``max_lr / div_factor / final_div_factor``, stepped every batch (Smith and Topin, "Super-convergence", 2018).

    With ``three_phase`` it comes down as fast as it went up, and goes to the final rate in the rest of the steps.
    ``cycle_momentum`` moves ``momentum`` (or the first of ``betas``) the other way, between ``max_momentum`` and
    ``base_momentum``. ``anneal_strategy`` is ``"cos"`` or ``"linear"``. Raises ValueError for options out of range, for
    an optimizer without momentum, and for a step beyond ``total_steps``.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | Sequence[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | Sequence[float] = 0.85,
        max_momentum: float | Sequence[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        self._attach(optimizer)
        if total_steps is None and epochs is not None and steps_per_epoch is not None:
            total_steps = epochs * steps_per_epoch
        if total_steps is None or total_steps <= 0:
            raise ValueError("OneCycleLR: give total_steps, or epochs and steps_per_epoch, as positive ints")
        if not 0 <= pct_start <= 1:
            raise ValueError(f"OneCycleLR: pct_start must be in [0, 1], got {pct_start}")
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f"OneCycleLR: anneal_strategy must be 'cos' or 'linear', got {anneal_strategy!r}")
        self.momentum_name = next((n for n in ("betas", "momentum") if n in optimizer.defaults), None)
        if cycle_momentum and self.momentum_name is None:
            raise ValueError(f"OneCycleLR: {type(optimizer).__name__} has no momentum to cycle; cycle_momentum=False?")
        self.total_steps, self.anneal_strategy, self.cycle_momentum = total_steps, anneal_strategy, cycle_momentum
        up = pct_start * total_steps - 1
        lrs, momenta = ["initial_lr", "max_lr", "min_lr"], ["max_momentum", "base_momentum", "max_momentum"]
        #: the step at which each level is reached, and the names of the levels
        self.knots = [0, up, total_steps - 1]
        if three_phase:
            lrs.insert(2, "initial_lr")
            momenta.append("max_momentum")
            self.knots.insert(2, 2 * pct_start * total_steps - 2)
        self.levels = list(zip(lrs, momenta))
        if last_epoch == -1:
            options = (max_lr, "max_lr"), (base_momentum, "base_momentum"), (max_momentum, "max_momentum")
            for group, top, low, high in zip(
                optimizer.param_groups, *(_per_group(value, optimizer, name) for value, name in options)
            ):
                initial = top / div_factor
                group.update(initial_lr=initial, max_lr=top, min_lr=initial / final_div_factor)
                if cycle_momentum:
                    group.update(base_momentum=low, max_momentum=high)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        t = self.last_epoch
        if t > self.total_steps:
            raise ValueError(f"OneCycleLR: step {t} of a schedule of {self.total_steps} steps")
        phase = next((i for i, end in enumerate(self.knots[1:-1]) if t <= end), len(self.knots) - 2)
        start, end = self.knots[phase : phase + 2]
        done = (t - start) / (end - start)
        if self.anneal_strategy == "cos":
            done = (1 - math.cos(math.pi * done)) / 2
        (lr_from, momentum_from), (lr_to, momentum_to) = self.levels[phase : phase + 2]
        lrs = []
        for group in self.optimizer.param_groups:
            lrs.append(group[lr_from] + (group[lr_to] - group[lr_from]) * done)
            if self.cycle_momentum:
                momentum = group[momentum_from] + (group[momentum_to] - group[momentum_from]) * done
                if self.momentum_name == "betas":
                    group["betas"] = (momentum, *group["betas"][1:])
                else:
                    group["momentum"] = momentum
        return lrs

    closed_form = get_lr


class WarmupCosineLR(LRScheduler):
    """Linear warm-up, then half a cosine down to ``min_factor`` times the initial rate at ``total_steps``.

    The first step is at ``1 / (warmup_steps + 1)`` of the initial rate, not at zero, as in nanoGPT. Raises ValueError
    unless ``0 <= warmup_steps < total_steps``.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_steps: int,
        total_steps: int,
        min_factor: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        if not 0 <= warmup_steps < total_steps:
            raise ValueError(
                f"WarmupCosineLR: expected 0 <= warmup_steps < total_steps, got {warmup_steps}, {total_steps}"
            )
        self.warmup_steps, self.total_steps, self.min_factor = warmup_steps, total_steps, min_factor
        super().__init__(optimizer, last_epoch)

    def factor(self, t: int) -> float:
        if t < self.warmup_steps:
            return (t + 1) / (self.warmup_steps + 1)
        done = min(1.0, (t - self.warmup_steps) / (self.total_steps - self.warmup_steps))
        return self.min_factor + (1 - self.min_factor) * (1 + math.cos(math.pi * done)) / 2


class _Composite(LRScheduler):
    """Schedulers made of others of the same optimizer."""

    def __init__(self, optimizer: Optimizer, schedulers: Sequence[LRScheduler]) -> None:
        self._attach(optimizer)
        who = type(self).__name__
        for i, s in enumerate(schedulers):
            if not isinstance(s, LRScheduler) or isinstance(s, ReduceLROnPlateau):
                raise TypeError(f"{who}: scheduler {i} is a {type(s).__name__}, which cannot be combined")
            if s.optimizer is not optimizer:
                raise ValueError(f"{who}: scheduler {i} is for another optimizer")
        if not schedulers:
            raise ValueError(f"{who}: got no scheduler")
        self._schedulers = list(schedulers)
        self.last_epoch = 0

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "schedulers": [s.state_dict() for s in self._schedulers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        parts = state_dict["schedulers"]
        super().load_state_dict({k: v for k, v in state_dict.items() if k != "schedulers"})
        for s, part in zip(self._schedulers, parts, strict=True):
            s.load_state_dict(part)


class SequentialLR(_Composite):
    """One scheduler after the other; number ``i`` starts, from the initial rates, at step ``milestones[i - 1]``.

    Raises ValueError unless there is one milestone fewer than schedulers.
    """

    def __init__(self, optimizer: Optimizer, schedulers: Sequence[LRScheduler], milestones: Sequence[int]) -> None:
        super().__init__(optimizer, schedulers)
        if len(milestones) != len(schedulers) - 1:
            raise ValueError(
                f"SequentialLR: got {len(milestones)} milestones for {len(schedulers)} schedulers; expected one fewer"
            )
        self.milestones = list(milestones)
        self.begin()

    def _start(self, scheduler: LRScheduler) -> None:
        self._set(self.base_lrs)
        scheduler.begin()

    def begin(self) -> None:
        self.last_epoch = 0
        self._start(self._schedulers[bisect_right(self.milestones, 0)])

    def step(self) -> None:
        self.last_epoch += 1
        i = bisect_right(self.milestones, self.last_epoch)
        if i > 0 and self.milestones[i - 1] == self.last_epoch:
            self._start(self._schedulers[i])
        else:
            self._schedulers[i].step()


class ChainedScheduler(_Composite):
    """All schedulers at once: each multiplies the learning rate that the one before left."""

    def __init__(self, schedulers: Sequence[LRScheduler], optimizer: Optimizer | None = None) -> None:
        super().__init__(optimizer or schedulers[0].optimizer, schedulers)

    def begin(self) -> None:
        self.last_epoch = 0
        for s in self._schedulers:
            s.begin()

    def step(self) -> None:
        self.last_epoch += 1
        for s in self._schedulers:
            s.step()


class ReduceLROnPlateau(LRScheduler):
    """Times ``factor`` when ``metrics`` given to ``step(metrics)`` has not got better for more than ``patience`` steps.

    Better means, for ``mode="min"``, below ``best * (1 - threshold)`` (``threshold_mode="rel"``) or below ``best -
    threshold`` (``"abs"``); NaN is never better. After a reduction, ``cooldown`` steps do not count. Changes below
    ``eps`` and rates below ``min_lr`` are not made. Raises ValueError for options out of range.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float | Sequence[float] = 0.0,
        eps: float = 1e-8,
    ) -> None:
        self._attach(optimizer)
        if not 0 <= factor < 1:
            raise ValueError(f"ReduceLROnPlateau: factor must be in [0, 1), got {factor}")
        if mode not in ("min", "max") or threshold_mode not in ("rel", "abs"):
            raise ValueError(
                f"ReduceLROnPlateau: mode is 'min' or 'max', threshold_mode 'rel' or 'abs'; got {mode!r}, "
                f"{threshold_mode!r}"
            )
        self.mode, self.threshold, self.threshold_mode = mode, threshold, threshold_mode
        self.reduction, self.patience, self.cooldown, self.eps = factor, patience, cooldown, eps
        self.min_lr = min_lr
        _per_group(min_lr, optimizer, "min_lr")
        self.last_epoch = 0
        self.best = math.inf if mode == "min" else -math.inf
        self.num_bad_epochs = 0
        self.cooldown_counter = 0

    def is_better(self, value: float) -> bool:
        """Whether ``value`` improves on the best so far by more than the threshold."""
        sign = 1 if self.mode == "max" else -1
        if self.threshold_mode == "rel":
            bound = self.best * (1 + sign * self.threshold)
        else:
            bound = self.best + sign * self.threshold
        return value > bound if self.mode == "max" else value < bound

    def step(self, metrics: Any) -> None:  # type: ignore[override]
        value = float(metrics)
        self.last_epoch += 1
        if self.is_better(value):
            self.best, self.num_bad_epochs = value, 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            for group, low in zip(self.optimizer.param_groups, _per_group(self.min_lr, self.optimizer, "min_lr")):
                lr = max(group["lr"] * self.reduction, low)
                if group["lr"] - lr > self.eps:
                    group["lr"] = lr
            self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0


def _per_group(value: Any, optimizer: Optimizer, name: str) -> list:
    """One value per parameter group from one for all or a list."""
    groups = len(optimizer.param_groups)
    if not isinstance(value, (list, tuple)):
        return [value] * groups
    if len(value) != groups:
        raise ValueError(f"{name}: got {len(value)} values for {groups} parameter groups")
    return list(value)
