"""The workloads in tinygrad, the whole step under TinyJit, on its CPU device (which compiles with clang).

LSTM and ResNet are left out: unrolled over time, the first takes minutes to compile, and the second seconds per step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tinygrad import Context, Device, Tensor, TinyJit, nn

from benchmarks.models import BETA1, BETA2, EPS, WEIGHT_DECAY, WORKLOADS, NotDone, Step, over_batches

Weights = dict[str, Tensor]


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return x.linear(w[f"{name}.weight"].transpose(), w.get(f"{name}.bias"))


def mlp(w: Weights, x: Tensor) -> Tensor:
    return linear(w, "4", linear(w, "2", linear(w, "0", x).relu()).relu())


def lenet(w: Weights, x: Tensor) -> Tensor:
    x = x.conv2d(w["conv1.weight"], w["conv1.bias"], padding=2).relu().max_pool2d((2, 2))
    x = x.conv2d(w["conv2.weight"], w["conv2.bias"]).relu().max_pool2d((2, 2))
    return linear(w, "fc3", linear(w, "fc2", linear(w, "fc1", x.flatten(1)).relu()).relu())


def gpt(w: Weights, x: Tensor) -> Tensor:
    table = w["transformer.wte.weight"]
    x = x.one_hot(table.shape[0]).cast(table.dtype) @ table + w["transformer.wpe.weight"]
    n, steps, width = x.shape
    heads = 4

    def norm(name: str, x: Tensor) -> Tensor:
        return x.layernorm() * w[f"{name}.weight"]

    for i in range(4):
        name = f"transformer.h.{i}"
        qkv = linear(w, f"{name}.attn.c_attn", norm(f"{name}.ln_1", x))
        qkv = qkv.reshape(n, steps, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        y = qkv[0].scaled_dot_product_attention(qkv[1], qkv[2], is_causal=True)
        x = x + linear(w, f"{name}.attn.c_proj", y.transpose(1, 2).reshape(n, steps, width))
        y = linear(w, f"{name}.mlp.c_fc", norm(f"{name}.ln_2", x))
        y = 0.5 * y * (1 + (y * 0.5**0.5).erf())
        x = x + linear(w, f"{name}.mlp.c_proj", y)
    return norm("transformer.ln_f", x) @ table.transpose()


MODELS: dict[str, Callable[[Weights, Tensor], Tensor]] = {"mlp": mlp, "lenet": lenet, "gpt": gpt}


def build(workload: str, x: Any, y: Any, weights: dict[str, Any]) -> Step:
    if workload not in MODELS:
        raise NotDone("not done: it would take minutes to compile, or seconds per step")
    try:
        Device[Device.DEFAULT]
    except Exception as error:
        raise NotDone(f"tinygrad has no usable device here ({error}); its CPU device needs clang") from error
    forward = MODELS[workload]
    params = {n: Tensor(a).realize() for n, a in weights.items() if n != "lm_head.weight"}
    optimizer = nn.optim.AdamW(
        list(params.values()), lr=WORKLOADS[workload].lr, b1=BETA1, b2=BETA2, eps=EPS, weight_decay=WEIGHT_DECAY
    )
    inputs = [Tensor(a if a.dtype == np.float32 else a.astype(np.int32)).realize() for a in x]
    targets = [Tensor(a.reshape(-1).astype(np.int32)).realize() for a in y]

    @TinyJit
    def step(inputs: Tensor, targets: Tensor) -> Tensor:
        with Context(TRAINING=1):
            optimizer.zero_grad()
            scores = forward(params, inputs)
            loss = scores.reshape(-1, scores.shape[-1]).sparse_categorical_crossentropy(targets).backward()
            return loss.realize(*optimizer.schedule_step())

    return over_batches(lambda inputs, targets: step(inputs, targets).item(), inputs, targets)
