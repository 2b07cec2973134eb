"""Files as real exporters write them: PyTorch's old and new exporter, and tf2onnx."""

import warnings
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="reading ONNX files needs onnx (pip install 'minidl[onnx]')")
torch = pytest.importorskip("torch", reason="PyTorch exports the models")
pytest.importorskip("onnxscript", reason="PyTorch's new exporter needs onnxscript")

import minidl  # noqa: E402
from minidl.interop.onnx import load  # noqa: E402

tnn = torch.nn
FILES = Path(__file__).parent / "files"


class Recurrent(tnn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.layer = kind(5, 6, num_layers=2, batch_first=True, **options)

    def forward(self, x):
        return self.layer(x)[0]


class Attention(tnn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k = tnn.Linear(8, 8), tnn.Linear(8, 8)

    def forward(self, x):
        q, k, v = (a.unflatten(-1, (2, 4)).transpose(1, 2) for a in (self.q(x), self.k(x), x))
        return tnn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)


class Everyday(tnn.Module):
    """What forward methods are full of: shapes, slices, masks, einsum."""

    def forward(self, x):
        n, c = x.shape[:2]
        y = x.reshape(n, c, -1).transpose(1, 2)
        y = torch.einsum("nij,nkj->nik", y, y).softmax(-1)
        mask = torch.tril(torch.ones(y.shape[1], y.shape[2], dtype=torch.bool))
        y = y.masked_fill(~mask, -1.0)[:, ::2, 1:]
        return torch.cat([y, torch.where(y > 0.2, y * 2, y.abs())], dim=1).mean(1, keepdim=True), y.argmax(-1)


conv = lambda: tnn.Sequential(
    tnn.Conv2d(3, 8, 3, padding=1, bias=False), tnn.BatchNorm2d(8), tnn.ReLU(), tnn.MaxPool2d(2),
    tnn.Conv2d(8, 8, 3, groups=4, dilation=2, padding=2), tnn.GroupNorm(2, 8), tnn.GELU(), tnn.AdaptiveAvgPool2d(1),
    tnn.Flatten(), tnn.Linear(8, 4), tnn.LogSoftmax(-1),
)  # fmt: skip
up = lambda: tnn.Sequential(
    tnn.ConvTranspose2d(3, 4, 3, stride=2, output_padding=1), tnn.InstanceNorm2d(4, affine=True), tnn.PReLU(4),
    tnn.Upsample(scale_factor=2, mode="bilinear"), tnn.PixelShuffle(2), tnn.ReflectionPad2d(1), tnn.Hardswish(),
)  # fmt: skip
encoder = lambda: tnn.TransformerEncoder(tnn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)

CASES = {
    "conv": (conv, (2, 3, 8, 8)),
    "up": (up, (2, 3, 6, 6)),
    "encoder": (encoder, (2, 5, 8)),
    "attention": (Attention, (2, 5, 8)),
    "lstm": (lambda: Recurrent(tnn.LSTM, bidirectional=True), (2, 7, 5)),
    "gru": (lambda: Recurrent(tnn.GRU), (2, 7, 5)),
    "rnn": (lambda: Recurrent(tnn.RNN), (2, 7, 5)),
    "everyday": (Everyday, (2, 3, 4, 4)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("new", [False, True], ids=["old exporter", "new exporter"])
@pytest.mark.filterwarnings("ignore")
def test_pytorch(name, new, tmp_path):
    """The same outputs, also for a batch of another size than the exporter saw."""
    make, shape = CASES[name]
    torch.manual_seed(0)
    theirs = make().eval()
    x = torch.randn(*shape)
    path = tmp_path / "m.onnx"
    options = {"dynamo": True, "dynamic_shapes": ({0: torch.export.Dim("batch", min=2)},)} if new else {
        "dynamo": False, "dynamic_axes": {"x": {0: "batch"}}
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(theirs, (x,), path, input_names=["x"], verbose=False, **options)
    ours = load(path)
    for batch in (x, torch.randn(3, *shape[1:])):
        with torch.no_grad():
            want = theirs(batch)
        want = want if isinstance(want, tuple) else (want,)
        with minidl.no_grad():
            got = ours(batch.numpy())
        got = got if isinstance(got, tuple) else (got,)
        assert len(got) == len(want)
        for g, w in zip(got, want):
            np.testing.assert_allclose(np.asarray(g), w.numpy(), rtol=1e-4, atol=1e-5)


def test_weights_keep_their_names(tmp_path):
    theirs = conv().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(theirs, (torch.randn(1, 3, 8, 8),), tmp_path / "m.onnx", dynamo=True, verbose=False)
    names = set(dict(load(tmp_path / "m.onnx").named_parameters()))
    assert {"9.weight", "9.bias", "4.weight"} <= names | {n.replace("_", ".") for n in names}


@pytest.mark.parametrize("path", sorted(FILES.glob("*.onnx")), ids=lambda p: p.stem)
def test_tf2onnx(path):
    """Keras models that tf2onnx wrote, with inputs and outputs of TensorFlow beside them."""
    data = np.load(path.with_suffix(".npz"))
    with minidl.no_grad():
        got = load(path)(data["x"])
    np.testing.assert_allclose(np.asarray(got), data["y"], rtol=1e-4, atol=1e-5)


def test_there_are_files_of_tf2onnx():
    assert {p.stem for p in FILES.glob("*.onnx")} >= {"tf_conv", "tf_lstm"}
