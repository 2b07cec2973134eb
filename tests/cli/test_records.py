"""What a run is worth as evidence: its record, its three parts of the data, one folder for one run."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from minidl import recipes, serialization
from minidl.data import ArrayDataset, DataLoader, Digits
from minidl.recipes import run as runs
from minidl.recipes.base import hold_out
from minidl.recipes.lenet_mnist import LeNetMNIST

QUICK = ("mlp-digits", "--set", "hidden=16", "--set", "batch_size=64")


def read(path):
    return json.loads(path.read_bytes())


def test_the_record_says_what_a_reviewer_needs(minidl, tmp_path):
    assert minidl("train", *QUICK, "--epochs", 2, "--seed", 3, "--out", "run", "--quiet")[0] == 0
    run = tmp_path / "run"
    (session,) = read(run / "record.json")
    assert session["command"] == (
        "minidl train mlp-digits --set hidden=16 --set batch_size=64 --epochs 2 --seed 3 --out run --quiet"
    )
    assert session["recipe"] == "mlp-digits" and session["seed"] == 3 and session["backend"] == "numpy"
    assert session["versions"]["numpy"] == np.__version__ and session["versions"]["blas"]
    assert session["processor"] and session["cores"] >= 1 and session["system"] and session["python"]
    assert (session["minidl"] and session["commit"] is None) or len(session["commit"].rstrip("+")) == 40
    assert session["from_step"] == 0 and session["to_step"] == 42
    assert session["began"] <= session["ended"]
    config, result = read(run / "config.json"), read(run / "result.json")
    assert {part: len(digest) for part, digest in config["data_sha256"].items()} == {
        "train": 64, "validation": 64, "test": 64,
    }  # fmt: skip
    assert config["data_sha256"]["test"] == Digits(train=False).checksum()
    assert result["seed"] == 3
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for name in ("seconds", "cpu_seconds"):
        assert result[f"training_{name}"] == pytest.approx(sum(row[name] for row in rows), abs=2e-3)
        assert result[f"total_{name}"] == session[name] >= result[f"training_{name}"] > 0


def test_time_adds_up_over_a_resumption(minidl, tmp_path):
    assert minidl("train", *QUICK, "--epochs", 2, "--out", "run", "--quiet")[0] == 0
    run = tmp_path / "run"
    first = read(run / "result.json")
    (run / "result.json").unlink()
    config = read(run / "config.json")
    latest = sorted((run / "checkpoints").iterdir())[-1]
    for file in latest.iterdir():
        file.unlink()
    assert minidl("resume", "run", "--quiet")[0] == 0  # from the checkpoint before
    one, two = read(run / "record.json")
    second = read(run / "result.json")
    assert (one["from_step"], one["to_step"], two["from_step"], two["to_step"]) == (0, 42, 21, 42)
    assert one["command"].startswith("minidl train") and two["command"] == "minidl resume run --quiet"
    assert second["total_seconds"] == pytest.approx(one["seconds"] + two["seconds"], abs=2e-3)
    assert second["total_cpu_seconds"] == pytest.approx(one["cpu_seconds"] + two["cpu_seconds"], abs=2e-3)
    assert second["total_seconds"] > first["total_seconds"]
    assert second["value"] == first["value"] and read(run / "config.json") == config


# Three parts of the data


def test_the_best_weights_are_chosen_without_the_test_data(minidl, tmp_path, monkeypatch):
    """The test split is read once, at the end, with the weights that were best on the validation split."""
    reads = []

    class Watched(DataLoader):
        def __iter__(self):
            reads.append(len(self.dataset))
            return super().__iter__()

    monkeypatch.setattr("minidl.recipes.mlp_digits.DataLoader", Watched)
    assert minidl("train", *QUICK, "--epochs", 6, "--out", "run", "--quiet")[0] == 0
    assert reads == [1300, 137] * 6 + [360]
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    accuracies = [row["val_accuracy"] for row in rows]
    result = read(tmp_path / "run/result.json")
    assert result["best_epoch"] == 1 + accuracies.index(max(accuracies))
    assert f"accuracy {result['value']:.4f}  (360 samples)" in minidl("eval", "run")[1]


def test_an_earlier_epochs_weights_may_be_the_best(minidl, tmp_path, monkeypatch):
    """A resumed run still has them, though their file is lost and later epochs are worse."""
    kept = []

    def spoil(self, trainer, row):
        row["val_accuracy"] = 0.9 - 0.1 * row["epoch"]
        if row["epoch"] == 1:
            kept.append({k: np.array(v) for k, v in trainer.model.state_dict().items()})
        wanted(self, trainer, row)

    wanted = runs.ModelCheckpoint.on_epoch_end
    monkeypatch.setattr(runs.ModelCheckpoint, "on_epoch_end", spoil)
    assert minidl("train", *QUICK, "--epochs", 3, "--out", "run", "--quiet")[0] == 0
    weights = tmp_path / "run/model.safetensors"
    for _ in range(2):
        assert read(tmp_path / "run/result.json")["best_epoch"] == 1
        saved = serialization.load(weights)
        assert all(np.array_equal(saved[k], v) for k, v in kept[0].items())
        weights.unlink()
        (tmp_path / "run/result.json").unlink()
        assert minidl("resume", "run", "--quiet")[0] == 0


@pytest.mark.parametrize("name", ["mlp-digits", "charlstm-shakespeare", "gpt-shakespeare"])
def test_the_parts_have_nothing_in_common(name, text_file):
    recipe = recipes.get(name)
    small = {"vocab_size": 8, "length": 16, "context": 16}
    config = recipe.configure({k: v for k, v in small.items() if k in recipe.defaults})
    train, validation, test = recipe.data(config, None if name == "mlp-digits" else str(text_file))
    if name == "mlp-digits":
        kept, held = set(train.dataset.indices.tolist()), set(validation.dataset.indices.tolist())
        assert not kept & held and len(kept | held) == 1437 and len(test.dataset) == 360
        assert not np.array_equal(train.dataset.dataset.transform, validation.dataset.dataset.transform)
    else:
        parts = [loader.dataset.tokens for loader in (train, validation, test)]
        np.testing.assert_array_equal(np.concatenate(parts), test.dataset.tokenizer.encode(text_file.read_text()))
        assert len(parts[1]) == pytest.approx(0.045 * sum(map(len, parts)), abs=2)


def test_images_are_held_out_at_random_and_always_the_same():
    data = ArrayDataset(np.arange(100), np.arange(100), transform=lambda x: -x)
    (kept, held), (again, _) = hold_out(data, 20, None), hold_out(data, 20, None)
    np.testing.assert_array_equal(kept.indices, again.indices)
    assert sorted([*kept.indices, *held.indices]) == list(range(100)) and len(held) == 20
    assert held.indices.max() - held.indices.min() > 50
    assert [held[i][0] for i in range(20)] == held.indices.tolist() and kept[3][0] == -kept.indices[3]


# What --data is given


def test_data_is_checked(minidl, tmp_path):
    for name in ("train-images-idx3-ubyte", "notes.txt"):
        (tmp_path / name).write_bytes(b"something")
    for arguments, message in (
        (("lenet-mnist", "--data", "notes.txt"), "notes.txt: not one of MNIST's files"),
        (("lenet-mnist", "--data", "train-images-idx3-ubyte"), "train-images-idx3-ubyte: not an IDX file"),
        (("cnn-cifar10", "--data", "notes.txt"), "notes.txt: not a whole cifar-10-binary.tar.gz"),
        (("charlstm-shakespeare", "--data", "notes.txt"), "notes.txt: not the tiny Shakespeare file"),
        (("mlp-digits", "--data", "notes.txt"), "mlp-digits has its data with it; leave out --data"),
        (("gpt-shakespeare", "--data", "nowhere"), "tiny Shakespeare not found"),
    ):
        status, _, err = minidl("train", *arguments, "--quiet")
        assert status == 2 and message in err, (arguments, err)


class SmallMNIST(ArrayDataset):
    """As many samples as are held out for validation, and 200 more."""

    def __init__(self, root, train, transform, download):
        super().__init__(np.zeros((5200, 1, 28, 28), np.uint8), np.zeros(5200, np.int64), transform=transform)


def test_a_batch_larger_than_the_data(minidl, monkeypatch):
    monkeypatch.setattr(LeNetMNIST, "dataset", SmallMNIST)
    status, _, err = minidl("train", "lenet-mnist", "--set", "batch_size=201")
    assert status == 2 and "batch_size=201 leaves no whole batch of 200 training samples" in err


def test_settings_that_do_not_fit_the_data(minidl, text_file):
    for settings, message in (
        (("gpt-shakespeare", "vocab_size=9"), "vocab_size must be 8, the number of different characters in the text"),
        (("charlstm-shakespeare", "vocab_size=8", "length=60000"), "TextWindows"),
        (("charlstm-shakespeare", "vocab_size=8", "batch_size=5000"), "do not fill a batch of 5000"),
    ):
        options = [part for setting in settings[1:] for part in ("--set", setting)]
        status, _, err = minidl("train", settings[0], "--data", text_file, *options)
        assert status == 2 and message in err and err.count("\n") == 1, err


# One folder for one run


def processes(*commands):
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "minidl", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for command in commands
    ]
    return [(*process.communicate(timeout=120), process.returncode) for process in started]


def test_runs_started_together_get_folders_of_their_own(tmp_path):
    commands = [("train", *QUICK, "--epochs", "1", "--seed", str(seed), "--quiet") for seed in (1, 2, 3)]
    assert [code for *_, code in processes(*commands)] == [0, 0, 0]
    folders = [tmp_path / "runs" / name for name in ("mlp-digits", "mlp-digits-2", "mlp-digits-3")]
    assert {read(folder / "result.json")["seed"] for folder in folders} == {1, 2, 3}
    for folder in folders:
        assert read(folder / "result.json")["seed"] == read(folder / "config.json")["config"]["seed"]


def test_one_of_two_runs_gets_the_folder(tmp_path):
    commands = [("train", *QUICK, "--epochs", "2", "--seed", str(seed), "--out", "run", "--quiet") for seed in (1, 2)]
    ended = processes(*commands)
    assert sorted(code for *_, code in ended) == [0, 2]
    winner = 1 + [code for *_, code in ended].index(0)
    (refused,) = [err for _, err, code in ended if code == 2]
    assert "run is in use: another process is training there" in refused or "run already holds a run" in refused
    assert read(tmp_path / "run/result.json")["seed"] == winner
    assert read(tmp_path / "run/config.json")["config"]["seed"] == winner


def test_one_of_two_resumptions_is_let_in(minidl, tmp_path):
    assert minidl("train", *QUICK, "--epochs", 30, "--out", "run", "--quiet")[0] == 0
    want = (tmp_path / "run/model.safetensors").read_bytes()
    (tmp_path / "run/result.json").unlink()
    first = sorted((tmp_path / "run/checkpoints").iterdir())[0]
    for folder in (tmp_path / "run/checkpoints").iterdir():
        if folder != first:
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()
    ended = processes(*[("resume", "run", "--quiet")] * 2)
    for _, err, code in ended:
        assert code == 0 or (code == 2 and ("run is in use" in err or "run is finished" in err)), err
    assert 0 in [code for *_, code in ended]
    assert (tmp_path / "run/model.safetensors").read_bytes() == want


@pytest.mark.parametrize("change", ["lr", "backend", "data"])
def test_a_run_does_not_go_on_with_other_settings(minidl, tmp_path, monkeypatch, change):
    assert minidl("train", *QUICK, "--epochs", 2, "--out", "run", "--quiet")[0] == 0
    (tmp_path / "run/result.json").unlink()
    before = (tmp_path / "run/model.safetensors").read_bytes()
    config = read(tmp_path / "run/config.json")
    if change == "lr":
        config["config"]["lr"] = 0.5
    elif change == "backend":
        pytest.importorskip("numba", reason="is the other backend")
        config["backend"] = "numba"
    else:
        monkeypatch.setattr(runs, "_checksum", lambda dataset: "other")
    (tmp_path / "run/config.json").write_text(json.dumps(config))
    status, _, err = minidl("resume", "run")
    assert status == 2 and "the run was started otherwise:" in err
    if change == "lr":
        assert "lr was 0.005 and is 0.5" in err
    assert (tmp_path / "run/model.safetensors").read_bytes() == before


def test_a_run_folder_that_vanishes(minidl, tmp_path, monkeypatch):
    from minidl.train import Trainer

    step = Trainer._train_step

    def remove(self, group):
        step(self, group)
        if self.step == 30:
            os.rename("run", "moved")

    monkeypatch.setattr(Trainer, "_train_step", remove)
    status, _, err = minidl("train", *QUICK, "--epochs", 3, "--out", "run", "--quiet")
    assert status == 2 and "run is gone: the run folder was moved or deleted while training" in err
    assert not (tmp_path / "run").exists()
