"""Make one clean corpus file of many text files, in memory that their size does not change."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ebm_wgpu.errors import DataError
from ebm_wgpu.text.cleaning import Cleaning, CleaningCounts, LineCleaner
from ebm_wgpu.text.deduplication import DigestSet, text_digest
from ebm_wgpu.text.documents import DocumentRule, read_documents
from ebm_wgpu.text.streaming import AtomicWriter, Decoding, OnBytes, total_bytes

Unique = Literal["documents", "lines"]

_HELD_CHARACTERS = 1 << 20


@dataclass(frozen=True)
class Selection:
    """Which documents and lines are kept.

    Attributes:
        unique: "documents": of identical ones the first; "lines": of identical lines the first,
            blank ones aside. Compared after cleaning, by 64-bit digests of 12 to 32 bytes each.
        min_characters: fewest characters of a document, newlines included.
    """

    unique: frozenset[Unique] = frozenset()
    min_characters: int = 1


@dataclass
class Preparation(CleaningCounts):
    """What a preparation read, did and wrote; characters are code points, marks included.

    Attributes:
        files: inputs.
        documents_in, lines_in, characters_in: of documents as read, separators aside.
        bytes_in: of the inputs as they lie on the disk.
        documents_out, lines_out, characters_out, bytes_out: written.
        short_documents, duplicate_lines: dropped.
        duplicate_documents: dropped, those left without a line included.
    """

    files: int = 0
    documents_in: int = 0
    documents_out: int = 0
    lines_in: int = 0
    lines_out: int = 0
    characters_in: int = 0
    characters_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    short_documents: int = 0
    duplicate_documents: int = 0
    duplicate_lines: int = 0


def prepare_corpus(
    inputs: Sequence[Path],
    output: Path,
    rule: DocumentRule | None = None,
    cleaning: Cleaning | None = None,
    selection: Selection | None = None,
    decoding: Decoding | None = None,
    on_bytes: OnBytes | None = None,
) -> Preparation:
    """Write the documents of `inputs`, cleaned, to one UTF-8 file.

    Each document is followed by a line with the mark of `cleaning`, unless that is empty. Preparing
    the result again in the same way, separated at its marks, changes nothing. The file appears when
    it is complete.

    Args:
        inputs: text files, see `streaming.expand_inputs`.
        output: the file to write; an earlier one is replaced.
        rule: what ends a document.
        cleaning: what is done to the text.
        selection: which documents and lines are kept.
        decoding: of the bytes of `inputs`.
        on_bytes: is told of the bytes read, for progress.

    Raises:
        DataError: an input that is missing, binary or not in its encoding; an output that cannot be
            written or is an input; or no document is left.
    """
    for path in inputs:
        if output.exists() and path.exists() and path.samefile(output):
            raise DataError(f"{output} is an input and the output: write to another file")
    result = Preparation(files=len(inputs), bytes_in=total_bytes(inputs))
    cleaner = LineCleaner(cleaning, result)

    def clean(piece: str) -> str:
        result.characters_in += len(piece)
        result.lines_in += piece.endswith("\n")
        return cleaner(piece)

    with AtomicWriter(output) as writer:
        documents = _DocumentWriter(writer, selection or Selection(), cleaner.cleaning.mark, result)
        for path in inputs:
            for piece in read_documents(path, rule, decoding, on_bytes, clean):
                if piece is None:
                    documents.end()
                else:
                    documents.add(piece)
        if not result.documents_out:
            raise DataError(
                f"nothing is left to write to {output}: {result.documents_in} documents read, "
                f"{result.short_documents} too short, {result.duplicate_documents} duplicates; "
                "give files that hold text, or a smaller least length"
            )
        result.bytes_out = writer.position
    return result


class _DocumentWriter:
    """Writes the documents that are kept, each when it is known to be.

    A document is held until it is long enough to be kept; one too long to hold is written at once,
    and cut off the file again should it turn out to be a duplicate.
    """

    def __init__(
        self, writer: AtomicWriter, selection: Selection, mark: str, result: Preparation
    ) -> None:
        self._writer = writer
        self._unique = selection.unique
        self._fewest = selection.min_characters
        self._end = f"{mark}\n" if mark else ""
        self._result = result
        self._seen_documents, self._seen_lines = DigestSet(), DigestSet()
        self._hold = max(_HELD_CHARACTERS, self._fewest)
        self._begin()

    def _begin(self) -> None:
        self._held: list[str] = []
        self._start = self._writer.position
        self._length = self._characters_out = self._lines_out = self._repeated = 0
        self._blank = self._blank_run = 0
        self._digest = hashlib.blake2b(digest_size=8)
        self._spilled, self._line_start, self._any_line = False, True, False

    def add(self, piece: str) -> None:
        """Take the next piece of the document."""
        self._length += len(piece)
        if "documents" in self._unique:
            self._digest.update(piece.encode("utf-8"))
        self._held.append(piece)
        if self._length >= self._hold:
            self._spilled = True
            self._write_held()

    def end(self) -> None:
        """Keep the document or drop it."""
        result = self._result
        result.documents_in += 1
        if self._length < self._fewest:
            result.short_documents += 1
        elif self._is_duplicate():
            result.duplicate_documents += 1
            if self._spilled:
                self._writer.cut_back(self._start)
        else:
            self._write_held()
            result.duplicate_lines += self._repeated
            if self._lines_out:
                self._writer.write(self._end)
                result.documents_out += 1
                result.lines_out += self._lines_out + bool(self._end)
                result.characters_out += self._characters_out + len(self._end)
            else:
                result.duplicate_documents += 1
        self._begin()

    def _is_duplicate(self) -> bool:
        if "documents" not in self._unique:
            return False
        digest = int.from_bytes(self._digest.digest(), "little") or 1
        return not self._seen_documents.add(digest)

    def _write_held(self) -> None:
        pieces, self._held = self._held, []
        text = "".join(self._without_repeated(pieces) if "lines" in self._unique else pieces)
        self._characters_out += len(text)
        self._lines_out += text.count("\n")
        self._writer.write(text)

    def _without_repeated(self, pieces: Sequence[str]) -> Iterator[str]:
        """The pieces without lines seen before, and without blank lines that would stand alone."""
        for piece in pieces:
            line_start, self._line_start = self._line_start, piece.endswith("\n")
            if line_start and piece == "\n":
                self._blank_run += 1
                self._blank = max(self._blank, self._blank_run)
            elif line_start and self._line_start and not self._seen_lines.add(text_digest(piece)):
                self._repeated += 1
                self._blank_run = 0
            else:
                if self._any_line:
                    yield "\n" * self._blank
                yield piece
                self._any_line = True
                self._blank = self._blank_run = 0
