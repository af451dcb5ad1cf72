"""Byte-level byte-pair encoding: trained on a text, or GPT-2's own."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from ebm_wgpu.errors import DataError
from ebm_wgpu.text.embedded import embedded_files, read_embedded
from ebm_wgpu.text.tokenizer_base import (
    END_OF_TEXT,
    UNKNOWN_CHARACTER,
    TextTokenizer,
    TokenIds,
    between_tokens,
    check_special_tokens,
    check_unicode,
    safe_chunks,
)

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
    def train_from_pieces(
        cls,
        pieces: Iterable[str],
        vocab_size: int | None = None,
        special_tokens: Sequence[str] = (),
    ) -> Self:
        """Train until `vocab_size` tokens: <|endoftext|>, special tokens, 256 bytes, then merges.

        A merge must occur twice, so that a short text gives fewer tokens. The same text gives the
        same tokenizer.
        """
        special = check_special_tokens([END_OF_TEXT, *special_tokens])
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        fewest = len(alphabet) + len(special)
        if vocab_size is None or vocab_size < fewest:
            raise DataError(
                f"vocab_size={vocab_size} is too small for tokenizer bpe: give {fewest} or more"
            )
        inner = _byte_level(models.BPE())
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            initial_alphabet=alphabet,
            special_tokens=list(special),
            show_progress=False,
        )
        inner.train_from_iterator(between_tokens(pieces, special), trainer)
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

    @cached_property
    def unknown_ids(self) -> tuple[int, ...]:
        """The tokens whose bytes are no whole characters."""
        replacement = self.encode(UNKNOWN_CHARACTER)
        whole = int(replacement[0]) if replacement.size == 1 else -1
        ids = range(self.vocab_size)
        texts = self._inner.decode_batch([[i] for i in ids], skip_special_tokens=False)
        return tuple(i for i in ids if UNKNOWN_CHARACTER in texts[i] and i != whole)

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """<|endoftext|> and those trained with."""
        added: dict[int, AddedToken] = self._inner.get_added_tokens_decoder()
        return tuple(str(added[index].content) for index in sorted(added))

    def encode_many(self, texts: Sequence[str]) -> list[TokenIds]:
        """The ids of each text for itself, found together."""
        for text in texts:
            check_unicode(text)
        found: list[TokenIds] = []
        for first in range(0, len(texts), _CHUNKS_A_CALL):
            call = list(texts[first : first + _CHUNKS_A_CALL])
            encodings = self._inner.encode_batch_fast(call, add_special_tokens=False)
            found += [np.asarray(encoding.ids, dtype=np.int32) for encoding in encodings]
        return found

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
    def train_from_pieces(
        cls,
        pieces: Iterable[str],
        vocab_size: int | None = None,
        special_tokens: Sequence[str] = (),
    ) -> Self:
        """The embedded vocabulary, whatever the text; its only special token is <|endoftext|>."""
        if other := [token for token in special_tokens if token != END_OF_TEXT]:
            raise DataError(
                f"tokenizer gpt2 has no special token {other[0]!r}: train one of kind bpe"
            )
        return cls()

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """The tokenizer whose `state` gives `state`."""
        return cls()

    def state(self) -> Mapping[str, Any]:
        """What `from_state` takes."""
        files = embedded_files()
        return {name: files[name].raw_sha256 for name in ("gpt2-vocab.json", "gpt2-merges.txt")}


def _byte_level(model: models.BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
