"""Timing kernels: every backend side by side, against the machine's roofline.

What is timed is one call of what serves the primitive on a backend, from arrays to finished arrays. For each case the
implementations take turns, round by round, and the median of the rounds counts. Inputs come from a seed that depends
on the primitive and the case alone; each output is compared with the reference before anything is timed; an input that
a kernel may overwrite is made anew for every call; and before every call the caches are emptied, unless ``warm``.
"""

from minidl.core.errors import BackendError
from minidl.testing.bench.show import plot, save, table
from minidl.testing.bench.timing import Contender, Flusher, Result, installed, run
from minidl.testing.sizes import CASES, BenchCase, inputs
