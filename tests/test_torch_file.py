"""Files of PyTorch without PyTorch: both formats, every dtype, views, and hostile pickles."""

import collections
import io
import os
import pickle
import zipfile

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch writes the files that are read")

import minidl  # noqa: E402
from minidl.torch_file import load  # noqa: E402

DTYPES = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool", "complex64",
          "complex128"]  # fmt: skip
FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "stream"])


def saved(tmp_path, value, zipped=True):
    path = tmp_path / "m.pt"
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    return path


def plain(tensor):
    return tensor.float().numpy() if tensor.dtype == torch.bfloat16 else tensor.detach().numpy()


@FORMATS
@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype(tmp_path, name, zipped):
    tensor = torch.arange(-3, 3).reshape(2, 3).to(getattr(torch, name))
    found = load(saved(tmp_path, tensor, zipped))
    assert found.dtype.name == name
    np.testing.assert_array_equal(found.astype(np.float32) if name == "bfloat16" else found, plain(tensor))


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2", "uint16", "uint32", "uint64"])
def test_newer_dtypes(tmp_path, name):
    tensor = torch.tensor([0.0, 1.0, 2.0, 4.0]).to(getattr(torch, name))
    found = load(saved(tmp_path, tensor))
    assert found.dtype.name == name and found.astype(np.float32).tolist() == [0, 1, 2, 4]


@FORMATS
def test_views_share_memory(tmp_path, zipped):
    base = torch.arange(24.0).reshape(4, 6)
    value = {"base": base, "column": base[:, 1], "transposed": base.T, "strided": base[::2, 1::2], "flat": base[2:]}
    found = load(saved(tmp_path, value, zipped))
    for name, tensor in value.items():
        np.testing.assert_array_equal(found[name], tensor.numpy())
    found["base"][0, 1] = 99
    assert found["column"][0] == 99 and found["transposed"][1, 0] == 99


@FORMATS
def test_nested_containers(tmp_path, zipped):
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    value = {
        "model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3, "best": 0.5, "names": ["a", None],
        "pair": (1, torch.zeros(0, 2)), "size": torch.Size([2, 3]), "device": torch.device("cpu"),
        "parameter": torch.nn.Parameter(torch.ones(2)), "scalar": torch.tensor(2.5), "number": np.float64(1.5),
    }  # fmt: skip
    found = load(saved(tmp_path, value, zipped))
    assert isinstance(found["model"], collections.OrderedDict)
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(found["model"][name], tensor.numpy())
    np.testing.assert_array_equal(
        found["optimizer"]["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"].numpy()
    )
    assert found["epoch"] == 3 and found["best"] == 0.5 and found["names"] == ["a", None] and found["number"] == 1.5
    assert found["pair"][1].shape == (0, 2) and found["size"] == (2, 3) and found["device"] == "cpu"
    assert found["parameter"].tolist() == [1, 1] and found["scalar"] == 2.5


class Call:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


HOSTILE = {
    "os.system": Call(os.system, "touch {}"),
    "eval": Call(eval, "open({!r}, 'w')"),
    "exec": Call(exec, "open({!r}, 'w')"),
    "open": Call(open, "{}", "w"),
    "import": Call(__import__, "subprocess"),
    "partial": Call(__import__("functools").partial, os.system, "touch {}"),
    "a class": collections.Counter("abc"),
    "code in a lambda's stead": Call(__import__("operator").methodcaller, "system"),
}


@pytest.mark.parametrize("kind", HOSTILE)
@FORMATS
def test_hostile_pickles_are_refused_by_name_and_run_nothing(tmp_path, kind, zipped):
    marker = tmp_path / "ran"
    attack = HOSTILE[kind]
    if isinstance(attack, Call):
        function, args = attack.call
        attack = Call(function, *(a.format(str(marker)) if isinstance(a, str) else a for a in args))
    path = saved(tmp_path, {"w": torch.ones(2), "x": attack}, zipped) if kind != "a class" else saved(
        tmp_path, {"x": HOSTILE[kind]}, zipped
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"m\.pt: not a file of tensors that torch\.save wrote: it names \S+\.\S+"):
        load(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "opcodes",
    [
        b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.",
        b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R.",
        b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.",
        b"(cos\nsystem\nS'true'\no.",
        b"(S'true'\nios\nsystem\n.",
        b"\x80\x02\x82\x01.",
        b"\x80\x02Pstorage\n.",
        b"\x80\x02X\xff\xff\xff\x7f.",
        b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7f.",
    ],
)
def test_hand_made_pickles_are_refused(tmp_path, opcodes):
    path = tmp_path / "m.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", opcodes)
    with pytest.raises(ValueError, match=r"m\.pt: not a file of tensors"):
        load(path)
    path.write_bytes(opcodes)
    with pytest.raises(ValueError, match=r"m\.pt: not a file of tensors"):
        load(path)


def rebuilt(tmp_path, offset, size, stride, count=6):
    """A file with one tensor as described, in a storage of six numbers."""

    class Description:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (
                Reference(),
                offset,
                size,
                stride,
                False,
                collections.OrderedDict(),
            )

    class Reference:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", torch.FloatStorage, "0", "cpu", count) if isinstance(value, Reference) else None

    buffer = io.BytesIO()
    Pickler(buffer, 2).dump(Description())
    path = tmp_path / "m.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", buffer.getvalue())
        archive.writestr("m/data/0", np.arange(6, dtype=np.float32).tobytes())
    return path


def test_descriptions_that_fit(tmp_path):
    assert load(rebuilt(tmp_path, 1, (2, 2), (3, 1))).tolist() == [[1, 2], [4, 5]]


@pytest.mark.parametrize(
    ("offset", "size", "stride", "count"),
    [
        (0, (7,), (1,), 6), (5, (2,), (1,), 6), (-1, (2,), (1,), 6), (0, (2,), (-1,), 6), (0, (2, 2), (1,), 6),
        (0, (1 << 40,), (1 << 20,), 6), (0, (2,), (1,), 1 << 40), (0, (2,), (1,), -1),
    ],
)  # fmt: skip
def test_descriptions_that_reach_outside_are_refused(tmp_path, offset, size, stride, count):
    with pytest.raises(ValueError, match=r"m\.pt: not a file of tensors"):
        load(rebuilt(tmp_path, offset, size, stride, count))


@FORMATS
def test_damaged_files_are_refused_or_read(tmp_path, zipped):
    whole = saved(tmp_path, {"w": torch.arange(50.0), "b": [torch.ones(3)]}, zipped).read_bytes()
    path = tmp_path / "damaged.pt"
    rng = np.random.default_rng(0)
    for n in range(0, len(whole) - 1, max(len(whole) // 60, 1)):
        path.write_bytes(whole[:n])
        with pytest.raises(ValueError, match=r"damaged\.pt"):
            load(path)
    for _ in range(300):
        changed = bytearray(whole)
        for at in rng.integers(0, len(whole), 2):
            changed[at] = rng.integers(256)
        path.write_bytes(changed)
        try:
            load(path)
        except ValueError as error:
            assert "damaged.pt" in str(error)


def test_load_tells_the_formats_apart(tmp_path):
    """minidl.load reads both; also a safetensors file whose header's length looks like the start of a pickle."""
    value = {"w": torch.arange(6.0).reshape(2, 3)}
    for legacy in (False, True):
        torch.save(value, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
        np.testing.assert_array_equal(minidl.load(tmp_path / "a.pt")["w"], value["w"])
    lengths = set()
    for size in range(0x200, 0x600, 8):
        minidl.save({"w": value["w"].numpy()}, tmp_path / "a.safetensors", metadata={"note": "x" * size})
        start = (tmp_path / "a.safetensors").read_bytes()[:2]
        lengths.add(start)
        np.testing.assert_array_equal(minidl.load(tmp_path / "a.safetensors")["w"], value["w"])
    assert lengths & {bytes([0x80, n]) for n in range(2, 6)}
