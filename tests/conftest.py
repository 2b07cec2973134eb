"""What all tests share."""

import os
import signal

# a background process may start with Ctrl-C ignored; the tests of interrupts need Python's own reaction to it
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# small arrays in many tests: threads of BLAS only get into each other's way, those of several processes all the more
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "minidl", deadline=None, max_examples=25, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("minidl")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _same_state_everywhere():
    """Each test starts from the same random state, and one that changes global modes does not change the next."""
    import minidl
    from minidl.core import context

    before = context.process.backend, context.process.strict, minidl.ops.default_dtype()
    minidl.manual_seed(0)
    yield
    context._variable.set(context.process)
    context.process.update(backend=before[0], strict=before[1])
    minidl.ops.set_default_dtype(before[2])
