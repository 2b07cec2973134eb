"""The values that an option may have, and the words for them in an error message."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple


class Range(NamedTuple):
    """A test of a value, and what it expects, as it follows "must be"."""

    test: Callable[[Any], Any]
    expected: str

    def holds(self, value: Any) -> bool:
        """Is ``value`` in this range? What cannot be compared with a number is not."""
        try:
            return bool(self.test(value))
        except (TypeError, ValueError):
            return False

    def check(self, what: str, value: Any) -> None:
        """Raise ValueError, ``what`` in front, unless ``value`` is in this range."""
        if not self.holds(value):
            raise ValueError(f"{what} must be {self.expected}, got {value!r}")


def at_least(bound: float) -> Range:
    """Finite numbers from ``bound`` on."""
    return Range(lambda value: bound <= value < math.inf, f"at least {bound}")


def above(bound: float) -> Range:
    """Finite numbers greater than ``bound``."""
    return Range(lambda value: bound < value < math.inf, f"above {bound}")


def between(low: float, high: float) -> Range:
    """Numbers in [low, high]."""
    return Range(lambda value: low <= value <= high, f"in [{low:g}, {high:g}]")


def whole(low: int, high: int | None = None) -> Range:
    """Integers from ``low`` to ``high``."""
    limit = math.inf if high is None else high
    words = f"an integer of at least {low}" if high is None else f"an integer in [{low}, {high}]"
    return Range(
        lambda value: not isinstance(value, bool) and hasattr(value, "__index__") and low <= value <= limit, words
    )


def one_of(*values: Any) -> Range:
    """These values only."""
    *most, last = map(repr, values)
    return Range(lambda value: value in values, f"{', '.join(most)} or {last}")


def optional(allowed: Range) -> Range:
    """None, or a value in ``allowed``."""
    return Range(lambda value: value is None or allowed.holds(value), f"None or {allowed.expected}")


#: any value
anything = Range(lambda value: True, "anything")
#: finite numbers, negative ones too
finite = Range(lambda value: -math.inf < value < math.inf, "a finite number")
#: numbers in [0, 1]
fraction = between(0, 1)
#: numbers in [0, 1)
below_one = Range(lambda value: 0 <= value < 1, "in [0, 1)")
#: the decay rates of two running averages, as Adam has them
decay_rates = Range(lambda value: len(value) == 2 and all(0 <= b < 1 for b in value), "two numbers in [0, 1)")
