import numpy as np
import pytest

from minidl import nn
from minidl.core.tensor import as_tensor

torch = pytest.importorskip("torch", reason="PyTorch is the independent implementation compared with")


def state(module):
    return {k: v.numpy() for k, v in module.state_dict().items()}


def pair(name, *args, **kwargs):
    """The layer here and in PyTorch (whose class is called 2d, not 2D), with the same random weights."""
    ours, theirs = getattr(nn, name)(*args, **kwargs), getattr(torch.nn, name[:-1] + name[-1].lower())(*args, **kwargs)
    with torch.no_grad():
        for p in theirs.parameters():
            p.normal_()
    ours.load_state_dict(state(theirs))
    return ours, theirs


def step(ours, theirs, x, tol=1e-5):
    """Outputs, gradients and state after a forward pass are equal."""
    a, b = as_tensor(x, requires_grad=True), torch.from_numpy(x.copy()).requires_grad_()
    out, expected = ours(a), theirs(b)
    np.testing.assert_allclose(out.detach(), expected.detach(), rtol=tol, atol=tol)
    (out**2).sum().backward()
    (expected**2).sum().backward()
    np.testing.assert_allclose(a.grad, b.grad, rtol=10 * tol, atol=100 * tol)
    for (k, p), (_, q) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        np.testing.assert_allclose(p.grad, q.grad, rtol=10 * tol, atol=100 * tol, err_msg=k)
    mine, other = state(ours), state(theirs)
    assert mine.keys() == other.keys()
    if type(ours).__name__.startswith("InstanceNorm") and mine:  # PyTorch leaves its counter at 0 there
        assert mine.pop("num_batches_tracked").dtype == other.pop("num_batches_tracked").dtype
    for k in mine:
        assert mine[k].dtype == other[k].dtype
        np.testing.assert_allclose(mine[k], other[k], rtol=tol, atol=tol, err_msg=k)


@pytest.mark.parametrize(
    ("kind", "momentum"), [("BatchNorm", 0.1), ("BatchNorm", None), ("InstanceNorm", 0.1), ("InstanceNorm", 0.3)]
)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_running_statistics_and_outputs_equal_pytorchs(kind, n, momentum):
    layers = pair(f"{kind}{n}d", 3, momentum=momentum, affine=True, track_running_stats=True)
    rng = np.random.default_rng(n)
    for layer in layers:
        layer.train()
    for _ in range(3):
        step(*layers, rng.standard_normal((4, 3) + (3,) * n, np.float32) * 2 + 1)
    for layer in layers:
        layer.eval()
        layer.zero_grad()
    step(*layers, rng.standard_normal((4, 3) + (3,) * n, np.float32))


def test_batch_norm_takes_features_without_pixels():
    step(*pair("BatchNorm1d", 5), np.random.default_rng(0).standard_normal((6, 5), np.float32))


@pytest.mark.parametrize("kind", ["BatchNorm2d", "InstanceNorm2d"])
def test_without_running_statistics_evaluation_uses_the_batchs(kind):
    layers = pair(kind, 3, affine=False, track_running_stats=False)
    for layer in layers:
        layer.eval()
    step(*layers, np.random.default_rng(1).standard_normal((4, 3, 5, 5), np.float32))
    assert not state(layers[0])


@pytest.mark.parametrize(
    ("name", "args"),
    [("GroupNorm", (2, 4)), ("LayerNorm", (5,)), ("LayerNorm", ((4, 5),)), ("RMSNorm", (5,)), ("RMSNorm", ((4, 5),))],
)
@pytest.mark.parametrize("affine", [True, False])
def test_statistics_of_each_sample(name, args, affine):
    keyword = "affine" if name == "GroupNorm" else "elementwise_affine"
    ours, theirs = pair(name, *args, **{keyword: affine})
    step(ours, theirs, np.random.default_rng(2).standard_normal((3, 4, 5), np.float32))


def test_layer_norm_without_bias():
    ours, theirs = pair("LayerNorm", 5, bias=False)
    assert ours.bias is None
    step(ours, theirs, np.random.default_rng(3).standard_normal((3, 5), np.float32))


def test_resetting_forgets_everything():
    layer = nn.BatchNorm2d(3)
    fresh = {k: v.copy() for k, v in state(layer).items()}
    layer(np.random.default_rng(4).standard_normal((4, 3, 2, 2), np.float32))
    layer.weight.assign_(7)
    assert int(layer.num_batches_tracked) == 1
    layer.reset_parameters()
    for k, v in state(layer).items():
        np.testing.assert_array_equal(v, fresh[k])


def test_running_statistics_hold_no_graph():
    layer = nn.BatchNorm1d(3)
    layer(as_tensor(np.random.default_rng(5).standard_normal((4, 3), np.float32), requires_grad=True))
    assert layer.running_mean.is_leaf and not layer.running_mean.requires_grad


def test_both_spellings_and_a_readable_repr():
    expected = "BatchNorm2d(8, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)"
    assert repr(nn.BatchNorm2d(8)) == expected


def test_errors_name_the_layer_and_what_was_expected():
    x = np.zeros((2, 4, 5), np.float32)
    with pytest.raises(
        ValueError, match=r"BatchNorm2d: expected an input with 4 axes and 4 channels.*float32\[2, 4, 5\]"
    ):
        nn.BatchNorm2d(4)(x)
    with pytest.raises(ValueError, match="BatchNorm1d: expected an input with 2 or 3 axes and 3 channels"):
        nn.BatchNorm1d(3)(x)
    with pytest.raises(ValueError, match="GroupNorm: 4 channels do not split into 3 groups"):
        nn.GroupNorm(3, 4)
    with pytest.raises(ValueError, match="GroupNorm: expected 6 channels on axis 1"):
        nn.GroupNorm(3, 6)(x)
    with pytest.raises(ValueError, match=r"LayerNorm|layer_norm: expected an input whose last axes have shape \(4,\)"):
        nn.LayerNorm(4)(x)


@pytest.mark.parametrize("size", [(), (4,), (4, 5), (2, 3, 4)])
def test_batch_norm_of_any_size(size):
    x = np.random.default_rng(0).standard_normal((6, 3, *size), np.float32)
    same = getattr(nn, f"BatchNorm{max(len(size), 1)}D")(3)
    np.testing.assert_array_equal(nn.BatchNorm(3)(as_tensor(x)).detach(), same(as_tensor(x)).detach())
    with pytest.raises(ValueError, match="BatchNorm: expected"):
        nn.BatchNorm(4)(as_tensor(x))
