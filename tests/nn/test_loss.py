"""Loss modules: the settings reach the functions, which have tests of their own."""

import numpy as np
import pytest

from minidl import as_tensor, nn

torch = pytest.importorskip("torch", reason="these tests compare with PyTorch")

R = np.random.default_rng(0)
X, Y = R.normal(size=(5, 4)), R.normal(size=(5, 4))
P, Q = R.uniform(0.1, 0.9, (5, 4)), R.uniform(0.1, 0.9, (5, 4))
CLASS = R.integers(0, 4, 5)
SIGN = np.array([1, -1, 1, 1, -1])
W = R.uniform(0.5, 2, 4)
LOG_P = np.log(R.dirichlet(np.ones(4), size=(6, 2)))

CASES = [
    ("MSELoss", {}, (X, Y)),
    ("L1Loss", {}, (X, Y)),
    ("HuberLoss", {"delta": 0.4}, (X, Y)),
    ("SmoothL1Loss", {"beta": 0.4}, (X, Y)),
    ("BCELoss", {"weight": W}, (P, Q)),
    ("BCEWithLogitsLoss", {"weight": W, "pos_weight": W[::-1].copy()}, (X, Q)),
    ("CrossEntropyLoss", {"weight": W, "ignore_index": 2, "label_smoothing": 0.1}, (X, CLASS)),
    ("NLLLoss", {"weight": W, "ignore_index": 1}, (X, CLASS)),
    ("KLDivLoss", {"log_target": True}, (np.log(P), np.log(Q))),
    ("HingeEmbeddingLoss", {"margin": 0.5}, (X[:, 0], SIGN)),
    ("MultiMarginLoss", {"p": 2, "margin": 0.5, "weight": W}, (X, CLASS)),
    ("MarginRankingLoss", {"margin": 0.5}, (X[:, 0], Y[:, 0], SIGN)),
    ("TripletMarginLoss", {"margin": 0.5, "p": 1.0, "eps": 1e-4, "swap": True}, (X, Y, P)),
    ("CosineEmbeddingLoss", {"margin": 0.2}, (X, Y, SIGN)),
    ("CTCLoss", {"blank": 3, "zero_infinity": True}, (LOG_P, np.array([[0, 1], [2, 0]]), [6, 5], [2, 1])),
]


@pytest.mark.parametrize("name, settings, inputs", CASES, ids=[c[0] for c in CASES])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.filterwarnings("ignore:reduction. 'mean'")
def test_module_equals_pytorchs(name, settings, inputs, reduction):
    settings = {**settings, "reduction": reduction}
    ours = getattr(nn, name)(**settings)
    theirs = getattr(torch.nn, name)(
        **{k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in settings.items()}
    )
    found = ours(*(as_tensor(a) if isinstance(a, np.ndarray) else a for a in inputs))
    expected = theirs(*(torch.tensor(a) for a in inputs)).numpy()
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10)
    assert f"reduction={reduction!r}" in repr(ours)


def test_hinge_and_focal_losses():
    from minidl import ops

    sign = np.sign(Y)
    assert nn.HingeLoss(0.5, "sum")(X, sign).item() == ops.hinge_loss(X, sign, 0.5, "sum").item()
    assert nn.FocalLoss(1.5, W)(X, CLASS).item() == ops.focal_loss(X, CLASS, 1.5, W).item()
    assert (
        nn.SigmoidFocalLoss(0.4, 1.5)(X, Q).item()
        == ops.sigmoid_focal_loss(X, Q, alpha=0.4, gamma=1.5, reduction="mean").item()
    )


def test_class_weights_follow_the_module():
    loss = nn.CrossEntropyLoss(weight=W)
    assert list(loss.state_dict()) == ["weight"] and list(loss.parameters()) == []
    assert loss.float().weight.dtype == np.float32
    assert nn.CrossEntropyLoss().state_dict() == {}


def test_float32_scores_with_float64_class_weights_stay_float32():
    x = as_tensor(X.astype(np.float32), requires_grad=True)
    loss = nn.CrossEntropyLoss(weight=W)(x, CLASS)
    loss.backward()
    assert loss.dtype == x.grad.dtype == np.float32


def test_targets_may_be_lists():
    loss = nn.CrossEntropyLoss()
    assert loss(as_tensor(X), CLASS.tolist()).item() == loss(as_tensor(X), CLASS).item()
    assert nn.MSELoss()(as_tensor([1.0, 2.0]), [0.0, 0.0]).item() == 2.5


def test_training_with_a_loss_module_brings_the_loss_down():
    model, loss = nn.Linear(4, 4), nn.CrossEntropyLoss()
    x = as_tensor(X.astype(np.float32))
    values = []
    for _ in range(50):
        model.zero_grad()
        value = loss(model(x), CLASS)
        value.backward()
        for p in model.parameters():
            p.assign_(p.detach().numpy() - 0.5 * p.grad.numpy())
        values.append(value.item())
    assert values[-1] < 0.2 * values[0]
