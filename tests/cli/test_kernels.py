"""``minidl kernels``."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("hypothesis", reason="the conformance suite generates its cases with hypothesis")

from minidl.backend import Backend, Kernel
from minidl.cli import main
from minidl.core import registry
from minidl.testing import roofline

REPOSITORY = Path(__file__).parent.parent.parent


@pytest.fixture
def mine():
    """A backend with a right and a wrong kernel, and one for a primitive that does not exist."""
    backend = Backend()
    backend.name = "mine"
    for name, function in (("relu", lambda x: np.maximum(x, 0)), ("exp", lambda x: np.exp(x) + 1), ("nope", np.exp)):
        backend.kernels[name] = [Kernel(name, "mine", function, dtypes=("float32",), note="a note")]
    registry.register(backend)
    yield backend
    del registry.backends["mine"]


def test_list(mine, capsys):
    assert main(["kernels", "list", "--backend", "mine"]) == 0
    out = capsys.readouterr().out
    head, *rows = out.splitlines()
    assert head.split() == ["primitive", "backend", "dtypes", "condition", "served", "by", "note"]
    assert any(r.split()[:4] == ["relu", "mine", "float32", "always"] and r.endswith("a note") for r in rows)
    assert any(r.startswith("nope") and r.endswith("no such primitive") for r in rows)
    assert not any(r.startswith("tanh") for r in rows)
    assert main(["kernels", "list", "tanh", "--backend", "mine"]) == 0
    assert "reference (numpy)" in capsys.readouterr().out


def test_check_passes_and_fails(mine, capsys, tmp_path):
    arguments = ["--backend", "mine", "--examples", "5", "--out", str(tmp_path)]
    assert main(["kernels", "check", "relu", *arguments]) == 0
    assert "1 of 1 kernels conform" in capsys.readouterr().out
    assert main(["kernels", "check", *arguments]) == 1
    out = capsys.readouterr().out
    assert "1 of 3 kernels conform" in out and "there is no primitive 'nope' to serve" in out
    (saved,) = tmp_path.glob("exp-mine-*.npz")
    assert f"minidl kernels check --replay {saved}" in out
    assert main(["kernels", "check", "--replay", str(saved)]) == 1
    assert "FAILED exp on mine" in capsys.readouterr().out
    mine.kernels["exp"] = [Kernel("exp", "mine", np.exp)]
    assert main(["kernels", "check", "--replay", str(saved)]) == 0


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["list", "sofmax", "--backend", "mine"], "did you mean softmax"),
        (["check", "sofmax", "--backend", "mine"], "did you mean softmax"),
        (["check", "tanh", "--backend", "mine"], "no kernel for tanh"),
        (["check", "--backend", "no_such"], "unknown backend 'no_such'"),
        (["check", "--reference", "--backend", "mine"], "--reference needs the NAME"),
        (["check", "--replay", __file__], "not a saved conformance case"),
        (["bench", "svd", "--backend", "mine"], "no benchmark cases for 'svd'"),
        (["bench", "sofmax"], "did you mean softmax"),
        (["new", "sofmax"], "did you mean softmax"),
    ],
)
def test_mistakes_are_one_line(mine, capsys, arguments, message):
    assert main(["kernels", *arguments]) == 2
    err = capsys.readouterr().err.strip()
    assert message in err and len(err.splitlines()) == 1


def test_bench(mine, capsys, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="plots are drawn with matplotlib")
    monkeypatch.setattr(roofline, "measure", lambda backend: {"gflops": 100.0, "gbs": 10.0})
    monkeypatch.setattr(roofline, "cache_file", lambda: tmp_path / "roofline.json")
    arguments = ["kernels", "bench", "--backend", "numpy", "--backend", "mine", "--seconds", "0", "--size", "0"]
    assert main([*arguments, "relu", "--warm", "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "100 GFLOP/s (sgemm), 10 GB/s (copy)" in out and "caches warm" in out
    assert [line.split()[2] for line in out.splitlines() if line.startswith("relu")] == ["numpy", "mine"]
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"results.json", "relu.png"}
    assert main([*arguments, "exp", "--warm"]) == 1  # a wrong kernel
    assert "wrong: values" in capsys.readouterr().out
    assert main(["kernels", "bench", "relu", "--backend", "mine", "--size", "99"]) == 2
    assert "relu has cases 0 to 2" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["softmax", "concat", "lstm", "one_hot"])
def test_new_writes_a_kernel_that_conforms_and_its_test(tmp_path, name, capsys):
    assert main(["kernels", "new", name, "--backend", "numpy", "--out", str(tmp_path)]) == 0
    assert f"minidl kernels check {name} --backend numpy --import {name}_kernel" in capsys.readouterr().out
    assert main(["kernels", "new", name, "--backend", "numpy", "--out", str(tmp_path)]) == 2  # nothing is overwritten
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."]
    if name == "one_hot":
        command = [sys.executable, "-m", "minidl", "kernels", "check", name, "--backend", "numpy"]
        command += ["--import", f"{name}_kernel", "--examples", "5"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout or "1 of 1 kernels conform" in done.stdout


def test_kernel_registered_before_its_backend_is_loaded_is_asked_first(monkeypatch):
    theirs, ours = (lambda x: x), (lambda x: x)

    class Point:
        name, dist = "late", None

        @staticmethod
        def load():
            def make():
                backend = Backend()
                backend.name = "late"
                registry.register(backend)
                registry.kernel("relu", backend="late")(theirs)
                return backend

            return make

    monkeypatch.setattr(registry, "_entry_points", lambda: {"late": Point})
    registry.kernel("relu", backend="late")(ours)
    try:
        assert [k.function for k in registry.load("late").kernels["relu"]] == [ours, theirs]
    finally:
        registry.backends.pop("late", None)
        registry._pending.pop("late", None)
