"""The stand-in for CuPy (``fake_cupy.py``) catches what it is there to catch."""

import numpy as np
import pytest

from tests.minidl_kernels.cupy.fake_cupy import KernelError, RawModule, asarray, asnumpy, needs_compiler

pytestmark = needs_compiler


def run(code, args, threads=64):
    module = RawModule(code=code, options=("-std=c++17",), name_expressions=("k",), backend="nvrtc")
    module.get_function("k")((1,), (threads,), args)


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        # reads what another thread wrote to shared memory, without waiting for it
        ("__shared__ float s[64]; s[i] = x[i]; y[i] = s[63 - i];", "order in which threads"),
        # all threads write to one place
        ("y[0] = x[i];", "order in which threads"),
        ("y[i + 1] = x[i];", "outside an array"),
        ("if (i < 32) __syncthreads(); y[i] = x[i];", "ended while others wait|never reach"),
        ("y[i] = i % 2 ? __shfl_xor_sync(0xffffffffu, x[i], 1) : 0;", "never reach|ended"),
        ("y[i] = ((float*)x)[i] = 1;", "constant"),
    ],
)
def test_the_stand_in_catches_wrong_kernels(body, complaint):
    code = f"__global__ void k(const float* x, float* y) {{ const int i = threadIdx.x; {body} }}"
    x, y = asarray(np.arange(64, dtype=np.float32)), asarray(np.zeros(64, np.float32))
    with pytest.raises(KernelError, match=complaint):
        run(code, (x, y))


def test_the_stand_in_runs_right_kernels():
    code = """__global__ void k(const float* x, float* y) {
        __shared__ float s[64];
        const int i = threadIdx.x;
        s[i] = x[i];
        __syncthreads();
        y[i] = s[63 - i] + __shfl_xor_sync(0xffffffffu, x[i], 1);
    }"""
    x, y = asarray(np.arange(64, dtype=np.float32)), asarray(np.zeros(64, np.float32))
    run(code, (x, y))
    assert np.array_equal(asnumpy(y), 63 - np.arange(64) + (np.arange(64) ^ 1))


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (lambda x: (x, np.int64(3)), "argument 1 of k is int32"),
        (lambda x: (x, 3), "argument 1 of k is int32"),
        (lambda x: (x.astype(np.float64), np.int32(3)), "pointer to float32"),
        (lambda x: (x[::2], np.int32(3)), "not contiguous"),
        (lambda x: (x,), "takes 2 arguments"),
    ],
)
def test_the_stand_in_refuses_wrong_arguments(args, complaint):
    code = "__global__ void k(float* x, int n) { }"
    with pytest.raises(KernelError, match=complaint):
        run(code, args(asarray(np.zeros(4, np.float32))))


def test_half_precision_of_the_stand_in_rounds_as_numpy_does():
    code = """#include <cuda_fp16.h>
    __global__ void k(const float* x, __half* y, float* back) {
        const int i = blockIdx.x * blockDim.x + threadIdx.x;
        y[i] = __float2half_rn(x[i]);
        back[i] = __half2float(y[i]);
    }"""
    rng = np.random.default_rng(0)
    bits = np.concatenate([rng.integers(0, 2**32, 4000), np.arange(0x33000000, 0x33000000 + 96 * 2**16, 2**16)])
    x = bits.astype(np.uint32).view(np.float32)
    edge = np.array([0, -0.0, 65504, 65519.99, 65520, 2**-24, 2**-25, 1.5 * 2**-25, 2**-14, np.inf, -np.inf, np.nan])
    x = np.concatenate([x, np.arange(2048 - len(edge)).astype(np.float32) / 3, edge.astype(np.float32)])
    x = x[: len(x) // 64 * 64]
    y, back = asarray(np.zeros(len(x), np.float16)), asarray(np.zeros(len(x), np.float32))
    module = RawModule(code=code, options=("-std=c++17",), name_expressions=("k",), backend="nvrtc")
    module.get_function("k")((len(x) // 64,), (64,), (asarray(x), y, back))
    with np.errstate(over="ignore"):
        expected = x.astype(np.float16)
    np.testing.assert_array_equal(asnumpy(y), expected)
    np.testing.assert_array_equal(asnumpy(back), expected.astype(np.float32))
