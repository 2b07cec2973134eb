"""The workloads in minidl, eager or captured, on any backend."""

from __future__ import annotations

from typing import Any

import minidl
from benchmarks.models import BETA1, BETA2, EPS, WEIGHT_DECAY, WORKLOADS, Step, over_batches
from minidl import nn, ops, optim
from minidl.models import GPT, CharLSTM, LeNet5, resnet18


def model(workload: str) -> nn.Module:
    w = WORKLOADS[workload]
    if workload == "mlp":
        return nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, w.classes))
    if workload == "lenet":
        return LeNet5(w.classes)
    if workload == "resnet":
        return resnet18(w.classes, small_input=True)
    if workload == "lstm":
        return CharLSTM(w.vocab, embedding_dim=256, hidden_size=256, num_layers=2)
    return GPT(vocab_size=w.vocab, block_size=w.tokens, n_layer=4, n_head=4, n_embd=128, bias=False)


def build(workload: str, x: Any, y: Any, weights: dict[str, Any], backend: str, jit: bool = False) -> Step:
    minidl.set_backend(backend)
    net, lr = model(workload), WORKLOADS[workload].lr
    net.load_state_dict(weights)
    optimizer = optim.AdamW(net.parameters(), lr=lr, betas=(BETA1, BETA2), eps=EPS, weight_decay=WEIGHT_DECAY)

    def step(inputs, targets):
        optimizer.zero_grad()
        out = net(inputs)
        scores = out[0] if workload == "lstm" else out
        loss = ops.cross_entropy(scores.reshape(-1, scores.shape[-1]), targets.reshape(-1))
        loss.backward()
        optimizer.step()
        return loss

    if jit:
        step = minidl.jit(step)
    inputs, targets = [minidl.as_tensor(a) for a in x], [minidl.as_tensor(a) for a in y]
    return over_batches(lambda inputs, targets: step(inputs, targets).item(), inputs, targets)
