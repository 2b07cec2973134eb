"""Run folders: what ``minidl train`` writes and the other commands read.

::

    runs/lenet-mnist/
        config.json         recipe, its settings, data path, backend, versions
        metrics.jsonl       a line for each epoch; metrics.csv has the same
        curve.png           learning curves
        checkpoints/        to resume from
        model.safetensors   the weights after the last finished epoch
        tokenizer.json      of language models
        log.txt             what the run printed
        result.json         the final figure and its target
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from minidl import recipes, serialization
from minidl.errors import UserError
from minidl.files import atomic_write
from minidl.train import CSVLogger, JSONLLogger, LambdaCallback, LearningCurve, TensorBoard, Trainer
from minidl.train.callbacks import jsonable
from minidl.train.progress import Silent, choose
from minidl.version import __version__


class Logged(Silent):
    """A display whose lines also go to a file."""

    def __init__(self, display: Silent, path: Path) -> None:
        self.display = display
        self.path = path

    def start(self) -> None:
        self.display.start()

    def stop(self) -> None:
        self.display.stop()

    def begin(self, title: str, total: int | None, done: int = 0) -> None:
        self.display.begin(title, total, done)

    def advance(self, row: dict[str, Any]) -> None:
        self.display.advance(row)

    def end(self) -> None:
        self.display.end()

    def message(self, text: str) -> None:
        self.display.message(text)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {text}\n")


def write_json(path: Path, content: Any) -> None:
    with atomic_write(path) as file:
        file.write((json.dumps(jsonable(content), indent=2) + "\n").encode())


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error})") from error


class Run:
    """A run folder, its recipe and its settings."""

    def __init__(self, folder: Path, content: Mapping[str, Any]) -> None:
        self.folder = folder
        self.content = content
        self.recipe = recipes.get(content["recipe"])
        self.config = self.recipe.configure(content["config"])

    @classmethod
    def create(
        cls,
        recipe: str,
        settings: Mapping[str, Any],
        data: str | None,
        backend: str,
        out: str | None,
        jit: bool = False,
    ) -> Run:
        """A new run folder: ``out``, or the first of ``runs/RECIPE``, ``runs/RECIPE-2`` … that does not exist."""
        chosen = recipes.get(recipe)
        config = chosen.configure(settings)
        folder = Path(out) if out is not None else _free(Path("runs") / chosen.name)
        if (folder / "config.json").exists():
            raise UserError(
                f"{folder} already holds a run; give another --out, or resume it: minidl resume {_quoted(folder)}"
            )
        content = {
            "recipe": chosen.name,
            "config": config,
            "data": None if data is None else os.path.abspath(data),
            "backend": backend,
            "jit": jit,
            "versions": {
                "minidl": __version__, "numpy": np.__version__, "python": platform.python_version(),
            },
        }  # fmt: skip
        return cls(folder, content)

    @classmethod
    def latest(cls, kind: type[recipes.Recipe] = recipes.Recipe) -> Run:
        """The run in ``runs/`` of a recipe of this kind with the newest weights. UserError if there is none."""
        weights = sorted(Path("runs").glob("*/model.safetensors"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in weights:
            made = cls.open(path.parent)
            if isinstance(made.recipe, kind):
                return made
        raise UserError("runs/ holds no such run; train one, or say where its folder is: RUN")

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """An existing run folder. Raises UserError if it is none."""
        folder = Path(folder)
        path = folder / "config.json"
        if not path.is_file():
            raise UserError(f"{folder} is not a run folder (there is no {path})")
        content = read_json(path)
        if not isinstance(content, dict) or not {"recipe", "config", "data", "backend"} <= content.keys():
            raise UserError(f"{path} is not the config.json of a run")
        return cls(folder, content)

    def build(self, data: str | None = None, **options: Any) -> tuple[Trainer, Any, Any]:
        """Trainer, training loader and evaluation loader, as the recipe makes them."""
        return self.recipe.build(self.config, data or self.content["data"], **options)

    def train(self, quiet: bool = False, tensorboard: bool = False, resume: bool | str = False) -> dict[str, Any]:
        """Train to the end, evaluate, write ``result.json``; returns what is in it."""
        folder = self.folder
        display = Logged(choose(not quiet), folder / "log.txt")
        began = time.monotonic()
        trainer, train_loader, eval_loader = self.build(
            run_dir=folder,
            progress=display,
            checkpoint_steps=self.recipe.checkpoint_steps,
            jit=self.content.get("jit", False),
        )
        folder.mkdir(parents=True, exist_ok=True)  # only now: a data set that is missing leaves nothing behind
        if not resume:
            write_json(folder / "config.json", self.content)
        trainer.callbacks += [
            JSONLLogger(folder / "metrics.jsonl"),
            CSVLogger(folder / "metrics.csv"),
            LambdaCallback(on_epoch_end=lambda trainer, row: trainer.save_weights(folder / "model.safetensors")),
        ]
        try:
            trainer.callbacks.append(LearningCurve(folder / "curve.png"))
        except ImportError as error:
            display.message(f"There will be no curve.png: {error}")
        if tensorboard:
            trainer.callbacks.append(TensorBoard(folder / "tensorboard"))
        trainer.resume_hint = f"minidl resume {_quoted(folder)}"
        if hasattr(eval_loader.dataset, "tokenizer"):
            eval_loader.dataset.tokenizer.save(folder / "tokenizer.json")
        parameters = sum(p.numel() for p in trainer.model.parameters())
        display.message(
            f"{self.recipe.name}: {parameters:,} parameters, {len(train_loader.dataset):,} training samples, "
            f"{self.config['epochs']} epochs of {len(train_loader):,} steps, backend {self.content['backend']}; "
            f"writing to {folder}"
        )
        trainer.fit(train_loader, eval_loader, epochs=self.config["epochs"], resume=resume)
        figures = trainer.evaluate(eval_loader)
        seconds = sum(row["seconds"] for row in trainer.history)
        result = {
            **self.recipe.result(figures),
            "figures": figures,
            "evaluated_on": len(eval_loader.dataset),
            "note": self.recipe.note(eval_loader),
            "epochs": trainer.epoch,
            "steps": trainer.step,
            "training_seconds": round(seconds, 1),
            "total_seconds": round(time.monotonic() - began, 1),
        }
        write_json(folder / "result.json", result)
        display.message(verdict(self.recipe, result))
        return result

    def trained_model(self) -> Any:
        """The model with the run's last weights, in evaluation mode. Raises UserError if there are none yet."""
        path = self.folder / "model.safetensors"
        if not path.is_file():
            raise UserError(f"{self.folder} has no weights yet (there is no {path}); resume it: minidl resume")
        model = self.recipe.model(self.config)
        try:
            model.load_state_dict(serialization.load(path))
        except RuntimeError as error:
            raise UserError(f"{path} does not fit the run's config.json: {error}") from error
        return model.eval()


def verdict(recipe: recipes.Recipe, result: Mapping[str, Any]) -> str:
    """The result for people: the figure, its target and where that is from."""
    met = "reached" if result["reached"] else "not reached"
    source = recipe.target.source + ("" if recipe.target.measured else "; not yet measured with minidl")
    note = f"\nNote: {result['note']}" if result["note"] else ""
    return (
        f"{result['figure']} {result['value']:.4f} over {result['evaluated_on']:,} samples after {result['epochs']} "
        f"epochs, {result['training_seconds']:.0f} s of training\n"
        f"target {recipe.target} {met} ({source}){note}"
    )


def _free(folder: Path) -> Path:
    n, candidate = 1, folder
    while candidate.exists():
        n += 1
        candidate = folder.with_name(f"{folder.name}-{n}")
    return candidate


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
