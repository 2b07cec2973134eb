"""Random programs give the same eager and captured (:mod:`tests.jit.fuzz`)."""

import importlib
import time
from collections import Counter

import pytest

import minidl

fuzz = importlib.import_module("tests.jit.fuzz")

#: programs in a quick run, per backend: about as many seconds each
QUICK = {"numpy": 150, "numba": 40, "jax": 6}


def outcomes(backend, seeds):
    pytest.importorskip(backend, reason=f"{backend} is not installed")
    found = Counter()
    with minidl.use_backend(backend):
        for seed in seeds:
            try:
                found[fuzz.run(seed)] += 1
            except AssertionError as error:
                pytest.fail(f"{fuzz.describe(seed)}\n{error}")
    return found


@pytest.mark.parametrize("backend", QUICK)
def test_same(backend):
    found = outcomes(backend, range(QUICK[backend]))
    assert found["same"] > 0.9 * QUICK[backend], found  # else it compares too little


@pytest.mark.slow
@pytest.mark.parametrize("backend", QUICK)
def test_same_for_three_minutes(backend):
    def seeds():
        end, seed = time.monotonic() + 180, 1000
        while time.monotonic() < end:
            yield seed
            seed += 1

    found = outcomes(backend, seeds())
    assert found["same"] > 0.9 * found.total(), found


def test_a_fault_is_found(monkeypatch):
    """A program that keeps old values of the world is caught within a few hundred programs."""
    monkeypatch.setattr("minidl.jit.api.Entry.holds", lambda self: True)
    differing = 0
    with minidl.use_backend("numpy"):
        for seed in range(60):
            try:
                fuzz.run(seed)
            except Exception:
                differing += 1
    assert differing >= 3
