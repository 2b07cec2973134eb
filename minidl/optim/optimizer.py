"""What all optimizers share: parameter groups, the loop over parameters, saving and loading state."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from minidl.core.context import enable_grad
from minidl.core.dtypes import accumulator
from minidl.core.primitive import Primitive
from minidl.core.registry import backend_of, namespace, to_numpy
from minidl.core.tensor import Tensor
from minidl.core.trace import capturing, guard, live, replaced, spent
from minidl.ops import zeros_like
from minidl.optim.options import HasOptions

Params = Iterable[Tensor] | Iterable[tuple[str, Tensor]] | Iterable[dict[str, Any]]


class Rule(NamedTuple):
    """How a group is updated: the primitive, the names of its state arrays (required, and optional: ``None`` where
    unused), and its constants. :mod:`minidl.ops.optimizer` gives the order of inputs and outputs."""

    update: Primitive
    state: tuple[str, ...] = ()
    optional: tuple[str | None, ...] = ()
    constants: dict[str, Any] = {}

    @classmethod
    def of(
        cls,
        update: Primitive,
        group: dict[str, Any],
        state: tuple[str, ...] = (),
        optional: tuple[str | None, ...] = (),
    ) -> Rule:
        """A rule whose constants are the options of ``group`` that ``update`` takes.

        Updates say ``beta1`` and ``beta2`` for the option ``betas``, and ``decoupled`` for ``decoupled_weight_decay``.
        """
        known = group
        if "betas" in group:
            beta1, beta2 = group["betas"]
            known = {**group, "beta1": beta1, "beta2": beta2, "decoupled": group.get("decoupled_weight_decay")}
        return cls(update, state, optional, {name: known[name] for name in update.params})


class Optimizer(HasOptions):
    """Base class. A subclass declares its options (:mod:`minidl.optim.options`) and says in :meth:`rule` how a group is
    updated.

    Parameters
    ----------
    params:
        leaf Tensors, ``(name, Tensor)`` pairs, or group dicts: ``{"params": [...], "lr": 0.01, ...}``, where options
        that a group does not name take the optimizer's.
    defaults:
        the value of every option.

    Raises ValueError for an empty list, a parameter given twice, a tensor that an operation made, or an option out of
    range; TypeError for what is not a floating-point Tensor.

    ``state`` maps each updated parameter to ``{"step": int, name: array}``. Parameters whose ``grad`` is None
    are skipped.

    >>> from minidl import nn, optim
    >>> model = nn.Linear(3, 2)
    >>> optimizer = optim.AdamW([{"params": [model.weight]}, {"params": [model.bias], "weight_decay": 0.0}], lr=1e-3)
    >>> [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups]
    [(0.001, 0.01), (0.001, 0.0)]
    """

    params: Params  # the first argument of every constructor

    def __init__(self, params: Params, defaults: dict[str, Any]) -> None:
        self.defaults = defaults
        self.state: dict[Tensor, dict[str, Any]] = {}
        self.param_groups: list[dict[str, Any]] = []
        if isinstance(params, (Tensor, dict)):
            raise TypeError(
                f"{type(self).__name__}: expected a list of Tensors or of group dicts, got one {type(params).__name__}"
            )
        if hasattr(params, "parameters"):
            raise TypeError(f"{type(self).__name__}: expected parameters, got a module; pass its .parameters()")
        given: list[Any] = list(params)
        if not given:
            raise ValueError(f"{type(self).__name__}: got an empty list of parameters")
        for group in given if isinstance(given[0], dict) else [{"params": given}]:
            self.add_param_group(group)

    def rule(self, group: dict[str, Any]) -> Rule:
        """How the parameters of ``group`` are updated; called once per group and step."""
        raise NotImplementedError

    def initial_state(self, name: str, p: Tensor, group: dict[str, Any]) -> Any:
        """The initial value of the state array ``name`` of ``p``: zeros, unless a subclass says otherwise; of a
        parameter of half precision in float32, as small updates would be lost in averages of that."""
        return namespace(p.array).zeros(p.shape, accumulator(p.dtype))

    def check(self, group: dict[str, Any]) -> None:
        """Raise ValueError if an option of ``group`` is out of range. Subclasses add what concerns several options."""
        for name, declared in self.options.items():
            declared.allowed.check(f"{type(self).__name__}: {name}", group[name])

    def add_param_group(self, group: dict[str, Any]) -> None:
        """Add parameters with their own options, such as layers unfrozen during training."""
        who = type(self).__name__
        if not isinstance(group, dict) or "params" not in group:
            raise TypeError(f"{who}: a parameter group is a dict with the key 'params', got {group!r}")
        given = group["params"]
        if isinstance(given, (set, frozenset)):
            raise TypeError(f"{who}: parameters need an order to be saved by; got a set")
        params = [given] if isinstance(given, Tensor) else list(given)
        group = {**self.defaults, **group}
        if params and all(isinstance(p, tuple) for p in params):
            group["param_names"] = [name for name, _ in params]
            params = [p for _, p in params]
        group["params"] = params
        if not params:
            raise ValueError(f"{who}: got an empty list of parameters")
        known = {id(p) for other in self.param_groups for p in other["params"]}
        for i, p in enumerate(params):
            name = group["param_names"][i] if "param_names" in group else f"parameter {i}"
            if not isinstance(p, Tensor):
                raise TypeError(f"{who}: {name} is a {type(p).__name__}, expected a Tensor")
            if p.dtype.kind not in "fV":
                raise TypeError(f"{who}: {name} is of {p.dtype}, expected a floating-point Tensor")
            if p.grad_fn is not None:
                raise ValueError(f"{who}: {name} is not a leaf: it was made by {p.grad_fn.prim.name}")
            if id(p) in known:
                raise ValueError(f"{who}: {name}, of shape {p.shape}, was given twice")
            known.add(id(p))
        self.check(group)
        self.param_groups.append(group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Set the gradients to None, or to zeros if ``set_to_none`` is false."""
        for group in self.param_groups:
            for p in group["params"]:
                if set_to_none:
                    p.grad = None
                elif p.grad is not None:
                    p.grad = zeros_like(p.grad.detach())

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient.

        ``closure``, if given, is called first to recompute the gradients; its result is returned.
        """
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        guard(lambda: tuple(map(id, self.param_groups)))
        for group in self.param_groups:
            self._step_group(group)
        return loss

    def _step_group(self, group: dict[str, Any]) -> None:
        rule = self.rule(group)
        guard(lambda: (self.rule(group), tuple(map(id, group["params"]))))
        update, required, optional, constants = rule
        names = (*required, *(n for n in optional if n is not None))
        counted = "step" in update.inputs
        watched = capturing()
        lr = live(lambda: group["lr"])
        for p in group["params"]:
            grad = p.grad if watched else p._grad
            if grad is None:
                continue
            try:
                state = self.state[p]
                arrays = [state[n] for n in required]
                more = [n and state[n] for n in optional]
            except KeyError:
                state = self._make_state(p, names, group)
                arrays = [state[n] for n in required]
                more = [n and state[n] for n in optional]
            if watched:
                spent(p)
                step = live(functools.partial(self._count, p), self._counter(p))
            else:
                step = self._count(p)
            scalars = (lr, step) if counted else (lr,)
            before = [state[n] for n in names] if watched else ()
            new, *arrays = update(p.array, grad.array, *arrays, *scalars, *more, **constants)
            for n, array in zip(names, arrays):
                state[n] = array
            for n, old, array in zip(names, before, arrays):
                replaced(old, array, functools.partial(self._get, p, n), functools.partial(self._put, p, n))
            if new is p.array:
                p._bump()
            else:
                p.assign_(new)

    def _make_state(self, p: Tensor, names: tuple[str, ...], group: dict[str, Any]) -> dict[str, Any]:
        state = self.state.setdefault(p, {"step": 0})
        for name in names:
            if name not in state:
                state[name] = self.initial_state(name, p, group)
        return state

    def _count(self, p: Tensor) -> int:
        """Count one more update of ``p``; returns their number."""
        state = self.state[p]
        state["step"] += 1
        return state["step"]

    def _counter(self, p: Tensor) -> tuple[Callable[[], int], Callable[[int], None]]:
        """How to look at the count of ``p``'s updates, and to set it."""
        return lambda: self.state[p]["step"], lambda n: self.state[p].update(step=n)

    def _get(self, p: Tensor, name: str) -> Any:
        return self.state[p][name]

    def _put(self, p: Tensor, name: str, array: Any) -> None:
        self.state[p][name] = array

    def state_dict(self) -> dict[str, Any]:
        """A snapshot, arranged as in PyTorch: ``{"state": {index: {name: value}}, "param_groups": [options]}``.

        Parameters are numbered across groups; arrays are NumPy copies. For files, see
        :func:`minidl.optim.split_arrays`.
        """
        index: dict[int, int] = {}
        groups = []
        for group in self.param_groups:
            for p in group["params"]:
                index[id(p)] = len(index)
            groups.append({**group, "params": [index[id(p)] for p in group["params"]]})
        state = {
            index[id(p)]: {n: int(v) if n == "step" else np.array(to_numpy(v)) for n, v in values.items()}
            for p, values in self.state.items()
        }
        return {"state": dict(sorted(state.items())), "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` (or PyTorch's, of the same optimizer) returned; arrays are copied.

        Raises ValueError, and leaves the optimizer unchanged, if groups, numbers of parameters or shapes differ.
        """
        who = type(self).__name__
        saved = state_dict["param_groups"]
        ours = [len(g["params"]) for g in self.param_groups]
        theirs = [len(g["params"]) for g in saved]
        if ours != theirs:
            raise ValueError(f"{who}: state for groups of {theirs} parameters does not fit groups of {ours}")
        groups = []
        for group, loaded in zip(self.param_groups, saved):
            options = {k: tuple(v) if isinstance(self.defaults.get(k), tuple) else v for k, v in loaded.items()}
            groups.append({**group, **options, "params": group["params"]})
            self.check(groups[-1])
        parameters = {
            int(i): p for g, loaded in zip(self.param_groups, saved) for i, p in zip(loaded["params"], g["params"])
        }
        state = {}
        for i, values in state_dict["state"].items():
            p = parameters.get(int(i))
            if p is None:
                raise ValueError(f"{who}: state for parameter {i}, but no group has it")
            state[p] = {"step": 1 if values else 0}  # PyTorch's SGD saves no count; its first step is over
            for name, value in values.items():
                if value is not None:
                    state[p][name] = self._loaded(name, value, p, i)
        self.state = state
        for group, loaded in zip(self.param_groups, groups):
            group.update(loaded)

    def _loaded(self, name: str, value: Any, p: Tensor, index: Any) -> Any:
        if name == "step":
            return int(value)
        array = np.array(to_numpy(value), dtype=accumulator(p.dtype))
        if array.shape not in (p.shape, ()):
            raise ValueError(
                f"{type(self).__name__}: {name} of parameter {index} has shape {array.shape}, expected {p.shape}"
            )
        return backend_of(p.array).asarray(array)

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for i, group in enumerate(self.param_groups):
            options = ", ".join(f"{k}={v}" for k, v in group.items() if k not in ("params", "param_names"))
            lines.append(f"  group {i}: {len(group['params'])} parameters, {options}")
        return "\n".join([*lines, ")"])
