"""What a recipe is: a model, its data, and how it is trained, with settings that the command line can change."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minidl import ops
from minidl.data import ArrayDataset, DataLoader, Subset
from minidl.errors import UserError
from minidl.random import Generator, manual_seed
from minidl.ranges import Range, above, anything, at_least, below_one, fraction, whole
from minidl.train import Trainer


class ConfigError(UserError, ValueError):
    """A recipe or one of its settings is unknown, or a value does not fit."""


#: The range of every setting, by its name; a recipe's own ``ranges`` come first.
RANGES: dict[str, Range] = {
    "epochs": whole(1, 10**6),
    "batch_size": whole(1, 10**6),
    "seed": whole(0, 2**64 - 1),
    "steps_per_epoch": whole(1, 10**9),
    # sizes of models: beyond these no machine that minidl is for has the memory
    "hidden": whole(1, 2**16),
    "width": whole(1, 2**14),
    "embedding": whole(1, 2**14),
    "layers": whole(1, 2**8),
    "heads": whole(1, 2**10),
    "context": whole(1, 2**16),
    "length": whole(1, 2**16),
    "vocab_size": whole(2, 2**18),
    "bias": anything,
    "lr": above(0),
    "momentum": below_one,
    "weight_decay": at_least(0),
    "warmup": whole(0),
    "clip": above(0),
    "dropout": fraction,
    "label_smoothing": fraction,
}


class Loaders(NamedTuple):
    """A recipe's data: what it learns from, what chooses the best weights, and what is read once, at the end."""

    train: DataLoader
    validation: DataLoader
    test: DataLoader


@dataclasses.dataclass(frozen=True)
class Target:
    """The figure that a recipe is to reach, over the whole test split with the weights that validation chose.

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
        ranges: of settings whose range is not the usual one (``RANGES``).
        takes_data: whether ``--data`` means something; not if the data comes with minidl.
        checkpoint_steps: where an epoch takes long, steps from one checkpoint to the next.
    """

    name: str
    summary: str
    target: Target
    defaults: Mapping[str, Any]
    ranges: Mapping[str, Range] = {}
    takes_data = True
    checkpoint_steps: int | None = None

    def model(self, config: Mapping[str, Any]) -> Any:
        """The model, with initial weights from the default generator."""
        raise NotImplementedError

    def data(self, config: Mapping[str, Any], path: str | None) -> Loaders:
        """The loaders. Validation is on a part of the training data, which is then not trained on, so that choosing the
        best weights does not flatter the figure on the test split."""
        raise NotImplementedError

    def check(self, config: Mapping[str, Any]) -> None:
        """Raise ConfigError for settings that do not go together."""

    def prepare(self, model: Any, loader: DataLoader) -> None:
        """Set whatever in a new model depends on the training data."""

    def training(self, config: Mapping[str, Any], model: Any, steps: int) -> dict[str, Any]:
        """Arguments of the :class:`~minidl.train.Trainer`: loss, optimizer, scheduler (over ``steps`` steps) …"""
        raise NotImplementedError

    def configure(self, settings: Mapping[str, Any] = {}) -> dict[str, Any]:
        """The defaults with ``settings`` put in; strings, as from a command line, are converted to the default's type.

        Raises ConfigError for unknown names, and for values of another type or out of range.
        """
        config = dict(self.defaults)
        for key, value in settings.items():
            if key not in config:
                raise ConfigError(f"{self.name} has no setting {key!r}; there are: {', '.join(config)}")
            config[key] = _converted(key, value, config[key])
        for key, value in config.items():
            allowed = self.ranges.get(key) or RANGES[key]
            if not allowed.holds(value):
                raise ConfigError(f"{key} must be {allowed.expected}, got {value!r}")
        self.check(config)
        return config

    def build(self, config: Mapping[str, Any], path: str | None = None, **options: Any) -> tuple[Trainer, Loaders]:
        """Trainer and loaders, all from ``config["seed"]``; ``options`` go to the Trainer.

        Raises ConfigError if the settings do not fit the data, or there is no use for ``path``.
        """
        if path is not None and not self.takes_data:
            raise ConfigError(f"{self.name} has its data with it; leave out --data {path}")
        manual_seed(config["seed"])
        model = self.model(config)
        try:
            loaders = self.data(config, path)
        except ValueError as error:
            if isinstance(error, UserError):
                raise
            raise ConfigError(f"{self.name}: these settings do not fit the data: {error}") from error
        if not len(loaders.train):
            raise ConfigError(
                f"batch_size={config['batch_size']} leaves no whole batch of {len(loaders.train.dataset):,} training "
                "samples"
            )
        self.prepare(model, loaders.train)
        training = self.training(config, model, config["epochs"] * len(loaders.train))
        return Trainer(model, **training, seed=config["seed"], **options), loaders

    @property
    def monitor(self) -> str:
        """The validation figure that chooses the best weights: the target's."""
        return "val_" + self.target.figure.split("_", 1)[1]

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


def hold_out(dataset: ArrayDataset, size: int, transform: Any, at_random: bool = True) -> tuple[Subset, Subset]:
    """``dataset`` in two parts: samples to train on, and ``size`` to validate on, which get ``transform`` instead.

    The latter are drawn at random, the same ones in every run, or are the last ones.
    """
    n = len(dataset)
    order = np.asarray(Generator(0x5EED).permutation(n)) if at_random else np.arange(n)
    untouched = copy.copy(dataset)
    untouched.transform = transform
    return Subset(dataset, np.sort(order[: n - size])), Subset(untouched, np.sort(order[n - size :]))


def check_vocabulary(config: Mapping[str, Any], tokenizer: Any) -> None:
    """Raise ConfigError unless the model knows as many tokens as the tokenizer makes."""
    if tokenizer.vocab_size != config["vocab_size"]:
        raise ConfigError(
            f"vocab_size must be {tokenizer.vocab_size}, the number of different characters in the text, got "
            f"{config['vocab_size']}"
        )


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
        from minidl.data.images import decode_image

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
