"""A stand-in for CuPy that needs no GPU: arrays are NumPy's, and kernels run on the host, compiled by g++ with
``cuda_host_shim.h``.

It is as strict as CuPy and stricter: NumPy arrays do not mix with device arrays, results are never NumPy scalars,
memory is not zero at first, and every launch is checked:

- the arguments' types are those of the kernel's parameters, arrays are contiguous;
- threads and blocks run in ascending order and, from the same start, in descending order: the results must have the
  same bits, or a barrier is missing, or two blocks meet;
- nothing is written outside the arrays, nor into those that the kernel takes as constant.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

COMPILER = shutil.which("g++")
_SHIM = Path(__file__).with_name("cuda_host_shim.h")
_GUARD = 256  # bytes around each array


class KernelError(AssertionError):
    """A kernel did what it must not do."""


# Arrays


class ndarray(np.lib.mixins.NDArrayOperatorsMixin):
    """A "device" array: it holds one of NumPy's, and has its methods, but is none itself."""

    def __init__(self, host: np.ndarray) -> None:
        self._host = host

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        _refuse_host(inputs)
        if out is not None:
            options["out"] = tuple(_plain(o) for o in out)
        result = getattr(ufunc, method)(*map(_plain, inputs), **options)
        if out is not None:
            return out[0] if len(out) == 1 else out
        return _device(result)

    def __array_function__(self, function: Any, kinds: Any, args: Any, options: Any) -> Any:
        _refuse_host(args)
        return _device(function(*_plain(args), **{k: _plain(v) for k, v in options.items()}))

    def __array__(self, *args: Any, **options: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__") and name not in ("__len__",):
            raise AttributeError(name)  # __array_interface__, say
        found = getattr(self._host, name)
        if not callable(found):
            return _device(found)

        @functools.wraps(found)
        def call(*args: Any, **options: Any) -> Any:
            _refuse_host(args)
            out = options.get("out")
            result = found(*_plain(args), **{k: _plain(v) for k, v in options.items()})
            return _device(result) if out is None else out

        return call

    def __getitem__(self, key: Any) -> Any:
        return _device(self._host[_plain(key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        _refuse_host((value,))
        self._host[_plain(key)] = _plain(value)

    def __len__(self) -> int:
        return len(self._host)

    def __iter__(self) -> Iterator[Any]:
        return map(_device, iter(self._host))

    def __bool__(self) -> bool:
        return bool(self._host)

    def __int__(self) -> int:
        return int(self._host)

    def __index__(self) -> int:
        return self._host.__index__()

    def __float__(self) -> float:
        return float(self._host)

    def __repr__(self) -> str:
        return f"fake {self._host!r}"

    def get(self, stream: Any, out: np.ndarray, blocking: bool) -> None:
        out[...] = self._host


def _plain(value: Any) -> Any:
    if isinstance(value, ndarray):
        return value._host
    if isinstance(value, (tuple, list)):
        return type(value)(map(_plain, value))
    return value


def _device(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return ndarray(np.asarray(value))
    return tuple(map(_device, value)) if isinstance(value, (tuple, list)) else value


def _refuse_host(values: Any) -> None:
    for v in values:
        if type(v) is np.ndarray:
            raise TypeError("Unsupported type <class 'numpy.ndarray'>")
        if isinstance(v, (tuple, list)):
            _refuse_host(v)


def empty(shape: Any, dtype: Any = float) -> ndarray:
    made = np.empty(shape, dtype)
    made.reshape(-1).view(np.uint8)[...] = 0xFF  # NaN, or -1
    return ndarray(made)


def asarray(value: Any, dtype: Any = None) -> ndarray:
    if isinstance(value, ndarray):
        return value if dtype is None or value.dtype == dtype else value.astype(dtype)
    return ndarray(np.array(value, dtype))


def asnumpy(value: Any) -> np.ndarray:
    return np.array(_plain(value))


def ascontiguousarray(value: ndarray) -> ndarray:
    return _device(np.ascontiguousarray(_plain(value)))  # as NumPy's, it gives a 0-d array an axis


def broadcast_to(value: ndarray, shape: tuple) -> ndarray:
    """Unlike NumPy's, it may be written to."""
    strides = np.broadcast_to(_plain(value), shape).strides
    return _device(np.lib.stride_tricks.as_strided(_plain(value), shape, strides))


def matmul(a: ndarray, b: ndarray, out: ndarray | None = None) -> ndarray:
    """cuBLAS adds up half precisions in float32; CuPy has no product of stacks of bfloat16 matrices."""
    _refuse_host((a, b, out))
    dtype = np.promote_types(a.dtype, b.dtype)
    if max(a.ndim, b.ndim) > 2 and dtype.name == "bfloat16":
        raise TypeError("matmul: stacks of bfloat16 matrices")
    work = np.float32 if dtype.itemsize < 4 else dtype
    result = np.matmul(_plain(a).astype(work), _plain(b).astype(work)).astype(dtype)
    if out is None:
        return _device(result)
    _plain(out)[...] = result
    return out


# Kernels


def _fused() -> list[str]:
    """Flags for products and sums to be rounded once, together, as they are on a GPU; where the processor can."""
    cpus = Path("/proc/cpuinfo")
    x86 = platform.machine() in ("x86_64", "AMD64")
    can = platform.machine() == "aarch64" or (x86 and cpus.exists() and " fma " in cpus.read_text())
    if not can:
        return ["-ffp-contract=off"]
    return ["-ffp-contract=fast", "-fexpensive-optimizations", *(["-mfma"] if x86 else [])]


_FUSED = _fused()


@functools.cache
def _library(code: str, options: tuple[str, ...], expressions: tuple[str, ...]) -> tuple[ctypes.CDLL, dict]:
    calls = "\n".join(f'        Call<{e}>::kernel("{e}"),' for e in expressions)
    program = f"""#include "{_SHIM}"
{code}
namespace host_cuda {{
std::vector<Kernel>& kernels() {{
    static std::vector<Kernel> all = {{
{calls}
    }};
    return all;
}}
}}
"""
    flags = ["-O1", "-fPIC", "-shared", "-w", *_FUSED, "-U_FORTIFY_SOURCE", "-fno-gnu-unique", *options]
    text = program + _SHIM.read_text() + repr(flags)
    folder = Path(tempfile.gettempdir()) / f"minidl-host-cuda-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    library = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=folder) as work:
            for header in ("cuda_fp16.h", "cuda_bf16.h"):  # what they have is in the shim
                Path(work, header).write_text("")
            Path(work, "program.cpp").write_text(program)
            command = [COMPILER or "g++", *flags, f"-I{work}", "program.cpp", "-o", "program.so"]
            done = subprocess.run(command, cwd=work, capture_output=True, text=True)
            if done.returncode:
                raise KernelError(f"g++ refuses the kernels:\n{done.stderr[:8000]}")
            os.replace(Path(work, "program.so"), library)
    loaded = ctypes.CDLL(str(library))
    for function in (loaded.host_cuda_name, loaded.host_cuda_signature, loaded.host_cuda_launch):
        function.restype = ctypes.c_char_p
    table = {}
    for i in range(loaded.host_cuda_count()):
        table[loaded.host_cuda_name(i).decode()] = (i, loaded.host_cuda_signature(i).decode().split())
    return loaded, table


class RawModule:
    def __init__(self, *, code: str, options: tuple, name_expressions: tuple, backend: str) -> None:
        assert backend == "nvrtc"
        self.library, self.table = _library(code, options, name_expressions)

    def get_function(self, name: str) -> Any:
        number, signature = self.table[name]
        return functools.partial(_launch, self.library, number, name, signature)


#: (kernel, grid, block) of every launch so far
launches: list[tuple[str, tuple, tuple]] = []
_one_at_a_time = threading.Lock()


def _launch(library: Any, number: int, name: str, signature: list, grid: tuple, block: tuple, args: tuple) -> None:
    launches.append((name, grid, block))
    _check_sizes(name, grid, block)
    if len(args) != len(signature):
        raise KernelError(f"{name} takes {len(signature)} arguments, got {len(args)}")
    for i, (a, code) in enumerate(zip(args, signature)):
        _check_type(f"argument {i} of {name}", a, code)
    arrays = {id(a): a for a in args if isinstance(a, ndarray)}
    _check_overlap(name, list(arrays.values()))
    before = {k: a.tobytes() for k, a in arrays.items()}
    results = []
    for descending in (False, True):
        memory = {k: _guarded(b) for k, b in before.items()}
        _run(library, number, name, grid, block, args, memory, descending)
        for k, m in memory.items():
            if (m[:_GUARD] != 0xFF).any() or (m[_GUARD + len(before[k]) :] != 0xFF).any():
                raise KernelError(f"{name} writes outside an array of shape {arrays[k].shape}")
        results.append({k: m[_GUARD : _GUARD + len(before[k])].tobytes() for k, m in memory.items()})
    if results[0] != results[1]:
        raise KernelError(f"{name}: the result depends on the order in which threads or blocks run")
    constant = {id(a) for a, code in zip(args, signature) if code[0] == "c" and isinstance(a, ndarray)}
    constant -= {id(a) for a, code in zip(args, signature) if code[0] == "p" and isinstance(a, ndarray)}
    for k, a in arrays.items():
        if k in constant:
            if results[0][k] != before[k]:
                raise KernelError(f"{name} writes to a constant array")
        else:
            _plain(a)[...] = np.frombuffer(results[0][k], a.dtype).reshape(a.shape)


def _check_sizes(name: str, grid: tuple, block: tuple) -> None:
    grid, block = (grid + (1, 1))[:3], (block + (1, 1))[:3]
    if not all(type(n) is int and n >= 1 for n in (*grid, *block)):
        raise KernelError(f"{name}: grid {grid} and block {block} must be positive ints")
    if grid[0] >= 2**31 or max(grid[1:]) > 65535 or np.prod(block) > 1024:
        raise KernelError(f"{name}: grid {grid} or block {block} is beyond CUDA's limits")


def _check_type(what: str, a: Any, code: str) -> None:
    if code[0] in "cp" and code != "cp":
        if isinstance(a, np.uintp) and a == 0:
            return
        if not isinstance(a, ndarray) or a.dtype.name != code[1:]:
            raise KernelError(f"{what} is a pointer to {code[1:]}, got {getattr(a, 'dtype', type(a))}")
        if not a.flags.c_contiguous:
            raise KernelError(f"{what} is not contiguous")
    elif not isinstance(a, np.generic) or a.dtype.name != code:
        raise KernelError(f"{what} is {code}, got {a!r} of {type(a)}")


def _check_overlap(name: str, arrays: list) -> None:
    for i, a in enumerate(arrays):
        for b in arrays[:i]:
            if np.may_share_memory(_plain(a), _plain(b)):
                raise KernelError(f"{name}: two arguments share memory")


def _guarded(contents: bytes) -> np.ndarray:
    memory = np.full(len(contents) + 2 * _GUARD, 0xFF, np.uint8)
    memory[_GUARD : _GUARD + len(contents)] = np.frombuffer(contents, np.uint8)
    return memory


def _run(library, number, name, grid, block, args, memory, descending) -> None:
    values = []
    for a in args:
        if isinstance(a, ndarray):
            values.append(np.array([memory[id(a)].ctypes.data + _GUARD], np.uintp))
        else:
            values.append(np.array([a]))
    pointers = (ctypes.c_void_p * len(values))(*(v.ctypes.data for v in values))
    size = lambda n: (ctypes.c_uint * 3)(*(n + (1, 1))[:3])
    with _one_at_a_time:
        error = library.host_cuda_launch(number, size(grid), size(block), pointers, int(descending))
    if error:
        raise KernelError(f"{name}: {error.decode()}")


# The module


class _Stream:
    #: what the streams were told, in order
    log: list = []

    def __init__(self, non_blocking: bool = False) -> None:
        self.non_blocking = non_blocking

    def __enter__(self) -> _Stream:
        _streams.append(self)
        return self

    def __exit__(self, *_: Any) -> None:
        _streams.pop()

    def record(self) -> Any:
        self.log.append(("record", self))
        return types.SimpleNamespace(stream=self, done=True, synchronize=lambda: self.log.append(("wait for", self)))

    def wait_event(self, event: Any) -> None:
        self.log.append(("wait", self, event.stream))


class _Pool:
    limit = 0

    def set_limit(self, size: int | None = None, fraction: float | None = None) -> None:
        self.limit = size if fraction is None else int(fraction * 1000)

    def get_limit(self) -> int:
        return self.limit

    def used_bytes(self) -> int:
        return 1

    total_bytes = used_bytes

    def free_all_blocks(self) -> None:
        self.freed = True


_streams = [_Stream()]


def _numpy_function(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    target = getattr(np, name)
    if not callable(target) or isinstance(target, (type, np.ufunc)):
        return target  # (a ufunc asks the array's __array_ufunc__)

    @functools.wraps(target)
    def call(*args: Any, **options: Any) -> Any:
        _refuse_host(args)
        return _device(target(*_plain(args), **{k: _plain(v) for k, v in options.items()}))

    return call


def module() -> types.ModuleType:
    """A module to stand for ``cupy``; it has NumPy's functions, and CuPy's own that the backend uses."""
    made = types.ModuleType("cupy")
    made.__version__ = "fake"
    for value in (ndarray, RawModule, empty, asarray, asnumpy, ascontiguousarray, broadcast_to, matmul):
        setattr(made, value.__name__, value)
    runtime = types.SimpleNamespace(
        getDeviceCount=lambda: 1, getDeviceProperties=lambda i: {"name": b"Fake GPU"}, runtimeGetVersion=lambda: 0
    )
    device = types.SimpleNamespace(synchronize=lambda: None, id=0, compute_capability="70", mem_info=(1 << 30, 2 << 30))
    made.cuda = types.SimpleNamespace(
        runtime=runtime, Device=lambda: device, Stream=_Stream, get_current_stream=lambda: _streams[-1],
        alloc_pinned_memory=bytearray,
    )  # fmt: skip
    pool, pinned_pool = _Pool(), _Pool()
    made.get_default_memory_pool, made.get_default_pinned_memory_pool = lambda: pool, lambda: pinned_pool
    as_strided = lambda x, *args: _device(np.lib.stride_tricks.as_strided(_plain(x), *args))
    made.lib = types.SimpleNamespace(stride_tricks=types.SimpleNamespace(as_strided=as_strided))
    made.__getattr__ = _numpy_function
    return made


def special() -> types.ModuleType:
    """A module to stand for ``cupyx.scipy.special``."""
    import scipy.special

    made = types.ModuleType("cupyx.scipy.special")
    for name in ("erf", "ndtr"):
        setattr(made, name, lambda x, name=name: _device(getattr(scipy.special, name)(_plain(x))))
    return made


def _forget_backend() -> None:
    """Take out the cupy backend and its modules, whichever CuPy they were loaded with."""
    from minidl.core import registry

    for name in [n for n in sys.modules if n.startswith("minidl_kernels.cupy.")]:
        if name != "minidl_kernels.cupy.source":
            del sys.modules[name]
    backend = registry.backends.pop("cupy", None)
    if backend is not None:
        registry.device_types.pop(backend.array_type, None)
    registry.failures.pop("cupy", None)


@contextlib.contextmanager
def installed() -> Iterator[Any]:
    """Inside, ``import cupy`` gives the stand-in, and the cupy backend (which this gives) is loaded with it."""
    from minidl_kernels.cupy import make_backend

    names = {"cupy": module(), "cupyx.scipy.special": special()}
    before = {name: sys.modules.get(name) for name in names}
    _forget_backend()
    sys.modules.update(names)
    try:
        yield make_backend()
    finally:
        _forget_backend()
        for name, value in before.items():
            if value is None:
                del sys.modules[name]
            else:
                sys.modules[name] = value


needs_compiler = pytest.mark.skipif(COMPILER is None, reason="CUDA kernels run on the host only where there is g++")


@pytest.fixture(scope="module")
def backend() -> Iterator[Any]:
    with installed() as made:
        yield made
