"""Files that survive a crash: synced to disk, and replaced whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ebm_wgpu.errors import CheckpointError

TEMPORARY_PREFIX = ".tmp-"
"""What the names of files and folders begin with until they are whole."""

_BLOCK = 1 << 20


def sync_folder(folder: Path) -> None:
    """Make renames and deletions inside `folder` survive a power cut."""
    # Only POSIX systems open folders, and only they need it.
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make the content of `path` survive a power cut."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def write_atomically(path: Path, content: bytes) -> None:
    """Make `content` the whole of `path`: after a crash it holds the old bytes or the new ones."""
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def file_digest(path: Path) -> str:
    """SHA-256 of the content of `path`, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def json_digest(document: Any) -> str:
    """SHA-256, in hexadecimal, of a JSON document whatever its spacing and order of keys."""
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def remove_folder(folder: Path) -> None:
    """Delete `folder`; a crash leaves it as it was or under a temporary name, never in part."""
    doomed = folder.with_name(f"{TEMPORARY_PREFIX}removed-{folder.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    folder.replace(doomed)
    shutil.rmtree(doomed)


def remove_leftovers(folder: Path) -> list[Path]:
    """Delete what a killed process left in `folder` under temporary names; says what that was."""
    leftovers = sorted(folder.glob(f"{TEMPORARY_PREFIX}*"))
    for path in leftovers:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    return leftovers


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path`; the system lets go of it when the process ends, however it does.

    Raises:
        CheckpointError: another process holds it.
    """
    with path.open("ab") as file:
        try:
            _lock(file)
        except OSError as error:
            raise CheckpointError(
                f"{path.parent} is in use by another process: wait for it or choose another folder"
            ) from error
        yield


def _lock(file: BinaryIO) -> None:
    if os.name == "posix":
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    else:
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
