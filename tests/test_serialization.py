"""Saving and loading weights."""

import json
import os
import pickle

import numpy as np
import pytest

import minidl
from minidl import as_tensor, nn, serialization
from minidl.data import CorruptFileError

pytest.importorskip("safetensors", reason="weights are stored with safetensors")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.safetensors"


def test_module_comes_back(path):
    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    minidl.save(model, path, metadata={"epoch": "3"})
    other.load_state_dict(minidl.load(path))
    np.testing.assert_array_equal(other.weight.detach().numpy(), model.weight.detach().numpy())
    assert serialization.load_metadata(path) == {"epoch": "3"}


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?", "c8"])
def test_every_dtype_and_shape(path, dtype):
    state = {
        "0-d": np.array(1, dtype),
        "empty": np.zeros((0, 3), dtype),
        "turned": np.arange(6).reshape(2, 3).astype(dtype).T,
        "strided": np.arange(10).astype(dtype)[::-2],
    }
    minidl.save(state, path)
    back = minidl.load(path)
    assert set(back) == set(state)
    for name, array in state.items():
        assert back[name].dtype == array.dtype and back[name].shape == array.shape
        np.testing.assert_array_equal(back[name], array)
        assert back[name].flags.writeable


def test_big_endian_arrays_keep_their_values(path):
    minidl.save({"x": np.arange(3, dtype=">f4")}, path)
    np.testing.assert_array_equal(minidl.load(path)["x"], [0, 1, 2])


def test_tensors_that_require_gradients(path):
    minidl.save({"x": as_tensor([1.0, 2.0], requires_grad=True)}, path)
    np.testing.assert_array_equal(minidl.load(path)["x"], [1, 2])


def test_pytorch_reads_and_writes_the_same_file(path):
    torch = pytest.importorskip("torch", reason="reads the file with PyTorch")
    st = pytest.importorskip("safetensors.torch", reason="reads the file with PyTorch")
    model = nn.Linear(4, 3)
    minidl.save(model, path)
    theirs = torch.nn.Linear(4, 3)
    theirs.load_state_dict(st.load_file(path))
    np.testing.assert_array_equal(theirs.weight.detach().numpy(), model.weight.detach().numpy())
    values = torch.tensor([1.0, -2.5, 3e38, float("inf")])
    st.save_file({"b": values.bfloat16()}, path)
    np.testing.assert_array_equal(minidl.load(path)["b"], values.bfloat16().float().numpy())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 4,
        b"not a safetensors file at all",
        b"\xff" * 64,
        (2**62).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"{]",
        pickle.dumps({"x": 1}),
    ],
)
def test_other_files_are_refused(path, content):
    path.write_bytes(content)
    for read in (minidl.load, serialization.load_metadata):
        with pytest.raises(CorruptFileError, match=r"weights\.safetensors"):
            read(path)


def test_truncated_file_is_refused(path):
    minidl.save({"x": np.arange(100.0)}, path)
    whole = path.read_bytes()
    for n in (7, 20, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:n])
        with pytest.raises(CorruptFileError):
            minidl.load(path)


def test_header_that_points_outside_is_refused(path):
    header = json.dumps({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 800]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 8)
    with pytest.raises(CorruptFileError):
        minidl.load(path)


def file_of(header, data):
    header = json.dumps(header).encode()
    return len(header).to_bytes(8, "little") + header + data


def test_a_boolean_is_0_or_1(path):
    header = {"ok": {"dtype": "BOOL", "shape": [3], "data_offsets": [0, 3]}}
    path.write_bytes(file_of(header, b"\x00\x01\x01"))
    np.testing.assert_array_equal(minidl.load(path)["ok"], [False, True, True])
    path.write_bytes(file_of(header, b"\x00\x02\x01"))
    with pytest.raises(CorruptFileError, match=r"weights.safetensors: 'ok': a byte of dtype BOOL is neither 0 nor 1"):
        minidl.load(path)


@pytest.mark.parametrize("shape", [[0, 2**62], [1] * 70, [0, 2**63 - 1, 3]])
def test_shapes_that_numpy_cannot_have_are_refused(path, shape):
    size = 4 * (0 not in shape)
    header = {"x": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}}
    path.write_bytes(file_of(header, bytes(size)))
    with pytest.raises(CorruptFileError, match=r"weights\.safetensors"):
        minidl.load(path)


def test_bfloat16_keeps_its_values(path):
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="has bfloat16")
    values = np.array([1.0, -2.5, 3e38, np.inf]).astype(ml_dtypes.bfloat16)
    minidl.save({"x": values}, path)
    np.testing.assert_array_equal(minidl.load(path)["x"], values.astype(np.float32))


def test_the_path_comes_second(path):
    with pytest.raises(TypeError, match=r"the path comes second: minidl\.save\(model, '.*weights\.safetensors'\)"):
        minidl.save(path, nn.Linear(2, 2))
    assert not path.exists()


def test_missing_file(path):
    with pytest.raises(FileNotFoundError):
        minidl.load(path)


def test_what_cannot_be_stored_is_refused_and_the_old_file_kept(path):
    minidl.save({"x": np.ones(2)}, path)
    for bad in ({"x": np.array(["a"])}, {"x": np.array([None])}, {1: np.ones(1)}, [np.ones(1)]):
        with pytest.raises(TypeError, match="save: "):
            minidl.save(bad, path)
    with pytest.raises(TypeError, match="metadata"):
        minidl.save({"x": np.ones(1)}, path, metadata={"epoch": 1})
    np.testing.assert_array_equal(minidl.load(path)["x"], [1, 1])
    assert os.listdir(path.parent) == [path.name]


def test_crash_while_writing_keeps_the_old_file(path, monkeypatch):
    minidl.save({"x": np.ones(2)}, path)

    def fail(descriptor):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        minidl.save({"x": np.zeros(2)}, path)
    np.testing.assert_array_equal(minidl.load(path)["x"], [1, 1])
    assert os.listdir(path.parent) == [path.name]
