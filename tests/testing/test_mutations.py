"""Deliberately wrong kernels: the conformance suite must catch each of them, and must pass the right ones."""

import random
import threading
import time

import numpy as np
import pytest

pytest.importorskip("hypothesis", reason="the conformance suite generates its cases with hypothesis")

from minidl.backend import Backend, Kernel
from minidl.ops import primitives
from minidl.testing import conformance


def reference(name):
    return primitives[name].reference


def run(name, function, when=None, examples=20, **options):
    backend = Backend()
    kernel = Kernel(name, "numpy", function, when, **options)
    (report,) = conformance.check(name, backend, kernels=[kernel], max_examples=examples)
    return report


# Right kernels, each written unlike its reference


def relu(x):
    return np.maximum(x, x.dtype.type(0))


def add(x, y):
    return np.add(x, y)


def softmax(x, *, axis=-1):
    if x.shape[axis] == 0:
        return x.copy()
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    e *= 1 / e.sum(axis=axis, keepdims=True)
    return e


def embedding_grad(g, index, *, num_embeddings, padding_idx=None):
    out = np.zeros((num_embeddings, g.shape[-1]), g.dtype)
    np.add.at(out, index.reshape(-1), g.reshape(index.size, g.shape[-1]))
    if padding_idx is not None:
        out[padding_idx] = 0
    return out


def conv2d(x, weight, bias=None, *, stride, padding, dilation, groups):
    """One tap of the filter after the other."""
    (kh, kw), (ph, pw), (dh, dw), (sh, sw) = weight.shape[2:], padding, dilation, stride
    x = np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)))
    oh, ow = (x.shape[2] - dh * (kh - 1) - 1) // sh + 1, (x.shape[3] - dw * (kw - 1) - 1) // sw + 1
    n, o = x.shape[0], weight.shape[0]
    xg = x.reshape(n, groups, x.shape[1] // groups, *x.shape[2:])
    wg = weight.reshape(groups, o // groups, weight.shape[1], kh, kw)
    out = np.zeros((n, groups, o // groups, oh, ow), x.dtype)
    for i in range(kh):
        for j in range(kw):
            taps = xg[..., i * dh : i * dh + (oh - 1) * sh + 1 : sh, j * dw : j * dw + (ow - 1) * sw + 1 : sw]
            out += np.einsum("ngchw,goc->ngohw", taps, wg[..., i, j])
    out = out.reshape(n, o, oh, ow)
    return out if bias is None else out + bias[:, None, None]


def adam_update(p, g, m, v, lr, step, max_v=None, **params):
    """Writes into the donated arrays and returns them."""
    olds = [a for a in (p, m, v, max_v) if a is not None]
    news = reference("adam_update")(p, g, m, v, lr, step, max_v, **params)
    for old, new in zip(olds, news):
        old[...] = new
    return tuple(olds)


def relu_out(x, out=None):
    if out is None:
        return relu(x)
    np.maximum(x, x.dtype.type(0), out=out[0])
    return out[0]


def layer_norm_backward(dout, x, weight, *, normalized_shape, eps):
    n = int(np.prod(normalized_shape))
    rows = int(np.prod(x.shape[: x.ndim - len(normalized_shape)]))
    g, z = dout.reshape(rows, n), x.reshape(rows, n)
    z = z - z.mean(axis=1, keepdims=True)
    r = 1 / np.sqrt((z * z).mean(axis=1, keepdims=True) + x.dtype.type(eps))
    z = z * r
    dz = g if weight is None else g * weight.reshape(-1)
    dx = r * (dz - dz.mean(axis=1, keepdims=True) - z * (dz * z).mean(axis=1, keepdims=True))
    return dx.reshape(x.shape), (g * z).sum(axis=0).reshape(normalized_shape), g.sum(axis=0).reshape(normalized_shape)


RIGHT = {
    "relu": relu, "add": add, "softmax": softmax, "embedding_grad": embedding_grad, "conv2d": conv2d,
    "adam_update": adam_update, "layer_norm_backward": layer_norm_backward,
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_right_kernel_passes(name):
    report = run(name, RIGHT[name])
    assert report.ok, str(report)
    assert report.accepted >= 30
    if primitives[name].differentiable:
        assert report.gradients >= 10


def test_right_kernel_with_out_passes():
    report = run("relu", relu_out, out=True)
    assert report.ok, str(report)


# Wrong ones. Each returns (primitive, kernel, {checks that may find it}, options for the registration).

MUTANTS = {}


def mutant(name, *checks, **options):
    def add_to(make):
        MUTANTS[make.__name__] = (name, make, checks, options)
        return make

    return add_to


@mutant("conv2d", "values")
def off_by_one_at_the_border():
    def kernel(x, weight, bias=None, *, padding, **params):
        x = np.pad(x, ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2))
        if padding[1]:
            x[..., -padding[1]] = x[..., -padding[1] - 1]  # the first column of padding is not zero
        return conv2d(x, weight, bias, padding=(0, 0), **params)

    return kernel


@mutant("conv2d", "values")
def last_column_left_out():
    def kernel(x, weight, bias=None, **params):
        out = conv2d(x, weight, bias, **params)
        if out.shape[3] > 1:
            out[..., -1] = 0 if bias is None else bias[:, None]
        return out

    return kernel


@mutant("conv2d", "values")
def dilation_ignored():
    def kernel(x, weight, bias=None, *, dilation, **params):
        if dilation != (1, 1):
            shape = conv2d(x, weight, bias, dilation=dilation, **params).shape
            return conv2d(x, weight, bias, dilation=(1, 1), **params)[..., : shape[2], : shape[3]]
        return conv2d(x, weight, bias, dilation=dilation, **params)

    return kernel


@mutant("relu", "values")
def remainder_after_vectors_left_out():
    def kernel(x):
        flat = np.ascontiguousarray(x).reshape(-1)
        out = flat.copy()
        whole = flat.size // 8 * 8 if flat.size > 8 else flat.size
        out[:whole] = np.maximum(flat[:whole], 0)
        return out.reshape(x.shape)

    return kernel


@mutant("relu", "values")
def wrong_only_for_large_arrays():
    def kernel(x):
        out = relu(x)
        if x.size >= 1 << 15:  # "one block per thread"
            out.reshape(-1)[x.size // 2] = -1
        return out

    return kernel


@mutant("embedding_grad", "values")
def missed_accumulate():
    def kernel(g, index, *, num_embeddings, padding_idx=None):
        out = np.zeros((num_embeddings, g.shape[-1]), g.dtype)
        out[index.reshape(-1)] += g.reshape(index.size, g.shape[-1])  # counts a repeated index once
        if padding_idx is not None:
            out[padding_idx] = 0
        return out

    return kernel


@mutant("sum", "values", "determinism", "threads", "stale")
def race_of_threads():
    def kernel(x, *, axis=None, keepdims=False):
        if axis is not None or x.size < 2:
            return np.asarray(reference("sum")(x, axis=axis, keepdims=keepdims))
        total, halves = np.zeros((), x.dtype), np.array_split(np.ascontiguousarray(x).reshape(-1), 2)

        def work(part):
            before = total.copy()
            time.sleep(1e-4)  # the other thread reads the same
            total[...] = before + part.sum()

        threads = [threading.Thread(target=work, args=(h,)) for h in halves]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        return total.reshape((1,) * x.ndim) if keepdims else total

    return kernel


@mutant("sum", "determinism")
def order_of_summation_left_to_chance():
    def kernel(x, *, axis=None, keepdims=False):
        if axis is not None or x.size < 3:
            return np.asarray(reference("sum")(x, axis=axis, keepdims=keepdims))
        values = list(np.ascontiguousarray(x).reshape(-1))
        random.shuffle(values)
        total = x.dtype.type(0)
        for v in values:
            total += v
        return np.full((1,) * x.ndim if keepdims else (), total, x.dtype)

    return kernel


@mutant("softmax", "threads")
def scratch_shared_by_threads():
    scratch = {}

    def kernel(x, *, axis=-1):
        if x.shape[axis] == 0:
            return x.copy()
        e = scratch.setdefault((x.shape, x.dtype), np.empty(x.shape, x.dtype))
        np.subtract(x, x.max(axis=axis, keepdims=True), out=e)
        np.exp(e, out=e)
        time.sleep(1e-4)
        return e / e.sum(axis=axis, keepdims=True)

    return kernel


@mutant("softmax", "outputs")
def wrong_dtype():
    return lambda x, *, axis=-1: softmax(x.astype(np.float64), axis=axis)


@mutant("softmax", "values")
def float64_computed_in_float32():
    return lambda x, *, axis=-1: softmax(x.astype(np.float32), axis=axis).astype(x.dtype)


@mutant("relu", "stale")
def stale_buffer():
    buffers = {}

    def kernel(x):
        out = buffers.setdefault((x.shape, x.dtype), np.empty(x.shape, x.dtype))
        np.maximum(x, 0, out=out)
        return out

    return kernel


@mutant("relu", "stale", "values")
def result_remembered_by_shape():
    results = {}
    return lambda x: results.setdefault((x.shape, x.dtype, x.tobytes()[:4]), relu(x)).copy()


@mutant("softmax", "inputs", "raises")
def mutated_input():
    def kernel(x, *, axis=-1):
        if x.size:
            x -= x.max(axis=axis, keepdims=True)
        return softmax(x, axis=axis)

    return kernel


@mutant("adam_update", "inputs")
def gradient_mutated_by_an_update():
    def kernel(p, g, m, v, lr, step, max_v=None, **params):
        out = reference("adam_update")(p, g, m, v, lr, step, max_v, **params)
        g *= 0.5
        return out

    return kernel


@mutant("relu", "values")
def nan_lost():
    return lambda x: np.where(x > 0, x, x.dtype.type(0))


@mutant("softmax", "values")
def infinity_lost():
    return lambda x, *, axis=-1: softmax(np.nan_to_num(x, nan=np.nan, posinf=3e38, neginf=-3e38), axis=axis)


@mutant("softmax", "values")
def overflow():
    def kernel(x, *, axis=-1):
        e = np.exp(x)
        return e / e.sum(axis=axis, keepdims=True)

    return kernel


@mutant("relu", "values")
def memory_order_ignored():
    return lambda x: np.maximum(x.ravel(order="K"), 0).reshape(x.shape)


@mutant("relu", "raises")
def read_only_input_refused():
    def kernel(x):
        x += 0  # as compiled code that has no version for read-only arrays
        return relu(x)

    return kernel


@mutant("relu", "raises")
def zero_size_raises():
    def kernel(x):
        x.max()
        return relu(x)

    return kernel


@mutant("sum", "values")
def empty_sum_is_not_zero():
    def kernel(x, *, axis=None, keepdims=False):
        out = np.asarray(reference("sum")(x, axis=axis, keepdims=keepdims)).copy()
        if x.size == 0 and out.size:
            out[...] = 1
        return out

    return kernel


@mutant("relu", "outputs")
def zero_dimensions_become_one():
    return lambda x: np.atleast_1d(relu(x))


@mutant("add", "values", "outputs", "raises")
def broadcasting_wrong():
    def kernel(x, y):
        if np.shape(x) == np.shape(y) or np.ndim(x) == 0 or np.ndim(y) == 0:
            return np.add(x, y)
        shape = np.broadcast_shapes(np.shape(x), np.shape(y))
        return np.resize(x, shape) + np.resize(y, shape)

    return kernel


@mutant("relu", "aliasing")
def input_returned():
    return lambda x: x if x.ndim and x.size and (x > 0).all() else relu(x)


@mutant("lstm", "aliasing")
def outputs_share_memory():
    def kernel(x, h0, c0, *more, **params):
        y, h, c, *kept = reference("lstm")(x, h0, c0, *more, **params)
        return (y, y[-1] if not params["reverse"] and params["lengths"] is None else h, c, *kept)

    return kernel


@mutant("relu", "predicate", when=lambda x: x.shape[0] > 0)
def predicate_raises():
    return relu


@mutant("relu", "predicate", when=lambda x: x.dtype == np.float16)
def predicate_accepts_nothing():
    return relu


@mutant("amax", "values", "outputs")
def axis_ignored():
    def kernel(x, *, axis=None, keepdims=False):
        if isinstance(axis, tuple) and len(axis) > 1:
            axis = axis[0]
        return np.asarray(reference("amax")(x, axis=axis, keepdims=keepdims))

    return kernel


@mutant("argmax", "values")
def last_of_equal_values():
    def kernel(x, *, axis=None, keepdims=False):
        if axis is None or x.shape[axis] == 0:
            return np.asarray(reference("argmax")(x, axis=axis, keepdims=keepdims))
        return np.asarray(x.shape[axis] - 1 - np.argmax(np.flip(x, axis), axis=axis, keepdims=keepdims))

    return kernel


@mutant("relu", "out", out=True)
def out_ignored():
    return lambda x, out=None: relu(x)


@mutant("lstm", "outputs")
def an_output_is_missing():
    return lambda *args, **params: reference("lstm")(*args, **params)[:-1]


@mutant("layer_norm_backward", "values")
def wrong_gradient_kernel():
    def kernel(dout, x, weight, **params):
        dx, _, dbias = layer_norm_backward(dout, x, weight, **params)
        return dx, dbias.copy(), dbias  # weight's without the normalized input

    return kernel


@mutant("layer_norm_backward", "values")
def variance_from_cancelling_squares():
    def kernel(dout, x, weight, *, normalized_shape, eps):
        out = layer_norm_backward(dout, x, weight, normalized_shape=normalized_shape, eps=eps)
        n = int(np.prod(normalized_shape))
        rows = x.reshape(-1 if n and x.size else 0, n) if x.size else x
        if not x.size:
            return out
        mean = rows.mean(axis=1, keepdims=True)
        exact = ((rows - mean) ** 2).mean(axis=1, keepdims=True)
        # as E[(x + 1000)^2] - E[x + 1000]^2
        far = rows + x.dtype.type(1000)
        var = (far * far).mean(axis=1, keepdims=True) - far.mean(axis=1, keepdims=True) ** 2
        scale = np.sqrt((exact + eps) / np.maximum(var + eps, eps)).astype(x.dtype)
        return (out[0].reshape(rows.shape) * scale).reshape(x.shape), *out[1:]

    return kernel


@pytest.mark.parametrize("name", MUTANTS)
def test_wrong_kernel_is_caught(name):
    primitive, make, checks, options = MUTANTS[name]
    report = run(primitive, make(), **options)
    assert not report.ok, f"{name} was not caught: {report}"
    assert report.check in checks, str(report)


def test_gradient_through_a_wrong_kernel_of_the_backward_primitive_is_caught():
    backend = Backend()
    wrong = Kernel("softmax_grad", "numpy", lambda g, out, *, axis: g * out)
    backend.kernels["softmax_grad"] = [wrong]
    (report,) = conformance.check("softmax", backend, kernels=[Kernel("softmax", "numpy", softmax)], max_examples=20)
    assert report.check == "gradient", str(report)


def test_kernel_of_no_primitive_is_reported():
    backend = Backend()
    backend.kernels["no_such_thing"] = [Kernel("no_such_thing", "numpy", relu)]
    (report,) = conformance.check_backend(backend)
    assert report.check == "primitive"


def test_less_accuracy_passes_only_if_declared():
    def rough(x, *, axis=-1):
        return (softmax(x, axis=axis).astype(np.float32) * np.float32(1 + 1e-4)).astype(x.dtype)

    assert run("softmax", rough).check in ("values", "gradient")
    report = run("softmax", rough, tolerance={"float32": 1e-3, "float64": 1e-3})
    assert report.ok, str(report)
    assert "1" in str(report) and "declared tolerance" in str(report)


def test_spreading_nan_passes_only_if_declared_and_never_if_lost():
    def spreads(x):
        return relu(x) + 0 * x.sum(dtype=x.dtype)

    assert run("relu", spreads).check == "values"
    assert run("relu", spreads, tolerance={"nonfinite": "may spread"}).ok
    assert run("relu", nan_lost(), tolerance={"nonfinite": "may spread"}).check == "values"
    assert run("relu", nan_lost(), tolerance={"nonfinite": "may differ"}).ok


def test_smallest_failing_case_is_small_saved_and_replayed(tmp_path):
    backend = Backend()
    from minidl.core import registry

    wrong = Kernel("conv2d", "numpy", last_column_left_out())
    (report,) = conformance.check("conv2d", backend, kernels=[wrong], save_to=tmp_path)
    assert not report.ok
    assert sum(a.size for a in report.case.arrays) <= 20, str(report)
    assert str(report.case) in str(report) and str(report.path) in str(report)
    numpy_backend = registry.load("numpy")
    own = numpy_backend.kernels["conv2d"]
    numpy_backend.kernels["conv2d"] = [wrong]
    try:
        (again,) = conformance.replay(report.path)
        assert (again.check, again.message) == (report.check, report.message)
        numpy_backend.kernels["conv2d"] = [Kernel("conv2d", "numpy", conv2d)]
        (now,) = conformance.replay(report.path)
        assert now.ok
    finally:
        numpy_backend.kernels["conv2d"] = own
        registry.changed()
