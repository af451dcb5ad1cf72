"""Read the corpora and the GPT-2 vocabulary that ship with the package, checked against SHA-256."""

from __future__ import annotations

import hashlib
import json
import lzma
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

from ebm_wgpu.errors import DataError

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

_REMEDY = "reinstall ebm-wgpu"


@dataclass(frozen=True)
class EmbeddedFile:
    """One entry of data/manifest.json; sizes in bytes, digests in hexadecimal."""

    file: str
    source: str
    licence: str
    raw_bytes: int
    raw_sha256: str
    compressed_bytes: int
    compressed_sha256: str


def _folder() -> Traversable:
    return files("ebm_wgpu.data")


def embedded_files(folder: Traversable | None = None) -> dict[str, EmbeddedFile]:
    """The embedded files by name, as data/manifest.json records them.

    Args:
        folder: where manifest.json lies; the installed data folder unless given.

    Raises:
        DataError: the manifest is missing or damaged.
    """
    folder = folder or _folder()
    try:
        entries = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        return {name: EmbeddedFile(**entry) for name, entry in entries.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(
            f"data/manifest.json cannot be read ({type(error).__name__}): {_REMEDY}"
        ) from error


def read_embedded(name: str, folder: Traversable | None = None) -> bytes:
    """The raw bytes of embedded file `name`, decompressed and checked against their SHA-256.

    Args:
        name: a key of `embedded_files`.
        folder: where manifest.json and the files lie; the installed data folder unless given.

    Raises:
        DataError: no such file, or one that is missing, truncated or altered.
    """
    folder = folder or _folder()
    entries = embedded_files(folder)
    if name not in entries:
        raise DataError(f"no embedded file {name!r}; there are {', '.join(sorted(entries))}")
    entry = entries[name]
    try:
        raw = lzma.decompress((folder / entry.file).read_bytes(), format=lzma.FORMAT_XZ)
    except OSError as error:
        raise DataError(f"data/{entry.file} is missing or unreadable: {_REMEDY}") from error
    except lzma.LZMAError as error:
        raise DataError(f"data/{entry.file} is damaged ({error}): {_REMEDY}") from error
    if hashlib.sha256(raw).hexdigest() != entry.raw_sha256:
        raise DataError(f"data/{entry.file} does not match its SHA-256: {_REMEDY}")
    return raw
