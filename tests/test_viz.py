"""The graph as text, Graphviz and SVG; the trace."""

import re
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from minidl import as_tensor, nn, no_grad, ops, viz
from minidl.core.context import current


@pytest.fixture
def model():
    """loss = sum(tanh(x @ w + b)^2)."""
    w = as_tensor([[0.1, 0.2], [0.3, 0.4]], requires_grad=True)
    b = as_tensor([0.0, 1.0], requires_grad=True)
    h = ops.tanh(as_tensor([[1.0, 2.0]]) @ w + b)
    return (h * h).sum(), {"w": w, "b": b}


def test_text(model):
    assert viz.text(*model) == "\n".join(
        [
            "sum",
            "└─ mul",
            "   ├─ tanh #2",
            "   │  └─ add",
            "   │     ├─ matmul",
            "   │     │  └─ w float32[2, 2]",
            "   │     └─ b float32[2]",
            "   └─ tanh (see #2)",
        ]
    )
    assert "tensor float32[2, 2]" in viz.text(model[0])


def test_text_shows_static_parameters_that_were_given():
    x = as_tensor(np.ones((2, 3)), requires_grad=True)
    assert viz.text(x.sum(axis=1)).startswith("sum(axis=1)")
    assert viz.text(ops.svd(x)[1]).startswith("svd\n")
    assert viz.text(x) == "tensor float64[2, 3]"


def test_text_of_a_large_graph_is_cut_off_and_needs_no_recursion():
    x = as_tensor([1.0], requires_grad=True)
    y = x
    for _ in range(20_000):
        y = y * 1.0
    lines = viz.text(y, max_lines=10).splitlines()
    assert len(lines) == 11 and "20001 vertices" in lines[-1]


def test_dot(model):
    graph = viz.graph(*model)
    assert graph.dot.startswith("digraph {") and graph.dot.endswith("}")
    assert len(re.findall(r"label=", graph.dot)) == 7
    assert graph.dot.count(" -> ") == 7  # the square uses tanh twice
    assert r'label="w\nfloat32[2, 2]"' in graph.dot
    x = as_tensor([1.0], requires_grad=True)
    assert r"\"" in viz.graph(x, {'quo"te': x}).dot


def test_names_from_a_module():
    net = nn.Sequential(nn.Linear(3, 2), nn.Tanh())
    assert "0.weight" in viz.graph(net(as_tensor(np.ones((1, 3), np.float32))).sum(), net).dot


@pytest.mark.parametrize("missing", ["program", "package"])
def test_svg_without_graphviz(model, monkeypatch, missing):
    monkeypatch.setattr(viz.shutil, "which", lambda name: None if missing == "program" else "/usr/bin/dot")
    if missing == "package":
        monkeypatch.setitem(sys.modules, "graphviz", None)
    root = ET.fromstring(viz.graph(*model).svg())
    ns = {"s": "http://www.w3.org/2000/svg"}
    texts = [t.text for t in root.findall("s:text", ns)]
    for label in ("sum", "mul", "tanh", "add", "matmul", "w", "b", "float32[2, 2]"):
        assert label in texts
    boxes = [{k: float(r.get(k)) for k in ("x", "y", "width", "height")} for r in root.findall("s:rect", ns)]
    assert len(boxes) == 7
    width, height = float(root.get("width")), float(root.get("height"))
    for i, a in enumerate(boxes):
        assert a["x"] >= 0 and a["x"] + a["width"] <= width and a["y"] >= 0 and a["y"] + a["height"] <= height
        for b in boxes[:i]:
            apart = abs(a["x"] - b["x"]) >= a["width"] or abs(a["y"] - b["y"]) >= a["height"]
            assert apart, "boxes overlap"
    assert viz.graph(*model)._repr_svg_().startswith("<svg")


def test_every_layer_lies_below_its_users():
    x = as_tensor(np.ones(2), requires_grad=True)
    y = x.exp()
    z = (y.sin().cos() * y + x).sum()  # paths of different lengths
    vertices = viz.graph(z)._vertices
    order = {i: k for k, i in enumerate(viz._users_first(vertices))}
    assert len(order) == len(vertices)
    assert all(order[i] < order[j] for i, v in enumerate(vertices) for j in v.inputs)


def test_save(model, tmp_path, monkeypatch):
    graph = viz.graph(*model)
    assert graph.save(tmp_path / "g.dot").read_text() == graph.dot
    monkeypatch.setattr(viz.shutil, "which", lambda name: None)
    assert graph.save(tmp_path / "g.svg").read_text().startswith("<svg")
    with pytest.raises((RuntimeError, ImportError), match=r"dot|graphviz"):
        graph.save(tmp_path / "g.png")
    with pytest.raises(ValueError, match=r"\.gif"):
        graph.save(tmp_path / "g.gif")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["g.dot", "g.svg"]


def test_drawing_with_graphviz(model, tmp_path):
    pytest.importorskip("graphviz", reason="an optional extra")
    if viz.shutil.which("dot") is None:
        pytest.skip("Graphviz' program `dot` is not installed")
    assert "</svg>" in viz.graph(*model).svg()
    assert viz.graph(*model).save(tmp_path / "g.png").read_bytes().startswith(b"\x89PNG")


def test_only_tensors():
    with pytest.raises(TypeError, match="ndarray"):
        viz.graph(np.ones(3))


def test_trace():
    def f(x, w):
        h = x * w
        return h.sum()

    trace = viz.trace(f, [1.0, 2.0], as_tensor([3.0, 4.0]))
    lines = [line.strip() for line in str(trace).splitlines()]
    assert lines[:3] == ["inputs", "x = float32[2] [1., 2.]", "w = float32[2] [3., 4.]"]
    assert "t1 = mul(x, w) = float32[2] [3., 8.]" in lines
    assert "t2 = sum(t1) = float32[] 11." in lines
    assert "through t1 = mul(...), with d2" in lines
    assert any(re.fullmatch(r"d\d = mul\(d2, w\) = float32\[2\] \[3\., 4\.\]", line) for line in lines)
    assert lines[-2:] == ["of x: float32[2] [3., 4.]", "of w: float32[2] [1., 2.]"]
    assert trace.value.item() == 11
    np.testing.assert_array_equal(trace.gradients[0], [3, 4])
    assert current().observer is None and current().visitor is None and not current().trace_backward


def test_trace_of_larger_arrays_integers_and_no_gradient():
    trace = viz.trace(lambda table, i: table[i].sum(), np.ones((4, 5)), np.array([0, 2]))
    assert "table = float64[4, 5]\n" in str(trace) and "getitem_grad" in str(trace)
    assert trace.gradients[1] is None
    assert "backward" not in str(viz.trace(lambda x: x.argmax(), [1.0, 2.0]))
    with no_grad():
        assert "t1" in str(viz.trace(lambda x: x * 2, [1.0]))


def test_trace_leaves_the_engine_as_it_was_after_an_error():
    with pytest.raises(ZeroDivisionError):
        viz.trace(lambda x: 1 / 0, [1.0])
    with pytest.raises(TypeError, match="must return a Tensor"):
        viz.trace(lambda x: 3, [1.0])
    assert current().observer is None
