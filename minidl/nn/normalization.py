"""Batch, instance, group, layer and root-mean-square normalization, with PyTorch's arguments and state."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl import ops
from minidl.core.context import no_grad
from minidl.core.dtypes import default_dtype
from minidl.core.tensor import Tensor
from minidl.nn.module import Module, Parameter


class _RunningNorm(Module):
    """What batch and instance normalization share: weight, bias and running statistics, each (num_features,)."""

    axes: tuple[int, ...]
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self,
        num_features: int,
        eps: float,
        momentum: float | None,
        affine: bool,
        track_running_stats: bool,
        dtype: Any,
        bias: bool,
    ) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        dtype = dtype or default_dtype()
        self.weight = Parameter(np.ones(num_features, dtype)) if affine else None
        self.bias = Parameter(np.zeros(num_features, dtype)) if affine and bias else None
        tracked = track_running_stats
        self.register_buffer("running_mean", np.zeros(num_features, dtype) if tracked else None)
        self.register_buffer("running_var", np.ones(num_features, dtype) if tracked else None)
        self.register_buffer("num_batches_tracked", np.zeros((), np.int64) if tracked else None)

    def reset_running_stats(self) -> None:
        """Forget the running statistics: mean 0, variance 1."""
        if self.track_running_stats:
            self.running_mean.zero_()
            self.running_var.fill_(1)
            self.num_batches_tracked.zero_()

    def reset_parameters(self) -> None:
        """Forget the running statistics; weight 1, bias 0."""
        self.reset_running_stats()
        _reset(self)

    def _check(self, x: Any) -> None:
        if x.ndim not in self.axes or x.shape[1] != self.num_features:
            axes = " or ".join(map(str, self.axes))
            raise ValueError(
                f"{type(self).__name__}: expected an input with {axes} axes and {self.num_features} channels on "
                f"axis 1, got {ops.describe(x)}"
            )

    def _normalize(self, x: Any) -> Any:
        """Normalize by the statistics of ``x`` itself, and track them in training."""
        raise NotImplementedError

    def _share(self) -> float:
        """What a batch counts for in the running statistics, between 0 and 1."""
        raise NotImplementedError

    def forward(self, x: Any) -> Any:
        self._check(x)
        if not self.training and self.track_running_stats:
            return ops.batch_norm_inference(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return self._normalize(x)

    @no_grad()
    def _track(self, mean: Tensor, var: Tensor, count: int) -> None:
        """Move the running statistics towards those of a batch with ``count`` values per channel, by the share that
        :meth:`_share` gives. The running variance is the unbiased one."""
        share = self._share()
        self.running_mean.assign_(self.running_mean * (1 - share) + mean * share)
        self.running_var.assign_(self.running_var * (1 - share) + var * (share * count / (count - 1)))

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"track_running_stats={self.track_running_stats}"
        )


class _BatchNorm(_RunningNorm):
    """Batch normalization (Ioffe and Szegedy, 2015) of (N, num_features, *size).

    In training, the statistics are those of the batch, and ``running_mean`` and ``running_var`` move towards them by
    the fraction ``momentum`` (None: they become the averages over all batches so far). In evaluation, the running
    statistics are used if there are any. ``affine`` adds a learned weight and, unless ``bias`` is false, bias per
    channel. A batch without samples leaves the running statistics as they are.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, dtype, bias)

    def _normalize(self, x: Any) -> Any:
        if 0 in x.shape:  # there is nothing to take statistics of
            if self.training and self.track_running_stats:
                self._share()
            return ops.batch_norm_inference(
                x, np.zeros(self.num_features, x.dtype), np.ones(self.num_features, x.dtype), self.weight, self.bias
            )
        out, mean, var = ops.batch_norm(x, self.weight, self.bias, eps=self.eps)
        if self.training and self.track_running_stats:
            self._track(mean, var, x.shape[0] * math.prod(x.shape[2:]))
        return out

    def _share(self) -> float:
        """Counts the batch; returns what it counts for in the running statistics."""
        self.num_batches_tracked.assign_(self.num_batches_tracked + 1)
        return 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum


class BatchNorm(_BatchNorm):
    """:class:`BatchNorm1d`, :class:`BatchNorm2d` or :class:`BatchNorm3d`, as the input's number of axes demands."""

    axes = (2, 3, 4, 5)


class BatchNorm1d(_BatchNorm):
    __doc__ = _BatchNorm.__doc__
    axes = (2, 3)


class BatchNorm2d(_BatchNorm):
    __doc__ = _BatchNorm.__doc__
    axes = (4,)


class BatchNorm3d(_BatchNorm):
    __doc__ = _BatchNorm.__doc__
    axes = (5,)


class _InstanceNorm(_RunningNorm):
    """Instance normalization (Ulyanov et al., 2016) of (N, num_features, *size): each channel of each sample by itself.

    One sample (num_features, *size) will do, too. With ``track_running_stats``, evaluation uses running statistics,
    which move by ``momentum`` as in batch normalization; None leaves them as they are. As in PyTorch, batches are not
    counted: ``num_batches_tracked`` stays 0.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, dtype, bias)

    def forward(self, x: Any) -> Any:
        if x.ndim + 1 in self.axes:
            return ops.squeeze(super().forward(ops.unsqueeze(x, axis=0)), axis=0)
        return super().forward(x)

    def _share(self) -> float:
        return self.momentum or 0.0

    def _normalize(self, x: Any) -> Any:
        if self.training and self.track_running_stats and x.shape[0]:
            pixels = tuple(range(2, x.ndim))
            if math.prod(x.shape[2:]) < 2:
                raise ValueError(
                    f"{type(self).__name__}: statistics need at least 2 pixels per channel, got {ops.describe(x)}"
                )
            with no_grad():
                mean, var = ops.mean(x, axis=pixels), ops.var(x, axis=pixels, correction=0)
                self._track(ops.mean(mean, axis=0), ops.mean(var, axis=0), math.prod(x.shape[2:]))
        return ops.instance_norm(x, self.weight, self.bias, self.eps)


class InstanceNorm1d(_InstanceNorm):
    __doc__ = _InstanceNorm.__doc__
    axes = (3,)


class InstanceNorm2d(_InstanceNorm):
    __doc__ = _InstanceNorm.__doc__
    axes = (4,)


class InstanceNorm3d(_InstanceNorm):
    __doc__ = _InstanceNorm.__doc__
    axes = (5,)


class GroupNorm(Module):
    """Group normalization (Wu and He, 2018) of (N, num_channels, *size), in ``num_groups`` groups of channels.

    ``affine`` adds a learned weight and, unless ``bias`` is false, bias per channel. Raises ValueError if
    the channels do not split evenly.
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if num_groups < 1 or num_channels % num_groups:
            raise ValueError(f"GroupNorm: {num_channels} channels do not split into {num_groups} groups")
        self.num_groups = num_groups
        self.num_channels = num_channels
        self.eps = eps
        self.affine = affine
        dtype = dtype or default_dtype()
        self.weight = Parameter(np.ones(num_channels, dtype)) if affine else None
        self.bias = Parameter(np.zeros(num_channels, dtype)) if affine and bias else None

    def reset_parameters(self) -> None:
        """Weight 1, bias 0."""
        _reset(self)

    def forward(self, x: Any) -> Any:
        if x.ndim < 2 or x.shape[1] != self.num_channels:
            raise ValueError(f"GroupNorm: expected {self.num_channels} channels on axis 1, got {ops.describe(x)}")
        return ops.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}"


class LayerNorm(Module):
    """Layer normalization (Ba et al., 2016) over the last axes, of shape ``normalized_shape`` (an int or a tuple).

    ``elementwise_affine`` adds a learned ``weight`` and, unless ``bias`` is false, ``bias`` of that shape.
    """

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.normalized_shape = _shape(normalized_shape)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        dtype = dtype or default_dtype()
        self.weight = Parameter(np.ones(self.normalized_shape, dtype)) if elementwise_affine else None
        self.bias = Parameter(np.zeros(self.normalized_shape, dtype)) if elementwise_affine and bias else None

    def reset_parameters(self) -> None:
        """Weight 1, bias 0."""
        _reset(self)

    def forward(self, x: Any) -> Any:
        return ops.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class RMSNorm(Module):
    """Root-mean-square normalization (Zhang and Sennrich, 2019) over the last axes, of shape ``normalized_shape``.

    ``eps=None`` is the dtype's machine epsilon; ``elementwise_affine`` adds a learned weight.
    """

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        eps: float | None = None,
        elementwise_affine: bool = True,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.normalized_shape = _shape(normalized_shape)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        self.weight = (
            Parameter(np.ones(self.normalized_shape, dtype or default_dtype())) if elementwise_affine else None
        )

    def reset_parameters(self) -> None:
        """Weight 1."""
        if self.weight is not None:
            self.weight.assign_(1)

    def forward(self, x: Any) -> Any:
        return ops.rms_norm(x, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


def _reset(layer: Any) -> None:
    """Weight 1 and bias 0, where there are such."""
    if layer.weight is not None:
        layer.weight.assign_(1)
    if layer.bias is not None:
        layer.bias.assign_(0)


def _shape(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return (int(value),) if isinstance(value, (int, np.integer)) else tuple(value)
