"""What a user of the package does: train a model on its backend. Run by test_thirdparty.py in a process of its own."""

import minidl_example_kernel
import numpy as np

import minidl
from minidl import nn, optim


def train(backend: str) -> list[float]:
    with minidl.use_backend(backend):
        minidl.manual_seed(0)
        model = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 2))
        optimizer = optim.Adam(model.parameters(), lr=0.02)
        x = np.random.default_rng(0).normal(size=(128, 2)).astype(np.float32)
        y = (x[:, 0] * x[:, 1] > 0).astype(np.int64)
        losses = []
        for _ in range(100):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(minidl.as_tensor(x)), minidl.as_tensor(y))
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses


assert minidl.backend.available()["example"] == "ok"
assert "minidl_example_kernel.relu" in minidl.backend.explain("relu", "example")[0]["served_by"]
plain = train("numpy")
assert minidl_example_kernel.calls == 0
theirs = train("example")
assert minidl_example_kernel.calls == 100, minidl_example_kernel.calls
np.testing.assert_allclose(theirs, plain, rtol=1e-4, atol=1e-5)
assert theirs[-1] < 0.5 * theirs[0], theirs
print("trained on", minidl_example_kernel.__file__)
