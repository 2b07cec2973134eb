"""record.json: what a run was made with, session by session, for whoever wants to repeat or to doubt it.

A session is the first training or a resumption. Its entry says the command, the seed, when it began and at which step,
the backend, minidl's version and commit, the versions of the libraries that computed, processor, threads and operating
system, and the time that it took so far, by the clock and of processors. Entries are brought up to date after every
epoch, so that little is missing of a session that was killed.
"""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

from minidl import machine
from minidl.errors import UserError
from minidl.files import atomic_write
from minidl.recipes.base import ConfigError
from minidl.train import Callback, Trainer
from minidl.train.callbacks import jsonable
from minidl.train.progress import TIMES
from minidl.train.state import Clock


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` to a file in a folder that must exist; NaN and infinities become null."""
    with atomic_write(path, parents=False) as file:
        file.write((json.dumps(jsonable(content), indent=2) + "\n").encode())


def read_json(path: Path, kind: type) -> Any:
    """What is in a JSON file, which must be a ``kind``: dict or list. Raises UserError that names the file."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(content, kind):
        raise UserError(f"{path}: expected a JSON {'object' if kind is dict else 'array'}")
    return content


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects in a file of one JSON object a line. Raises UserError that names the file and the line."""
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: not valid JSON ({error})") from error
        if not isinstance(rows[-1], dict):
            raise UserError(f"{path}, line {number}: expected a JSON object")
    return rows


class Record(Callback):
    """Keeps record.json in step with the training."""

    def __init__(self, path: Path, **facts: Any) -> None:
        self.path, self.clock = path, Clock()
        self.sessions = read_json(path, list) if path.exists() else []
        for session in self.sessions:
            times = [session.get(name, 0.0) for name in TIMES] if isinstance(session, dict) else [None]
            if not all(isinstance(seconds, (int, float)) for seconds in times):
                raise UserError(f"{path} is not the record.json of a run: a session is {session!r}")
        self.session = {**facts, **machine.facts(), "began": _now()}
        self.sessions.append(self.session)

    def on_fit_begin(self, trainer: Trainer) -> None:
        self.session["from_step"] = trainer.step
        self._write(trainer)

    def on_epoch_end(self, trainer: Trainer, row: dict[str, Any]) -> None:
        self._write(trainer)

    def on_fit_end(self, trainer: Trainer) -> None:
        self._write(trainer)

    def finish(self, trainer: Trainer) -> dict[str, float]:
        """Close the session; returns the time that all of them took."""
        self.session["versions"] = machine.versions()  # now that everything that computes has been loaded
        self.session["ended"] = _now()
        self._write(trainer)
        return {f"total_{name}": round(sum(session.get(name, 0.0) for session in self.sessions), 3) for name in TIMES}

    def _write(self, trainer: Trainer) -> None:
        self.session["seconds"], self.session["cpu_seconds"] = (round(s, 3) for s in self.clock.read())
        self.session["to_step"] = trainer.step
        write_json(self.path, self.sessions)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


class SameSettings(Callback):
    """Refuses to resume with settings or data that are not those of the checkpoint."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self.facts = facts

    def state_dict(self) -> dict[str, Any]:
        return {"facts": self.facts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        differing = [
            f"{name} was {state['facts'].get(name)!r} and is {self.facts.get(name)!r}"
            for name in dict.fromkeys((*state["facts"], *self.facts))
            if state["facts"].get(name) != self.facts.get(name)
        ]
        if differing:
            raise ConfigError(f"the run was started otherwise: {'; '.join(differing)}. Put it back, or start a new run")
