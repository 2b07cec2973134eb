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
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from minidl.errors import UserError
from minidl.files import naming
from minidl.optim.state import join_arrays, split_arrays
from minidl.serialization import from_bytes, to_bytes

_NAME = re.compile(r"step-\d+")
_FILES = ("model.safetensors", "training.safetensors", "state.json")
_VERSION = 2


class CheckpointError(UserError, ValueError):
    """A checkpoint is damaged, incomplete, or not one. The message names the file and what to do."""


def save(folder: str | os.PathLike, model: dict[str, Any], training: dict[str, Any]) -> Path:
    """Write a checkpoint: the model's ``state_dict``, and everything else as nested dicts and lists of numbers,
    strings and arrays. Replaces one of the same name."""
    folder = Path(folder)
    folder.parent.mkdir(exist_ok=True)
    temporary, old = _beside(folder)
    _recover(folder)
    arrays, rest = split_arrays(training)
    state = {"format": "minidl.checkpoint", "version": _VERSION, "state": rest}
    contents = {
        "model.safetensors": to_bytes(model),
        "training.safetensors": to_bytes(arrays),
        "state.json": json.dumps(state, indent=1).encode(),
    }
    sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in contents.items())
    try:
        temporary.mkdir()
        for name, content in {**contents, "SHA256SUMS": sums.encode()}.items():
            with naming(folder / name), open(temporary / name, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        _sync_folder(temporary)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if folder.exists():
        folder.rename(old)
    temporary.rename(folder)
    _sync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)
    return folder


def tidy(folder: str | os.PathLike) -> None:
    """Clear what a process that was killed while it wrote a checkpoint has left in ``folder``. A checkpoint that it was
    about to replace is put back."""
    for path in list(Path(folder).glob(".step-*")):
        if _NAME.fullmatch(path.stem[1:]):
            _recover(path.with_name(path.stem[1:]))


def _beside(folder: Path) -> tuple[Path, Path]:
    """What a checkpoint is written as, and what one of the same name is called meanwhile."""
    return folder.with_name(f".{folder.name}.tmp"), folder.with_name(f".{folder.name}.old")


def _recover(folder: Path) -> None:
    temporary, old = _beside(folder)
    if old.exists() and not folder.exists():
        old.rename(folder)
    for leftover in (temporary, old):
        shutil.rmtree(leftover, ignore_errors=True)


def load(folder: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read and verify a checkpoint: the model's arrays by name, and the other state given to :func:`save`, with tuples
    turned into lists.

    Raises:
        CheckpointError: something is missing or damaged; the message says what, and names an earlier checkpoint.
    """
    folder = Path(folder)
    try:
        contents = _verified(folder)
        arrays = from_bytes(contents["training.safetensors"], "training.safetensors")
        state = json.loads(contents["state.json"])
        if not isinstance(state, dict) or state.get("format") != "minidl.checkpoint":
            raise ValueError("state.json is not a minidl checkpoint's")
        if state.get("version") != _VERSION:
            raise ValueError(f"it has format version {state.get('version')}, this minidl reads {_VERSION}")
        return from_bytes(contents["model.safetensors"], "model.safetensors"), join_arrays(arrays, state["state"])
    except (ValueError, KeyError, TypeError, RecursionError, OSError) as error:
        earlier = [p for p in listed(folder.parent) if p.name < folder.name]
        hint = f"\nAn earlier checkpoint can be used instead: {earlier[-1]}" if earlier else ""
        raise CheckpointError(f"{folder}: this checkpoint cannot be used: {error}{hint}") from error


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


def latest(folder: str | os.PathLike) -> tuple[Path | None, Any, str]:
    """The latest checkpoint in ``folder`` that can be used, its content, and what is wrong with a later one ("": there
    is none). Without any checkpoint the first is None; raises CheckpointError if there are some and none can be used.
    """
    first = None
    for path in reversed(listed(folder)):
        try:
            return path, load(path), "" if first is None else str(first).splitlines()[0]
        except CheckpointError as error:
            first = first or error
    if first is not None:
        raise first
    return None, None, ""


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
