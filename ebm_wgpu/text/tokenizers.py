"""The tokenizers, by name: GPT-2 and trained byte-level BPE, characters, words.

Each writes itself to one JSON file, from which `load_tokenizer` makes the same tokenizer again.
"""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from ebm_wgpu.errors import DataError
from ebm_wgpu.text.embedded import embedded_files, read_embedded
from ebm_wgpu.text.tokenizer_base import (
    FILE_FORMAT,
    FILE_VERSION,
    TextTokenizer,
    TokenIds,
    safe_chunks,
    state_fingerprint,
)

__all__ = [
    "TOKENIZERS",
    "BpeTokenizer",
    "CharTokenizer",
    "Gpt2Tokenizer",
    "TextTokenizer",
    "TokenIds",
    "WordTokenizer",
    "load_tokenizer",
    "make_tokenizer",
]

END_OF_TEXT = "<|endoftext|>"
END_OF_LINE = "<eos>"
UNKNOWN_WORD = "<unk>"
UNKNOWN_CHARACTER = "\ufffd"

_CHUNKS_A_CALL = 1 << 12


class BpeTokenizer(TextTokenizer):
    """Byte-level byte-pair encoding: any text round-trips, no token is unknown.

    Source: Radford et al. 2019 (GPT-2), section 2.2; the same pre-tokenisation pattern.
    """

    name = "bpe"

    def __init__(self, inner: Tokenizer) -> None:
        self._inner = inner
        self._line_end = inner.encode("\n", add_special_tokens=False).ids[0]

    @classmethod
    def train(cls, text: str, vocab_size: int | None = None) -> Self:
        """Train on `text` until `vocab_size` tokens: <|endoftext|>, 256 bytes, then merges.

        A merge must occur twice, so that a short text gives fewer tokens. The same text gives the
        same tokenizer.
        """
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        fewest = len(alphabet) + 1
        if vocab_size is None or vocab_size < fewest:
            raise DataError(
                f"data.vocab_size={vocab_size} is too small for tokenizer bpe: give {fewest} or "
                "more"
            )
        inner = _byte_level(models.BPE())
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            initial_alphabet=alphabet,
            special_tokens=[END_OF_TEXT],
            show_progress=False,
        )
        inner.train_from_iterator(safe_chunks(text), trainer)
        return cls(inner)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """The tokenizer whose `state` gives `state`."""
        return cls(Tokenizer.from_str(json.dumps(state["tokenizer"])))

    def state(self) -> Mapping[str, Any]:
        """What `from_state` takes."""
        return {"tokenizer": json.loads(self._inner.to_str())}

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return int(self._inner.get_vocab_size())

    @property
    def start_id(self) -> int:
        """The id of the newline byte."""
        return int(self._line_end)

    def _encode(self, text: str) -> TokenIds:
        chunks = list(safe_chunks(text))
        parts = [np.empty(0, dtype=np.int32)]
        for first in range(0, len(chunks), _CHUNKS_A_CALL):
            call = chunks[first : first + _CHUNKS_A_CALL]
            for encoding in self._inner.encode_batch_fast(call, add_special_tokens=False):
                parts.append(np.asarray(encoding.ids, dtype=np.int32))
        return np.concatenate(parts)

    def _decode(self, ids: npt.NDArray[np.int64]) -> str:
        return str(self._inner.decode(ids.tolist(), skip_special_tokens=False))

    def export(self, folder: str | Path) -> None:
        """Write `vocab.json` and `merges.txt` to `folder`, as transformers and GPT-2 read them."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        self._inner.model.save(str(folder))


class Gpt2Tokenizer(BpeTokenizer):
    """The 50,257 tokens of GPT-2, embedded in the package. "Hello world" is [15496, 995]."""

    name = "gpt2"

    def __init__(self) -> None:
        vocab = json.loads(read_embedded("gpt2-vocab.json"))
        lines = read_embedded("gpt2-merges.txt").decode("utf-8").split("\n")
        rules = (line for line in lines if line and not line.startswith("#version"))
        merges = [(left, right) for left, right in (rule.split(" ") for rule in rules)]
        inner = _byte_level(models.BPE(vocab=vocab, merges=merges))
        inner.add_special_tokens([END_OF_TEXT])
        super().__init__(inner)

    @classmethod
    def train(cls, text: str, vocab_size: int | None = None) -> Self:
        """The embedded vocabulary, whatever the arguments."""
        return cls()

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """The tokenizer whose `state` gives `state`."""
        return cls()

    def state(self) -> Mapping[str, Any]:
        """What `from_state` takes."""
        files = embedded_files()
        return {name: files[name].raw_sha256 for name in ("gpt2-vocab.json", "gpt2-merges.txt")}


class CharTokenizer(TextTokenizer):
    """One token a character, in code point order; characters not trained on become U+FFFD."""

    name = "char"

    def __init__(self, characters: str) -> None:
        self._characters = characters
        self._codes = np.array([ord(character) for character in characters], dtype=np.uint32)
        self._unknown = characters.index(UNKNOWN_CHARACTER)

    @classmethod
    def train(cls, text: str, vocab_size: int | None = None) -> Self:
        """The characters of `text` and U+FFFD; `vocab_size` has no effect."""
        return cls("".join(sorted({*text, UNKNOWN_CHARACTER})))

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """The tokenizer whose `state` gives `state`."""
        return cls(state["characters"])

    def state(self) -> Mapping[str, Any]:
        """What `from_state` takes."""
        return {"characters": self._characters}

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return len(self._characters)

    @property
    def start_id(self) -> int:
        """The id of the newline, or of U+FFFD where no newline was trained on."""
        return int(self._encode("\n")[0])

    def _encode(self, text: str) -> TokenIds:
        codes = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
        ids = np.minimum(np.searchsorted(self._codes, codes), self._codes.size - 1)
        return np.where(self._codes[ids] == codes, ids, self._unknown).astype(np.int32)

    def _decode(self, ids: npt.NDArray[np.int64]) -> str:
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
    def train(cls, text: str, vocab_size: int | None = None) -> Self:
        """<eos>, <unk>, then the most frequent words of `text`, up to `vocab_size` in all."""
        if vocab_size is not None and vocab_size < 3:
            raise DataError(
                f"data.vocab_size={vocab_size} is too small for tokenizer word: give 3 or more, or "
                "none for every word"
            )
        counts = Counter(word for chunk in safe_chunks(text) for word in chunk.split())
        special = [END_OF_LINE, UNKNOWN_WORD]
        for word in special:
            counts.pop(word, None)
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        return cls((special + ranked)[:vocab_size])

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """The tokenizer whose `state` gives `state`."""
        return cls(state["words"])

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
    kind = _kind(name)
    if kind is not Gpt2Tokenizer and not text:
        raise DataError(f"the text to train tokenizer {name} on is empty: give a longer text")
    return kind.train(text, vocab_size)


def load_tokenizer(path: str | Path) -> TextTokenizer:
    """The tokenizer that `TextTokenizer.save` wrote to `path`.

    Raises:
        DataError: the file is missing, damaged, of another version, or was made with another GPT-2
            vocabulary than the embedded one.
    """
    path = Path(path)
    try:
        document = json.loads(path.read_bytes())
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


def _kind(name: str) -> type[TextTokenizer]:
    if name not in TOKENIZERS:
        near = difflib.get_close_matches(name, TOKENIZERS, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise DataError(f"unknown tokenizer {name!r}{hint}; choose one of {', '.join(TOKENIZERS)}")
    return TOKENIZERS[name]


def _byte_level(model: models.BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
