"""The cupy backend on a GPU: the whole conformance suite, and what the stand-in cannot show."""

import numpy as np
import pytest

import minidl
from minidl import nn, ops, optim
from minidl.backend import load, use_backend
from minidl.testing import conformance


def _missing():
    """Why these tests cannot run here; empty if they can."""
    try:
        import cupy
    except ImportError:
        return "CuPy is not installed"
    try:
        return "" if cupy.cuda.runtime.getDeviceCount() else "there is no CUDA device"
    except Exception as error:
        return f"there is no CUDA device ({error})"


MISSING = _missing()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(MISSING), reason=f"needs a GPU: {MISSING}")]


@pytest.fixture(scope="module")
def gpu():
    return load("cupy")


def test_every_kernel_conforms(gpu):
    reports = list(conformance.check_backend(gpu, dtypes=["float32", "float64", "float16"]))
    failed = [str(r) for r in reports if not r.ok]
    assert reports and not failed, "\n".join(failed)


def test_every_kernel_conforms_in_bfloat16(gpu):
    failed = []
    for name, kernels in sorted(gpu.kernels.items()):
        halves = [k for k in kernels if "float16" in k.dtypes]
        reports = conformance.check(name, gpu, kernels=halves, dtypes=["bfloat16"], max_examples=10)
        failed += [str(r) for r in reports if not r.ok]
    assert not failed, "\n".join(failed)


def test_bfloat16(gpu, rng):
    bfloat16 = pytest.importorskip("ml_dtypes", reason="bfloat16 needs ml_dtypes").bfloat16
    x, w = rng.normal(size=(4, 3, 8, 8)).astype(bfloat16), rng.normal(size=(5, 3, 3, 3)).astype(bfloat16)
    found = ops.conv2d(gpu.asarray(x), gpu.asarray(w), padding=1)
    assert found.dtype == bfloat16
    exact = ops.conv2d(x.astype(np.float64), w.astype(np.float64), padding=1)
    np.testing.assert_allclose(gpu.to_numpy(found).astype(np.float64), exact, atol=0.1, rtol=0.01)


def test_random_bits(gpu):
    for key, offset, size in [(0, 0, 1), (2**63 + 5, 7, 9), (3, 2**33 + 1, 100_003)]:
        found = gpu.kernels["random_bits"][0].function(key=key, offset=offset, size=size)
        expected = ops.random_bits.reference(key=key, offset=offset, size=size)
        assert np.array_equal(gpu.to_numpy(found), expected)


def test_attention_memory_is_linear(gpu):
    """The scores alone would take 4 GiB."""
    import cupy

    q = cupy.ones((1, 1, 32768, 16), np.float32)
    pool = cupy.get_default_memory_pool()
    pool.free_all_blocks()
    before = pool.total_bytes()
    out = ops.scaled_dot_product_attention(q, q, q, is_causal=True)
    gpu.synchronize()
    assert pool.total_bytes() - before < 64 << 20
    assert float(abs(out - 1).max()) < 1e-5


def test_streams_and_copies(gpu, rng):
    from minidl_kernels.cupy import copy_to_host, pinned, stream

    x = rng.normal(size=(256, 256)).astype(np.float32)
    with stream():
        a = gpu.asarray(pinned(x))
        product = a @ a
    pending = copy_to_host(product + 1)
    np.testing.assert_allclose(pending.wait(), x @ x + 1, rtol=1e-4, atol=1e-3)
    assert pending.done


def test_memory_limit(gpu):
    import cupy

    try:
        gpu.set_memory_limit(size=64 << 20)
        assert gpu.memory()["pool limit"] == 64 << 20
        with pytest.raises(cupy.cuda.memory.OutOfMemoryError):
            cupy.zeros(1 << 30, np.uint8)
    finally:
        gpu.set_memory_limit()
    assert "GiB free" in gpu.info()["memory"]


def test_training_agrees_with_numpy(gpu, rng):
    x, y = rng.normal(size=(16, 1, 12, 12)).astype(np.float32), rng.integers(0, 5, 16)

    def train(name):
        with use_backend(name):
            minidl.manual_seed(0)
            model = nn.Sequential(
                nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
                nn.Dropout(0.3), nn.Linear(144, 5),
            )  # fmt: skip
            optimizer = optim.AdamW(model.parameters(), lr=1e-2)
            losses = []
            for _ in range(5):
                optimizer.zero_grad()
                loss = ops.cross_entropy(model(minidl.as_tensor(x)), minidl.as_tensor(y))
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
            return losses

    np.testing.assert_allclose(train("cupy"), train("numpy"), rtol=1e-4)


def test_loss_scaling(gpu, rng):
    """The forward and backward pass in float16, the parameters in float32."""
    x = rng.normal(size=(64, 4)).astype(np.float32)
    true = np.array([[1.0, -0.5, 0.25, 2.0]], np.float32)
    with use_backend("cupy"):
        weight = minidl.as_tensor(np.zeros((1, 4), np.float32), requires_grad=True)
        inputs, targets = minidl.as_tensor(x), minidl.as_tensor(x @ true.T)
        optimizer, scaler = optim.SGD([weight], lr=0.1), optim.GradScaler(init_scale=2.0**20)
        for _ in range(100):
            optimizer.zero_grad()
            out = ops.linear(inputs.astype("float16"), weight.astype("float16")).astype("float32")
            scaler.scale(ops.mse_loss(out, targets)).backward()
            scaler.step(optimizer)
            scaler.update()
        np.testing.assert_allclose(gpu.to_numpy(weight.array), true, atol=0.02)
    assert scaler.get_scale() < 2.0**20
