"""The class carries PyTorch's spelling; other spellings are the same class."""

import re

import pytest

from minidl import nn
from minidl.nn import aliases

SECOND = [name for name in vars(aliases) if name in ("Dense", "MultiHeadAttention") or re.search(r"\dD$", name)]


def test_how_many_there_are():
    assert len(SECOND) == 35


@pytest.mark.parametrize("alias", SECOND)
def test_a_second_spelling_is_the_class_with_pytorchs_name(alias):
    layer = getattr(nn, alias)
    first = {"Dense": "Linear", "MultiHeadAttention": "MultiheadAttention"}.get(alias, alias[:-1] + "d")
    assert layer is getattr(aliases, alias) is getattr(nn, first)
    assert layer.__name__ == first


def test_repr_says_pytorchs_name():
    assert repr(nn.Dense(2, 3)).startswith("Linear(")
    assert repr(nn.Conv2D(1, 2, 3)).startswith("Conv2d(")
    assert repr(nn.MultiHeadAttention(4, 2)).startswith("MultiheadAttention(")
