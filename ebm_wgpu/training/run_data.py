"""The texts of a run as tokens."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ebm_wgpu.config import Config, DataConfig
from ebm_wgpu.text.corpora import open_corpus, word_count
from ebm_wgpu.text.datasets import BlockDataset, TokenStream
from ebm_wgpu.text.folders import Text
from ebm_wgpu.text.streaming import token_safe_pieces
from ebm_wgpu.text.tokenizers import END_OF_TEXT, TextTokenizer, load_tokenizer, train_tokenizer

_PIECE = 1 << 20
"""Characters of a corpus that are encoded at a time."""


@dataclass(frozen=True)
class RunData:
    """What a run learns from and is scored on.

    Attributes:
        tokenizer: of both texts.
        train, valid: the texts.
        heldout: the end of the training text, kept from training; empty unless asked for, or where
            the text has no room for more than a window.
        valid_bytes: bytes of UTF-8 of the validation text.
    """

    tokenizer: TextTokenizer
    train: TokenStream
    valid: TokenStream
    valid_bytes: int
    heldout: TokenStream

    @classmethod
    def load(cls, config: Config, tokenizer: TextTokenizer | None = None) -> RunData:
        """Read the corpus of `config`, and train a tokenizer on it unless one is given.

        Raises:
            DataError: a text that is missing, empty, binary or too short for the block size.
        """
        train, valid = (
            open_corpus(config.data.dataset, split, config.data.data_dir, config.data.valid_path)
            for split in ("train", "valid")
        )
        if tokenizer is None:
            tokenizer = _tokenizer(config.data, train)
        name = config.data.dataset
        text, _ = _encoded(train, tokenizer, f"training text of {name}")
        learned, heldout = _split(text, _heldout_tokens(config.data, len(text)), tokenizer)
        scored, valid_bytes = _encoded(valid, tokenizer, f"validation text of {name}")
        return cls(tokenizer, learned, scored, valid_bytes, heldout)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of the training tokens."""
        return hashlib.sha256(self.train.tokens.data).hexdigest()

    @property
    def token_counts(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """How often each token occurs in the training text, (vocab_size,) int64."""
        return np.bincount(self.train.tokens, minlength=self.train.vocab_size).astype(np.int64)

    @property
    def vocabulary(self) -> list[str]:
        """The text of each token."""
        return [self.tokenizer.decode([token]) for token in range(self.tokenizer.vocab_size)]

    def batches(self, config: Config) -> BlockDataset:
        """The training batches of `config`, from the beginning.

        Raises:
            DataError: the text is shorter than a window.
        """
        train = config.train
        return BlockDataset(
            self.train,
            config.data.block_size,
            train.batch_size,
            train.seed,
            stride=config.data.window_stride,
            documents=config.data.documents,
            separator_id=self.tokenizer.token_id(END_OF_TEXT),
        )

    def valid_prefix(self, n_tokens: int | None) -> tuple[TokenStream, int]:
        """The first `n_tokens` tokens of the validation text (None: all), and their bytes."""
        if n_tokens is None or n_tokens >= len(self.valid):
            return self.valid, self.valid_bytes
        return self.valid.prefix(n_tokens, self.tokenizer)


def _heldout_tokens(data: DataConfig, length: int) -> int:
    """How many of `length` tokens are held out: no more than leaves three quarters and a window."""
    return max(0, min(data.heldout_tokens, length // 4, length - data.block_size - 1))


def _split(
    text: TokenStream, heldout: int, tokenizer: TextTokenizer
) -> tuple[TokenStream, TokenStream]:
    """`text` without its last `heldout` tokens, and these."""
    learned, rest = np.split(text.tokens, [len(text) - heldout])
    n_words = word_count(tokenizer.decode(rest))
    return (
        replace(text, tokens=learned, n_words=text.n_words - n_words),
        TokenStream(rest, text.vocab_size, n_words, f"held-out {text.name}"),
    )


def _encoded(text: Text, tokenizer: TextTokenizer, name: str) -> tuple[TokenStream, int]:
    return TokenStream.from_pieces(token_safe_pieces(text(), _PIECE), tokenizer, name)


def _tokenizer(data: DataConfig, text: Text) -> TextTokenizer:
    if data.tokenizer_path is not None:
        return load_tokenizer(data.tokenizer_path)
    return train_tokenizer(data.tokenizer, token_safe_pieces(text()), data.vocab_size)
