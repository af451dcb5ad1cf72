"""A run on disk: configuration, tokenizer, metrics, log, and its checkpoints with two pointers.

    config.json  tokenizer.json  metrics.jsonl  history.json  train.log  run.lock
    checkpoints/<step>/  checkpoints/last.json  checkpoints/best.json

A pointer is a JSON file that names a checkpoint, {"step": 500}, and holds a SHA-256 of that. A
checkpoint counts from the moment `last` points to it; what a killed run wrote beyond that is
removed when the run is resumed.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ebm_wgpu.config import Config
from ebm_wgpu.errors import CheckpointError, ConfigError
from ebm_wgpu.files import (
    json_digest,
    locked,
    parse_json,
    remove_folder,
    remove_leftovers,
    sync_file,
    write_atomically,
    writing,
)
from ebm_wgpu.text.tokenizers import TextTokenizer, load_tokenizer
from ebm_wgpu.training.checkpoints import checkpoint_name

CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer.json"
METRICS_FILE = "metrics.jsonl"
HISTORY_FILE = "history.json"
LOG_FILE = "train.log"
LOCK_FILE = "run.lock"
CHECKPOINTS_FOLDER = "checkpoints"
TENSORBOARD_FOLDER = "tensorboard"
WANDB_FOLDER = "wandb"
POINTERS = ("best", "last")


@dataclass(frozen=True)
class MetricsMark:
    """A place in metrics.jsonl.

    Attributes:
        size: bytes before it.
        sha256: of those bytes, in hexadecimal.
    """

    size: int
    sha256: str


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run.

    Attributes:
        path: where it is.
    """

    path: Path

    @classmethod
    def locate(cls, path: str | Path) -> tuple[RunFolder, int | None]:
        """The run that `path` belongs to, and the step if `path` is one of its checkpoints.

        Raises:
            CheckpointError: `path` is neither a run folder nor a checkpoint in one.
        """
        path = Path(path).expanduser()
        if (path / CONFIG_FILE).is_file():
            return cls(path), None
        run = path.absolute().parent.parent
        if path.is_dir() and path.name.isdecimal() and (run / CONFIG_FILE).is_file():
            return cls(run), int(path.name)
        raise CheckpointError(
            f"{path} is no run folder (it has no {CONFIG_FILE}): give the folder `ebm train` wrote"
        )

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / CHECKPOINTS_FOLDER

    @property
    def metrics_path(self) -> Path:
        """The file of JSON lines, one object for each step that was logged or evaluated."""
        return self.path / METRICS_FILE

    @property
    def history_path(self) -> Path:
        """The file of evaluations (`ebm_wgpu.training.history`)."""
        return self.path / HISTORY_FILE

    def exists(self) -> bool:
        """Whether a run has been started here."""
        return (self.path / CONFIG_FILE).exists()

    def check_unused(self) -> None:
        """Make sure a new run can start here without touching anything of others.

        What a run leaves that was killed before it had a configuration does not count.

        Raises:
            CheckpointError: the folder holds a run, or other files.
        """
        if self.exists():
            raise CheckpointError(
                f"{self.path} holds a run already: go on with --resume, or choose another folder"
            )
        own = {
            TOKENIZER_FILE, METRICS_FILE, HISTORY_FILE, LOG_FILE, LOCK_FILE, CHECKPOINTS_FOLDER,
            TENSORBOARD_FOLDER, WANDB_FOLDER,
        }  # fmt: skip
        for path in sorted(self.path.iterdir()) if self.path.is_dir() else ():
            if path.name not in own and not path.name.startswith("."):
                raise CheckpointError(
                    f"{self.path} holds {path.name}, which no run wrote: choose an empty folder"
                )
        if steps := self.steps():
            raise CheckpointError(
                f"{self.path / CONFIG_FILE} is missing and checkpoint {steps[-1]} of its run is "
                "there: restore that file, or choose another folder"
            )

    def create(self) -> None:
        """Make the folder and its checkpoint folder; what is there stays.

        Raises:
            CheckpointError: a file is in the way or the folder cannot be made.
        """
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(
                f"run folder {self.path} cannot be made ({error.strerror}): choose another"
            ) from error

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Hold the run for this process; a second trainer on it gets a `CheckpointError`."""
        return locked(self.path / LOCK_FILE)

    def write_config(self, config: Config) -> None:
        """Make `config` the run's configuration."""
        path = self.path / CONFIG_FILE
        with writing(path):
            write_atomically(path, config.to_json().encode())

    def read_config(self) -> Config:
        """The run's configuration.

        Raises:
            CheckpointError: it is missing or damaged.
        """
        path = self.path / CONFIG_FILE
        try:
            return Config.from_json(path.read_text("utf-8"))
        except (OSError, UnicodeDecodeError, ConfigError) as error:
            raise CheckpointError(
                f"{path} cannot be read ({error}): restore it, or start a new run"
            ) from error

    def write_tokenizer(self, tokenizer: TextTokenizer) -> None:
        """Make `tokenizer` the run's tokenizer."""
        path = self.path / TOKENIZER_FILE
        with writing(path):
            tokenizer.save(path)

    def read_tokenizer(self) -> TextTokenizer:
        """The run's tokenizer.

        Raises:
            DataError: it is missing or damaged.
        """
        return load_tokenizer(self.path / TOKENIZER_FILE)

    def log(self, message: str) -> None:
        """Append a line with date and time to train.log."""
        now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        path = self.path / LOG_FILE
        with writing(path), path.open("a", encoding="utf-8") as file:
            file.write(f"{now} {message}\n")

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Append one JSON line to metrics.jsonl; `record` has a "step"."""
        line = json.dumps(record, allow_nan=False) + "\n"
        with writing(self.metrics_path), self.metrics_path.open("a", encoding="utf-8") as file:
            file.write(line)

    def read_metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl in order; a line cut short by a crash ends them.

        Raises:
            CheckpointError: the file cannot be read, or a line before its last is damaged.
        """
        records: list[dict[str, Any]] = []
        if not self.metrics_path.exists():
            return records
        try:
            lines = self.metrics_path.read_text("utf-8", errors="replace").splitlines()
        except OSError as error:
            raise CheckpointError(
                f"{self.metrics_path} cannot be read ({error.strerror}): restore it or delete it"
            ) from error
        for number, line in enumerate(lines, 1):
            try:
                record = parse_json(line)
                if type(record["step"]) is not int:
                    raise TypeError("a step is a whole number")
            except (ValueError, TypeError, KeyError) as error:
                if number < len(lines):
                    raise CheckpointError(
                        f"line {number} of {self.metrics_path} is damaged: restore the file, or "
                        "delete it to go on without it"
                    ) from error
                break
            records.append(record)
        return records

    def sync_metrics(self) -> MetricsMark:
        """Make the lines written so far survive a power cut, and mark their end."""
        with writing(self.metrics_path):
            if not self.metrics_path.exists():
                return MetricsMark(0, hashlib.sha256().hexdigest())
            sync_file(self.metrics_path)
            content = self.metrics_path.read_bytes()
        return MetricsMark(len(content), hashlib.sha256(content).hexdigest())

    def truncate_metrics(self, mark: MetricsMark | None) -> None:
        """Drop the lines after `mark` (None: all), so that resuming there repeats none.

        Where there is no file, it was deleted, and the run goes on without what was in it.

        Raises:
            CheckpointError: the lines before it are not those that were marked.
        """
        path = self.metrics_path
        with writing(path):
            if mark is None:
                write_atomically(path, b"")
            elif path.exists():
                kept = path.read_bytes()[: mark.size]
                if hashlib.sha256(kept).hexdigest() != mark.sha256:
                    raise CheckpointError(
                        f"{path} was altered or cut short since it was written: restore it, or "
                        "delete it to go on without it"
                    )
                write_atomically(path, kept)
            elif mark.size:
                self.log(f"{path.name} is missing; what was in it is lost")

    def steps(self) -> list[int]:
        """The steps that have a checkpoint folder, ascending."""
        folders = self.checkpoints.iterdir() if self.checkpoints.is_dir() else iter(())
        return sorted(int(f.name) for f in folders if f.is_dir() and f.name.isdecimal())

    def checkpoint_path(self, which: str | int = "last") -> Path:
        """The folder of a checkpoint: of "best", of "last", or of a step.

        Raises:
            CheckpointError: there is none.
        """
        step = which if isinstance(which, int) else self.pointer(which)
        if step is None:
            raise CheckpointError(
                f"{self.path} has no checkpoint yet: train it until the first is written"
            )
        path = self.checkpoints / checkpoint_name(step)
        if not path.is_dir():
            there = ", ".join(str(step) for step in self.steps()) or "none"
            raise CheckpointError(
                f"{self.path} has no checkpoint of step {step}: choose one of {there}"
            )
        return path

    def pointer(self, name: str) -> int | None:
        """The step that "best" or "last" points to, or None before the first checkpoint.

        Raises:
            CheckpointError: the pointer is damaged, or there is no pointer of that name.
        """
        if name not in POINTERS:
            raise CheckpointError(
                f"no checkpoint called {name!r}: choose one of {', '.join(POINTERS)}, or a step"
            )
        path = self._pointer_path(name)
        try:
            content = parse_json(path.read_bytes())
            step, digest = content.pop("step"), content.pop("sha256", None)
            if content or digest not in (None, json_digest({"step": step})):
                raise ValueError("its SHA-256 is another")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f'{path} is damaged: write {{"step": STEP}} into it, STEP one of '
                f"{', '.join(str(step) for step in self.steps())}"
            ) from error
        if type(step) is not int or step < 0:
            raise CheckpointError(f"{path} names step {step!r}: a step is a whole number")
        return step

    def newest(self) -> int | None:
        """The checkpoint to go on from, or None if there is none.

        It is the one `last` points to. Where that folder or the pointer itself is missing, it was
        deleted, and the newest there is takes its place: every checkpoint is whole.

        Raises:
            CheckpointError: the pointer is damaged.
        """
        last, steps = self.pointer("last"), self.steps()
        return last if last in steps else max(steps, default=None)

    def commit(self, step: int, best_step: int | None) -> None:
        """Point `last` to `step` and `best` to `best_step`."""
        self._point("last", step)
        if best_step is not None:
            self._point("best", best_step)

    def prune(self, keep_last: int, keep: Iterable[int]) -> None:
        """Delete all checkpoints but the newest `keep_last`, those of `keep`, and `last`'s."""
        steps = self.steps()
        kept = {*steps[-keep_last:], *keep, self.pointer("last")}
        self._remove(old for old in steps if old not in kept)

    def rewind(self, step: int | None, best_step: int | None, mark: MetricsMark | None) -> None:
        """Make the run what it was when the checkpoint of `step` was committed (None: before all).

        Removes unfinished folders, checkpoints beyond `step`, metrics beyond `mark`, and pointers
        to checkpoints that are not there.

        Raises:
            CheckpointError: metrics were altered, or the folder cannot be written.
        """
        self.truncate_metrics(mark)
        with writing(self.path):
            for folder in (self.path, self.checkpoints):
                for leftover in remove_leftovers(folder):
                    self.log(f"removed {leftover.name}, which an interrupted run had left")
        self._remove(later for later in self.steps() if step is None or later > step)
        for name, target in (("last", step), ("best", best_step)):
            if target is not None and target in self.steps():
                self._point(name, target)
                continue
            with writing(self._pointer_path(name)):
                self._pointer_path(name).unlink(missing_ok=True)

    def _remove(self, steps: Iterable[int]) -> None:
        for step in list(steps):
            folder = self.checkpoints / checkpoint_name(step)
            with writing(folder):
                remove_folder(folder)

    def _point(self, name: str, step: int) -> None:
        content = {"step": step}
        line = json.dumps({**content, "sha256": json_digest(content)}) + "\n"
        with writing(self._pointer_path(name)):
            write_atomically(self._pointer_path(name), line.encode())

    def _pointer_path(self, name: str) -> Path:
        return self.checkpoints / f"{name}.json"
