"""Loss scaling for training in half precision."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from minidl import ops
from minidl.core.registry import namespace, to_numpy
from minidl.core.tensor import Tensor
from minidl.optim.clip import replace_gradients, with_gradients
from minidl.optim.optimizer import Optimizer


class GradScaler:
    """Multiplies the loss by a scale, and divides the gradients by it, so that small gradients survive in float16.

    If a gradient is not finite, the step is skipped and the scale lowered; after ``growth_interval`` good steps in a
    row, the scale is raised (Micikevicius et al., "Mixed precision training", ICLR 2018, sections 3.1 and 3.2).
    Arguments, methods and ``state_dict`` are those of ``torch.amp.GradScaler``. Parameters stay in float32 and are cast
    where they are used::

        scaler = GradScaler()
        for x, y in loader:
            optimizer.zero_grad()
            half = ops.linear(x.astype("float16"), weight.astype("float16"))
            loss = ops.cross_entropy(half.astype("float32"), y)
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)          # only if something reads the gradients before the step
            optim.clip_grad_norm_([weight], 1.0)
            scaler.step(optimizer)
            scaler.update()

    bfloat16 has float32's range and needs none of this. With ``enabled=False``, ``scale`` returns its argument,
    ``step`` calls ``optimizer.step()``, and the other methods do nothing. ``step`` reads the gradients, so it cannot
    be part of a function that :func:`minidl.jit` captures.
    """

    def __init__(
        self,
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ) -> None:
        self._enabled = enabled
        self._scale = float(init_scale)
        self._growth_tracker = 0
        self._found_inf: dict[int, bool] = {}
        self._stepped: set[int] = set()
        self.set_growth_factor(growth_factor)
        self.set_backoff_factor(backoff_factor)
        self.set_growth_interval(growth_interval)
        self._check_scale(self._scale)

    def scale(self, outputs: Any) -> Any:
        """``outputs`` (a Tensor, or a list or tuple of them, however nested) times the scale.

        Half precision becomes float32, because the product would often be infinite.
        """
        if not self._enabled:
            return outputs
        if isinstance(outputs, Tensor):
            if outputs.dtype.itemsize < 4:
                outputs = outputs.astype("float32")
            return outputs * self._scale
        if isinstance(outputs, (list, tuple)):
            return type(outputs)(self.scale(o) for o in outputs)
        raise TypeError(f"GradScaler.scale: expected a Tensor or a list of them, got {type(outputs).__name__}")

    def unscale_(self, optimizer: Optimizer) -> None:
        """Divide the gradients of the optimizer's parameters by the scale, and note whether they are finite.

        :meth:`step` calls this if nobody has. Raises RuntimeError if called again before the next :meth:`update`, and
        ValueError for float16 gradients, because dividing would make them vanish after all.
        """
        if not self._enabled:
            return
        if id(optimizer) in self._stepped:
            raise RuntimeError("GradScaler.unscale_: called after step; call update first")
        if id(optimizer) in self._found_inf:
            raise RuntimeError("GradScaler.unscale_: called a second time for this optimizer since the last update")
        found = with_gradients([p for group in optimizer.param_groups for p in group["params"]])
        finite: Any = True
        for p, grad in found:
            if grad.dtype.name == "float16":
                raise ValueError(
                    f"GradScaler.unscale_: a parameter of shape {p.shape} has a gradient in float16; keep parameters "
                    "in float32, and cast them to float16 where they are used"
                )
            finite = finite & namespace(grad.array).isfinite(grad.array).all()
        inverse = 1 / self._scale
        replace_gradients(found, lambda g: ops.mul(g, inverse))
        self._found_inf[id(optimizer)] = not (finite if finite is True else bool(to_numpy(finite)))

    def step(self, optimizer: Optimizer) -> Any:
        """Call ``optimizer.step()`` and return its result if all gradients are finite; otherwise do nothing.

        Raises RuntimeError if called a second time for this optimizer since the last :meth:`update`.
        """
        if not self._enabled:
            return optimizer.step()
        if id(optimizer) in self._stepped:
            raise RuntimeError("GradScaler.step: called a second time for this optimizer since the last update")
        if id(optimizer) not in self._found_inf:
            self.unscale_(optimizer)
        self._stepped.add(id(optimizer))
        return None if self._found_inf[id(optimizer)] else optimizer.step()

    def update(self, new_scale: float | None = None) -> None:
        """Lower the scale if a step was skipped, raise it after enough good steps, or set it to ``new_scale``.

        Call it once per iteration, after all steps. Raises RuntimeError if there was no step.
        """
        if not self._enabled:
            return
        if new_scale is not None:
            self._check_scale(float(new_scale))
            self._scale = float(new_scale)
        elif not self._found_inf:
            raise RuntimeError("GradScaler.update: there was no step (or unscale_) since the last update")
        elif any(self._found_inf.values()):
            self._scale *= self._backoff_factor
            self._growth_tracker = 0
        else:
            self._growth_tracker += 1
            if self._growth_tracker == self._growth_interval:
                grown = self._scale * self._growth_factor
                self._scale = grown if grown < 2.0**128 else self._scale  # infinite in float32
                self._growth_tracker = 0
        self._found_inf.clear()
        self._stepped.clear()

    def is_enabled(self) -> bool:
        """Whether the scaler does anything."""
        return self._enabled

    def get_scale(self) -> float:
        """The scale; 1 if not enabled."""
        return self._scale if self._enabled else 1.0

    def get_growth_factor(self) -> float:
        return self._growth_factor

    def set_growth_factor(self, growth_factor: float) -> None:
        """Raises ValueError unless it is above 1."""
        if not growth_factor > 1:
            raise ValueError(f"GradScaler: growth_factor must be above 1, got {growth_factor}")
        self._growth_factor = float(growth_factor)

    def get_backoff_factor(self) -> float:
        return self._backoff_factor

    def set_backoff_factor(self, backoff_factor: float) -> None:
        """Raises ValueError unless it is between 0 and 1."""
        if not 0 < backoff_factor < 1:
            raise ValueError(f"GradScaler: backoff_factor must be between 0 and 1, got {backoff_factor}")
        self._backoff_factor = float(backoff_factor)

    def get_growth_interval(self) -> int:
        return self._growth_interval

    def set_growth_interval(self, growth_interval: int) -> None:
        """Raises ValueError unless it is at least 1."""
        if growth_interval < 1:
            raise ValueError(f"GradScaler: growth_interval must be at least 1, got {growth_interval}")
        self._growth_interval = int(growth_interval)

    @staticmethod
    def _check_scale(scale: float) -> None:
        if not (scale > 0 and math.isfinite(scale)):
            raise ValueError(f"GradScaler: the scale must be positive and finite, got {scale}")

    def state_dict(self) -> dict[str, Any]:
        """Scale, factors and the count of good steps; empty if not enabled. Call it after :meth:`update`."""
        if not self._enabled:
            return {}
        return {
            "scale": self._scale,
            "growth_factor": self._growth_factor,
            "backoff_factor": self._backoff_factor,
            "growth_interval": self._growth_interval,
            "_growth_tracker": self._growth_tracker,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` (or PyTorch's) returned; does nothing if not enabled.

        Raises ValueError for an empty state (of a scaler that was not enabled) and KeyError for an incomplete one; the
        scaler is then unchanged.
        """
        if not self._enabled:
            return
        if not state_dict:
            raise ValueError("GradScaler.load_state_dict: the state is empty: it is that of a scaler that was disabled")
        loaded = GradScaler(
            state_dict["scale"], state_dict["growth_factor"], state_dict["backoff_factor"],
            state_dict["growth_interval"],
        )  # fmt: skip
        loaded._growth_tracker = int(state_dict["_growth_tracker"])
        self.__dict__.update(loaded.__dict__)
