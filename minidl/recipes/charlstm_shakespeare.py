"""A two-layer character LSTM on tiny Shakespeare, after A. Karpathy, "The unreasonable effectiveness of recurrent
neural networks" (2015).

Truncated back-propagation through time: the text is cut into ``batch_size`` runs, a batch is the next ``length``
characters of each, and the state is carried from batch to batch. The test loss is over the whole last tenth of the
text, read in the same way as a few such runs; validation is on the twentieth of the rest that comes before it.
"""

from collections.abc import Mapping
from typing import Any

from minidl import optim
from minidl.data import ContiguousBatchSampler, DataLoader, TextWindows, TinyShakespeare
from minidl.models import CharLSTM
from minidl.recipes.base import Loaders, Target, TextRecipe, check_vocabulary, token_loss


class CharLSTMShakespeare(TextRecipe):
    name = "charlstm-shakespeare"
    summary = "two-layer character LSTM on tiny Shakespeare"
    target = Target("test_loss", 1.60, "set for this recipe; nats per character")
    checkpoint_steps = 200
    defaults = {
        "epochs": 3, "batch_size": 32, "length": 64, "vocab_size": 65, "embedding": 64, "hidden": 256, "layers": 2,
        "dropout": 0.0, "lr": 0.004, "warmup": 100, "weight_decay": 0.01, "clip": 1.0, "seed": 0,
    }  # fmt: skip

    def model(self, config: Mapping[str, Any]) -> Any:
        return CharLSTM(
            config["vocab_size"], config["embedding"], config["hidden"], config["layers"], config["dropout"]
        )

    def data(self, config: Mapping[str, Any], path: str | None) -> Loaders:
        text = TinyShakespeare(path, train=True, length=config["length"], download=path is None)
        check_vocabulary(config, text.tokenizer)
        train, validation = text.split(0.95)
        test = TinyShakespeare(path, train=False, length=config["length"], download=path is None)

        def in_runs(windows: TextWindows, runs: int) -> DataLoader:
            return DataLoader(windows, batch_sampler=ContiguousBatchSampler(windows, runs))

        def all_of(windows: TextWindows) -> DataLoader:
            return in_runs(windows, max(n for n in range(1, 33) if len(windows) % n == 0))  # no window is left over

        return Loaders(in_runs(train, config["batch_size"]), all_of(validation), all_of(test))

    def training(self, config: Mapping[str, Any], model: Any, steps: int) -> dict[str, Any]:
        optimizer = optim.AdamW(
            model.parameters(), lr=config["lr"], betas=(0.9, 0.99), weight_decay=config["weight_decay"]
        )
        warmup = min(config["warmup"], steps - 1)
        return {
            "loss": token_loss,
            "optimizer": optimizer,
            "scheduler": optim.lr_scheduler.WarmupCosineLR(optimizer, warmup, steps, min_factor=0.02),
            "scheduler_interval": "step",
            "grad_clip_norm": config["clip"],
            "carry_state": True,
        }
