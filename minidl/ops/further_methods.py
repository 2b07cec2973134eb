"""Methods of Tensor that are the operation of their name, as ``x.lerp(end, w)`` is ``minidl.lerp(x, end, w)``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from minidl.core import views
from minidl.core.primitive import Primitive
from minidl.core.tensor import Tensor

#: by family; with "_" after the name, the operation in place is a method, too
METHODS = """
    trunc_ fix_ frac_ fmod_ exp2_ log10_ logaddexp2 xlogy_ atan2_ arctan2_ hypot_ copysign_ nextafter_ gcd_ lcm_
    bitwise_and_ bitwise_or_ bitwise_xor_ bitwise_not_ bitwise_left_shift_ bitwise_right_shift_ signbit isinf isposinf
    isneginf isclose isreal nan_to_num_ reciprocal_ deg2rad_ rad2deg_ sinc_ heaviside_ float_power_ fmax fmin
    clamp_min_ clamp_max_ lerp_ addcmul_ addcdiv_ ldexp_ frexp sgn_
    digamma_ erfc_ erfinv_ i0_ igamma_ igammac_ lgamma_ logit_ mvlgamma_ polygamma_
    addmm_ addmv_ addr_ baddbmm_ addbmm_ inner cross kron dist diff renorm_ tensor_split rot90 fliplr flipud ravel
    movedim index_select index_add_ index_copy_ index_fill_ masked_select scatter_add_ take_along_dim argwhere cumprod_
    kthvalue msort quantile aminmax hardshrink
"""


def _in_place(operation: Any, name: str) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **params: Any) -> Any:
        return views.become(self, operation(self, *args, **params), name)

    method.__name__ = name
    method.__doc__ = f":func:`minidl.{name[:-1]}` of this tensor, in place."
    return method


def install(operations: Mapping[str, Any]) -> None:
    """Put them on Tensor, out of ``operations`` by name; a method that is there already stays."""
    for word in METHODS.split():
        name = word.removesuffix("_")
        operation = operations[name]
        if not hasattr(Tensor, name):
            method = operation if not isinstance(operation, Primitive) else _calling(operation)
            setattr(Tensor, name, method)
        if word.endswith("_") and not hasattr(Tensor, word):
            setattr(Tensor, word, _in_place(operation, word))


def _calling(operation: Any) -> Callable[..., Any]:
    """A function, which a class makes a method of; a primitive is an object."""

    def method(self: Any, *args: Any, **params: Any) -> Any:
        return operation(self, *args, **params)

    method.__name__ = operation.name
    method.__doc__ = operation.__doc__
    return method
