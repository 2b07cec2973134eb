"""Hypothesis strategies for calls of primitives: what shapes and parameters fit together.

``STRATEGIES[name]`` is a function of Hypothesis' ``draw`` that returns ``(args, params)``, where arrays are described
(:class:`Floats`, :class:`Ints`, :class:`Bools`) and not yet made, so that a case shrinks quickly. A gradient primitive
needs inputs that belong together (outputs kept from the forward pass): its calls are those that are seen while its
forward primitive is differentiated (:data:`PARENTS`).

Primitives without a strategy are checked on their :mod:`samples <minidl.testing.samples>` alone.
"""

from minidl.testing.strategies import elementwise, layers
from minidl.testing.strategies.registry import (
    PARENTS,
    STRATEGIES,
    Bools,
    Floats,
    Ints,
    Strategy,
    hypothesis_library,
    parent_of,
    realize,
    strategy,
)
