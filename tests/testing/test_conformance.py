"""The parts of the conformance suite: cases, layouts, saved files, the pytest plugin. Whether it catches wrong kernels
is for test_mutations.py."""

import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("hypothesis", reason="the conformance suite generates its cases with hypothesis")

from minidl.backend import Backend, Kernel
from minidl.ops import primitives
from minidl.ops.indexing import Slot
from minidl.testing import bench, conformance, replay, strategies
from minidl.testing.case import LAYOUTS, Case, lay_out
from minidl.testing.pytest_plugin import conformance_tests


@pytest.mark.parametrize(
    "name", ["exp", "matmul", "cross_entropy", "lstm_backward", "attention_backward", "max_pool2d", "getitem", "concat"]
)
def test_reference_conforms_to_itself(name):
    (report,) = conformance.check(name, Backend(), reference=True, max_examples=15)
    assert report.ok, str(report)
    assert report.accepted > 20
    assert report.gradients > 10 or not primitives[name].differentiable


def test_declining_predicate_falls_back_to_the_reference():
    wrong = Kernel("relu", "numpy", lambda x: x - 1, when=lambda x: False)
    (report,) = conformance.check("relu", Backend(), kernels=[wrong], max_examples=5)
    assert report.check == "predicate" and "accepted none" in report.message


def test_shadowed_kernel_is_checked_too():
    backend = Backend()
    right, wrong = (Kernel("relu", "numpy", f) for f in (lambda x: np.maximum(x, 0), lambda x: x + 1))
    backend.kernels["relu"] = [right, wrong]
    reports = conformance.check("relu", backend, max_examples=5)
    assert [r.ok for r in reports] == [True, False]
    assert backend.kernels["relu"] == [right, wrong]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(3, 4, 5), (4,), (), (0, 3), (1, 1)])
def test_layouts_keep_values(layout, shape):
    a = np.random.default_rng(0).normal(size=shape)
    if layout == "broadcast" and a.ndim:
        a[...] = a[:1]
    b = lay_out(a, layout)
    np.testing.assert_array_equal(a, b)
    assert not np.may_share_memory(a, b)
    if shape == (3, 4, 5):
        assert b.flags.c_contiguous == (layout in ("C", "offset"))
        assert b.flags.f_contiguous == (layout == "F")
        assert (min(b.strides) < 0) == (layout == "reversed")
        assert (0 in b.strides) == (layout == "broadcast") == (not b.flags.writeable)


def test_unknown_layout_is_refused():
    with pytest.raises(ValueError, match="unknown layout 'zigzag'"):
        lay_out(np.ones(2), "zigzag")


def test_saved_case_comes_back(tmp_path):
    args = [np.arange(6.0, dtype=np.float32).reshape(2, 3), None, 2.5, np.array([np.nan]), np.array([1, 2]), True]
    params = {
        "index": (slice(1, None), Ellipsis, Slot(0), None, 3), "shape": (2, 3), "low": -np.inf, "names": ["a", "b"],
        "dtype": np.dtype(np.int64), "array": np.arange(3),
    }  # fmt: skip
    case = Case("getitem", args, params, ["F", "C", "C", "strided", "C", "C"])
    path = replay.save(tmp_path / "case.npz", case, backend="numpy", check="values")
    found, facts = replay.load(path)
    assert facts == {"backend": "numpy", "check": "values"}
    assert found.primitive == "getitem" and found.layouts == case.layouts
    for a, b in zip(found.args, args):
        np.testing.assert_array_equal(a, b)
        assert getattr(a, "dtype", None) == getattr(b, "dtype", None)
    np.testing.assert_array_equal(found.params.pop("array"), params.pop("array"))
    assert found.params == params
    with np.load(path, allow_pickle=False) as file:  # nothing in it needs unpickling
        assert b"getitem" in file["case"].tobytes()


def test_bfloat16_case_comes_back(tmp_path):
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="bfloat16 in NumPy is ml_dtypes'")
    a = np.arange(4).astype(ml_dtypes.bfloat16)
    found, _ = replay.load(replay.save(tmp_path / "case.npz", Case("relu", [a], {})))
    assert found.args[0].dtype == a.dtype
    np.testing.assert_array_equal(found.args[0], a)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 nonsense", None])
def test_damaged_file_is_refused(tmp_path, content):
    path = tmp_path / "case.npz"
    if content is None:
        np.savez(path, x=np.ones(2))
    else:
        path.write_bytes(content)
    with pytest.raises(replay.ReplayError, match="not a saved conformance case"):
        replay.load(path)


def test_object_arrays_are_not_unpickled(tmp_path):
    path = tmp_path / "case.npz"
    np.savez(path, case=np.array([{"a": 1}], dtype=object))
    with pytest.raises(replay.ReplayError, match="allow_pickle"):
        replay.load(path)


def test_every_gradient_primitive_of_a_strategy_is_found_in_its_parent():
    found = [n for n in primitives if strategies.parent_of(n)]
    assert {"softmax_grad", "conv2d_input_grad", "lstm_backward", "attention_backward", "max_pool_grad"} <= set(found)
    for name in ("softmax_grad", "conv2d_weight_grad", "layer_norm_backward"):
        case = bench.inputs(name, bench.CASES[name][0])
        assert case.primitive == name and len(case.arrays) >= 2


def test_specials_leave_what_the_forward_pass_kept_alone():
    case = bench.inputs("softmax_grad", bench.CASES["softmax_grad"][0])
    special = conformance.with_special(case, "nan")
    assert np.isnan(special.args[0]).any() and not np.isnan(special.args[1]).any()


def test_plugin_skips_with_the_reason():
    test = conformance_tests("no_such_backend")
    (mark,) = test.pytestmark
    assert mark.name == "skip" and "unknown backend 'no_such_backend'" in mark.kwargs["reason"]


_SUITE = """
import numpy as np
from minidl.backend import Backend, kernel, register
from minidl.testing.pytest_plugin import conformance_tests

class Mine(Backend):
    name = "mine"

register(Mine())

@kernel("relu", backend="mine")
def good(x):
    return np.maximum(x, 0)

@kernel("exp", backend="mine")
def bad(x):
    return np.exp(x) + np.isnan(x)[..., None].any() if x.ndim > 5 else np.exp(np.nan_to_num(x))

test_all = conformance_tests("mine", max_examples=5)
test_one = conformance_tests("mine", ["relu"], module=__name__, max_examples=5)
test_none = conformance_tests("mine", ["tanh"])
test_elsewhere = conformance_tests("mine", module="some.other.package")
"""


def test_plugin_names_each_kernel(tmp_path):
    (tmp_path / "test_suite.py").write_text(_SUITE)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "test_suite.py"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    out = done.stdout
    assert "test_all[relu:test_suite.good] PASSED" in out, out + done.stderr
    assert "test_all[exp:test_suite.bad] FAILED" in out
    assert "smallest failing case: exp(float32[" in out and "with NaN or Inf" in out
    assert "test_one[relu:test_suite.good] PASSED" in out
    assert "has no kernel for tanh" in out and "has no kernel for any primitive in some.other.package" in out
    assert list((tmp_path / "kernel-failures").glob("exp-mine-*.npz"))
