"""What every tokenizer is: text to token ids and back, and one JSON file to be kept in."""

from __future__ import annotations

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from ebm_wgpu.errors import DataError
from ebm_wgpu.files import write_atomically

TokenIds = npt.NDArray[np.int32]

END_OF_TEXT = "<|endoftext|>"
"""The special token, and the line of a prepared corpus, that ends a document."""

UNKNOWN_CHARACTER = "\ufffd"

FILE_FORMAT = "ebm-wgpu-tokenizer"
FILE_VERSION = 1
_CHUNK_CHARACTERS = 1 << 12

# No word, and no token of GPT-2's pattern, holds a non-space followed by a space: cutting here
# changes no token.
_SAFE_CUT = re.compile(r"(?<=\S)[ \n]")


def token_safe_cut(text: str, start: int) -> int | None:
    """The first place from `start` on where no token can span a cut; None if there is none."""
    cut = _SAFE_CUT.search(text, start)
    return cut.start() if cut else None


def safe_chunks(text: str, size: int = _CHUNK_CHARACTERS) -> Iterator[str]:
    """Cut `text` where no token can span the cut, into pieces of about `size` characters.

    The pieces joined are `text`, and their encodings joined are the encoding of `text`.
    """
    start = 0
    while start < len(text):
        stop = token_safe_cut(text, start + size) or len(text)
        yield text[start:stop]
        start = stop


class TextTokenizer(ABC):
    """Text to token ids in [0, vocab_size) and back.

    Attributes:
        name: the key of `TOKENIZERS`.
    """

    name: ClassVar[str]

    @classmethod
    def train(cls, text: str, vocab_size: int | None = None) -> Self:
        """Make the tokenizer of `text`; `make_tokenizer` says what `vocab_size` means."""
        return cls.train_from_pieces(safe_chunks(text), vocab_size)

    @classmethod
    @abstractmethod
    def train_from_pieces(
        cls,
        pieces: Iterable[str],
        vocab_size: int | None = None,
        special_tokens: Sequence[str] = (),
    ) -> Self:
        """Make the tokenizer of a text that comes in `pieces`, cut where `safe_chunks` would.

        Args:
            pieces: the text.
            vocab_size: most token ids, as for `make_tokenizer`.
            special_tokens: texts without whitespace that become one token each wherever they stand;
                nothing else is learned from them.

        Raises:
            DataError: a vocabulary too small for the kind, or an impossible special token.
        """

    @classmethod
    @abstractmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """The tokenizer whose `state` gives `state`."""

    @abstractmethod
    def state(self) -> Mapping[str, Any]:
        """All that makes this tokenizer differ from others of its kind, in types JSON holds."""

    @abstractmethod
    def _encode(self, text: str) -> TokenIds: ...

    @abstractmethod
    def _decode(self, ids: npt.NDArray[np.int64]) -> str: ...

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of token ids."""

    @property
    @abstractmethod
    def start_id(self) -> int:
        """The id of a line end: what to put before the first token of a text."""

    @property
    @abstractmethod
    def unknown_ids(self) -> tuple[int, ...]:
        """The ids that stand for text outside the vocabulary, or for a piece of a character."""

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """The texts that are one token wherever they stand, in the order of their ids."""
        return ()

    def token_id(self, text: str) -> int | None:
        """The id whose text is exactly `text`, or None if no single token is."""
        ids = self.encode(text)
        return int(ids[0]) if ids.size == 1 and self.decode(ids) == text else None

    def encode_many(self, texts: Sequence[str]) -> list[TokenIds]:
        """The ids of each text for itself, as `encode` gives them.

        Raises:
            DataError: as for `encode`.
        """
        return [self.encode(text) for text in texts]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of everything that decides what `encode` gives."""
        return state_fingerprint(self.name, self.state())

    def encode(self, text: str) -> TokenIds:
        """The ids of `text`, (n,) int32.

        Raises:
            DataError: `text` holds a lone surrogate, which no UTF-8 text can.
        """
        check_unicode(text)
        return self._encode(text)

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer[Any]]) -> str:
        """The text of `ids`, (n,) integers.

        Raises:
            DataError: an id outside [0, vocab_size).
        """
        array = np.asarray(ids, dtype=np.int64).reshape(-1)
        outside = np.flatnonzero((array < 0) | (array >= self.vocab_size))
        if outside.size:
            first = int(outside[0])
            raise DataError(
                f"token id {array[first]} at position {first} is outside [0, {self.vocab_size}): "
                f"it belongs to another tokenizer than this {self.name}"
            )
        return self._decode(array)

    def save(self, path: str | Path) -> None:
        """Write the tokenizer to the JSON file `path`, whole or not at all."""
        document = {
            "format": FILE_FORMAT,
            "version": FILE_VERSION,
            "name": self.name,
            "fingerprint": self.fingerprint,
            "state": self.state(),
        }
        write_atomically(Path(path), json.dumps(document, ensure_ascii=False).encode())


def check_unicode(text: str) -> None:
    """Refuse what no UTF-8 text can hold.

    Raises:
        DataError: `text` holds a lone surrogate.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"lone surrogate U+{ord(text[error.start]):04X} at character {error.start}: give "
            "the text as valid UTF-8"
        ) from error


def check_special_tokens(special_tokens: Sequence[str]) -> tuple[str, ...]:
    """`special_tokens` without repetitions.

    Raises:
        DataError: one is empty, holds whitespace (text may be cut there), or is no valid Unicode.
    """
    for token in special_tokens:
        if not token or any(character.isspace() for character in token):
            raise DataError(
                f"special token {token!r} is empty or holds whitespace: give one like {END_OF_TEXT}"
            )
        check_unicode(token)
    return tuple(dict.fromkeys(special_tokens))


def split_at_tokens(text: str, special_tokens: Sequence[str]) -> list[str]:
    """`text` cut around every occurrence of a special token, the longest first where they overlap.

    Even places are text, odd places special tokens; the pieces joined are `text`.
    """
    if not special_tokens:
        return [text]
    longest_first = sorted(special_tokens, key=len, reverse=True)
    return re.split(f"({'|'.join(map(re.escape, longest_first))})", text)


def between_tokens(pieces: Iterable[str], special_tokens: Sequence[str]) -> Iterator[str]:
    """The text that is left when special tokens are taken out."""
    for piece in pieces:
        yield from filter(None, split_at_tokens(piece, special_tokens)[::2])


def state_fingerprint(name: str, state: Mapping[str, Any]) -> str:
    """SHA-256, in hexadecimal, of a tokenizer's name and state."""
    canonical = json.dumps([name, state], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()
