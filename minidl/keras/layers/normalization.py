"""Normalization, by statistics of the batch, of each example, or given ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import ops
from minidl.autograd import no_grad
from minidl.core.tensor import as_tensor
from minidl.keras.engine import Layer
from minidl.keras.layers.core import without_penalties


class _Scaled(Layer):
    """gamma times what is normalized, plus beta."""

    supports_masking = True

    def __init__(
        self, axis: Any = -1, epsilon: float = 1e-3, center: bool = True, scale: bool = True,
        beta_initializer: Any = "zeros", gamma_initializer: Any = "ones", **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(**without_penalties(self, options))
        self.axis = axis if isinstance(axis, int) else tuple(axis)
        self.epsilon, self.center, self.scale = epsilon, center, scale
        self.beta_initializer, self.gamma_initializer = beta_initializer, gamma_initializer

    def add_scale(self, shape: tuple[int, ...]) -> None:
        if self.scale:
            self.add_weight(shape, self.gamma_initializer, "gamma")
        if self.center:
            self.add_weight(shape, self.beta_initializer, "beta")

    def scaled(self, x: Any, mean: Any, var: Any, shape: tuple[int, ...]) -> Any:
        """(x - mean) / sqrt(var + epsilon), times gamma plus beta, these in ``shape``."""
        factor = ops.rsqrt(var + self.epsilon)
        if self.scale:
            factor = factor * ops.reshape(self.gamma, shape=shape)
        y = (x - mean) * factor
        return y + ops.reshape(self.beta, shape=shape) if self.center else y


class BatchNormalization(_Scaled):
    """Batch normalization (Ioffe and Szegedy 2015) along ``axis``: in training by the batch's statistics, of which
    averages are kept, in evaluation by these."""

    def __init__(
        self, axis: int = -1, momentum: float = 0.99, epsilon: float = 1e-3, center: bool = True, scale: bool = True,
        moving_mean_initializer: Any = "zeros", moving_variance_initializer: Any = "ones", synchronized: bool = False,
        renorm: bool = False, virtual_batch_size: Any = None, fused: Any = None, **options: Any,
    ) -> None:  # fmt: skip
        axis = axis if isinstance(axis, int) else axis[0]
        options = {k: v for k, v in options.items() if not k.startswith("renorm_")}
        if renorm or virtual_batch_size:
            raise NotImplementedError("BatchNormalization: renorm and virtual_batch_size")
        super().__init__(axis, epsilon, center, scale, **options)
        self.momentum = momentum
        self.moving = (moving_mean_initializer, moving_variance_initializer)

    def build(self, input_shape: Any) -> None:
        shape = (input_shape[self.axis],)
        self.add_scale(shape)
        self.add_weight(shape, self.moving[0], "moving_mean", trainable=False)
        self.add_weight(shape, self.moving[1], "moving_variance", trainable=False)

    def call(self, x: Any, training: bool | None = None) -> Any:
        axis = self.axis % x.ndim
        shape = tuple(n if i == axis else 1 for i, n in enumerate(x.shape))
        if not (training and self.trainable):
            mean, var = (ops.reshape(v, shape=shape) for v in (self.moving_mean, self.moving_variance))
            return self.scaled(x, mean, var, shape)
        others = tuple(i for i in range(x.ndim) if i != axis)
        mean, var = ops.mean(x, axis=others, keepdims=True), ops.var(x, axis=others, keepdims=True, correction=0)
        with no_grad():
            for kept, new in ((self.moving_mean, mean), (self.moving_variance, var)):
                kept.mul_(self.momentum).add_((1 - self.momentum) * ops.reshape(new, shape=(-1,)))
        return self.scaled(x, mean, var, shape)


class LayerNormalization(_Scaled):
    """Layer normalization (Ba, Kiros and Hinton 2016) over ``axis``, one or several."""

    def __init__(self, axis: Any = -1, epsilon: float = 1e-3, rms_scaling: bool = False, **options: Any) -> None:
        if rms_scaling:
            raise NotImplementedError("LayerNormalization: rms_scaling; minidl.nn.RMSNorm has it")
        super().__init__(axis, epsilon, **options)

    def over(self, ndim: int) -> tuple[int, ...]:
        return tuple(sorted(a % ndim for a in ((self.axis,) if isinstance(self.axis, int) else self.axis)))

    def build(self, input_shape: Any) -> None:
        self.add_scale(tuple(input_shape[a] for a in self.over(len(input_shape))))

    def call(self, x: Any) -> Any:
        axes = self.over(x.ndim)
        shape = tuple(n if i in axes else 1 for i, n in enumerate(x.shape))
        var = ops.var(x, axis=axes, keepdims=True, correction=0)
        return self.scaled(x, ops.mean(x, axis=axes, keepdims=True), var, shape)


class GroupNormalization(_Scaled):
    """Group normalization (Wu and He 2018): over ``groups`` of channels (-1: one group per channel)."""

    def __init__(self, groups: int = 32, axis: int = -1, epsilon: float = 1e-3, **options: Any) -> None:
        super().__init__(axis, epsilon, **options)
        self.groups = groups

    def build(self, input_shape: Any) -> None:
        channels = input_shape[self.axis]
        self.groups = channels if self.groups == -1 else self.groups
        if channels % self.groups:
            raise ValueError(f"GroupNormalization: {channels} channels do not fall into {self.groups} groups")
        self.add_scale((channels,))

    def call(self, x: Any) -> Any:
        axis = self.axis % x.ndim
        y = ops.moveaxis(x, axis, 1)
        grouped = ops.reshape(y, shape=(y.shape[0], self.groups, -1))
        mean = ops.mean(grouped, axis=2, keepdims=True)
        var = ops.var(grouped, axis=2, keepdims=True, correction=0)
        y = ops.reshape((grouped - mean) * ops.rsqrt(var + self.epsilon), shape=tuple(y.shape))
        shape = (-1, *[1] * (x.ndim - 2))
        if self.scale:
            y = y * ops.reshape(self.gamma, shape=shape)
        if self.center:
            y = y + ops.reshape(self.beta, shape=shape)
        return ops.moveaxis(y, 1, axis)


class UnitNormalization(Layer):
    """Divided by the 2-norm along ``axis``."""

    supports_masking = True

    def __init__(self, axis: Any = -1, **options: Any) -> None:
        super().__init__(**options)
        self.axis = axis if isinstance(axis, int) else tuple(axis)

    def call(self, x: Any) -> Any:
        return x * ops.rsqrt(ops.maximum(ops.sum(x * x, axis=self.axis, keepdims=True), 1e-12))


class Rescaling(Layer):
    """x * scale + offset."""

    supports_masking = True

    def __init__(self, scale: Any, offset: Any = 0.0, **options: Any) -> None:
        super().__init__(**options)
        self.scale, self.offset = scale, offset

    def call(self, x: Any) -> Any:
        x = ops.astype(x, dtype="float32")
        return x * np.asarray(self.scale, np.float32) + np.asarray(self.offset, np.float32)


class Normalization(Layer):
    """(x - mean) / sqrt(variance) along ``axis``, with given statistics or those of the data in :meth:`adapt`."""

    def __init__(
        self, axis: Any = -1, mean: Any = None, variance: Any = None, invert: bool = False, **options: Any
    ) -> None:
        super().__init__(**options)
        self.axis = axis if isinstance(axis, (int, type(None))) else tuple(axis)
        self.given, self.invert = (mean, variance), invert

    def build(self, input_shape: Any) -> None:
        if self.given[0] is not None:
            return
        axes = () if self.axis is None else (self.axis,) if isinstance(self.axis, int) else self.axis
        kept = sorted(a % len(input_shape) for a in axes)
        shape = tuple(input_shape[a] for a in kept)
        self.kept = kept
        self.add_weight(shape, "zeros", "mean", trainable=False)
        self.add_weight(shape, "ones", "variance", trainable=False)
        self.add_weight((), "zeros", "count", trainable=False, dtype="int32")

    def adapt(self, data: Any) -> None:
        """Take the statistics of an array of examples."""
        data = np.asarray(data, np.float32)
        self.ensure_built(data.shape)
        others = tuple(i for i in range(data.ndim) if i not in self.kept)
        self.mean.assign_(as_tensor(data.mean(axis=others)))
        self.variance.assign_(as_tensor(data.var(axis=others)))

    def call(self, x: Any) -> Any:
        if self.given[0] is not None:
            mean, var = (np.asarray(v, np.float32) for v in self.given)
        else:
            shape = tuple(n if i in self.kept else 1 for i, n in enumerate(x.shape))
            mean, var = (ops.reshape(v, shape=shape) for v in (self.mean, self.variance))
        std = ops.maximum(ops.sqrt(as_tensor(var)), 1e-7)
        return x * std + mean if self.invert else (x - mean) / std
