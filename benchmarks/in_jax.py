"""The workloads in plain JAX: functions of a dict of weights, the whole step one ``jax.jit`` with donated state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from benchmarks.models import BETA1, BETA2, EPS, WEIGHT_DECAY, WORKLOADS, Step, over_batches

Weights = dict[str, Any]


def linear(w: Weights, name: str, x: Any) -> Any:
    y = x @ w[f"{name}.weight"].T
    return y + w[f"{name}.bias"] if f"{name}.bias" in w else y


def conv(w: Weights, name: str, x: Any, stride: int = 1, padding: int = 0) -> Any:
    y = lax.conv_general_dilated(x, w[f"{name}.weight"], (stride, stride), [(padding, padding)] * 2)
    return y + w[f"{name}.bias"][:, None, None] if f"{name}.bias" in w else y


def max_pool(x: Any) -> Any:
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")


def mlp(w: Weights, x: Any) -> tuple[Any, Weights]:
    x = jax.nn.relu(linear(w, "0", x))
    x = jax.nn.relu(linear(w, "2", x))
    return linear(w, "4", x), {}


def lenet(w: Weights, x: Any) -> tuple[Any, Weights]:
    x = max_pool(jax.nn.relu(conv(w, "conv1", x, padding=2)))
    x = max_pool(jax.nn.relu(conv(w, "conv2", x)))
    x = jax.nn.relu(linear(w, "fc1", x.reshape(len(x), -1)))
    x = jax.nn.relu(linear(w, "fc2", x))
    return linear(w, "fc3", x), {}


def resnet(w: Weights, x: Any) -> tuple[Any, Weights]:
    new: Weights = {}

    def norm(name: str, x: Any) -> Any:
        mean, var = jnp.mean(x, (0, 2, 3)), jnp.var(x, (0, 2, 3))
        n = x.size // x.shape[1]
        new[f"{name}.running_mean"] = 0.9 * w[f"{name}.running_mean"] + 0.1 * mean
        new[f"{name}.running_var"] = 0.9 * w[f"{name}.running_var"] + 0.1 * var * (n / (n - 1))
        scale = lax.rsqrt(var + 1e-5) * w[f"{name}.weight"]
        return x * scale[:, None, None] + (w[f"{name}.bias"] - mean * scale)[:, None, None]

    def block(name: str, x: Any, stride: int) -> Any:
        y = jax.nn.relu(norm(f"{name}.bn1", conv(w, f"{name}.conv1", x, stride, 1)))
        y = norm(f"{name}.bn2", conv(w, f"{name}.conv2", y, 1, 1))
        if f"{name}.downsample.0.weight" in w:
            x = norm(f"{name}.downsample.1", conv(w, f"{name}.downsample.0", x, stride))
        return jax.nn.relu(x + y)

    x = jax.nn.relu(norm("bn1", conv(w, "conv1", x, 1, 1)))
    for layer in range(1, 5):
        x = block(f"layer{layer}.0", x, 1 if layer == 1 else 2)
        x = block(f"layer{layer}.1", x, 1)
    return linear(w, "fc", x.mean((2, 3))), new


def lstm(w: Weights, x: Any) -> tuple[Any, Weights]:
    x = w["embedding.weight"][x].swapaxes(0, 1)  # time first
    for layer in range(2):
        w_hh = w[f"lstm.weight_hh_l{layer}"].T
        gates = x @ w[f"lstm.weight_ih_l{layer}"].T + (w[f"lstm.bias_ih_l{layer}"] + w[f"lstm.bias_hh_l{layer}"])

        def cell(state: Any, gates: Any, w_hh: Any = w_hh) -> Any:
            h, c = state
            i, f, g, o = jnp.split(gates + h @ w_hh, 4, axis=-1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        zero = jnp.zeros((x.shape[1], w_hh.shape[0]), x.dtype)
        x = lax.scan(cell, (zero, zero), gates)[1]
    return linear(w, "head", x).swapaxes(0, 1), {}


def layer_norm(w: Weights, name: str, x: Any) -> Any:
    x = x - x.mean(-1, keepdims=True)
    return x * lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-5) * w[f"{name}.weight"]


def gpt(w: Weights, x: Any) -> tuple[Any, Weights]:
    x = w["transformer.wte.weight"][x] + w["transformer.wpe.weight"]
    n, steps, width = x.shape
    heads = 4
    causal = jnp.tril(jnp.ones((steps, steps), bool))
    for i in range(4):
        name = f"transformer.h.{i}"
        qkv = linear(w, f"{name}.attn.c_attn", layer_norm(w, f"{name}.ln_1", x))
        q, k, v = qkv.reshape(n, steps, 3, heads, width // heads).transpose(2, 0, 3, 1, 4)
        scores = jnp.where(causal, q @ k.swapaxes(-1, -2) / (width // heads) ** 0.5, -jnp.inf)
        y = (jax.nn.softmax(scores) @ v).swapaxes(1, 2).reshape(n, steps, width)
        x = x + linear(w, f"{name}.attn.c_proj", y)
        y = jax.nn.gelu(linear(w, f"{name}.mlp.c_fc", layer_norm(w, f"{name}.ln_2", x)), approximate=False)
        x = x + linear(w, f"{name}.mlp.c_proj", y)
    return layer_norm(w, "transformer.ln_f", x) @ w["transformer.wte.weight"].T, {}


MODELS: dict[str, Callable[[Weights, Any], tuple[Any, Weights]]] = {
    "mlp": mlp, "lenet": lenet, "resnet": resnet, "lstm": lstm, "gpt": gpt,
}  # fmt: skip


def build(workload: str, x: Any, y: Any, weights: dict[str, Any]) -> Step:
    forward, lr = MODELS[workload], WORKLOADS[workload].lr
    weights = {n: jnp.array(a) for n, a in weights.items() if n != "lm_head.weight" and not n.endswith("tracked")}
    buffers = {n: a for n, a in weights.items() if "running" in n}
    params = {n: a for n, a in weights.items() if n not in buffers}
    m = {n: jnp.zeros_like(a) for n, a in params.items()}
    v = {n: jnp.zeros_like(a) for n, a in params.items()}

    def loss_of(params: Weights, buffers: Weights, x: Any, y: Any) -> tuple[Any, Weights]:
        scores, new = forward({**params, **buffers}, x)
        logp = jax.nn.log_softmax(scores.reshape(-1, scores.shape[-1]))
        return -jnp.take_along_axis(logp, y.reshape(-1, 1), axis=1).mean(), new

    def adamw(p: Any, g: Any, m: Any, v: Any, t: Any) -> tuple[Any, Any, Any]:
        m = BETA1 * m + (1 - BETA1) * g
        v = BETA2 * v + (1 - BETA2) * g * g
        denominator = jnp.sqrt(v / (1 - BETA2**t)) + EPS
        return p * (1 - lr * WEIGHT_DECAY) - lr / (1 - BETA1**t) * m / denominator, m, v

    def step(state: Any, x: Any, y: Any) -> tuple[Any, Any]:
        params, buffers, m, v, t = state
        (loss, buffers), grads = jax.value_and_grad(loss_of, has_aux=True)(params, buffers, x, y)
        t = t + 1
        new = {n: adamw(params[n], grads[n], m[n], v[n], t) for n in params}
        params, m, v = ({n: values[i] for n, values in new.items()} for i in range(3))
        return loss, (params, buffers, m, v, t)

    step = jax.jit(step, donate_argnums=0)
    state = params, buffers, m, v, jnp.float32(0)

    def run(inputs: Any, targets: Any) -> float:
        nonlocal state
        loss, state = step(state, inputs, targets)
        return float(jax.block_until_ready((loss, state))[0])

    return over_batches(run, [jnp.array(a) for a in x], [jnp.array(a) for a in y])
