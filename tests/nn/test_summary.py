"""Module.summary: every number against one worked out by hand."""

import numpy as np
import pytest

from minidl import as_tensor, nn
from minidl.core.context import current


def rows(module, *inputs):
    return {r.name: r for r in module.summary(*inputs).rows}


def test_lenet():
    net = nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5, bias=False), nn.Flatten(),
        nn.Linear(16 * 10 * 10, 10),
    )  # fmt: skip
    r = rows(net, (2, 1, 28, 28))
    assert r["0"].output_shape == (2, 6, 28, 28) and r["0"].params == 6 * 25 + 6
    assert r["0"].flops == 2 * 6 * 28 * 28 * (2 * 25 + 1)
    assert r["0"].memory == 2 * 6 * 28 * 28 * 4
    assert r["1"].flops == 2 * 6 * 28 * 28
    assert r["2"].flops == 2 * 6 * 14 * 14 * 4
    assert r["3"].flops == 2 * 16 * 100 * 2 * 6 * 25
    assert r["4"].flops == 0 and r["4"].output_shape == (2, 1600)
    assert r["5"].flops == 2 * (2 * 1600 * 10 + 10)
    s = net.summary((2, 1, 28, 28))
    assert s.params == sum(p.numel() for p in net.parameters()) == s.trainable
    assert s.param_bytes == 4 * s.params
    assert s.flops == sum(x.flops for x in r.values())


def test_the_table():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    net[0].freeze()
    text = str(net.summary((5, 3)))
    lines = text.splitlines()
    assert lines[0].split() == ["Layer", "Output", "shape", "Parameters", "FLOPs", "Output", "memory"]
    assert "0 (Linear)" in text and "(5, 4)" in text and "(16 frozen)" in text
    assert "Parameters: 26" in text
    assert repr(net.summary((5, 3))) == text


def test_recurrent_layers_and_tuples_of_outputs():
    lstm = nn.LSTM(3, 4)
    row = rows(lstm, (5, 2, 3))[""]
    assert row.output_shape == ((5, 2, 4), ((1, 2, 4), (1, 2, 4)))
    assert row.flops >= 2 * 5 * 2 * 4 * 4 * (3 + 4)
    assert row.flops < 1.5 * 2 * 5 * 2 * 4 * 4 * (3 + 4)
    assert row.params == 4 * 4 * (3 + 4) + 2 * 4 * 4


def test_token_indices_are_given_as_an_array():
    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(10, 4)
            self.head = nn.Linear(4, 10, bias=False)
            self.head.weight = self.table.weight  # shared

        def forward(self, x):
            return self.head(self.table(x).mean(axis=1))

    r = rows(Bag(), np.zeros((2, 6), np.int64))
    assert r["table"].flops == 0 and r["table"].params == 40
    assert r["head"].params == 0  # counted once
    assert r[""].flops == 2 * 6 * 4  # the mean, which belongs to no layer


def test_it_changes_nothing():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    net[2].eval()
    before = {k: np.asarray(v.detach()).copy() for k, v in net.state_dict().items()}
    net.summary((5, 3))
    for k, v in net.state_dict().items():
        np.testing.assert_array_equal(v.detach(), before[k])
    assert net.training and net[0].training and not net[2].training
    assert current().observer is None
    assert net[0]._hooks is None or not net[0]._hooks.pre
    with pytest.raises(ValueError):
        net.summary((5, 7))
    assert current().observer is None and net.training


def test_inputs():
    net = nn.Linear(3, 2).double()
    assert net.summary((1, 3)).rows[0].memory == 2 * 8
    assert net.summary(as_tensor(np.ones((7, 3)))).rows[0].output_shape == (7, 2)
    with pytest.raises(TypeError, match="at least one input"):
        net.summary()
