"""minidl train, resume, eval, predict and generate: what they write, that runs repeat and go on bit for bit."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from minidl import serialization
from minidl.data import Digits

LSTM = ("charlstm-shakespeare", "--set", "vocab_size=8", "--set", "embedding=4", "--set", "hidden=8",
        "--set", "batch_size=4", "--set", "length=16")  # fmt: skip
GPT = ("gpt-shakespeare", "--set", "vocab_size=8", "--set", "width=8", "--set", "heads=2", "--set", "layers=1",
       "--set", "context=16", "--set", "steps_per_epoch=5")  # fmt: skip


def content(path):
    return path.read_bytes()


def test_a_run_folder_has_everything(minidl, tmp_path):
    status, out, err = minidl("train", "mlp-digits", "--epochs", 2, "--seed", 3, "--set", "hidden=16")
    assert status == 0 and err == ""
    run = tmp_path / "runs" / "mlp-digits"
    config = json.loads(content(run / "config.json"))
    assert config["recipe"] == "mlp-digits" and config["backend"] == "numpy" and config["data"] is None
    assert config["config"]["epochs"] == 2 and config["config"]["seed"] == 3 and config["config"]["hidden"] == 16
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    with open(run / "metrics.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 2
    assert content(run / "curve.png").startswith(b"\x89PNG")
    assert [p.name for p in sorted((run / "checkpoints").iterdir())] == ["step-00000041", "step-00000082"]
    result = json.loads(content(run / "result.json"))
    assert result["figure"] == "test_accuracy" and result["value"] == result["figures"]["accuracy"]
    assert result["evaluated_on"] == 360 and result["epochs"] == 2 and result["steps"] == 82
    assert result["reached"] == (result["value"] >= result["target"])
    log = (run / "log.txt").read_text()
    for text in (out, log):
        assert "epoch 2/2" in text and f"test_accuracy {result['value']:.4f}" in text
        assert "target test_accuracy >= 0.93" in text
    # the next run gets a folder of its own
    assert minidl("train", "mlp-digits", "--epochs", 1, "--set", "hidden=16", "--quiet")[0] == 0
    assert (tmp_path / "runs" / "mlp-digits-2" / "result.json").exists()


def test_equal_seeds_give_equal_bytes(minidl, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert minidl("train", "mlp-digits", "--epochs", 2, "--seed", seed, "--out", name, "--quiet")[0] == 0
    files = ("model.safetensors", "checkpoints/step-00000082/training.safetensors")
    for file in files:
        assert content(tmp_path / "a" / file) == content(tmp_path / "b" / file)
        assert content(tmp_path / "a" / file) != content(tmp_path / "c" / file)


def test_eval_gives_the_runs_figure(minidl, tmp_path):
    minidl("train", "mlp-digits", "--epochs", 1, "--out", "run", "--quiet")
    value = json.loads(content(tmp_path / "run" / "result.json"))["value"]
    status, out, _ = minidl("eval", "run")
    assert status == 0 and f"accuracy {value:.4f}  (360 samples)" in out and "target test_accuracy >= 0.93" in out


def test_predict_classifies_files(minidl, tmp_path):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    minidl("train", "mlp-digits", "--epochs", 8, "--out", "run", "--quiet")
    digits = Digits(train=False)
    for i in (1, 2, 4):
        pixels = np.uint8(digits.images[i, 0] * 255)
        image.fromarray(pixels).resize((32, 32), image.Resampling.NEAREST).save(tmp_path / f"{i}.png")
        image.fromarray(255 - pixels).save(tmp_path / f"{i}-on-white.png")
    names = [f"{i}{ending}.png" for i in (1, 2, 4) for ending in ("", "-on-white")]
    status, out, _ = minidl("predict", "run", *names, "--top", 2)
    assert status == 0
    for name, line in zip(names, out.splitlines(), strict=True):
        label = digits.classes[digits.labels[int(name[0])]]
        assert line.startswith(f"{name}: {label} ") and line.count("%") == 2
    assert minidl("predict", "run", "nowhere.png")[0] == 2
    (tmp_path / "bad.png").write_bytes(b"\x89PNG no")
    status, _, err = minidl("predict", "run", "bad.png")
    assert status == 2 and "bad.png: not a readable image" in err and err.count("\n") == 1


def test_the_latest_run_is_the_default(minidl, text_file, tmp_path):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    for name in ("a.png", "b.png"):
        image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / name)
    minidl("train", "mlp-digits", "--epochs", 1, "--quiet")
    minidl("train", *LSTM, "--epochs", 1, "--data", text_file, "--quiet")
    for command, run in (
        (("predict", "a.png"), "mlp-digits"),
        (("predict", "a.png", "b.png"), "mlp-digits"),
        (("generate", "--length", 3), "charlstm-shakespeare"),
        (("eval",), "charlstm-shakespeare"),
    ):
        status, out, err = minidl(*command)
        assert status == 0 and err == f"the latest run: runs/{run}\n"
        if command[0] == "predict":
            assert [line.partition(":")[0] for line in out.splitlines()] == list(command[1:])
    status, out, _ = minidl("info", "a.png")
    assert status == 0 and out == "image, 8 x 8 pixels\n"


@pytest.mark.parametrize("recipe", [LSTM, GPT], ids=["lstm", "gpt"])
def test_language_models_train_and_generate(minidl, text_file, tmp_path, recipe):
    status, out, err = minidl("train", *recipe, "--epochs", 2, "--data", text_file, "--out", "run")
    assert status == 0, err
    assert "val_loss" in out and "nats per character" in out
    result = json.loads(content(tmp_path / "run" / "result.json"))
    assert result["value"] < np.log(8) + 0.2
    assert f"loss {result['value']:.4f}" in minidl("eval", "run")[1]

    def generate(*options):
        return minidl("generate", "run", "--prompt", "ab", "--length", 40, *options)

    status, first, _ = generate("--seed", 5)
    assert status == 0 and first.startswith("ab") and len(first) == 2 + 40 + 1
    assert generate("--seed", 5)[1] == first != generate("--seed", 6)[1]
    assert generate("--temperature", 0)[1] == generate("--temperature", 0, "--seed", 9)[1] == generate("--top-k", 1)[1]
    status, _, err = minidl("generate", "run", "--prompt", "xyz")
    assert status == 2 and "--prompt: CharTokenizer: unknown character 'x'" in err
    assert minidl("generate", "run", "--length", 0)[0] == 2
    status, _, err = minidl("predict", "run", "x.png")
    assert status == 2 and "does not classify images; try: minidl generate run" in err


@pytest.mark.parametrize("recipe", [LSTM, GPT], ids=["lstm", "gpt"])
def test_language_models_resume_bit_for_bit(minidl, text_file, tmp_path, recipe, monkeypatch):
    arguments = ("train", *recipe, "--epochs", 2, "--data", text_file, "--quiet")
    assert minidl(*arguments, "--out", "whole")[0] == 0

    from minidl.train import Trainer

    one_step, steps = Trainer._train_step, []

    def interrupted(self, group):
        one_step(self, group)
        steps.append(self.step)
        if self.step == 7:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_step", interrupted)
        assert minidl(*arguments, "--out", "run")[0] == 130
    assert steps[-1] == 7
    status, out, err = minidl("resume", "run")
    assert status == 0, err
    assert content(tmp_path / "run/model.safetensors") == content(tmp_path / "whole/model.safetensors")
    assert "target" in out


def test_ctrl_c_and_resume_as_a_user_does(tmp_path):
    """A real process, a real signal, and the same bytes in the end."""
    command = [
        sys.executable,
        "-m",
        "minidl",
        "train",
        "mlp-digits",
        "--epochs",
        "12",
        "--set",
        "hidden=16",
        "--set",
        "batch_size=64",
    ]
    subprocess.run([*command, "--out", "whole", "--quiet"], check=True, stdout=subprocess.DEVNULL)
    process = subprocess.Popen([*command, "--out", "my run"], stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith("epoch 2/"):
            process.send_signal(signal.SIGINT)
            break
    out = process.stdout.read()
    assert process.wait(60) == 130, out
    assert "To resume: minidl resume 'my run'" in out
    assert not (tmp_path / "my run" / "result.json").exists()
    resumed = subprocess.run([sys.executable, "-m", "minidl", "resume", "my run"], capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    assert content(tmp_path / "my run/model.safetensors") == content(tmp_path / "whole/model.safetensors")
    rows = [
        [
            {k: v for k, v in json.loads(line).items() if k not in ("seconds", "cpu_seconds")}
            for line in path.read_text().splitlines()
        ]
        for path in (tmp_path / "my run/metrics.jsonl", tmp_path / "whole/metrics.jsonl")
    ]
    assert rows[0] == rows[1] and len(rows[0]) == 12


def test_a_killed_run_resumes(tmp_path):
    """SIGKILL, at any moment: what is on the disk is whole."""
    command = [sys.executable, "-m", "minidl"]
    train = [*command, "train", "mlp-digits", "--epochs", "12", "--set", "hidden=16", "--set", "batch_size=64"]
    subprocess.run([*train, "--out", "whole", "--quiet"], check=True, stdout=subprocess.DEVNULL)
    process = subprocess.Popen([*train, "--out", "run"], stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith("epoch 3/"):
            time.sleep(0.02)
            process.kill()
            break
    process.stdout.close()
    assert process.wait(60) == -signal.SIGKILL
    resumed = subprocess.run([*command, "resume", "run", "--quiet"], capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    assert content(tmp_path / "run/model.safetensors") == content(tmp_path / "whole/model.safetensors")


def test_a_damaged_checkpoint_is_refused_and_the_one_before_serves(minidl, tmp_path):
    minidl("train", "mlp-digits", "--epochs", 3, "--out", "run", "--quiet")
    want = content(tmp_path / "run/model.safetensors")
    (tmp_path / "run/result.json").unlink()
    earlier, latest = sorted((tmp_path / "run/checkpoints").iterdir())
    (latest / "model.safetensors").write_bytes(content(latest / "model.safetensors")[:-1])
    status, _, err = minidl("resume", "run", "--checkpoint", f"run/checkpoints/{latest.name}")
    assert status == 2
    assert f"checkpoints/{latest.name}: this checkpoint cannot be used: model.safetensors is damaged" in err
    assert f"An earlier checkpoint can be used instead: run/checkpoints/{earlier.name}" in err
    status, _, err = minidl("info", latest)
    assert status == 2 and "damaged" in err
    (tmp_path / "run/model.safetensors").unlink()
    status, out, _ = minidl("resume", "run")
    assert status == 0
    assert f"checkpoints/{latest.name}: this checkpoint cannot be used" in out
    assert f"Resuming from run/checkpoints/{earlier.name}" in out
    assert content(tmp_path / "run/model.safetensors") == want


def test_weights_of_another_shape_are_refused(minidl, tmp_path):
    minidl("train", "mlp-digits", "--epochs", 1, "--out", "run", "--quiet")
    weights = serialization.load(tmp_path / "run/model.safetensors")
    name = next(iter(weights))
    weights[name] = weights[name][:3]
    serialization.save(weights, tmp_path / "run/model.safetensors")
    status, _, err = minidl("eval", "run")
    assert status == 2 and "does not fit the run's config.json" in err and name in err
    (tmp_path / "run/model.safetensors").unlink()
    status, _, err = minidl("eval", "run")
    assert status == 2 and "has no weights yet" in err
