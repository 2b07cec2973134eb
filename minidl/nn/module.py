"""Module: a layer or a model, with its parameters, buffers, submodules and hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from minidl.core.dtypes import bfloat16, is_dtype_name, is_floating
from minidl.core.hooks import HookHandle
from minidl.core.registry import to_numpy
from minidl.core.tensor import Tensor, array_of, as_tensor
from minidl.core.trace import refuse, touch, world
from minidl.nn.hooks import Hooks
from minidl.nn.summary import Summary, summary


class Parameter(Tensor):
    """A tensor that a module learns: assigned to an attribute of a :class:`Module`, it is one of its ``parameters()``.

    ``Parameter(data, requires_grad=True)`` takes what :func:`minidl.as_tensor` takes and shares an array's memory.
    """

    _is_parameter = True

    def __init__(self, data: Any = (), requires_grad: bool = True) -> None:
        self.array, self.requires_grad, self._node = array_of(data), False, None
        if requires_grad:
            self.requires_grad_()

    def __repr__(self) -> str:
        return f"Parameter containing:\n{super().__repr__()}"


class IncompatibleKeys(NamedTuple):
    """The keys that :meth:`Module.load_state_dict` could not match."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Module:
    """Base class of layers and models.

    A subclass creates its parameters and submodules in ``__init__`` and computes its output in ``forward``::

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc1 = nn.Linear(784, 128)
                self.fc2 = nn.Linear(128, 10)

            def forward(self, x):
                return self.fc2(ops.relu(self.fc1(x)))

    Attributes that are a :class:`Parameter` or a :class:`Module` are found automatically, in the order in which they
    were first assigned. Other state, such as running statistics, is declared with :meth:`register_buffer`.
    """

    _is_module = True
    #: whether layers such as dropout behave as in training; set with train() and eval()
    training = True
    # buffer names, each with whether it is part of the state_dict
    _buffers: Mapping[str, bool] = {}
    _hooks: Hooks | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module computes; subclasses define it, users call the module itself."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward()")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        touch(self)
        if kwargs and not args and "input" in kwargs:  # PyTorch's name of the first argument of most layers
            args = (kwargs.pop("input"),)
        if self._hooks is None:
            return self.forward(*args, **kwargs)
        return self._hooks.run(self, args, kwargs)

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, Tensor) and not isinstance(value, Parameter):
            if isinstance(self.__dict__.get(name), Parameter):
                raise TypeError(
                    f"{type(self).__name__}.{name} is a Parameter and cannot become a plain Tensor; "
                    "assign a Parameter, or change its values with assign_()"
                )
        elif name in self._buffers and value is not None:
            raise TypeError(
                f"{type(self).__name__}.{name} is a buffer: expected a Tensor or None, got {type(value).__name__}"
            )
        refuse(
            f"assigning {type(self).__name__}.{name}",
            "return the new value from the step, or keep it in a buffer and change that in place (buffer.assign_(...))",
        )
        object.__setattr__(self, name, value)
        world.version += 1

    def __delattr__(self, name: str) -> None:
        refuse(f"deleting {type(self).__name__}.{name}", "do so outside of the step")
        object.__delattr__(self, name)
        world.version += 1
        if name in self._buffers:
            del self._buffers[name]  # type: ignore[attr-defined]

    # Registration

    def _check_name(self, name: str) -> None:
        if not isinstance(name, str) or not name or "." in name:
            raise KeyError(f"{type(self).__name__}: expected a name without dots, got {name!r}")
        if hasattr(type(self), name) or name in self._buffers:
            raise KeyError(f"{type(self).__name__} already has an attribute {name!r}")

    def register_buffer(self, name: str, tensor: Any, persistent: bool = True) -> None:
        """Add a tensor (or array, or None) that is part of the state but not learned, such as a running mean.

        ``to()`` moves it, and ``state_dict()`` contains it if ``persistent``. Raises KeyError if the name contains a
        dot or is taken.
        """
        self._check_name(name)
        if name in self.__dict__:
            raise KeyError(f"{type(self).__name__} already has an attribute {name!r}")
        object.__setattr__(self, name, None if tensor is None else as_tensor(tensor))
        if "_buffers" not in self.__dict__:
            object.__setattr__(self, "_buffers", {})
        self._buffers[name] = persistent  # type: ignore[index]
        world.version += 1

    def register_parameter(self, name: str, parameter: Parameter | None) -> None:
        """``self.name = parameter``, for a name known only at run time.

        Raises KeyError for a bad name, TypeError for what is not a Parameter.
        """
        self._check_name(name)
        if parameter is not None and not isinstance(parameter, Parameter):
            raise TypeError(f"register_parameter({name!r}): expected a Parameter, got {type(parameter).__name__}")
        setattr(self, name, parameter)

    def add_module(self, name: str, module: Module | None) -> None:
        """``self.name = module``, for a name known only at run time.

        Raises KeyError for a bad name, TypeError for what is not a Module.
        """
        self._check_name(name)
        if module is not None and not isinstance(module, Module):
            raise TypeError(f"add_module({name!r}): expected a Module, got {type(module).__name__}")
        setattr(self, name, module)

    # Looking inside

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Yield (name, module) for each direct submodule."""
        for name, value in list(self.__dict__.items()):
            if isinstance(value, Module):
                yield name, value

    def children(self) -> Iterator[Module]:
        """The direct submodules."""
        for _, module in self.named_children():
            yield module

    def named_modules(
        self, prefix: str = "", remove_duplicate: bool = True, _seen: set | None = None
    ) -> Iterator[tuple[str, Module]]:
        """Yield (dotted name, module) for this module (name ``""``) and all below it, parents first."""
        seen = set() if _seen is None else _seen
        if remove_duplicate:
            if id(self) in seen:
                return
            seen.add(id(self))
        yield prefix, self
        for name, child in self.named_children():
            yield from child.named_modules(f"{prefix}.{name}" if prefix else name, remove_duplicate, seen)

    def modules(self) -> Iterator[Module]:
        """This module and all below it."""
        for _, module in self.named_modules():
            yield module

    def get_submodule(self, name: str) -> Module:
        """The submodule with this dotted name. Raises AttributeError if there is none."""
        module: Any = self
        for part in name.split(".") if name else ():
            module = getattr(module, part)
        if not isinstance(module, Module):
            raise AttributeError(f"{type(self).__name__}: {name!r} is not a Module")
        return module

    def _named_tensors(
        self, members: Callable[[Module], Iterator[tuple[str, Any]]], prefix: str, recurse: bool, remove_duplicate: bool
    ) -> Iterator[tuple[str, Any]]:
        seen = set()
        modules = self.named_modules(prefix, remove_duplicate) if recurse else [(prefix, self)]
        for path, module in modules:
            for name, value in members(module):
                if remove_duplicate:
                    if id(value) in seen:
                        continue
                    seen.add(id(value))
                yield f"{path}.{name}" if path else name, value

    def _own_parameters(self) -> Iterator[tuple[str, Parameter]]:
        return ((k, v) for k, v in list(self.__dict__.items()) if isinstance(v, Parameter))

    def _own_buffers(self) -> Iterator[tuple[str, Tensor]]:
        return ((k, v) for k in self._buffers if (v := self.__dict__[k]) is not None)

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """Yield (dotted name, parameter). A shared parameter appears once, under its first name, unless
        ``remove_duplicate=False``."""
        return self._named_tensors(Module._own_parameters, prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """All parameters, each once."""
        for _, parameter in self.named_parameters(recurse=recurse):
            yield parameter

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield (dotted name, buffer), including buffers that are not persistent."""
        return self._named_tensors(Module._own_buffers, prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """All buffers, each once."""
        for _, buffer in self.named_buffers(recurse=recurse):
            yield buffer

    # State

    def _own_state(self) -> Iterator[tuple[str, Tensor]]:
        yield from self._own_parameters()
        yield from ((k, v) for k, v in self._own_buffers() if self._buffers[k])

    def state_dict(self, prefix: str = "") -> dict[str, Tensor]:
        """Parameters and persistent buffers by dotted name, detached. They share memory with the module: copy what
        must survive the next update."""
        found = self._named_tensors(Module._own_state, prefix.rstrip("."), True, False)
        return {name: value.detach() for name, value in found}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> IncompatibleKeys:
        """Copy values (Tensors, arrays, or anything ``np.asarray`` takes) into the parameters and buffers by name.

        Returns the missing and the unexpected keys. Raises a RuntimeError that lists all problems at once: missing and
        unexpected keys (if ``strict``), shapes and dtypes that do not fit. The module is then left unchanged.
        """
        own = dict(self._named_tensors(Module._own_state, "", True, False))
        missing = [k for k in own if k not in state_dict]
        unexpected = [k for k in state_dict if k not in own]
        problems = []
        if strict and missing:
            problems.append(f"missing keys: {', '.join(missing)}")
        if strict and unexpected:
            problems.append(f"unexpected keys: {', '.join(unexpected)}")
        values = {}
        for name, target in own.items():
            if name not in state_dict:
                continue
            value = state_dict[name]
            if isinstance(value, Tensor):
                value = to_numpy(value.array)
            elif type(value) is not np.ndarray:
                value = np.asarray(value)
            if value.shape != target.shape:
                problems.append(f"{name}: shape {value.shape}, expected {target.shape}")
            elif not np.can_cast(value.dtype, target.dtype, "same_kind"):
                problems.append(f"{name}: dtype {value.dtype} does not fit {target.dtype}")
            values[name] = value
        if problems:
            raise RuntimeError(f"load_state_dict for {type(self).__name__}:\n  " + "\n  ".join(problems))
        for name, value in values.items():
            own[name].assign_(value)
        return IncompatibleKeys(missing, unexpected)

    # Changing everything below

    def train(self, mode: bool = True) -> Module:
        """Put this module and all below it in training mode (or, with ``False``, in evaluation mode)."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Module:
        """``train(False)``."""
        return self.train(False)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Set the parameters' gradients to None, or to zeros if ``set_to_none`` is false."""
        for p in self.parameters():
            if set_to_none or p.grad is None:
                p.grad = None
            else:
                p.grad = p.grad.detach().zero_()

    def requires_grad_(self, requires_grad: bool = True) -> Module:
        """Set ``requires_grad`` of every parameter."""
        for p in self.parameters():
            p.requires_grad_(requires_grad)
        return self

    def freeze(self) -> Module:
        """Stop learning: no parameter requires a gradient."""
        return self.requires_grad_(False)

    def unfreeze(self) -> Module:
        """The opposite of :meth:`freeze`."""
        return self.requires_grad_(True)

    def apply(self, function: Callable[[Module], Any]) -> Module:
        """Call ``function`` on every module below, children first, then on this one."""
        for module in self.children():
            module.apply(function)
        function(self)
        return self

    def to(self, *targets: Any, device: str | None = None, dtype: Any = None) -> Module:
        """Move parameters and buffers to a backend's device (by name), convert the floating-point ones, or both.

        Examples: ``to("cupy")``, ``to(np.float64)``, ``to("jax", np.float16)``. The Parameter objects stay the same.
        """
        for target in targets:
            if isinstance(target, str) and not is_dtype_name(target):
                device = target
            else:
                dtype = target
        if dtype is not None and not is_floating(np.dtype(dtype)):
            raise TypeError(f"{type(self).__name__}.to: expected a floating-point dtype, got {np.dtype(dtype)}")
        for t in (*self.parameters(), *self.buffers()):
            for tensor in (t, t.grad):
                if tensor is None:
                    continue
                moved = tensor.detach() if device is None else tensor.detach().to(device)
                if dtype is not None and is_floating(moved.dtype):
                    moved = moved.astype(dtype)
                tensor.array = moved.array
        return self

    def float(self) -> Module:
        """Convert floating-point parameters and buffers to float32."""
        return self.to(np.float32)

    def double(self) -> Module:
        """Convert floating-point parameters and buffers to float64."""
        return self.to(np.float64)

    def half(self) -> Module:
        """Convert floating-point parameters and buffers to float16."""
        return self.to(np.float16)

    def bfloat16(self) -> Module:
        """Convert floating-point parameters and buffers to bfloat16."""
        return self.to(bfloat16)

    # Hooks

    def _add_hook(self, kind: str, hook: Any) -> HookHandle:
        if self._hooks is None:
            self._hooks = Hooks()
        return self._hooks.add(kind, hook)

    def register_forward_pre_hook(self, hook: Callable[..., Any], with_kwargs: bool = False) -> HookHandle:
        """Call ``hook(module, args)`` before ``forward``. Unless it returns None, the result replaces the arguments.

        With ``with_kwargs`` the hook is called as ``hook(module, args, kwargs)`` and may return ``(args, kwargs)``.
        """
        return self._add_hook("pre", (hook, with_kwargs))

    def register_forward_hook(self, hook: Callable[..., Any], with_kwargs: bool = False) -> HookHandle:
        """Call ``hook(module, args, output)`` (with ``with_kwargs``: ``hook(module, args, kwargs, output)``) after
        ``forward``. Unless it returns None, the result replaces the output."""
        return self._add_hook("forward", (hook, with_kwargs))

    def register_full_backward_hook(self, hook: Callable[..., Any]) -> HookHandle:
        """Call ``hook(module, grad_input, grad_output)`` in the backward pass.

        Both are tuples of Tensors (None where no gradient flows), for the positional inputs and the outputs. Unless the
        hook returns None, the result replaces ``grad_input``.
        """
        return self._add_hook("backward", hook)

    # Printing

    def summary(self, *inputs: Any, dtype: Any = None) -> Summary:
        """A table of layers, output shapes, parameters, FLOPs and memory: see :func:`minidl.nn.summary.summary`."""
        return summary(self, *inputs, dtype=dtype)

    def extra_repr(self) -> str:
        """The settings that ``repr`` shows between the parentheses."""
        return ""

    def __repr__(self) -> str:
        lines = [f"({name}): " + repr(child).replace("\n", "\n  ") for name, child in self.named_children()]
        extra = self.extra_repr()
        if not lines:
            return f"{type(self).__name__}({extra})"
        return f"{type(self).__name__}({extra}\n  " + "\n  ".join(lines) + "\n)"


def check_sizes(layer: Module, least: int = 0, **sizes: Any) -> None:
    """Raise ValueError, naming the layer, unless all ``sizes`` are ints of at least ``least``."""
    for name, size in sizes.items():
        if not isinstance(size, (int, np.integer)) or size < least:
            raise ValueError(f"{type(layer).__name__}: {name} must be an int of at least {least}, got {size!r}")
