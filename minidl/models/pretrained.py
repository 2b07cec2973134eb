"""Models from Hugging Face's folders: ``config.json`` says which, safetensors files hold the weights.

The files are data: no code in a folder is run, no path in it leads out of it, and nothing is allocated because a file
says so. (A file of the folder may itself be a symbolic link, as in Hugging Face's cache.)
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from minidl import torch_file
from minidl.core.dtypes import default_dtype
from minidl.core.tensor import Tensor, array_of
from minidl.errors import UserError
from minidl.files import CorruptFileError
from minidl.models import bert, gpt, llama, resnet, t5, vit
from minidl.models.family import Family
from minidl.nn import init
from minidl.nn.module import Module

#: by config.json's ``model_type``
FAMILIES: dict[str, Family] = {
    **bert.FAMILIES, **gpt.FAMILIES, **llama.FAMILIES, **resnet.FAMILIES, **t5.FAMILIES, **vit.FAMILIES
}  # fmt: skip

#: what may hold the weights, in the order of preference; an index names the files
_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


class UnknownModelError(UserError, ValueError):
    """A folder holds a model that is not known here. The message says which are."""


def from_pretrained(
    folder: str | os.PathLike,
    architecture: str | None = None,
    *,
    dtype: Any = None,
    new: Sequence[str] = (),
    **settings: Any,
) -> Module:
    """The model in a folder as Hugging Face's ``save_pretrained`` writes it, in evaluation mode.

    Parameters
    ----------
    folder:
        holds ``config.json`` and the weights: ``model.safetensors``, or several files with an index, or the older
        ``pytorch_model.bin``. Its ``model_type`` is one of :data:`FAMILIES`.
    architecture:
        Hugging Face's name of a class of that type, such as ``"BertForMaskedLM"``; default: the one that the file
        names. Weights of other heads are left out.
    dtype:
        of the parameters, default float32, whatever the file has (bfloat16 is widened exactly).
    new:
        submodules that the file does not have and that start with new values, such as ``["classifier"]``.
    **settings:
        replace the file's, such as ``num_labels=3`` or ``hidden_dropout_prob=0.0``.

    A safetensors file is mapped into memory and copied one array at a time, so that loading takes the memory of one
    model. Raises CorruptFileError (a ValueError) that names file, part and expectation where the files are damaged or
    do not fit each other, UnknownModelError for other models.
    """
    folder = Path(folder)
    given = read_json(folder / "config.json")
    family, name = _choose(folder, given, architecture)
    weights = Weights(folder)
    settings = {**family.defaults, **given, **family.implied, **family.seen(weights.names), **settings}
    model = _build(folder, family, name, settings, len(weights.names))
    _fill(model, family, weights, np.dtype(dtype or default_dtype()), tuple(new))
    return model.eval()


def read_json(path: Path, kind: type = dict) -> Any:
    """The object (or list: ``kind``) in a JSON file. Raises CorruptFileError for anything else."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(content, kind):
        raise CorruptFileError(f"{path}: expected a {kind.__name__}, got a {type(content).__name__}")
    return content


def member(folder: Path, name: Any, source: Path) -> Path:
    """The file ``name`` of ``folder``, where ``source`` says so. Raises CorruptFileError if it may be elsewhere."""
    plain = isinstance(name, str) and name not in ("", ".", "..") and "\0" not in name
    if not plain or PurePosixPath(name).name != name or PureWindowsPath(name).name != name:
        raise CorruptFileError(f"{source}: names the file {name!r:.100}, expected one in the same folder")
    return folder / name


# Which model


def _choose(folder: Path, given: Mapping[str, Any], architecture: str | None) -> tuple[Family, str]:
    source, kind = folder / "config.json", given.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise UnknownModelError(f"{source}: model_type is {kind!r:.60}; known are {', '.join(sorted(FAMILIES))}")
    family = FAMILIES[kind]
    named = given.get("architectures") or [next(iter(family.architectures))]
    if not isinstance(named, list):
        raise CorruptFileError(f"{source}: architectures is {named!r:.60}, expected a list of names")
    wanted = [architecture] if architecture else named
    found = next((name for name in wanted if isinstance(name, str) and name in family.architectures), None)
    if found is None:
        raise UnknownModelError(
            f"{source}: {' or '.join(map(str, wanted)):.100} is not known for {kind}; known are "
            f"{', '.join(family.architectures)}: choose one with architecture="
        )
    return family, found


def _build(folder: Path, family: Family, name: str, settings: Mapping[str, Any], tensors: int) -> Module:
    """The model, its values not yet set: memory that is never written to is never used."""
    try:
        config = family.config.from_dict(settings)
        if config.layers() > tensors:
            raise ValueError(f"{config.layers()} layers are declared; there are only {tensors} arrays of weights")
        with init.skipped():
            return family.architectures[name](config)
    except (ValueError, TypeError, ArithmeticError, MemoryError) as error:
        raise CorruptFileError(f"{folder / 'config.json'}: {error or 'no memory for a model of that size'}") from error


# Weights


class Weights:
    """The arrays of a folder by name, read when asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        found = next((folder / name for name in _WEIGHTS if (folder / name).exists()), None)
        if found is None:
            raise FileNotFoundError(f"{folder}: there are no weights; looked for {', '.join(_WEIGHTS)}")
        #: names the arrays in error messages
        self.source = found
        self._opened: dict[Path, Any] = {}
        #: array -> file
        self.names: dict[str, Path] = {}
        if found.suffix == ".json":
            self._read_index(found)
        else:
            self.names = dict.fromkeys(self._open(found).keys(), found)

    def _read_index(self, path: Path) -> None:
        index = read_json(path).get("weight_map")
        if not isinstance(index, dict):
            raise CorruptFileError(f"{path}: weight_map is {index!r:.60}, expected an object of names and files")
        for name, file in index.items():
            shard = member(self.folder, file, path)
            if not shard.exists():
                raise CorruptFileError(f"{path}: {name!r:.100} is in {file}, which is not there")
            if name not in self._open(shard):
                raise CorruptFileError(f"{shard}: lacks {name!r:.100}, which {path.name} says is in it")
            self.names[name] = shard

    def _open(self, path: Path) -> Any:
        if path not in self._opened:
            self._opened[path] = _open_torch(path) if path.suffix == ".bin" else _Safetensors(path)
        return self._opened[path]

    def read(self, name: str, dtype: np.dtype) -> np.ndarray:
        """One array, floating-point values as ``dtype``."""
        path = self.names[name]
        try:
            array = np.asarray(self._open(path)[name])
        except (TypeError, AttributeError, ValueError) as error:
            raise CorruptFileError(f"{path}: {name!r:.100} cannot be read: {error}") from error
        is_float = array.dtype.kind == "f" or array.dtype.name == "bfloat16"
        return array.astype(dtype, copy=False) if is_float else array


class _Safetensors(Mapping[str, np.ndarray]):
    """The arrays of a safetensors file, which is mapped into memory."""

    def __init__(self, path: Path) -> None:
        try:
            import ml_dtypes  # noqa: F401  (NumPy then knows bfloat16 by name)
            import safetensors
        except ImportError as error:
            raise ImportError('reading weights needs safetensors: pip install "minidl[train]"') from error
        try:
            self._file = safetensors.safe_open(path, framework="np")
        except safetensors.SafetensorError as error:
            raise CorruptFileError(f"{path}: truncated, damaged, or not a safetensors file ({error})") from error
        self._names = dict.fromkeys(self._file.keys())

    def __getitem__(self, name: str) -> np.ndarray:
        return self._file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: Any) -> bool:
        return name in self._names


def _open_torch(path: Path) -> dict[str, np.ndarray]:
    content = torch_file.load(path)
    if not isinstance(content, dict) or not all(isinstance(a, np.ndarray) for a in content.values()):
        raise CorruptFileError(f"{path}: expected a state_dict, names and tensors")
    return content


# Bringing the two together


def _fill(model: Module, family: Family, weights: Weights, dtype: np.dtype, new: tuple[str, ...]) -> None:
    """Put a folder's arrays into a model, or raise a CorruptFileError with all that is wrong."""
    own: dict[str, Tensor] = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **{name: buffer for name, buffer in model.named_buffers() if name in model.state_dict()},
    }
    fresh = {name for name in own if any(name.startswith(f"{prefix}.") for prefix in new)}
    arrays: dict[str, np.ndarray] = {}
    unexpected, problems = [], []
    for name in weights.names:
        target = family.name(name, own)
        if target is None or target in fresh:
            continue
        if target not in own:
            unexpected.append(name)
        elif target in arrays:
            problems.append(f"{name!r:.100} and another array are both {target}")
        else:
            array = weights.read(name, dtype)
            arrays[target] = array if family.convert is None else family.convert(target, array)
            problems += _misfit(target, arrays[target], own[target])
    missing = []
    for names in _shared(own):
        there = [name for name in names if name in arrays]
        if not there and fresh.isdisjoint(names):
            missing.append(names[0])
        if any(not np.array_equal(arrays[there[0]], arrays[other]) for other in there[1:]):
            problems.append(f"{' and '.join(there)} are one parameter, but have different values")
    for what, listed in ("missing", missing), ("unexpected", unexpected):
        if listed:
            problems.insert(
                0, f"{what}: {', '.join(listed[:8])}{f' and {n} more' if (n := len(listed) - 8) > 0 else ''}"
            )
    if problems:
        raise CorruptFileError(
            f"{weights.source} does not fit {type(model).__name__}:\n  " + "\n  ".join(problems[:20])
        )
    while arrays:  # one after the other, so that none is in memory twice
        name, array = arrays.popitem()
        own[name].array = array_of(np.asarray(array, order="C"))
    for prefix in new:
        for module in model.get_submodule(prefix).modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
            module.to(dtype)


def _misfit(name: str, array: np.ndarray, target: Tensor) -> list[str]:
    if array.shape != target.shape:
        return [f"{name}: shape {array.shape}, expected {target.shape}"]
    if (array.dtype.kind == "f") != (target.dtype.kind == "f"):
        return [f"{name}: dtype {array.dtype}, expected {target.dtype}"]
    return []


def _shared(own: Mapping[str, Tensor]) -> Iterable[list[str]]:
    """The names of each parameter and buffer; tied ones have several."""
    groups: dict[int, list[str]] = {}
    for name, tensor in own.items():
        groups.setdefault(id(tensor), []).append(name)
    return groups.values()
