"""Shape operations against NumPy, their gradients by the identity sum(f(x) * g) == sum(x * f'(g)) of linear maps."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minidl import as_tensor, ops
from minidl.testing.samples import strided

shapes = hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=3)


def numbers(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def check(f, expected, *arrays):
    """The value, and the gradient: these are linear maps, so <f(x), g> = <x, f^T(g)> for any g."""
    for variant in (arrays, tuple(strided(a) if a.ndim else a for a in arrays)):
        xs = [as_tensor(a, requires_grad=True) for a in variant]
        y = f(*xs)
        np.testing.assert_array_equal(y.detach(), expected)
        g = numbers(y.shape, 1)
        y.backward(as_tensor(g))
        total = sum((a * np.asarray(x.grad)).sum() for a, x in zip(arrays, xs))
        np.testing.assert_allclose(total, (np.asarray(y.detach()) * g).sum(), rtol=1e-9, atol=1e-9)
        assert all(x.grad.shape == x.shape for x in xs)


@given(shape=shapes, data=st.data())
def test_reshape(shape, data):
    x = numbers(shape)
    to = data.draw(st.permutations(shape))
    check(lambda t: t.reshape(*to), x.reshape(to), x)
    if x.size:
        check(lambda t: ops.reshape(t, shape=(-1,)), x.reshape(-1), x)


@given(shape=shapes, data=st.data())
def test_permute_and_its_relatives(shape, data):
    x = numbers(shape)
    axes = data.draw(st.permutations(range(x.ndim)))
    signed = tuple(a - x.ndim if data.draw(st.booleans()) else a for a in axes)
    a, b = (data.draw(st.integers(-x.ndim, x.ndim - 1)) for _ in range(2))
    check(lambda t: ops.permute(t, axes=signed), x.transpose(axes), x)
    check(lambda t: ops.transpose(t), x.T, x)
    check(lambda t: ops.swapaxes(t, a, b), x.swapaxes(a, b), x)
    check(lambda t: ops.moveaxis(t, a, b), np.moveaxis(x, a, b), x)


@given(shape=shapes, data=st.data())
def test_squeeze_unsqueeze_flatten(shape, data):
    x = numbers(shape)
    axis = data.draw(st.integers(-x.ndim - 1, x.ndim))
    check(lambda t: t.unsqueeze(axis), np.expand_dims(x, axis), x)
    wide = np.expand_dims(x, axis)
    check(lambda t: t.squeeze(axis), np.squeeze(wide, axis), wide)
    check(lambda t: t.squeeze(), np.squeeze(x), x)
    start = data.draw(st.integers(0, x.ndim - 1))
    end = data.draw(st.integers(start, x.ndim - 1))
    merged = (*x.shape[:start], int(np.prod(x.shape[start : end + 1])), *x.shape[end + 1 :])
    check(lambda t: t.flatten(start, end), x.reshape(merged), x)


def test_squeeze_keeps_longer_axes_and_flatten_of_a_scalar():
    assert ops.squeeze(as_tensor(numbers((2, 1, 3))), 0).shape == (2, 1, 3)
    assert ops.squeeze(as_tensor(numbers((1, 1, 3))), (0, 1)).shape == (3,)
    assert ops.flatten(as_tensor(3.0)).shape == (1,)
    assert ops.squeeze(as_tensor(3.0)).shape == ()


@given(pair=hnp.mutually_broadcastable_shapes(num_shapes=1, base_shape=(2, 3, 2), max_dims=3))
def test_expand(pair):
    assume(len(pair.result_shape) == 3)
    x = numbers(pair.input_shapes[0])
    check(lambda t: t.expand(pair.result_shape), np.broadcast_to(x, pair.result_shape), x)


def test_expand_keeps_with_minus_one():
    assert ops.expand(as_tensor(numbers((2, 1))), (4, -1, 3)).shape == (4, 2, 3)


@given(shape=shapes, lengths=st.lists(st.integers(0, 3), min_size=1, max_size=3), data=st.data())
def test_concat_and_split(shape, lengths, data):
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    parts = []
    for i, n in enumerate(lengths):
        s = list(shape)
        s[axis] = n
        parts.append(numbers(s, i))
    whole = np.concatenate(parts, axis)
    check(lambda *ts: ops.concat(ts, axis=axis), whole, *parts)
    for k in range(len(lengths)):
        check(lambda t, k=k: ops.split(t, lengths, axis)[k], parts[k], whole)


def test_split_by_size_and_chunk():
    x = numbers((7, 2))
    assert [p.shape[0] for p in ops.split(as_tensor(x), 3)] == [3, 3, 1]
    assert [p.shape[0] for p in ops.chunk(as_tensor(x), 3)] == [3, 3, 1]
    assert [p.shape[0] for p in as_tensor(x).chunk(7)] == [1] * 7
    np.testing.assert_array_equal(ops.concat(ops.split(as_tensor(x), [0, 5, 2])), x)
    pieces = ops.split(as_tensor(x, requires_grad=True), np.int64(3))
    assert len({p.grad_fn for p in pieces}) == 1, "one node, whose gradient is one concat"
    assert all(np.shares_memory(p.array, x) for p in pieces)


@given(shape=hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3), count=st.integers(1, 3), data=st.data())
def test_stack_and_unbind(shape, count, data):
    axis = data.draw(st.integers(-len(shape) - 1, len(shape)))
    parts = [numbers(shape, i) for i in range(count)]
    whole = np.stack(parts, axis)
    check(lambda *ts: ops.stack(ts, axis=axis), whole, *map(np.asarray, parts))
    for k in range(count):
        check(lambda t, k=k: ops.unbind(t, axis=axis)[k], parts[k], whole)


@given(shape=hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=3), data=st.data())
def test_constant_padding_and_cropping(shape, data):
    widths = tuple(tuple(data.draw(st.integers(-(n // 2), 2)) for _ in range(2)) for n in shape)
    value = data.draw(st.sampled_from([0.0, -1.5]))
    x = numbers(shape)
    crop = x[tuple(slice(max(-b, 0), n - max(-a, 0)) for (b, a), n in zip(widths, shape))]
    expected = np.pad(crop, [(max(b, 0), max(a, 0)) for b, a in widths], constant_values=value)
    np.testing.assert_array_equal(ops.pad_nd(x, widths=widths, value=value), expected)
    if value == 0:
        check(lambda t: ops.pad_nd(t, widths=widths), expected, x)


@pytest.mark.parametrize("mode", ["reflect", "edge", "wrap"])
@given(data=st.data())
def test_other_padding(mode, data):
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=2, min_side=2, max_side=4))
    widths = tuple(tuple(data.draw(st.integers(0, 5)) for _ in range(2)) for _ in shape)
    x = numbers(shape)
    check(lambda t: ops.pad_nd(t, widths=widths, mode=mode), np.pad(x, widths, mode=mode), x)


@given(shape=shapes, data=st.data())
def test_flip_and_roll(shape, data):
    x = numbers(shape)
    axes = tuple(data.draw(st.lists(st.integers(0, x.ndim - 1), min_size=1, unique=True)))
    shift = tuple(data.draw(st.integers(-5, 5)) for _ in axes)
    check(lambda t: ops.flip(t, axis=axes), np.flip(x, axes), x)
    check(lambda t: ops.roll(t, shift=shift, axis=axes), np.roll(x, shift, axes), x)
    check(lambda t: ops.roll(t, shift=shift[0]), np.roll(x, shift[0]), x)


@given(shape=shapes, data=st.data())
def test_repeat_interleave_and_tile(shape, data):
    x = numbers(shape)
    axis, n = data.draw(st.integers(-x.ndim, x.ndim - 1)), data.draw(st.integers(1, 3))
    check(lambda t: ops.repeat_interleave(t, n, axis), np.repeat(x, n, axis), x)
    each = data.draw(st.lists(st.integers(0, 3), min_size=x.shape[axis], max_size=x.shape[axis]))
    check(lambda t: ops.repeat_interleave(t, each, axis), np.repeat(x, each, axis), x)
    check(lambda t: ops.repeat_interleave(t, n), np.repeat(x, n), x)
    reps = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=x.ndim + 1))
    check(lambda t: ops.tile(t, reps), np.tile(x, reps), x)


@given(shape=shapes, data=st.data())
def test_narrow(shape, data):
    x = numbers(shape)
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    start = data.draw(st.integers(0, x.shape[axis]))
    length = data.draw(st.integers(0, x.shape[axis] - start))
    index = [slice(None)] * x.ndim
    index[axis] = slice(start, start + length)
    check(lambda t: ops.narrow(t, axis, start, length), x[tuple(index)], x)


def test_reshapes_of_contiguous_memory_are_views():
    x = as_tensor(numbers((2, 3)))
    for y in (x.reshape(6), x.T, x.unsqueeze(0), x[0], x[:, 1:], x.flatten(), ops.narrow(x, 0, 0, 1)):
        assert np.shares_memory(x.array, y.array)


@pytest.mark.parametrize("axis", [2, -3])
@pytest.mark.parametrize(
    "f",
    [
        lambda x, a: ops.swapaxes(x, a, 0),
        lambda x, a: ops.moveaxis(x, a, 0),
        lambda x, a: ops.concat([x, x], axis=a),
        lambda x, a: ops.flip(x, axis=a),
        lambda x, a: ops.split(x, 1, a),
        lambda x, a: ops.narrow(x, a, 0, 1),
        lambda x, a: ops.squeeze(x, a),
        lambda x, a: ops.flatten(x, a),
        lambda x, a: ops.repeat_interleave(x, 2, a),
        lambda x, a: ops.unbind(x, axis=a),
        lambda x, a: ops.unsqueeze(x, a + (1 if a > 0 else -1)),
    ],
)
def test_an_axis_out_of_range_is_refused(f, axis):
    with pytest.raises((ValueError, IndexError)):
        f(as_tensor(numbers((2, 3))), axis)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: ops.split(x, 0),
        lambda x: ops.split(x, [-1, 3]),
        lambda x: ops.concat([]),
        lambda x: ops.narrow(x, 0, 1, 5),
        lambda x: ops.narrow(x, 0, -1, 1),
        lambda x: ops.chunk(x, 0),
        lambda x: ops.repeat_interleave(x, -1, 0),
        lambda x: ops.repeat_interleave(x, [1, -1], 0),
        lambda x: ops.repeat_interleave(x, [1, 2, 3], 0),
    ],
)
def test_bad_sizes_are_refused(f):
    with pytest.raises(ValueError):
        f(as_tensor(numbers((2, 3))))
