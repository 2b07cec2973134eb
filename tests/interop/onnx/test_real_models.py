"""The three models of the package rapidocr-onnxruntime, made by PaddlePaddle: they find, turn and read text."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="reading ONNX files needs onnx (pip install 'minidl[onnx]')")
runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is what the outputs are compared with")
if (package := importlib.util.find_spec("rapidocr_onnxruntime")) is None:
    pytest.skip("the models are in the package rapidocr-onnxruntime", allow_module_level=True)

import minidl  # noqa: E402
from minidl.interop.onnx import load  # noqa: E402

MODELS = Path(package.origin).parent / "models"
DETECT, TURN, READ = "ch_PP-OCRv4_det_infer", "ch_ppocr_mobile_v2.0_cls_infer", "ch_PP-OCRv4_rec_infer"
SHAPES = {DETECT: (1, 3, 64, 96), TURN: (1, 3, 48, 192), READ: (1, 3, 48, 96)}


@pytest.mark.parametrize("how", ["numpy", "numba", "numpy jit"])
@pytest.mark.parametrize("name", SHAPES)
def test_equals_onnxruntime(name, how):
    backend, _, jit = how.partition(" ")
    pytest.importorskip(backend, reason=f"{backend} is an optional backend")
    x = np.random.default_rng(0).standard_normal(SHAPES[name]).astype(np.float32)
    session = runtime.InferenceSession(MODELS / f"{name}.onnx")
    expected = session.run(None, {session.get_inputs()[0].name: x})[0]
    with minidl.use_backend(backend), minidl.no_grad():
        model = load(MODELS / f"{name}.onnx")
        run = minidl.jit(lambda x: model(x)) if jit else model
        for _ in range(2):
            np.testing.assert_allclose(run(minidl.as_tensor(x)).numpy(), expected, atol=1e-4, rtol=1e-4)


def line_of(text):
    """An image (1, 3, 48, W) of a line of text, as the recognizer wants it: -1 to 1."""
    image = pytest.importorskip("PIL.Image", reason="drawing needs pillow")
    from matplotlib import font_manager
    from PIL import ImageDraw, ImageFont

    font = ImageFont.truetype(font_manager.findfont("DejaVu Sans"), 32)
    width = int(font.getlength(text)) + 24
    picture = image.new("RGB", (width, 48), "white")
    ImageDraw.Draw(picture).text((12, 4), text, "black", font)
    return (np.asarray(picture, np.float32).transpose(2, 0, 1)[None] / 255 - 0.5) / 0.5


def test_reads_a_line_of_text():
    pytest.importorskip("matplotlib", reason="its font is drawn with")
    model = load(MODELS / f"{READ}.onnx")
    alphabet = ["", *model.metadata["character"].splitlines(), " "]
    with minidl.no_grad():
        best = model(line_of("Hello minidl 2026")).numpy()[0].argmax(-1)
    kept = [c for i, c in enumerate(best) if c and (i == 0 or c != best[i - 1])]
    assert "".join(alphabet[c] for c in kept).strip() == "Hello minidl 2026"
