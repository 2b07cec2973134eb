"""What flows along the edges of an ONNX graph, and how it is read from the file.

A value is a :class:`minidl.Tensor` where it can be differentiated or lives on a device, and a NumPy array where it is
known without running the model (shapes, axes, indices) or has a dtype that no Tensor has (strings, 4 and 8 bit
floats). A sequence is a list, an absent optional value None.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from minidl.core.tensor import Tensor, as_tensor


def host(value: Any) -> Any:
    """``value`` as a NumPy array (or a list of them, or None)."""
    if isinstance(value, Tensor):
        return value.detach().numpy()
    if isinstance(value, list):
        return [host(v) for v in value]
    return value


def ints(value: Any) -> list[int]:
    """``value`` as a list of Python ints."""
    return [int(i) for i in np.ravel(host(value))]


def dtype_of(element_type: int) -> np.dtype:
    """NumPy's dtype for a number of ``onnx.TensorProto.DataType``."""
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(element_type))


def is_tensor_dtype(dtype: np.dtype) -> bool:
    """May a Tensor have this dtype?"""
    return dtype.name == "bfloat16" or (dtype.kind in "biuf" and not dtype.name.startswith("float8"))


def as_output(value: Any) -> Any:
    """A result as it is given to the user: a Tensor where that can be."""
    if isinstance(value, list):
        return [as_output(v) for v in value]
    if isinstance(value, (np.ndarray, np.generic)) and is_tensor_dtype(value.dtype):
        return as_tensor(np.asarray(value))
    return value


def array_of(proto: onnx.TensorProto, folder: Path | None) -> np.ndarray:
    """The array in a TensorProto; one that is kept in a file of its own, in ``folder``, is mapped, not read.

    Raises ValueError for a tensor whose data does not fit its shape, or whose file lies outside ``folder``.
    """
    if proto.data_location == onnx.TensorProto.EXTERNAL:
        return _mapped(proto, folder)
    if proto.HasField("raw_data") and min(proto.dims, default=0) >= 0:
        bits = _bits(proto.data_type)
        count = int(np.prod([int(d) for d in proto.dims], dtype=object))
        if bits and (count * bits + 7) // 8 != len(proto.raw_data):
            raise ValueError(
                f"tensor {proto.name!r} of shape {list(proto.dims)} needs {(count * bits + 7) // 8} bytes, "
                f"the file has {len(proto.raw_data)}"
            )
    try:
        return numpy_helper.to_array(proto)
    except Exception as error:
        raise ValueError(f"tensor {proto.name!r} of shape {list(proto.dims)} can't be read: {error}") from error


def _bits(element_type: int) -> int:
    """How many bits a number takes in a file; 0 where that is not fixed."""
    if element_type in (onnx.TensorProto.STRING, onnx.TensorProto.UNDEFINED):
        return 0
    name = onnx.TensorProto.DataType.Name(element_type)
    if name in ("INT4", "UINT4", "FLOAT4E2M1"):
        return 4
    if name in ("INT2", "UINT2"):
        return 2
    return dtype_of(element_type).itemsize * 8


def _mapped(proto: onnx.TensorProto, folder: Path | None) -> np.ndarray:
    facts = {entry.key: entry.value for entry in proto.external_data}
    location = facts.get("location", "")
    if folder is None:
        raise ValueError(f"tensor {proto.name!r} is kept in the file {location!r}; load the model from its path")
    folder = folder.resolve()
    path = (folder / location).resolve()
    if not location or not path.is_relative_to(folder) or not path.is_file():
        raise ValueError(f"tensor {proto.name!r} is kept in {location!r}, which is no file in the model's folder")
    dtype = dtype_of(proto.data_type)
    if _bits(proto.data_type) != dtype.itemsize * 8:
        raise ValueError(f"tensor {proto.name!r}: packed numbers of {dtype} in a file of their own are not supported")
    shape = tuple(int(d) for d in proto.dims)
    size = int(np.prod(shape, dtype=object)) * dtype.itemsize
    offset = int(facts.get("offset", 0))
    if min(shape, default=0) < 0 or offset < 0 or offset + size > path.stat().st_size:
        raise ValueError(
            f"tensor {proto.name!r} of shape {list(shape)} needs {size} bytes from {offset} on of {location!r}, "
            f"which has {path.stat().st_size}"
        )
    if size == 0:
        return np.zeros(shape, dtype)
    return np.memmap(path, dtype.newbyteorder("<"), "r", offset, shape)
