"""The cupy backend around its kernels: loading, memory, streams, copies; with a stand-in for CuPy."""

import sys
import types

import numpy as np
import pytest

from minidl.core.errors import BackendError
from minidl.core.registry import backends, load
from minidl_kernels.cupy import make_backend
from tests.minidl_kernels.cupy.fake_cupy import asarray, backend, needs_compiler  # noqa: F401


def test_without_cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.delitem(backends, "cupy", raising=False)
    with pytest.raises(BackendError, match=r'the cupy backend needs CuPy: pip install "minidl\[cupy\]"'):
        load("cupy")


def test_without_a_gpu(monkeypatch):
    def raises():
        raise RuntimeError("CUDA driver version is insufficient")

    for count, message in ((raises, "finds no CUDA device: CUDA driver"), (lambda: 0, "finds no CUDA device$")):
        fake = types.SimpleNamespace(runtime=types.SimpleNamespace(getDeviceCount=count))
        monkeypatch.setitem(sys.modules, "cupy", types.SimpleNamespace(cuda=fake, __version__="14.0"))
        with pytest.raises(RuntimeError, match=message):
            make_backend()


def test_facts(backend):  # noqa: F811
    info = backend.info()
    assert info["device"] == "Fake GPU (cuda:0, compute capability 70)"
    assert info["memory"] == "1.0 of 2.0 GiB free"
    assert (backend.device, backend.array_type) == ("cuda", type(asarray(1.0)))


def test_arrays_move(backend):  # noqa: F811
    x = backend.asarray([1.0, 2.0], dtype=np.float32)
    assert isinstance(x, backend.array_type) and x.dtype == np.float32
    back = backend.to_numpy(x)
    assert type(back) is np.ndarray and back.tolist() == [1, 2]


def test_memory_limit(backend):  # noqa: F811
    backend.set_memory_limit(size=512)
    assert backend.memory() == {"pool used": 1, "pool held": 1, "pool limit": 512}
    backend.set_memory_limit(fraction=0.5)
    assert backend.memory()["pool limit"] == 500
    backend.set_memory_limit()
    assert backend.memory()["pool limit"] == 0
    backend.free_memory()
    with pytest.raises(ValueError, match="size or fraction, not both"):
        backend.set_memory_limit(1, 0.5)


def test_stream_waits_and_is_waited_for(backend):  # noqa: F811
    import cupy

    from minidl_kernels.cupy import stream

    outside = cupy.cuda.get_current_stream()
    cupy.cuda.Stream.log.clear()
    with stream() as inside:
        assert cupy.cuda.get_current_stream() is inside and inside.non_blocking
    with pytest.raises(KeyError), stream():
        raise KeyError
    assert cupy.cuda.get_current_stream() is outside
    log = cupy.cuda.Stream.log
    assert log[:4] == [("record", outside), ("wait", inside, outside), ("record", inside), ("wait", outside, inside)]
    assert len(log) == 8  # also after an exception


def test_copies_to_the_host(backend):  # noqa: F811
    from minidl_kernels.cupy import copy_to_host, pinned

    for values in (np.arange(6.0).reshape(2, 3), np.float32(3), np.zeros((0, 2))):
        pending = copy_to_host(asarray(values))
        assert pending.done
        found = pending.wait()
        np.testing.assert_array_equal(found, values)
        assert found.dtype == values.dtype
        assert type(pinned(values)) is np.ndarray
    transposed = asarray(np.arange(6.0).reshape(2, 3)).T
    np.testing.assert_array_equal(copy_to_host(transposed).wait(), np.arange(6.0).reshape(2, 3).T)


def test_assigning_copies(backend):  # noqa: F811
    """Optimizers write into the arrays of parameters: two parameters must not have one."""
    import minidl
    from minidl.backend import use_backend

    with use_backend(backend):
        source, target = minidl.as_tensor(np.zeros(3, np.float32)), minidl.as_tensor(np.ones(3, np.float32))
        target.assign_(source)
        source.array[...] = 7
        np.testing.assert_array_equal(target.numpy(), np.zeros(3))
        target.assign_(target)
        target.assign_(2)
        np.testing.assert_array_equal(target.numpy(), np.full(3, 2))
        assert target.array.flags.c_contiguous


def test_package_has_no_other_names():
    import minidl_kernels.cupy

    with pytest.raises(AttributeError, match="no attribute 'missing'"):
        _ = minidl_kernels.cupy.missing


@needs_compiler
def test_explains_what_serves(backend):  # noqa: F811
    from minidl.backend import explain

    rows = explain("conv2d", "cupy")
    assert rows[0]["note"] == "im2col and cuBLAS" and "float16" in rows[0]["dtypes"]
    assert rows[-1]["served_by"] == "reference (cupy)"
