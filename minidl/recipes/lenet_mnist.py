"""LeNet-5 on MNIST.

Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, "Gradient-based learning applied to document recognition", 1998: 0.95 %
test error without distorted images (figure 9). The model is :class:`minidl.models.LeNet5`. The test images are looked
at after every epoch, but decide nothing: the last weights count.
"""

from collections.abc import Mapping
from typing import Any

from minidl import nn, optim
from minidl.data import MNIST, DataLoader, Normalize
from minidl.models import LeNet5
from minidl.recipes.base import ImageRecipe, Loaders, Target, hold_out


class LeNetMNIST(ImageRecipe):
    name = "lenet-mnist"
    summary = "LeNet-5 on MNIST"
    target = Target("test_accuracy", 0.990, "LeCun et al. 1998: 99.05 %")
    defaults = {"epochs": 10, "batch_size": 128, "lr": 0.004, "weight_decay": 0.01, "seed": 0}
    dataset = MNIST
    classes, mean, std = MNIST.classes, MNIST.mean, MNIST.std

    def model(self, config: Mapping[str, Any]) -> Any:
        return LeNet5()

    def data(self, config: Mapping[str, Any], path: str | None) -> Loaders:
        normalize = Normalize(self.mean, self.std)
        images = self.dataset(path, train=True, transform=self.augmentation(), download=path is None)
        train, validation = hold_out(images, 5000, normalize)
        test = self.dataset(path, train=False, transform=normalize, download=path is None)
        return Loaders(
            DataLoader(train, config["batch_size"], shuffle=True, drop_last=True, num_workers=1),
            DataLoader(validation, 1000),
            DataLoader(test, 1000),
        )

    def augmentation(self) -> Any:
        """The transform of training images."""
        return Normalize(self.mean, self.std)

    def training(self, config: Mapping[str, Any], model: Any, steps: int) -> dict[str, Any]:
        optimizer = optim.AdamW(model.parameters(), lr=config["lr"], weight_decay=config["weight_decay"])
        return {
            "loss": nn.CrossEntropyLoss(),
            "optimizer": optimizer,
            "scheduler": optim.lr_scheduler.OneCycleLR(optimizer, config["lr"], steps),
            "scheduler_interval": "step",
            "metrics": ["accuracy"],
        }
