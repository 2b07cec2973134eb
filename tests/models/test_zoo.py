"""Every image classifier of the zoo takes torchvision's weights by name and gives its numbers."""

import os
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import minidl
from minidl import models, ops
from minidl.core.tensor import as_tensor
from minidl.data import imagenet_classes
from minidl.models import UNet
from minidl.models.efficientnet import EfficientNetLite0, SameConv2d

torch = pytest.importorskip("torch", reason="PyTorch is the independent implementation compared with")

#: name in both libraries, further arguments there and here, side of the image
CASES = [
    ("alexnet", {}, {}, 67),
    ("vgg11", {}, {}, 40),
    ("vgg13_bn", {}, {"batch_norm": True}, 32),
    pytest.param("vgg16", {}, {}, 32, marks=pytest.mark.slow),
    pytest.param("vgg19_bn", {}, {"batch_norm": True}, 32, marks=pytest.mark.slow),
    ("mobilenet_v2", {}, {}, 64),
    ("mobilenet_v2", {"width_mult": 0.35}, {"width_mult": 0.35}, 33),
    ("mobilenet_v3_large", {}, {}, 64),
    ("mobilenet_v3_small", {}, {}, 65),
    ("resnet18", {}, {}, 64),
    ("resnet34", {}, {}, 33),
    ("resnet50", {}, {}, 64),
    pytest.param("resnet101", {}, {}, 32, marks=pytest.mark.slow),
    pytest.param("resnet152", {}, {}, 32, marks=pytest.mark.slow),
]


def randomized(theirs):
    """Statistics and scales away from their initial 0 and 1, so that each matters."""
    generator = torch.Generator().manual_seed(0)
    norms = [m for m in theirs.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.running_mean.normal_(0, 0.1, generator=generator)
        norm.running_var.uniform_(0.5, 1.5, generator=generator)
        norm.weight.data.uniform_(0.7, 1.3, generator=generator)
        norm.bias.data.normal_(0, 0.1, generator=generator)
    return theirs


@pytest.mark.parametrize("name, theirs, ours, side", CASES)
def test_as_torchvision(torchvision, name, theirs, ours, side):
    torch.manual_seed(1)
    theirs = randomized(getattr(torchvision.models, name)(num_classes=11, **theirs)).eval()
    ours = getattr(models, name.removesuffix("_bn"))(num_classes=11, **ours).eval()
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    x = np.random.default_rng(0).normal(size=(2, 3, side, side)).astype(np.float32)
    with torch.no_grad(), minidl.no_grad():
        want = theirs(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(ours(as_tensor(x)).numpy(), want, rtol=1e-4, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small", "resnet50"])
def test_gradient_as_torchvision(torchvision, name):
    """In training mode, batch statistics included; in float64, where many layers lose nothing."""
    torch.manual_seed(1)
    theirs = randomized(getattr(torchvision.models, name)(num_classes=5)).double()
    ours = getattr(models, name)(num_classes=5).to("float64")
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    for model in (theirs, ours):
        for module in model.modules():
            if type(module).__name__ == "Dropout":
                module.p = 0.0
    x = np.random.default_rng(0).normal(size=(4, 3, 64, 64))
    theirs(torch.from_numpy(x)).square().sum().backward()
    (ours(as_tensor(x)) ** 2).sum().backward()
    found = dict(ours.named_parameters())
    for key, p in theirs.named_parameters():
        want = p.grad.numpy()
        np.testing.assert_allclose(found[key].grad.numpy(), want, rtol=1e-6, atol=1e-8 * max(1, np.abs(want).max()))
    for key, buffer in theirs.named_buffers():
        np.testing.assert_allclose(dict(ours.named_buffers())[key].numpy(), buffer.numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("size, kernel, stride", [(7, 3, 2), (8, 3, 2), (9, 5, 2), (10, 5, 3), (5, 1, 2), (6, 3, 1)])
def test_same_convolution(size, kernel, stride):
    """Against TensorFlow's definition: window i begins at i * stride - total // 2, outside is zero."""
    layer = SameConv2d(2, 3, kernel, stride)
    x = np.random.default_rng(0).normal(size=(1, 2, size, size)).astype(np.float32)
    out = -(-size // stride)
    total = max((out - 1) * stride + kernel - size, 0)
    padded = np.zeros((1, 2, size + 20, size + 20))
    start = 10 - total // 2
    padded[:, :, 10 : 10 + size, 10 : 10 + size] = x
    want = np.empty((1, 3, out, out))
    for i in range(out):
        for j in range(out):
            rows, columns = start + i * stride, start + j * stride
            window = padded[0, :, rows : rows + kernel, columns : columns + kernel]
            want[0, :, i, j] = np.einsum("ocij,cij->o", layer.weight.detach().numpy(), window)
    np.testing.assert_allclose(layer(as_tensor(x)).detach().numpy(), want, rtol=1e-4, atol=1e-5)


def test_unet_as_the_paper():
    """Figure 1: 572x572 becomes 388x388, and the model has 31 million parameters."""
    paper = UNet(1, 2, padding=False, norm=False)
    assert sum(p.numel() for p in paper.parameters()) == 31_030_658
    small = UNet(1, 2, width=1, padding=False, norm=False)
    with minidl.no_grad():
        assert small(minidl.zeros(1, 1, 572, 572)).shape == (1, 2, 388, 388)


def test_unet_joins_each_level_with_its_own():
    """With all weights but the way across the top level zero, the output is the top level's features."""
    model = UNet(1, 1, width=2, depth=2, norm=False).eval()
    x = as_tensor(np.random.default_rng(0).normal(size=(1, 1, 8, 8)).astype(np.float32))
    for up in model.up:
        minidl.nn.init.zeros_(up.weight)
        minidl.nn.init.zeros_(up.bias)
    with minidl.no_grad():
        joined = model.join[-1](ops.concat([model.down[0](x), minidl.zeros(1, 2, 8, 8)], axis=1))
        np.testing.assert_allclose(model(x).numpy(), model.head(joined).numpy(), rtol=1e-6)


def test_unet_refuses_sides_it_cannot_halve():
    with pytest.raises(ValueError, match=r"UNet: the sides of the image must be divisible by 16, got \(40, 48\)"):
        UNet()(minidl.zeros(1, 1, 40, 48))


MAKE = {
    "alexnet": (lambda: models.alexnet(5), 63),
    "vgg11": (lambda: models.vgg11(5), 32),
    "mobilenet_v2": (lambda: models.mobilenet_v2(5, width_mult=0.35), 32),
    "mobilenet_v3": (lambda: models.mobilenet_v3_small(5), 32),
    "resnet50": (lambda: models.resnet50(5), 32),
    "efficientnet": (lambda: EfficientNetLite0(5), 32),
    "unet": (lambda: UNet(3, 5, width=4, depth=2), 32),
}
#: the combinations that run each time; the others compile for up to a minute each
QUICK = {("mobilenet_v3", "numba"), ("unet", "numba"), ("efficientnet", "jax")}


def combinations():
    for name in MAKE:
        for backend in ("numpy", "numba", "jax"):
            slow = backend != "numpy" and (name, backend) not in QUICK
            yield pytest.param(name, backend, marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize("name, backend", list(combinations()))
def test_backends_and_jit_agree(name, backend):
    make, side = MAKE[name]
    if backend != "numpy":
        pytest.importorskip(backend, reason=f"the backend {backend} needs it")
    minidl.manual_seed(0)
    model = make().eval()
    x = np.random.default_rng(0).normal(size=(2, 3, side, side)).astype(np.float32)
    with minidl.no_grad():
        want = model(as_tensor(x)).numpy()
        with minidl.use_backend(backend):
            moved = model.to(backend)
            forward = minidl.jit(moved)
            for _ in range(2):
                got = forward(minidl.tensor(x)).numpy()
                np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-5 * max(1, np.abs(want).max()))


def fetched(name):
    """A file that a user fetches once: its path, below the folder in MINIDL_DATA."""
    path = Path(os.environ.get("MINIDL_DATA", "")) / name
    if not path.exists():
        pytest.skip(f"{name} is not in the folder of MINIDL_DATA")
    return path


@pytest.fixture(scope="module")
def efficientnet():
    """EfficientNet-Lite0 with its published weights."""
    model = EfficientNetLite0().eval()
    model.load_state_dict(minidl.load(fetched("efficientnet-lite0.pth")))
    return model


SEEN = [("chelsea", {"tiger cat", "Egyptian cat", "tabby"}), ("coffee", {"espresso"}), ("rocket", {"missile"})]


@pytest.mark.parametrize("photo, classes", SEEN)
def test_photographs(efficientnet, photo, classes):
    """A cat, a cup of coffee and a rocket are seen as such."""
    data = pytest.importorskip("skimage.data", reason="the photographs are in scikit-image")
    image = PIL.Image.fromarray(getattr(data, photo)())
    with minidl.no_grad():
        logits = efficientnet(minidl.tensor(efficientnet.preprocess([efficientnet.crop(image)]))).numpy()[0]
    assert imagenet_classes()[logits.argmax()] in classes


def test_class_names(torchvision):
    names = imagenet_classes()
    assert names == list(torchvision.models.ResNet18_Weights.DEFAULT.meta["categories"]) and len(names) == 1000
