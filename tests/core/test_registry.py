"""Which kernel serves which call: registration, predicates, strict mode, devices, entry points, environment."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import minidl
from minidl import as_tensor, ops, use_backend
from minidl.backend import (
    Backend,
    BackendError,
    available,
    backend_of,
    explain,
    get_backend,
    kernel,
    load,
    namespace,
    register,
    set_backend,
    set_strict,
    to_numpy,
    unregister_kernel,
)
from minidl.core import context, registry
from minidl.core.context import current


class Toy(Backend):
    """A backend on NumPy's arrays, as numba is."""

    name = "toy"
    priority = 1000  # above those of backends that other tests may have loaded


class ToyArray(np.ndarray):
    """Stands for an array on a device."""


class ToyDevice(Backend):
    name = "toydevice"
    device = "toydevice"
    array_type = ToyArray

    def asarray(self, value, dtype=None):
        if isinstance(value, ToyArray) and dtype in (None, value.dtype):
            return value
        return np.asarray(value, dtype=dtype).view(ToyArray)

    def to_numpy(self, array):
        return np.asarray(array)


@pytest.fixture
def toy():
    backend = register(Toy())
    yield backend
    _forget("toy")


@pytest.fixture
def device():
    backend = register(ToyDevice())
    yield backend
    del registry.device_types[ToyArray]
    _forget("toydevice")


def _forget(name):
    set_backend("numpy")
    registry.backends.pop(name, None)
    registry._pending.pop(name, None)


def test_the_default_is_numpy():
    assert get_backend().name == "numpy" and load("numpy") is get_backend()
    assert namespace(np.ones(2)) is np and backend_of(np.ones(2)).name == "numpy"


def test_a_kernel_serves_its_backend_only(toy):
    @kernel("exp", backend="toy")
    def toy_exp(x):
        return np.full_like(x, 7)

    assert ops.exp(as_tensor([0.0])).item() == 1
    with use_backend("toy"):
        assert ops.exp(as_tensor([0.0])).item() == 7
        assert ops.exp(np.zeros(1)).item() == 7
        assert as_tensor([0.0]).exp().item() == 7
        assert ops.sin(as_tensor([0.0])).item() == 0  # the reference
    assert ops.exp(as_tensor([0.0])).item() == 1
    set_backend(toy)
    assert ops.exp(as_tensor([0.0])).item() == 7


def test_operators_and_gradients_use_kernels(toy):
    calls = []

    @kernel("mul", backend="toy")
    def toy_mul(x, y):
        calls.append("mul")
        return np.multiply(x, y)

    @kernel("tanh_grad", backend="toy")
    def toy_tanh_grad(g, out):
        calls.append("tanh_grad")
        return g * (1 - out * out)

    with use_backend("toy"):
        x = as_tensor([0.5], requires_grad=True)
        (ops.tanh(x) * 3.0).sum().backward()
    assert calls == ["mul", "tanh_grad"]
    np.testing.assert_allclose(x.grad, 3 * (1 - np.tanh(0.5) ** 2), rtol=1e-6)


def test_the_predicate_decides_and_the_last_registered_is_asked_first(toy):
    @kernel("exp", backend="toy")
    def general(x):
        return np.full_like(x, 1)

    @kernel("exp", backend="toy", when=lambda x: x.ndim == 2)
    def for_matrices(x):
        return np.full_like(x, 2)

    with use_backend("toy"):
        assert ops.exp(np.zeros(3))[0] == 1
        assert ops.exp(np.zeros((3, 3)))[0, 0] == 2
        unregister_kernel(for_matrices)
        assert ops.exp(np.zeros((3, 3)))[0, 0] == 1
        unregister_kernel(general)
        assert ops.exp(np.zeros(3))[0] == 1.0


def test_the_predicate_sees_static_parameters(toy):
    seen = {}

    @kernel("sum", backend="toy", when=lambda x, **params: seen.update(params) or False)
    def never(x, **params):
        raise AssertionError

    with use_backend("toy"):
        assert ops.sum(np.ones((2, 3)), axis=1).tolist() == [3, 3]
    assert seen["axis"] == 1


def test_a_kernel_may_be_registered_before_its_backend():
    @kernel("exp", backend="toy")
    def early(x):
        return np.full_like(x, 9)

    try:
        with use_backend(register(Toy())):
            assert ops.exp(np.zeros(1))[0] == 9
    finally:
        _forget("toy")


def test_strict_mode_makes_falling_back_an_error(toy):
    @kernel("exp", backend="toy", when=lambda x: x.size > 2)
    def large_only(x):
        return np.exp(x)

    with use_backend("toy", strict=True):
        ops.exp(np.zeros(3))
        with pytest.raises(BackendError, match=r"strict mode.*'toy'.*exp\(float64\[1\]"):
            ops.exp(np.zeros(1))
        with pytest.raises(BackendError, match=r"sin.*explain\('sin'\)"):
            ops.sin(as_tensor([0.0]))
        with pytest.raises(BackendError, match="add"):
            as_tensor([0.0]) + 1.0
    assert not current().strict
    as_tensor([0.0]) + 1.0
    set_strict(True)
    as_tensor([0.0]) + 1.0  # on numpy the reference is the kernel


def test_use_backend_restores_after_an_error(toy):
    with pytest.raises(ZeroDivisionError), use_backend("toy", strict=True):
        raise ZeroDivisionError
    assert get_backend().name == "numpy" and not current().strict


def test_unknown_and_broken_backends_say_why(monkeypatch):
    with pytest.raises(BackendError, match=r"unknown backend 'nonsense'; known: .*numpy"):
        load("nonsense")

    class Broken:
        name = "broken"

        def load(self):
            raise ImportError("no module named libfoo")

    points = {"broken": Broken()}
    monkeypatch.setattr("minidl.core.registry._entry_points", lambda: points)
    with pytest.raises(BackendError, match=r"'broken' cannot be used here: ImportError: no module named libfoo"):
        set_backend("broken")
    assert "libfoo" in available()["broken"] and available()["numpy"] == "ok"
    assert get_backend().name == "numpy"


@pytest.mark.parametrize("name", ["numba", "jax"])
def test_a_backend_whose_library_is_missing_names_the_extra(name, tmp_path):
    for module in ("numba", "jax"):
        (tmp_path / f"{module}.py").write_text(f"raise ModuleNotFoundError('no {module}')")
    code = f"import minidl; print(minidl.backend.available()[{name!r}])"
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    assert f'pip install "minidl[{name}]"' in _python(code, PYTHONPATH=path).stdout


def test_entry_points_are_found_and_loaded_once(monkeypatch):
    made = []

    class Point:
        def load(self):
            return lambda: made.append(1) or Toy()

    monkeypatch.setattr("minidl.core.registry._entry_points", lambda: {"toy": Point()})
    try:
        assert load("toy") is load("toy") and made == [1]
        assert minidl.backend.fastest_installed().name == "toy" and load("auto").name == "toy"
        with use_backend("auto"):
            assert get_backend().name == "toy"
    finally:
        _forget("toy")


def test_explain(toy):
    @kernel("exp", backend="toy", when=lambda x: x.ndim == 2, dtypes=("float32",), note="tiled")
    def tiled_exp(x):
        return np.exp(x)

    first, last = explain("exp", backend="toy")
    assert "tiled_exp" in first["served_by"] and first["note"] == "tiled" and first["dtypes"] == "float32"
    assert last["served_by"].startswith("reference") and last["when"] == "otherwise"
    (only,) = explain("sin", backend="toy")
    assert only["when"] == "always" and "no kernel" in only["note"]
    assert {row["primitive"] for row in explain()} == set(ops.primitives)
    with pytest.raises(BackendError, match="nonsense"):
        explain("nonsense")


def test_the_condition_in_words():
    def rows_of_eight(x):
        """Rows of eight."""
        return x.shape[-1] == 8

    try:
        register(Toy())
        kernel("exp", backend="toy", when=rows_of_eight)(lambda x: x)
        assert explain("exp", backend="toy")[0]["when"] == "Rows of eight."
    finally:
        _forget("toy")


# Devices


def test_data_on_a_device_stays_there(device):
    x = as_tensor([1.0, 2.0], device="toydevice", requires_grad=True)
    assert type(x.array) is ToyArray and x.device == "toydevice"
    assert get_backend().name == "numpy"
    y = (ops.exp(x) * 2 + np.array([1.0, 1.0], np.float32)).sum()
    assert type(ops.exp(x).array) is ToyArray
    y.backward()
    assert x.grad.device == "toydevice"
    np.testing.assert_allclose(to_numpy(x.grad.array), 2 * np.exp([1, 2]), rtol=1e-6)
    assert type(x.detach().numpy()) is np.ndarray
    assert "device='toydevice'" in repr(x)


def test_kernels_of_a_device_serve_its_arrays_whatever_backend_is_active(device):
    @kernel("exp", backend="toydevice")
    def device_exp(x):
        return np.full_like(x, 5)

    assert ops.exp(as_tensor([0.0], device="toydevice")).array[0] == 5
    assert ops.exp(as_tensor([0.0])).item() == 1


def test_host_constants_are_moved_beside_device_arrays(device):
    seen = []

    @kernel("where", backend="toydevice")
    def device_where(condition, x, y):
        seen.append(tuple(type(a) for a in (condition, x, y)))
        return np.where(condition, x, y).view(ToyArray)

    ops.where(np.array([True, False]), as_tensor([1.0, 2.0], device="toydevice"), 0.0)
    assert seen == [(ToyArray, ToyArray, float)]


def test_moving_between_devices(device):
    x = as_tensor([1.0, 2.0])
    y = x.to("toydevice")
    assert type(y.array) is ToyArray and type(x.array) is np.ndarray
    assert type(y.to("cpu").array) is np.ndarray and y.to("toydevice") is y
    with use_backend("toydevice"):
        assert type(as_tensor([1.0]).array) is ToyArray
        assert type(minidl.zeros(2).array) is ToyArray
    assert type(minidl.zeros(2, device="toydevice").array) is ToyArray
    assert type(minidl.zeros_like(y).array) is ToyArray


def test_gradients_of_host_tensors_stay_on_the_host_while_a_device_is_active(device):
    x = as_tensor([1.0, 2.0], requires_grad=True)
    with use_backend("toydevice"):
        (x * x).sum().backward()
    assert type(x.grad.array) is np.ndarray


# Choosing by the environment


def _python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def test_environment_variables():
    code = "import minidl; from minidl.core.context import current; print(current().backend.name, current().strict)"
    assert _python(code, MINIDL_BACKEND="numpy").stdout.split() == ["numpy", "False"]
    assert _python(code, MINIDL_STRICT="1").stdout.split() == ["numpy", "True"]
    failed = _python(code, MINIDL_BACKEND="nonsense")
    assert failed.returncode != 0 and "unknown backend 'nonsense'" in failed.stderr


def _in_a_thread(function):
    """What ``function`` returns in a thread of its own."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


def test_a_new_thread_starts_with_the_choices_of_the_process(toy):
    set_backend("toy")
    set_strict(True)
    assert _in_a_thread(lambda: (get_backend().name, current().strict)) == ("toy", True)
    with use_backend("numpy", strict=False), minidl.no_grad():
        assert _in_a_thread(lambda: (get_backend().name, current().strict, minidl.is_grad_enabled())) == (
            "toy", True, True,
        )  # fmt: skip
        set_backend("numpy")  # for the rest of the block
        assert _in_a_thread(lambda: get_backend().name) == "toy"
    assert get_backend().name == "toy"


def test_what_is_set_in_a_block_of_another_kind_stays():
    with minidl.no_grad():
        set_strict(True)
    assert current().strict and minidl.is_grad_enabled() and current() is context.process


def test_threads_do_not_disturb_each_other(toy):
    """Two threads, each with its own backend, modes and seed, that take turns."""
    turns = threading.Barrier(2, timeout=30)

    def work(name, strict, recording, seed):
        seen = []
        for _ in range(20):
            with use_backend(name, strict=strict), minidl.enable_grad() if recording else minidl.no_grad():
                turns.wait()
                generator = minidl.manual_seed(seed)
                turns.wait()
                seen.append((get_backend().name, current().strict, minidl.is_grad_enabled(), generator.bits(1)[0]))
                turns.wait()
        return seen

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(work, "toy", True, True, 1)
        second = pool.submit(work, "numpy", False, False, 2)
    bits = [minidl.Generator(seed).bits(1)[0] for seed in (1, 2)]
    assert first.result() == [("toy", True, True, bits[0])] * 20
    assert second.result() == [("numpy", False, False, bits[1])] * 20
    assert get_backend().name == "numpy" and not current().strict and minidl.is_grad_enabled()


def test_dir_lists_only_what_is_there():
    assert {"exp", "nn", "jit", "Tensor"} <= set(dir(minidl))
    assert not [name for name in dir(minidl) if not hasattr(minidl, name)]


def test_import_leaves_the_environment_alone():
    """minidl has NumPy's BLAS put idle threads to sleep soon, by a setting that BLAS reads when it is loaded."""
    code = (
        "import os; before = dict(os.environ); import minidl, sys; assert dict(os.environ) == before; "
        "assert 'numpy' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
