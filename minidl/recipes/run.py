"""Run folders: what ``minidl train`` writes and the other commands read.

::

    runs/lenet-mnist/
        config.json         recipe, its settings, data path and checksums, backend
        record.json         what computed it: command, commit, versions, processor, threads, time
        metrics.jsonl       a line for each epoch; metrics.csv has the same
        curve.png           learning curves
        checkpoints/        to resume from
        model.safetensors   the weights that were best on the validation data
        tokenizer.json      of language models
        log.txt             what the run printed
        result.json         the figure of those weights on the test data, and its target
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import shlex
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from minidl import files, recipes, serialization
from minidl.errors import UserError
from minidl.recipes.base import Loaders
from minidl.recipes.record import Record, SameSettings, read_json, write_json
from minidl.train import (
    CSVLogger,
    JSONLLogger,
    LearningCurve,
    ModelCheckpoint,
    NonFiniteLossError,
    TensorBoard,
    Trainer,
)
from minidl.train.progress import TIMES, Silent, choose


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
        with files.naming(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {text}\n")


#: The keys of config.json, and the types of their values.
_CONTENT: dict[str, tuple[type, ...]] = {
    "recipe": (str,), "config": (dict,), "data": (str, type(None)), "backend": (str,), "jit": (bool,),
    "data_sha256": (dict,),
}  # fmt: skip


class Run:
    """A run folder, its recipe and its settings.

    ``folder`` is None for a new run that is to get the first free name in ``runs/``.
    """

    def __init__(self, folder: Path | None, content: Mapping[str, Any]) -> None:
        self._folder = folder
        self.content = dict(content)
        self.recipe = recipes.get(content["recipe"])
        self.config = self.recipe.configure(content["config"])

    @property
    def folder(self) -> Path:
        """Where the run is, or will be."""
        assert self._folder is not None, "the folder of a new run is chosen when its training starts"
        return self._folder

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
        """A new run, in ``out``, or the first of ``runs/RECIPE``, ``runs/RECIPE-2`` … that does not exist."""
        chosen = recipes.get(recipe)
        content = {
            "recipe": chosen.name,
            "config": chosen.configure(settings),
            "data": None if data is None else os.path.abspath(data),
            "backend": backend,
            "jit": jit,
            "data_sha256": {},  # known once it is read
        }
        folder = None if out is None else Path(out)
        if folder is not None:
            _check_new(folder)
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
        content = read_json(path, dict)
        for key, kinds in _CONTENT.items():
            if key not in content or not isinstance(content[key], kinds):
                raise UserError(
                    f"{path} is not the config.json of a run: {key!r} must be "
                    f"{' or '.join('null' if kind is type(None) else kind.__name__ for kind in kinds)}"
                )
        try:
            return cls(folder, content)
        except recipes.ConfigError as error:
            raise UserError(f"{path}: {error}") from error

    def build(self, data: str | None = None, **options: Any) -> tuple[Trainer, Loaders]:
        """Trainer and loaders, as the recipe makes them."""
        return self.recipe.build(self.config, data or self.content["data"], **options)

    def train(
        self, quiet: bool = False, tensorboard: bool = False, resume: bool | str = False, command: str = ""
    ) -> dict[str, Any]:
        """Train to the end, evaluate on the test data, write ``result.json``; returns what is in it.

        ``command`` is for the record: what was typed to start this.
        """
        with contextlib.ExitStack() as stack:
            if resume:
                stack.enter_context(files.exclusive(self.folder))
            trainer, loaders = self.build(checkpoint_steps=self.recipe.checkpoint_steps, jit=self.content["jit"])
            checksums = {part: _checksum(loader.dataset) for part, loader in loaders._asdict().items()}
            if not resume:  # only now: what is wrong with settings or data leaves nothing behind
                stack.enter_context(self._claimed())
                self.content["data_sha256"] = checksums
                write_json(self.folder / "config.json", self.content)
            return self._train(trainer, loaders, checksums, quiet, tensorboard, resume, command)

    def _train(
        self,
        trainer: Trainer,
        loaders: Loaders,
        checksums: dict[str, str | None],
        quiet: bool,
        tensorboard: bool,
        resume: bool | str,
        command: str,
    ) -> dict[str, Any]:
        folder = trainer.run_dir = self.folder
        trainer.display = display = Logged(choose(not quiet), folder / "log.txt")
        record = Record(
            folder / "record.json", command=command, recipe=self.recipe.name, seed=self.config["seed"],
            backend=self.content["backend"], jit=self.content["jit"],
        )  # fmt: skip
        best = ModelCheckpoint(folder / "model.safetensors", self.recipe.monitor, restore_best=True)
        settings = {k: self.content[k] for k in ("recipe", "backend", "jit")} | self.config | {"data": checksums}
        trainer.callbacks += [
            SameSettings(settings), JSONLLogger(folder / "metrics.jsonl"), CSVLogger(folder / "metrics.csv"), best,
            record,
        ]  # fmt: skip
        try:
            trainer.callbacks.append(LearningCurve(folder / "curve.png"))
        except ImportError as error:
            display.message(f"There will be no curve.png: {error}")
        if tensorboard:
            trainer.callbacks.append(TensorBoard(folder / "tensorboard"))
        trainer.resume_hint = f"minidl resume {_quoted(folder)}"
        if hasattr(loaders.test.dataset, "tokenizer"):
            loaders.test.dataset.tokenizer.save(folder / "tokenizer.json")
        parameters = sum(p.numel() for p in trainer.model.parameters())
        display.message(
            f"{self.recipe.name}: {parameters:,} parameters, {len(loaders.train.dataset):,} training samples, "
            f"{self.config['epochs']} epochs of {len(loaders.train):,} steps, backend {self.content['backend']}; "
            f"writing to {folder}"
        )
        trainer.fit(loaders.train, loaders.validation, epochs=self.config["epochs"], resume=resume)
        trainer.ema = None  # the best weights, which the model has now, are the averaged ones already
        figures = trainer.evaluate(loaders.test)
        if not math.isfinite(figures["loss"]):
            raise NonFiniteLossError(f"the test loss is {figures['loss']}")
        result = {
            **self.recipe.result(figures),
            "figures": figures,
            "evaluated_on": len(loaders.test.dataset),
            "note": self.recipe.note(loaders.test),
            "seed": self.config["seed"],
            "epochs": trainer.epoch,
            "steps": trainer.step,
            "best_epoch": best.epoch,
            "weights_sha256": hashlib.sha256(best.path.read_bytes()).hexdigest(),
            **{f"training_{name}": round(sum(row[name] for row in trainer.history), 3) for name in TIMES},
            **record.finish(trainer),
        }
        write_json(folder / "result.json", result)
        display.message(verdict(self.recipe, result))
        return result

    @contextlib.contextmanager
    def _claimed(self) -> Iterator[None]:
        """Make the folder of a new run; inside, it is this process's alone."""
        if self._folder is None:
            self._folder = _first_free(Path("runs") / self.recipe.name)
        else:
            self._folder.mkdir(parents=True, exist_ok=True)
        with files.exclusive(self._folder):
            _check_new(self._folder)
            yield

    def trained_model(self) -> Any:
        """The model with the run's best weights, in evaluation mode. Raises UserError if there are none yet."""
        path = self.folder / "model.safetensors"
        if not path.is_file():
            raise UserError(f"{self.folder} has no weights yet (there is no {path}); resume it: minidl resume")
        model = self.recipe.model(self.config)
        content = path.read_bytes()
        try:
            model.load_state_dict(serialization.from_bytes(content, str(path)))
        except RuntimeError as error:
            raise UserError(f"{path} does not fit the run's config.json: {error}") from error
        result = result_of(self.folder)
        if result is not None and result["weights_sha256"] != hashlib.sha256(content).hexdigest():
            raise UserError(f"{path}: these are not the weights that the run's result.json is about, or it is damaged")
        return model.eval()


def verdict(recipe: recipes.Recipe, result: Mapping[str, Any]) -> str:
    """The result for people: the figure, its target and where that is from."""
    met = "reached" if result["reached"] else "not reached"
    source = recipe.target.source + ("" if recipe.target.measured else "; not yet measured with minidl")
    note = f"\nNote: {result['note']}" if result["note"] else ""
    return (
        f"{result['figure']} {result['value']:.4f} over {result['evaluated_on']:,} samples, with the weights of epoch "
        f"{result['best_epoch']} of {result['epochs']}; {result['training_seconds']:.0f} s of training\n"
        f"target {recipe.target} {met} ({source}){note}"
    )


def result_of(folder: Path) -> dict[str, Any] | None:
    """What is in the run's result.json, None if it is not finished. Raises UserError for a damaged one."""
    path = folder / "result.json"
    if not path.is_file():
        return None
    result = read_json(path, dict)
    for key, kinds in _RESULT.items():
        if not isinstance(result.get(key), kinds) or isinstance(result[key], bool) != (kinds == (bool,)):
            raise UserError(f"{path} is not the result.json of a run: {key!r} is {result.get(key)!r}")
    return result


_RESULT: dict[str, tuple[type, ...]] = {
    "figure": (str,), "value": (int, float), "reached": (bool,), "note": (str,), "evaluated_on": (int,),
    "epochs": (int,), "best_epoch": (int,), "training_seconds": (int, float),
    "weights_sha256": (str,),
}  # fmt: skip


def _checksum(dataset: Any) -> str | None:
    return dataset.checksum() if hasattr(dataset, "checksum") else None


def _check_new(folder: Path) -> None:
    if (folder / "config.json").exists():
        raise UserError(
            f"{folder} already holds a run; give another --out, or resume it: minidl resume {_quoted(folder)}"
        )


def _first_free(folder: Path) -> Path:
    """Make ``folder``, or the first of ``folder-2``, ``folder-3`` … that does not exist."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    n, candidate = 1, folder
    while True:
        try:
            candidate.mkdir()
            return candidate
        except FileExistsError:  # also one that another process has just made
            n += 1
            candidate = folder.with_name(f"{folder.name}-{n}")


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
