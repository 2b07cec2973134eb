"""Which steps run together in one loop, and in which order everything runs."""

from __future__ import annotations

from collections.abc import Callable

from minidl.jit.program import Program, Step, Value
from minidl_kernels.numba.compiler.fuse import FusedKernel
from minidl_kernels.numba.compiler.lower import Lowered

#: steps in a loop at most: beyond, too many arrays are walked at once
MOST = 24


class Single:
    """A step that runs by itself: a view, or a call."""

    def __init__(self, lowered: Lowered) -> None:
        self.step: Step = lowered.step
        self.is_view = lowered.is_view

    @property
    def reads(self) -> list[Value]:
        return self.step.values

    @property
    def writes(self) -> list[Value]:
        return self.step.outputs

    @property
    def donated(self) -> list[tuple[Value, Value]]:
        """Inputs that a kernel may overwrite, each with the output that then is in its memory."""
        prim = self.step.prim
        given = [self.step.inputs[k] for k, name in enumerate(prim.inputs) if name in prim.donated]
        return list(zip((d for d in given if isinstance(d, Value)), self.step.outputs))


class Group:
    """Steps (by their numbers) that run in one loop over ``shape``, at the place of the last of them.

    They are elementwise, but for those in ``ends``, which reduce what others computed (or something else of this shape)
    over ``axes``.
    """

    def __init__(self, members: list[int], shape: tuple[int, ...]) -> None:
        self.members = members
        self.shape = shape
        self.ends: list[int] = []
        self.axes: tuple[int, ...] | None = None


def group(steps: list[Lowered], most: int = MOST) -> list[Group]:
    """Greedy grouping: a step joins the groups of its producers, if everything else that reads these comes later.

    A view takes no time and has no place in the order; who reads it reads its source.
    """
    maker = {o.number: i for i, s in enumerate(steps) for o in s.step.outputs}
    source = _source(steps, maker)
    readers: dict[int, list[int]] = {}
    for i, s in enumerate(steps):
        if not s.is_view:
            for v in s.step.values:
                made = source(v)
                if made is not None:
                    readers.setdefault(made, []).append(i)
    groups: dict[int, Group] = {}  # by the elementwise member
    found: list[Group] = []
    for i, lowered in enumerate(steps):
        if not lowered.in_loop:
            continue
        step, reduction = lowered.step, lowered.reduction
        merged = Group([i], step.outputs[0].shape if reduction is None else step.inputs[0].shape)
        if reduction is not None:
            merged.ends, merged.axes = [i], reduction.axes
        # only direct reading joins loops: through a view the elements may be others
        near = (groups.get(maker.get(v.number, -1)) for v in step.values)
        for g in {id(g): g for g in near if g is not None and g.shape == merged.shape}.values():
            together = set(g.members) | set(merged.members)
            ends = set(g.ends) | set(merged.ends)
            if len(together) > most or len({g.axes, merged.axes} - {None}) > 1:
                continue
            apart = any(
                source(v) in ends or (source(v) in together and maker.get(v.number) not in together)
                for v in step.values
            )
            if not apart and all(r >= i or r in together for m in g.members for r in readers.get(m, ())):
                merged.members, merged.ends = sorted(together), sorted(ends)
                merged.axes = g.axes if merged.axes is None else merged.axes
                found.remove(g)
        found.append(merged)
        for m in set(merged.members) - set(merged.ends):
            groups[m] = merged
    return found


def _source(steps: list[Lowered], maker: dict[int, int]) -> Callable[[Value], int | None]:
    def source(v: Value) -> int | None:
        """The step that made the memory behind ``v``, looking through views."""
        i = maker.get(v.number)
        while i is not None and steps[i].is_view:
            i = maker.get(steps[i].step.values[0].number)
        return i

    return source


def schedule(steps: list[Lowered], program: Program) -> list[Single | FusedKernel]:
    """Views, loops and calls in the order in which they run."""
    groups = {max(g.members): g for g in group(steps)}
    grouped = {m for g in groups.values() for m in g.members}
    readers: dict[int, set[int]] = {}
    for i, s in enumerate(steps):
        for v in s.step.values:
            readers.setdefault(v.number, set()).add(i)
    lasting = {v.number for v in [*program.results, *(value for _, value in program.updates)]}
    items: list[Single | FusedKernel] = []
    to_come = {o.number for s in steps for o in s.step.outputs}
    waiting: list[Single] = []  # views of what a later loop computes

    def put(item: Single | FusedKernel) -> None:
        items.append(item)
        to_come.difference_update(v.number for v in item.writes)

    for i, lowered in enumerate(steps):
        if i in groups:
            inside = set(groups[i].members)
            outputs = [steps[m].step.outputs[0] for m in groups[i].members]
            needed = [v for v in outputs if v.number in lasting or readers.get(v.number, set()) - inside]
            put(FusedKernel([steps[m] for m in groups[i].members], needed))
        elif lowered.is_view:
            waiting.append(Single(lowered))
        elif i not in grouped:
            put(Single(lowered))
        for view in list(waiting):
            if view.reads[0].number not in to_come:
                waiting.remove(view)
                put(view)
    return items
