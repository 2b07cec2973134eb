"""Generated modules in a cache folder, and without one."""

import pytest

pytest.importorskip("numba", reason="the compiler is Numba's")

import numpy as np
from numba.core.caching import CacheImpl

import minidl
from minidl import as_tensor, ops
from minidl_kernels.numba.compiler import cache
from minidl_kernels.numba.simd import compiled


@pytest.fixture(autouse=True)
def nothing_loaded(monkeypatch):
    monkeypatch.setattr(cache, "_modules", {})


def check():
    """A jitted function gives the right values."""
    x = np.linspace(-2, 2, 7, dtype=np.float32)
    with minidl.use_backend("numba"):
        jitted = minidl.jit(lambda x: (ops.tanh(x * 3) + x).sum())
        for _ in range(2):
            found = jitted(x)
        np.testing.assert_allclose(found.numpy(), np.sum(np.tanh(x * 3) + x), rtol=1e-5)
        assert as_tensor(x).sum() is not None


def test_sources_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIDL_CACHE", str(tmp_path))
    check()
    (path,) = (tmp_path / "kernels").glob("k*.py")
    assert path.stem in cache._modules and not list((tmp_path / "kernels").glob("*.tmp"))
    path.write_text("raise SystemExit('cut off')")  # a damaged file is written anew
    cache._modules.clear()
    check()


def test_a_folder_that_cannot_be_made(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MINIDL_CACHE", str(tmp_path / "file" / "below"))
    with pytest.warns(RuntimeWarning, match="not kept for the next process"):
        check()
    assert cache._modules


def test_a_full_disk(tmp_path, monkeypatch):
    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("MINIDL_CACHE", str(tmp_path))
    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.warns(RuntimeWarning, match="not kept for the next process"):
        check()
    assert not list((tmp_path / "kernels").iterdir())


def test_numba_finds_no_place_for_what_it_compiled(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIDL_CACHE", str(tmp_path))
    monkeypatch.setattr(CacheImpl, "_locator_classes", [])
    with pytest.warns(RuntimeWarning, match="no folder for them can be written"):
        check()


def test_sources_differ_where_what_they_use_does(monkeypatch):
    before = cache.with_header("x")
    cache._stamp.cache_clear()
    monkeypatch.setattr(compiled, "_file", lambda path: ("another", set()))
    assert cache.with_header("x") != before
    cache._stamp.cache_clear()
