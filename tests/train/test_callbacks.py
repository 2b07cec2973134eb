"""Callbacks, and what is shown while training."""

import csv
import json
import math
import sys
import types

import numpy as np
import pytest

import minidl
from minidl import optim, serialization
from minidl.train import (
    CSVLogger,
    EarlyStopping,
    JSONLLogger,
    LambdaCallback,
    LearningCurve,
    LRMonitor,
    ModelCheckpoint,
    TensorBoard,
    Trainer,
)
from minidl.train.callbacks import jsonable
from minidl.train.progress import Live, Plain, Silent, choose, figures
from tests.train.helpers import Net, cross_entropy, loader


def make(*callbacks, **options):
    minidl.manual_seed(0)
    model = Net()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    options = {"progress": False, "metrics": ["accuracy", "confusion_matrix"], "seed": 0} | options
    return Trainer(model, cross_entropy, optimizer, callbacks=callbacks, **options)


def fake(callback, values, key="val_loss"):
    """Feed figures to a callback; returns the epochs after which it stopped."""
    trainer = types.SimpleNamespace(should_stop=False, weights=lambda: {}, save_weights=lambda path: None)
    for epoch, value in enumerate(values, 1):
        callback.on_epoch_end(trainer, {key: value})
        if trainer.should_stop:
            return epoch
    return None


def test_early_stopping_by_hand():
    assert fake(EarlyStopping(patience=2), [3, 2, 2.5, 1.9, 2, 2.1]) == 6
    assert fake(EarlyStopping(patience=1), [3, 2, 1]) is None
    assert fake(EarlyStopping(patience=1, min_delta=0.5), [3, 2.6]) == 2
    assert fake(EarlyStopping("val_accuracy", patience=1), [0.1, 0.2, 0.2], "val_accuracy") == 3
    assert fake(EarlyStopping("x", patience=1, mode="min"), [0.1, 0.2], "x") == 2
    assert fake(EarlyStopping(patience=2), [math.nan, math.nan, 1]) == 2
    with pytest.raises(ValueError, match="no figure 'val_loss'; there are loss"):
        fake(EarlyStopping(), [1], "loss")
    with pytest.raises(ValueError, match="'auto', 'min' or 'max'"):
        EarlyStopping(mode="least")


def test_early_stopping_restores_the_best_weights():
    seen = []
    stop = EarlyStopping("loss", patience=1, mode="max", restore_best=True)  # the loss falls: the first is "best"
    keep = LambdaCallback(on_epoch_end=lambda trainer, row: seen.append(trainer.weights()))
    trainer = make(stop, keep)
    trainer.fit(loader(), epochs=9)
    assert trainer.epoch == 2
    for name, value in trainer.model.state_dict().items():
        np.testing.assert_array_equal(value, seen[0][name])
        assert not np.array_equal(value, seen[1][name])


def test_model_checkpoint_keeps_the_best(tmp_path):
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    seen = []
    trainer = make(
        ModelCheckpoint(tmp_path / "best.safetensors", "loss", mode="max"),
        LambdaCallback(on_epoch_end=lambda trainer, row: seen.append((row["loss"], trainer.weights()))),
    )
    trainer.fit(loader(), epochs=3)
    best = max(seen, key=lambda pair: pair[0])[1]
    saved = serialization.load(tmp_path / "best.safetensors")
    assert all(np.array_equal(saved[name], best[name]) for name in best)


def test_loggers_write_the_history(tmp_path):
    trainer = make(LRMonitor(), JSONLLogger(tmp_path / "m.jsonl"), CSVLogger(tmp_path / "m.csv"))
    trainer.fit(loader(), loader(shuffle=False), epochs=3)
    rows = [json.loads(line) for line in (tmp_path / "m.jsonl").read_text().splitlines()]
    assert rows == trainer.history
    assert rows[0]["lr/0"] == 0.1
    assert np.sum(rows[0]["confusion_matrix"]) == 44
    with open(tmp_path / "m.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [float(row["val_loss"]) for row in table] == [row["val_loss"] for row in trainer.history]
    assert "confusion_matrix" not in table[0]


def test_json_has_null_where_there_is_no_number():
    assert jsonable({"a": math.nan, "b": [1.0, math.inf], "c": "x", "d": True}) == {
        "a": None, "b": [1.0, None], "c": "x", "d": True,
    }  # fmt: skip


def test_learning_curve(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    make(LearningCurve(tmp_path / "curve.png")).fit(loader(), loader(shuffle=False), epochs=2)
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed").open(tmp_path / "curve.png")
    image.load()
    assert image.format == "PNG" and image.width > image.height > 200


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed")
    make(TensorBoard(tmp_path, every=2)).fit(loader(), epochs=2)
    (events,) = tmp_path.glob("events*")
    content = events.read_bytes()
    assert all(tag in content for tag in (b"epoch/loss", b"epoch/accuracy", b"step/loss", b"step/lr"))


@pytest.mark.parametrize(
    ("module", "use"),
    [
        ("matplotlib.figure", lambda p: LearningCurve(p / "c.png")),
        ("tensorboardX", lambda p: TensorBoard(p)),
        ("safetensors.numpy", lambda p: ModelCheckpoint(p / "best.safetensors")),
        ("safetensors.numpy", lambda p: make(run_dir=p)),
    ],
)
def test_missing_libraries_name_the_extra(monkeypatch, tmp_path, module, use):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r'pip install "minidl\[train\]"'):
        use(tmp_path)


def test_lambda_callback():
    calls = []
    make(
        LambdaCallback(
            on_fit_begin=lambda t: calls.append("fit begins"),
            on_epoch_begin=lambda t: calls.append("epoch begins"),
            on_step_end=lambda t, row: calls.append(t.step),
            on_epoch_end=lambda t, row: calls.append("epoch ends"),
            on_fit_end=lambda t: calls.append("fit ends"),
        )
    ).fit(loader(batch_size=22), epochs=2)
    epoch = ["epoch begins", 1, 2, "epoch ends", "epoch begins", 3, 4, "epoch ends"]
    assert calls == ["fit begins", *epoch, "fit ends"]
    with pytest.raises(ValueError, match="unknown event 'on_batch_end'; known: on_fit_begin"):
        LambdaCallback(on_batch_end=print)


# Display


def test_plain_lines_where_there_is_no_terminal(capsys):
    assert type(choose(True)) is Plain
    make(progress=Plain(interval=0)).fit(loader(batch_size=22), loader(batch_size=44), epochs=1)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("epoch 1/1  1/2  lr 0.1  loss ")
    assert lines[2].startswith("epoch 1/1 validation  1/1  val_loss ")
    assert lines[3].startswith("epoch 1/1  lr 0.1  loss ") and "val_accuracy" in lines[3]


def test_live_bar_on_a_terminal(monkeypatch):
    rich = pytest.importorskip("rich.console", reason="rich is not installed")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    display = choose(True)
    assert type(display) is Live
    display.bar.live.console = console = rich.Console(force_terminal=True, width=140, record=True, file=sys.stdout)
    make(progress=display).fit(loader(), loader(shuffle=False), epochs=2)
    text = console.export_text()
    assert "epoch 2/2" in text and "val_accuracy" in text


def test_without_rich_a_terminal_gets_lines_and_a_hint(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setitem(sys.modules, "rich", None)
    assert type(choose(True)) is Plain
    assert 'pip install "minidl[train]"' in capsys.readouterr().out


def test_silence(capsys):
    make(progress=False).fit(loader(), epochs=1)
    assert type(choose(False)) is Silent and capsys.readouterr().out == ""
    assert choose(display := Silent()) is display


def test_figures_for_people():
    assert figures({"epoch": 1, "lr": 1e-3, "loss": 0.12345, "m": [1], "seconds": 2}) == "lr 0.001  loss 0.1235"
