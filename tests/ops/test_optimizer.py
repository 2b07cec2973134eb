"""The update primitives: pure, of the parameter's dtype, in the registry, and right on other array namespaces."""

import numpy as np
import pytest

from minidl import ops
from minidl.core.registry import primitives

# primitive: required and optional state ("p" like the parameter, "0" a scalar), takes the step?, options
UPDATES = {
    "sgd_update": ("", "", True, {}),
    "sgd_update momentum": ("", "p", True, {"momentum": 0.9, "dampening": 0.1, "weight_decay": 0.01}),
    "adam_update": ("pp", "", True, {"weight_decay": 0.01}),
    "adam_update amsgrad": ("pp", "p", True, {"decoupled": True, "weight_decay": 0.01}),
    "rmsprop_update": ("p", "", False, {}),
    "rmsprop_update centered": ("p", "pp", False, {"momentum": 0.9}),
    "adagrad_update": ("p", "", True, {"lr_decay": 0.1}),
    "adadelta_update": ("pp", "", False, {}),
    "nadam_update": ("pp0", "", True, {}),
    "radam_update": ("pp", "", True, {"maximize": True}),
    "lamb_update": ("pp", "", True, {"weight_decay": 0.01}),
    "lars_update": ("p", "", False, {"weight_decay": 0.01}),
    "lion_update": ("p", "", False, {"weight_decay": 0.01}),
    "muon_update": ("p", "", False, {}),
}


def inputs(case, dtype, step=3, seed=0):
    """(p, g, *state, lr[, step], *optional) with a plausible state: averages of squares above those of the mean."""
    required, optional, counted, options = UPDATES[case]
    rng = np.random.default_rng(seed)

    def state(kind):
        return np.asarray(0.2, dtype) if kind == "0" else (1 + rng.random((4, 3))).astype(dtype)

    p, g = (rng.normal(size=(4, 3)).astype(dtype) for _ in range(2))
    scalars = (0.1, step) if counted else (0.1,)
    args = [p, g, *map(state, required), *scalars, *map(state, optional)]
    if case == "rmsprop_update centered":
        args[4] = 0.1 * args[4]  # the mean gradient, whose square is below the mean square
    return args, options


def prim(case):
    return primitives[case.split()[0]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("step", [1, 3, 1000])
@pytest.mark.parametrize("case", UPDATES)
def test_pure_same_dtype_and_one_output_per_array(case, step, dtype):
    args, options = inputs(case, dtype, step)
    kept = [np.copy(a) for a in args]
    out = prim(case)(*args, **options)
    assert type(out) is tuple
    arrays = [a for a in args if isinstance(a, np.ndarray)]
    assert [(o.shape, o.dtype) for o in out] == [(a.shape, dtype) for a in arrays[:1] + arrays[2:]]
    assert all(np.isfinite(o).all() for o in out)
    for a, k in zip(args, kept):
        np.testing.assert_array_equal(a, k)
    assert not any(np.shares_memory(o, a) for o in out for a in arrays)
    assert not prim(case).differentiable
    assert set(prim(case).donated) <= set(prim(case).inputs)


@pytest.mark.parametrize("step", [1, 5, 1000])
@pytest.mark.parametrize("case", UPDATES)
def test_float32_is_near_float64(case, step):
    low, options = inputs(case, np.float32, step)
    high, _ = inputs(case, np.float64, step)
    for a, b in zip(prim(case)(*low, **options), prim(case)(*high, **options)):
        np.testing.assert_allclose(a, b, rtol=1e-4 if case == "muon_update" else 1e-5, atol=1e-6)


@pytest.mark.parametrize("step", [1, 5, 1000])
@pytest.mark.parametrize("case", UPDATES)
def test_the_reference_compiles_on_jax(case, step):
    jax = pytest.importorskip("jax", reason="runs the references on jax.numpy")
    from minidl.core.errors import BackendError
    from minidl.core.registry import load

    try:
        load("jax")
    except BackendError:
        pytest.skip("the jax backend is not installed")
    args, options = inputs(case, np.float32, step)
    traced = jax.jit(lambda *a: prim(case)(*a, **options))(*map(jax.numpy.asarray, args))
    for a, b in zip(traced, prim(case)(*args, **options), strict=True):
        np.testing.assert_allclose(np.asarray(a), b, rtol=2e-5, atol=2e-6)


def test_newton_schulz_orthogonalizes():
    rng = np.random.default_rng(0)
    for shape in [(8, 3), (3, 8), (5, 5)]:
        p = np.zeros(shape)
        out, _ = ops.muon_update(
            p, rng.normal(size=shape), np.zeros(shape), 1.0, weight_decay=0.0, adjust_lr_fn="original", ns_steps=10
        )
        scale = np.sqrt(max(1, shape[0] / shape[1]))
        values = np.linalg.svd(-out / scale, compute_uv=False)
        assert values.min() > 0.6
        assert values.max() < 1.3


def test_muon_refuses_vectors():
    with pytest.raises(ValueError, match=r"muon_update: expected a matrix, got float64\[3\]"):
        ops.muon_update(np.zeros(3), np.zeros(3), np.zeros(3), 0.1)


def test_ema_update():
    average, p = np.array([1.0, 2.0], np.float32), np.array([3.0, 6.0], np.float32)
    out = ops.ema_update(average, p, np.array(0.75))
    assert out.dtype == np.float32
    np.testing.assert_array_equal(out, [1.5, 3.0])
    np.testing.assert_array_equal(average, [1, 2])
