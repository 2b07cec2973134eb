"""Checkpoints: a folder that holds all of a training run's state, or does not exist.

::

    checkpoints/step-00000400/
        model.safetensors       parameters and buffers: what any program that reads safetensors can load
        training.safetensors    arrays of optimizer, scheduler, averaged weights …
        state.json              everything else: epoch, step, place in the data, random numbers, history
        SHA256SUMS              of the three, as ``sha256sum -c`` reads it

It is written under a temporary name, flushed to the disk and then renamed, so a crash or a full disk leaves the
earlier checkpoints as they are. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from minidl.data.storage import atomic_write
from minidl.tensor import Tensor
from minidl.train.metrics import as_array

_NAME = re.compile(r"step-\d+")
_FILES = ("model.safetensors", "training.safetensors", "state.json")
_VERSION = 1


class CheckpointError(ValueError):
    """A checkpoint is damaged, incomplete, or not one. The message names the file and what to do."""


def pack(tree: Any, arrays: dict[str, np.ndarray], path: str = "") -> Any:
    """``tree`` (dicts, lists, tuples, numbers, strings, arrays, Tensors) as JSON values that :func:`unpack` undoes.

    Arrays are put into ``arrays`` under their path. Raises TypeError for anything else, naming its path.
    """
    if tree is None or isinstance(tree, (bool, str)):
        return tree
    if isinstance(tree, int):
        return int(tree)
    if isinstance(tree, float) and not isinstance(tree, np.generic):
        return tree if math.isfinite(tree) else {"__float__": repr(tree)}
    if isinstance(tree, (np.ndarray, np.generic, Tensor)) or hasattr(tree, "__array__"):
        arrays[path] = as_array(tree)
        return {"__array__": path}
    if isinstance(tree, (list, tuple)):
        items = [pack(value, arrays, f"{path}/{i}") for i, value in enumerate(tree)]
        return items if isinstance(tree, list) else {"__tuple__": items}
    if isinstance(tree, dict):
        if all(isinstance(key, str) and not key.startswith("__") for key in tree):
            return {key: pack(value, arrays, f"{path}/{key}") for key, value in tree.items()}
        if all(isinstance(key, (int, str)) for key in tree):
            return {"__items__": [[key, pack(value, arrays, f"{path}/{key}")] for key, value in tree.items()]}
    raise TypeError(f"checkpoint: cannot store {type(tree).__name__} at {path or 'the top'}")


def unpack(tree: Any, arrays: dict[str, np.ndarray]) -> Any:
    """The opposite of :func:`pack`."""
    if isinstance(tree, list):
        return [unpack(value, arrays) for value in tree]
    if isinstance(tree, dict):
        if "__array__" in tree:
            return arrays[tree["__array__"]]
        if "__float__" in tree:
            return float(tree["__float__"])
        if "__tuple__" in tree:
            return tuple(unpack(value, arrays) for value in tree["__tuple__"])
        if "__items__" in tree:
            return {key: unpack(value, arrays) for key, value in tree["__items__"]}
        return {key: unpack(value, arrays) for key, value in tree.items()}
    return tree


def save(folder: str | os.PathLike, model: dict[str, Any], training: dict[str, Any]) -> Path:
    """Write a checkpoint: the model's ``state_dict`` and a tree of everything else. Replaces one of the same name."""
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = folder.with_name(f".{folder.name}.tmp"), folder.with_name(f".{folder.name}.old")
    for leftover in (temporary, old):
        shutil.rmtree(leftover, ignore_errors=True)
    arrays: dict[str, np.ndarray] = {}
    state = {"format": "minidl.checkpoint", "version": _VERSION, "state": pack(training, arrays)}
    contents = {
        "model.safetensors": _to_safetensors(model),
        "training.safetensors": _to_safetensors(arrays),
        "state.json": json.dumps(state, indent=1, allow_nan=False).encode(),
    }
    sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in contents.items())
    temporary.mkdir()
    for name, content in {**contents, "SHA256SUMS": sums.encode()}.items():
        with open(temporary / name, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    _sync_folder(temporary)
    if folder.exists():
        folder.rename(old)
    temporary.rename(folder)
    _sync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)
    return folder


def load(folder: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read and verify a checkpoint: the model's arrays by name, and the tree that :func:`save` was given.

    Raises:
        CheckpointError: something is missing or damaged; the message says what, and names an earlier checkpoint.
    """
    folder = Path(folder)
    try:
        contents = _verified(folder)
        arrays = _from_safetensors(contents["training.safetensors"])
        state = json.loads(contents["state.json"])
        if not isinstance(state, dict) or state.get("format") != "minidl.checkpoint":
            raise ValueError("state.json is not a minidl checkpoint's")
        if state.get("version") != _VERSION:
            raise ValueError(f"it has format version {state.get('version')}, this minidl reads {_VERSION}")
        return _from_safetensors(contents["model.safetensors"]), unpack(state["state"], arrays)
    except (ValueError, KeyError, TypeError, RecursionError, OSError) as error:
        earlier = [p for p in listed(folder.parent) if p.name < folder.name]
        hint = f"\nAn earlier checkpoint can be used instead: {earlier[-1]}" if earlier else ""
        raise CheckpointError(f"{folder}: this checkpoint cannot be used: {error}{hint}") from error


def save_arrays(path: str | os.PathLike, arrays: dict[str, Any]) -> None:
    """Write a safetensors file, atomically."""
    with atomic_write(path) as file:
        file.write(_to_safetensors(arrays))


def load_arrays(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read a safetensors file. Raises CheckpointError if it is damaged."""
    try:
        return _from_safetensors(Path(path).read_bytes())
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _verified(folder: Path) -> dict[str, bytes]:
    sums = {}
    if not folder.is_dir():
        raise ValueError("there is no such folder")
    if not (folder / "SHA256SUMS").is_file():
        raise ValueError("SHA256SUMS is missing")
    for line in (folder / "SHA256SUMS").read_text().splitlines():
        digest, _, name = line.partition("  ")
        sums[name] = digest
    contents = {}
    for name in _FILES:
        if not (folder / name).is_file():
            raise ValueError(f"{name} is missing")
        contents[name] = (folder / name).read_bytes()
        if hashlib.sha256(contents[name]).hexdigest() != sums.get(name):
            raise ValueError(f"{name} is damaged (its SHA-256 is not the one in SHA256SUMS)")
    return contents


def listed(folder: str | os.PathLike) -> list[Path]:
    """The checkpoints in ``folder``, oldest first."""
    folder = Path(folder)
    return sorted(p for p in folder.iterdir() if _NAME.fullmatch(p.name)) if folder.is_dir() else []


def name_of(step: int) -> str:
    """``step-00000400`` for step 400."""
    return f"step-{step:08d}"


def prune(folder: str | os.PathLike, keep: int) -> None:
    """Delete all but the last ``keep`` checkpoints."""
    for old in listed(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":  # Windows cannot open folders
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _library() -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError('checkpoints need safetensors: pip install "minidl[train]"') from error
    return safetensors.numpy


def _to_safetensors(arrays: dict[str, Any]) -> bytes:
    return _library().save({name: np.ascontiguousarray(as_array(a)) for name, a in arrays.items()})


def _from_safetensors(content: bytes) -> dict[str, np.ndarray]:
    try:
        return _library().load(content)
    except ImportError:
        raise
    except Exception as error:  # SafetensorError derives from Exception alone
        raise ValueError(f"not a safetensors file ({error})") from error
