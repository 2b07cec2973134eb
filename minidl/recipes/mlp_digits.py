"""A multilayer perceptron on 8 x 8 digits: trains in seconds, on data that comes with minidl."""

from collections.abc import Mapping
from typing import Any

from minidl import nn, optim
from minidl.data import Compose, DataLoader, Digits, Normalize, RandomCrop
from minidl.recipes.base import ImageRecipe, Loaders, Target, hold_out


class MLPDigits(ImageRecipe):
    name = "mlp-digits"
    summary = "multilayer perceptron on 8 x 8 digits, no download"
    target = Target("test_accuracy", 0.93, "this recipe's own figure; most test digits are by writers not trained on")
    defaults = {"epochs": 30, "batch_size": 32, "lr": 0.005, "hidden": 256, "dropout": 0.2, "seed": 0}
    takes_data = False
    classes, size = Digits.classes, 8
    mean, std = Digits.mean, Digits.std

    def model(self, config: Mapping[str, Any]) -> Any:
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(64, config["hidden"]),
            nn.ReLU(),
            nn.Dropout(config["dropout"]),
            nn.Linear(config["hidden"], 10),
        )

    def data(self, config: Mapping[str, Any], path: str | None) -> Loaders:
        normalize = Normalize(self.mean, self.std)
        digits = Digits(
            train=True, transform=Compose([RandomCrop(8, padding=1), normalize])
        )  # shifted by up to a pixel
        train, validation = hold_out(digits, 137, normalize, at_random=False)  # the last: by writers of their own
        test = Digits(train=False, transform=normalize)
        return Loaders(
            DataLoader(train, config["batch_size"], shuffle=True), DataLoader(validation, 256), DataLoader(test, 256)
        )

    def training(self, config: Mapping[str, Any], model: Any, steps: int) -> dict[str, Any]:
        optimizer = optim.AdamW(model.parameters(), lr=config["lr"], weight_decay=0.01)
        return {
            "loss": nn.CrossEntropyLoss(),
            "optimizer": optimizer,
            "scheduler": optim.lr_scheduler.OneCycleLR(optimizer, config["lr"], steps),
            "scheduler_interval": "step",
            "metrics": ["accuracy"],
        }
