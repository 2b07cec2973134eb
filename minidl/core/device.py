"""Names of devices, as PyTorch writes them, and the backend that each one means."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.core.errors import BackendError
from minidl.core.registry import Backend, backends, get_backend, load, use_backend

#: PyTorch's name of a kind of device, where the backend that serves it has another
_BACKENDS = {"cuda": "cupy"}


class device(str):
    """Where a tensor's values are: ``device("cpu")``, ``device("cuda", 0)``, ``device("cuda:0")``, ``device("jax")``.

    It is a string, equal to its own text, with PyTorch's attributes ``type`` and ``index``. ``"cpu"`` is the memory of
    the host, ``"cuda"`` CuPy's GPU; any other type is the name of a backend. ``with device("jax"):`` makes new tensors
    there.
    """

    type: str
    index: int | None  # type: ignore[assignment]  # hides str.index, which nobody asks of a device
    _blocks: list

    def __new__(cls, type: Any = "cpu", index: int | None = None) -> device:
        if isinstance(type, device):
            return type
        if isinstance(type, (int, np.integer)):
            type, index = "cuda", int(type)
        kind, colon, number = str(type).partition(":")
        if colon:
            if index is not None or not number.isdigit():
                raise ValueError(f"device: expected a type, or a type and a number as in 'cuda:0', got {str(type)!r}")
            index = int(number)
        made = super().__new__(cls, kind if index is None else f"{kind}:{index}")
        made.type, made.index = kind, index
        return made

    def __repr__(self) -> str:
        number = "" if self.index is None else f", index={self.index}"
        return f"device(type={self.type!r}{number})"

    def __reduce__(self) -> Any:
        return device, (str(self),)

    def __enter__(self) -> device:
        block = use_backend(backend_for(self))
        block.__enter__()
        self.__dict__.setdefault("_blocks", []).append(block)
        return self

    def __exit__(self, *exc: Any) -> None:
        self._blocks.pop().__exit__(*exc)


def backend_for(where: Any = None) -> Backend:
    """The backend that makes arrays on a device (its name, a number of a GPU, a :class:`device` or a backend); the
    active one for None.

    ``"cpu"`` is the active backend where its arrays are in the host's memory, else NumPy's. Raises BackendError where
    there is no such device.
    """
    if where is None:
        return get_backend()
    if isinstance(where, Backend):
        return where
    if type(where) is str and where in backends:
        return load(where)
    where = device(where)
    if where.index:
        raise BackendError(f"device {str(where)!r}: minidl uses one device of each type, the one with index 0")
    if where.type == "cpu":
        return get_backend() if get_backend().in_host_memory else backends["numpy"]
    return load(_BACKENDS.get(where.type, where.type))


def is_device(target: Any) -> bool:
    """Does ``target`` name a device, rather than a dtype?"""
    return isinstance(target, (device, Backend, int)) and not isinstance(target, bool)
