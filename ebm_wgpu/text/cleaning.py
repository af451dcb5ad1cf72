"""Clean lines of text: repair of broken Unicode, normal forms, case and whitespace."""

from __future__ import annotations

import html
import re
import unicodedata
from dataclasses import dataclass
from functools import cache
from typing import Literal

from ebm_wgpu.errors import DataError
from ebm_wgpu.text.tokenizer_base import END_OF_TEXT

# Controls but tab and newline, the byte order mark, deprecated formatting and interlinear marks.
_REMOVED = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u206a-\u206f\ufeff\ufff9-\ufffb]")
_LINE_BREAKS = re.compile("[\x0b-\r\x85\u2028\u2029]")
_SURROGATES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Cleaning:
    """What is done to a text.

    Control characters and lone surrogates, which no text should hold, always go.

    Attributes:
        repair: undo wrong decodings (mojibake such as "Ã©" for "é") and drop terminal escapes.
        unescape_html: replace character references such as "&amp;".
        normal_form: Unicode normal form; "nfkc" also folds ligatures, widths and the like.
        lowercase: fold to lower case.
        whitespace: "keep" it, "trim" it at line ends, or "collapse" every run of it to one space
            and drop it around lines.
        mark: text taken out wherever it occurs, since it will mark the ends of documents; "" none.
    """

    repair: bool = True
    unescape_html: bool = False
    normal_form: Literal["nfc", "nfkc", "none"] = "nfc"
    lowercase: bool = False
    whitespace: Literal["keep", "trim", "collapse"] = "trim"
    mark: str = END_OF_TEXT

    def __post_init__(self) -> None:
        if self.mark.strip() != self.mark or "\n" in self.mark:
            raise DataError(
                f"document mark {self.mark!r} must be one line without whitespace around it"
            )


@dataclass
class CleaningCounts:
    """What cleaning did.

    Attributes:
        repaired_lines: lines in which a wrong decoding, an escape, a character reference or a lone
            surrogate was replaced.
        normalized_lines: lines that were not in the normal form.
        removed_characters: control characters and the like.
        removed_marks: document marks inside the text.
    """

    repaired_lines: int = 0
    normalized_lines: int = 0
    removed_characters: int = 0
    removed_marks: int = 0


class LineCleaner:
    """Cleans a text line by line, counting what it does.

    Attributes:
        counts: what was done so far.
    """

    def __init__(
        self, cleaning: Cleaning | None = None, counts: CleaningCounts | None = None
    ) -> None:
        """Begin at the start of a line; `counts` is added to."""
        self.cleaning = cleaning or Cleaning()
        self.counts = counts or CleaningCounts()
        self._at_line_start = True

    def __call__(self, piece: str) -> str:
        """The cleaned text of a line, or of the next part of a long one.

        Args:
            piece: text that ends in a newline, or the part of a line that others follow. Line
                breaks of other kinds become newlines.
        """
        at_start, ends_line = self._at_line_start, piece.endswith("\n")
        self._at_line_start = ends_line
        body = piece[:-1] if ends_line else piece
        if not (body.isascii() and body.isprintable() and "&" not in body):
            repaired = self._repaired(body)
            self.counts.repaired_lines += repaired != body
            body = self._without_controls(repaired)
        if self.cleaning.lowercase:
            body = self._normal(body, count=True).lower()
        body = self._normal(body, count=not self.cleaning.lowercase)
        if (mark := self.cleaning.mark) and mark in body:
            body = self._unmarked(body, mark)
        if "\n" not in body:
            return self._spaced(body, at_start, ends_line) + "\n" * ends_line
        lines = body.split("\n")
        last = len(lines) - 1
        spaced = [
            self._spaced(line, at_start or place > 0, ends_line or place < last)
            for place, line in enumerate(lines)
        ]
        return "\n".join(spaced) + "\n" * ends_line

    def _repaired(self, text: str) -> str:
        """`text` without lone surrogates, character references, wrong decodings and escapes."""
        if self.cleaning.unescape_html and "&" in text:
            text = html.unescape(text)
        if not text.isprintable() and _SURROGATES.search(text):
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        if not self.cleaning.repair:
            return text
        if "\x1b" in text:
            from ftfy.fixes import remove_terminal_escapes

            text = remove_terminal_escapes(text)
        if not text.isascii() and _maybe_misdecoded().search(text):
            import ftfy

            text = ftfy.fix_encoding(text)
        return text

    def _without_controls(self, text: str) -> str:
        """`text` without control characters, other line breaks as newlines."""
        if text.isprintable():
            return text
        text, removed = _REMOVED.subn("", _LINE_BREAKS.sub("\n", text))
        self.counts.removed_characters += removed
        return text

    def _normal(self, text: str, count: bool) -> str:
        form = self.cleaning.normal_form
        if form == "none" or text.isascii():
            return text
        normal = unicodedata.normalize("NFC" if form == "nfc" else "NFKC", text)
        self.counts.normalized_lines += count and normal != text
        return normal

    def _unmarked(self, text: str, mark: str) -> str:
        """`text` without marks, those that appear when others are taken out included."""
        while mark in text:
            self.counts.removed_marks += text.count(mark)
            text = self._normal(text.replace(mark, ""), count=False)
        return text

    def _spaced(self, text: str, at_start: bool, ends_line: bool) -> str:
        rule = self.cleaning.whitespace
        if rule == "keep" or not text:
            return text
        if rule == "trim":
            return text.rstrip() if ends_line else text
        words = " ".join(text.split())
        before = " " if not at_start and text[0].isspace() else ""
        after = " " if not ends_line and text[-1].isspace() else ""
        return f"{before}{words}{after}" if words else before or after


@cache
def _maybe_misdecoded() -> re.Pattern[str]:
    """What every text holds that the costly search for wrong decodings could change.

    UTF-8 decoded with a single-byte encoding leaves two of that encoding's upper characters side by
    side, or the first byte of two or three before a space that was a no-break byte (which ftfy
    restores for the bytes here, and not for Mac Roman); Latin-1 leaves C1 controls.
    """
    from ftfy.chardata import CHARMAP_ENCODINGS

    upper = bytes(range(0x80, 0x100))
    upper_characters = {"\ufffd"}
    before_space: set[str] = set()
    for encoding in CHARMAP_ENCODINGS:
        upper_characters.update(upper.decode(encoding, "replace"))
        if encoding != "macroman":
            before_space.update(b"\xc2\xc3\xc5\xce\xd0\xd9\xe2\xe3\xf0".decode(encoding))
    some, first = ("".join(sorted(group)) for group in (upper_characters, before_space))
    # One class at the head lets the search skip to it.
    return re.compile(f"[{some}](?:[{some}]|(?<=[{first}]) |(?<=[\x80-\x9f]))")
