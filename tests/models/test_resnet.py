import numpy as np
import pytest

from minidl import ops
from minidl.core.tensor import as_tensor
from minidl.models import ResNet, resnet18, resnet34

torch = pytest.importorskip("torch", reason="PyTorch is the independent implementation compared with")
tnn = torch.nn


class TorchBlock(tnn.Module):
    """torchvision's BasicBlock, written down again."""

    def __init__(self, c, width, stride):
        super().__init__()
        self.conv1 = tnn.Conv2d(c, width, 3, stride, 1, bias=False)
        self.bn1 = tnn.BatchNorm2d(width)
        self.conv2 = tnn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = tnn.BatchNorm2d(width)
        self.downsample = None
        if stride > 1 or c != width:
            self.downsample = tnn.Sequential(tnn.Conv2d(c, width, 1, stride, bias=False), tnn.BatchNorm2d(width))

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class TorchResNet(tnn.Module):
    def __init__(self, blocks, classes, small):
        super().__init__()
        self.conv1 = tnn.Conv2d(3, 64, 3, 1, 1, bias=False) if small else tnn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = tnn.BatchNorm2d(64)
        self.maxpool = tnn.Identity() if small else tnn.MaxPool2d(3, 2, 1)
        c = 64
        for i, (count, width) in enumerate(zip(blocks, (64, 128, 256, 512), strict=True), start=1):
            strides = [1 if i == 1 else 2] + [1] * (count - 1)
            layers = [TorchBlock(c if j == 0 else width, width, s) for j, s in enumerate(strides)]
            setattr(self, f"layer{i}", tnn.Sequential(*layers))
            c = width
        self.fc = tnn.Linear(512, classes)

    def forward(self, x):
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


def randomized(theirs):
    """Statistics and weights away from their initial 0 and 1, so that each matters."""
    torch.manual_seed(0)
    for k, v in theirs.state_dict().items():
        if k.endswith(("running_var", "bn1.weight", "bn2.weight", "downsample.1.weight")):
            v.uniform_(0.5, 1.5)
        elif k.endswith(("running_mean", ".bias")):
            v.normal_(0, 0.1)
    return theirs


def load(ours, theirs):
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})


@pytest.mark.parametrize(
    ("make", "blocks", "small", "side", "parameters"),
    [
        (resnet18, (2, 2, 2, 2), True, 16, 11173962),
        (resnet18, (2, 2, 2, 2), False, 64, 11181642),
        (resnet34, (3, 4, 6, 3), True, 8, 21282122),
    ],
)
def test_a_pytorch_state_dict_gives_the_same_output(make, blocks, small, side, parameters):
    theirs = randomized(TorchResNet(blocks, 10, small)).eval()
    ours = make(num_classes=10, small_input=small).eval()
    assert sum(p.numel() for p in ours.parameters()) == parameters
    load(ours, theirs)
    x = np.random.default_rng(1).standard_normal((2, 3, side, side), np.float32)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(x)).numpy()
    out = ours(x).detach()
    np.testing.assert_allclose(out, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(("dtype", "tol"), [(np.float64, 1e-8), (np.float32, 1e-2)])
def test_a_training_step_gives_pytorchs_gradients_and_statistics(dtype, tol):
    """In float32 the two drift apart to some 1e-3: ten batch norms over a few pixels amplify rounding errors."""
    theirs = randomized(TorchResNet((1, 1, 1, 1), 10, True)).train().to(getattr(torch, np.dtype(dtype).name))
    ours = ResNet((1, 1, 1, 1), num_classes=10, small_input=True).to(dtype).train()
    load(ours, theirs)
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((4, 3, 16, 16)).astype(dtype), rng.integers(0, 10, 4)
    loss = ops.cross_entropy(ours(as_tensor(x)), y)
    expected = torch.nn.functional.cross_entropy(theirs(torch.from_numpy(x)), torch.from_numpy(y))
    np.testing.assert_allclose(loss.item(), expected.item(), rtol=tol)
    loss.backward()
    expected.backward()
    grads = dict(theirs.named_parameters())
    for k, p in ours.named_parameters():
        g = grads[k].grad.numpy()
        assert p.grad.dtype == dtype
        assert np.linalg.norm(np.asarray(p.grad) - g) <= tol * np.linalg.norm(g), k
    after = theirs.state_dict()
    for k, v in ours.state_dict().items():
        np.testing.assert_allclose(v, after[k].numpy(), rtol=tol, atol=tol, err_msg=k)
