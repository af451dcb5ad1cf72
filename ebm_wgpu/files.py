"""Files that survive a crash: synced to disk, and replaced whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
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


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system says against writing `path`, inside the block, into one line for a user.

    Raises:
        CheckpointError: the disk is full or broken, or the folder is not writable.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())
        raise CheckpointError(
            f"{path} cannot be written ({reason}): make room or make it writable, then go on "
            "from what was written before"
        ) from error


def require_space(folder: Path, nbytes: int) -> None:
    """Make sure that `nbytes` more fit on the disk of `folder`.

    Raises:
        OSError: they do not.
    """
    free = shutil.disk_usage(folder).free
    if free < nbytes:
        reason = f"{os.strerror(errno.ENOSPC)}: {nbytes:,} bytes are needed and {free:,} are free"
        raise OSError(errno.ENOSPC, reason, str(folder))


def check_written(path: Path, sha256: str) -> None:
    """Read `path` back and compare it with what was meant to be written.

    Raises:
        OSError: it differs.
    """
    if file_digest(path) != sha256:
        raise OSError(errno.EIO, "what was written does not read back", str(path))


def write_atomically(path: Path, content: bytes) -> None:
    """Make `content` the whole of `path`: after a crash it holds the old bytes or the new ones.

    Raises:
        OSError: it cannot be written or does not read back; `path` is as it was.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content)
        check_written(temporary, hashlib.sha256(content).hexdigest())


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it takes the place of `path`, synced, if all goes well.

    An exception removes what was written and leaves `path` as it was.
    """
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}.{secrets.token_hex(6)}")
    try:
        yield temporary
        sync_file(temporary)
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def file_digest(path: Path) -> str:
    """SHA-256 of the content of `path`, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def parse_json(text: str | bytes) -> Any:
    """The document that JSON `text` is; its numbers are finite.

    Raises:
        ValueError: it is none, holds a number too large for a float, NaN or Infinity, or is nested
            deeper than Python can read.
    """
    try:
        return json.loads(text, parse_float=_finite, parse_constant=_finite)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text}: numbers must be finite")
    return value


def finite_numbers(document: Any) -> Any:
    """`document`, mappings and sequences in it too, with None for every number JSON does not have.

    Such are NaN and the infinities; tuples become lists.
    """
    if isinstance(document, Mapping):
        return {name: finite_numbers(inner) for name, inner in document.items()}
    if isinstance(document, list | tuple):
        return [finite_numbers(inner) for inner in document]
    return None if isinstance(document, float) and not math.isfinite(document) else document


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
        CheckpointError: another process holds it, or the file cannot be written.
    """
    with contextlib.ExitStack() as stack:
        with writing(path):
            file = stack.enter_context(path.open("ab"))
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
