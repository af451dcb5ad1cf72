"""The texts of a run as tokens."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ebm_wgpu.config import Config, DataConfig
from ebm_wgpu.errors import DataError
from ebm_wgpu.text.corpora import load_corpus
from ebm_wgpu.text.datasets import BlockDataset, TokenStream
from ebm_wgpu.text.tokenizers import END_OF_TEXT, TextTokenizer, load_tokenizer, make_tokenizer


@dataclass(frozen=True)
class RunData:
    """What a run learns from and is scored on.

    Attributes:
        tokenizer: of both texts.
        train, valid: the texts.
        heldout: the end of the training text, kept from training; empty unless asked for.
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
            load_corpus(config.data.dataset, split, config.data.data_dir, config.data.valid_path)
            for split in ("train", "valid")
        )
        if tokenizer is None:
            tokenizer = _tokenizer(config.data, train)
        name = config.data.dataset
        learned, heldout = _split(
            TokenStream.from_text(train, tokenizer, f"training text of {name}"),
            config.data.heldout_tokens,
            tokenizer,
        )
        return cls(
            tokenizer,
            learned,
            TokenStream.from_text(valid, tokenizer, f"validation text of {name}"),
            len(valid.encode()),
            heldout,
        )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of the training tokens."""
        return hashlib.sha256(self.train.tokens.tobytes()).hexdigest()

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


def _split(
    text: TokenStream, heldout: int, tokenizer: TextTokenizer
) -> tuple[TokenStream, TokenStream]:
    """`text` without its last `heldout` tokens, and these.

    Raises:
        DataError: nothing would be left to learn from.
    """
    if heldout >= len(text):
        raise DataError(
            f"data.heldout_tokens={heldout} leaves nothing of the {len(text)} tokens of "
            f"{text.name} to learn from: hold out fewer"
        )
    first = len(text) - heldout
    rest = TokenStream(text.tokens[first:], text.vocab_size, 0, f"held-out {text.name}")
    if heldout == 0:
        return text, rest
    learned, _ = text.prefix(first, tokenizer)
    return learned, replace(rest, n_words=text.n_words - learned.n_words)


def _tokenizer(data: DataConfig, text: str) -> TextTokenizer:
    if data.tokenizer_path is not None:
        return load_tokenizer(data.tokenizer_path)
    return make_tokenizer(data.tokenizer, text, data.vocab_size)
