"""What ``torch.save`` wrote, read without PyTorch and without running anything that the file says.

A file of PyTorch is a pickle, a little program that names functions to call. This reader lets it name only those that
PyTorch itself writes for tensors and plain containers, each replaced by one of ours; any other name is refused. Both
formats are read: the zip archive (since PyTorch 1.6) and the stream before it.
"""

from __future__ import annotations

import collections
import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from minidl.files import CorruptFileError

_MAGIC = 0x1950A86A20F9469CFC6C  # begins the old format
_PROTOCOL = 1001

#: PyTorch's storage classes and dtypes -> names of NumPy dtypes
_STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool", "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128", "UntypedStorage": "uint8",
}  # fmt: skip
_DTYPES = {
    "float64": "float64", "double": "float64", "float32": "float32", "float": "float32", "float16": "float16",
    "half": "float16", "bfloat16": "bfloat16", "int64": "int64", "long": "int64", "int32": "int32", "int": "int32",
    "int16": "int16", "short": "int16", "int8": "int8", "uint8": "uint8", "uint16": "uint16", "uint32": "uint32",
    "uint64": "uint64", "bool": "bool", "complex64": "complex64", "complex128": "complex128",
    "float8_e4m3fn": "float8_e4m3fn", "float8_e5m2": "float8_e5m2", "float8_e4m3fnuz": "float8_e4m3fnuz",
    "float8_e5m2fnuz": "float8_e5m2fnuz",
}  # fmt: skip


def _dtype(name: str) -> np.dtype:
    if name.startswith(("bfloat", "float8")):
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, name))
    return np.dtype(name)


class _Storage(NamedTuple):
    """The memory of one or more tensors."""

    array: np.ndarray


class _StorageType(NamedTuple):
    dtype: str


class _Dtype(NamedTuple):
    name: str


def _rebuild_tensor(
    storage: _Storage, offset: int, size: tuple, stride: tuple, *rest: Any, dtype: str | None = None
) -> np.ndarray:
    """A view of a storage, as PyTorch describes it: an offset, a shape and strides, counted in elements."""
    array = storage.array if dtype is None else storage.array.view(_dtype(dtype))
    if not all(isinstance(n, int) and n >= 0 for n in (offset, *size, *stride)) or len(size) != len(stride):
        raise pickle.UnpicklingError(f"a tensor of shape {size} with strides {stride} from {offset} on")
    last = offset + sum((n - 1) * s for n, s in zip(size, stride))
    if 0 not in size and last >= len(array):
        raise pickle.UnpicklingError(f"a tensor of shape {size} ends at {last} in a storage of {len(array)} elements")
    if 0 in size:
        return np.zeros(size, array.dtype)
    steps = [s * array.itemsize for s in stride]
    return np.ndarray(size, array.dtype, array, offset * array.itemsize, steps)


def _rebuild_typed(
    storage: _Storage, offset: int, size: tuple, stride: tuple, grad: Any, hooks: Any, dtype: _Dtype, *rest: Any
) -> np.ndarray:
    return _rebuild_tensor(storage, offset, size, stride, dtype=dtype.name)


def _rebuild_parameter(data: np.ndarray, *rest: Any) -> np.ndarray:
    return data


def _size(*items: Any) -> tuple:
    return tuple(items[0]) if items else ()


def _device(*items: Any) -> str:
    return ":".join(map(str, items))


def _numpy_dtype(name: Any, *rest: Any) -> np.dtype:
    found = np.dtype(name)
    if found.hasobject or found.names:
        raise pickle.UnpicklingError(f"a NumPy dtype {name!r}")
    return _PlainDtype(found)  # type: ignore[return-value]


class _PlainDtype:
    """A NumPy dtype on which a pickle can set no state of its own."""

    def __init__(self, dtype: np.dtype) -> None:
        self.dtype = dtype

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


def _numpy_scalar(dtype: _PlainDtype, content: Any) -> Any:
    raw = content.encode("latin1") if isinstance(content, str) else content
    if len(raw) != dtype.dtype.itemsize:
        raise pickle.UnpicklingError(f"a NumPy scalar of {len(raw)} bytes")
    return np.frombuffer(raw, dtype.dtype)[0]


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "utf-8", "ascii"):
        raise pickle.UnpicklingError(f"an encoding {encoding!r}")
    return text.encode(encoding)


#: all that a file may name
_NAMES: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("collections", "defaultdict"): lambda *given: {},
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
    ("builtins", "slice"): slice,
    ("builtins", "complex"): complex,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _rebuild_typed,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): lambda make, kind, given, state: make(*given),
    ("torch.nn.parameter", "Parameter"): _rebuild_parameter,
    ("torch", "Tensor"): None,
    ("torch", "Size"): _size,
    ("torch", "device"): _device,
    ("torch.serialization", "_get_layout"): str,
    ("numpy", "dtype"): _numpy_dtype,
    ("numpy.core.multiarray", "scalar"): _numpy_scalar,
    ("numpy._core.multiarray", "scalar"): _numpy_scalar,
    ("_codecs", "encode"): _encode,
}
_NAMES.update({("torch", name): _StorageType(dtype) for name, dtype in _STORAGES.items()})
_NAMES.update({("torch.storage", name): _StorageType(dtype) for name, dtype in _STORAGES.items()})
_NAMES.update({("torch", name): _Dtype(dtype) for name, dtype in _DTYPES.items()})


class _Unpickler(pickle.Unpickler):
    """Unpickles what :data:`_NAMES` allows; ``storage`` gives the memory that the pickle refers to."""

    def __init__(self, file: BinaryIO, storage: Callable[[str, int, str], _Storage]) -> None:
        super().__init__(file, encoding="utf-8")
        self.storage = storage

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _NAMES[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it names {module}.{name}, which is no part of tensors and plain containers; save the state_dict() "
                "alone"
            ) from None

    def persistent_load(self, pid: Any) -> _Storage:
        if not (isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage"):
            raise pickle.UnpicklingError(f"an unknown reference {pid!r:.80}")
        _, kind, key, _, count, *view = pid
        if not isinstance(kind, _StorageType) or not isinstance(count, int) or count < 0 or not isinstance(key, str):
            raise pickle.UnpicklingError(f"an unknown storage {pid!r:.80}")
        found = self.storage(kind.dtype, count, key)
        if view and view[0] is not None:
            _, offset, size = view[0]
            return _Storage(found.array[offset : offset + size])
        return found


def is_torch_file(path: str | os.PathLike) -> bool:
    """Does the file begin like one of PyTorch's (a zip archive or a pickle)?

    A safetensors file of a header of, say, 0x280 bytes begins like a pickle, too; but its ninth byte is ``{``.
    """
    with open(path, "rb") as file:
        start = file.read(9)
    is_pickle = start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    return start.startswith(b"PK\x03\x04") or (is_pickle and start[8:] != b"{")


def load(path: str | os.PathLike) -> Any:
    """The object in a file that ``torch.save`` wrote: containers as they are, tensors and parameters as NumPy arrays.

    Arrays that share memory in the file share it here. Raises CorruptFileError (a ValueError) that names the file and
    what it holds if that is damaged, no file of PyTorch, or more than tensors, numbers, strings and containers.
    """
    path = Path(path)
    with path.open("rb") as file:
        start = file.read(4)
        file.seek(0)
        try:
            return _from_zip(file) if start == b"PK\x03\x04" else _from_stream(file)
        except Exception as error:  # whatever a damaged file leads to, memory that is not there included
            why = str(error) or type(error).__name__
            raise CorruptFileError(f"{path}: not a file of tensors that torch.save wrote: {why}") from error


def _from_zip(file: BinaryIO) -> Any:
    archive = zipfile.ZipFile(file)
    members = {info.filename: info for info in archive.infolist()}
    pickles = [name for name in members if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError("the archive has no data.pkl")
    prefix = pickles[0].removesuffix("data.pkl")
    swapped = prefix + "byteorder" in members and archive.read(prefix + "byteorder") == b"big"
    read: dict[str, np.ndarray] = {}

    def storage(dtype: str, count: int, key: str) -> _Storage:
        kind = _dtype(dtype)
        if key not in read:
            info = members.get(f"{prefix}data/{key}")
            if info is None or info.file_size < count * kind.itemsize:
                raise ValueError(f"storage {key!r} of {count} x {kind} is missing or cut off")
            if info.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"storage {key!r} is compressed, which torch.save never does")
            read[key] = np.frombuffer(bytearray(archive.read(info)), np.uint8)
        array = read[key][: count * kind.itemsize].view(kind)
        return _Storage(array.byteswap().view(kind) if swapped else array)

    if members[pickles[0]].compress_type != zipfile.ZIP_STORED:
        raise ValueError("data.pkl is compressed, which torch.save never does")
    return _Unpickler(io.BytesIO(archive.read(pickles[0])), storage).load()


def _from_stream(file: BinaryIO) -> Any:
    size = os.fstat(file.fileno()).st_size
    storages: dict[str, np.ndarray] = {}
    total = 0

    def plain() -> Any:
        return _Unpickler(file, _no_storage).load()

    def storage(dtype: str, count: int, key: str) -> _Storage:
        nonlocal total
        if key not in storages:
            kind = _dtype(dtype)
            total += count * kind.itemsize
            if total > size:
                raise ValueError(f"storages of {total} bytes are declared, the file has {size}")
            storages[key] = np.zeros(count, kind)
        return _Storage(storages[key])

    if plain() != _MAGIC:
        raise ValueError("it does not begin with PyTorch's magic number")
    if (protocol := plain()) != _PROTOCOL:
        raise ValueError(f"protocol {protocol}, expected {_PROTOCOL}")
    system = plain()
    if not system.get("little_endian", True):
        raise ValueError("written on a big-endian machine")
    found = _Unpickler(file, storage).load()
    for key in plain():
        array = storages[key]
        (count,) = struct.unpack("<q", file.read(8))
        raw = file.read(array.nbytes)
        if count != len(array) or len(raw) != array.nbytes:
            raise ValueError(f"storage {key!r} is cut off: {len(raw)} of {array.nbytes} bytes, {count} elements")
        array.view(np.uint8)[:] = np.frombuffer(raw, np.uint8)
        storages[key] = array
    return found


def _no_storage(*given: Any) -> _Storage:
    raise ValueError("a tensor where none is expected")
