"""NumPy's own kernels: what says the same as a formula of :mod:`minidl.ops`, but is faster on NumPy's arrays.

They write in place, view memory with other strides, and work in blocks that stay in the processor's cache. Importing
this package registers them; :mod:`minidl` does so when it first looks for a kernel.
"""

import importlib

#: kernel modules, one per family of primitives; importing one registers its kernels
FAMILIES: tuple[str, ...] = (
    "arrays",
    "attention",
    "conv",
    "loss",
    "normalization",
    "pooling",
    "recurrent",
)

for _family in FAMILIES:
    importlib.import_module(f"minidl_kernels.numpy.{_family}")
