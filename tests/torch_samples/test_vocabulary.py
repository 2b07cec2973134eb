"""Functions that follow PyTorch's of the same name, on PyTorch's own samples: values, dtypes and gradients."""

import contextlib
import importlib
import warnings
from collections.abc import Iterator

import numpy as np
import pytest

import minidl
import minidl.nn.functional as F
from minidl.core.registry import load

pytest.importorskip("torch", reason="PyTorch's samples are the judge")
judge = importlib.import_module("tests.torch_samples.judge")

#: of each dtype, this many samples
MOST = {"numpy": {"float64": 10, "float32": 2, "int64": 3}, "numba": {"float32": 1}, "jax": {"float32": 1}}
#: these give something else each time, or PyTorch's sample calls a lambda with arguments in another order
NOT_COMPARED = {
    "empty", "empty_like", "new_empty", "randn", "randn_like", "randint", "randint_like", "rand_like", "bernoulli",
    "multinomial", "normal", "einsum", "where", "nn.functional.embedding", "nn.functional.alpha_dropout",
    "nn.functional.dropout", "nn.functional.dropout1d", "nn.functional.dropout2d", "nn.functional.dropout3d",
    "nn.functional.feature_alpha_dropout",
}  # fmt: skip
OPS = sorted(name for name in judge.OPS if judge.OPS[name].name not in NOT_COMPARED)


def _of_ints(case) -> bool:
    return case.dtype == "int64"


def _refused(case) -> bool:
    return "Error: " in case.why


#: deliberate differences: which samples differ, and why
DIFFERENT = {
    "__rpow__": (_of_ints, "a negative power of an integer is refused, as by NumPy, not 0"),
    "nn.functional.hardtanh": (_of_ints, "activation functions give floats"),
    "nn.functional.relu6": (_of_ints, "activation functions give floats"),
    "nn.functional.avg_pool1d": (_of_ints, "a mean is a float"),
    "nn.functional.avg_pool2d": (_of_ints, "a mean is a float"),
    "nn.functional.avg_pool3d": (_of_ints, "a mean is a float"),
    "nn.functional.conv1d": (lambda case: case.error, "ints with floats give floats, as in every operation"),
    "nn.functional.conv2d": (lambda case: case.error, "ints with floats give floats, as in every operation"),
    "nn.functional.conv3d": (lambda case: case.error, "ints with floats give floats, as in every operation"),
    "nn.functional.max_pool1d": (lambda case: case.error, "an image of no channels has a result: one of none"),
    "nn.functional.max_pool3d": (lambda case: case.error, "an image of no channels has a result: one of none"),
    "nn.functional.ctc_loss": (
        lambda case: "gradient" in case.why,
        "PyTorch's gradient is right behind a log_softmax only (test_modules.py)",
    ),
    "nn.functional.hinge_embedding_loss": (_refused, "targets other than 1 and -1 are refused"),
    "nn.functional.instance_norm": (_refused, "running statistics belong to the layer, nn.InstanceNorm1d and so on"),
    "nn.functional.multi_margin_loss": (_refused, "a score without classes is refused"),
    "nn.functional.scaled_dot_product_attention": (
        lambda case: case.kwargs.get("dropout_p"),
        "dropout draws other numbers",
    ),
    "mean": (lambda case: case.error and "int" in str(case.input.dtype), "a mean of integers is a float"),
    "masked_fill": (lambda case: case.error, "a value of one element may be an array"),
    "norm.nuc": (_refused, "that is matrix_norm"),
    "scatter": (lambda case: "reduce" in case.kwargs, "only scatter_add reduces"),
    "svd": (_refused, "PyTorch's old svd, which gives V: minidl.svd is linalg.svd"),
    "zero_": (lambda case: "gradient" in case.why, "values of a leaf may be set; they are its values from then on"),
    "special.bessel_j0": (lambda case: "expected" in case.why, "SciPy's is more accurate"),
    "special.bessel_y1": (lambda case: "expected" in case.why, "SciPy's is more accurate"),
}


def expected(case: "judge.Case") -> bool:
    """Differences that are meant."""
    if case.name in DIFFERENT and DIFFERENT[case.name][0](case):
        return True
    numbers = all(not hasattr(a, "dtype") or a.ndim == 0 for a in (case.input, *case.args))
    # every operation takes Python's numbers in place of a tensor; ``out`` is served in one place for all
    return case.error and (
        "out" in case.kwargs or numbers or any(isinstance(a, (int, float)) for a in (case.input, *case.args))
    )


#: where equal elements have different indices, any of these is right: only samples without ties
WITHOUT_TIES = {"kthvalue", "topk"}


def tried(name: str, backend: str) -> Iterator["judge.Case"]:
    op = judge.OPS[name]
    for dtype, most in MOST[backend].items():
        if dtype == "int64" and op.name in WITHOUT_TIES:
            continue
        for case, process in judge.cases(op, dtype, most):
            case.backend = backend
            try:
                case.why = judge.differences(op, case, process, load(backend))
            except judge.Unsupported:
                continue
            yield case


@pytest.mark.parametrize("backend", MOST)
@pytest.mark.parametrize("name", OPS)
def test_as_pytorch(name, backend):
    with warnings.catch_warnings(), minidl.use_backend(backend):
        warnings.simplefilter("ignore")
        assert [str(case) for case in tried(name, backend) if case.why and not expected(case)] == []


@pytest.mark.parametrize("name", DIFFERENT)
def test_differences_are_still_there(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        op, differ = judge.OPS[name], []
        for case, process in (
            *judge.cases(op, "float64", None),
            *judge.cases(op, "int64", 6),
            *judge.error_cases(op, None),
        ):
            with contextlib.suppress(judge.Unsupported):
                case.why = judge.differences(op, case, process, load("numpy"))
                differ.append(bool(case.why and DIFFERENT[name][0](case)))
        assert any(differ), DIFFERENT[name][1]


@pytest.mark.parametrize("name", OPS)
def test_refused_as_by_pytorch(name):
    op = judge.OPS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for case, process in judge.error_cases(op, 8):
            try:
                case.why = judge.differences(op, case, process, load("numpy"))
            except judge.Unsupported:
                continue
            assert not case.why or expected(case), str(case)


@pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": 1}, {"dilation": (1, 2), "padding": (2, 0)}])
def test_fold(options, rng):
    torch = judge.torch
    x = rng.normal(size=(2, 3, 6, 7))
    ours = minidl.as_tensor(F.unfold(minidl.as_tensor(x), 3, **options).numpy(), requires_grad=True)
    theirs = torch.as_tensor(ours.detach().numpy()).requires_grad_()
    out, expected = F.fold(ours, (6, 7), 3, **options), torch.nn.functional.fold(theirs, (6, 7), 3, **options)
    np.testing.assert_allclose(out.detach().numpy(), expected.detach().numpy(), rtol=1e-12)
    (out * x).sum().backward()
    (expected * torch.as_tensor(x)).sum().backward()
    np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), rtol=1e-12)
