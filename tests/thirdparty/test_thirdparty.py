"""A package by somebody else is installed, discovered, checked and used, with no change to minidl."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("hypothesis", reason="the conformance suite generates its cases with hypothesis")
pytest.importorskip("setuptools", "77", reason="building a package without network needs setuptools here")

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A copy of the package's sources, and the environment of a process in which it is installed."""
    folder = tmp_path_factory.mktemp("thirdparty")
    source, target = folder / "source", folder / "site"
    shutil.copytree(HERE / "minidl_example_kernel", source)  # building leaves files behind
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(target), str(source)], check=True, timeout=120)
    path = os.pathsep.join([str(target), str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    return source, {**os.environ, "PYTHONPATH": path, "MINIDL_BACKEND": ""}, folder


def run(installed, *command):
    _, environment, folder = installed
    return subprocess.run(
        [sys.executable, *command], env=environment, cwd=folder, capture_output=True, text=True, timeout=300
    )


def test_listed(installed):
    done = run(installed, "-m", "minidl", "kernels", "list", "--backend", "example")
    assert done.returncode == 0, done.stderr
    assert "minidl_example_kernel.relu" in done.stdout
    assert "float32 or float64" in done.stdout


def test_checked_from_the_command_line(installed):
    done = run(installed, "-m", "minidl", "kernels", "check", "--backend", "example")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 1 kernels conform" in done.stdout


def test_checked_by_its_own_tests(installed):
    done = run(installed, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(installed[0] / "test_conformance.py"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_used_for_training(installed):
    done = run(installed, str(HERE / "use_it.py"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert str(installed[2] / "site") in done.stdout


def test_unknown_without_it():
    done = subprocess.run(
        [sys.executable, "-c", "import minidl; minidl.set_backend('example')"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode != 0
    assert "unknown backend 'example'" in done.stderr
