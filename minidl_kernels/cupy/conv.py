"""Convolution in one and two dimensions, and its gradients: im2col and one large cuBLAS product.

Columns take as many times the memory of the image as the kernel has positions, so the batch is cut into parts whose
columns fit into a bounded workspace.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import cupy

from minidl.backend import kernel
from minidl.ops.conv import output_size
from minidl_kernels.cupy.launch import FLOATS, MOST, accumulation, contiguous, floats, launch, over_elements

#: bytes of columns at a time (those of one sample may be more)
WORKSPACE = 256 << 20


class _Geometry:
    """The sizes of a convolution over two axes, from those over one or two."""

    def __init__(self, x_shape: tuple, weight_shape: tuple, out_size: tuple | None, stride, padding, dilation, groups):
        two = lambda values, fill: (fill, *values) if len(values) == 1 else tuple(values)
        self.channels, self.outputs, self.groups = x_shape[1], weight_shape[0], groups
        self.size, self.kernel = two(x_shape[2:], 1), two(weight_shape[2:], 1)
        self.stride, self.padding, self.dilation = two(stride, 1), two(padding, 0), two(dilation, 1)
        if out_size is None:
            out_size = output_size(x_shape[2:], weight_shape[2:], stride, padding, dilation)
        self.out_size, self.out = two(out_size, 1), tuple(out_size)
        self.positions = math.prod(self.out_size)
        #: rows of the columns: channels times the kernel's size
        self.depth = self.channels * math.prod(self.kernel)

    def parts(self, batch: int, itemsize: int) -> Iterator[slice]:
        """Slices of the batch."""
        a_sample = max(1, self.depth * self.positions)
        step = max(1, min(batch, WORKSPACE // (a_sample * itemsize), MOST // a_sample))
        return (slice(i, min(i + step, batch)) for i in range(0, batch, step))

    def arguments(self, batch: int) -> tuple[int, ...]:
        """The ints that ``conv.cu`` calls GEOMETRY."""
        return (
            batch, self.channels, *self.size, *self.out_size, *self.kernel, *self.stride, *self.padding, *self.dilation
        )  # fmt: skip

    def columns(self, x: Any) -> Any:
        """im2col: (groups, depth / groups, batch * positions)."""
        cols = cupy.empty((self.groups, self.depth // self.groups, len(x) * self.positions), x.dtype)
        pieces = cols.size // math.prod(self.kernel)
        launch("conv", "im2col<T>", x.dtype, *over_elements(pieces), x, cols, *self.arguments(len(x)))
        return cols

    def rows(self, g: Any) -> Any:
        """(batch, outputs, *out) -> (groups, outputs / groups, batch * positions)."""
        per_group = (self.groups, self.outputs // self.groups, len(g) * self.positions)
        return contiguous(g.swapaxes(0, 1)).reshape(per_group)

    def matrix(self, weight: Any) -> Any:
        """(groups, outputs / groups, depth / groups)."""
        return weight.reshape(self.groups, self.outputs // self.groups, self.depth // self.groups)


def _product(a: Any, b: Any) -> Any:
    """``a @ b`` of each group. CuPy's product of stacks does not take bfloat16, and widens float16 itself."""
    if len(a) == 1:
        return cupy.matmul(a[0], b[0])[None]
    if a.dtype.itemsize < 4:
        return cupy.matmul(a.astype("f"), b.astype("f")).astype(a.dtype)
    return cupy.matmul(a, b)


def _when(first: Any, second: Any, bias: Any = None, **params: Any) -> bool:
    """floating-point arrays of one dtype, not empty"""
    return floats(first, second, bias) and second.size > 0


def _grad_when(first: Any, second: Any, **params: Any) -> bool:
    """floating-point arrays of one dtype, not empty"""
    return floats(first, second) and second.size > 0


def _declare(dimensions: int) -> None:
    name = f"conv{dimensions}d"

    @kernel(name, backend="cupy", when=_when, dtypes=FLOATS, note="im2col and cuBLAS")
    def conv(x: Any, weight: Any, bias: Any = None, *, stride, padding, dilation, groups) -> Any:
        x, weight, bias = contiguous(x, weight, bias)
        geometry = _Geometry(x.shape, weight.shape, None, stride, padding, dilation, groups)
        out = cupy.empty((len(x), geometry.outputs, *geometry.out), x.dtype)
        w = geometry.matrix(weight)
        for some in geometry.parts(len(x), x.dtype.itemsize):
            product = contiguous(_product(w, geometry.columns(x[some])))
            part = out[some]
            launch(
                "conv", "to_images<T>", x.dtype, *over_elements(part.size),
                product, bias, part, len(part), geometry.outputs, geometry.positions,
            )  # fmt: skip
        return out

    # (where the reference convolves with the flipped kernel, a NaN in the weight meets the zeros of the padding)
    @kernel(
        f"{name}_input_grad", backend="cupy", when=_grad_when, dtypes=FLOATS, note="cuBLAS and col2im",
        tolerance={"nonfinite": "may differ"},
    )  # fmt: skip
    def input_grad(dout: Any, weight: Any, *, input_size, stride, padding, dilation, groups) -> Any:
        g, weight = contiguous(dout, weight)
        shape = (len(g), weight.shape[1] * groups, *input_size)
        geometry = _Geometry(shape, weight.shape, g.shape[2:], stride, padding, dilation, groups)
        dx = cupy.empty(shape, g.dtype)
        w = geometry.matrix(weight).swapaxes(1, 2)
        for some in geometry.parts(len(g), g.dtype.itemsize):
            cols = contiguous(_product(w, geometry.rows(g[some])))
            part = dx[some]
            launch("conv", "col2im<T>", g.dtype, *over_elements(part.size), cols, part, *geometry.arguments(len(part)))
        return dx

    @kernel(f"{name}_weight_grad", backend="cupy", when=_grad_when, dtypes=FLOATS, note="im2col and cuBLAS")
    def weight_grad(dout: Any, x: Any, *, kernel_size, stride, padding, dilation, groups) -> Any:
        g, x = contiguous(dout, x)
        shape = (g.shape[1], x.shape[1] // groups, *kernel_size)
        geometry = _Geometry(x.shape, shape, g.shape[2:], stride, padding, dilation, groups)
        total = None
        for some in geometry.parts(len(x), x.dtype.itemsize):
            part = _product(geometry.rows(g[some]), geometry.columns(x[some]).swapaxes(1, 2))
            part = part.astype(accumulation(x.dtype), copy=False)
            total = part if total is None else total + part
        return total.astype(x.dtype, copy=False).reshape(shape)

    for function, suffix in ((conv, ""), (input_grad, "_input_grad"), (weight_grad, "_weight_grad")):
        function.__name__ = function.__qualname__ = name + suffix


for _dimensions in (1, 2):
    _declare(_dimensions)
