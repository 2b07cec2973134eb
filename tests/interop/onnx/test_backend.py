"""ONNX's own tests of backends: single operators, and small models made by PyTorch."""

import glob
import os
import warnings

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="reading ONNX files needs onnx (pip install 'minidl[onnx]')")

import ml_dtypes  # noqa: E402
from onnx import numpy_helper  # noqa: E402

from minidl.interop.onnx import from_proto  # noqa: E402
from minidl.interop.onnx.values import host  # noqa: E402

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")

with warnings.catch_warnings(), np.errstate(all="ignore"):
    warnings.simplefilter("ignore")
    from onnx.backend.test.loader import load_model_tests

    CASES = {f"{kind}/{case.name}": case for kind in KINDS for case in load_model_tests(kind=kind)}

#: what is left out, by the beginning of the test's name, and why
LEFT_OUT = {
    "test_bernoulli": "random numbers: ONNX defines their distribution, not the numbers",
    "test_adagrad": "a training operator (ai.onnx.preview.training); minidl.optim trains",
    "test_adam": "a training operator (ai.onnx.preview.training); minidl.optim trains",
    "test_momentum": "a training operator (ai.onnx.preview.training); minidl.optim trains",
    "test_nesterov_momentum": "a training operator (ai.onnx.preview.training); minidl.optim trains",
    "test_gradient_of_": "a training operator (ai.onnx.preview.training); minidl differentiates the model itself",
    "test_flexattention": "a preview operator (ai.onnx.preview)",
    "test_dft_inverse": "expects 1.9e-7 where the exact value is 0, and minidl gives 3e-15",
}


def why_left_out(name):
    return next((why for start, why in LEFT_OUT.items() if name.partition("/")[2].startswith(start)), None)


RUN = sorted(name for name in CASES if why_left_out(name) is None)


def _read(path, kind):
    with open(path, "rb") as file:
        raw = file.read()
    which = kind.WhichOneof("value")
    if which == "sequence_type":
        return numpy_helper.to_list(onnx.SequenceProto.FromString(raw))
    if which == "optional_type":
        return numpy_helper.to_optional(onnx.OptionalProto.FromString(raw))
    return onnx.TensorProto.FromString(raw)


def _model_and_data(case):
    """The model of a test, and [(inputs, outputs), ...] as arrays."""
    if case.model is not None:
        model, sets = case.model, case.data_sets
    else:
        model, sets = onnx.load(os.path.join(case.model_dir, "model.onnx")), []
        for folder in sorted(glob.glob(os.path.join(case.model_dir, "test_data_set*"))):
            files = [
                [
                    os.path.join(folder, f"{kind}_{i}.pb")
                    for i in range(len(glob.glob(os.path.join(folder, f"{kind}_*"))))
                ]
                for kind in ("input", "output")
            ]
            kinds = (model.graph.input, model.graph.output)
            sets.append([[_read(f, k.type) for f, k in zip(fs, ks)] for fs, ks in zip(files, kinds)])
    array = lambda v: numpy_helper.to_array(v) if isinstance(v, onnx.TensorProto) else v
    return model, [([array(v) for v in ins], [array(v) for v in outs]) for ins, outs in sets]


def _same(found, expected, rtol, atol):
    if isinstance(expected, list):
        assert isinstance(found, list) and len(found) == len(expected)
        for f, e in zip(found, expected):
            _same(f, e, rtol, atol)
        return
    if expected is None:
        assert found is None
        return
    found, expected = np.asarray(host(found)), np.asarray(expected)
    if expected.dtype.kind in "OSU":
        assert found.tolist() == expected.tolist()
        return
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    found_dtype = found.dtype
    if expected.dtype.kind not in "iubf" or expected.dtype.isbuiltin != 1:
        found, expected = found.astype(np.float32), expected.astype(np.float32)
    if found_dtype.name in ("bfloat16", "float16"):  # ONNX's reference rounds after each step, minidl after the last
        rtol, atol = 4 * float(ml_dtypes.finfo(found_dtype).eps), float(ml_dtypes.finfo(found_dtype).eps) / 4
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize("name", RUN)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_onnx(name):
    case = CASES[name]
    model, sets = _model_and_data(case)
    module = from_proto(model)
    for inputs, outputs in sets:
        found = module(*inputs)
        found = found if isinstance(found, tuple) else (found,)
        assert len(found) == len(outputs)
        for f, e in zip(found, outputs):
            _same(f, e, case.rtol, case.atol)


LIGHT = sorted(glob.glob(os.path.join(os.path.dirname(onnx.backend.test.__file__), "data", "light", "*.onnx")))


@pytest.mark.parametrize("path", LIGHT, ids=lambda path: os.path.basename(path)[6:-5])
def test_well_known_models(path):
    """Whole models, their weights replaced by constants, on the input that ONNX's own runner makes."""
    model = onnx.load(path)
    weights = {i.name for i in model.graph.initializer}
    (x,) = [i for i in model.graph.input if i.name not in weights]
    shape = [d.dim_value for d in x.type.tensor_type.shape.dim]
    size = np.prod(shape)
    found = from_proto(model)((np.arange(size).reshape(shape) / size).astype(np.float32))
    expected = numpy_helper.to_array(onnx.load_tensor(path.removesuffix(".onnx") + "_output_0.pb"))
    _same(found, expected, rtol=1e-3, atol=1e-7)


def test_there_are_nine_well_known_models():
    assert len(LIGHT) == 9


def test_at_least_95_percent_of_the_node_tests_are_run():
    nodes = [name for name in CASES if name.startswith("node/")]
    assert len([name for name in nodes if why_left_out(name) is None]) / len(nodes) >= 0.95


@pytest.mark.parametrize("start", LEFT_OUT)
def test_what_is_left_out_is_there(start):
    assert any(name.partition("/")[2].startswith(start) for name in CASES)
