"""rnn, gru, lstm: finite differences, second derivatives, lengths."""

import numpy as np
import pytest

import minidl
from minidl import as_tensor, ops
from minidl.testing import gradcheck, gradgradcheck

T, N, WIDTH, H, P = 3, 3, 2, 3, 2
KINDS = ["rnn tanh", "rnn relu", "gru", "lstm", "lstm projected"]


def case(kind, seed=0, bias=True, dtype=np.float64, steps=T, batch=N):
    """(function of arrays, arrays) for one kind."""
    rng = np.random.default_rng(seed)
    name, _, option = kind.partition(" ")
    gates = {"rnn": 1, "gru": 3, "lstm": 4}[name]
    out = P if option == "projected" else H
    shapes = (
        [(steps, batch, WIDTH), (batch, out)] + [(batch, H)] * (name == "lstm") + [(gates * H, WIDTH), (gates * H, out)]
    )
    shapes += [(gates * H,)] * 2 if bias else []
    arrays = [(rng.standard_normal(s) * 0.7).astype(dtype) for s in shapes]
    if option == "projected":
        arrays.append(rng.standard_normal((P, H)).astype(dtype))

    def f(*args, **params):
        if option == "projected" and not bias:
            args = (*args[:-1], None, None, args[-1])
        if name == "rnn":
            params["nonlinearity"] = option
        return getattr(ops, name)(*args, **params)

    return f, arrays


@pytest.mark.parametrize("lengths", [None, (3, 1, 2), (0, 3, 0)])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients(kind, reverse, lengths):
    f, arrays = case(kind)
    gradcheck(lambda *a: f(*a, reverse=reverse, lengths=lengths), *arrays)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_without_biases_and_second_derivatives(kind):
    f, arrays = case(kind, bias=False, steps=2, batch=2)
    gradcheck(f, *arrays)
    gradgradcheck(lambda *a: f(*a, reverse=True, lengths=(2, 1)), *arrays, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reverse", [False, True])
def test_lengths_are_what_each_sequence_alone_gives(kind, reverse):
    f, arrays = case(kind, steps=5)
    lengths = (5, 2, 3)
    y, *states = f(*arrays, reverse=reverse, lengths=np.array(lengths))
    first_weight = 3 if kind.startswith("lstm") else 2
    for n, length in enumerate(lengths):
        alone = [arrays[0][:length, n : n + 1], *(s[n : n + 1] for s in arrays[1:first_weight]), *arrays[first_weight:]]
        y_n, *states_n = f(*alone, reverse=reverse)
        np.testing.assert_allclose(y[:length, n : n + 1], y_n, atol=1e-12)
        assert not y[length:, n].any()
        for s, s_n in zip(states, states_n):
            np.testing.assert_allclose(s[n : n + 1], s_n, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_dtype_is_kept_and_inputs_are_not_written_to(kind, dtype):
    f, arrays = case(kind, dtype=dtype)
    before = [a.copy() for a in arrays]
    tensors = [as_tensor(a, requires_grad=True) for a in arrays]
    outs = f(*tensors, lengths=(3, 2, 1))
    assert all(o.dtype == dtype for o in outs)
    sum((o * o).sum() for o in outs).backward()
    for t, a, b in zip(tensors, arrays, before):
        assert t.grad.dtype == dtype
        np.testing.assert_array_equal(a, b)
    grads = [t.grad.numpy() for t in tensors]
    assert not any(np.may_share_memory(a, b) for i, a in enumerate(grads) for b in grads[:i])


@pytest.mark.parametrize(("steps", "batch"), [(0, 2), (2, 0)])
@pytest.mark.parametrize("kind", KINDS)
def test_zero_size(kind, steps, batch):
    f, arrays = case(kind, steps=steps, batch=batch)
    tensors = [as_tensor(a, requires_grad=True) for a in arrays]
    y, h, *_ = f(*tensors)
    assert y.shape[:2] == (steps, batch)
    np.testing.assert_array_equal(h.detach().numpy(), arrays[1])
    (y.sum() + h.sum()).backward()
    np.testing.assert_array_equal(tensors[1].grad.numpy(), np.ones_like(arrays[1]))
    assert not tensors[-1].grad.numpy().any()


@pytest.mark.parametrize("kind", KINDS)
def test_non_contiguous_inputs(kind):
    f, arrays = case(kind)
    outs = f(*arrays)
    for a, b in zip(outs, f(*(np.repeat(a, 2, axis=-1)[..., ::2] for a in arrays))):
        np.testing.assert_allclose(a, b, atol=1e-14)


def test_saturated_gates_stay_finite():
    f, arrays = case("lstm")
    tensors = [as_tensor(a * 1e4, requires_grad=True) for a in arrays]
    y, _, c = f(*tensors)
    (y.sum() + c.sum()).backward()
    assert all(np.isfinite(t.grad.numpy()).all() for t in tensors)


@pytest.mark.parametrize("kind", KINDS)
def test_jax_arrays(kind):
    jax = pytest.importorskip("jax", reason="runs the references on JAX arrays")
    from minidl.backend import BackendError, load

    try:
        load("jax")
    except BackendError as error:
        pytest.skip(str(error))
    f, arrays = case(kind, dtype=np.float32)
    host = [as_tensor(a, requires_grad=True) for a in arrays]
    device = [as_tensor(jax.numpy.asarray(a), requires_grad=True) for a in arrays]
    for ts in (host, device):
        y, h, *_ = f(*ts, lengths=(3, 1, 2))
        (y.sum() + (h * h).sum()).backward()
    for a, b in zip(host, device):
        np.testing.assert_allclose(a.grad.numpy(), np.asarray(b.grad.data), atol=1e-5)


def test_errors():
    f, arrays = case("lstm")
    with pytest.raises(ValueError, match=r"lstm: weights .* do not fit"):
        f(arrays[0][..., :1], *arrays[1:])
    with pytest.raises(ValueError, match="lstm: h0 is"):
        f(arrays[0], arrays[1][:2], *arrays[2:])
    with pytest.raises(ValueError, match="lengths from 0 to 3"):
        f(*arrays, lengths=(1, 2, 4))
    with pytest.raises(ValueError, match=r"expected an input of shape \(T, N, I\)"):
        f(arrays[0][0], *arrays[1:])
    with pytest.raises(ValueError, match="both biases"):
        f(*arrays[:-1])
    with pytest.raises(ValueError, match="nonlinearity"):
        case("rnn sigmoid")[0](*case("rnn tanh")[1])


@pytest.mark.parametrize("backend", ["numpy", "numba", "jax"])
@pytest.mark.parametrize("name", ["rnn", "gru", "lstm"])
def test_what_padding_holds_does_not_matter(name, backend):
    """NaN past the ends of sequences reaches no result and no gradient."""
    rng = np.random.default_rng(0)
    gates, lengths = {"rnn": 1, "gru": 3, "lstm": 4}[name], (2, 4, 1)
    weights = [rng.normal(size=s).astype(np.float32) for s in ((gates * 5, 3), (gates * 5, 5))]
    x, states = rng.normal(size=(4, 3, 3)).astype(np.float32), [np.zeros((3, 5), np.float32)] * (1 + (name == "lstm"))
    found = []
    with minidl.use_backend(backend):
        for padding in (0.0, np.nan):
            padded = np.where(np.arange(4)[:, None, None] < np.array(lengths)[:, None], x, np.float32(padding))
            given = [minidl.as_tensor(a, device=backend, requires_grad=True) for a in (padded, *weights)]
            out = getattr(ops, name)(given[0], *map(minidl.as_tensor, states), *given[1:], lengths=lengths)
            sum((o * o).sum() for o in out).backward()
            found.append([a.numpy() for a in (*(o.detach() for o in out), *(g.grad for g in given))])
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)
