"""The recipes' published figures, on real data: ``MINIDL_DATA=FOLDER pytest -m slow tests/recipes``.

About an hour on two cores. ``cnn-cifar10`` is trained as the README says, on numba with ``--jit``; MINIDL_BACKEND
chooses the backend of the others.
"""

import json
import os

import pytest

from minidl.cli import main

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "name", ["lenet-mnist", "cnn-fashion", "cnn-cifar10", "charlstm-shakespeare", "gpt-shakespeare"]
)
def test_recipe_reaches_its_target(name, tmp_path, capsys):
    folder = os.environ.get("MINIDL_DATA")
    if not folder:
        pytest.skip("MINIDL_DATA names no folder with real data sets")
    options = ["--backend", "numba", "--jit"] if name == "cnn-cifar10" else []
    status = main(["train", name, "--data", folder, "--out", str(tmp_path / "run"), *options])
    captured = capsys.readouterr()
    if status == 2 and "not found" in captured.err:
        pytest.skip(f"MINIDL_DATA has no data for {name}")
    assert status == 0, captured.err
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["reached"], result
