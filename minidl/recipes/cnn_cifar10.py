"""A CNN of the Conv-Pool-Conv-Pool-Dense family on CIFAR-10, 10 epochs.

Reads CIFAR-10's binary version, or images as ``train/CLASS/….jpg`` in a folder or zip file. Random shifts by two pixels
and mirroring, label smoothing (Szegedy et al., 2016), and a learning rate that rises and falls in a line are most of what
it takes to learn this in ten epochs (after K. Jordan, "94 % on CIFAR-10 in 3.29 seconds on a single GPU", 2024).
"""

from minidl import nn, optim
from minidl.data import CIFAR10, Compose, DataLoader, Normalize, RandomCrop, RandomHorizontalFlip
from minidl.recipes.base import ImageRecipe, Target
from minidl.train import MeanLoss


class CNNCIFAR10(ImageRecipe):
    name = "cnn-cifar10"
    summary = "convolutional network on CIFAR-10 in 10 epochs"
    target = Target("test_accuracy", 0.88, "set for this recipe: 10 epochs, under an hour on two cores", measured=False)
    checkpoint_steps = 100
    defaults = {
        "epochs": 10, "batch_size": 128, "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "label_smoothing": 0.1,
        "warmup": 0.2, "seed": 0,
    }  # fmt: skip
    classes, mean, std = CIFAR10.classes, CIFAR10.mean, CIFAR10.std
    mode, size, light_on_dark = "RGB", 32, False

    def model(self, config):
        layers, channels = [], 3
        for width, pool in ((32, True), (64, False), (64, True), (128, False), (128, True), (256, True)):
            layers.append(nn.Conv2d(channels, width, 3, padding=1, bias=False))
            nn.init.kaiming_normal_(layers[-1].weight, nonlinearity="relu")
            if pool:
                layers.append(nn.MaxPool2d(2))
            layers += [nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        return nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(channels, 10))

    def data(self, config, path):
        normalize = Normalize(self.mean, self.std)
        shifted = Compose([RandomCrop(32, padding=2), RandomHorizontalFlip(), normalize])
        train = CIFAR10(path, train=True, transform=shifted, download=path is None)
        test = CIFAR10(path, train=False, transform=normalize, download=path is None)
        return (
            DataLoader(train, config["batch_size"], shuffle=True, drop_last=True, num_workers=1),
            DataLoader(test, 500),
        )

    def training(self, config, model, steps):
        groups = [
            {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": config["weight_decay"]},
            {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = optim.SGD(groups, lr=config["lr"], momentum=config["momentum"], nesterov=True)
        schedule = optim.lr_scheduler.OneCycleLR(
            optimizer, config["lr"], steps, pct_start=config["warmup"], anneal_strategy="linear", cycle_momentum=False
        )
        return {
            "loss": nn.CrossEntropyLoss(label_smoothing=config["label_smoothing"]),
            "optimizer": optimizer,
            "scheduler": schedule,
            "scheduler_interval": "step",
            "metrics": ["accuracy", MeanLoss(nn.CrossEntropyLoss(), "cross_entropy")],
        }

    def note(self, loader):
        if loader.dataset.source == "images":
            return "measured on CIFAR-10 read from image files; if they are JPEGs, the figure is for that lossy copy"
        return ""
