"""The examples in the docstrings of minidl run, and print what they show."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [p for p in sorted((ROOT / "minidl").rglob("*.py")) if ">>> " in p.read_text(encoding="utf-8")]
MODULES = [".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for p in FILES]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    failed, tried = doctest.testmod(importlib.import_module(name), optionflags=flags)
    assert tried > 0, f"{name}: its examples are where doctest does not find them"
    assert failed == 0
