"""The other commands, and mistakes: one clear line, exit status 2, no traceback."""

import subprocess
import sys

import numpy as np
import pytest

from minidl import serialization


@pytest.fixture
def run(minidl):
    assert minidl("train", "mlp-digits", "--epochs", 1, "--set", "hidden=8", "--out", "run", "--quiet")[0] == 0
    return "run"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train lenet", "unknown recipe 'lenet'; there are: mlp-digits, lenet-mnist"),
        ("train mlp-digits --set layers=3", "mlp-digits has no setting 'layers'; there are: epochs, batch_size, lr"),
        ("train mlp-digits --set lr=fast", "lr must be of type float (its default is 0.005), got 'fast'"),
        ("train mlp-digits --set hidden=1.5", "hidden must be of type int (its default is 256), got '1.5'"),
        ("train mlp-digits --epochs 0", "epochs must be an integer in [1, 1000000], got 0"),
        ("train gpt-shakespeare --set bias=maybe", "bias must be of type bool (its default is False), got 'maybe'"),
        ("train mlp-digits --backend numbax", "unknown backend 'numbax'; known: "),
        ("train lenet-mnist --data nowhere", "MNIST's train-images-idx3-ubyte not found. Looked at:"),
        ("train charlstm-shakespeare --data nowhere", "tiny Shakespeare not found. Looked at:"),
        ("resume nowhere", "nowhere is not a run folder"),
        ("eval nowhere", "nowhere is not a run folder"),
        ("predict nowhere x.png", "nowhere is not a run folder"),
        ("generate nowhere", "nowhere is not a run folder"),
        ("eval", "runs/ holds no such run"),
        ("generate", "runs/ holds no such run"),
        ("predict x.png", "runs/ holds no such run"),
        ("predict .", ". is a folder; give an image"),
        ("info nowhere", "there is no nowhere"),
        ("backends tensorrt", "unknown backend 'tensorrt'"),
        ("backends numpy --primitive conv9d", "no primitive is called 'conv9d'"),
        ("recipes resnet", "unknown recipe 'resnet'"),
    ],
)
def test_mistakes_are_one_line(minidl, tmp_path, arguments, message):
    status, _, err = minidl(*arguments.split())
    assert status == 2
    assert err.startswith("minidl: error: ") and message in err and "Traceback" not in err
    assert not (tmp_path / "runs").exists()  # nothing is left behind


@pytest.mark.parametrize("arguments", ["", "trian mlp-digits", "train", "train mlp-digits --set lr", "predict"])
def test_wrong_usage_shows_it(minidl, arguments):
    status, _, err = minidl(*arguments.split())
    assert status == 2 and "usage: minidl" in err


def test_debug_shows_the_traceback(minidl):
    with pytest.raises(ValueError, match="unknown recipe"):
        minidl("--debug", "train", "lenet")


def test_an_unexpected_error_is_not_hidden(minidl, monkeypatch):
    def broken(*args):
        raise ZeroDivisionError

    monkeypatch.setattr("minidl.cli.recipes.run", broken)
    with pytest.raises(ZeroDivisionError):
        minidl("recipes")


def test_mistakes_about_runs(minidl, run, tmp_path):
    for arguments, message in (
        (("train", "mlp-digits", "--out", run), "run already holds a run; give another --out, or resume it"),
        (("resume", run), "run is finished; see: minidl info run"),
        (("resume", run, "--checkpoint", "nowhere"), "there is no such folder"),
        (("generate", run), "mlp-digits is not a language model; try: minidl predict run IMAGE"),
        (("predict", run, "x.png", "--top", "0"), "--top must be at least 1"),
        (("predict", run, "x.png"), "x.png"),
    ):
        status, _, err = minidl(*arguments)
        assert status == 2 and message in err, (arguments, err)
    (tmp_path / run / "config.json").write_text("{")
    status, _, err = minidl("eval", run)
    assert status == 2 and "not valid JSON" in err
    (tmp_path / run / "config.json").write_text("[]")
    status, _, err = minidl("eval", run)
    assert status == 2 and "run/config.json: expected a JSON object" in err


def test_a_nan_loss_is_one_line(minidl):
    with np.errstate(all="ignore"):
        status, _, err = minidl("train", "mlp-digits", "--set", "lr=1e30", "--quiet")
    assert status == 2 and "the loss is nan at step" in err and "Try a lower learning rate" in err


def test_recipes_are_listed(minidl):
    status, out, _ = minidl("recipes")
    assert status == 0
    for name in (
        "mlp-digits", "lenet-mnist", "cnn-fashion", "cnn-cifar10", "charlstm-shakespeare", "gpt-shakespeare",
    ):  # fmt: skip
        assert name in out
    assert ">= 0.916; unmeasured" in out and ">= 0.99\n" in out
    status, out, _ = minidl("recipes", "cnn-fashion")
    assert status == 0 and "unmeasured" in out and "test_accuracy >= 0.916" in out and "dropout=0.4" in out


def test_backends_are_listed(minidl):
    status, out, _ = minidl("backends")
    assert status == 0 and "* numpy      device cpu" in out
    status, out, _ = minidl("backends", "numpy", "--primitive", "matmul")
    assert status == 0 and out.startswith("matmul") and "reference (numpy)" in out
    status, out, _ = minidl("backends", "numpy")
    assert status == 0 and len(out.splitlines()) > 50


def test_info(minidl, run, tmp_path):
    status, out, _ = minidl("info", run)
    assert status == 0
    assert "run of mlp-digits" in out and "hidden=8" in out and "epochs done: 1 of 1" in out and "step-00000041" in out
    assert "test_accuracy 0." in out
    status, out, _ = minidl("info", "run/checkpoints/step-00000041")
    assert status == 0 and "undamaged: epoch 1, step 41" in out
    serialization.save({"a.weight": np.zeros((2, 3), np.float32)}, "w.safetensors", {"made by": "hand"})
    status, out, _ = minidl("info", "w.safetensors")
    assert status == 0 and "a.weight" in out and "[2, 3]" in out and "1 arrays, 6 elements, 24 bytes" in out
    assert "made by: hand" in out
    np.savez("a.npz", x=np.arange(3))
    assert "[3]" in minidl("info", "a.npz")[1]
    np.save("o.npy", np.array([{}], object), allow_pickle=True)
    status, _, err = minidl("info", "o.npy")
    assert status == 2 and "pickled objects, which are not read" in err
    (tmp_path / "t.txt").write_text("abca\n")
    assert "text, 5 characters, 4 distinct, 1 lines" in minidl("info", "t.txt")[1]
    (tmp_path / "x-ubyte").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 9]))
    assert "uint8" in minidl("info", "x-ubyte")[1]
    for name in ("w.safetensors", "a.npz", "x-ubyte", "unknown.bin"):
        (tmp_path / name).write_bytes(b"\x00nonsense")
        status, _, err = minidl("info", name)
        assert status == 2 and name in err and "Traceback" not in err


def test_info_on_images(minidl, tmp_path):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "pets" / split / name).mkdir(parents=True)
            image.new("RGB", (4, 5)).save(tmp_path / "pets" / split / name / "0.png")
    status, out, _ = minidl("info", "pets")
    assert status == 0 and "train: 2 images, the first 3x5x4, in 2 classes" in out and "dog" in out
    status, out, _ = minidl("info", "pets/test")
    assert status == 0 and "test: 2 images" in out
    (tmp_path / "empty").mkdir()
    status, _, err = minidl("info", "empty")
    assert status == 2 and "neither a run folder nor a checkpoint" in err


def test_as_a_process():
    done = subprocess.run([sys.executable, "-m", "minidl", "--version"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("minidl 0.")
    done = subprocess.run([sys.executable, "-m", "minidl", "info", "nowhere"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr == "minidl: error: there is no nowhere\n"
    done = subprocess.run(
        f"{sys.executable} -m minidl backends numpy | head -1", shell=True, capture_output=True, text=True
    )
    assert done.stderr == ""
