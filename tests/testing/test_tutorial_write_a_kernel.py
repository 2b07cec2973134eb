"""What tutorials/write_a_kernel.md tells the reader to do works, and prints what it shows (but for the numbers)."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("hypothesis", reason="the conformance suite generates its cases with hypothesis")
pytest.importorskip("numba", reason="the tutorial's kernel is written in Numba")
pytest.importorskip("matplotlib", reason="the tutorial draws a plot")

REPOSITORY = Path(__file__).parent.parent.parent
TUTORIAL = REPOSITORY / "tutorials" / "write_a_kernel.md"
FENCE = re.compile(r"^```([\w ]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PYTHON = [sys.executable, "-m"]
COMMANDS = {"minidl": [*PYTHON, "minidl"], "pytest": [*PYTHON, "pytest", "-p", "no:cacheprovider"]}


def without_numbers(text):
    """Lines with every number as # and single blanks. Figures may also be padded or rounded otherwise."""
    text = re.sub(r"-?\d+(\.\d*)?(e[-+]?\d+)?", "#", text)
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def test_tutorial(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    printed, ran = "", 0

    def run(command, wanted):
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == wanted, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    for kind, content in FENCE.findall(TUTORIAL.read_text(encoding="utf-8")):
        name = re.match(r"# (\w+\.py)\n", content)
        if kind == "python" and name:
            (tmp_path / name[1]).write_text(content)
        elif kind == "python":
            printed = run([sys.executable, "-c", content], 0)
            ran += 1
        elif kind.startswith("console"):
            lines = content.splitlines()
            assert all(line.startswith("$ ") for line in lines)
            printed = ""
            for line in lines:
                program, *arguments = shlex.split(line[2:])
                printed += run([*COMMANDS[program], *arguments], 1 if kind == "console fails" else 0)
                ran += 1
        elif kind == "text":
            found = without_numbers(printed)
            for line in without_numbers(content):
                assert line == "..." or line in found, f"{line!r} is not in\n{printed}"
        else:
            assert kind == "toml", f"a block of an unknown kind, {kind!r}"
    assert ran >= 9
    assert (tmp_path / "timings" / "rms_norm.png").exists()
