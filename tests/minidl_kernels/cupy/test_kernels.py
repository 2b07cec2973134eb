"""The CUDA kernels, run on the host (see ``fake_cupy.py``), do what the references do."""

import importlib

import numpy as np
import pytest

import minidl
from minidl import nn, ops, optim
from minidl.backend import use_backend
from minidl.core import dispatch
from minidl.ops import primitives
from minidl.testing import conformance
from minidl.testing.reference import plain
from tests.minidl_kernels.cupy.fake_cupy import asarray, asnumpy, backend, launches, needs_compiler  # noqa: F401

pytestmark = needs_compiler

ACTIVATIONS = (
    "sigmoid", "leaky_relu", "elu", "softplus", "silu", "mish", "softsign", "hardswish", "gelu",
)  # fmt: skip
NAMES = sorted([
    *ACTIVATIONS, *(f"{n}_grad" for n in (*ACTIVATIONS, "tanh", "relu", "hardtanh")),
    "random_bits", "keyed_dropout", "softmax", "softmax_grad", "log_softmax", "log_softmax_grad",
    "cross_entropy", "cross_entropy_grad", "layer_norm", "layer_norm_backward", "rms_norm", "rms_norm_backward",
    "batch_norm", "batch_norm_backward", "adam_update", "sgd_update",
])  # fmt: skip
#: cuBLAS computes these; nothing of ours is launched
PRODUCTS = ("linear", "matmul")


def test_no_kernel_is_left_out(backend):  # noqa: F811
    from tests.minidl_kernels.cupy.test_layers import NAMES as LAYERS

    assert sorted(backend.kernels) == sorted([*NAMES, *LAYERS, *PRODUCTS, "checked_index"])


@pytest.mark.parametrize(
    "name",
    ["gelu_grad", "softplus", "keyed_dropout", "softmax", "log_softmax_grad", "cross_entropy", "cross_entropy_grad",
     "layer_norm_backward", "rms_norm", "batch_norm", "batch_norm_backward", "adam_update", "sgd_update"],
)  # fmt: skip
def test_conforms(backend, name):  # noqa: F811
    """One of each kind; the others are with ``-m slow``."""
    for report in conformance.check(name, backend, dtypes=["float32"], max_examples=3):
        assert report.ok, str(report)


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_of_halves_add_up_in_float32(backend, name, rng):  # noqa: F811
    """4096 ones add up to 4096; in float16 they would stop at 2048."""
    x, y = np.ones((2, 4096), np.float16), np.ones((3, 4096), np.float16)
    found = dispatch.run(primitives[name], [asarray(x), asarray(y if name == "linear" else y.T.copy())], {})
    assert found.dtype == np.float16 and np.all(asnumpy(found) == 4096)
    for report in conformance.check(name, backend, dtypes=["float16"], max_examples=3):
        assert report.ok, str(report)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_conforms_thoroughly(backend, name):  # noqa: F811
    for report in conformance.check(name, backend, dtypes=["float32", "float64", "float16"], max_examples=60):
        assert report.ok, str(report)


def both(backend, name, args, params, dtype):  # noqa: F811
    """(outputs of the kernel, outputs of the reference in float64), both as float64 arrays; inputs rounded to dtype."""
    args = [a.astype(dtype) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a for a in args]
    with use_backend(backend, strict=True):
        count = len(launches)
        found = dispatch.run(primitives[name], [asarray(a) if isinstance(a, np.ndarray) else a for a in args], params)
        assert len(launches) > count, "no kernel ran"
    wide = [a.astype(np.float64) if isinstance(a, np.ndarray) and a.dtype.kind in "fV" else a for a in args]
    with plain():
        expected = primitives[name].reference(*wide, **params)
        own = dispatch.compute(primitives[name], args, params)
    as_tuple = lambda out: out if isinstance(out, tuple) else (out,)
    assert [o.dtype for o in as_tuple(found)] == [np.asarray(o).dtype for o in as_tuple(own)], name
    return [asnumpy(a) for a in as_tuple(found)], [np.asarray(a) for a in as_tuple(expected)]


EPS = {"float64": 2e-16, "float32": 1.2e-7, "float16": 1e-3, "bfloat16": 8e-3}


def dtype_named(name):
    if name == "bfloat16":
        return pytest.importorskip("ml_dtypes", reason="bfloat16 needs ml_dtypes").bfloat16
    return np.dtype(name)


PARAMETERS = {
    "gelu": [{"approximate": "none"}, {"approximate": "tanh"}], "softplus": [{"beta": 1.0, "threshold": 20.0}],
    "elu": [{"alpha": 0.5}], "leaky_relu": [{"negative_slope": 0.1}],
}  # fmt: skip


def cases(rng):
    x, g = rng.normal(size=(2, 5, 70))
    for name in ACTIVATIONS:
        for p in PARAMETERS.get(name, [{}]):
            kept = 1 / (1 + np.exp(-x)) if name == "sigmoid" else x
            yield name, [x], p
            yield f"{name}_grad", [g, kept], p
    for name in ("softmax", "log_softmax"):
        yield name, [x], {"axis": -1}
        yield name, [x], {"axis": 0}
        yield f"{name}_grad", [g, primitives[name].reference(x, axis=1)], {"axis": 1}
    w, b = rng.normal(size=(2, 70))
    for p in ({"normalized_shape": (70,), "eps": 1e-5}, {"normalized_shape": (5, 70), "eps": 1e-5}):
        affine = [w, b] if p["normalized_shape"] == (70,) else [None, None]
        yield "layer_norm", [x, *affine], p
        yield "layer_norm_backward", [g, x, affine[0]], p
        yield "rms_norm", [x, affine[0]], p
        yield "rms_norm_backward", [g, x, affine[0]], p
    image = rng.normal(size=(4, 3, 5))
    yield "batch_norm", [image, w[:3], b[:3]], {"eps": 1e-5}
    yield "sgd_update", [x, g, 0.1, 2, g], {"momentum": 0.9}
    yield "adam_update", [x, g, 0.1 * g, g * g, 0.01, 3], {"weight_decay": 0.1, "decoupled": True}


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_every_type(backend, dtype, rng):  # noqa: F811
    """Half precisions are as accurate as one rounding of the result: everything in between is float32."""
    for name, args, params in cases(rng):
        found, expected = both(backend, name, args, params, dtype_named(dtype))
        for f, e in zip(found, expected, strict=True):
            error = np.abs(f.astype(np.float64) - e)
            bound = EPS[dtype] * np.abs(e) + 16 * min(EPS[dtype], EPS["float32"]) * max(np.abs(e).max(), 1)
            # halves are spaced evenly near 0
            assert (error <= bound + (6e-8 if dtype == "float16" else 0)).all(), (name, params, error.max())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_cancels_leaves_nothing(backend, dtype, rng):  # noqa: F811
    """The only value of a row is its mean, whatever it is: no gradient. Products and sums are rounded together on a
    GPU, so that a product rounded and the same not rounded may differ."""
    x, g, w = (rng.normal(size=(9, 1)).astype(dtype) for _ in range(3))
    params = {"normalized_shape": (1,), "eps": 1e-5}
    found, _ = both(backend, "layer_norm_backward", [g, x, w[0]], params, dtype)
    assert not found[0].any()
    zero = np.zeros(9, dtype)
    args = [g[:, 0][None], zero, zero, x[:, 0][None], w[:, 0], x[:, 0], zero]
    found, _ = both(backend, "batch_norm_backward", args, {"eps": 1e-5}, dtype)
    assert not found[0].any()


@pytest.mark.parametrize("shape", [(5, 3, 7), (300, 2), (2, 2, 20, 31)])
def test_channels_in_parts(backend, shape, rng, monkeypatch):  # noqa: F811
    """As many blocks per channel as its values need."""
    normalization = importlib.import_module("minidl_kernels.cupy.normalization")
    monkeypatch.setattr(normalization, "_PART", 11)
    x, g = rng.normal(1, 2, size=(2, *shape))
    w, b, *more = rng.normal(size=(4, shape[1]))
    count = len(launches)
    (y, mean, var), expected = both(backend, "batch_norm", [x, w, b], {"eps": 1e-5}, np.float32)
    args = [g, *more, x, w, mean, var]
    grads, exact = both(backend, "batch_norm_backward", args, {"eps": 1e-5}, np.float32)
    assert [grid[1] > 1 for kernel, grid, _ in launches[count:]] == [True] * 4
    for f, e in zip([y, mean, var, *grads], [*expected, *exact], strict=True):
        np.testing.assert_allclose(f, e, rtol=1e-5, atol=1e-5 * max(1, np.abs(e).max()))


@pytest.mark.parametrize("n", [1, 31, 33, 128, 129, 1024, 1025, 3000])
def test_rows_of_any_length(backend, n, rng):  # noqa: F811
    """Teams of a warp, and of a block."""
    x, g, w = rng.normal(size=(7, n)), rng.normal(size=(7, n)), rng.normal(size=n)
    target = rng.integers(0, n, 7)
    for name, args, params in (
        ("softmax", [x], {"axis": -1}),
        ("log_softmax", [x], {"axis": -1}),
        ("layer_norm", [x, w, w], {"normalized_shape": (n,), "eps": 1e-5}),
        ("rms_norm_backward", [g, x, w], {"normalized_shape": (n,), "eps": 1e-5}),
        ("cross_entropy", [x, target, np.abs(w)], {"label_smoothing": 0.1, "ignore_index": int(target[0])}),
    ):
        found, expected = both(backend, name, args, params, np.float32)
        for f, e in zip(found, expected, strict=True):
            np.testing.assert_allclose(f, e, rtol=1e-5, atol=1e-5 * max(1, np.abs(e).max(initial=0)), err_msg=name)


def test_many_rows_are_added_up_in_parts(backend, rng):  # noqa: F811
    x, g = rng.normal(size=(2, 700, 3))
    found, expected = both(backend, "layer_norm_backward", [g, x, None], {"normalized_shape": (3,), "eps": 1e-5}, "f4")
    for f, e in zip(found, expected, strict=True):
        np.testing.assert_allclose(f, e, rtol=1e-4, atol=1e-4)
    assert any(grid == (1, 3) for name, grid, _ in launches if name.startswith("norm_rows_weight_grad"))


@pytest.mark.parametrize(
    ("key", "offset", "size"), [(0, 0, 1), (2**63 + 5, 7, 9), (3, 2**33 + 1, 17), (1, 3, 4096), (2**64 - 1, 2**62, 5)]
)
def test_bits_are_the_references(backend, key, offset, size, rng):  # noqa: F811
    with use_backend(backend, strict=True):
        bits = backend.kernels["random_bits"][0].function(key=key, offset=offset, size=size)
        x = rng.normal(size=size).astype(np.float32)
        dropped = ops.keyed_dropout(asarray(x), p=0.3, key=key, offset=offset)
    assert np.array_equal(asnumpy(bits), ops.random_bits.reference(key=key, offset=offset, size=size))
    assert np.array_equal(asnumpy(dropped), ops.keyed_dropout.reference(x, p=0.3, key=key, offset=offset))


def test_a_class_out_of_range_makes_the_loss_nan(backend, rng):  # noqa: F811
    logits, target = asarray(rng.normal(size=(3, 4)).astype(np.float32)), asarray(np.array([0, 4, 1]))
    with use_backend(backend, strict=True):
        loss, top, logsum, total = dispatch.run(
            primitives["cross_entropy"], [logits, target, None], {"reduction": "none"}
        )
        dx = dispatch.run(
            primitives["cross_entropy_grad"],
            [asarray(np.ones(3, np.float32)), logits, target, top, logsum, total, None],
            {"reduction": "none"},
        )
    assert list(np.isnan(asnumpy(loss))) == [False, True, False]
    assert list(np.isnan(asnumpy(dx)).any(axis=1)) == [False, True, False]


def test_updates_are_in_place(backend, rng):  # noqa: F811
    p, g = (asarray(a.astype(np.float32)) for a in rng.normal(size=(2, 5)))
    before = asnumpy(p)
    (new,) = dispatch.run(primitives["sgd_update"], [p, g, 0.5, 1, None], {})
    assert new is p
    np.testing.assert_allclose(asnumpy(p), before - 0.5 * asnumpy(g), rtol=1e-6)


def test_training_agrees_with_numpy(backend, rng):  # noqa: F811
    x, y = rng.normal(size=(8, 6)).astype(np.float32), rng.integers(0, 3, 8)

    def train(name):
        with use_backend(name):
            minidl.manual_seed(0)
            model = nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.GELU(), nn.Dropout(0.2), nn.Linear(16, 3))
            optimizer = optim.AdamW(model.parameters(), lr=1e-2)
            losses = []
            for _ in range(5):
                optimizer.zero_grad()
                loss = ops.cross_entropy(model(minidl.as_tensor(x)), minidl.as_tensor(y))
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
            return losses

    expected = train("numpy")
    assert expected[-1] < expected[0]
    np.testing.assert_allclose(train(backend), expected, rtol=1e-5)
