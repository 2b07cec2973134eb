"""Models from ONNX files as Modules: names, gradients, jit, backends, and files that are refused."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="reading ONNX files needs onnx (pip install 'minidl[onnx]')")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

import minidl  # noqa: E402
from minidl import nn, ops, optim  # noqa: E402
from minidl.interop.onnx import from_proto, load, operator  # noqa: E402


def model_of(nodes, inputs, outputs, initializers=(), opset=17, domains=()):
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in inputs]
    outs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs]
    graph = helper.make_graph(nodes, "net", values, outs, [numpy_helper.from_array(a, n) for n, a in initializers])
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=opsets)


def small():
    rng = np.random.default_rng(0)
    weights = [
        ("features.0.weight", rng.standard_normal((4, 1, 3, 3), np.float32)),
        ("features.0.bias", rng.standard_normal(4, np.float32)),
        ("bn/gamma", np.ones(4, np.float32)),
        ("bn/beta", np.zeros(4, np.float32)),
        ("bn/mean", rng.standard_normal(4, np.float32)),
        ("bn/var", rng.random(4, np.float32) + 1),
        ("fc.weight", rng.standard_normal((3, 64), np.float32)),
        ("shape", np.array([0, -1])),
    ]
    nodes = [
        helper.make_node("Conv", ["x", "features.0.weight", "features.0.bias"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["a", "bn/gamma", "bn/beta", "bn/mean", "bn/var"], ["b"]),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("Reshape", ["c", "shape"], ["d"]),
        helper.make_node("Gemm", ["d", "fc.weight"], ["y"], transB=1),
    ]
    return model_of(nodes, ["x"], ["y"], weights)


def batch(n=5):
    return np.random.default_rng(1).standard_normal((n, 1, 4, 4)).astype(np.float32)


def test_weights_have_the_files_names():
    model = from_proto(small())
    assert dict(model.named_parameters()).keys() == {
        "features.0.weight", "features.0.bias", "bn_gamma", "bn_beta", "fc.weight"
    }  # fmt: skip
    assert {name for name, _ in model.named_buffers()} == {"bn_mean", "bn_var"}
    assert model.input_names == ["x"] and model.output_names == ["y"]
    assert "Conv, BatchNormalization, Relu, Reshape, Gemm" in repr(model)


@pytest.mark.parametrize("backend", ["numpy", "numba", "jax"])
def test_equals_onnxruntime(backend):
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is what the outputs are compared with")
    pytest.importorskip(backend, reason=f"{backend} is an optional backend")
    expected = runtime.InferenceSession(small().SerializeToString()).run(None, {"x": batch()})[0]
    with minidl.use_backend(backend):
        model = from_proto(small()).to(backend)
        np.testing.assert_allclose(model(batch()).detach().numpy(), expected, rtol=1e-4, atol=1e-5)
        step = minidl.jit(lambda x: model(x))
        for n in (5, 5, 2):
            np.testing.assert_allclose(
                step(minidl.as_tensor(batch()[:n])).detach().numpy(), expected[:n], rtol=1e-4, atol=1e-5
            )


def test_trains():
    model = from_proto(small())
    x, y = minidl.as_tensor(batch(16)), minidl.as_tensor(np.arange(16) % 3)
    optimizer = optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = ops.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 < losses[0]


def test_state_is_saved_and_loaded(tmp_path):
    model, other = from_proto(small()), from_proto(small())
    with minidl.no_grad():
        for p in model.parameters():
            p.mul_(2)
    other.load_state_dict(model.state_dict())
    np.testing.assert_array_equal(model(batch()).detach().numpy(), other(batch()).detach().numpy())


def test_weights_in_a_file_of_their_own_are_mapped(tmp_path):
    onnx.save(small(), tmp_path / "m.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    model = load(tmp_path / "m.onnx")
    np.testing.assert_array_equal(model(batch()).detach().numpy(), from_proto(small())(batch()).detach().numpy())
    before = (tmp_path / "weights.bin").read_bytes()
    with minidl.no_grad():
        model.bn_gamma.zero_()
    assert (tmp_path / "weights.bin").read_bytes() == before


@pytest.mark.parametrize("location", ["../outside.bin", "/etc/hostname", "missing.bin", ""])
def test_files_outside_the_folder_are_refused(tmp_path, location):
    (tmp_path / "outside.bin").write_bytes(bytes(10000))
    folder = tmp_path / "inner"
    folder.mkdir()
    onnx.save(small(), folder / "m.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    proto = onnx.load(folder / "m.onnx", load_external_data=False)
    for entry in proto.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
    (folder / "m.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ValueError, match=r"m\.onnx: tensor 'features\.0\.weight'.*no file in the model's folder"):
        load(folder / "m.onnx")


def test_all_unsupported_operators_are_named_at_once():
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Frobnicate", ["a"], ["b"], name="first", domain="com.acme"),
        helper.make_node("Adagrad", ["b"], ["y"], name="second", domain="ai.onnx.preview.training"),
    ]
    proto = model_of(nodes, ["x"], ["y"], domains=["com.acme", "ai.onnx.preview.training"])
    with pytest.raises(NotImplementedError, match=r"(?s)com\.acme:Frobnicate: Frobnicate 'first'") as caught:
        from_proto(proto)
    assert "ai.onnx.preview.training:Adagrad: Adagrad 'second'" in str(caught.value)


def test_operators_of_ones_own():
    @operator("Twice", domain="com.example")
    def twice(x, *, plus=0.0):
        return 2 * x + plus

    nodes = [helper.make_node("Twice", ["x"], ["y"], domain="com.example", plus=1.0)]
    model = from_proto(model_of(nodes, ["x"], ["y"], domains=["com.example"]))
    x = minidl.tensor([1.0, 2.0], requires_grad=True)
    model(x).sum().backward()
    assert x.grad.tolist() == [2, 2]


def test_functions_of_the_file_are_run():
    body = helper.make_function(
        "com.example", "Scaled", ["a"], ["b"],
        [
            helper.make_node("Constant", [], ["c"]),
            helper.make_node("Mul", ["a", "c"], ["b"]),
        ],
        [helper.make_opsetid("", 17)], ["by"],
    )  # fmt: skip
    reference = onnx.AttributeProto(name="value_float", type=onnx.AttributeProto.FLOAT, ref_attr_name="by")
    body.node[0].attribute.append(reference)
    nodes = [helper.make_node("Scaled", ["x"], ["y"], domain="com.example", by=3.0)]
    proto = model_of(nodes, ["x"], ["y"], domains=["com.example"])
    proto.functions.append(body)
    assert from_proto(proto)(minidl.tensor([1.0, 2.0])).tolist() == [3, 6]


def test_wrong_inputs():
    model = from_proto(small())
    with pytest.raises(TypeError, match=r"net: expected the inputs \['x'\], got none"):
        model()
    with pytest.raises(TypeError, match="got 0, 1"):
        model(batch(), batch())
    assert model(x=batch()).shape == (5, 3)


def test_an_error_names_the_node():
    with pytest.raises(ValueError) as caught:
        from_proto(small())(np.zeros((1, 2, 4, 4), np.float32))
    assert any("Conv -> a" in note for note in caught.value.__notes__)


@pytest.mark.parametrize("content", [b"", b"not a model", bytes(100), b"\x08\x07" * 50])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "x.onnx").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.onnx: not an ONNX model"):
        load(tmp_path / "x.onnx")


def test_damaged_files_are_refused():
    """Every prefix, and files with changed bytes: a ValueError or NotImplementedError, or a model."""
    whole = small().SerializeToString()
    rng = np.random.default_rng(0)
    pieces = [whole[:n] for n in range(0, len(whole), 37)]
    for _ in range(300):
        changed = bytearray(whole)
        for at in rng.integers(0, len(whole), 3):
            changed[at] = rng.integers(256)
        pieces.append(bytes(changed))
    refused = 0
    for piece in pieces:
        try:
            load(piece)
        except (ValueError, NotImplementedError) as error:
            assert str(error)
            refused += 1
    assert refused > 50


def test_a_tensor_that_claims_more_than_it_has_is_refused():
    proto = small()
    del proto.graph.initializer[0].dims[:]
    proto.graph.initializer[0].dims.extend([1 << 40])
    with pytest.raises(
        ValueError, match=r"tensor 'features\.0\.weight' of shape \[1099511627776\] needs 4398046511104"
    ):
        from_proto(proto)


def test_nodes_out_of_order_are_refused():
    nodes = [helper.make_node("Relu", ["a"], ["y"]), helper.make_node("Relu", ["x"], ["a"])]
    with pytest.raises(ValueError, match="Relu -> y reads 'a', which nothing before it gives"):
        from_proto(model_of(nodes, ["x"], ["y"]))


def test_is_a_module():
    assert isinstance(from_proto(small()), nn.Module)
