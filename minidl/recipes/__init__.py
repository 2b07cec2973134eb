"""Recipes: complete trainings on real data, each a short file to read and to copy from.

``minidl recipes`` lists them and ``minidl train NAME`` runs one.
"""

from __future__ import annotations

import importlib

from minidl.recipes.base import ConfigError, ImageRecipe, Recipe, Target, TextRecipe

#: name on the command line -> "module:class"
NAMES = {
    "mlp-digits": "mlp_digits:MLPDigits",
    "lenet-mnist": "lenet_mnist:LeNetMNIST",
    "cnn-fashion": "cnn_fashion:CNNFashion",
    "cnn-cifar10": "cnn_cifar10:CNNCIFAR10",
    "charlstm-shakespeare": "charlstm_shakespeare:CharLSTMShakespeare",
    "gpt-shakespeare": "gpt_shakespeare:GPTShakespeare",
}


def get(name: str) -> Recipe:
    """The recipe called ``name`` (underscores work like dashes). Raises ConfigError that lists the names."""
    key = name.replace("_", "-")
    if key not in NAMES:
        raise ConfigError(f"unknown recipe {name!r}; there are: {', '.join(NAMES)}")
    module, _, cls = NAMES[key].partition(":")
    return getattr(importlib.import_module(f"minidl.recipes.{module}"), cls)()
