"""The options of an optimizer, each declared once: name, type, default and range.

An optimizer lists its options in the class body, as a dataclass lists its fields::

    class Lion(Optimizer):
        lr: float = option(at_least(0), default=1e-4)
        betas: tuple[float, float] = option(decay_rates, default=(0.9, 0.99))
        weight_decay: float = option(at_least(0), default=0.0)
        maximize: bool = option(default=False, kw_only=True)

From the list come the constructor ``Lion(params, lr, betas, weight_decay, *, maximize)`` and the checks of every
parameter group. A subclass inherits the list; an option that it declares again keeps its place.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, dataclass_transform

from minidl.ranges import Range, anything


class Option(NamedTuple):
    """One option, as declared with :func:`option`."""

    default: Any
    allowed: Range
    kw_only: bool
    init: bool
    annotation: Any = inspect.Parameter.empty

    def parameter(self, name: str) -> inspect.Parameter:
        """The option as an argument of the constructor."""
        kind = inspect.Parameter.KEYWORD_ONLY if self.kw_only else inspect.Parameter.POSITIONAL_OR_KEYWORD
        return inspect.Parameter(name, kind, default=self.default, annotation=self.annotation)


def option(allowed: Range = anything, *, default: Any, kw_only: bool = False, init: bool = True) -> Any:
    """Declare an option in an optimizer's class body.

    ``kw_only`` options are given by name only. The constructor does not take those with ``init=False``: they have their
    default.
    """
    return Option(default, allowed, kw_only, init)


@dataclass_transform(field_specifiers=(option,))
class HasOptions:
    """Collects the options that subclasses declare, and writes the ``__init__`` of those that do not define their own.

    That ``__init__`` calls ``__init__(params, {option: value})`` of the class directly below this one.
    """

    #: the options by name, in the order of the constructor's arguments
    options: ClassVar[dict[str, Option]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        annotations = inspect.get_annotations(cls)
        declared = {n: v._replace(annotation=annotations[n]) for n, v in vars(cls).items() if isinstance(v, Option)}
        for name in declared:
            delattr(cls, name)  # the values are those of the parameter groups
        cls.options = {**cls.options, **declared}
        if declared and "__init__" not in vars(cls):
            cls.__init__ = _constructor(cls)  # type: ignore[method-assign]


def _constructor(cls: type[HasOptions]) -> Callable[..., None]:
    root: Any = next(c for c in cls.__mro__ if HasOptions in c.__bases__)
    first = list(inspect.signature(root.__init__).parameters.values())[:2]  # self, params
    arguments = [o.parameter(name) for name, o in cls.options.items() if o.init]
    signature = inspect.Signature([*first, *sorted(arguments, key=lambda p: p.kind)], return_annotation="None")

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            given = signature.bind(self, *args, **kwargs).arguments
        except TypeError as error:
            raise TypeError(f"{type(self).__name__}: {error}") from None
        root.__init__(self, given["params"], {name: given.get(name, o.default) for name, o in cls.options.items()})

    __init__.__signature__ = signature  # type: ignore[attr-defined]
    return __init__
