"""The ``cupy`` backend: minidl on NVIDIA GPUs.

Needs an NVIDIA GPU of compute capability 7.0 (Volta) or newer with its driver, and ``pip install "minidl[cupy]"``.
Choose it as any backend: ``minidl.set_backend("cupy")``, ``MINIDL_BACKEND=cupy``, ``--backend cupy``. Arrays are
``cupy.ndarray``, on device ``"cuda"``; primitives run on them by a CUDA kernel of this package where fusion pays, else
by their reference on CuPy's functions. ``minidl.backend.explain(backend="cupy")`` tells which.

The kernels
-----------
Each family has two files, named as its file in ``minidl/ops``: ``softmax.cu`` holds the CUDA kernels, ``softmax.py``
registers the functions that start them. Read ``common.cuh`` first (element types, rows and teams, random bits), then
``softmax.cu`` (a short one), ``source.py`` (which kernels there are) and ``launch.py`` (how they are started). NVRTC
compiles a file for the dtype in use when it is first needed, a few seconds once: CuPy keeps the result in
``~/.cupy/kernel_cache``.

Matrix products, and convolutions turned into them, are cuBLAS's. All other kernels are written to be read, and to give
the same bits in every run: no atomics, sums in a fixed order.

Without a GPU, ``pytest tests/minidl_kernels/cupy`` compiles every kernel for compute capability 7.0 (and, with
bfloat16, for 8.0 and 9.0; where NVRTC or nvcc is installed), and runs one of each kind (with ``-m slow`` all)
compiled as C++ for the host (where g++ is), thread by thread, through the conformance suite. Where there is a GPU,
``pytest -m gpu`` runs the suite on it (last on an H200), and ``python -m benchmarks.gpu_steps`` times training steps
beside PyTorch's.

What is left to gain: attention uses no tensor cores (matrix products do), and convolutions write their columns to
memory.

Half precision
--------------
Arrays may be float16, or bfloat16 (package ``ml_dtypes``, CuPy 14): values are stored so, and every kernel computes and
adds up in float32. What a formula keeps for its gradient, and optimizers' states, stay float32 (``Acc<T>`` in the
sources); LSTM and GRU are widened as a whole. Gradients in float16 underflow unless the loss is scaled: see
:class:`minidl.optim.GradScaler`.

Memory and streams
------------------
CuPy keeps freed memory for the next array. ``minidl.backend.load("cupy")`` tells how much (``memory()``), bounds
it (``set_memory_limit``) and empties it (``free_memory``). Copies from host to device go through page-locked memory and
are not waited for; :func:`copy_to_host` does the same the other way round::

    with minidl_kernels.cupy.stream():          # beside the computation under way
        batch = [minidl.as_tensor(a) for a in arrays]
    pending = minidl_kernels.cupy.copy_to_host(loss.array)
    ...                                         # the next step
    print(pending.wait())
"""

from __future__ import annotations

from typing import Any

__all__ = ["copy_to_host", "make_backend", "pinned", "stream"]


def make_backend() -> Any:
    """The backend with all its kernels registered (the entry point ``minidl.backends: cupy``).

    Raises ImportError if CuPy is not installed, RuntimeError where it finds no GPU.
    """
    try:
        import cupy
    except ImportError as error:
        raise ImportError(f'the cupy backend needs CuPy: pip install "minidl[cupy]" ({error})') from error
    try:
        devices = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # no driver, or one too old
        raise RuntimeError(f"CuPy {cupy.__version__} finds no CUDA device: {error}") from error
    if not devices:
        raise RuntimeError(f"CuPy {cupy.__version__} finds no CUDA device")
    from minidl_kernels.cupy.backend import CupyBackend

    return CupyBackend()


def __getattr__(name: str) -> Any:
    """What needs CuPy, imported when it is asked for."""
    if name in ("copy_to_host", "pinned", "stream"):
        from minidl_kernels.cupy import backend

        return getattr(backend, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
