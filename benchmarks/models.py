"""The models whose training steps are compared, and who implements them.

A workload is a model, random data, and AdamW. Every implementation gets the same arrays, with the initial weights under
the names of minidl's ``state_dict`` (PyTorch's names), and gives a function that makes one training step and returns
the loss as a Python float. Step k uses inputs k % INPUTS and targets k % TARGETS: the same inputs come with other
targets each time, so nothing can be learned by heart. (If it could, gradients would vanish, and what would be measured
is how slow processors are on subnormal numbers.)
"""

from __future__ import annotations

import dataclasses
import importlib
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

#: different batches of inputs, and of targets
INPUTS, TARGETS = 4, 32
#: options of AdamW, the same for everybody
BETA1, BETA2, EPS, WEIGHT_DECAY = 0.9, 0.999, 1e-8, 1e-2

Arrays = tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]
Step = Callable[[], float]


def over_batches(step: Callable[[Any, Any], float], inputs: Any, targets: Any) -> Step:
    """``step(inputs, targets)`` on one pair of batches after the other."""
    count = itertools.count()

    def run() -> float:
        k = next(count)
        return step(inputs[k % INPUTS], targets[k % TARGETS])

    return run


class NotDone(Exception):
    """This implementation does not do this workload; says why."""


@dataclasses.dataclass(frozen=True)
class Workload:
    """``image`` is the shape of one image, or ``tokens`` the length of a sequence over ``vocab`` characters.

    Adam's first updates are nearly lr * sign(gradient), so rounding decides where the gradient is about zero: deep
    networks need a small ``lr`` to have comparable losses.
    """

    title: str
    batch: int
    image: tuple[int, ...] | None = None
    tokens: int = 64
    vocab: int = 65
    classes: int = 10
    lr: float = 1e-3

    def batches(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Inputs (INPUTS, batch, ...) and targets (TARGETS, batch, ...)."""
        if self.image is not None:
            x = rng.standard_normal((INPUTS, self.batch, *self.image), dtype=np.float32)
            return x, rng.integers(0, self.classes, (TARGETS, self.batch))
        shape = self.batch, self.tokens
        return rng.integers(0, self.vocab, (INPUTS, *shape)), rng.integers(0, self.vocab, (TARGETS, *shape))


WORKLOADS = {
    "mlp": Workload("MLP 784-256-128-10, batch 64", 64, (784,)),
    "lenet": Workload("LeNet-5, batch 64", 64, (1, 28, 28)),
    "resnet": Workload("ResNet-18 for CIFAR, batch 32", 32, (3, 32, 32), lr=1e-4),
    "lstm": Workload("LSTM language model 2x256, batch 32x64", 32),
    "gpt": Workload("GPT 4x128, 4 heads, batch 12x64", 12),
}

#: name: (how it is called in a table, module, options of its ``build``)
IMPLEMENTATIONS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "torch": ("PyTorch eager", "in_torch", {}),
    "minidl-numpy": ("minidl numpy", "in_minidl", {"backend": "numpy"}),
    "minidl-numba": ("minidl numba", "in_minidl", {"backend": "numba"}),
    "minidl-jit": ("minidl numba, jit", "in_minidl", {"backend": "numba", "jit": True}),
    "minidl-jax": ("minidl jax, jit", "in_minidl", {"backend": "jax", "jit": True}),
    "jax": ("JAX jit", "in_jax", {}),
    "autograd": ("HIPS autograd", "in_autograd", {}),
    "tinygrad": ("tinygrad jit", "in_tinygrad", {}),
}


def arrays(workload: str, seed: int = 0) -> Arrays:
    """Inputs, targets and initial weights."""
    import minidl
    from benchmarks.in_minidl import model

    minidl.manual_seed(seed)
    weights = {name: t.numpy().copy() for name, t in model(workload).state_dict().items()}
    return *WORKLOADS[workload].batches(np.random.default_rng(seed)), weights


def build(implementation: str, workload: str, data: Arrays) -> Step:
    """The training step. Raises NotDone, or ImportError where the library is missing."""
    _, module, options = IMPLEMENTATIONS[implementation]
    return importlib.import_module(f"benchmarks.{module}").build(workload, *data, **options)
