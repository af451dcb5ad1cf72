"""Where the documents of a text file begin and end, found while the file streams by."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ebm_wgpu.errors import DataError
from ebm_wgpu.text.streaming import (
    Decoding,
    OnBytes,
    is_json_lines,
    read_lines,
)
from ebm_wgpu.text.tokenizer_base import END_OF_TEXT

DocumentKind = Literal["auto", "separator", "file", "blank-lines", "line", "jsonl"]

_SNIPPET = 40


@dataclass(frozen=True)
class DocumentRule:
    """What ends a document; the end of a file always does.

    Attributes:
        kind: "separator": a line that is `separator`; "file": nothing else; "blank-lines": at least
            `blank_lines` lines in a row without text; "line": every line; "jsonl": every line is a
            JSON object, whose `field` is the document; "auto": "jsonl" for files named so,
            "separator" for others.
        separator: the line, without surrounding whitespace.
        blank_lines: number of lines.
        field: key of the document's text.
    """

    kind: DocumentKind = "auto"
    separator: str = END_OF_TEXT
    blank_lines: int = 2
    field: str = "text"

    def __post_init__(self) -> None:
        if self.blank_lines < 1:
            raise DataError(f"{self.blank_lines} blank lines between documents: give 1 or more")
        if not self.separator.strip() or "\n" in self.separator.strip():
            raise DataError(
                f"separator {self.separator!r} must be one line with text on it: to separate at "
                "blank lines, choose documents by blank-lines"
            )


def read_documents(
    path: Path,
    rule: DocumentRule | None = None,
    decoding: Decoding | None = None,
    on_bytes: OnBytes | None = None,
    clean: Callable[[str], str] | None = None,
) -> Iterator[str | None]:
    """The documents of a file: lines, each ending in a newline, and None after each document.

    Documents begin and end with a line that holds text; those without any do not appear. Blank
    lines inside come as a bare newline each. Lines longer than `streaming.LONGEST_PIECE` come in
    parts, except from JSON, so that memory does not grow with the file.

    Args:
        path: a text file, compressed or not; see `streaming.read_lines`.
        rule: what ends a document; the default rule unless given.
        decoding: of the bytes.
        on_bytes: is told of the bytes read, for progress.
        clean: replaces every line, or part of one, after separators were looked for. What it
            returns may hold more newlines, and ends in one if the line does.

    Raises:
        DataError: as for `streaming.read_lines`; a line that is no JSON object with text in
            `field`.
    """
    rule = rule or DocumentRule()
    kind = rule.kind
    if kind == "auto":
        kind = "jsonl" if is_json_lines(path) else "separator"
    if kind == "jsonl":
        for text in _json_texts(path, rule.field, decoding, on_bytes):
            yield from _trimmed((line + "\n" for line in text.split("\n")), clean, None, None)
        return
    lines = read_lines(path, decoding, on_bytes)
    if kind == "line":
        yield from _line_documents(lines, clean)
        return
    separator = rule.separator.strip() if kind == "separator" else None
    most_blank = rule.blank_lines if kind == "blank-lines" else None
    yield from _trimmed(lines, clean, separator, most_blank)


def _trimmed(
    lines: Iterable[str],
    clean: Callable[[str], str] | None,
    separator: str | None,
    most_blank: int | None,
) -> Iterator[str | None]:
    has_text, blank, inside_line = False, 0, False
    for raw in lines:
        # A separator is a whole line: neither the rest of a long one nor a part of one.
        if separator is not None and not inside_line and raw.strip() == separator:
            if has_text:
                yield None
            has_text, blank = False, 0
            continue
        for line in _cleaned(raw, clean):
            if not inside_line and not line.strip():
                blank += line.endswith("\n")
                continue
            if has_text and blank:
                if most_blank is not None and blank >= most_blank:
                    yield None
                else:
                    for _ in range(blank):
                        yield "\n"
            has_text, blank = True, 0
            inside_line = not line.endswith("\n")
            yield line
    if has_text:
        yield None


def _line_documents(
    lines: Iterator[str], clean: Callable[[str], str] | None
) -> Iterator[str | None]:
    inside_line = False
    for raw in lines:
        for line in _cleaned(raw, clean):
            if inside_line or line.strip():
                yield line
                inside_line = not line.endswith("\n")
                if not inside_line:
                    yield None


def _cleaned(raw: str, clean: Callable[[str], str] | None) -> list[str]:
    line = raw if clean is None else clean(raw)
    if line.count("\n") <= 1:
        return [line]
    *whole, rest = line.split("\n")
    return [part + "\n" for part in whole] + [rest] * bool(rest)


def _json_texts(
    path: Path, field: str, decoding: Decoding | None, on_bytes: OnBytes | None
) -> Iterator[str]:
    for number, line in enumerate(read_lines(path, decoding, on_bytes, longest=None), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            start = line[:_SNIPPET].strip()
            raise DataError(
                f"{path} line {number} is not JSON ({start!r}): give JSON lines, or choose how "
                "documents are separated"
            ) from error
        text = record.get(field) if isinstance(record, dict) else None
        if not isinstance(text, str):
            has = f"keys {', '.join(record)}" if isinstance(record, dict) else "no object"
            raise DataError(
                f"{path} line {number} has no text in field {field!r} ({has}): name the field"
            )
        yield text.replace("\r\n", "\n").replace("\r", "\n")
