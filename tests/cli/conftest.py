import hashlib
import random

import pytest

pytest.importorskip("safetensors", reason='runs need safetensors: pip install "minidl[train]"')

from minidl.backend import get_backend, set_backend
from minidl.cli import main
from minidl.data import TinyShakespeare


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """In an empty folder, without data folders, and with the backend put back afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MINIDL_DATA", raising=False)
    monkeypatch.delenv("MINIDL_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = get_backend()
    yield
    set_backend(before)


@pytest.fixture
def minidl(capsys):
    """``minidl("train", …)`` runs a command in this process; returns (exit status, standard output, errors)."""

    def command(*arguments):
        capsys.readouterr()
        try:
            status = main([str(a) for a in arguments])
        except SystemExit as stop:  # argparse's
            status = stop.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return command


@pytest.fixture
def text_file(tmp_path, monkeypatch):
    """A short text in tiny Shakespeare's place, of 8 different characters."""
    rng = random.Random(0)
    content = "".join(rng.choice(("abc ", "ab\n", "defa")) for _ in range(1200))
    path = tmp_path / "text" / "tinyshakespeare.txt"
    path.parent.mkdir()
    path.write_text(content)
    monkeypatch.setattr(TinyShakespeare, "sha256", hashlib.sha256(content.encode()).hexdigest())
    return path
