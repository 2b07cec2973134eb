"""The CUDA kernels of convolution, pooling, embedding, recurrent layers and attention, run on the host."""

import importlib

import numpy as np
import pytest

import minidl
from minidl import nn, ops, optim
from minidl.backend import use_backend
from minidl.core import dispatch
from minidl.ops import primitives
from minidl.testing import conformance
from minidl.testing.reference import as_tuple, plain
from tests.minidl_kernels.cupy.fake_cupy import asarray, asnumpy, backend, launches, needs_compiler  # noqa: F401

pytestmark = needs_compiler

NAMES = sorted([
    *(f"{k}_pool{n}d" for k in ("max", "avg") for n in (1, 2)), "max_pool_grad", "avg_pool1d_grad", "avg_pool2d_grad",
    *(f"conv{n}d{suffix}" for n in (1, 2) for suffix in ("", "_input_grad", "_weight_grad")), "embedding_grad",
    "lstm", "lstm_backward", "gru", "gru_backward", "scaled_dot_product_attention", "attention_backward",
])  # fmt: skip


@pytest.mark.parametrize(
    "name",
    ["max_pool2d", "max_pool_grad", "avg_pool2d", "avg_pool1d_grad", "conv1d", "conv2d_input_grad",
     "conv2d_weight_grad", "embedding_grad", "lstm", "lstm_backward", "gru_backward", "scaled_dot_product_attention"],
)  # fmt: skip
def test_conforms(backend, name):  # noqa: F811
    """One of each kind; the others are with ``-m slow``."""
    for report in conformance.check(name, backend, dtypes=["float32"], max_examples=3):
        assert report.ok, str(report)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_conforms_thoroughly(backend, name):  # noqa: F811
    for report in conformance.check(name, backend, dtypes=["float32", "float64", "float16"], max_examples=60):
        assert report.ok, str(report)


TYPES = ("float64", "float32", "float16", "bfloat16")
EPS = {"float64": 2e-16, "float32": 1.2e-7, "float16": 1e-3, "bfloat16": 8e-3}


def rounded(array, dtype):
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes", reason="bfloat16 needs ml_dtypes").bfloat16
    return array.astype(dtype)


def run(backend, name, args, params):  # noqa: F811
    """A kernel's outputs, and which CUDA kernels ran."""
    count = len(launches)
    with use_backend(backend, strict=True):
        out = dispatch.run(primitives[name], [asarray(a) if isinstance(a, np.ndarray) else a for a in args], params)
    out = out if isinstance(out, tuple) else (out,)
    return [asnumpy(a) for a in out], [kernel for kernel, _, _ in launches[count:]]


def reference(name, args, params):
    wide = [a.astype(np.float64) if isinstance(a, np.ndarray) and a.dtype.kind in "fV" else a for a in args]
    with plain():
        out = primitives[name].reference(*wide, **params)
    return list(map(np.asarray, out if isinstance(out, tuple) else (out,)))


def agree(backend, name, args, params, dtype, factor=16):  # noqa: F811
    """Kernel and reference in float64 on inputs of ``dtype``: equal up to some roundings of the largest value."""
    args = [rounded(a, dtype) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a for a in args]
    found, ran = run(backend, name, args, params)
    assert ran
    with plain():
        own = as_tuple(dispatch.compute(primitives[name], args, params))
    assert [f.dtype for f in found] == [np.asarray(o).dtype for o in own], name
    for f, e in zip(found, reference(name, args, params), strict=True):
        assert f.shape == e.shape
        if e.size:
            error = np.abs(f.astype(np.float64) - e).max()
            assert error <= factor * EPS[dtype] * max(np.abs(e).max(), 1), (name, error)
    return found


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("groups", [1, 2])
def test_convolution(backend, dtype, groups, rng, monkeypatch):  # noqa: F811
    conv = importlib.import_module("minidl_kernels.cupy.conv")
    x, w, b = rng.normal(size=(3, 4, 7, 6)), rng.normal(size=(6, 4 // groups, 3, 2)), rng.normal(size=6)
    params = {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2), "groups": groups}
    g = rng.normal(size=primitives["conv2d"].reference(x, w, b, **params).shape)
    for workspace in (conv.WORKSPACE, 1):  # 1: a sample at a time
        monkeypatch.setattr(conv, "WORKSPACE", workspace)
        agree(backend, "conv2d", [x, w, b], params, dtype)
        agree(backend, "conv2d_input_grad", [g, w], {"input_size": (7, 6), **params}, dtype)
        agree(backend, "conv2d_weight_grad", [g, x], {"kernel_size": (3, 2), **params}, dtype)


@pytest.mark.parametrize("dtype", TYPES)
def test_pooling(backend, dtype, rng):  # noqa: F811
    x = rng.normal(size=(2, 3, 9, 8))
    sizes = {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 1), "ceil_mode": True}
    out, indices = agree(backend, "max_pool2d", [x], {**sizes, "dilation": (1, 1)}, dtype)
    g = rng.normal(size=out.shape)  # windows overlap: several outputs have the same pixel
    agree(backend, "max_pool_grad", [g, indices], {"input_size": (9, 8)}, dtype)
    for include in (True, False):
        agree(backend, "avg_pool2d", [x], {**sizes, "count_include_pad": include}, dtype)
        agree(backend, "avg_pool2d_grad", [g], {"input_size": (9, 8), **sizes, "count_include_pad": include}, dtype)


def test_many_gradients_for_one_pixel(backend):  # noqa: F811
    """All 32 lanes of a warp want the same place."""
    indices = np.zeros((1, 2, 70), np.int64)
    indices[0, 1] = np.arange(70) % 3
    g = np.arange(140, dtype=np.float32).reshape(1, 2, 70)
    (found,), _ = run(backend, "max_pool_grad", [g, indices], {"input_size": (5,)})
    np.testing.assert_array_equal(found, primitives["max_pool_grad"].reference(g, indices, input_size=(5,)))


@pytest.mark.parametrize("dtype", TYPES)
def test_embedding_gradient(backend, dtype, rng):  # noqa: F811
    index = rng.integers(0, 7, (5, 9))
    for dim, padding_idx in ((3, None), (70, 2)):
        g = rng.normal(size=(5, 9, dim))
        params = {"num_embeddings": 10, "padding_idx": padding_idx}
        agree(backend, "embedding_grad", [g, index], params, dtype)
        agree(backend, "embedding_grad", [g, index.astype(np.int32)], params, dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [None, (4, 1, 0, 3)])
@pytest.mark.parametrize(("layer", "gates"), [("lstm", 4), ("gru", 3)])
def test_recurrent(backend, layer, gates, dtype, reverse, lengths, rng):  # noqa: F811
    steps, batch, inputs, hidden = 4, 4, 3, 5
    x, h0, c0 = rng.normal(size=(steps, batch, inputs)), *rng.normal(size=(2, batch, hidden))
    weights = [0.4 * rng.normal(size=(gates * hidden, n)) for n in (inputs, hidden)]
    biases = list(rng.normal(size=(2, gates * hidden)))
    params = {"reverse": reverse, "lengths": lengths}
    states = [h0, c0] if layer == "lstm" else [h0]
    last = [None] if layer == "lstm" else []
    agree(backend, layer, [x, *states, *weights, None, None, *last], params, dtype, 32)
    agree(backend, layer, [x, *states, *weights, *biases, *last], params, dtype, 32)
    outs = reference(layer, [x, *states, *weights, *biases, *last], params)
    outs = [rounded(o, dtype).astype(np.float64) for o in outs]
    given = [rng.normal(size=o.shape) for o in outs[: 1 + len(states)]]
    kept = outs[-2:]
    args = [*given, x, *states, *weights, *last, outs[0], *kept]
    agree(backend, f"{layer}_backward", args, params, dtype, 64)


# name: (shape of q, of k and v, width of v, mask, parameters)
ATTENTION = {
    "tiles": ((1, 2, 70, 20), (1, 2, 75, 20), 24, None, {}),
    "causal": ((1, 2, 70, 20), (1, 2, 75, 20), 20, None, {"is_causal": True}),
    "grouped": ((2, 4, 9, 3), (2, 2, 40, 3), 5, None, {"is_causal": True}),
    "wide": ((1, 1, 20, 90), (1, 1, 21, 90), 70, None, {}),
    "dropout": ((2, 2, 5, 4), (2, 2, 37, 4), 4, None, {"dropout_p": 0.3, "key": 12345, "offset": 2**33 + 1}),
    "boolean mask": ((2, 2, 6, 4), (2, 2, 35, 4), 4, (6, 35), {}),
    "mask of a head": ((2, 2, 6, 4), (2, 2, 35, 4), 4, (1, 2, 1, 35), {"is_causal": True}),
    "mask of a batch": ((2, 3, 2, 6, 4), (2, 3, 2, 7, 4), 4, (2, 1, 1, 6, 7), {}),
    "added mask": ((2, 2, 6, 4), (2, 2, 35, 4), 4, (2, 1, 6, 35), {"float": True}),
    "no heads": ((6, 4), (7, 4), 3, (6, 7), {}),
}


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("case", ATTENTION)
def test_attention(backend, dtype, case, rng):  # noqa: F811
    q_shape, k_shape, value_width, mask_shape, more = ATTENTION[case]
    if case == "wide" and dtype == "float64":
        pytest.skip("float64 tiles of this width do not fit into shared memory: the reference serves it")
    more = dict(more)
    q, k, v = rng.normal(size=q_shape), rng.normal(size=k_shape), rng.normal(size=(*k_shape[:-1], value_width))
    mask = None
    if mask_shape is not None:
        mask = rng.normal(size=mask_shape) if more.pop("float", False) else rng.random(mask_shape) < 0.6
        if mask.dtype == bool and case == "boolean mask":
            mask[2] = False  # a query that sees nothing
    params = {"dropout_p": 0.0, "is_causal": False, "scale": 0.4, "block_size": None, "key": 0, "offset": 0, **more}
    inputs = [rounded(a, dtype) for a in (q, k, v)]
    mask = rounded(mask, dtype) if mask is not None and mask.dtype != bool else mask
    found, _ = run(backend, "scaled_dot_product_attention", [*inputs, mask], params)
    out, lse = reference("scaled_dot_product_attention", [*inputs, mask], params)
    hidden = np.isneginf(lse)
    np.testing.assert_array_equal(np.isneginf(found[1].astype(np.float64)), hidden)
    tolerance = 16 * EPS[dtype] * max(1, np.abs(lse[~hidden]).max())
    np.testing.assert_allclose(found[0].astype(np.float64), out, atol=tolerance)
    np.testing.assert_allclose(found[1].astype(np.float64)[~hidden], lse[~hidden], atol=tolerance)

    g, g_lse = rng.normal(size=out.shape), np.where(hidden, 0, rng.normal(size=lse.shape))
    g, saved, (lse, g_lse) = rounded(g, dtype), rounded(out, dtype), (a.astype(found[1].dtype) for a in (lse, g_lse))
    grads, ran = run(backend, "attention_backward", [g, g_lse, *inputs, mask, saved, lse], params)
    exact = reference("attention_backward", [g, g_lse, *inputs, mask, out, lse], params)
    for f, e in zip(grads, exact, strict=True):
        assert f.dtype == g.dtype
        np.testing.assert_allclose(f.astype(np.float64), e, atol=32 * EPS[dtype] * max(1, np.abs(e).max(initial=0)))
    assert any(kernel.startswith("attention_grad_kv") for kernel in ran)


def test_attention_declines_what_does_not_fit(backend, rng):  # noqa: F811
    when = backend.kernels["scaled_dot_product_attention"][0].when
    q = asarray(rng.normal(size=(1, 1, 3, 200)).astype(np.float32))
    assert not when(q, q, q)
    assert not when(q[..., :100].astype(np.float64), q[..., :100].astype(np.float64), q[..., :100].astype(np.float64))
    assert when(q[..., :100], q[..., :100], q[..., :100])
    backward = backend.kernels["attention_backward"][0].when
    a = q[..., :4]
    lse = a[..., 0]
    assert backward(a, lse, a, a, a, None, a, lse, need_mask=False)
    assert not backward(a, lse, a, a, a, None, a, lse, need_mask=True)


def test_training_agrees_with_numpy(backend, rng):  # noqa: F811
    """A convolution, pooling, an embedding, attention and an LSTM, in one model, for some steps."""
    pixels, words = rng.normal(size=(2, 1, 6, 6)).astype(np.float32), rng.integers(0, 5, (2, 4))
    target = rng.integers(0, 3, 2)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.pool = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.MaxPool2d(2)
            self.embed, self.attend = nn.Embedding(5, 8), nn.MultiheadAttention(8, 2, batch_first=True)
            self.lstm, self.head = nn.LSTM(8, 8, batch_first=True), nn.Linear(36 + 8, 3)

        def forward(self, pixels, words):
            image = ops.reshape(self.pool(ops.silu(self.norm(self.conv(pixels)))), shape=(2, 36))
            x = self.embed(words)
            x = x + self.attend(x, x, x, need_weights=False)[0]
            states, _ = self.lstm(x)
            return self.head(ops.concat([image, states[:, -1]], axis=1))

    def train(name):
        with use_backend(name):
            minidl.manual_seed(0)
            model = Model()
            optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
            losses = []
            for _ in range(4):
                optimizer.zero_grad()
                loss = ops.cross_entropy(
                    model(minidl.as_tensor(pixels), minidl.as_tensor(words)), minidl.as_tensor(target)
                )
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
            return losses

    expected = train("numpy")
    assert expected[-1] < expected[0]
    count = len(launches)
    np.testing.assert_allclose(train(backend), expected, rtol=1e-4)
    ran = {kernel.split("<")[0] for kernel, _, _ in launches[count:]}
    assert {"im2col", "max_pool_grad", "embedding_grad", "attention_grad_q", "lstm_step_grad", "sgd"} <= ran


@pytest.mark.parametrize("rule", ["AdamW", "SGD"])
def test_captured_training_agrees(backend, rule, rng):  # noqa: F811
    """Kernels that update in place return their inputs: the capture must tell the new values from the old ones."""
    x, y = rng.normal(size=(8, 6)).astype(np.float32), rng.integers(0, 3, 8)

    def train(capture):
        with use_backend(backend):
            minidl.manual_seed(0)
            model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))
            options = {"lr": 0.1, "momentum": 0.9} if rule == "SGD" else {"lr": 0.01}
            optimizer = getattr(optim, rule)(model.parameters(), **options)

            def step(inputs, targets):
                optimizer.zero_grad()
                loss = ops.cross_entropy(model(inputs), targets)
                loss.backward()
                optimizer.step()
                return loss

            step = minidl.jit(step) if capture else step
            return [step(minidl.as_tensor(x), minidl.as_tensor(y)).item() for _ in range(5)]

    np.testing.assert_allclose(train(True), train(False), rtol=1e-6)
