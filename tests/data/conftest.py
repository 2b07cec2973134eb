import os
from pathlib import Path

import pytest


@pytest.fixture
def real_data() -> Path:
    """The folder of real data sets, where there is one."""
    folder = os.environ.get("MINIDL_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("MINIDL_DATA names no folder with real data sets")
    return Path(folder)


@pytest.fixture
def no_data(monkeypatch, tmp_path):
    """No data anywhere by default: MINIDL_DATA unset, the cache an empty folder, which is returned."""
    monkeypatch.delenv("MINIDL_DATA", raising=False)
    monkeypatch.delenv("MINIDL_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "minidl"
