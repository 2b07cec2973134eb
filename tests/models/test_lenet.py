import numpy as np
import pytest

from minidl import ops
from minidl.core.tensor import as_tensor
from minidl.models import ConvNet, LeNet5


@pytest.mark.parametrize(("activation", "pool"), [("relu", "max"), ("tanh", "avg")])
def test_lenet_equals_the_same_network_in_pytorch(activation, pool):
    torch = pytest.importorskip("torch", reason="PyTorch is the independent implementation compared with")
    f = torch.nn.ReLU() if activation == "relu" else torch.nn.Tanh()
    p = torch.nn.MaxPool2d(2) if pool == "max" else torch.nn.AvgPool2d(2)
    theirs = torch.nn.Sequential()
    for name, layer in dict(
        conv1=torch.nn.Conv2d(1, 6, 5, padding=2), f1=f, p1=p, conv2=torch.nn.Conv2d(6, 16, 5), f2=f, p2=p,
        flatten=torch.nn.Flatten(), fc1=torch.nn.Linear(400, 120), f3=f, fc2=torch.nn.Linear(120, 84), f4=f,
        fc3=torch.nn.Linear(84, 10),
    ).items():  # fmt: skip
        theirs.add_module(name, layer)
    ours = LeNet5(activation=activation, pool=pool)
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((8, 1, 28, 28), np.float32), rng.integers(0, 10, 8)
    out, expected = ours(as_tensor(x)), theirs(torch.from_numpy(x))
    np.testing.assert_allclose(out.detach(), expected.detach(), atol=1e-5)
    ops.cross_entropy(out, y).backward()
    torch.nn.functional.cross_entropy(expected, torch.from_numpy(y)).backward()
    grads = dict(theirs.named_parameters())
    for k, p in ours.named_parameters():
        np.testing.assert_allclose(p.grad, grads[k].grad, atol=1e-5, err_msg=k)


def test_lenet_has_the_known_number_of_parameters_and_checks_its_input():
    assert sum(p.numel() for p in LeNet5().parameters()) == 61706
    with pytest.raises(ValueError, match=r"LeNet5: expected images \(N, 1, 28, 28\), got float32\[1, 1, 32, 32\]"):
        LeNet5()(np.zeros((1, 1, 32, 32), np.float32))
    with pytest.raises(ValueError, match="LeNet5: activation must be 'relu' or 'tanh'"):
        LeNet5(activation="elu")


def test_convnet_learns_two_images_by_heart():
    model = ConvNet((4, 8), num_classes=2, in_channels=1, depth=2)
    x, y = as_tensor(np.random.default_rng(1).standard_normal((4, 1, 8, 9), np.float32)), np.array([0, 1, 0, 1])
    losses = []
    for _ in range(40):
        loss = ops.cross_entropy(model(x), y)
        model.zero_grad()
        loss.backward()
        for p in model.parameters():
            p.assign_(p.detach() - p.grad * 0.3)
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
    assert model.eval()(x).shape == (4, 2)
