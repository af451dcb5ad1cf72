"""The texts of a run as tokens."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ebm_wgpu.config import Config, DataConfig
from ebm_wgpu.text.corpora import load_corpus, word_count
from ebm_wgpu.text.datasets import BlockDataset, TokenStream
from ebm_wgpu.text.tokenizers import END_OF_TEXT, TextTokenizer, load_tokenizer, make_tokenizer


@dataclass(frozen=True)
class RunData:
    """What a run learns from and is scored on.

    Attributes:
        tokenizer: of both texts.
        train, valid: the texts.
        valid_bytes: bytes of UTF-8 of the validation text.
    """

    tokenizer: TextTokenizer
    train: TokenStream
    valid: TokenStream
    valid_bytes: int

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
        return cls(
            tokenizer,
            TokenStream.from_text(train, tokenizer, f"training text of {name}"),
            TokenStream.from_text(valid, tokenizer, f"validation text of {name}"),
            len(valid.encode()),
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
        tokens = self.valid.tokens[:n_tokens]
        text = self.tokenizer.decode(tokens)
        stream = TokenStream(tokens, self.valid.vocab_size, word_count(text), self.valid.name)
        return stream, len(text.encode())


def _tokenizer(data: DataConfig, text: str) -> TextTokenizer:
    if data.tokenizer_path is not None:
        return load_tokenizer(data.tokenizer_path)
    return make_tokenizer(data.tokenizer, text, data.vocab_size)
