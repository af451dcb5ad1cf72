"""Text files of any size in bounded memory: lines in, pieces out, one file written whole or not."""

from __future__ import annotations

import bz2
import codecs
import contextlib
import gzip
import io
import lzma
import os
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import IO, Literal

from ebm_wgpu.errors import DataError
from ebm_wgpu.files import replacing
from ebm_wgpu.text.tokenizer_base import safe_chunks

LONGEST_PIECE = 1 << 16
"""Characters of a line above which it is read in parts."""

_LONGEST_LINE = 1 << 28
_LONGEST_RUN = 1 << 20
_READ_BYTES = 1 << 18
_WRITE_BYTES = 1 << 20
_BOM = "\ufeff"
_OPENERS: Mapping[str, Callable[[IO[bytes]], io.BufferedIOBase]] = MappingProxyType(
    {
        ".gz": lambda raw: gzip.GzipFile(fileobj=raw),
        ".bz2": bz2.BZ2File,
        ".xz": lzma.LZMAFile,
    }
)
_TEXT_SUFFIXES = frozenset({".txt", ".text", ".md", ".tokens", ".raw", ".jsonl", ".ndjson"})
_JSON_SUFFIXES = frozenset({".jsonl", ".ndjson"})
_ERROR_HANDLERS = MappingProxyType({"error": "strict", "replace": "replace", "drop": "ignore"})

OnBytes = Callable[[int], None]
"""Is told how many bytes of a file were read since it was last told."""


@dataclass(frozen=True)
class Decoding:
    """How the bytes of a file become text.

    Attributes:
        encoding: a text encoding that Python knows; a byte order mark is dropped.
        invalid: what to do with bytes that are no text: refuse the file, put U+FFFD, or drop them.
    """

    encoding: str = "utf-8"
    invalid: Literal["error", "replace", "drop"] = "error"

    def __post_init__(self) -> None:
        try:
            codecs.getincrementaldecoder(self.encoding)
            # Codecs between bytes and bytes are found out by use only.
            with contextlib.suppress(UnicodeError):
                b"text".decode(self.encoding)
        except LookupError as error:
            raise DataError(
                f"unknown text encoding {self.encoding!r}: give utf-8, latin-1, cp1252 or another "
                "that Python knows"
            ) from error

    def decoder(self) -> codecs.IncrementalDecoder:
        """A new decoder, from bytes as they come to text."""
        make = codecs.getincrementaldecoder(self.encoding)
        return make(errors=_ERROR_HANDLERS[self.invalid])


def content_suffix(path: Path) -> str:
    """The suffix that says what is in a file, without that of its compression: a.jsonl.gz: .jsonl.

    Lower case; empty where there is none.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _OPENERS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def is_json_lines(path: Path) -> bool:
    """Whether the name of `path` says that each of its lines is a JSON object."""
    return content_suffix(path) in _JSON_SUFFIXES


def expand_inputs(inputs: Iterable[str | Path]) -> tuple[Path, ...]:
    """The files that `inputs` mean: files themselves, and all text files below folders, sorted.

    Text files are those ending in .txt, .text, .md, .tokens, .raw, .jsonl or .ndjson, also with
    .gz, .bz2 or .xz behind; names that begin with a dot are left out.

    Raises:
        DataError: an input does not exist, a folder holds no text file, or there are no inputs.
    """
    files: list[Path] = []
    for given in inputs:
        path = Path(given).expanduser()
        if not path.is_dir():
            if not path.exists():
                raise DataError(f"{path} cannot be read (no such file): check the path")
            files.append(path)
            continue
        below = [
            file
            for file in sorted(path.rglob("*"))
            if content_suffix(file) in _TEXT_SUFFIXES
            and not any(part.startswith(".") for part in file.relative_to(path).parts)
            and file.is_file()
        ]
        if not below:
            raise DataError(
                f"{path} holds no text file ({', '.join(sorted(_TEXT_SUFFIXES))}): give files"
            )
        files += below
    if not files:
        raise DataError("no input: give text files or folders of them")
    return tuple(files)


def total_bytes(paths: Sequence[Path]) -> int:
    """Bytes of the files as they lie on the disk, the sum that `OnBytes` reaches.

    Raises:
        DataError: a file is missing.
    """
    try:
        return sum(path.stat().st_size for path in paths)
    except OSError as error:
        raise DataError(
            f"{error.filename} cannot be read ({error.strerror}): check the path"
        ) from error


def read_lines(
    path: Path,
    decoding: Decoding | None = None,
    on_bytes: OnBytes | None = None,
    longest: int | None = LONGEST_PIECE,
) -> Iterator[str]:
    """The lines of a text file, each ending in a newline, in memory that its size does not change.

    Files ending in .gz, .bz2 or .xz are decompressed. A byte order mark is dropped, CR and CR LF
    become newlines, and a last line without a newline gets one.

    Args:
        path: the file.
        decoding: of its bytes; strict UTF-8 unless given.
        on_bytes: is told of the bytes read, for progress.
        longest: characters above which a line comes in parts, only the last of which ends in a
            newline; parts are cut before a space where there is one. None: lines are never cut.

    Raises:
        DataError: the file is missing, unreadable, damaged, binary (it holds NUL), not in the
            encoding (it names the byte offset), or has an uncut line of 2^28 characters.
    """
    rest = ""
    for text in read_pieces(path, decoding, on_bytes):
        *lines, rest = (rest + text).split("\n")
        for line in lines:
            if longest is None or len(line) < longest:
                yield line + "\n"
            else:
                yield from _in_parts(line + "\n", longest)
        if len(rest) > (longest or _LONGEST_LINE):
            if longest is None:
                raise DataError(
                    f"{path} has a line of more than {_LONGEST_LINE:,} characters: give a file "
                    "whose records lie on lines of their own"
                )
            *parts, rest = _in_parts(rest, longest)
            yield from parts
    if rest:
        yield rest + "\n"


def read_pieces(
    path: Path, decoding: Decoding | None = None, on_bytes: OnBytes | None = None
) -> Iterator[str]:
    """The text of a file, in pieces of any length, cut anywhere but within a character.

    Files ending in .gz, .bz2 or .xz are decompressed. A byte order mark is dropped, and CR and CR
    LF become newlines; otherwise the pieces joined are the text.

    Args:
        path: the file.
        decoding: of its bytes; strict UTF-8 unless given.
        on_bytes: is told of the bytes read, for progress.

    Raises:
        DataError: as for `read_lines`.
    """
    decoding = decoding or Decoding()
    bytewise = codecs.lookup(decoding.encoding).name == "utf-8"
    decoder = decoding.decoder()
    newlines = io.IncrementalNewlineDecoder(decoder, translate=True)
    read, first = 0, True
    for data in _chunks(path, on_bytes):
        if bytewise and (offset := data.find(b"\0")) >= 0:
            raise DataError(
                f"{path} is binary: NUL at byte offset {read + offset}; give a text file, or its "
                "encoding"
            )
        pending = len(decoder.getstate()[0])
        try:
            text = newlines.decode(data, final=not data)
        except UnicodeError as error:
            place = read - pending + getattr(error, "start", 0)
            bad = getattr(error, "object", b"")[getattr(error, "start", 0) :][:1].hex() or "?"
            raise DataError(
                f"{path} is not {decoding.encoding.upper()}: invalid byte 0x{bad} at byte offset "
                f"{place}; convert it to UTF-8, or give its encoding"
            ) from error
        read += len(data)
        if "\0" in text:
            raise DataError(
                f"{path} is binary: NUL before byte offset {read}; give a text file, or its "
                "encoding"
            )
        if first and text:
            text, first = text.removeprefix(_BOM), False
        yield text


def _chunks(path: Path, on_bytes: OnBytes | None) -> Iterator[bytes]:
    """The bytes of a file, decompressed; an empty one last."""
    opener = _OPENERS.get(path.suffix.lower())
    try:
        with path.open("rb") as raw:
            file = raw if opener is None else opener(raw)
            told, data = 0, b"-"
            while data:
                data = file.read(_READ_BYTES)
                yield data
                if on_bytes is not None:
                    place = raw.tell()
                    on_bytes(place - told)
                    told = place
    except IsADirectoryError as error:
        raise DataError(f"{path} is a folder: give the path of a text file") from error
    except (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is damaged or not compressed ({error}): restore it") from error
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror or error}): check the path"
        ) from error


def _in_parts(line: str, longest: int) -> Iterator[str]:
    start = 0
    while len(line) - start > longest:
        cut = line.rfind(" ", start + longest // 2, start + longest)
        if cut > 0:
            while cut > start + 1 and line[cut - 1] == " ":
                cut -= 1
        else:
            cut = start + longest
            while cut > start + longest // 2 and unicodedata.combining(line[cut]):
                cut -= 1
        yield line[start:cut]
        start = cut
    yield line[start:]


def token_safe_pieces(pieces: Iterable[str], size: int = LONGEST_PIECE) -> Iterator[str]:
    """Regroup text where no token can span a cut, into pieces of about `size` characters.

    The pieces are those of `safe_chunks` of the whole text, so that their encodings joined are the
    encoding of the whole. Memory stays flat: where no safe cut comes for 2^20 characters (text
    without spaces), the text is cut there.
    """
    held: list[str] = []
    length, limit = 0, size
    for piece in pieces:
        held.append(piece)
        length += len(piece)
        if length <= limit:
            continue
        *ready, rest = safe_chunks("".join(held), size)
        yield from ready
        if len(rest) > _LONGEST_RUN:
            yield rest
            rest = ""
        held, length = [rest], len(rest)
        limit = max(size, 2 * length)
    yield from safe_chunks("".join(held), size)


class AtomicWriter:
    """A text file that appears under its name when it is complete, and not at all otherwise.

    A context manager; leaving it by an exception removes what was written. Text is UTF-8.

    Attributes:
        position: bytes written.
    """

    def __init__(self, path: Path) -> None:
        """Find out whether `path` can be written to; nothing is until the context is entered.

        Raises:
            DataError: the folder is missing or cannot be written to, or `path` is a folder.
        """
        check_output(path)
        self.path = path
        self.position = 0

    def write(self, text: str) -> None:
        """Append `text`.

        Raises:
            DataError: the disk is full or fails.
        """
        data = text.encode("utf-8")
        try:
            self._file.write(data)
        except OSError as error:
            raise _not_written(self.path, error) from error
        self.position += len(data)

    def cut_back(self, position: int) -> None:
        """Drop everything from byte `position` on."""
        try:
            self._file.seek(position)
            self._file.truncate()
        except OSError as error:
            raise _not_written(self.path, error) from error
        self.position = position

    def __enter__(self) -> AtomicWriter:
        """Open a temporary file beside `path`; returns the writer itself.

        Raises:
            DataError: it cannot be opened.
        """
        try:
            with contextlib.ExitStack() as stack:
                temporary = stack.enter_context(replacing(self.path))
                self._file = stack.enter_context(temporary.open("wb", buffering=_WRITE_BYTES))
                self._open = stack.pop_all()
        except OSError as error:
            raise _not_written(self.path, error) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Put the file in its place, or remove it after an exception."""
        try:
            self._open.__exit__(kind, error, traceback)
        except OSError as failure:
            raise _not_written(self.path, failure) from failure


def check_output(path: Path) -> None:
    """Find out, before long work, that a file can be written to `path`.

    Raises:
        DataError: its folder is missing or cannot be written to, or `path` is a folder.
    """
    if path.is_dir():
        raise DataError(f"{path} is a folder: give the path of the file to write")
    if not path.parent.is_dir():
        raise DataError(f"{path} cannot be written: {path.parent} is no folder, create it first")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise DataError(f"{path} cannot be written: no permission for the folder {path.parent}")


def _not_written(path: Path, error: OSError) -> DataError:
    return DataError(f"{path} cannot be written ({error.strerror or error}): check folder and disk")
