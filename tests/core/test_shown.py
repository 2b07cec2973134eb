"""Views on a backend whose arrays cannot be written to: what NumPy shows in both tensors, JAX shows, too."""

import numpy as np
import pytest

import minidl
from minidl import as_tensor, nn

pytest.importorskip("jax", reason="jax is not installed")

X = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def twice(v):
    v.mul_(2)


CHANGES = {
    "slice": lambda x: twice(x[1:]),
    "row": lambda x: twice(x[0, 1]),
    "steps": lambda x: twice(x[:, ::2, ::-1]),
    "flat": lambda x: twice(x.reshape(-1)[3:9]),
    "permuted": lambda x: twice(x.permute(2, 0, 1)[1]),
    "a copy": lambda x: twice(x.permute(2, 0, 1).reshape(-1)),
    "clone": lambda x: twice(x[0].clone()),
    "advanced": lambda x: twice(x[[0, 1], [1, 1]]),
    "view of a view": lambda x: twice(x[0][1:][:, 2]),
    "detach": lambda x: twice(x.detach()),
    "item assignment": lambda x: x.detach()[1].__setitem__(0, 7.0),
    "augmented": lambda x: x.__setitem__(0, x[0].__imul__(3)),
    "unbind": lambda x: twice(minidl.ops.unbind(x, axis=0)[1]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_as_numpy(change):
    found = {}
    for backend in ("numpy", "jax"):
        with minidl.use_backend(backend):
            x = as_tensor(minidl.core.registry.get_backend().asarray(X.copy()))
            row, flat, same = x[1], x.reshape(-1), x.detach()
            CHANGES[change](x)
            x[0, 0, 0] = 50.0
            found[backend] = [np.array(t.numpy()) for t in (x, row, flat, same)]
    for a, b in zip(found["numpy"], found["jax"]):
        np.testing.assert_array_equal(b, a)


def test_a_models_state():
    with minidl.use_backend("jax"):
        model = nn.Linear(3, 2)
        state = model.state_dict()
        state["weight"].zero_()
        assert not model.weight.detach().numpy().any()
        with minidl.no_grad():
            model.bias.data.fill_(3)
            model.weight[1] += 2
        assert model.bias.detach().numpy().tolist() == [3, 3]
        assert state["weight"].numpy().tolist() == [[0, 0, 0], [2, 2, 2]]


def test_the_padding_row_of_an_embedding():
    with minidl.use_backend("jax"):
        layer = nn.Embedding(4, 3, padding_idx=1)
        assert not layer.weight.detach().numpy()[1].any() and layer.weight.detach().numpy()[0].any()
        layer.reset_parameters()
        assert not layer.weight.detach().numpy()[1].any()


def test_in_a_captured_step():
    def f(x):
        y = x * 1
        v = y[1:]
        v *= 10
        y.reshape(-1)[::2] = 7
        return y * 1, v * 1

    with minidl.use_backend("jax"):
        x = as_tensor(minidl.core.registry.get_backend().asarray(X[0]))
        eager, g = f(x), minidl.jit(f)
        for _ in range(3):
            for a, b in zip(eager, g(x)):
                np.testing.assert_array_equal(b.numpy(), a.numpy())


def test_recorded_changes_of_views_are_refused():
    with minidl.use_backend("jax"):
        w = as_tensor(minidl.core.registry.get_backend().asarray(X[0]), requires_grad=True)
        y = w * 1
        with pytest.raises(RuntimeError, match="view"):
            y[0].mul_(w[0])
        v = y[0]
        y.mul_(2)
        with pytest.raises(RuntimeError, match="view"):
            v.sum().backward()
