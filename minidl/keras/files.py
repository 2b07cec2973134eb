"""Keras' files: ``.keras`` archives, ``.weights.h5``, and the ``.h5`` of Keras 2 and 3.

Nothing in a file is run: layers are made by name, and a Lambda is refused.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from minidl.files import CorruptFileError
from minidl.keras.engine import Layer, assign, at_most, snake_case

#: weights in a compressed file may be this much larger than the file
_MOST_COMPRESSED = 200


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise ImportError('reading Keras\' files needs h5py: pip install "minidl[keras]"') from error
    return h5py


def load_model(path: str | os.PathLike, custom_objects: dict[str, Any] | None = None) -> Any:
    """The model in a ``.keras`` or ``.h5`` file, rebuilt of :mod:`minidl.keras.layers` with its weights.

    ``custom_objects`` gives classes (subclasses of ``minidl.keras.Layer``) for layers that Keras has not. The optimizer
    is not read.

    Raises CorruptFileError (a ValueError) that names the file and its part for what is damaged or does not fit, and
    NotImplementedError that names a layer that is not known.
    """
    from minidl.keras.models import from_config

    path = Path(path)
    if path.is_dir():
        raise ValueError(
            f"{path}: a folder; TensorFlow's SavedModel holds a program, not layers: minidl.keras.files.load_variables "
            "reads its weights"
        )
    with _opened(path) as (config, file):
        if config is None:
            raise CorruptFileError(
                f"{path}: it holds weights alone; make the model and use model.load_weights({path.name!r})"
            )
        try:
            with at_most(_MOST_COMPRESSED * path.stat().st_size):
                model = from_config(config, custom_objects)
        except NotImplementedError as error:
            raise NotImplementedError(f"{path}: {error}") from error
        except Exception as error:  # whatever a damaged description leads to
            raise CorruptFileError(f"{path}: its model: {error or type(error).__name__}") from error
        _assign_all(model, file, path)
    return model.eval()


def load_weights(model: Layer, path: str | os.PathLike) -> None:
    """Read the weights of a file into a model of the same layers; see :func:`load_model` for errors."""
    with _opened(Path(path)) as (_, file):
        _assign_all(model, file, Path(path))


class _opened:
    """The description of the model in a file (None where it holds weights alone) and its HDF5 part."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> tuple[dict[str, Any] | None, Any]:
        h5py, path = _h5py(), self.path
        with path.open("rb") as file:
            start = file.read(8)
        try:
            if start[:4] == b"PK\x03\x04":
                return self._archive(h5py)
            if start != b"\x89HDF\r\n\x1a\n":
                raise ValueError("neither an archive nor HDF5")
            self.file = h5py.File(path, "r")
            config = self.file.attrs.get("model_config")
            return (None if config is None else json.loads(config)), self.file
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, RuntimeError, RecursionError) as error:
            raise CorruptFileError(f"{path}: not a file of Keras: {error}") from error

    def _archive(self, h5py: Any) -> tuple[dict[str, Any] | None, Any]:
        archive = zipfile.ZipFile(self.path)
        size = self.path.stat().st_size
        names = {info.filename: info for info in archive.infolist()}
        parts = []
        for name in ("config.json", "model.weights.h5"):
            if name not in names:
                raise ValueError(f"the archive has no {name}")
            if names[name].file_size > _MOST_COMPRESSED * size:
                raise ValueError(f"{name} claims {names[name].file_size} bytes in an archive of {size}")
            parts.append(archive.read(name))
        self.file = h5py.File(io.BytesIO(parts[1]), "r")
        return json.loads(parts[0]), self.file

    def __exit__(self, *error: Any) -> None:
        self.file.close()


def _dataset(group: Any, name: str, what: str) -> np.ndarray:
    """The values of a dataset that is in this very file and not larger than it could be."""
    h5py = _h5py()
    link = group.get(name, getlink=True)
    if not isinstance(link, h5py.HardLink):
        raise ValueError(f"{what} is kept elsewhere ({type(link).__name__})")
    found = group[name]
    if not isinstance(found, h5py.Dataset) or found.external or found.is_virtual:
        raise ValueError(f"{what} is no array of this file")
    if found.dtype.kind not in "fiub":
        raise ValueError(f"{what} has the dtype {found.dtype}")
    if found.nbytes > 64 + _MOST_COMPRESSED * found.id.get_storage_size():
        raise ValueError(f"{what} claims {found.nbytes} bytes, the file has {found.id.get_storage_size()} of them")
    return found[()]


def _group(parent: Any, name: str) -> Any:
    """A group inside this file, or None."""
    h5py = _h5py()
    if name not in parent:
        return None
    link = parent.get(name, getlink=True)
    if not isinstance(link, h5py.HardLink):
        raise ValueError(f"{name!r} is kept elsewhere ({type(link).__name__})")
    return parent[name]


def _assign_all(model: Layer, file: Any, path: Path) -> None:
    try:
        if "layer_names" in file.attrs or "model_weights" in file:
            _assign_legacy(model, file.get("model_weights", file))
        else:
            _assign_nested(model, file, "")
    except Exception as error:  # whatever damaged bytes lead to inside HDF5
        raise CorruptFileError(f"{path}: {error or type(error).__name__}") from error


#: attributes of layers in which Keras 3 keeps inner ones, in the order of our ``inner_layers``
_PARTS = {
    "Bidirectional": ("forward_layer", "backward_layer"),
    "TimeDistributed": ("layer",),
    "MultiHeadAttention": ("query_dense", "key_dense", "value_dense", "output_dense"),
    "LSTM": ("cell",), "GRU": ("cell",), "SimpleRNN": ("cell",),
}  # fmt: skip


def _parts(layer: Layer) -> Iterator[tuple[str, Layer]]:
    """The inner layers and the groups they are kept in."""
    names = next((_PARTS[c.__name__] for c in type(layer).__mro__ if c.__name__ in _PARTS), None)
    if names is not None:
        yield from zip(names, layer.inner_layers())
        return
    used: Counter[str] = Counter()
    for inner in layer.inner_layers():
        kind = snake_case(type(inner).__name__)
        yield f"layers/{kind}_{used[kind]}" if used[kind] else f"layers/{kind}", inner
        used[kind] += 1


def _assign_nested(layer: Layer, group: Any, where: str) -> None:
    """Keras 3's way: a group per layer, in it ``vars/0``, ``vars/1`` … and the groups of inner layers."""
    if not layer.built:
        raise ValueError(f"the layer {layer.name!r} has no weights yet; call the model on an input first")
    variables = _group(group, "vars")
    count = 0 if variables is None else len(variables)
    if count != len(layer.variables):
        raise ValueError(f"{where or 'the model'} has {count} weights, expected {len(layer.variables)} ({layer.name})")
    for i, variable in enumerate(layer.variables):
        what = f"{where}/vars/{i}"
        assign(variable, _dataset(variables, str(i), what), what)
    for name, inner in _parts(layer):
        found = group
        for part in name.split("/"):
            found = None if found is None else _group(found, part)
        if found is not None:
            _assign_nested(inner, found, f"{where}/{name}".lstrip("/"))
        elif inner.all_variables():
            raise ValueError(f"there is no {where}/{name}, which holds the weights of {inner.name!r}")


def _assign_legacy(model: Layer, file: Any) -> None:
    """Keras 2's way: a group per layer, by the layer's name, with the order of its weights in an attribute."""
    names = [n.decode() if isinstance(n, bytes) else str(n) for n in file.attrs["layer_names"]]
    layers = [layer for layer in model.inner_layers() if layer.all_variables()]
    stored = []
    for name in names:
        group = _group(file, name)
        order = [n.decode() if isinstance(n, bytes) else str(n) for n in group.attrs.get("weight_names", ())]
        if order:
            stored.append((name, [_path(group, weight, f"{name}/{weight}") for weight in order]))
    if len(stored) != len(layers):
        raise ValueError(f"it has weights of {len(stored)} layers, expected {len(layers)}")
    by_name = {layer.name: layer for layer in layers}
    if set(by_name) != {name for name, _ in stored}:  # a model made anew, whose layers have names of their own
        by_name = dict(zip((name for name, _ in stored), layers))
    for name, values in stored:
        variables = _legacy_order(by_name[name])
        if len(values) != len(variables):
            raise ValueError(f"{name} has {len(values)} weights, expected {len(variables)}")
        for i, (variable, value) in enumerate(zip(variables, values)):
            assign(variable, value, f"{name}: weight {i}")


def _legacy_order(layer: Layer) -> list[Any]:
    """A layer's weights as Keras 2 lists them: trained ones first, then the others."""
    variables = layer.all_variables()
    buffers = {id(b) for b in layer.buffers()}
    return [v for v in variables if id(v) not in buffers] + [v for v in variables if id(v) in buffers]


def _path(group: Any, name: str, what: str) -> np.ndarray:
    *parents, last = name.split("/")
    for parent in parents:
        group = _group(group, parent)
        if group is None:
            raise ValueError(f"there is no {what}")
    if last not in group:
        raise ValueError(f"there is no {what}")
    return _dataset(group, last, what)
