"""The jax backend: the same training on jax arrays, eagerly, captured, and spread over eight (simulated) devices.

Runs in a subprocess: the number of devices and 64-bit mode are settings of the whole process.
"""

import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

pytest.importorskip("jax", reason="the jax backend needs jax (pip install 'minidl[jax]')")

COMMON = """
import json
import numpy as np
import minidl
from minidl import as_tensor, nn, ops, optim

rng = np.random.default_rng(0)
X, Y = rng.normal(size=(16, 1, 12, 12)).astype(np.float32), rng.integers(0, 5, 16)

def train(backend, jit=False, steps=5, optimizer=lambda p: optim.AdamW(p, lr=1e-2)):
    with minidl.use_backend(backend):
        minidl.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4),  # a bias would be cancelled: noise
            nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Dropout(0.3), nn.Linear(144, 5),
        )
        opt = optimizer(model.parameters())

        def step(x, y):
            opt.zero_grad()
            loss = ops.cross_entropy(model(x), y)
            loss.backward()
            opt.step()
            return loss

        run = minidl.jit(step) if jit else step
        losses = [run(as_tensor(X), as_tensor(Y)).item() for _ in range(steps)]
        weights = {k: np.asarray(minidl.backend.to_numpy(v.array)).tolist() for k, v in model.state_dict().items()}
        return losses, weights
"""


def run(code, devices=8):
    environment = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    script = COMMON + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_training_agrees_with_numpy():
    found = run("""
        from minidl_kernels.jax import use_mesh
        out = {"numpy": train("numpy"), "eager": train("jax"), "jit": train("jax", jit=True)}
        with use_mesh(8):
            out["mesh"] = train("jax", jit=True)
        print(json.dumps(out))
    """)
    losses, weights = found.pop("numpy")
    assert losses[-1] < losses[0]
    for name, (other, other_weights) in found.items():
        np.testing.assert_allclose(other, losses, rtol=2e-5, err_msg=name)
        for key, w in weights.items():
            np.testing.assert_allclose(other_weights[key], w, rtol=1e-3, atol=1e-4, err_msg=f"{name} {key}")


def test_mesh_uses_all_devices_and_refuses_odd_batches():
    found = run("""
        import jax
        from minidl_kernels.jax import use_mesh
        with minidl.use_backend("jax"), use_mesh(8):
            double = minidl.jit(lambda x: (x * 2).sum())
            double(np.ones((16, 2), np.float32))
            lowered = double.entries[0].run
            x = jax.device_put(np.ones((16, 2), np.float32), lowered.splits[0])
            spread = len(x.sharding.device_set), x.addressable_shards[0].data.shape
            total = double(np.ones((16, 2), np.float32)).item()
            try:
                double(np.ones((9, 2), np.float32))
                error = ""
            except ValueError as e:
                error = str(e)
        try:
            with use_mesh(9):
                pass
        except ValueError as e:
            few = str(e)
        print(json.dumps([spread, total, error, few]))
    """)
    (count, shard), total, error, few = found
    assert count == 8 and shard == [2, 2] and total == 64
    assert "cannot be split evenly over 8 devices" in error
    assert "9 devices wanted, JAX has 8" in few


def test_arrays_move_and_stay():
    found = run("""
        x = as_tensor(np.arange(4.0, dtype=np.float32), device="jax")
        y = (x * 2).sum()
        back = x.to("numpy")
        with minidl.use_backend("jax"):
            made = as_tensor([1.0, 2.0])
        print(json.dumps([x.device, y.device, back.device, made.device, str(made.dtype), back.tolist(),
                          str(as_tensor(np.array([1, 2]), device="jax").dtype)]))
    """)
    assert found == ["jax", "jax", "cpu", "jax", "float32", [0.0, 1.0, 2.0, 3.0], "int64"]


def test_random_bits_are_the_references():
    found = run("""
        from minidl.ops import random_bits
        import minidl.backend as B
        jax_kernel = B.load("jax").kernels["random_bits"][0].function
        same = []
        for key, offset, size in [(0, 0, 4), (2**63 + 5, 7, 9), (3, 2**33 + 1, 17), (1, 3, 0)]:
            a = random_bits.reference(key=key, offset=offset, size=size)
            b = np.asarray(jax_kernel(key=np.uint64(key), offset=offset, size=size))
            same.append(bool((a == b).all()) and a.dtype == b.dtype)
        print(json.dumps(same))
    """)
    assert found == [True] * 4
