"""Tensor as a value: construction, dtypes, operators, Python's and NumPy's protocols, errors; makers of tensors."""

import copy
import operator
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minidl
from minidl import Tensor, as_tensor, ops

DTYPES = [np.bool_, np.uint8, np.int32, np.int64, np.float16, np.float32, np.float64]


# Construction


def test_python_numbers_take_the_default_dtype():
    assert as_tensor(1.5).dtype == np.float32
    assert as_tensor([1, 2.5]).dtype == np.float32
    assert as_tensor([[1, 2]]).dtype == np.int64
    assert as_tensor([True]).dtype == np.bool_
    assert as_tensor([]).dtype == np.float32
    minidl.ops.set_default_dtype(np.float64)
    assert as_tensor(1.5).dtype == np.float64
    with pytest.raises(TypeError, match="floating-point"):
        minidl.ops.set_default_dtype(np.int32)


@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_keep_their_dtype_and_memory(dtype):
    a = np.ones((2, 3), dtype)
    t = as_tensor(a)
    assert t.dtype == dtype and np.shares_memory(t.array, a)
    assert as_tensor(a[0, 0]).dtype == dtype
    assert as_tensor([a[0], a[1]]).dtype == dtype
    assert not np.shares_memory(minidl.tensor(a).array, a)
    assert minidl.tensor(t, dtype=np.float64).dtype == np.float64


def test_lists_of_tensors():
    t = as_tensor([as_tensor([1.0, 2.0]), as_tensor([3.0, 4.0])])
    np.testing.assert_array_equal(t, [[1, 2], [3, 4]])


def test_what_cannot_be_a_tensor():
    with pytest.raises(TypeError, match="str"):
        as_tensor("abc")
    with pytest.raises((TypeError, ValueError)):
        as_tensor([[1, 2], [3]])
    with pytest.raises(TypeError, match="dtype object"):
        as_tensor(np.array([None, 1]))


def test_facts():
    t = as_tensor(np.zeros((2, 3, 4), np.float32))
    assert (t.shape, t.ndim, t.dim(), t.size(1), t.numel(), t.nbytes) == ((2, 3, 4), 3, 3, 3, 24, 96)
    assert t.device == "cpu" and t.is_leaf and t.grad_fn is None and t.grad is None
    assert minidl.as_tensor(t) is t
    assert minidl.as_tensor(t, np.float64).dtype == np.float64


# dtypes of results


@pytest.mark.parametrize("x", DTYPES)
@pytest.mark.parametrize("y", DTYPES)
@pytest.mark.parametrize("op", [operator.add, operator.mul, operator.truediv, operator.gt])
def test_dtypes_of_results_are_pytorchs(x, y, op):
    torch = pytest.importorskip("torch", reason="PyTorch's promotion is the rule")
    if np.float16 in (x, y) and op is operator.truediv:
        tolerance = 1e-2
    else:
        tolerance = 1e-6
    a, b = np.array([1, 1, 1], x), np.array([1, 3, 1], y)
    expected = op(torch.tensor(a), torch.tensor(b)).numpy()
    for result in (op(as_tensor(a), as_tensor(b)), op(as_tensor(a), b), op(a, as_tensor(b))):
        assert result.dtype == expected.dtype
        np.testing.assert_allclose(result, expected, rtol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scalar", [True, 3, 2.5, -1])
@pytest.mark.parametrize("op", [operator.add, operator.mul, operator.truediv, operator.sub])
def test_python_scalars_are_weak(dtype, scalar, op):
    torch = pytest.importorskip("torch", reason="PyTorch's promotion is the rule")
    if op is operator.sub and (dtype == np.bool_ or scalar is True):
        pytest.skip("PyTorch does not subtract booleans")
    if dtype == np.uint8 and scalar == -1:
        pytest.skip("NumPy refuses -1 as uint8, PyTorch wraps it round")
    a = np.array([1, 0, 1], dtype)
    for ours, theirs in (
        ((as_tensor(a), scalar), (torch.tensor(a), scalar)),
        ((scalar, as_tensor(a)), (scalar, torch.tensor(a))),
    ):
        if op is operator.truediv and ours[0] is scalar:
            continue
        assert op(*ours).dtype == op(*theirs).numpy().dtype


def test_numpy_scalars_are_weak_too():
    x = as_tensor([1.0, 2.0])
    for y in (
        x * np.sqrt(2),
        np.sqrt(2) * x,
        x + np.float64(1),
        np.float64(1) - x,
        x / np.int64(2),
        x ** np.float64(2),
    ):
        assert isinstance(y, Tensor) and y.dtype == np.float32
    assert (as_tensor([1, 2]) * np.float64(0.5)).dtype == np.float32
    assert (as_tensor(np.ones(2)) * np.float32(0.5)).dtype == np.float64


def test_float32_stays_float32_through_a_network():
    x = as_tensor(np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32), requires_grad=True)
    y = ops.softmax(ops.gelu(x * 2.5 + 1).mean(axis=0) / 3 - np.float64(0.5)) ** 2
    assert y.dtype == np.float32
    y.sum().backward()
    assert x.grad.dtype == np.float32


# Operators

_BINARY = [
    operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod, operator.pow,
    operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne,
]  # fmt: skip


@pytest.mark.parametrize("op", _BINARY)
def test_operators_with_arrays_scalars_and_lists_on_either_side(op):
    a, b = np.array([[1.5, 2.5, 3.0]]), np.array([[2.0], [3.0]])
    for x, y in ((as_tensor(a), as_tensor(b)), (as_tensor(a), b), (a, as_tensor(b))):
        result = op(x, y)
        assert isinstance(result, Tensor)
        np.testing.assert_allclose(result, op(a, b))
    for x, y in ((as_tensor(a), 2), (as_tensor(a), 0.5), (3, as_tensor(b)), (2.5, as_tensor(b))):
        result = op(x, y)
        assert isinstance(result, Tensor)
        np.testing.assert_allclose(result, op(*(v.numpy() if isinstance(v, Tensor) else v for v in (x, y))))
    np.testing.assert_allclose(op(as_tensor(a), [1.0, 2.0, 3.0]), op(a, np.array([1.0, 2.0, 3.0])))
    assert op(as_tensor(a.astype(np.float32)), [1.0, 2.0, 3.0]).dtype in (np.float32, np.bool_)


@pytest.mark.parametrize("op", [operator.and_, operator.or_, operator.xor])
def test_logical_operators(op):
    a, b = np.array([True, True, False]), np.array([True, False, False])
    for x, y in ((as_tensor(a), as_tensor(b)), (as_tensor(a), b), (a, as_tensor(b)), (as_tensor(a), True)):
        np.testing.assert_array_equal(op(x, y), op(a, b if y is not True else True))
    np.testing.assert_array_equal(op(as_tensor([6, 5]), 3), op(np.array([6, 5]), 3))
    np.testing.assert_array_equal(~as_tensor(a), ~a)


def test_unary_operators_and_matmul():
    a = np.array([[1.0, -2.0], [0.5, 3.0]])
    np.testing.assert_array_equal(-as_tensor(a), -a)
    np.testing.assert_array_equal(+as_tensor(a), a)
    np.testing.assert_array_equal(abs(as_tensor(a)), abs(a))
    for x, y in ((as_tensor(a), as_tensor(a)), (as_tensor(a), a), (a, as_tensor(a))):
        np.testing.assert_allclose(x @ y, a @ a)


def test_foreign_operands_raise_type_error():
    with pytest.raises(TypeError):
        as_tensor([1.0]) + "a"
    with pytest.raises(TypeError):
        {} * as_tensor([1.0])
    assert (as_tensor([1.0]) == None) is False  # noqa: E711
    assert (as_tensor([1.0]) != "a") is True


def test_an_unknown_type_gets_its_turn():
    class Other:
        def __radd__(self, other):
            return "radd"

    assert as_tensor([1.0]) + Other() == "radd"


def test_gradients_through_mixed_operands():
    x = as_tensor([1.0, 2.0], requires_grad=True)
    (np.array([3.0, 4.0], np.float32) * x + [1.0, 2.0] - 2 / x).sum().backward()
    np.testing.assert_allclose(x.grad, [3 + 2, 4 + 0.5])


# Protocols


def test_array_protocol():
    t = as_tensor([[1.0, 2.0]])
    assert np.shares_memory(np.asarray(t), t.array)
    assert np.asarray(t, dtype=np.float64).dtype == np.float64
    assert not np.shares_memory(np.array(t), t.array)
    assert not np.shares_memory(np.array(t, copy=True), t.array)
    with pytest.raises(ValueError):
        np.asarray(t, dtype=np.float64, copy=False)
    assert np.shares_memory(t.numpy(), t.array)
    np.testing.assert_array_equal(np.concatenate([t, t]), [[1, 2], [1, 2]])
    t.requires_grad_()
    for convert in (np.asarray, lambda x: x.numpy()):
        with pytest.raises(RuntimeError, match="detach"):
            convert(t)


def test_dlpack_round_trips():
    t = as_tensor(np.arange(6, dtype=np.float32).reshape(2, 3))
    np.testing.assert_array_equal(np.from_dlpack(t), t.array)
    assert np.shares_memory(np.from_dlpack(t), t.array)
    back = minidl.from_dlpack(np.arange(3.0))
    np.testing.assert_array_equal(back, [0, 1, 2])
    with pytest.raises(BufferError, match="detach"):
        np.from_dlpack(as_tensor([1.0], requires_grad=True))


def test_dlpack_with_pytorch():
    torch = pytest.importorskip("torch", reason="the other side of the exchange")
    t = as_tensor(np.arange(6, dtype=np.float32).reshape(2, 3))
    theirs = torch.from_dlpack(t)
    theirs[0, 0] = 42
    assert t[0, 0].item() == 42
    ours = minidl.from_dlpack(torch.ones(2, 3))
    ones = torch.ones(2, 3)
    for made in (as_tensor(ones), minidl.as_tensor(ones), as_tensor(ones, dtype="float32")):
        assert type(made.array) is np.ndarray and made.dtype == np.float32
    assert isinstance(ours, Tensor) and ours.shape == (2, 3)


def test_len_iteration_and_membership():
    t = as_tensor([[1.0, 2.0], [3.0, 4.0]])
    assert len(t) == 2
    assert [row.tolist() for row in t] == [[1, 2], [3, 4]]
    assert 3.0 in t and 7.0 not in t
    a, b = t
    assert a.shape == b.shape == (2,)
    for f in (len, iter):
        with pytest.raises(TypeError, match="0-d"):
            f(as_tensor(1.0))
    x = as_tensor([1.0, 2.0, 3.0], requires_grad=True)
    sum(v * i for i, v in enumerate(x)).backward()
    np.testing.assert_array_equal(x.grad, [0, 1, 2])


def test_conversion_to_python():
    assert bool(as_tensor([[0.5]])) and not bool(as_tensor(0))
    assert float(as_tensor([2.5])) == 2.5 and int(as_tensor(2.9)) == 2
    assert [10, 20, 30][as_tensor(1)] == 20
    assert as_tensor([1.5]).item() == 1.5
    assert as_tensor([[1, 2]]).tolist() == [[1, 2]]
    assert float(as_tensor(2.0, requires_grad=True)) == 2.0
    assert f"{as_tensor(3.14159):.2f}" == "3.14"
    for f in (bool, float, int, lambda t: t.item()):
        with pytest.raises(ValueError, match=r"\(2,\)"):
            f(as_tensor([1.0, 2.0]))
    with pytest.raises(TypeError, match="float32"):
        operator.index(as_tensor(1.0))


def test_copies():
    x = as_tensor([1.0, 2.0], requires_grad=True)
    x.grad = as_tensor([5.0, 6.0])
    y = copy.deepcopy(x)
    assert y.requires_grad and y.is_leaf and not np.shares_memory(x.array, y.array)
    np.testing.assert_array_equal(y.grad, x.grad)
    assert y.grad is not x.grad
    shallow = copy.copy(x)
    assert not np.shares_memory(x.array, shallow.array)
    assert shallow.grad_fn is not None
    with pytest.raises(RuntimeError, match="leaf"):
        copy.deepcopy(x * 2)
    model = {"w": x, "same": x}
    copied = copy.deepcopy(model)
    assert copied["w"] is copied["same"]
    z = x.clone()
    z.sum().backward()
    np.testing.assert_array_equal(x.grad, [6, 7])


def test_pickling():
    x = as_tensor([1.0, 2.0], requires_grad=True)
    y = pickle.loads(pickle.dumps(x))
    assert y.requires_grad and y.dtype == x.dtype
    np.testing.assert_array_equal(y.detach(), x.detach())
    z = pickle.loads(pickle.dumps(x * 2))
    assert not z.requires_grad


def test_hash_is_identity_and_dictionaries_work():
    x, y = as_tensor([1.0]), as_tensor([1.0])
    assert {x: 1, y: 2}[x] == 1


def test_repr_is_numpys():
    assert repr(as_tensor([1.0, 2.5])) == "tensor([1. , 2.5])"
    assert repr(as_tensor(3)) == "tensor(3)"
    assert repr(as_tensor([[1, 2], [3, 4]])) == "tensor([[1, 2],\n        [3, 4]])"
    assert repr(as_tensor(np.ones(1))) == "tensor([1.], dtype=float64)"
    x = as_tensor([1.0], requires_grad=True)
    assert repr(x) == "tensor([1.], requires_grad=True)"
    assert repr(x * 2) == "tensor([2.], grad_fn=<mul>)"
    assert "..." in repr(as_tensor(np.zeros(5000)))
    assert str(x) == repr(x)


def test_transposes():
    a = np.arange(24.0).reshape(2, 3, 4)
    t = as_tensor(a)
    np.testing.assert_array_equal(t.T, a.T)
    np.testing.assert_array_equal(t.mT, a.swapaxes(-1, -2))
    np.testing.assert_array_equal(t.transpose(), a.T)
    np.testing.assert_array_equal(t.transpose((2, 0, 1)), a.transpose(2, 0, 1))
    np.testing.assert_array_equal(t.permute(2, 0, 1), a.transpose(2, 0, 1))
    np.testing.assert_array_equal(t.transpose(-1, 0), a.swapaxes(-1, 0))
    m = t[0]
    np.testing.assert_array_equal(m.transpose(0, 1), a[0].T)  # swaps, as in PyTorch
    np.testing.assert_array_equal(m.transpose(-2, -1), a[0].T)


def test_conversions():
    t = as_tensor([1.7, -0.2])
    assert t.float() is t and t.double().dtype == np.float64 and t.half().dtype == np.float16
    assert t.long().tolist() == [1, 0] and t.int().dtype == np.int32 and t.bool().tolist() == [True, True]
    assert t.to("float64").dtype == np.float64 and t.to(np.int64).dtype == np.int64
    assert t.to("cpu") is t
    x = as_tensor([1.0], requires_grad=True)
    (x.double() * 2).sum().backward()
    assert x.grad.dtype == np.float32
    with pytest.raises(minidl.backend.BackendError, match="nonsense"):
        t.to("nonsense")


# Errors name the operation and the shapes


@pytest.mark.parametrize(
    ("f", "parts"),
    [
        (lambda: as_tensor(np.zeros((2, 3))) @ as_tensor(np.zeros((2, 3))), ["matmul", "[2, 3]"]),
        (lambda: as_tensor(np.zeros((2, 3))).reshape(4), ["reshape", "(4,)", "[2, 3]"]),
        (lambda: as_tensor(np.zeros((2, 3)))[5], ["index", "(2, 3)"]),
        (lambda: as_tensor(np.zeros((2, 3)))[as_tensor([0.5])], ["integer or bool", "float32"]),
        (
            lambda: ops.concat([as_tensor(np.zeros((2, 3))), as_tensor(np.zeros((3, 2)))]),
            ["concat", "(2, 3)", "(3, 2)"],
        ),
        (lambda: ops.stack([as_tensor(np.zeros(2)), as_tensor(np.zeros(3))]), ["stack", "(2,)", "(3,)"]),
        (lambda: ops.split(as_tensor(np.zeros(5)), [2, 2]), ["split", "4", "5"]),
        (lambda: ops.permute(as_tensor(np.zeros((2, 3))), axes=(0, 0)), ["permute", "(0, 0)", "(2, 3)"]),
        (lambda: ops.expand(as_tensor(np.zeros((2, 3))), (2, 4)), ["expand", "(2, 3)", "(2, 4)"]),
        (lambda: ops.pad_nd(as_tensor(np.zeros((2, 3))), widths=((1, 1),)), ["pad", "(2, 3)"]),
        (lambda: ops.one_hot(as_tensor([5]), num_classes=3), ["one_hot", "5", "3"]),
        (
            lambda: ops.einsum("ij,jk", minidl.zeros(2, 3), minidl.zeros(2, 3)),
            ["einsum", "'j'", "3", "2"],
        ),
        (lambda: ops.solve(as_tensor(np.zeros((2, 3))), as_tensor(np.zeros(2))), ["solve", "square", "[2, 3]"]),
        (lambda: ops.inv(as_tensor(np.zeros((2, 2)))), ["inv", "[2, 2]"]),
        (lambda: ops.topk(as_tensor(np.zeros(3)), 5), ["topk", "5", "3"]),
        (lambda: ops.gather(as_tensor(np.zeros((2, 3))), as_tensor([0]), axis=0), ["gather", "(2, 3)"]),
        (lambda: as_tensor(np.zeros((2, 3))) + as_tensor(np.zeros((2, 4))), ["add", "[2, 3]", "[2, 4]"]),
        (lambda: as_tensor(np.zeros((2, 3))) < np.zeros((2, 4)), ["less", "[2, 3]", "[2, 4]"]),
        (lambda: as_tensor(np.zeros((2, 3))).sum(axis=5), ["sum", "axis 5", "float64[2, 3]"]),
        (lambda: as_tensor(np.zeros((2, 3))).squeeze(5), ["squeeze", "axis 5"]),
        (lambda: ops.softmax(np.zeros((2, 3)), axis=-3), ["softmax", "axis -3", "float64[2, 3]"]),
        (lambda: ops.max(as_tensor(np.zeros((0, 3)))), ["max", "float64[0, 3]"]),
        (lambda: ops.gather(as_tensor(np.zeros((2, 3))), as_tensor([[7]]), axis=0), ["gather", "7", "float64[2, 3]"]),
        (lambda: ops.take(as_tensor(np.zeros(2)), np.array([9])), ["take", "9", "float64[2]"]),
        (lambda: ops.broadcast_to(as_tensor(np.zeros((2, 3))), shape=(2, 4)), ["broadcast_to", "[2, 3]", "(2, 4)"]),
        (lambda: ops.pad_nd(as_tensor(np.zeros(2)), widths=(1,)), ["pad", "(1,)", "float64[2]"]),
        (lambda: ops.gather(as_tensor(np.zeros((2, 3))), 0, axis=0), ["gather", "number", "float64[2, 3], 0"]),
        (lambda: ops.relu("abc"), ["relu", "'abc'", "Tensors"]),
        (lambda: ops.sum(as_tensor(np.zeros(2)), axle=0), ["sum", "x, axis, keepdims", "'axle'"]),
        (lambda: as_tensor([[1.0], [1.0, 2.0]]), ["Tensor", "inhomogeneous"]),
    ],
)
def test_errors_name_operation_and_shapes(f, parts):
    with pytest.raises((ValueError, IndexError, TypeError, np.linalg.LinAlgError)) as caught:
        f()
    for part in parts:
        assert part in str(caught.value)


def test_an_error_keeps_the_line_it_came_from():
    with pytest.raises(IndexError) as caught:
        ops.gather(np.zeros((2, 3)), np.array([[7]]), axis=0)
    assert any(str(line.path).endswith("indexing.py") for line in caught.traceback)


# Makers of tensors


def test_filled():
    for t, value in ((minidl.zeros(2, 3), 0), (minidl.ones((2, 3)), 1), (minidl.full((2, 3), 2.5), 2.5)):
        assert t.shape == (2, 3) and t.dtype == np.float32 and not t.requires_grad
        np.testing.assert_array_equal(t, np.full((2, 3), value))
    assert minidl.empty(2, 0).shape == (2, 0)
    assert minidl.zeros().shape == ()
    assert minidl.full(3, 7).dtype == np.int64 and minidl.full(3, True).dtype == np.bool_
    assert minidl.ones(2, dtype="float64", requires_grad=True).requires_grad
    with pytest.raises(TypeError, match=r"zeros.*2\.5"):
        minidl.zeros(2.5)
    with pytest.raises(ValueError, match=r"ones.*negative"):
        minidl.ones(-1)
    x = as_tensor(np.ones((2, 3)))
    for t, value in ((minidl.zeros_like(x), 0), (minidl.ones_like(x), 1), (minidl.full_like(x, 3), 3)):
        assert t.dtype == np.float64
        np.testing.assert_array_equal(t, np.full((2, 3), value))
    assert minidl.zeros_like(x, dtype=np.int32).dtype == np.int32


def test_spaced():
    np.testing.assert_array_equal(minidl.arange(3), [0, 1, 2])
    assert minidl.arange(3).dtype == np.int64 and minidl.arange(3.0).dtype == np.float32
    np.testing.assert_array_equal(minidl.arange(1, 2, 0.25), [1, 1.25, 1.5, 1.75])
    np.testing.assert_array_equal(minidl.arange(3, 0, -1), [3, 2, 1])
    np.testing.assert_allclose(minidl.linspace(0, 1, 5), [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_array_equal(minidl.eye(2, 3), np.eye(2, 3))
    with pytest.raises(ValueError, match="step"):
        minidl.arange(0, 1, 0)


def test_random_makers():
    minidl.manual_seed(5)
    first = [f() for f in (lambda: minidl.rand(3), lambda: minidl.randn(2, 2), lambda: minidl.randint(10, size=4))]
    minidl.manual_seed(5)
    again = [f() for f in (lambda: minidl.rand(3), lambda: minidl.randn(2, 2), lambda: minidl.randint(10, size=4))]
    for a, b in zip(first, again):
        np.testing.assert_array_equal(a, b)
    g = minidl.Generator(1)
    a, b = minidl.rand(1000, generator=g), minidl.randn(1000, generator=g)
    assert a.min().item() >= 0 and a.max().item() < 1 and abs(a.mean().item() - 0.5) < 0.05
    assert abs(b.mean().item()) < 0.15 and abs(b.std().item() - 1) < 0.1
    assert a.dtype == b.dtype == np.float32 and minidl.randn(2, dtype=np.float64).dtype == np.float64
    n = minidl.randint(-2, 3, (500,))
    assert n.dtype == np.int64 and set(n.tolist()) == {-2, -1, 0, 1, 2}
    np.testing.assert_array_equal(np.sort(minidl.randperm(50)), np.arange(50))


@given(st.lists(st.integers(0, 4), max_size=4))
def test_shapes_of_makers(shape):
    for f in (minidl.zeros, minidl.ones, minidl.empty, minidl.rand, minidl.randn):
        assert f(*shape).shape == f(shape).shape == tuple(shape)


# The package


def test_every_operation_is_reachable():
    assert minidl.exp is ops.exp and minidl.cat is ops.concat and minidl.einsum is ops.einsum
    assert minidl.random.Generator is minidl.Generator
    assert minidl.nn is sys.modules["minidl.nn"]
    assert "exp" in dir(minidl) and "grad" in dir(minidl)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = minidl.nonsense


def test_import_brings_in_nothing_heavy():
    """A fresh interpreter: scipy.special alone would double the time of `import minidl`."""
    code = (
        "import minidl, sys; minidl.exp(minidl.ones(3)); "
        "print([m for m in ('scipy.special', 'scipy.sparse', 'matplotlib', 'PIL', 'numba', 'jax', 'torch', 'rich', "
        "'multiprocessing.pool', 'minidl.nn', 'minidl.data') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_methods_are_documented():
    assert Tensor.sum.__doc__ == ops.sum.__doc__
    methods = {name: value for name, value in vars(Tensor).items() if name[0] != "_" and callable(value)}
    assert not [name for name, value in methods.items() if not value.__doc__]
