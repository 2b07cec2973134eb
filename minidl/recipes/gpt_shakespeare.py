"""A small character GPT on tiny Shakespeare: the CPU setting of A. Karpathy's nanoGPT (4 layers, 4 heads, 128 wide, 64
characters of context, batches of 12, 2000 steps, no dropout, no biases).

nanoGPT gives 1.88 for it, estimated on 20 random batches, at a learning rate of 1e-3. Here the test loss is over
the whole last tenth of the text, in windows that begin without context, and the learning rate is 3e-3, which learns
faster at this size. An "epoch" is 250 steps on windows drawn at random, with replacement.
"""

from collections.abc import Mapping
from typing import Any

from minidl import optim
from minidl.data import DataLoader, RandomSampler, TinyShakespeare
from minidl.models import GPT
from minidl.recipes.base import ConfigError, Loaders, Target, TextRecipe, check_vocabulary, token_loss


class GPTShakespeare(TextRecipe):
    name = "gpt-shakespeare"
    summary = "character GPT on tiny Shakespeare, nanoGPT's CPU setting"
    target = Target("test_loss", 1.88, "nanoGPT's README, on its validation split; nats per character")
    checkpoint_steps = 250
    defaults = {
        "epochs": 8, "steps_per_epoch": 250, "batch_size": 12, "context": 64, "vocab_size": 65, "layers": 4, "heads": 4,
        "width": 128, "dropout": 0.0, "bias": False, "lr": 0.003, "warmup": 100, "weight_decay": 0.1, "clip": 1.0,
        "seed": 0,
    }  # fmt: skip

    def model(self, config: Mapping[str, Any]) -> Any:
        return GPT(
            block_size=config["context"],
            vocab_size=config["vocab_size"],
            n_layer=config["layers"],
            n_head=config["heads"],
            n_embd=config["width"],
            dropout=config["dropout"],
            bias=config["bias"],
        )

    def check(self, config: Mapping[str, Any]) -> None:
        if config["width"] % config["heads"]:
            raise ConfigError(f"width must be a multiple of heads, got width={config['width']} heads={config['heads']}")

    def data(self, config: Mapping[str, Any], path: str | None) -> Loaders:
        text = TinyShakespeare(path, train=True, length=config["context"], stride=1, download=path is None)
        check_vocabulary(config, text.tokenizer)
        train, validation = text.split(0.95)
        validation.stride = config["context"]
        test = TinyShakespeare(path, train=False, length=config["context"], download=path is None)
        drawn = config["steps_per_epoch"] * config["batch_size"]
        windows = RandomSampler(train, replacement=True, num_samples=drawn)
        return Loaders(
            DataLoader(train, config["batch_size"], sampler=windows), DataLoader(validation, 64), DataLoader(test, 64)
        )

    def training(self, config: Mapping[str, Any], model: Any, steps: int) -> dict[str, Any]:
        matrices = [p for p in model.parameters() if p.ndim > 1]
        others = [p for p in model.parameters() if p.ndim <= 1]
        groups = [
            {"params": matrices, "weight_decay": config["weight_decay"]},
            {"params": others, "weight_decay": 0.0},
        ]
        optimizer = optim.AdamW(groups, lr=config["lr"], betas=(0.9, 0.99))
        warmup = min(config["warmup"], steps - 1)
        return {
            "loss": token_loss,
            "optimizer": optimizer,
            "scheduler": optim.lr_scheduler.WarmupCosineLR(optimizer, warmup, steps, min_factor=0.1),
            "scheduler_interval": "step",
            "grad_clip_norm": config["clip"],
        }
