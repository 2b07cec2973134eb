"""Random programs, run eager and captured side by side: ``python -m tests.jit.fuzz --backend numba --seconds 60``.

A program is a step of random instructions on its arguments, on tensors from outside, and on a model with an optimizer,
and a list of calls of it, with random changes of the world in between. Two copies of everything are made from the same
seed; one step is captured, the other is not. After each call, results, arguments, outside tensors, weights, buffers,
gradients and the position of the random stream must be the same. A step that ``minidl.jit`` refuses to capture is
counted, but not compared further.
"""

from __future__ import annotations

import argparse
import time
import traceback
from collections import Counter

import numpy as np

import minidl
from minidl import as_tensor, nn, ops, optim
from minidl.jit import CaptureError

UNARY = [ops.tanh, ops.sigmoid, ops.abs, ops.neg, ops.cos, ops.relu, lambda x: x * 0.5 + 1, lambda x: x.clip(-0.5, 0.7)]
BINARY = [ops.add, ops.sub, ops.mul, ops.maximum, ops.minimum, lambda a, b: ops.where(a > b, a, b * 0.5)]
LAYERS = [
    lambda n: nn.ReLU(), lambda n: nn.LeakyReLU(0.1), lambda n: nn.Tanh(), lambda n: nn.Dropout(0.3),
    lambda n: nn.BatchNorm1d(n), lambda n: nn.LayerNorm(n), lambda n: nn.Linear(n, n), lambda n: nn.ELU(0.7),
]  # fmt: skip
OPTIMIZERS = [
    lambda p: optim.SGD(p, lr=0.05),
    lambda p: optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    # a large eps, or rounding errors of gradients that should be zero would become whole steps
    lambda p: optim.Adam(p, lr=0.01, eps=0.1),
    lambda p: optim.AdamW(p, lr=0.01, eps=0.1, amsgrad=True),
    lambda p: optim.RMSprop(p, lr=0.01, eps=0.1, momentum=0.5),
    lambda p: optim.Adagrad(p, lr=0.05, eps=0.1),
]
#: arguments come in these shapes; the model takes the last axis
SHAPES = [(4, 3), (2, 3), (5, 3)]


class World:
    """What a step sees besides its arguments: made anew, and the same, from each seed."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        minidl.manual_seed(seed)
        layers = [nn.Linear(3, 4)] + [LAYERS[k](4) for k in rng.integers(0, len(LAYERS), 3)] + [nn.Linear(4, 3)]
        self.model = nn.Sequential(*layers)
        self.optimizer = OPTIMIZERS[rng.integers(len(OPTIMIZERS))](self.model.parameters())
        self.state = as_tensor(rng.normal(size=3).astype(np.float32))
        self.table = as_tensor(rng.normal(size=(4, 3)).astype(np.float32))
        self.weight = as_tensor(rng.normal(size=(3, 3)).astype(np.float32), requires_grad=True)
        self.scale, self.options = 1.5, {"shift": [0.25, 1.0]}
        self.generator = minidl.Generator(seed)

    def tensors(self) -> list:
        return [self.state, self.table, self.weight, *self.model.parameters(), *self.model.buffers()]


def instructions(rng: np.random.Generator) -> list:
    """A step, as a list of (what, numbers that choose the operands)."""
    common = ["unary", "binary", "binary", "reduce", "slice", "reshape", "permute", "matmul", "cast", "cat", "outside"]
    rare = [
        "in place", "view in place", "whole in place", "fresh", "index", "mask", "take", "random", "dropout", "detach",
        "outside in place", "row of a table", "attribute", "number", "argument", "clone", "softmax", "cumsum",
        "setitem",
    ]  # fmt: skip
    body = [
        common[rng.integers(len(common))] if rng.random() < 0.6 else rare[rng.integers(len(rare))] for _ in range(7)
    ]
    training = rng.random()
    if training < 0.45:
        body += ["zero grad"] * (rng.random() < 0.8) + ["train"] + ["optimizer"] * (rng.random() < 0.8)
        body += ["zero grad"] * (rng.random() < 0.2) + ["model"] * (rng.random() < 0.3)
    elif training < 0.6:
        body += ["model", "gradient"]
    return [(what, [int(k) for k in rng.integers(0, 1000, 3)]) for what in body]


def step_of(world: World, steps: list):
    def step(x, y):
        found, made = [x, y], []
        for what, (i, j, k) in steps:
            a, b = found[i % len(found)], found[j % len(found)]
            new = None
            if what == "unary":
                new = UNARY[k % len(UNARY)](a)
            elif what == "binary":
                b = b if b.ndim == 0 or b.shape[-1:] == a.shape[-1:] else b.mean()
                b = b if b.ndim <= 1 or b.shape == a.shape else b.mean(axis=0)
                b = b if b.ndim == 0 or b.shape[-1:] == a.shape[-1:] else b.mean()
                new = BINARY[k % len(BINARY)](a, b)
            elif what == "reduce":
                new = (
                    [a.sum, a.mean, a.max, a.min][k % 4]() if k % 3 else ops.tanh(a.sum(axis=-1, keepdims=True)) + a * 0
                )
            elif what == "slice":
                new = a[1:] if a.ndim and a.shape[0] > 1 else a
            elif what == "reshape":
                new = a.reshape(-1)
            elif what == "permute":
                new = a.T if a.ndim == 2 else a
            elif what == "matmul":
                new = ops.matmul(a, world.weight) if a.ndim and a.shape[-1] == 3 else a
            elif what == "cast":
                new = a.astype([np.float32, np.float64][k % 2])
            elif what == "cat":
                new = ops.concat([a, a * 2], axis=0) if a.ndim else a
            elif what == "outside":
                new = a + (world.state if a.shape[-1:] == (3,) else world.state.sum())
            elif what == "in place":
                with minidl.no_grad():
                    new = a.detach() * 1
                    new += 1
                    new.mul_(0.5)
            elif what == "view in place":
                new = (a * 1).detach()
                if new.ndim and new.shape[0] > 1:
                    view = new[1:] if k % 2 else new.reshape(-1)[::2]
                    view.mul_(0.5) if k % 3 else view.add_(1)
            elif what == "whole in place":
                new = (a * 1).detach()
                row = new[0] if new.ndim else new
                new.mul_(0.5)
                made.append(row)
            elif what == "fresh":
                new = [minidl.zeros(3), minidl.ones(3), minidl.full((3,), 0.5), minidl.tensor([0.1, 0.2, 0.3])][k % 4]
                new += a.detach().mean().float()
                new[1:] = 0.25
            elif what == "index":
                new = a[..., [0, -1]] if a.ndim else a
            elif what == "mask":
                new = ops.where(a > 0, a, world.scale)
                new = new.detach()
                new[new > 0.5] = -0.5
            elif what == "take":
                index = (ops.abs(a.detach().reshape(-1)) * 10).astype(np.int64) % 4
                new = ops.take(world.table, index[:3], axis=0) if a.ndim else a
            elif what == "random":
                new = [minidl.randn(3), minidl.rand(3), minidl.randint(0, 5, (3,)).float()][k % 3] * 0.1 + a.mean()
            elif what == "dropout":
                new = ops.dropout(a, 0.4)
            elif what == "argument":
                with minidl.no_grad():
                    x.mul_(0.9) if k % 2 else x.add_(0.1)
            elif what == "outside in place":
                with minidl.no_grad():
                    world.state.mul_(0.9) if k % 2 else world.state.add_(0.1)
            elif what == "row of a table":
                with minidl.no_grad():
                    row = world.table[k % 4]
                    row.mul_(0.9)
                    new = world.table * 1
            elif what == "attribute":
                new = a * world.options["shift"][k % 2]
            elif what == "number":
                new = a * world.scale
            elif what == "detach":
                new = a.detach()
            elif what == "clone":
                new = a.clone()
            elif what == "softmax":
                new = ops.softmax(a, axis=-1) if a.ndim else a
            elif what == "cumsum":
                new = ops.cumsum(a, axis=0) * 0.1 if a.ndim else a
            elif what == "setitem":
                new = a * 1
                if new.ndim and not new.requires_grad:
                    new[0] = 0.125
            elif what == "model":
                new = world.model(x.float())
            elif what == "gradient":
                loss = (world.model(x.float()) ** 2).sum() + ops.tanh(found[-1].float()).sum()
                made += [
                    g
                    for g in minidl.gradients(loss, [world.model[0].weight, world.weight], allow_unused=True)
                    if g is not None
                ]
            elif what == "zero grad":
                world.optimizer.zero_grad()
            elif what == "train":
                loss = (world.model(x.float().detach()) ** 2).mean() + ops.tanh(found[-1].float()).mean()
                loss.backward()
                new = loss.detach()
            elif what == "optimizer":
                world.optimizer.step()
            if new is not None:
                found.append(new if not new.ndim or new.dtype.kind == "f" else new.float())
        return {"last": found[-1].detach(), "all": [f.detach().mean() for f in found[2:]], "made": made}

    return step


def _first(model: nn.Module, kind: type) -> nn.Module:
    return next((m for m in model.modules() if isinstance(m, kind)), model[0])


CHANGES = {
    "nothing": lambda w: None,
    "seed": lambda w: minidl.manual_seed(5),
    "freeze": lambda w: w.model[0].requires_grad_(False),
    "unfreeze": lambda w: w.model[0].requires_grad_(True),
    "eval": lambda w: w.model.eval(),
    "train": lambda w: w.model.train(),
    "scale": lambda w: setattr(w, "scale", w.scale + 1),
    "shift": lambda w: w.options["shift"].__setitem__(0, 0.75),
    "state": lambda w: w.state.assign_(0.5),
    "another state": lambda w: setattr(w, "state", as_tensor(np.float32([0.1, 0.2, 0.3]))),
    "weight": lambda w: w.model[0].weight.assign_(0.1),
    "dropout": lambda w: setattr(_first(w.model, nn.Dropout), "p", 0.7),
    "slope": lambda w: setattr(_first(w.model, nn.LeakyReLU), "negative_slope", 0.4),
    "lr": lambda w: w.optimizer.param_groups[0].update(lr=0.02),
    "decay": lambda w: w.optimizer.param_groups[0].update(weight_decay=0.1),
    "layer": lambda w: w.model.__setitem__(1, nn.Tanh()),
    "parameter": lambda w: setattr(w.model[0], "bias", nn.Parameter(np.full(4, 0.2, np.float32))),
    "hook": lambda w: w.model[0].register_forward_hook(lambda m, args, out: out * 0.5),
    "gradient hook": lambda w: w.model[0].weight.requires_grad and w.model[0].weight.register_hook(lambda g: g * 2),
    "gradient": lambda w: setattr(w.model[0].weight, "grad", as_tensor(np.full((4, 3), 0.1, np.float32))),
    "no gradients": lambda w: w.optimizer.zero_grad(),
    "outside grad": lambda w: w.weight.requires_grad_(not w.weight.requires_grad),
}


def arguments(rng: np.random.Generator) -> list:
    """Two arguments of one shape, or one twice, or two views of one."""
    shape = SHAPES[rng.integers(len(SHAPES))]
    x = rng.normal(size=shape).astype(np.float32)
    kind = rng.integers(6)
    if kind == 0:
        x = as_tensor(x)
        return [x, x]
    if kind == 1:
        whole = rng.normal(size=(2 * shape[0], 3)).astype(np.float32)
        return [as_tensor(whole[: shape[0]]), as_tensor(whole[1 : shape[0] + 1])]
    if kind == 2:
        return [as_tensor(x), as_tensor(np.asfortranarray(rng.normal(size=shape).astype(np.float32)))]
    if kind == 3:
        return [as_tensor(x), as_tensor(rng.normal(size=shape))]
    return [as_tensor(x), as_tensor(rng.normal(size=shape).astype(np.float32))]


def values(x) -> np.ndarray:
    return np.array(minidl.core.registry.to_numpy(x.array if hasattr(x, "array") else x), copy=True)


def same(what: str, a: np.ndarray, b: np.ndarray) -> None:
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape and a.dtype == b.dtype, f"{what}: {a.dtype}{a.shape} eager, {b.dtype}{b.shape} captured"
    np.testing.assert_allclose(b, a, rtol=2e-3, atol=2e-4, err_msg=what)


def compare(eager: tuple, jitted: tuple) -> None:
    (w1, out1, args1, at1), (w2, out2, args2, at2) = eager, jitted
    assert at1 == at2, f"the random stream is at {at1} eager, at {at2} captured"
    same("last", values(out1["last"]), values(out2["last"]))
    for name in ("all", "made"):
        assert len(out1[name]) == len(out2[name])
        for i, (a, b) in enumerate(zip(out1[name], out2[name])):
            same(f"{name} {i}", values(a), values(b))
    for i, (a, b) in enumerate(zip(args1, args2)):
        same(f"argument {i}", values(a), values(b))
    for i, (a, b) in enumerate(zip(w1.tensors(), w2.tensors(), strict=True)):
        same(f"tensor {i} of the world", values(a), values(b))
        if b.grad is not None or a is w1.weight:  # an optimizer's step uses up the others
            assert (a.grad is None) == (b.grad is None), f"gradient {i}: {a.grad} eager, {b.grad} captured"
            if a.grad is not None:
                same(f"gradient {i}", values(a.grad), values(b.grad))


def run(seed: int) -> str:
    """Run the program of a seed; returns "same", "refused" or "error" (eager and captured raised). Raises
    AssertionError where the two differ."""
    rng = np.random.default_rng(seed)
    steps = instructions(rng)
    calls = int(rng.integers(3, 7))
    names = list(CHANGES)
    plan = [
        (names[rng.integers(len(names))] if rng.random() < 0.5 else "nothing", int(rng.integers(1 << 30)))
        for _ in range(calls)
    ]
    # an optimizer that finds a gradient from outside must not have used it up before
    worlds, functions, offsets = [], [], []
    for jitted in (False, True):
        world = World(seed)
        step = step_of(world, steps)
        worlds.append(world)
        functions.append(minidl.jit(step) if jitted else step)
        offsets.append(minidl.random.default_generator().get_state())
    generator = minidl.random.default_generator()
    for change, argument_seed in plan:
        outcomes = []
        for i, (world, f) in enumerate(zip(worlds, functions)):
            generator.set_state(offsets[i])
            CHANGES[change](world)
            args = arguments(np.random.default_rng(argument_seed))
            try:
                out = f(*args)
            except CaptureError:
                return "refused"
            except (ValueError, RuntimeError, TypeError, IndexError) as error:
                outcomes.append(error)
                continue
            offsets[i] = generator.get_state()
            outcomes.append((world, out, args, tuple(offsets[i].tolist())))
        if isinstance(outcomes[0], Exception) or isinstance(outcomes[1], Exception):
            assert isinstance(outcomes[0], Exception) and isinstance(outcomes[1], Exception), (
                f"only one raised: {outcomes}"
            )
            return "error"
        compare(*outcomes)
    return "same"


def describe(seed: int) -> str:
    rng = np.random.default_rng(seed)
    return f"seed {seed}: " + "; ".join(f"{what} {numbers}" for what, numbers in instructions(rng))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--backend", default="numpy")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0, help="the first one")
    parser.add_argument("--count", type=int, default=10**9)
    parser.add_argument("--quiet", action="store_true", help="one line for a failure")
    options = parser.parse_args()
    outcomes: Counter = Counter()
    with minidl.use_backend(options.backend):
        end, seed = time.monotonic() + options.seconds, options.seed
        while time.monotonic() < end and seed < options.seed + options.count:
            try:
                outcomes[run(seed)] += 1
            except Exception as error:
                outcomes["different"] += 1
                print(describe(seed), "\n   ", str(error).strip().replace("\n", " ")[:300])
                if not options.quiet:
                    traceback.print_exc()
            seed += 1
    print(dict(outcomes))


if __name__ == "__main__":
    main()
