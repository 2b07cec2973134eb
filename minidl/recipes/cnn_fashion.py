"""A small CNN on Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017).

The data set's own list of benchmarks has 91.6 % for two convolutions with pooling. This recipe's figure is unmeasured:
the data was not at hand where it was written.
"""

from collections.abc import Mapping
from typing import Any

from minidl import nn
from minidl.data import Compose, FashionMNIST, Normalize, RandomHorizontalFlip
from minidl.recipes.base import Target
from minidl.recipes.lenet_mnist import LeNetMNIST


class CNNFashion(LeNetMNIST):
    name = "cnn-fashion"
    summary = "two convolutions, batch norm and dropout on Fashion-MNIST"
    target = Target(
        "test_accuracy", 0.916, "the data set's benchmark list, two convolutions with pooling", measured=False
    )
    defaults = {"epochs": 15, "batch_size": 128, "lr": 0.004, "weight_decay": 0.02, "dropout": 0.4, "seed": 0}
    dataset = FashionMNIST
    classes, mean, std = FashionMNIST.classes, FashionMNIST.mean, FashionMNIST.std

    def model(self, config: Mapping[str, Any]) -> Any:
        return nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1, bias=False),  # 28 x 28
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1, bias=False),  # 14 x 14
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),  # 64 * 7 * 7
            nn.Dropout(config["dropout"]),
            nn.Linear(3136, 128),
            nn.ReLU(),
            nn.Dropout(config["dropout"]),
            nn.Linear(128, 10),
        )

    def augmentation(self) -> Any:
        return Compose([RandomHorizontalFlip(), Normalize(self.mean, self.std)])
