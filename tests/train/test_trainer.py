"""The Trainer: that it learns, resumes bit for bit, accumulates, clips, averages, stops, and refuses bad input."""

import functools
import json
import math
import os
import shutil
import signal
import threading

import numpy as np
import pytest

pytest.importorskip("safetensors", reason='checkpoints need safetensors: pip install "minidl[train]"')

import minidl
from minidl import nn, ops, optim, serialization
from minidl.data import ArrayDataset, DataLoader, TextWindows
from minidl.optim import lr_scheduler
from minidl.train import (
    Callback,
    CheckpointError,
    EarlyStopping,
    Interrupted,
    LambdaCallback,
    NonFiniteLossError,
    Trainer,
    checkpoint,
)
from tests.train.helpers import Net, arrays, cross_entropy, loader


def make(run_dir=None, *, p=0.3, seed=0, momentum=0.9, lr=0.1, scheduler=None, **options):
    minidl.manual_seed(seed)
    model = Net(p=p)
    optimizer = optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    options = {"metrics": ["accuracy"], "seed": 1, "progress": False, **options}
    if scheduler is not None:
        options["scheduler"] = scheduler(optimizer)
    return Trainer(model, cross_entropy, optimizer, run_dir=run_dir, **options)


def weights(trainer):
    return {k: np.array(v) for k, v in trainer.model.state_dict().items()}


def figures(trainer):
    return [{k: v for k, v in row.items() if k not in ("seconds", "cpu_seconds")} for row in trainer.history]


def assert_same(a, b):
    assert figures(a) == figures(b)
    for name, value in weights(a).items():
        np.testing.assert_array_equal(value, weights(b)[name], err_msg=name)
    state_a, state_b = (checkpoint.split_arrays(t.optimizer.state_dict()) for t in (a, b))
    assert state_a[1] == state_b[1]
    assert all(np.array_equal(state_a[0][k], state_b[0][k]) for k in state_a[0])


class StopAt(Callback):
    """Presses Ctrl-C at a step."""

    def __init__(self, step, times=1):
        self.at, self.times = step, times

    def on_step_end(self, trainer, row):
        if trainer.step == self.at:
            for _ in range(self.times):
                os.kill(os.getpid(), signal.SIGINT)


def test_it_learns():
    trainer = make()
    history = trainer.fit(loader(), loader(shuffle=False), epochs=8)
    assert [row["epoch"] for row in history] == list(range(1, 9))
    assert history[-1]["step"] == 8 * 6
    assert history[-1]["val_accuracy"] > 0.9
    assert history[-1]["val_loss"] < history[0]["val_loss"]
    evaluated = trainer.evaluate(loader(shuffle=False))
    assert evaluated["loss"] == history[-1]["val_loss"]


def test_evaluation_is_exact_over_uneven_batches():
    trainer = make()
    x, y = arrays()
    exact = cross_entropy(trainer.model.eval()(minidl.tensor(x)), minidl.tensor(y)).item()
    assert trainer.evaluate(loader(batch_size=7, shuffle=False))["loss"] == pytest.approx(exact, rel=1e-6)


def test_evaluation_changes_nothing():
    trainer = make()
    trainer.model.train()
    trainer.model.fc2.eval()
    before, state = weights(trainer), minidl.random.default_generator().get_state()
    trainer.evaluate(loader())
    assert trainer.model.training and not trainer.model.fc2.training
    np.testing.assert_array_equal(state, minidl.random.default_generator().get_state())
    assert all(np.array_equal(before[k], v) for k, v in weights(trainer).items())


def test_predict_takes_arrays_and_loaders():
    trainer = make()
    x, _ = arrays()
    want = np.asarray(trainer.model.eval()(minidl.tensor(x)).detach())
    np.testing.assert_allclose(trainer.predict(x, batch_size=10), want, rtol=1e-5)
    np.testing.assert_allclose(trainer.predict(loader(shuffle=False)), want, rtol=1e-5)
    with pytest.raises(ValueError, match="no batches"):
        trainer.predict([])


# Exact resume

SETUPS = {
    "plain": {},
    "step scheduler": {"scheduler": lambda o: lr_scheduler.OneCycleLR(o, 0.2, 40), "scheduler_interval": "step"},
    "epoch scheduler": {"scheduler": lambda o: lr_scheduler.StepLR(o, 2, 0.5), "scheduler_interval": "epoch"},
    "plateau": {
        "scheduler": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0, threshold=10.0, threshold_mode="abs")
    },
    "accumulation": {"accumulate_steps": 4},
    "average": {"ema": 0.9},
    "clipping": {"grad_clip_norm": 0.5, "grad_clip_value": 0.2},
}


@pytest.mark.parametrize("setup", list(SETUPS))
@pytest.mark.parametrize("at", ["mid-epoch", "end of epoch", "first step"])
def test_resume_is_bit_for_bit(tmp_path, setup, at):
    options = SETUPS[setup]
    per_epoch = 2 if setup == "accumulation" else 6
    step = {"mid-epoch": per_epoch + per_epoch // 2, "end of epoch": 2 * per_epoch, "first step": 1}[at]
    uninterrupted = make(**options)
    uninterrupted.fit(loader(), loader(shuffle=False), epochs=4)

    stopped = make(tmp_path, callbacks=[StopAt(step)], **options)
    with pytest.raises(Interrupted) as caught:
        stopped.fit(loader(), loader(shuffle=False), epochs=4)
    assert caught.value.checkpoint.name == f"step-{step:08d}"
    assert stopped.step == step

    resumed = make(tmp_path, seed=77, **options)  # other weights at first
    np.random.seed(3)
    resumed.fit(loader(seed=99), loader(shuffle=False), epochs=4, resume=True)
    assert_same(uninterrupted, resumed)


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_from_a_checkpoint_between_steps(tmp_path, workers):
    """A run that died without notice goes on from what checkpoint_steps left."""

    class DieError(Exception):
        pass

    def die(trainer, row):
        if trainer.step == 9:
            raise DieError

    uninterrupted = make()
    uninterrupted.fit(loader(num_workers=workers), loader(shuffle=False), max_steps=20)
    options = {"checkpoint_steps": 4, "checkpoint_every": 0}
    died = make(tmp_path, callbacks=[LambdaCallback(on_step_end=die)], **options)
    with pytest.raises(DieError):
        died.fit(loader(num_workers=workers), loader(shuffle=False), max_steps=20)
    assert [p.name for p in checkpoint.listed(tmp_path / "checkpoints")] == ["step-00000004", "step-00000008"]
    resumed = make(tmp_path, **options)
    resumed.fit(loader(num_workers=workers), loader(shuffle=False), max_steps=20, resume=True)
    assert_same(uninterrupted, resumed)
    assert resumed.step == 20


def test_resume_in_validation(tmp_path):
    """Ctrl-C while validating: the averaged weights are not the ones that are saved."""

    class Stopping(DataLoader):
        def __iter__(self):
            os.kill(os.getpid(), signal.SIGINT)
            return super().__iter__()

    uninterrupted = make(ema=0.5)
    uninterrupted.fit(loader(), loader(shuffle=False), epochs=2)
    stopped = make(tmp_path, ema=0.5)
    with pytest.raises(Interrupted):
        stopped.fit(loader(), Stopping(loader().dataset, 8), epochs=2)
    assert stopped.history == [] and stopped.step == 6
    resumed = make(tmp_path, ema=0.5)
    resumed.fit(loader(), loader(shuffle=False), epochs=2, resume=True)
    assert_same(uninterrupted, resumed)


def test_resume_with_batches_in_a_list(tmp_path):
    """A training set that is just a list of batches resumes too: what was done is skipped."""
    batches = list(loader())
    uninterrupted = make()
    uninterrupted.fit(batches, epochs=2)
    with pytest.raises(Interrupted):
        make(tmp_path, callbacks=[StopAt(8)]).fit(batches, epochs=2)
    resumed = make(tmp_path)
    resumed.fit(batches, epochs=2, resume=True)
    assert_same(uninterrupted, resumed)


def test_resume_restores_the_other_generators(tmp_path):
    import random

    trainer = make(tmp_path)
    trainer.fit(loader(), epochs=1)
    want = (random.random(), np.random.rand(), minidl.random.default_generator().uniform())
    make(tmp_path).fit(loader(), epochs=1, resume=True)
    assert (random.random(), np.random.rand(), minidl.random.default_generator().uniform()) == want


def test_resume_with_nothing_there_starts(tmp_path):
    a, b = make(tmp_path), make()
    a.fit(loader(), epochs=1, resume=True)
    b.fit(loader(), epochs=1)
    assert_same(a, b)
    with pytest.raises(ValueError, match="run_dir"):
        b.fit(loader(), epochs=1, resume=True)


def test_early_stopping_resumes(tmp_path):
    def stopper():
        return EarlyStopping("val_loss", patience=2, min_delta=10.0)

    uninterrupted = make(callbacks=[stopper()])
    uninterrupted.fit(loader(), loader(shuffle=False), epochs=9)
    assert uninterrupted.epoch == 3
    with pytest.raises(Interrupted):
        make(tmp_path, callbacks=[stopper(), StopAt(13)]).fit(loader(), loader(shuffle=False), epochs=9)
    resumed = make(tmp_path, callbacks=[stopper()])
    resumed.fit(loader(), loader(shuffle=False), epochs=9, resume=True)
    assert_same(uninterrupted, resumed)
    again = make(tmp_path, callbacks=[stopper()])
    again.fit(loader(), loader(shuffle=False), epochs=9, resume=True)  # it had stopped, and stays so
    assert_same(uninterrupted, again)


def test_fit_goes_on_with_more_epochs():
    a, b = make(), make()
    a.fit(loader(), epochs=3)
    b.seed = None
    minidl.random.default_generator().set_state(minidl.random.Generator(1).fold_in(0x747261696E).get_state())
    data = loader()
    b.fit(data, epochs=1)
    b.fit(data, epochs=2)
    assert_same(a, b)


# What a step does


def test_accumulated_batches_equal_a_large_one():
    small, large = make(p=0, accumulate_steps=3), make(p=0)
    small.fit(loader(batch_size=5, shuffle=False), epochs=2)  # 44 samples: 5+5+5, …, 5+5+4
    large.fit(loader(batch_size=15, shuffle=False), epochs=2)
    assert small.step == large.step == 6
    for name, value in weights(small).items():
        np.testing.assert_allclose(value, weights(large)[name], rtol=1e-4, atol=1e-6, err_msg=name)


def ignoring(n=48, classes=3):
    """Data of which some samples have no target."""
    x, y = arrays(n)
    return x, np.where(np.random.default_rng(1).random(n) < 0.4, -100, y)


LOSSES = {
    "cross-entropy": nn.CrossEntropyLoss(),
    "class weights": nn.CrossEntropyLoss(weight=np.array([0.2, 1.0, 3.0], np.float32)),
    "smoothed": nn.CrossEntropyLoss(label_smoothing=0.1),
    "function": ops.cross_entropy,
    "partial": functools.partial(ops.cross_entropy, ignore_index=-100),
    "focal": nn.FocalLoss(),
    "sum": nn.CrossEntropyLoss(reduction="sum"),
}


@pytest.mark.parametrize("name", LOSSES)
def test_averages_weigh_by_what_was_counted(name):
    """With ignored targets, batches of 8 are as good as one of 48, in evaluation and in accumulated gradients."""
    x, y = ignoring()

    def trainer(accumulate_steps=1):
        minidl.manual_seed(0)
        model = Net(p=0)
        optimizer = optim.SGD(model.parameters(), lr=0.01)
        return Trainer(
            model, LOSSES[name], optimizer, metrics=["accuracy"], accumulate_steps=accumulate_steps, progress=False
        )

    def batches(size):
        return DataLoader(ArrayDataset(x, y), size)

    whole = trainer().evaluate(batches(48))
    assert np.isfinite(whole["loss"]) and whole["accuracy"] <= 1
    for size in (5, 8, 20):
        found = trainer().evaluate(batches(size))
        assert found["loss"] == pytest.approx(whole["loss"], rel=1e-5)
        assert found["accuracy"] == whole["accuracy"]
    large, small, uneven = trainer(), trainer(6), trainer(3)
    large.fit(batches(48), epochs=2)
    small.fit(batches(8), epochs=2)
    uneven.fit(batches(20), epochs=2)
    for other in (small, uneven):
        for key, value in weights(large).items():
            np.testing.assert_allclose(weights(other)[key], value, rtol=1e-4, atol=1e-6, err_msg=key)
        for row, want in zip(other.history, large.history):
            assert row["loss"] == pytest.approx(want["loss"], rel=1e-5) and row["accuracy"] == want["accuracy"]


def test_a_loss_may_say_what_it_counts():
    class PerToken(nn.Module):
        def forward(self, output, target):
            return ((output[:, 0] - target) ** 2 * (target != 0)).sum() / self.count(output, target)

        def count(self, output, target):
            return int((np.asarray(target) != 0).sum())

    y = np.array([0, 1, 2, 3, 0, 0, 1, 1, 1, 1, 1], np.float32)
    x = np.random.default_rng(0).normal(size=(11, 6)).astype(np.float32)
    minidl.manual_seed(0)
    model = Net()
    trainer = Trainer(model, PerToken(), optim.SGD(model.parameters()), progress=False)
    want = trainer.evaluate([(x, y)])["loss"]
    assert trainer.evaluate([(x[:3], y[:3]), (x[3:], y[3:])])["loss"] == pytest.approx(want, rel=1e-6)


def test_clipping_by_norm_and_value():
    seen = []

    def look(trainer, row):
        g = np.concatenate([np.asarray(p.grad).ravel() for p in trainer.model.parameters()])
        seen.append((np.linalg.norm(g), np.abs(g).max()))

    make(grad_clip_norm=0.01, callbacks=[LambdaCallback(on_step_end=look)]).fit(loader(), epochs=1)
    assert max(norm for norm, _ in seen) <= 0.01 * 1.001
    seen.clear()
    make(grad_clip_value=0.003, callbacks=[LambdaCallback(on_step_end=look)]).fit(loader(), epochs=1)
    assert max(largest for _, largest in seen) == pytest.approx(0.003)


def test_averaged_weights_are_validated_and_saved(tmp_path):
    trainer = make(ema=0.8)
    trainer.fit(loader(), loader(shuffle=False), epochs=2)
    own, averaged = weights(trainer), trainer.weights()
    assert not np.allclose(own["fc1.weight"], averaged["fc1.weight"])
    trainer.save_weights(tmp_path / "w.safetensors")
    np.testing.assert_array_equal(serialization.load(tmp_path / "w.safetensors")["fc1.weight"], averaged["fc1.weight"])
    plain = make()
    plain.model.load_state_dict(averaged)
    assert plain.evaluate(loader(shuffle=False))["loss"] == trainer.history[-1]["val_loss"]


def test_schedulers_step_when_told():
    def constant(factor):
        return lambda o: lr_scheduler.ExponentialLR(o, factor)

    by_step = make(scheduler=constant(0.9), scheduler_interval="step")
    by_step.fit(loader(), epochs=2)
    assert by_step.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.9**12)
    assert by_step.history[-1]["lr"] == pytest.approx(0.1 * 0.9**11)  # the one the last step was made with
    by_epoch = make(scheduler=constant(0.9), scheduler_interval="epoch")
    by_epoch.fit(loader(), epochs=2)
    assert by_epoch.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.9**2)
    plateau = make(
        scheduler=lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0, threshold=10.0, threshold_mode="abs"),
        monitor="loss",
    )
    plateau.fit(loader(), epochs=3)
    assert plateau.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.1**2)


def test_the_interval_must_be_said():
    with pytest.raises(ValueError, match="must be 'step' or 'epoch' for StepLR, got None"):
        make(scheduler=lambda o: lr_scheduler.StepLR(o, 1))
    with pytest.raises(ValueError, match="'plateau' for ReduceLROnPlateau, got 'step'"):
        make(scheduler=lr_scheduler.ReduceLROnPlateau, scheduler_interval="step")
    trainer = make(scheduler=lr_scheduler.ReduceLROnPlateau, monitor="val_los")
    with pytest.raises(ValueError, match=r"monitor='val_los' is not among the figures: epoch, step, lr, loss"):
        trainer.fit(loader(), epochs=1)


def test_a_nan_loss_is_refused():
    x, y = arrays()
    x[20] = np.nan
    trainer = make()
    batches = [(x[i : i + 8], y[i : i + 8]) for i in range(0, 40, 8)]
    with pytest.raises(NonFiniteLossError, match=r"the loss is nan at step 3 \(epoch 1, batch 3; lr 0.1\)"):
        trainer.fit(batches, epochs=1)
    assert trainer.step == 2 and all(np.isfinite(v).all() for v in weights(trainer).values())
    ignoring = make(on_nan="ignore")
    ignoring.fit(batches, epochs=1)
    assert math.isnan(ignoring.history[0]["loss"])


def test_state_is_carried_through_time(tmp_path):
    """The model gets the state of the batch before, None at the start of an epoch, and another one in validation."""
    seen = []

    class Counter(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Linear(1, 2)

        def forward(self, x, state=None):
            seen.append((self.training, None if state is None else float(state[0].sum())))
            state = (x.astype(np.float32).sum(1, keepdims=True) + (0 if state is None else state[0]),)
            return self.scale(state[0]), state

    def fit(folder, **options):
        minidl.manual_seed(0)
        model = Counter()
        trainer = Trainer(
            model, lambda out, y: (out**2).mean(), optim.SGD(model.parameters(), lr=1e-4), carry_state=True,
            run_dir=folder, progress=False, **options,
        )  # fmt: skip
        windows = TextWindows(np.ones(25, int), 4)
        data = DataLoader(windows, batch_size=2)
        trainer.fit(data, data, epochs=2, resume=folder is not None)
        return trainer

    whole = fit(None)
    one_epoch = [(True, None), (True, 8.0), (True, 16.0), (False, None), (False, 8.0), (False, 16.0)]
    assert seen == one_epoch * 2
    seen.clear()
    with pytest.raises(Interrupted):
        fit(tmp_path, callbacks=[StopAt(5)])
    assert_same(whole, fit(tmp_path))
    assert seen[-4] == (True, 16.0)


def test_max_steps_ends_within_an_epoch():
    trainer = make()
    trainer.fit(loader(), loader(shuffle=False), max_steps=8)
    assert trainer.step == 8 and [row["step"] for row in trainer.history] == [6, 8]
    trainer.fit(loader(), max_steps=1)
    assert trainer.step == 9


# Ctrl-C


def test_ctrl_c_saves_and_tells_how_to_go_on(tmp_path, capsys):
    trainer = make(tmp_path, callbacks=[StopAt(3)], progress=True)
    trainer.resume_hint = "minidl resume runs/x"
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(loader(), epochs=2)
    out = capsys.readouterr().out
    assert "step-00000003" in out and "To resume: minidl resume runs/x" in out
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_aborts(tmp_path):
    with pytest.raises(KeyboardInterrupt) as caught:
        make(tmp_path, callbacks=[StopAt(3, times=2)]).fit(loader(), epochs=2)
    assert not isinstance(caught.value, Interrupted)
    assert not checkpoint.listed(tmp_path / "checkpoints")


def test_ctrl_c_without_a_run_folder():
    with pytest.raises(Interrupted, match="nothing is saved") as caught:
        make(callbacks=[StopAt(1)]).fit(loader(), epochs=1)
    assert caught.value.checkpoint is None


def test_fit_in_another_thread():
    trainer = make()
    thread = threading.Thread(target=lambda: trainer.fit(loader(), epochs=1))
    thread.start()
    thread.join()
    assert trainer.epoch == 1


# Checkpoints


@pytest.mark.parametrize("file", ["model.safetensors", "training.safetensors", "state.json", "SHA256SUMS"])
@pytest.mark.parametrize("damage", ["truncated", "changed", "missing"])
def test_damaged_checkpoints_are_refused(tmp_path, capsys, file, damage):
    make(tmp_path).fit(loader(), epochs=2)
    earlier, latest = checkpoint.listed(tmp_path / "checkpoints")
    path = latest / file
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.write_bytes(content[:20] + bytes([content[20] ^ 1]) + content[21:])
    shutil.copytree(tmp_path / "checkpoints", tmp_path / "kept")
    trainer = make(tmp_path)
    before = weights(trainer)
    with pytest.raises(CheckpointError) as caught:
        trainer.fit(loader(), epochs=4, resume=latest)
    message = str(caught.value)
    assert str(latest) in message and "cannot be used" in message and str(earlier) in message
    assert all(np.array_equal(before[k], v) for k, v in weights(trainer).items())
    uninterrupted = make()
    uninterrupted.fit(loader(), epochs=4)
    capsys.readouterr()
    for resume in (earlier, True):  # True: the one before is used, and that is said
        trainer = make(tmp_path, progress=True)
        trainer.fit(loader(), epochs=4, resume=resume)
        assert_same(uninterrupted, trainer)
        said = capsys.readouterr().out
        assert (f"{latest}: this checkpoint cannot be used" in said) == (resume is True)
        assert (f"Resuming from {earlier}" in said) == (resume is True)
        shutil.rmtree(tmp_path / "checkpoints")
        shutil.copytree(tmp_path / "kept", tmp_path / "checkpoints")
    (earlier / file).write_bytes(b"")
    with pytest.raises(CheckpointError, match="cannot be used"):
        make(tmp_path).fit(loader(), epochs=4, resume=True)


def test_a_failed_save_leaves_the_earlier_checkpoint(tmp_path, monkeypatch):
    trainer = make(tmp_path)
    trainer.fit(loader(), epochs=1)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        trainer.fit(loader(), epochs=1)
    monkeypatch.undo()
    (only,) = checkpoint.listed(tmp_path / "checkpoints")
    assert only.name == "step-00000006"
    checkpoint.load(only)
    trainer.save_checkpoint(loader())  # and what the failed one left behind is no obstacle
    assert len(checkpoint.listed(tmp_path / "checkpoints")) == 2


def test_checkpoints_are_standard_files(tmp_path):
    trainer = make(tmp_path)
    trainer.fit(loader(), epochs=1)
    (folder,) = checkpoint.listed(tmp_path / "checkpoints")
    from safetensors.numpy import load_file

    saved = load_file(folder / "model.safetensors")
    assert saved.keys() == trainer.model.state_dict().keys()
    np.testing.assert_array_equal(saved["fc1.weight"], weights(trainer)["fc1.weight"])
    assert json.loads((folder / "state.json").read_text())["state"]["step"] == 6
    if shutil.which("sha256sum"):
        assert os.system(f"cd '{folder}' && sha256sum --status -c SHA256SUMS") == 0


def test_old_checkpoints_are_deleted(tmp_path):
    make(tmp_path, keep_checkpoints=3).fit(loader(), epochs=5)
    assert [p.name for p in checkpoint.listed(tmp_path / "checkpoints")] == [f"step-{6 * e:08d}" for e in (3, 4, 5)]
    shutil.rmtree(tmp_path)
    make(tmp_path, checkpoint_every=2).fit(loader(), epochs=3)
    assert [p.name for p in checkpoint.listed(tmp_path / "checkpoints")] == ["step-00000012"]


def test_checkpoints_of_other_trainers_are_refused(tmp_path):
    make(tmp_path).fit(loader(), epochs=1)
    with pytest.raises(CheckpointError, match=r"does not fit this Trainer: .*without ema"):
        make(tmp_path, ema=0.9).fit(loader(), epochs=2, resume=True)
    with pytest.raises(CheckpointError, match=r"(?s)does not fit this Trainer: .*fc1\.weight: shape"):
        trainer = make(tmp_path)
        trainer.model = Net(hidden=9)
        trainer.fit(loader(), epochs=2, resume=True)
    with pytest.raises(CheckpointError, match="num_samples"):
        make(tmp_path).fit(loader(n=20), epochs=2, resume=True)
    with pytest.raises(CheckpointError, match=r"metrics that this Trainer lacks: Accuracy0"):
        make(tmp_path, metrics=[]).fit(loader(), epochs=2, resume=True)
    with pytest.raises(CheckpointError, match="no such folder"):
        make(tmp_path).fit(loader(), epochs=2, resume=tmp_path / "nowhere")


def test_bad_arguments():
    for options, message in (
        ({"accumulate_steps": 0}, "accumulate_steps must be an integer of at least 1, got 0"),
        ({"accumulate_steps": 1.5}, "accumulate_steps must be an integer"),
        ({"keep_checkpoints": 0}, "keep_checkpoints must be an integer of at least 1"),
        ({"checkpoint_every": -1}, "checkpoint_every must be an integer of at least 0"),
        ({"checkpoint_steps": 0}, "checkpoint_steps must be None or an integer of at least 1"),
        ({"grad_clip_norm": -1}, "grad_clip_norm must be None or above 0, got -1"),
        ({"grad_clip_value": math.nan}, "grad_clip_value must be None or above 0, got nan"),
        ({"on_nan": "skip"}, "'raise' or 'ignore'"),
        ({"metrics": ["acuracy"]}, "unknown metric"),
    ):
        with pytest.raises(ValueError, match=message):
            make(**options)
    with pytest.raises(ValueError, match="epochs or max_steps"):
        make().fit(loader())
    for limits in ({"epochs": -1}, {"epochs": 1.5}, {"epochs": math.nan}, {"max_steps": -1}, {"max_steps": "3"}):
        with pytest.raises(ValueError, match=f"fit: {next(iter(limits))} must be None or an integer of at least 0"):
            make().fit(loader(), **limits)
    assert make().fit(loader(), epochs=0) == []
    with pytest.raises(ValueError, match="no run_dir"):
        make().save_checkpoint()
    with pytest.raises(ValueError, match="gave no batches; is it an iterator"):
        make().fit(iter(loader()), epochs=2)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_jit_trains_as_eager_does(backend):
    if backend == "numba":
        pytest.importorskip("numba", reason="the numba backend needs numba (pip install 'minidl[numba]')")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(44, 6)).astype(np.float32), rng.integers(0, 3, 44)
    found = []
    for jit in (False, True):
        with minidl.use_backend(backend):
            minidl.manual_seed(0)
            model = nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.2), nn.ReLU(), nn.Linear(16, 3))
            trainer = Trainer(
                model, nn.CrossEntropyLoss(), optim.AdamW(model.parameters(), lr=0.01), metrics=["accuracy"],
                grad_clip_norm=0.5, ema=0.9, seed=1, progress=False, jit=jit,
            )  # fmt: skip
            # the last batch is smaller: captured as a program of its own
            history = trainer.fit(DataLoader(ArrayDataset(x, y), 8, shuffle=True, seed=0), epochs=3)
            weights = [np.array(p.detach()) for p in model.parameters()]
            found.append(([row["loss"] for row in history], weights))
    np.testing.assert_allclose(found[1][0], found[0][0], rtol=1e-5)
    for a, b in zip(found[1][1], found[0][1]):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_jit_with_carried_state_and_no_accumulation():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.head = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, x, state):
            y, state = self.lstm(x, state)
            return self.head(y[:, -1]), state

    rng = np.random.default_rng(0)
    batches = [(rng.normal(size=(4, 5, 3)).astype(np.float32), rng.integers(0, 2, 4)) for _ in range(4)]
    losses = []
    for jit in (False, True):
        minidl.manual_seed(0)
        net = Net()
        trainer = Trainer(
            net, nn.CrossEntropyLoss(), optim.SGD(net.parameters(), lr=0.1), carry_state=True, progress=False, jit=jit
        )
        losses.append([row["loss"] for row in trainer.fit(batches, epochs=3)])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    with pytest.raises(ValueError, match="accumulate_steps must be 1"):
        Trainer(net, nn.CrossEntropyLoss(), optim.SGD(net.parameters(), lr=0.1), accumulate_steps=2, jit=True)
