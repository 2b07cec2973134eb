"""What a run folder, signals, NaN and exceptions may not do to a training: each ends in a clear error, nothing lost."""

import errno
import multiprocessing
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

pytest.importorskip("safetensors", reason='checkpoints need safetensors: pip install "minidl[train]"')

import minidl
from minidl import files, nn, optim
from minidl.data import ArrayDataset, DataLoader
from minidl.files import InUseError
from minidl.train import (
    Interrupted,
    JSONLLogger,
    LambdaCallback,
    ModelCheckpoint,
    NonFiniteLossError,
    RunFolderError,
    Trainer,
    checkpoint,
)
from tests.train.helpers import Net, arrays, cross_entropy, loader


def make(run_dir=None, *, lr=0.1, p=0.0, **options):
    minidl.manual_seed(0)
    model = Net(p=p)
    options = {"progress": False, "seed": 1, **options}
    return Trainer(model, cross_entropy, optim.SGD(model.parameters(), lr=lr), run_dir=run_dir, **options)


def weights(trainer):
    return {k: np.array(v) for k, v in trainer.model.state_dict().items()}


def at(step, do):
    """A callback that calls ``do(trainer)`` once, at a step."""
    return LambdaCallback(on_step_end=lambda trainer, row: do(trainer) if trainer.step == step else None)


# NaN


def poison(trainer):
    trainer.model.fc1.weight.array[0, 0] = np.nan


@pytest.mark.parametrize("when", ["last step of an epoch", "a step with a checkpoint"])
def test_nan_weights_are_not_saved(tmp_path, when):
    """The loss of the step before was finite: it is the update that went wrong."""
    options = {"checkpoint_steps": 4} if when == "a step with a checkpoint" else {}
    step = 8 if options else 12
    trainer = make(tmp_path, callbacks=[at(step, poison), ModelCheckpoint(tmp_path / "best.safetensors")], **options)
    with pytest.raises(NonFiniteLossError, match=rf"fc1.weight is not finite after step {step} \(epoch 2\)"):
        trainer.fit(loader(), loader(shuffle=False), epochs=3)
    for folder in checkpoint.listed(tmp_path / "checkpoints"):
        model, state = checkpoint.load(folder)
        assert state["step"] < step and all(np.isfinite(v).all() for v in model.values())
    assert checkpoint.listed(tmp_path / "checkpoints")
    assert all(np.isfinite(v).all() for v in minidl.load(tmp_path / "best.safetensors").values())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_validation_loss_that_is_not_finite_is_an_error(tmp_path, value):
    x, y = arrays(16)
    x[3] = value
    trainer = make(tmp_path)
    with np.errstate(all="ignore"), pytest.raises(NonFiniteLossError, match=r"the validation loss is nan after step 6"):
        trainer.fit(loader(), [(x, y)], epochs=3)
    assert not checkpoint.listed(tmp_path / "checkpoints")
    ignoring = make(on_nan="ignore")
    with np.errstate(all="ignore"):
        assert np.isnan(ignoring.fit(loader(), [(x, y)], epochs=1)[0]["val_loss"])


def test_infinities_that_do_not_learn_are_no_error(tmp_path):
    trainer = make(tmp_path)
    trainer.model.mask = nn.Parameter(np.full(3, -np.inf, np.float32), requires_grad=False)
    trainer.fit(loader(), epochs=1)
    assert len(checkpoint.listed(tmp_path / "checkpoints")) == 1


# The run folder


def test_one_process_at_a_time(tmp_path):
    code = (
        "import sys, time; from minidl import files\n"
        "with files.exclusive(sys.argv[1]):\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InUseError, match=rf"{re.escape(str(tmp_path))} is in use: another process is training"):
            make(tmp_path).fit(loader(), epochs=1)
        assert os.listdir(tmp_path) == [".lock"]
    finally:
        holder.kill()  # the lock ends with its process, however that ends
        holder.wait()
        holder.stdout.close()
    make(tmp_path).fit(loader(), epochs=1)
    make(tmp_path).fit(loader(), epochs=1, resume=True)


def test_one_thread_at_a_time(tmp_path):
    errors = []

    def second(trainer):
        def fit():
            try:
                make(tmp_path).fit(loader(), epochs=1)
            except InUseError as error:
                errors.append(str(error))

        thread = threading.Thread(target=fit)
        thread.start()
        thread.join()

    make(tmp_path, callbacks=[at(2, second)]).fit(loader(), epochs=1)
    assert errors == [f"{tmp_path} is in use by another thread"]
    with files.exclusive(tmp_path), files.exclusive(tmp_path):  # one may enter twice
        pass
    assert not files._holders


def test_a_forked_child_does_not_keep_the_lock(tmp_path):
    with files.exclusive(tmp_path):
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        child.start()
    try:
        make(tmp_path).fit(loader(), epochs=1)
        code = f"from minidl import files\nwith files.exclusive({str(tmp_path)!r}): print('free')"
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "free\n"
    finally:
        child.kill()
        child.join()


@pytest.mark.parametrize("how", ["epoch end", "checkpoint"])
def test_a_run_folder_that_vanishes_is_not_made_anew(tmp_path, how):
    folder = tmp_path / "run"
    options = {"checkpoint_steps": 3} if how == "checkpoint" else {}
    callbacks = [JSONLLogger(folder / "metrics.jsonl"), at(2, lambda trainer: folder.rename(tmp_path / "moved"))]
    with pytest.raises(RunFolderError, match=r"run is gone: the run folder was moved or deleted while training"):
        make(folder, callbacks=callbacks, **options).fit(loader(), epochs=2)
    assert not folder.exists()


def test_what_a_killed_process_left_is_cleared(tmp_path):
    trainer = make(tmp_path)
    trainer.fit(loader(), epochs=2)
    before = weights(trainer)
    checkpoints = tmp_path / "checkpoints"
    for leftover in (".curve.png.12-0123abcd.tmp", ".metrics.jsonl.4-ffffffff.tmp"):
        (tmp_path / leftover).write_bytes(b"half")
    (tmp_path / ".mine.tmp").write_bytes(b"somebody else's")
    (checkpoints / ".step-00000018.tmp").mkdir()
    (checkpoints / "step-00000012").rename(checkpoints / ".step-00000012.old")  # killed between two renames
    resumed = make(tmp_path)
    resumed.fit(loader(), epochs=2, resume=True)
    assert resumed.step == 12 and all(np.array_equal(before[k], v) for k, v in weights(resumed).items())
    assert sorted(os.listdir(tmp_path)) == [".lock", ".mine.tmp", "checkpoints"]
    assert sorted(os.listdir(checkpoints)) == ["step-00000006", "step-00000012"]


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path):
    """Half a checkpoint is on the disk when it is full; the earlier ones stay as they were."""
    trainer = make(tmp_path, callbacks=[JSONLLogger(tmp_path / "metrics.jsonl")])
    trainer.fit(loader(), epochs=1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        with pytest.raises(OSError, match=r"metrics\.jsonl|step-00000012/model\.safetensors") as caught:
            trainer.fit(loader(), epochs=1)
        trainer.callbacks.clear()
        with pytest.raises(OSError, match=r"step-\d+/model\.safetensors") as caught:
            trainer.fit(loader(), epochs=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert caught.value.errno == errno.EFBIG
    assert os.listdir(tmp_path / "checkpoints") == ["step-00000006"]
    checkpoint.load(tmp_path / "checkpoints" / "step-00000006")
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]


# Signals


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_after_the_step(tmp_path, signum):
    def kill(trainer):
        os.kill(os.getpid(), signum)

    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    whole = make()
    whole.fit(loader(), epochs=2)
    with pytest.raises(Interrupted) as caught:
        make(tmp_path, callbacks=[at(8, kill)]).fit(loader(), epochs=2)
    assert caught.value.signum == signum and caught.value.checkpoint.name == "step-00000008"
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    resumed = make(tmp_path)
    resumed.fit(loader(), epochs=2, resume=True)
    assert all(np.array_equal(v, weights(whole)[k]) for k, v in weights(resumed).items())


def test_a_programs_own_handler_is_left_alone():
    seen = []
    before = signal.signal(signal.SIGTERM, lambda *args: seen.append(args))
    try:
        make(callbacks=[at(2, lambda trainer: os.kill(os.getpid(), signal.SIGTERM))]).fit(loader(), epochs=1)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert len(seen) == 1


# Exceptions


class DieError(Exception):
    pass


def die(*args):
    raise DieError


class DyingData(ArrayDataset):
    def __getitems__(self, indices):
        if 20 in indices:
            raise DieError
        return super().__getitems__(indices)


def dying(where, tmp_path):
    """A trainer whose fit dies at ``where`` in the second epoch, and its loaders."""
    trainer = make(tmp_path, ema=0.9, metrics=["accuracy"])
    train, val = loader(), loader(shuffle=False)
    if where == "forward":
        forward = Net.forward

        def fail(self, x):
            return die() if trainer.step == 8 else forward(self, x)

        trainer.model.forward = fail.__get__(trainer.model)
    elif where == "backward":

        def fail_backward(trainer, row):
            if trainer.step == 7:
                trainer.model.fc1.weight.register_hook(die)

        trainer.callbacks.append(LambdaCallback(on_step_end=fail_backward))
    elif where == "callback":
        trainer.callbacks.append(at(8, die))
    elif where == "validation":
        trainer.callbacks.append(at(8, lambda trainer: setattr(val, "_fetcher", die)))
    elif where == "thread":
        train = DataLoader(DyingData(*arrays(44)), 8, num_workers=2)
    elif where == "process":
        train = DataLoader(DyingData(*arrays(44)), 8, num_workers=2, worker_type="process")
    return trainer, train, val


@pytest.mark.parametrize("where", ["forward", "backward", "callback", "validation", "thread", "process"])
def test_an_exception_leaves_everything_as_it_was(tmp_path, where):
    """Modes, handlers, lock, workers and weights; and the trainer can go on."""
    trainer, train, val = dying(where, tmp_path)
    trainer.model.train()
    handlers, threads = signal.getsignal(signal.SIGINT), threading.active_count()
    with pytest.raises(DieError):
        trainer.fit(train, val, epochs=2)
    assert minidl.is_grad_enabled() and trainer.model.training and trainer.model.fc1.training
    assert signal.getsignal(signal.SIGINT) == handlers and not files._holders
    assert threading.active_count() == threads and not multiprocessing.active_children()
    own = weights(trainer)
    assert all(np.isfinite(v).all() for v in own.values())
    assert not np.allclose(own["fc1.weight"], trainer.weights()["fc1.weight"])  # its own, not the averaged ones
    trainer.callbacks.clear()
    trainer.model.__dict__.pop("forward", None)
    trainer.model.fc1.weight.__dict__.pop("_hooks", None)
    if where == "backward":
        trainer.model.fc1.weight = nn.Parameter(own["fc1.weight"])
        trainer.optimizer = optim.SGD(trainer.model.parameters(), lr=0.1)
    step, epoch = trainer.step, trainer.epoch
    trainer.fit(loader(), loader(shuffle=False), epochs=1)
    assert trainer.epoch == epoch + 1 and trainer.step == step + 6
    assert trainer.history[-1]["step"] == trainer.step


def test_a_dead_worker_ends_the_epoch(tmp_path):
    class Dead(ArrayDataset):
        def __getitems__(self, indices):
            os._exit(3)

    train = DataLoader(Dead(*arrays(44)), 8, num_workers=1, worker_type="process", mp_context="fork")
    with pytest.raises(RuntimeError, match="terminated abruptly"):
        make(tmp_path).fit(train, epochs=1)
    assert not multiprocessing.active_children()


# Level


def test_memory_files_and_threads_stay_level():
    """A thousand steps and a hundred calls of fit leave nothing behind."""
    data = DataLoader(ArrayDataset(*arrays(200)), 8, shuffle=True, num_workers=2)
    trainer = make()

    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def fits(n):
        for _ in range(n):
            trainer.fit(data, loader(shuffle=False), epochs=1)

    fits(20)
    before = resident(), len(os.listdir("/proc/self/fd")), threading.active_count()
    fits(60)
    assert resident() - before[0] < 4 << 20
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == before[1:]
