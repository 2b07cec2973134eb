"""The workloads in HIPS autograd: NumPy code, differentiated. The ResNet is left out: minutes per step."""

from __future__ import annotations

from typing import Any

import autograd.numpy as np
from autograd import value_and_grad
from autograd.extend import defvjp, primitive
from autograd.scipy.signal import convolve
from autograd.scipy.special import erf

from benchmarks.models import BETA1, BETA2, EPS, WEIGHT_DECAY, WORKLOADS, NotDone, Step, over_batches

Weights = dict[str, Any]


def linear(w: Weights, name: str, x: Any) -> Any:
    y = np.dot(x, w[f"{name}.weight"].T)
    return y + w[f"{name}.bias"] if f"{name}.bias" in w else y


def relu(x: Any) -> Any:
    return np.maximum(x, np.float32(0))


def mlp(w: Weights, x: Any) -> Any:
    return linear(w, "4", relu(linear(w, "2", relu(linear(w, "0", x)))))


def conv(w: Weights, name: str, x: Any) -> Any:
    """Cross-correlation, as convolution with a turned kernel: (N, C, H, W) with (O, C, kh, kw)."""
    kernel = w[f"{name}.weight"][:, :, ::-1, ::-1]
    y = convolve(x, kernel, axes=([2, 3], [2, 3]), dot_axes=([1], [1]), mode="valid")
    return y + w[f"{name}.bias"].reshape(1, -1, 1, 1)


def max_pool(x: Any) -> Any:
    n, c, h, w = x.shape
    return np.max(np.max(x.reshape(n, c, h // 2, 2, w // 2, 2), axis=5), axis=3)


def lenet(w: Weights, x: Any) -> Any:
    x = np.pad(x, ((0, 0), (0, 0), (2, 2), (2, 2)), "constant")
    x = max_pool(relu(conv(w, "conv1", x)))
    x = max_pool(relu(conv(w, "conv2", x)))
    x = relu(linear(w, "fc1", x.reshape(len(x), -1)))
    return linear(w, "fc3", relu(linear(w, "fc2", x)))


@primitive
def take_rows(table: Any, index: Any) -> Any:
    """``table[index]`` for one-dimensional ``index``; autograd's own gradient adds row by row."""
    return table[index]


def _take_rows_vjp(ans: Any, table: Any, index: Any) -> Any:
    def vjp(g: Any) -> Any:
        one_hot = np.zeros((table.shape[0], index.size), table.dtype)
        one_hot[index, np.arange(index.size)] = 1
        return one_hot @ g

    return vjp


defvjp(take_rows, _take_rows_vjp, None)


def embedding(table: Any, tokens: Any) -> Any:
    return take_rows(table, tokens.reshape(-1)).reshape((*tokens.shape, -1))


def sigmoid(x: Any) -> Any:
    return np.float32(0.5) * (np.tanh(np.float32(0.5) * x) + np.float32(1))


def lstm(w: Weights, x: Any) -> Any:
    n, steps = x.shape
    x = embedding(w["embedding.weight"], x.T)
    for layer in range(2):
        w_hh = w[f"lstm.weight_hh_l{layer}"].T
        size = w_hh.shape[0]
        gates = np.dot(x, w[f"lstm.weight_ih_l{layer}"].T)
        gates = gates + (w[f"lstm.bias_ih_l{layer}"] + w[f"lstm.bias_hh_l{layer}"])
        h = c = np.zeros((n, size), np.float32)
        outs = []
        for t in range(steps):
            a = gates[t] + np.dot(h, w_hh)
            i, f = sigmoid(a[:, :size]), sigmoid(a[:, size : 2 * size])
            g, o = np.tanh(a[:, 2 * size : 3 * size]), sigmoid(a[:, 3 * size :])
            c = f * c + i * g
            h = o * np.tanh(c)
            outs.append(h)
        x = np.stack(outs)
    return np.swapaxes(linear(w, "head", x), 0, 1)


def layer_norm(w: Weights, name: str, x: Any) -> Any:
    x = x - np.mean(x, axis=-1, keepdims=True)
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.float32(1e-5)) * w[f"{name}.weight"]


def softmax(x: Any) -> Any:
    e = np.exp(x - np.max(x, axis=-1, keepdims=True))
    return e / np.sum(e, axis=-1, keepdims=True)


def gpt(w: Weights, x: Any) -> Any:
    x = embedding(w["transformer.wte.weight"], x) + w["transformer.wpe.weight"]
    n, steps, width = x.shape
    heads = 4
    mask = np.triu(np.full((steps, steps), -np.inf, np.float32), 1)
    for i in range(4):
        name = f"transformer.h.{i}"
        qkv = linear(w, f"{name}.attn.c_attn", layer_norm(w, f"{name}.ln_1", x))
        qkv = np.transpose(qkv.reshape(n, steps, 3, heads, width // heads), (2, 0, 3, 1, 4))
        scores = np.matmul(qkv[0], np.swapaxes(qkv[1], -1, -2)) * np.float32((width // heads) ** -0.5) + mask
        y = np.swapaxes(np.matmul(softmax(scores), qkv[2]), 1, 2).reshape(n, steps, width)
        x = x + linear(w, f"{name}.attn.c_proj", y)
        y = linear(w, f"{name}.mlp.c_fc", layer_norm(w, f"{name}.ln_2", x))
        y = np.float32(0.5) * y * (np.float32(1) + erf(y * np.float32(0.5**0.5)))
        x = x + linear(w, f"{name}.mlp.c_proj", y)
    return np.dot(layer_norm(w, "transformer.ln_f", x), w["transformer.wte.weight"].T)


MODELS = {"mlp": mlp, "lenet": lenet, "lstm": lstm, "gpt": gpt}


def build(workload: str, x: Any, y: Any, weights: dict[str, Any]) -> Step:
    if workload not in MODELS:
        raise NotDone("not done: its convolution would take minutes per step")
    forward, w = MODELS[workload], WORKLOADS[workload]
    lr = w.lr
    params = {n: a.copy() for n, a in weights.items() if n != "lm_head.weight"}
    m = {n: np.zeros_like(a) for n, a in params.items()}
    v = {n: np.zeros_like(a) for n, a in params.items()}
    one_hot = np.eye(w.classes if w.image else w.vocab, dtype=np.float32)
    count = 0

    def loss_of(params: Weights, inputs: Any, targets: Any) -> Any:
        scores = forward(params, inputs)
        scores = scores.reshape(-1, scores.shape[-1])
        scores = scores - np.max(scores, axis=1, keepdims=True)
        logp = scores - np.log(np.sum(np.exp(scores), axis=1, keepdims=True))
        return -np.sum(logp * targets) / np.float32(len(targets))

    loss_and_grads = value_and_grad(loss_of)

    def step(inputs: Any, targets: Any) -> float:
        nonlocal count
        loss, grads = loss_and_grads(params, inputs, one_hot[targets.reshape(-1)])
        count += 1
        for n, p in params.items():
            g = grads[n]
            p *= 1 - lr * WEIGHT_DECAY
            m[n] = BETA1 * m[n] + (1 - BETA1) * g
            v[n] = BETA2 * v[n] + (1 - BETA2) * g * g
            p -= lr / (1 - BETA1**count) * m[n] / (np.sqrt(v[n]) / (1 - BETA2**count) ** 0.5 + EPS)
        return float(loss)

    return over_batches(step, x, y)
