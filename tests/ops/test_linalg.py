"""Linear algebra against NumPy and PyTorch: values, gradients, batches, singular and degenerate matrices."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minidl import as_tensor, ops
from minidl.testing import gradcheck, gradgradcheck

torch = pytest.importorskip("torch", reason="values and gradients are compared with PyTorch's")


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def both(f, g, *arrays, rtol=1e-8):
    """Values and gradients of f (ours) and g (PyTorch's), which may return several."""
    ours = [as_tensor(a, requires_grad=True) for a in arrays]
    theirs = [torch.tensor(a, requires_grad=True) for a in arrays]
    xs, ys = f(*ours), g(*theirs)
    xs, ys = (v if isinstance(v, (tuple, list)) else (v,) for v in (xs, ys))
    total, total_t = 0.0, 0.0
    for i, (x, y) in enumerate(zip(xs, ys, strict=True)):
        np.testing.assert_allclose(np.asarray(x.detach()), y.detach().numpy(), rtol=rtol, atol=1e-10)
        weights = numbers(*x.shape, seed=i + 1)
        total = total + (x * weights).sum()
        total_t = total_t + (y * torch.tensor(weights)).sum()
    total.backward()
    total_t.backward()
    for a, b in zip(ours, theirs):
        expected = np.zeros(b.shape) if b.grad is None else b.grad.numpy()
        np.testing.assert_allclose(np.asarray(a.grad), expected, rtol=rtol, atol=1e-9)


# Products


@given(shapes=hnp.mutually_broadcastable_shapes(signature=np.matmul.signature, max_dims=2, min_side=0, max_side=3))
def test_matmul(shapes):
    a, b = (numbers(*s, seed=i) for i, s in enumerate(shapes.input_shapes))
    both(lambda x, y: x @ y, lambda x, y: x @ y, a, b)
    if a.size and b.size:
        assert gradgradcheck(ops.matmul, a, b)


def test_matmul_refuses_what_does_not_fit():
    for a, b in ((2, 3), (2, 3)), ((2, 2, 3), (3, 3, 2)), ((), (2,)):
        with pytest.raises(
            ValueError, match=r"matmul: shapes do not fit.*expected \(\.\.\., n, k\) @ \(\.\.\., k, m\)"
        ):
            ops.matmul(as_tensor(np.zeros(a)), as_tensor(np.zeros(b)))


EINSUMS = [
    "ij,jk->ik", "ij,jk", "bij,bjk->bik", "ij->ji", "ij->", "ij->j", "ii", "ii->i", "iij->j", "iij,jk->ik", "i,j->ij",
    "i,i", "i,i->i", "ij,ij->i", "ij,kj->ik", "abc,abd->cd", "ab,bc,cd,de->ae", "a,b,c,d->dcba", "ij,jk,ki->",
    "bhqd,bhkd->bhqk", "...ij,...jk->...ik", "...,...->...", "i...->...", "...i,ij->...j", "ij...,jk...->ik...",
    "ba,b->a", "abab->ab", " i j , j k -> k i ",
]  # fmt: skip


@pytest.mark.parametrize("subscripts", EINSUMS)
@given(data=st.data())
def test_einsum(subscripts, data):
    terms = subscripts.replace(" ", "").partition("->")[0].split(",")
    lengths = {c: data.draw(st.integers(1, 3), label=c) for c in sorted({c for t in terms for c in t if c != "."})}
    dots = data.draw(st.lists(st.integers(1, 2), max_size=2))
    arrays = []
    for i, term in enumerate(terms):
        before, has_dots, after = term.partition("...")
        own = [data.draw(st.sampled_from([n, 1])) for n in dots] if has_dots else []
        shape = [lengths[c] for c in before] + own + [lengths[c] for c in after]
        arrays.append(numbers(*shape, seed=i))
    result = ops.einsum(subscripts, *map(as_tensor, arrays))
    np.testing.assert_allclose(result, np.einsum(subscripts, *arrays), rtol=1e-9, atol=1e-12)
    assert gradcheck(lambda *xs: ops.einsum(subscripts, *xs), *arrays)


def test_einsum_second_derivatives():
    assert gradgradcheck(lambda x, y, z: ops.einsum("ij,jk,ki->", x, y, z), numbers(2, 3), numbers(3, 2), numbers(2, 2))
    assert gradgradcheck(lambda x: ops.einsum("ij,kj->ik", x, x), numbers(2, 3))


def test_einsum_in_the_form_with_lists():
    a, b = numbers(2, 3), numbers(3, 4)
    np.testing.assert_allclose(ops.einsum(a, [0, 1], b, [1, 2], [2, 0]), np.einsum(a, [0, 1], b, [1, 2], [2, 0]))
    np.testing.assert_allclose(ops.einsum(a, [..., 1], b, [1, 2]), np.einsum(a, [..., 1], b, [1, 2]))


def test_einsum_dtypes_and_zero_size():
    assert ops.einsum("ij,jk", np.ones((2, 3), np.float32), np.ones((3, 2), np.int64)).dtype == np.float32
    assert ops.einsum("ij->", np.ones((2, 3), np.float32)).dtype == np.float32
    np.testing.assert_array_equal(ops.einsum("ij,jk->ik", np.ones((2, 0)), np.ones((0, 3))), np.zeros((2, 3)))


@pytest.mark.parametrize(
    ("subscripts", "shapes", "message"),
    [
        ("ij,jk", [(2, 3)], "2 terms do not match 1 operands"),
        ("ij", [(2, 3, 4)], "'ij' does not match an operand with 3 axes"),
        ("ij,jk->ik", [(2, 3), (4, 2)], "'j' stands for lengths 3 and 4"),
        ("ii", [(2, 3)], "'i' stands for lengths 2 and 3"),
        ("ij->ik", [(2, 3)], "not among the inputs"),
        ("ij->ii", [(2, 3)], "repeated"),
        ("i1", [(2, 3)], "not a letter"),
        ("...i->i", [(2, 3)], "lacks the ellipsis"),
    ],
)
def test_einsum_errors(subscripts, shapes, message):
    with pytest.raises(ValueError, match=f"einsum.*{message}"):
        ops.einsum(subscripts, *(np.zeros(s) for s in shapes))


def test_outer_dot_tensordot_trace():
    a, b = numbers(3), numbers(3, seed=1)
    both(ops.outer, torch.outer, a, b)
    both(ops.dot, torch.dot, a, b)
    both(lambda x, y: ops.tensordot(x, y, 2), lambda x, y: torch.tensordot(x, y, 2), numbers(2, 3, 4), numbers(3, 4, 2))
    both(
        lambda x, y: ops.tensordot(x, y, ([0, -1], [1, 0])),
        lambda x, y: torch.tensordot(x, y, ([0, 2], [1, 0])),
        numbers(2, 3, 4),
        numbers(4, 2, 3),
    )
    both(ops.trace, torch.trace, numbers(3, 4))
    for f, args in ((ops.outer, (a, numbers(2, 2))), (ops.dot, (a, numbers(4)))):
        with pytest.raises(ValueError, match=f.__name__):
            f(*args)
    with pytest.raises(ValueError, match="tensordot"):
        ops.tensordot(numbers(2, 3), numbers(2, 3), 1)


# Triangles and diagonals


@given(shape=hnp.array_shapes(min_dims=2, max_dims=3, min_side=0, max_side=4), k=st.integers(-3, 3))
def test_triangles_and_diagonals(shape, k):
    x = numbers(*shape)
    both(lambda t: ops.tril(t, k=k), lambda t: torch.tril(t, k), x)
    both(lambda t: ops.triu(t, k=k), lambda t: torch.triu(t, k), x)
    np.testing.assert_array_equal(ops.diagonal(x, offset=k, axis1=-1, axis2=0), np.diagonal(x, k, -1, 0))
    if x.size:
        assert gradcheck(lambda t: ops.diagonal(t, offset=k, axis1=-1, axis2=0), x)
        both(lambda t: ops.diag_embed(t, k), lambda t: torch.diag_embed(t, k), x)


def test_diag():
    both(lambda x: ops.diag(x, 1), lambda x: torch.diag(x, 1), numbers(3))
    both(lambda x: ops.diag(x, -1), lambda x: torch.diag(x, -1), numbers(3, 4))
    with pytest.raises(ValueError, match="diag"):
        ops.diag(numbers(2, 2, 2))


# Norms


@pytest.mark.parametrize("ord", [0, 0.5, 1, 1.5, 2, 3, -1, math.inf, -math.inf])
@pytest.mark.parametrize(("axis", "keepdims"), [(None, False), (0, False), ((0, 2), True), (-1, False)])
def test_vector_norms(ord, axis, keepdims):
    x = numbers(2, 3, 4)
    both(
        lambda t: ops.norm(t, ord=ord, axis=axis, keepdims=keepdims),
        lambda t: torch.linalg.vector_norm(t, ord=ord, dim=axis, keepdim=keepdims),
        x,
    )


@pytest.mark.parametrize("ord", [1, 2, 3, math.inf])
def test_norms_of_zero_vectors_and_elements_have_finite_gradients(ord):
    x = np.array([[0.0, 0.0], [0.0, 2.0], [-1.0, 1.0]])
    both(lambda t: ops.norm(t, ord=ord, axis=1), lambda t: torch.linalg.vector_norm(t, ord=ord, dim=1), x)


def test_norm_of_nothing_and_of_float32():
    np.testing.assert_array_equal(ops.norm(np.zeros((0, 3)), axis=0), np.zeros(3))
    assert ops.norm(np.ones(3, np.float32), ord=3).dtype == np.float32
    assert as_tensor([3.0, 4.0]).norm().item() == 5
    with pytest.raises(ValueError, match="matrix_norm"):
        ops.norm(np.ones((2, 2)), ord="nuc")


@pytest.mark.parametrize("ord", ["fro", "nuc", 1, -1, 2, -2, math.inf, -math.inf])
@pytest.mark.parametrize(("axis", "keepdims"), [((-2, -1), False), ((2, 0), True), ((0, 1), False)])
def test_matrix_norms(ord, axis, keepdims):
    both(
        lambda t: ops.matrix_norm(t, ord, axis, keepdims),
        lambda t: torch.linalg.matrix_norm(t, ord, axis, keepdims),
        numbers(2, 3, 4),
    )


def test_unknown_matrix_norm():
    with pytest.raises(ValueError, match=r"matrix_norm.*3"):
        ops.matrix_norm(numbers(2, 2), 3)


# Solving and factorizing


def square(*shape, seed=0):
    return numbers(*shape, seed=seed) + 2 * np.eye(shape[-1])


def definite(x):
    return x @ ops.mT(x) + 0.5 * np.eye(x.shape[-1])


def definite_t(x):
    return x @ x.mT + 0.5 * torch.eye(x.shape[-1], dtype=x.dtype)


@pytest.mark.parametrize(
    ("a", "b"), [((3, 3), (3, 2)), ((3, 3), (3,)), ((2, 3, 3), (3, 1)), ((3, 3), (2, 3, 2)), ((1, 1), (1, 1))]
)
def test_solve(a, b):
    both(ops.solve, torch.linalg.solve, square(*a), numbers(*b, seed=1))


def test_solve_takes_1d_right_hand_sides_for_batches():
    a, b = square(2, 3, 3), numbers(3)
    np.testing.assert_allclose(ops.solve(a, b), np.stack([np.linalg.solve(m, b) for m in a]))
    assert gradcheck(ops.solve, a, b) and gradgradcheck(ops.solve, a, b)


@pytest.mark.parametrize("shape", [(3, 3), (2, 2, 2), (1, 1), (0, 3, 3)])
def test_inverse_and_determinants(shape):
    x = square(*shape)
    both(ops.inv, torch.linalg.inv, x)
    both(ops.det, torch.linalg.det, x)
    both(ops.slogdet, torch.linalg.slogdet, x)


def test_determinant_of_singular_matrices_has_its_gradient():
    x = numbers(3, 3)
    x[2] = x[0] - x[1]  # rank 2
    assert gradcheck(ops.det, x)
    assert gradcheck(ops.det, np.array([[1.0, 2.0], [2.0, 4.0]]))
    t = as_tensor(np.zeros((3, 3)), requires_grad=True)
    ops.det(t).backward()
    np.testing.assert_array_equal(t.grad, np.zeros((3, 3)))


@pytest.mark.parametrize("shape", [(3, 3), (2, 2, 2), (1, 1)])
def test_cholesky(shape):
    x = numbers(*shape)
    both(lambda t: ops.cholesky(definite(t)), lambda t: torch.linalg.cholesky(definite_t(t)), x)
    assert gradgradcheck(lambda t: ops.cholesky(definite(t)), x, rtol=1e-4)
    symmetric = as_tensor(np.asarray(definite(x)), requires_grad=True)
    ops.cholesky(symmetric).sum().backward()
    np.testing.assert_allclose(symmetric.grad, np.swapaxes(symmetric.grad, -1, -2))


def test_eigh():
    x = numbers(2, 3, 3)
    both(
        lambda t: (lambda w, v: (w, v**2))(*ops.eigh(t + ops.mT(t))),
        lambda t: (lambda w, v: (w, v**2))(*torch.linalg.eigh(t + t.mT)),
        x,
    )
    assert gradgradcheck(lambda t: ops.eigh(t + ops.mT(t))[0], x, rtol=1e-4)


@pytest.mark.parametrize("decompose", [ops.eigh, lambda a: ops.svd(a)[1::-1]])
@pytest.mark.parametrize("diagonal", [[5.0, 2.0, 2.0], [3.0, 3.0, 3.0]])
def test_values_that_coincide(decompose, diagonal):
    """Functions of the eigen- or singular values have their gradient; one of the vectors is NaN, not quietly wrong."""
    a = as_tensor(np.diag(diagonal), requires_grad=True)
    w, _ = decompose(a)
    (w**2).sum().backward()
    np.testing.assert_allclose(a.grad, 2 * a.array)
    a.grad = None
    w, v = decompose(a)
    ((v * w[None, :]) @ v.T * np.arange(9.0).reshape(3, 3)).sum().backward()
    assert np.isnan(np.asarray(a.grad)).any()


@pytest.mark.parametrize("shape", [(3, 3), (4, 2), (2, 4), (2, 3, 2), (2, 2, 3), (1, 3)])
def test_svd(shape):
    both(
        lambda t: (lambda u, s, vh: (u**2, s, vh**2, (u * s[..., None, :] ** 2) @ vh))(*ops.svd(t)),
        lambda t: (lambda u, s, vh: (u**2, s, vh**2, (u * s[..., None, :] ** 2) @ vh))(
            *torch.linalg.svd(t, full_matrices=False)
        ),
        numbers(*shape),
        rtol=1e-6,
    )
    assert gradgradcheck(lambda t: ops.svd(t)[1], numbers(*shape), rtol=1e-4)


@pytest.mark.parametrize("shape", [(3, 3), (4, 2), (2, 4), (2, 3, 2), (1, 1)])
def test_qr(shape):
    both(ops.qr, torch.linalg.qr, numbers(*shape))
    assert gradgradcheck(lambda t: ops.qr(t)[1], numbers(*shape), rtol=1e-4)


@pytest.mark.parametrize("n", [-2, -1, 0, 1, 2, 5])
def test_matrix_power(n):
    both(lambda t: ops.matrix_power(t, n), lambda t: torch.linalg.matrix_power(t, n), square(2, 3, 3))


@pytest.mark.parametrize("name", ["inv", "det", "slogdet", "cholesky", "eigh", "svd", "qr"])
def test_float32_stays_and_integers_become_float32(name):
    x = np.array([[2.0, 1.0], [1.0, 3.0]])
    for dtype in (np.float32, np.int64):
        out = getattr(ops, name)(as_tensor(x.astype(dtype)))
        for o in out if isinstance(out, tuple) else (out,):
            assert o.dtype == np.float32


@pytest.mark.parametrize("name", ["inv", "det", "slogdet", "cholesky", "eigh", "matrix_power"])
def test_only_square_matrices(name):
    args = (2,) if name == "matrix_power" else ()
    for shape in ((2, 3), (3,)):
        with pytest.raises(
            ValueError, match=rf"{name}: expected square matrices.*float64\[{', '.join(map(str, shape))}\]"
        ):
            getattr(ops, name)(as_tensor(np.ones(shape)), *args)


def test_singular_and_indefinite_matrices_are_named():
    with pytest.raises(np.linalg.LinAlgError, match=r"inv: .*float64\[2, 2\]"):
        ops.inv(as_tensor(np.zeros((2, 2))))
    with pytest.raises(np.linalg.LinAlgError, match=r"solve: .*float64\[2, 2\]"):
        ops.solve(np.ones((2, 2)), np.ones(2))
    with pytest.raises(np.linalg.LinAlgError, match=r"cholesky: .*float64\[2, 2\]"):
        ops.cholesky(-np.eye(2))
    with pytest.raises(ValueError, match=r"solve: shapes do not fit.*\[2, 2\].*\[3\]"):
        ops.solve(np.eye(2), np.ones(3))
