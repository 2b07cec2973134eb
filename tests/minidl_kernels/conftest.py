"""What the tests of kernels share."""

import numpy as np
import pytest


@pytest.fixture(scope="session")
def agree():
    """``agree(name, *arrays, **params)``: the numba kernel gives what the reference gives, into new arrays and into
    given ones, and the same bits on one thread as on all. Returns the outputs as a tuple."""
    numba = pytest.importorskip("numba", reason="the numba backend needs numba (pip install 'minidl[numba]')")
    from minidl.backend import load
    from minidl.ops import primitives
    from minidl.testing.reference import plain

    backend = load("numba")

    def call(function, arrays, params, **more):
        found = function(*[a.copy() if isinstance(a, np.ndarray) else a for a in arrays], **params, **more)
        return found if isinstance(found, tuple) else (found,)

    def check(name, *arrays, rtol=2e-5, atol=2e-6, **params):
        kernel = next((k for k in backend.kernels[name] if k.when is None or k.when(*arrays, **params)), None)
        assert kernel is not None, f"no kernel of {name} accepts the call"
        with plain():
            expected = call(primitives[name].reference, arrays, params)
        found = call(kernel.function, arrays, params)
        given = tuple(np.full(e.shape, 77).astype(e.dtype) for e in map(np.asarray, expected))
        returned = call(kernel.function, arrays, params, out=given)
        all_threads = numba.get_num_threads()
        try:
            numba.set_num_threads(1)
            alone = call(kernel.function, arrays, params)
        finally:
            numba.set_num_threads(all_threads)
        assert len(found) == len(expected)
        for e, f, g, r, a in zip(expected, found, given, returned, alone):
            e = np.asarray(e)
            assert (f.shape, f.dtype) == (e.shape, e.dtype)
            scale = np.abs(e[np.isfinite(e)]).max(initial=1.0)
            np.testing.assert_allclose(f, e, rtol=rtol, atol=atol * scale, err_msg=name)
            assert r is g
            np.testing.assert_array_equal(g, f, err_msg=f"{name} with out=")
            np.testing.assert_array_equal(a, f, err_msg=f"{name} on one thread")
        return found

    return check
