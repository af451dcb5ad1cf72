"""A run on disk: configuration, tokenizer, metrics, log, and its checkpoints with two pointers.

    config.json  tokenizer.json  metrics.jsonl  train.log  run.lock
    checkpoints/<step>/  checkpoints/last.json  checkpoints/best.json

A pointer is a JSON file that names a checkpoint: {"step": 500}. A checkpoint counts from the moment
`last` points to it; what a killed run wrote beyond that is removed when the run is resumed.
"""

from __future__ import annotations

import contextlib
import datetime
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ebm_wgpu.config import Config
from ebm_wgpu.errors import CheckpointError, ConfigError
from ebm_wgpu.files import (
    locked,
    remove_folder,
    remove_leftovers,
    sync_file,
    write_atomically,
)
from ebm_wgpu.text.tokenizers import TextTokenizer, load_tokenizer
from ebm_wgpu.training.checkpoints import checkpoint_name

CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer.json"
METRICS_FILE = "metrics.jsonl"
LOG_FILE = "train.log"
LOCK_FILE = "run.lock"
CHECKPOINTS_FOLDER = "checkpoints"
POINTERS = ("best", "last")


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
        own = {TOKENIZER_FILE, METRICS_FILE, LOG_FILE, LOCK_FILE, CHECKPOINTS_FOLDER}
        for path in sorted(self.path.iterdir()) if self.path.is_dir() else ():
            if path.name not in own and not path.name.startswith("."):
                raise CheckpointError(
                    f"{self.path} holds {path.name}, which no run wrote: choose an empty folder"
                )
        if steps := self.steps():
            raise CheckpointError(
                f"{self.checkpoints} holds checkpoint {steps[-1]} of a run without {CONFIG_FILE}: "
                "restore that file, or choose another folder"
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
        write_atomically(self.path / CONFIG_FILE, config.to_json().encode())

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
        for leftover in self.path.glob(f".{TOKENIZER_FILE}.*.tmp"):
            leftover.unlink()
        tokenizer.save(self.path / TOKENIZER_FILE)

    def read_tokenizer(self) -> TextTokenizer:
        """The run's tokenizer.

        Raises:
            DataError: it is missing or damaged.
        """
        return load_tokenizer(self.path / TOKENIZER_FILE)

    def log(self, message: str) -> None:
        """Append a line with date and time to train.log."""
        now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        with (self.path / LOG_FILE).open("a", encoding="utf-8") as file:
            file.write(f"{now} {message}\n")

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Append one JSON line to metrics.jsonl; `record` has a "step"."""
        with self.metrics_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, allow_nan=False) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl in order; a line cut short by a crash ends them."""
        records: list[dict[str, Any]] = []
        if not self.metrics_path.exists():
            return records
        for line in self.metrics_path.read_text("utf-8", errors="replace").splitlines():
            try:
                records.append(json.loads(line))
            except ValueError:
                break
        return records

    def truncate_metrics(self, step: int) -> None:
        """Drop the lines of steps beyond `step`, so that resuming there repeats none."""
        kept = [record for record in self.read_metrics() if record["step"] <= step]
        text = "".join(json.dumps(record, allow_nan=False) + "\n" for record in kept)
        write_atomically(self.metrics_path, text.encode())

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
            step = json.loads(path.read_bytes())["step"]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f'{path} is damaged: write {{"step": STEP}} into it, STEP one of '
                f"{', '.join(str(step) for step in self.steps())}"
            ) from error
        if type(step) is not int or step < 0:
            raise CheckpointError(f"{path} names step {step!r}: a step is a whole number")
        return step

    def commit(self, step: int, best_step: int | None, keep_last: int) -> None:
        """Point `last` to `step` and `best` to `best_step`, then delete old checkpoints.

        The newest `keep_last` stay, and the best. Metrics are synced first, so that they reach at
        least as far as the checkpoint.
        """
        if self.metrics_path.exists():
            sync_file(self.metrics_path)
        self._point("last", step)
        if best_step is not None:
            self._point("best", best_step)
        steps = self.steps()
        kept = {*steps[-keep_last:], step, best_step}
        self._remove(old for old in steps if old not in kept)

    def rewind(self, step: int | None, best_step: int | None) -> None:
        """Make the run what it was when the checkpoint of `step` was committed (None: before all).

        Removes unfinished folders, checkpoints and metrics beyond `step`, and pointers to them.
        """
        step = -1 if step is None else step
        for folder in (self.path, self.checkpoints):
            for leftover in remove_leftovers(folder):
                self.log(f"removed {leftover.name}, which an interrupted run had left")
        self._remove(later for later in self.steps() if later > step)
        if best_step is None:
            self._pointer_path("best").unlink(missing_ok=True)
        else:
            self._point("best", best_step)
        self.truncate_metrics(step)

    def _remove(self, steps: Iterable[int]) -> None:
        for step in list(steps):
            remove_folder(self.checkpoints / checkpoint_name(step))

    def _point(self, name: str, step: int) -> None:
        content = json.dumps({"step": step}) + "\n"
        write_atomically(self._pointer_path(name), content.encode())

    def _pointer_path(self, name: str) -> Path:
        return self.checkpoints / f"{name}.json"
