"""``kill -9`` at any moment: what a run resumes from is whole, and its end is bit for bit that of a run left alone."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("safetensors", reason='checkpoints need safetensors: pip install "minidl[train]"')

from minidl.train import checkpoint

ROOT = Path(__file__).parents[2]
#: a training with dropout, momentum, a checkpoint after every step and workers; ends by writing its weights
PROGRAM = """
import sys
import numpy as np
import minidl
from minidl import optim
from minidl.train import Trainer
from tests.train.helpers import Net, cross_entropy, loader

folder, jit, workers, out = sys.argv[1], sys.argv[2] == "jit", int(sys.argv[3]), sys.argv[4]
minidl.manual_seed(0)
model = Net(p=0.3)
optimizer = optim.Adam(model.parameters(), lr=0.01)
options = {"worker_type": "process", "mp_context": "fork"} if workers else {}
train = loader(num_workers=workers, **options)
trainer = Trainer(model, cross_entropy, optimizer, run_dir=folder, progress=False, seed=1, jit=jit,
                  checkpoint_steps=1, keep_checkpoints=3)
print("started", flush=True)
trainer.fit(train, epochs=3, resume=True)
np.savez(out, **{k: np.array(v) for k, v in model.state_dict().items()})
"""


def start(folder, jit, workers, out):
    command = [sys.executable, "-c", PROGRAM, str(folder), jit, str(workers), str(out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


def resumed_until_done(folder, jit, workers, out, moments, whole, signals):
    """Kill the training at each of the moments (seconds after it started), then let it end."""
    for moment, signum in zip(moments, signals):
        process = start(folder, jit, workers, out)
        process.stdout.readline()
        time.sleep(moment)
        process.send_signal(signum)
        process.communicate(timeout=300)
        for path in checkpoint.listed(Path(folder) / "checkpoints"):  # each is whole, whenever the process died
            checkpoint.load(path)
    finish(start(folder, jit, workers, out))
    ours, theirs = np.load(out), np.load(whole)
    assert sorted(ours) == sorted(theirs)
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=f"{name}, killed at {moments}")


def moments(seed, count, length):
    return [random.Random(seed * 100 + i).uniform(0, length) for i in range(count)]


@pytest.mark.parametrize(("jit", "workers"), [("eager", 0)])
def test_killed_and_resumed(tmp_path, jit, workers):
    whole = tmp_path / "whole.npz"
    finish(start(tmp_path / "alone", jit, workers, whole))
    signals = [signal.SIGKILL] * 3
    resumed_until_done(tmp_path / "run", jit, workers, tmp_path / "end.npz", moments(1, 3, 0.2), whole, signals)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("jit", ["eager", "jit"])
@pytest.mark.parametrize("seed", range(4))
def test_killed_at_many_moments(tmp_path, jit, workers, seed):
    whole = tmp_path / "whole.npz"
    finish(start(tmp_path / "alone", jit, workers, whole))
    kinds = [signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGKILL]
    resumed_until_done(tmp_path / "run", jit, workers, tmp_path / "end.npz", moments(seed, 6, 0.3), whole, kinds)


def test_a_second_ctrl_c_ends_at_once(tmp_path):
    """The first one saves after the step; the second does not wait for it, and leaves checkpoints whole."""
    process = start(tmp_path / "run", "eager", 0, tmp_path / "end.npz")
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    for path in checkpoint.listed(tmp_path / "run" / "checkpoints"):
        checkpoint.load(path)
