"""Changing shape: reshape, permute, expand, squeeze, stack, concat, split, pad_nd, flip, roll, repeat."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from minidl.core.errors import describe
from minidl.core.primitive import primitive
from minidl.core.registry import namespace
from minidl.ops.elementwise import broadcast_to


def normalize_axis(axis: int, ndim: int, op: str | None = None) -> int:
    """``axis`` counted from the front; 0 or -1 of a 0-d array is 0, as in PyTorch. Raises AxisError (a ValueError),
    naming ``op``, if it is out of range."""
    count = max(ndim, 1)
    if not -count <= axis < count:
        raise np.exceptions.AxisError(axis, ndim, op)
    return axis % count


@primitive(view=True, identity="shape", linear_in=("x",))
def reshape(x, *, shape):
    """``x`` with another shape; one entry may be -1. Raises ValueError where the sizes differ."""
    try:
        if min(shape, default=0) < -1:
            raise ValueError
        return x.reshape(shape)
    except (ValueError, TypeError) as error:
        raise ValueError(f"reshape: cannot reshape {x.dtype}{list(x.shape)} to {tuple(shape)}") from error


reshape.defvjp(x=lambda g, x_shape: reshape(g, shape=x_shape))


@primitive(view=True, linear_in=("x",))
def permute(x, *, axes):
    """``x`` with its axes in the order ``axes`` (a view)."""
    if sorted(a % max(x.ndim, 1) for a in axes) != list(range(x.ndim)):
        raise ValueError(f"permute: axes {tuple(axes)} are not a permutation of the {x.ndim} axes of shape {x.shape}")
    return x.transpose(axes)


permute.defvjp(x=lambda g, axes: permute(g, axes=tuple(int(i) for i in np.argsort([a % len(axes) for a in axes]))))


def swapaxes(x, axis1, axis2):
    """``x`` with two axes exchanged."""
    axis1, axis2 = normalize_axis(axis1, x.ndim, "swapaxes"), normalize_axis(axis2, x.ndim, "swapaxes")
    exchanged = {axis1: axis2, axis2: axis1}
    return permute(x, axes=tuple(exchanged.get(a, a) for a in range(x.ndim)))


def transpose(x, axes=None, dim1=None):
    """``transpose(x, dim0, dim1)`` exchanges two axes (PyTorch); ``transpose(x)`` reverses them all, and
    ``axes`` is their new order (NumPy)."""
    if dim1 is not None:
        return swapaxes(x, axes, dim1)
    return permute(x, axes=tuple(range(x.ndim))[::-1] if axes is None else tuple(axes))


def moveaxis(x, source, destination):
    """``x`` with axis ``source`` moved to position ``destination`` (or several axes to as many positions)."""
    sources, destinations = (
        [normalize_axis(a, x.ndim, "moveaxis") for a in (axes if isinstance(axes, (tuple, list)) else (axes,))]
        for axes in (source, destination)
    )
    if not len(set(sources)) == len(sources) == len(destinations) == len(set(destinations)):
        raise ValueError(f"moveaxis: expected as many different positions as axes, got {source} and {destination}")
    order = [i for i in range(x.ndim) if i not in sources]
    for to, axis in sorted(zip(destinations, sources)):
        order.insert(to, axis)
    return permute(x, axes=tuple(order[: x.ndim]))


def expand(x, shape):
    """``x`` broadcast to ``shape``; -1 keeps a length (PyTorch)."""
    lead = len(shape) - x.ndim
    if lead < 0:
        raise ValueError(f"expand: shape {tuple(shape)} has fewer axes than the input's {x.shape}")
    full = tuple(x.shape[i - lead] if n == -1 and i >= lead else n for i, n in enumerate(shape))
    for have, want in zip(x.shape, full[lead:]):
        if have not in (1, want):
            raise ValueError(f"expand: cannot broadcast shape {x.shape} to {full}")
    return broadcast_to(x, shape=full)


def squeeze(x, axis=None):
    """``x`` without its length-one axes (all, or those named; one of another length is kept, as in PyTorch)."""
    axes = range(x.ndim) if axis is None else axis if isinstance(axis, (tuple, list)) else (axis,)
    drop = {normalize_axis(a, x.ndim, "squeeze") for a in axes}
    return reshape(x, shape=tuple(n for i, n in enumerate(x.shape) if not (i in drop and n == 1)))


def unsqueeze(x, axis):
    """``x`` with a length-one axis put in at ``axis``."""
    at = normalize_axis(axis, x.ndim + 1, "unsqueeze")
    return reshape(x, shape=(*x.shape[:at], 1, *x.shape[at:]))


expand_dims = unsqueeze


def flatten(x, start_axis=0, end_axis=-1):
    """``x`` with the axes from ``start_axis`` to ``end_axis`` (inclusive) merged into one."""
    if x.ndim == 0:
        return reshape(x, shape=(1,))
    start, end = normalize_axis(start_axis, x.ndim, "flatten"), normalize_axis(end_axis, x.ndim, "flatten")
    if start > end:
        raise ValueError(f"flatten: start_axis {start_axis} comes after end_axis {end_axis}")
    return reshape(x, shape=(*x.shape[:start], math.prod(x.shape[start : end + 1]), *x.shape[end + 1 :]))


@primitive(promote="same", linear_in=("xs",))
def concat(*xs, axis=0):
    """The arrays joined along an existing axis. Call ``concat([a, b], axis=0)``."""
    if not xs:
        raise ValueError("concat: expected at least one array")
    some = xs
    if max(x.ndim for x in xs) > 1:  # an empty vector goes with everything, as in PyTorch
        some = tuple(x for x in xs if x.shape != (0,))
    try:
        return namespace(*xs).concatenate(some, axis=axis)
    except ValueError as error:
        shapes = [tuple(x.shape) for x in xs]
        raise ValueError(f"concat: shapes {shapes} do not fit together along axis {axis}") from error


@concat.defvjp_all
def _concat_grad(g, needs, xs_shapes, axis):
    grads, start = [], 0
    for need, shape in zip(needs, xs_shapes):
        if shape == (0,) and len(g.shape) > 1:
            grads.append(narrow(reshape(g, shape=(-1,)), 0, 0, 0) if need else None)
            continue
        grads.append(narrow(g, axis, start, shape[axis]) if need else None)
        start += shape[axis]
    return grads


concatenate = cat = concat


@primitive(promote="same", linear_in=("xs",))
def stack(*xs, axis=0):
    """The arrays (all of one shape) joined along a new axis. Call ``stack([a, b], axis=0)``."""
    if len({tuple(x.shape) for x in xs}) != 1:
        raise ValueError(f"stack: expected arrays of one shape, got {[tuple(x.shape) for x in xs]}")
    return namespace(*xs).stack(xs, axis=axis)


@stack.defvjp_all
def _stack_grad(g, needs, axis):
    from minidl.ops.indexing import getitem

    lead = (slice(None),) * (axis % g.ndim)
    return [getitem(g, (*lead, i)) if need else None for i, need in enumerate(needs)]


@primitive(view=True, linear_in=("x",))
def unbind(x, *, axis=0):
    """The slices of ``x`` along ``axis``, a tuple of views without that axis: the inverse of :func:`stack`."""
    lead = (slice(None),) * (axis % x.ndim)
    return tuple(x[(*lead, i)] for i in range(x.shape[axis]))


unbind.defvjp(x=lambda g, axis: stack(g, axis=axis))


def narrow(x, axis, start, length):
    """The ``length`` elements from ``start`` on along ``axis`` (a view)."""
    from minidl.ops.indexing import getitem

    axis = normalize_axis(axis, x.ndim, "narrow")
    if not 0 <= start <= start + length <= x.shape[axis]:
        raise ValueError(f"narrow: {start}..{start + length} is not within axis {axis} of shape {tuple(x.shape)}")
    return getitem(x, (slice(None),) * axis + (slice(start, start + length),))


@primitive(name="split", view=True, linear_in=("x",))
def _split(x, *, sizes, axis):
    """Views of ``x`` cut along ``axis`` into pieces of ``sizes``, which add up to its length."""
    lead = (slice(None),) * axis
    ends = np.cumsum(sizes).tolist()
    return tuple(x[(*lead, slice(end - size, end))] for size, end in zip(sizes, ends))


_split.defvjp(x=lambda g, axis: concat(g, axis=axis))


def split(x, sizes, axis=0):
    """``x`` cut along ``axis`` into pieces of ``sizes`` (a list that adds up, or one int for equal pieces; the last may
    be shorter): a tuple of views, the inverse of :func:`concat`. Raises ValueError where the sizes do not add up."""
    axis = normalize_axis(axis, x.ndim, "split")
    n = x.shape[axis]
    if isinstance(sizes, (int, np.integer)):
        if sizes <= 0:
            raise ValueError(f"split: piece size must be positive, got {sizes}")
        sizes = [min(sizes, n - i) for i in range(0, n, sizes)] or [0]
    sizes = tuple(int(size) for size in sizes)
    if sum(sizes) != n or min(sizes, default=0) < 0:
        raise ValueError(f"split: sizes {list(sizes)} do not add up to the length {n} of axis {axis} of {describe(x)}")
    return _split(x, sizes=sizes, axis=axis) if sizes else ()


def chunk(x, chunks, axis=0):
    """``x`` cut along ``axis`` into at most ``chunks`` pieces of equal size (the last may be smaller)."""
    if chunks < 1:
        raise ValueError(f"chunk: expected at least one piece, got {chunks}")
    return split(x, max(1, -(-x.shape[normalize_axis(axis, x.ndim, "chunk")] // chunks)), axis)


@primitive
def pad_nd(x, *, widths, mode="constant", value=0):
    """``x`` with ``widths = ((before, after), ...)``, one pair per axis, of padding: ``constant`` (``value``),
    ``reflect``, ``edge`` or ``wrap`` (NumPy's names). Constant widths may be negative, which crops."""
    if len(widths) != x.ndim:
        raise ValueError(f"pad_nd: expected {x.ndim} (before, after) pairs for shape {x.shape}, got {widths}")
    if mode != "constant":
        return namespace(x).pad(x, widths, mode=mode)
    crop = tuple(slice(max(-b, 0), n - max(-a, 0)) for (b, a), n in zip(widths, x.shape))
    grow = tuple((max(b, 0), max(a, 0)) for b, a in widths)
    return namespace(x).pad(x[crop], grow, mode="constant", constant_values=value)


def _pad_grad(g, widths, mode, x_shape):
    if mode == "constant":
        return pad_nd(g, widths=tuple((-b, -a) for b, a in widths))
    # Every padded element is a copy of one input element: find out of which, and add up.
    from minidl.ops.indexing import take_grad

    source = np.pad(np.arange(math.prod(x_shape)).reshape(x_shape), widths, mode=mode).reshape(-1)
    flat = take_grad(reshape(g, shape=(-1,)), source, axis=0, size=math.prod(x_shape))
    return reshape(flat, shape=x_shape)


pad_nd.defvjp(x=_pad_grad)


@primitive(view=True, linear_in=("x",))
def flip(x, *, axis):
    """``x`` reversed along ``axis`` (an int or a tuple)."""
    return namespace(x).flip(x, axis=axis)


flip.defvjp(x=lambda g, axis: flip(g, axis=axis))


@primitive(linear_in=("x",))
def roll(x, *, shift, axis=None):
    """``x`` shifted round by ``shift`` places along ``axis``."""
    if isinstance(shift, (tuple, list)) and not len(shift):
        raise ValueError("roll: expected at least one shift")
    return namespace(x).roll(x, shift, axis=axis)


def _minus(shift):
    return tuple(-s for s in shift) if isinstance(shift, (tuple, list)) else -shift


roll.defvjp(x=lambda g, shift, axis: roll(g, shift=_minus(shift), axis=axis))


def repeat_interleave(x, repeats, axis=None, output_size=None):
    """Each element repeated ``repeats`` times along ``axis``, or in the flattened ``x`` (NumPy's ``repeat``). An array
    of ints repeats each element along the axis by its own number. ``output_size``, which the repeats give, is PyTorch's
    hint. Raises ValueError for negative numbers."""
    if axis is None:
        x, axis = reshape(x, shape=(-1,)), 0
    at = normalize_axis(axis, x.ndim, "repeat_interleave")
    if not isinstance(repeats, (int, np.integer)):
        return _repeat_each(x, np.asarray(repeats), at)
    if repeats < 0:
        raise ValueError(f"repeat_interleave: repeats must not be negative, got {repeats}")
    wide = expand(unsqueeze(x, axis=at + 1), (*x.shape[: at + 1], repeats, *x.shape[at + 1 :]))
    return reshape(wide, shape=(*x.shape[:at], x.shape[at] * repeats, *x.shape[at + 1 :]))


def _repeat_each(x, repeats: np.ndarray, axis: int):
    from minidl.ops.indexing import take

    repeats = repeats if repeats.size else repeats.astype(np.int64)  # an empty list has no dtype of its own
    if repeats.dtype.kind not in "iu" or repeats.shape not in ((), (1,), (x.shape[axis],)) or (repeats < 0).any():
        raise ValueError(
            f"repeat_interleave: expected one number, not negative, or {x.shape[axis]} of them for axis {axis} of "
            f"shape {tuple(x.shape)}, got {repeats.dtype}{list(repeats.shape)}"
        )
    return take(x, np.repeat(np.arange(x.shape[axis]), repeats), axis=axis)


def tile(x, reps: Sequence[int]):
    """The whole of ``x`` repeated ``reps`` times along each axis (PyTorch's ``Tensor.repeat``, too)."""
    for _ in range(len(reps) - x.ndim):
        x = unsqueeze(x, axis=0)
    for axis, n in zip(range(-len(reps), 0), reps):
        if n < 0:
            raise ValueError(f"tile: numbers of repetitions must not be negative, got {tuple(reps)}")
        if n != 1:
            x = concat([x] * n, axis=axis) if n else narrow(x, axis, 0, 0)
    return x
