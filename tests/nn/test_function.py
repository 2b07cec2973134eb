"""Settings are attributes: what is assigned after construction counts at the next call."""

import numpy as np
import pytest

import minidl
from minidl import nn
from minidl.nn.function import FunctionLayer

R = np.random.default_rng(0)
X, Y = R.normal(scale=2, size=(4, 6)), R.normal(size=(4, 6))
P, Q = R.uniform(0.1, 0.9, (4, 6)), R.uniform(0.1, 0.9, (4, 6))
CLASS, SIGN = np.array([0, 5, 2, 1]), np.array([1, -1, 1, -1])
LOG_P = np.log(R.dirichlet(np.ones(4), size=(6, 2)))
CTC = LOG_P, np.array([[1, 2], [2, 1]]), [6, 5], [2, 1]
IMAGE = R.normal(size=(2, 3, 9, 9))
SUM = {"reduction": "sum"}

CASES = [
    ("LeakyReLU", {"negative_slope": 0.3}, (X,)),
    ("ELU", {"alpha": 0.5}, (X,)),
    ("GELU", {"approximate": "tanh"}, (X,)),
    ("Softplus", {"beta": 2.0, "threshold": 1.0}, (X,)),
    ("Hardtanh", {"min_val": -0.2, "max_val": 0.3}, (X,)),
    ("GLU", {"dim": 0}, (X,)),
    ("Softmax", {"dim": 0}, (X,)),
    ("LogSoftmax", {"dim": 0}, (X,)),
    ("Softmin", {"dim": 0}, (X,)),
    ("MSELoss", SUM, (X, Y)),
    ("L1Loss", SUM, (X, Y)),
    ("HuberLoss", {"delta": 0.3, **SUM}, (X, Y)),
    ("SmoothL1Loss", {"beta": 0.3, **SUM}, (X, Y)),
    ("BCELoss", {"weight": Q, **SUM}, (P, Q)),
    ("BCEWithLogitsLoss", {"weight": Q, "pos_weight": P, **SUM}, (X, Q)),
    ("CrossEntropyLoss", {"weight": P[0], "ignore_index": 2, "label_smoothing": 0.1, **SUM}, (X, CLASS)),
    ("NLLLoss", {"weight": P[0], "ignore_index": 2, **SUM}, (X, CLASS)),
    ("FocalLoss", {"weight": P[0], "gamma": 1.0, "ignore_index": 2, **SUM}, (X, CLASS)),
    ("SigmoidFocalLoss", {"alpha": 0.5, "gamma": 1.0, **SUM}, (X, Q)),
    ("KLDivLoss", {"log_target": True, **SUM}, (np.log(P), np.log(Q))),
    ("HingeLoss", {"margin": 0.5, **SUM}, (X[:, 0], SIGN)),
    ("HingeEmbeddingLoss", {"margin": 2.0, **SUM}, (X[:, 0], SIGN)),
    ("MultiMarginLoss", {"p": 2, "margin": 0.5, "weight": P[0], **SUM}, (X, CLASS)),
    ("MarginRankingLoss", {"margin": 0.5, **SUM}, (X[:, 0], Y[:, 0], SIGN)),
    ("TripletMarginLoss", {"margin": 3.0, "p": 1.0, "eps": 1e-3, "swap": True, **SUM}, (X, Y, P)),
    ("CosineEmbeddingLoss", {"margin": -0.5, **SUM}, (X, Y, SIGN)),
    ("CTCLoss", {"blank": 3, "zero_infinity": True, **SUM}, CTC),
    ("MaxPool2d", {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}, (IMAGE,)),
    ("AvgPool2d", {"kernel_size": 3, "stride": 2, "padding": 1, "count_include_pad": False}, (IMAGE,)),
    ("AdaptiveMaxPool2d", {"output_size": 3}, (IMAGE,)),
    ("AdaptiveAvgPool2d", {"output_size": 3}, (IMAGE,)),
    ("GlobalAvgPool2d", {"keepdims": True}, (IMAGE,)),
    ("GlobalMaxPool2d", {"keepdims": True}, (IMAGE,)),
]
REQUIRED = {
    "MaxPool2d": {"kernel_size": 2}, "AvgPool2d": {"kernel_size": 2},
    "AdaptiveMaxPool2d": {"output_size": 2}, "AdaptiveAvgPool2d": {"output_size": 2},
}  # fmt: skip


def run(layer, *inputs):
    with minidl.no_grad():
        return np.asarray(layer(*inputs))


def two_dimensional(name):
    return name[:-2] + "2d" if name.endswith(("1d", "3d")) else name


def test_every_layer_with_settings_is_here():
    layers = {n: c for n, c in vars(nn).items() if isinstance(c, type) and issubclass(c, FunctionLayer)}
    plain = {n for n, c in layers.items() if c is getattr(nn, c.__name__) and c.__init__.__code__.co_argcount == 1}
    assert {two_dimensional(c.__name__) for c in layers.values()} - plain == {name for name, _, _ in CASES}


@pytest.mark.parametrize(("name", "settings", "inputs"), CASES, ids=[c[0] for c in CASES])
def test_settings_are_read_at_each_call(name, settings, inputs):
    kind = getattr(nn, name)
    layer, wanted = kind(**REQUIRED.get(name, {})), kind(**settings)
    before = run(layer, *inputs)
    for key in settings:
        setattr(layer, key, getattr(wanted, key))
    found, expected = run(layer, *inputs), run(wanted, *inputs)
    np.testing.assert_array_equal(found, expected)
    assert before.shape != found.shape or not np.allclose(before, found)
    assert repr(layer) == repr(wanted)


@pytest.mark.parametrize(
    ("name", "arguments", "changes"),
    [
        ("Dropout", {"p": 0.9}, {"p": 0.0}),
        ("LayerNorm", {"normalized_shape": 6}, {"eps": 0.5}),
        ("RMSNorm", {"normalized_shape": 6}, {"eps": 0.5}),
        ("GroupNorm", {"num_groups": 3, "num_channels": 6}, {"eps": 0.5, "num_groups": 2}),
        ("BatchNorm1d", {"num_features": 6}, {"eps": 0.5}),
        ("Flatten", {}, {"start_dim": 0}),
    ],
)
def test_other_layers_do_so_too(name, arguments, changes):
    kind = getattr(nn, name)
    layer, wanted = kind(**arguments), kind(**{**arguments, **changes})
    before = run(layer, X)
    for key, value in changes.items():
        setattr(layer, key, value)
    found = run(layer, X)
    np.testing.assert_array_equal(found, run(wanted, X))
    assert before.shape != found.shape or not np.allclose(before, found)
