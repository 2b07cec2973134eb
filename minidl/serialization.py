"""Weights in files: safetensors, written atomically, never unpickled.

The format (https://github.com/huggingface/safetensors) is a JSON header and raw little-endian arrays, so that reading a
stranger's file runs none of their code. PyTorch and others read and write it too.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minidl.core.registry import to_numpy
from minidl.core.tensor import Tensor

_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
    "C64": np.complex64,
}


def library() -> Any:
    """The package safetensors. Raises ImportError that says how to get it."""
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError('saving and loading weights needs safetensors: pip install "minidl[train]"') from error
    return safetensors


def to_bytes(state: Any, metadata: Mapping[str, str] | None = None) -> bytes:
    """What :func:`save` writes, in memory."""
    safetensors = library()
    if hasattr(state, "state_dict"):
        state = state.state_dict()
    if not isinstance(state, Mapping):
        raise TypeError(f"save: expected a Module or a dict of tensors, got {type(state).__name__}")
    arrays = {}
    for name, value in state.items():
        if not isinstance(name, str):
            raise TypeError(f"save: names must be strings, got {name!r}")
        array = np.asarray(to_numpy(value.array) if isinstance(value, Tensor) else value, order="C")
        if array.dtype.name != "bfloat16" and array.dtype.newbyteorder("=") not in map(np.dtype, _DTYPES.values()):
            raise TypeError(f"save: {name!r} has dtype {array.dtype}, which safetensors cannot hold")
        arrays[name] = array
    for key, value in (metadata or {}).items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"save: metadata must map strings to strings, got {key!r}: {value!r}")
    return safetensors.numpy.save(arrays, metadata=dict(metadata) if metadata else None)


def from_bytes(content: bytes, source: str = "safetensors data") -> dict[str, np.ndarray]:
    """The arrays in ``content``; ``source`` is what an error message calls it. bfloat16 is widened to float32."""
    safetensors = library()
    from minidl.files import CorruptFileError

    try:
        entries = safetensors.deserialize(content)
    except safetensors.SafetensorError as error:
        raise CorruptFileError(f"{source}: truncated, damaged, or not a safetensors file ({error})") from error
    arrays = {}
    for name, entry in entries:
        try:
            arrays[name] = _array(entry["dtype"], entry["data"], entry["shape"])
        except ValueError as error:
            raise CorruptFileError(f"{source}: {name!r}: {error}") from error
    return arrays


def _array(code: str, data: Any, shape: Sequence[int]) -> np.ndarray:
    if code == "BF16":
        raw = np.frombuffer(data, "<u2").astype(np.uint32) << 16
        return raw.view(np.float32).reshape(shape)
    if code not in _DTYPES:
        raise ValueError(f"dtype {code}, which NumPy does not have")
    if code == "BOOL" and np.frombuffer(data, np.uint8).max(initial=0) > 1:
        raise ValueError("a byte of dtype BOOL is neither 0 nor 1")
    array = np.frombuffer(data, np.dtype(_DTYPES[code]).newbyteorder("<"))
    return array.reshape(shape).astype(_DTYPES[code])


def save(state: Any, path: str | os.PathLike, metadata: Mapping[str, str] | None = None) -> None:
    """Write a module's ``state_dict``, or any dict of names to tensors or arrays, as a safetensors file.

    ``metadata`` is a dict of strings that :func:`load_metadata` gives back. ``path`` holds either its old content or
    all of the new one, whatever happens in between. Raises TypeError for what the format cannot hold, and for the
    arguments the other way round.
    """
    from minidl.files import atomic_write

    if isinstance(state, (str, os.PathLike)) and not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"save: as in torch.save, the path comes second: minidl.save(model, {os.fspath(state)!r})")
    content = to_bytes(state, metadata)
    with atomic_write(path) as file:
        file.write(content)


def load(path: str | os.PathLike) -> Any:
    """What is in a file: the arrays of a safetensors file by name, as ``Module.load_state_dict`` takes them, or the
    object in a file of ``torch.save``, its tensors as NumPy arrays (PyTorch is not needed, and no code of it is run).

    Raises CorruptFileError (a ValueError) that names the file if it is truncated, damaged or something else.
    """
    from minidl import torch_file

    if torch_file.is_torch_file(path):
        return torch_file.load(path)
    return from_bytes(Path(path).read_bytes(), source=str(path))


def load_metadata(path: str | os.PathLike) -> dict[str, str]:
    """The ``metadata`` given to :func:`save`. Raises CorruptFileError as :func:`load` does."""
    safetensors = library()
    from minidl.files import CorruptFileError

    try:
        with safetensors.safe_open(path, framework="np") as file:
            return dict(file.metadata() or {})
    except safetensors.SafetensorError as error:
        raise CorruptFileError(f"{path}: truncated, damaged, or not a safetensors file ({error})") from error
