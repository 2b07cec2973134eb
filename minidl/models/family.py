"""What the models of Hugging Face's folders have in common: a checked configuration, and names in files made ours."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar, Self

import numpy as np

from minidl import ops
from minidl.core.tensor import Tensor, as_tensor
from minidl.nn.module import Module

#: Hugging Face's names of activations
ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "gelu": ops.gelu,
    "gelu_new": lambda x: ops.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: ops.gelu(x, approximate="tanh"),
    "relu": ops.relu,
    "silu": ops.silu,
    "swish": ops.silu,
    "tanh": ops.tanh,
}


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(N, T, heads · E) -> (N, heads, T, E)."""
    n, steps, width = x.shape
    return ops.swapaxes(ops.reshape(x, shape=(n, steps, heads, width // heads)), 1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(N, heads, T, E) -> (N, T, heads · E)."""
    n, heads, steps, width = x.shape
    return ops.reshape(ops.swapaxes(x, 1, 2), shape=(n, steps, heads * width))


def visible_keys(attention_mask: Any) -> Tensor | None:
    """A batch's mask (N, S), nonzero where there is a token, as attention takes it: bool (N, 1, 1, S), or None."""
    if attention_mask is None:
        return None
    mask = as_tensor(attention_mask)
    return ops.reshape(mask != 0, shape=(mask.shape[0], 1, 1, mask.shape[1]))


def check_ids(model: Module, ids: Any) -> Tensor:
    """Token numbers (N, T) as a Tensor. Raises ValueError for another shape."""
    ids = as_tensor(ids)
    if ids.ndim != 2:
        raise ValueError(f"{type(model).__name__}: expected token numbers of shape (N, T), got {ids.shape}")
    return ids


@dataclasses.dataclass
class Config:
    """The settings of a model, named as in Hugging Face's ``config.json``.

    A subclass lists them, with the defaults that hold where a file is silent.
    """

    #: settings that change what a model computes, and their values for which it is written
    ONLY: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    #: other names that files give to settings
    ALIASES: ClassVar[Mapping[str, str]] = {}

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Self:
        """The settings among ``given``, which may hold others.

        Raises ValueError that lists all that have a wrong type or a value for which the model is not written.
        """
        given = {cls.ALIASES.get(name, name): value for name, value in given.items()}
        if "num_labels" not in given and isinstance(given.get("id2label"), dict):
            given["num_labels"] = len(given["id2label"])
        hints, problems, values = typing.get_type_hints(cls), [], {}
        for field in dataclasses.fields(cls):
            if field.name in given and not _fits(given[field.name], hints[field.name]):
                problems.append(f"{field.name} is {given[field.name]!r:.60}, expected {field.type}")
            elif field.name in given:
                values[field.name] = given[field.name]
        for name, known in cls.ONLY.items():
            if name in given and given[name] not in known:
                problems.append(f"{name} is {given[name]!r:.60}; written for {' or '.join(map(repr, known))}")
        if problems:
            raise ValueError("; ".join(problems))
        return cls(**values)

    def eos_tokens(self) -> list[int]:
        """The tokens that end a text: ``eos_token_id`` is one, several or none."""
        eos = getattr(self, "eos_token_id", None)
        return eos if isinstance(eos, list) else [] if eos is None else [eos]

    def layers(self) -> int:
        """The number of layers, of which each has weights in a file."""
        return sum(getattr(self, f.name) or 0 for f in dataclasses.fields(self) if f.name.endswith("layers"))


def _fits(value: Any, hint: Any) -> bool:
    """Is ``value`` of the type that a field declares? Numbers must be finite, and sizes not negative."""
    if isinstance(hint, types.UnionType):
        return any(_fits(value, member) for member in typing.get_args(hint))
    if hint in (int, float):
        number = isinstance(value, int if hint is int else (int, float)) and not isinstance(value, bool)
        return number and np.isfinite(value) and 0 <= value < 2**63
    if typing.get_origin(hint) is list:
        return isinstance(value, list) and all(_fits(item, *typing.get_args(hint)) for item in value)
    return isinstance(value, typing.get_origin(hint) or hint)


@dataclasses.dataclass(frozen=True)
class Family:
    """How to make the models of one ``model_type`` from a folder."""

    config: type[Config]
    #: Hugging Face's names of classes, and ours; the first is meant where a file names none
    architectures: Mapping[str, Callable[[Any], Module]]
    #: settings that hold where a file of this type is silent
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    #: settings that the type implies, whatever a file says
    implied: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    #: settings that show in the names of a file's arrays
    seen: Callable[[Collection[str]], Mapping[str, Any]] = lambda names: {}
    #: regular expressions for names in files, and what to put in their place
    renames: tuple[tuple[str, str], ...] = ()
    #: begins the names of the body where a file has a head as well
    prefix: str = ""
    #: regular expressions for names in files that have no use where a model lacks them: other heads, constants
    unused: tuple[str, ...] = ()
    #: an array in our layout, given our name for it and the file's array, where layouts differ
    convert: Callable[[str, np.ndarray], np.ndarray] | None = None

    def name(self, name: str, own: Mapping[str, Any]) -> str | None:
        """Which of the model's ``own`` names one in a file means; None: it has no use; itself where nobody knows."""
        for pattern, replacement in self.renames:
            name = re.sub(pattern, replacement, name)
        for candidate in (name, self.prefix + name, name.removeprefix(self.prefix)):
            if candidate in own:
                return candidate
        return None if any(re.match(pattern, name) for pattern in self.unused) else name
