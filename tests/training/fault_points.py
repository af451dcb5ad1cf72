"""The points where a process writes, and what a fault does to it at one of them."""

from __future__ import annotations

import builtins
import errno
import io
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

CODES = {"full": errno.ENOSPC, "I/O error": errno.EIO, "read-only": errno.EROFS}


class Faults:
    """Counts the points a process passes, and does to it what a fault says at one of them."""

    def __init__(self, root: Path, kind: str = "", target: int = -1, seed: int = 0) -> None:
        self.root, self.kind, self.target = str(root), kind, target
        self.points: list[str] = []
        self._rng = np.random.default_rng(seed)
        self._unsynced: set[str] = set()
        self._open, self._fsync = io.open, os.fsync

    def install(self) -> None:
        """Put the points into everything that writes, in this process."""
        builtins.open = io.open = self.open  # type: ignore[assignment]
        os.fsync = self.fsync  # type: ignore[assignment]
        for name in ("mkdir", "unlink", "rmdir"):
            setattr(os, name, self.before(name, getattr(os, name)))
        os.replace = self.replace(os.replace)  # type: ignore[assignment]
        group: Any = h5py.Group
        group.create_dataset = self.before("dataset", group.create_dataset)
        init, close = h5py.File.__init__, h5py.File.close

        def begin(file: Any, path: Any, *rest: Any, **options: Any) -> None:
            writes = bool(rest) and rest[0] != "r"
            if writes:
                self.pass_one("h5 open", path)
                self._unsynced.add(os.path.realpath(path))
            init(file, path, *rest, **options)
            file.ebm_writes = writes

        def end(file: Any) -> None:
            if file.id and file.__dict__.get("ebm_writes"):
                self.pass_one("h5 close", self.root)
            close(file)

        h5py.File.__init__, h5py.File.close = begin, end

    def pass_one(self, what: str, path: Any, tear: Callable[[], None] | None = None) -> None:
        """Pass a point; nothing outside the run counts."""
        if isinstance(path, int) or not os.path.realpath(path).startswith(self.root):
            return
        number = len(self.points)
        self.points.append(f"{what} {Path(os.fspath(path)).name}")
        lasting = self.kind in ("full", "read-only") and number > self.target >= 0
        if number != self.target and not lasting:
            return
        if self.kind in CODES:
            if self.kind == "full" and what in ("unlink", "rmdir"):
                return
            if self.kind == "full" and tear is not None:
                tear()
            code = CODES[self.kind]
            raise OSError(code, os.strerror(code), os.fspath(path))
        if self.kind == "torn" and tear is not None:
            tear()
        if self.kind == "power cut":
            self.cut_power()
        os.kill(os.getpid(), signal.SIGKILL)

    def cut_power(self) -> None:
        """Cut short what was written and not synced."""
        for path in map(Path, sorted(self._unsynced)):
            if path.is_file():
                os.truncate(path, int(self._rng.integers(path.stat().st_size + 1)))

    def before(self, what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` with a point before it; its first argument may be a path."""

        def call(first: Any, *rest: Any, **options: Any) -> Any:
            named = isinstance(first, (str, os.PathLike)) and "dir_fd" not in options
            self.pass_one(what, first if named else self.root)
            return function(first, *rest, **options)

        return call

    def replace(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Renaming with a point before it and one after."""

        def call(source: Any, target: Any) -> None:
            self.pass_one("rename to", target)
            function(source, target)
            source, target = os.path.realpath(source), os.path.realpath(target)
            if source in self._unsynced:
                self._unsynced.remove(source)
                self._unsynced.add(target)
            self.pass_one("renamed to", target)

        return call

    def fsync(self, descriptor: int) -> None:
        """Sync, and remember it."""
        path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        self.pass_one("sync", path)
        self._fsync(descriptor)
        self._unsynced.discard(path)

    def open(self, path: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
        """Open; files to write to have points of their own."""
        if not set(mode) & set("wax+") or isinstance(path, int):
            return self._open(path, mode, *rest, **options)
        self.pass_one("open", path)
        return _Written(self._open(path, mode, *rest, **options), os.path.realpath(path), self)

    def wrote(self, path: str) -> None:
        """Remember what is not synced."""
        if path.startswith(self.root):
            self._unsynced.add(path)


class _Written:
    """A file being written, each write a point."""

    def __init__(self, file: Any, path: str, faults: Faults) -> None:
        self._file, self._path, self._faults = file, path, faults

    def write(self, data: Any) -> Any:
        def tear() -> None:
            self._file.write(data[: len(data) // 2])
            self._file.flush()

        self._faults.pass_one("write", self._path, tear)
        self._faults.wrote(self._path)
        return self._file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _Written:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()
