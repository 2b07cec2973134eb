"""Whole training steps on one NVIDIA GPU, minidl on CuPy beside PyTorch: ``python -m benchmarks.gpu_steps``.

Forward, backward and AdamW on one batch that lies on the GPU, both libraries eager and in float32, from the same
weights. A model whose first losses differ is reported as wrong and not timed. The two take turns in one process, round
by round: a turn is some steps after another, the GPU waited for before and after. What counts is the median over the
rounds of a step's time, and of the ratio to PyTorch within each round.

PyTorch computes float32 convolutions with TF32, of 10 bits, unless told otherwise; here it is, or ``--tf32`` leaves it
as it comes. Needs minidl, CuPy and PyTorch.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.models import BETA1, BETA2, EPS, WEIGHT_DECAY, Workload, over_batches
from benchmarks.training_steps import FIRST_LOSSES, disagreement, quartiles
from minidl.machine import processor

#: absolute, and relative to losses above 1; GPU libraries add up in other orders than each other
TOLERANCE = 5e-3
#: about how long one library's turn lasts
TURN_SECONDS = 0.3


@dataclasses.dataclass(frozen=True)
class Model:
    """What is trained; ``build(nn, workload, *sizes)`` makes it of minidl's or PyTorch's layers, with equal names."""

    workload: Workload
    build: Callable[..., Any]
    sizes: tuple

    def smaller(self) -> Model:
        """To try this script without a GPU."""
        sizes = {"mlp": (16, 8), "lenet": (), "vgg": (4, 8), "gpt": (1, 2, 16)}[self.build.__name__]
        workload = dataclasses.replace(self.workload, title=f"small {self.build.__name__}", batch=2, tokens=8)
        return Model(workload, self.build, sizes)


def mlp(nn: Any, w: Workload, *widths: int) -> Any:
    layers, before = [], 784
    for width in widths:
        layers += [nn.Linear(before, width), nn.ReLU()]
        before = width
    return nn.Sequential(*layers, nn.Linear(before, w.classes))


def lenet(nn: Any, w: Workload) -> Any:
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, w.classes),
    )  # fmt: skip


def vgg(nn: Any, w: Workload, *widths: int) -> Any:
    layers, before, side = [], 3, 32
    for width in widths:
        for _ in range(2):
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            before = width
        layers.append(nn.MaxPool2d(2))
        side //= 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(before * side * side, w.classes))


def gpt(nn: Any, w: Workload, layers: int, heads: int, width: int) -> Any:
    if nn.__name__.startswith("torch"):
        from benchmarks.in_torch import GPT

        return GPT(w.vocab, w.tokens, width, heads, layers)
    from minidl.models import GPT

    return GPT(vocab_size=w.vocab, block_size=w.tokens, n_layer=layers, n_head=heads, n_embd=width, bias=False)


MODELS = {
    "mlp": Model(Workload("MLP 784-1024-1024-10, batch 256", 256, (784,)), mlp, (1024, 1024)),
    "lenet": Model(Workload("LeNet-5, batch 256", 256, (1, 28, 28)), lenet, ()),
    "vgg": Model(
        Workload("VGG-like 2x(64, 128, 256) with batch norm, 32x32, batch 128", 128, (3, 32, 32), lr=1e-4),
        vgg,
        (64, 128, 256),
    ),
    "gpt": Model(Workload("GPT 6x384, 6 heads, batch 32x256", 32, tokens=256, lr=1e-4), gpt, (6, 6, 384)),
}


class Library:
    """One library's training step, started with ``step()`` and waited for with ``wait()``."""

    step: Callable[[], Any]
    wait: Callable[[], Any]

    def losses(self, count: int) -> list[float]:
        return [float(self.step().item()) for _ in range(count)]

    def turn(self, count: int) -> float:
        """Seconds a step, over ``count`` of them."""
        self.wait()
        start = time.perf_counter()
        for _ in range(count):
            self.step()
        self.wait()
        return (time.perf_counter() - start) / count


class InMinidl(Library):
    """On the active backend."""

    def __init__(self, model: Model, x: Any, y: Any, weights: dict[str, np.ndarray]) -> None:
        import minidl
        from minidl import nn, ops, optim

        self.wait = minidl.get_backend().synchronize
        net = model.build(nn, model.workload, *model.sizes)
        net.load_state_dict(weights)
        optimizer = optim.AdamW(
            net.parameters(), lr=model.workload.lr, betas=(BETA1, BETA2), eps=EPS, weight_decay=WEIGHT_DECAY
        )

        def step(inputs: Any, targets: Any) -> Any:
            optimizer.zero_grad()
            scores = net(inputs)
            loss = ops.cross_entropy(scores.reshape(-1, scores.shape[-1]), targets.reshape(-1))
            loss.backward()
            optimizer.step()
            return loss

        self.step = over_batches(step, [minidl.as_tensor(a) for a in x], [minidl.as_tensor(a) for a in y])


class InTorch(Library):
    def __init__(self, model: Model, x: Any, y: Any, weights: dict[str, np.ndarray], device: str) -> None:
        import torch
        from torch import nn
        from torch.nn import functional as F

        self.wait = torch.cuda.synchronize if device == "cuda" else lambda: None
        net = model.build(nn, model.workload, *model.sizes)
        net.load_state_dict({name: torch.from_numpy(a.copy()) for name, a in weights.items()})
        net.to(device)
        optimizer = torch.optim.AdamW(
            net.parameters(), lr=model.workload.lr, betas=(BETA1, BETA2), eps=EPS, weight_decay=WEIGHT_DECAY
        )

        def step(inputs: Any, targets: Any) -> Any:
            optimizer.zero_grad()
            scores = net(inputs)
            loss = F.cross_entropy(scores.reshape(-1, scores.shape[-1]), targets.reshape(-1))
            loss.backward()
            optimizer.step()
            return loss.detach()

        self.step = over_batches(step, *(torch.from_numpy(a).to(device).unbind() for a in (x, y)))


def compare(model: Model, rounds: int, backend: str, device: str) -> dict[str, Any]:
    """``{"torch": [q1, median, q3] in ms, "minidl": likewise, "ratio": likewise}``, or ``{"problem": why}``."""
    import minidl
    from minidl import nn
    from minidl.backend import use_backend

    with use_backend("numpy"):
        minidl.manual_seed(0)
        initial = model.build(nn, model.workload, *model.sizes)
        weights = {name: t.numpy().copy() for name, t in initial.state_dict().items()}
    x, y = model.workload.batches(np.random.default_rng(0))
    with use_backend(backend):
        return _take_turns(InTorch(model, x, y, weights, device), InMinidl(model, x, y, weights), rounds)


def _take_turns(torch: Library, ours: Library, rounds: int) -> dict[str, Any]:
    expected, found = torch.losses(FIRST_LOSSES), ours.losses(FIRST_LOSSES)
    if disagreement(found, expected) > TOLERANCE:
        return {"problem": f"wrong: losses {found}, PyTorch has {expected}"}
    libraries: tuple[Library, Library] = (torch, ours)
    counts = []
    for library in libraries:
        library.turn(3)  # compiles, and chooses algorithms
        counts.append(max(1, min(500, round(TURN_SECONDS / library.turn(3)))))
    turns: tuple[list[float], list[float]] = ([], [])
    for i in range(rounds):
        for k in (0, 1) if i % 2 == 0 else (1, 0):
            turns[k].append(libraries[k].turn(counts[k]))
    ratios = [b / a for a, b in zip(*turns, strict=True)]
    ms = [[1e3 * t for t in quartiles(times)] for times in turns]
    return {"torch": ms[0], "minidl": ms[1], "ratio": list(quartiles(ratios))}


def facts(backend: str, device: str) -> dict[str, Any]:
    """What is measured on."""
    import torch

    import minidl

    versions = {"minidl": minidl.__version__, "torch": torch.__version__, "numpy": np.__version__}
    if backend == "cupy":
        import cupy

        versions["cupy"] = cupy.__version__
        versions["CUDA of cupy"] = str(cupy.cuda.runtime.runtimeGetVersion())
    if device == "cuda":
        versions["CUDA of torch"] = str(torch.version.cuda)
        versions["cuDNN"] = str(torch.backends.cudnn.version())
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else processor(),
        "versions": versions,
        "commit": machine.commit(),
    }


def row(title: str, result: dict[str, Any]) -> str:
    """A line of the table."""
    if "problem" in result:
        return f"| {title} | {result['problem']} | | |"
    low, middle, high = result["ratio"]
    times = " | ".join(f"{result[name][1]:.3g} ms" for name in ("torch", "minidl"))
    return f"| {title} | {times} | {middle:.2f} ({low:.2f}–{high:.2f}) |"


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    import torch

    if not arguments.tf32 and torch.cuda.is_available():
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
    backend, device = arguments.backend, arguments.device
    report = {**facts(backend, device), "tf32": arguments.tf32, "rounds": arguments.rounds, "models": {}}
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    print(f"{report['device']}; {versions}; TF32 {'as it comes' if arguments.tf32 else 'off'}", end="\n\n")
    print(f"| | PyTorch {device} | minidl {backend} | ratio |\n|---|---|---|---|", flush=True)
    for name in arguments.models:
        model = MODELS[name].smaller() if arguments.small else MODELS[name]
        try:
            result = compare(model, arguments.rounds, backend, device)
        except Exception as error:  # the other models can still be measured
            traceback.print_exc(file=sys.stderr)
            result = {"problem": f"{type(error).__name__}: {error}".split("\n")[0]}
        report["models"][name] = result
        print(row(model.workload.title, result), flush=True)
    return report


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m benchmarks.gpu_steps", description=__doc__.split("\n")[0])
    p.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    p.add_argument("--rounds", type=int, default=11)
    p.add_argument("--tf32", action="store_true", help="let PyTorch round to TF32 where it does by itself")
    p.add_argument("--json", type=Path, default=Path("build/benchmarks/gpu_steps.json"))
    # to try this script without a GPU
    p.add_argument("--backend", default="cupy", help=argparse.SUPPRESS)
    p.add_argument("--device", default="cuda", help=argparse.SUPPRESS)
    p.add_argument("--small", action="store_true", help=argparse.SUPPRESS)
    return p


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    arguments = parser().parse_args(argv)
    report = run(arguments)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    return report


if __name__ == "__main__":
    main()
