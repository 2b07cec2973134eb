"""What a recipe is: a model, its data, and how it is trained, with settings that the command line can change."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from minidl import ops
from minidl.data import DataLoader
from minidl.errors import UserError
from minidl.random import manual_seed
from minidl.train import Trainer


class ConfigError(UserError, ValueError):
    """A recipe or one of its settings is unknown, or a value does not fit."""


@dataclasses.dataclass(frozen=True)
class Target:
    """The figure that a recipe is to reach, over the whole test or validation split with the last weights.

    ``source`` says where the value is from; ``measured`` is False where nobody has run the recipe to its end yet.
    """

    figure: str
    value: float
    source: str
    measured: bool = True

    @property
    def smaller_is_better(self) -> bool:
        return self.figure.endswith("loss")

    def reached(self, value: float) -> bool:
        return value <= self.value if self.smaller_is_better else value >= self.value

    def __str__(self) -> str:
        return f"{self.figure} {'<=' if self.smaller_is_better else '>='} {self.value:g}"


class Recipe:
    """Base of recipes. A subclass gives the attributes and the methods ``model``, ``data`` and ``training``.

    Attributes:
        name, summary: for ``minidl recipes``.
        target: what it is to reach.
        defaults: settings; their types are those of the values here. Every recipe has "epochs" and "seed".
        checkpoint_steps: where an epoch takes long, steps from one checkpoint to the next.
    """

    name: str
    summary: str
    target: Target
    defaults: Mapping[str, Any]
    checkpoint_steps: int | None = None

    def model(self, config: Mapping[str, Any]) -> Any:
        """The model, with initial weights from the default generator."""
        raise NotImplementedError

    def data(self, config: Mapping[str, Any], path: str | None) -> tuple[DataLoader, DataLoader]:
        """Training loader, and the loader of the whole split that the target is about."""
        raise NotImplementedError

    def prepare(self, model: Any, loader: DataLoader) -> None:
        """Set whatever in a new model depends on the training data."""

    def training(self, config: Mapping[str, Any], model: Any, steps: int) -> dict[str, Any]:
        """Arguments of the :class:`~minidl.train.Trainer`: loss, optimizer, scheduler (over ``steps`` steps) …"""
        raise NotImplementedError

    def configure(self, settings: Mapping[str, Any] = {}) -> dict[str, Any]:
        """The defaults with ``settings`` put in; strings, as from a command line, are converted to the default's type.

        Raises ConfigError for unknown names and values that do not fit.
        """
        config = dict(self.defaults)
        for key, value in settings.items():
            if key not in config:
                raise ConfigError(f"{self.name} has no setting {key!r}; there are: {', '.join(config)}")
            config[key] = _converted(key, value, config[key])
        for key in ("epochs", "batch_size"):
            if config.get(key, 1) < 1:
                raise ConfigError(f"{key} must be at least 1, got {config[key]}")
        return config

    def build(
        self, config: Mapping[str, Any], path: str | None = None, **options: Any
    ) -> tuple[Trainer, DataLoader, DataLoader]:
        """Trainer, training loader and evaluation loader, all from ``config["seed"]``; ``options`` go to the
        Trainer."""
        manual_seed(config["seed"])
        model = self.model(config)
        train_loader, eval_loader = self.data(config, path)
        self.prepare(model, train_loader)
        steps = config["epochs"] * len(train_loader)
        training = self.training(config, model, steps)
        return Trainer(model, **training, seed=config["seed"], **options), train_loader, eval_loader

    def note(self, loader: DataLoader) -> str:
        """A remark that belongs beside a figure measured on this data; "" for none."""
        return ""

    def result(self, figures: Mapping[str, Any]) -> dict[str, Any]:
        """An evaluation's figures against the target."""
        value = figures[self.target.figure.split("_", 1)[1]]
        return {
            "recipe": self.name,
            "figure": self.target.figure,
            "value": value,
            "target": self.target.value,
            "target_source": self.target.source,
            "reached": self.target.reached(value),
        }


def _converted(key: str, value: Any, default: Any) -> Any:
    kind = type(default)
    if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    try:
        if kind is bool:
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[str(value).lower()]
        if kind is float and not isinstance(value, bool):
            return float(value)
        if kind is int and isinstance(value, str):
            return int(value)
    except (ValueError, KeyError):
        pass
    raise ConfigError(f"{key} must be of type {kind.__name__} (its default is {default!r}), got {value!r}")


class ImageRecipe(Recipe):
    """A recipe that sorts images into classes.

    Attributes:
        classes: their names. ``mode`` is Pillow's: "L" (grey) or "RGB"; ``size`` is in pixels.
        mean, std: of the channels in [0, 1].
        light_on_dark: the data set's images are so, and an image that is not is inverted before it is classified.
    """

    classes: tuple[str, ...]
    mode, size = "L", 28
    mean: tuple[float, ...]
    std: tuple[float, ...]
    light_on_dark = True

    def read_image(self, path: str | Path) -> np.ndarray:
        """An image file as the model's input, (1, C, H, W) float32."""
        from minidl.data import Compose, Normalize, Resize, ToArray
        from minidl.data.folder import decode_image

        image = decode_image(path, str(path), self.mode)
        image = Compose([ToArray("CHW"), Resize((self.size, self.size))])(image)
        border = np.concatenate([image[:, 0], image[:, -1], image[:, :, 0], image[:, :, -1]], axis=1)
        if self.light_on_dark and np.median(border) > 0.5:
            image = 1 - image
        return Normalize(self.mean, self.std)(image)[None]


class TextRecipe(Recipe):
    """A language model over characters. Its model has ``generate``; the run folder keeps the tokenizer."""


def token_loss(logits: Any, targets: Any) -> Any:
    """Mean cross-entropy in nats per token: logits (N, T, vocab_size), targets (N, T)."""
    return ops.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1))
