"""Which cases a kernel is examined on: samples, generated ones and large ones, in all layouts, with odd values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl.ops import primitives
from minidl.testing.case import LAYOUTS, Case
from minidl.testing.conformance.accuracy import LARGE
from minidl.testing.reference import REFUSALS, call_in_gradient, plain
from minidl.testing.samples import SAMPLES
from minidl.testing.sizes import CASES, inputs
from minidl.testing.strategies import STRATEGIES, hypothesis_library, parent_of, realize

# LAPACK's iterations may not end when they meet NaN
_FINITE_ONLY = {"cholesky", "cofactor", "det", "eigh", "inv", "norm", "qr", "slogdet", "solve", "svd", "muon_update"}


def in_layout(case: Case, layout: str, which: str = "all") -> Case:
    """``case`` with its arrays (all, only the ``"first"``, or only the ``"others"``) in another memory layout."""
    prim = primitives[case.primitive]
    args, layouts = list(case.args), ["C"] * len(case.args)
    first = True
    for i, a in enumerate(args):
        if not isinstance(a, np.ndarray) or a.ndim == 0:
            continue
        chosen = which == "all" or first == (which == "first")
        first = False
        if not chosen:
            continue
        if layout == "broadcast":
            # repeats the first row; a donated array is memory of its own
            if i not in case.free or (i < len(prim.inputs) and prim.inputs[i] in prim.donated):
                continue
            args[i] = np.broadcast_to(a[:1], a.shape)
        layouts[i] = layout
    return Case(case.primitive, args, case.params, layouts)


def with_special(case: Case, special: str, seed: int = 0) -> Case:
    """``case`` with some values replaced by NaN (``"nan"``) or infinities (``"inf"``), or all of them made ``"large"``
    or ``"positive"``."""
    rng = np.random.default_rng(seed)
    args = list(case.args)
    for i in case.free:
        a = args[i] = args[i].copy()
        if special == "positive":
            np.abs(a, out=a)
        elif special == "large":
            a += np.sign(a) * a.dtype.type(2 * LARGE) + a * a.dtype.type(100)
        elif a.size:
            flat = a.reshape(-1)
            for at in rng.integers(0, a.size, 1 + a.size // 16):
                flat[at] = np.nan if special == "nan" else rng.choice([np.inf, -np.inf])
    return case.with_args(args)


def sample_cases(name: str, dtypes: Sequence[np.dtype]) -> list[Case]:
    """The primitive's samples in every dtype, layout and with special values, the smallest first."""
    if name not in SAMPLES:
        return []
    with plain():
        plain_cases = [Case(name, list(args), dict(params)) for args, params in SAMPLES[name](np.random.default_rng(0))]
    plain_cases.sort(key=lambda c: c.size)
    cases = [c.cast(dtype) for dtype in dtypes for c in plain_cases]
    for i, c in enumerate(plain_cases[:: -(-len(plain_cases) // 10)]):
        c = c.cast(dtypes[0])
        cases.append(in_layout(c, LAYOUTS[1 + i % (len(LAYOUTS) - 1)], ("all", "first", "others")[i % 3]))
        cases.append(with_special(c, "positive"))
        if name not in _FINITE_ONLY:
            cases += [with_special(c, special, i) for special in ("nan", "inf", "large")]
    for c in plain_cases[-2:]:
        cases += [in_layout(c.cast(dtype), layout) for dtype in dtypes for layout in LAYOUTS[1:]]
    return sorted(cases, key=lambda c: c.size)


def large_cases(name: str, dtypes: Sequence[np.dtype]) -> list[Case]:
    """The smallest case of the benchmark: large enough for kernels to tile, to block and to start threads."""
    if name not in CASES:
        return []
    case = inputs(name, CASES[name][0])
    odd = [with_special(case, special) for special in ("nan", "inf", "large")] if name not in _FINITE_ONLY else []
    return [*(case.cast(dtype) for dtype in dtypes), *(c.cast(dtypes[0]) for c in [in_layout(case, "offset"), *odd])]


def case_strategy(name: str, dtypes: Sequence[np.dtype]) -> Any:
    """A Hypothesis strategy for cases (sometimes None) of the primitive; None if it has none."""
    base = name if name in STRATEGIES else parent_of(name)
    if base is None:
        return None
    st = hypothesis_library().strategies

    @st.composite
    def cases(draw: Any) -> Case | None:
        args, params = STRATEGIES[base](draw)
        dtype, seed = draw(st.sampled_from(list(dtypes))), draw(st.integers(0, 3))
        layout, which = draw(st.sampled_from(LAYOUTS)), draw(st.sampled_from(["all", "first", "others"]))
        special = draw(st.sampled_from(["", "", "nan", "inf", "large"]))
        case = realize(base, args, params, seed, dtype).cast(dtype)
        if special:
            case = with_special(case, special, seed)
        try:
            if base != name:
                called = call_in_gradient(name, case)
                return called and in_layout(called, layout, which)
        except REFUSALS:  # not a call that the forward primitive takes
            return None
        return in_layout(case, layout, which)

    return cases()
