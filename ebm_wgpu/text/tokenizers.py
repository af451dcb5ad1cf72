"""The tokenizers, by name: GPT-2 and trained byte-level BPE, characters, words.

Each writes itself to one JSON file, from which `load_tokenizer` makes the same tokenizer again.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ebm_wgpu.errors import DataError
from ebm_wgpu.files import parse_json
from ebm_wgpu.text.bpe import BpeTokenizer, Gpt2Tokenizer
from ebm_wgpu.text.tokenizer_base import (
    END_OF_TEXT,
    FILE_FORMAT,
    FILE_VERSION,
    UNKNOWN_CHARACTER,
    TextTokenizer,
    TokenIds,
    between_tokens,
    check_special_tokens,
    safe_chunks,
    split_at_tokens,
    state_fingerprint,
)

__all__ = [
    "END_OF_TEXT",
    "TOKENIZERS",
    "BpeTokenizer",
    "CharTokenizer",
    "Gpt2Tokenizer",
    "TextTokenizer",
    "TokenIds",
    "WordTokenizer",
    "load_tokenizer",
    "make_tokenizer",
    "train_tokenizer",
]

END_OF_LINE = "<eos>"
UNKNOWN_WORD = "<unk>"


class CharTokenizer(TextTokenizer):
    """One token a character, in code point order; characters not trained on become U+FFFD.

    Special tokens follow the characters.
    """

    name = "char"

    def __init__(self, characters: str, special_tokens: Sequence[str] = ()) -> None:
        self._characters = characters
        self._special = tuple(special_tokens)
        self._codes = np.array([ord(character) for character in characters], dtype=np.uint32)
        self._unknown = characters.index(UNKNOWN_CHARACTER)

    @classmethod
    def train_from_pieces(
        cls,
        pieces: Iterable[str],
        vocab_size: int | None = None,
        special_tokens: Sequence[str] = (),
    ) -> Self:
        """The characters of the text and U+FFFD; `vocab_size` has no effect."""
        special = check_special_tokens(special_tokens)
        characters = {UNKNOWN_CHARACTER}
        for piece in between_tokens(pieces, special):
            characters.update(piece)
        return cls("".join(sorted(characters)), special)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """The tokenizer whose `state` gives `state`."""
        return cls(state["characters"], check_special_tokens(state.get("special_tokens", ())))

    def state(self) -> Mapping[str, Any]:
        """What `from_state` takes."""
        special = {"special_tokens": list(self._special)} if self._special else {}
        return {"characters": self._characters, **special}

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return len(self._characters) + len(self._special)

    @property
    def unknown_ids(self) -> tuple[int, ...]:
        """The id of U+FFFD."""
        return (self._unknown,)

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """Those it was made with."""
        return self._special

    @property
    def start_id(self) -> int:
        """The id of the newline, or of U+FFFD where no newline was trained on."""
        return int(self._encode_characters("\n")[0])

    def _encode(self, text: str) -> TokenIds:
        text_and_tokens = split_at_tokens(text, self._special)
        parts = [self._encode_characters(text_and_tokens[0])]
        for token, between in zip(text_and_tokens[1::2], text_and_tokens[2::2], strict=True):
            index = len(self._characters) + self._special.index(token)
            parts += [np.array([index], dtype=np.int32), self._encode_characters(between)]
        return np.concatenate(parts)

    def _encode_characters(self, text: str) -> TokenIds:
        codes = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
        ids = np.minimum(np.searchsorted(self._codes, codes), self._codes.size - 1)
        return np.where(self._codes[ids] == codes, ids, self._unknown).astype(np.int32)

    def _decode(self, ids: npt.NDArray[np.int64]) -> str:
        texts: list[str] = []
        start = 0
        for place in np.flatnonzero(ids >= self._codes.size).tolist():
            texts += [self._decode_characters(ids[start:place])]
            texts += [self._special[int(ids[place]) - self._codes.size]]
            start = place + 1
        return "".join([*texts, self._decode_characters(ids[start:])])

    def _decode_characters(self, ids: npt.NDArray[np.int64]) -> str:
        return self._codes[ids].astype("<u4").tobytes().decode("utf-32-le")


class WordTokenizer(TextTokenizer):
    """Whitespace-separated words, <eos> for each newline, <unk> for words not trained on.

    The number of ids of a text is its `word_count`; over WikiText-2 the vocabulary is the published
    33,278. Decoding gives single spaces between words and none at line ends.
    """

    name = "word"

    def __init__(self, words: Sequence[str]) -> None:
        self._words = list(words)
        self._ids = {word: index for index, word in enumerate(self._words)}
        self._unknown = self._ids[UNKNOWN_WORD]
        self._line_end = self._ids[END_OF_LINE]

    @classmethod
    def train_from_pieces(
        cls,
        pieces: Iterable[str],
        vocab_size: int | None = None,
        special_tokens: Sequence[str] = (),
    ) -> Self:
        """<eos>, <unk>, special tokens, then the most frequent words, `vocab_size` in all at most.

        A special token is a word like others, of any count: it must stand between whitespace.
        """
        special = list(check_special_tokens([END_OF_LINE, UNKNOWN_WORD, *special_tokens]))
        if vocab_size is not None and vocab_size <= len(special):
            raise DataError(
                f"vocab_size={vocab_size} is too small for tokenizer word: give "
                f"{len(special) + 1} or more, or none for every word"
            )
        counts = Counter(word for piece in pieces for word in piece.split())
        for word in special:
            counts.pop(word, None)
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        return cls((special + ranked)[:vocab_size])

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """The tokenizer whose `state` gives `state`."""
        words = state["words"]
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise DataError("the words of the tokenizer are not all text: train it again")
        return cls(words)

    def state(self) -> Mapping[str, Any]:
        """What `from_state` takes."""
        return {"words": self._words}

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return len(self._words)

    @property
    def start_id(self) -> int:
        """The id of <eos>."""
        return self._line_end

    @property
    def unknown_ids(self) -> tuple[int, ...]:
        """The id of <unk>."""
        return (self._unknown,)

    def _encode(self, text: str) -> TokenIds:
        lookup, unknown = self._ids.get, self._unknown
        parts = [np.empty(0, dtype=np.int32)]
        for chunk in safe_chunks(text):
            words = chunk.replace("\n", f" {END_OF_LINE} ").split()
            parts.append(np.array([lookup(word, unknown) for word in words], dtype=np.int32))
        return np.concatenate(parts)

    def _decode(self, ids: npt.NDArray[np.int64]) -> str:
        lines: list[list[str]] = [[]]
        for index in ids.tolist():
            if index == self._line_end:
                lines.append([])
            else:
                lines[-1].append(self._words[index])
        return "\n".join(" ".join(line) for line in lines)


TOKENIZERS: Mapping[str, type[TextTokenizer]] = MappingProxyType(
    {kind.name: kind for kind in (BpeTokenizer, Gpt2Tokenizer, CharTokenizer, WordTokenizer)}
)


def make_tokenizer(name: str, text: str, vocab_size: int | None = None) -> TextTokenizer:
    """The tokenizer `name`, trained on `text`.

    Args:
        name: "bpe", "gpt2", "char" or "word".
        text: training text; gpt2 does not look at it.
        vocab_size: most token ids to make, for bpe (required) and word (None: every word); char has
            as many as the text has characters, gpt2 has 50,257.

    Raises:
        DataError: unknown name, empty text, or a vocabulary too small for the kind.
    """
    return train_tokenizer(name, safe_chunks(text), vocab_size)


def train_tokenizer(
    name: str,
    pieces: Iterable[str],
    vocab_size: int | None = None,
    special_tokens: Sequence[str] = (),
) -> TextTokenizer:
    """The tokenizer `name`, trained on a text that comes in pieces.

    Memory is that of the distinct words of the text; the tokenizer is that of the whole text.

    Args:
        name, vocab_size: as for `make_tokenizer`.
        pieces: the text, cut where `safe_chunks` or `streaming.token_safe_pieces` would.
        special_tokens: see `TextTokenizer.train_from_pieces`.

    Raises:
        DataError: as for `make_tokenizer`; a special token that is empty or holds whitespace.
    """
    kind = _kind(name)
    if kind is not Gpt2Tokenizer:
        pieces = _not_empty(pieces, name)
    return kind.train_from_pieces(pieces, vocab_size, special_tokens)


def load_tokenizer(path: str | Path) -> TextTokenizer:
    """The tokenizer that `TextTokenizer.save` wrote to `path`.

    Raises:
        DataError: the file is missing, damaged, of another version, or was made with another GPT-2
            vocabulary than the embedded one.
    """
    path = Path(path)
    try:
        document = parse_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): check the path") from error
    except ValueError as error:
        raise DataError(
            f"{path} is damaged, not JSON ({error}): restore it or train the tokenizer again"
        ) from error
    if not isinstance(document, dict) or document.get("format") != FILE_FORMAT:
        raise DataError(f"{path} is no tokenizer file of ebm-wgpu: give a run's tokenizer.json")
    if document.get("version") != FILE_VERSION:
        raise DataError(
            f"{path} has tokenizer version {document.get('version')}, not {FILE_VERSION}: install "
            "the matching ebm-wgpu"
        )
    damaged = f"{path} is damaged: restore it or train the tokenizer again"
    name, state = document.get("name"), document.get("state")
    if not isinstance(name, str) or not isinstance(state, dict):
        raise DataError(damaged)
    try:
        if document.get("fingerprint") != state_fingerprint(name, state):
            raise DataError(damaged)
        tokenizer = _kind(name).from_state(state)
    except DataError:
        raise
    # The tokenizers library reports an invalid file by a bare Exception.
    except Exception as error:
        raise DataError(damaged) from error
    if tokenizer.fingerprint != document["fingerprint"]:
        raise DataError(f"{path} was made with another vocabulary: install the matching ebm-wgpu")
    return tokenizer


def _not_empty(pieces: Iterable[str], name: str) -> Iterator[str]:
    empty = True
    for piece in pieces:
        empty = empty and not piece
        yield piece
    if empty:
        raise DataError(f"the text to train tokenizer {name} on is empty: give a longer text")


def _kind(name: str) -> type[TextTokenizer]:
    if name not in TOKENIZERS:
        near = difflib.get_close_matches(name, TOKENIZERS, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise DataError(f"unknown tokenizer {name!r}{hint}; choose one of {', '.join(TOKENIZERS)}")
    return TOKENIZERS[name]
