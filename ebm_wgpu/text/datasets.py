"""Token windows: training batches that resume exactly, and windows that score each token once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ebm_wgpu.errors import CheckpointError, DataError
from ebm_wgpu.text.corpora import word_count
from ebm_wgpu.text.tokenizer_base import TextTokenizer, TokenIds

_GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class TokenStream:
    """A text as one array of token ids.

    Attributes:
        tokens: (n,) int32, contiguous, ids in [0, vocab_size).
        vocab_size: number of token ids of the tokenizer.
        n_words: words of the text incl. one per line end (`corpora.word_count`), the denominator
            of word-level perplexity.
        name: where the text comes from, for messages.
    """

    tokens: TokenIds
    vocab_size: int
    n_words: int
    name: str = "text"

    def __post_init__(self) -> None:
        tokens = np.ascontiguousarray(self.tokens, dtype=np.int32)
        if tokens.ndim != 1:
            raise DataError(f"tokens of {self.name} have shape {tokens.shape}: give one row of ids")
        if tokens.size and not 0 <= int(tokens.min()) <= int(tokens.max()) < self.vocab_size:
            raise DataError(
                f"token ids of {self.name} span {tokens.min()} to {tokens.max()}, outside "
                f"[0, {self.vocab_size}): encode it with this model's tokenizer"
            )
        object.__setattr__(self, "tokens", tokens)

    @classmethod
    def from_text(cls, text: str, tokenizer: TextTokenizer, name: str = "text") -> Self:
        """Encode `text`, counting its words.

        Raises:
            DataError: `text` is not valid Unicode.
        """
        return cls(tokenizer.encode(text), tokenizer.vocab_size, word_count(text), name)

    def __len__(self) -> int:
        return int(self.tokens.size)

    def windows(self, starts: npt.NDArray[np.int64], length: int) -> TokenIds:
        """Rows tokens[s : s + length] for each s of `starts` (B,): (B, length) int32."""
        return self.tokens[starts[:, None] + np.arange(length)]


class BatchSampler:
    """Starts of training windows in an order fixed by (seed, epoch, index) alone.

    Epoch e cuts the stream into consecutive windows from a phase in [0, block) and visits them in a
    random order, each once: start = phase(seed, e) + block * permutation(seed, e)[index]. A batch
    that reaches the end of an epoch goes on into the next. Phase and permutation come from the
    SplitMix64 hash of (seed, epoch, counter) (Steele, Lea and Flood 2014), so that the position is
    two integers and resuming is exact on any version of NumPy.

    Attributes:
        epoch, index: the position, the next window to be drawn.
    """

    def __init__(
        self, n_tokens: int, block: int, batch: int, seed: int = 0, name: str = "text"
    ) -> None:
        """Start at epoch 0, index 0.

        Args:
            n_tokens: length of the stream.
            block: tokens predicted in a window; the window has one more.
            batch: windows in a batch.
            seed: of the order.
            name: where the text comes from, for messages.

        Raises:
            DataError: a window needs more tokens than there are.
        """
        if block < 1 or batch < 1:
            raise DataError(f"block {block} and batch {batch} must both be at least 1")
        if n_tokens < block + 1:
            raise DataError(
                f"{name} has {n_tokens} tokens, a window of block size {block} needs {block + 1}: "
                "give a longer text or a smaller data.block_size"
            )
        self.n_tokens, self.block, self.batch, self.seed = n_tokens, block, batch, seed
        self.epoch, self.index = 0, 0
        self._starts = self._epoch_starts(0)

    @property
    def windows_per_epoch(self) -> int:
        """Number of windows in the current epoch; phases make it differ by one between epochs."""
        return int(self._starts.size)

    def next_starts(self) -> npt.NDArray[np.int64]:
        """The starts of the next batch, (batch,) int64, in [0, n_tokens - block - 1]."""
        parts: list[npt.NDArray[np.int64]] = []
        wanted = self.batch
        while wanted:
            if self.index == self._starts.size:
                self.epoch, self.index = self.epoch + 1, 0
                self._starts = self._epoch_starts(self.epoch)
            part = self._starts[self.index : self.index + wanted]
            parts.append(part)
            self.index += part.size
            wanted -= part.size
        return np.concatenate(parts)

    def state_dict(self) -> dict[str, int]:
        """The position and what it is a position in; plain integers."""
        return {
            "epoch": self.epoch,
            "index": self.index,
            "n_tokens": self.n_tokens,
            "block": self.block,
            "seed": self.seed,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a position that `state_dict` gave; the batch size may differ.

        Raises:
            CheckpointError: a field is missing or invalid, or the position is in another stream.
        """
        current = self.state_dict()
        if state.keys() != current.keys() or not all(
            type(value) is int for value in state.values()
        ):
            raise CheckpointError(
                f"data position {dict(state)} needs the integers {', '.join(current)}: the "
                "checkpoint is damaged"
            )
        for key in ("n_tokens", "block", "seed"):
            if state[key] != current[key]:
                raise CheckpointError(
                    f"the checkpoint's data has {key}={state[key]}, this run {current[key]}: "
                    "resume with the corpus, tokenizer and seed it was trained with"
                )
        if state["epoch"] < 0:
            raise CheckpointError(f"data position epoch={state['epoch']} is negative")
        starts = self._epoch_starts(state["epoch"])
        if not 0 <= state["index"] <= starts.size:
            raise CheckpointError(
                f"data position index={state['index']} is outside the {starts.size} windows of "
                f"epoch {state['epoch']}: the checkpoint is damaged"
            )
        self.epoch, self.index, self._starts = state["epoch"], state["index"], starts

    def _epoch_starts(self, epoch: int) -> npt.NDArray[np.int64]:
        key = _hash(_hash(_word(self.seed)) ^ _word(epoch))
        # The last window ends at the stream's end at the latest, whatever the phase.
        most = min(self.block, self.n_tokens - self.block)
        phase = int(_hash(key)[0] % np.uint64(most))
        n_windows = (self.n_tokens - 1 - phase) // self.block
        counters = np.arange(1, n_windows + 1, dtype=np.uint64)
        order = np.argsort(_hash(key + counters * _GOLDEN_GAMMA), kind="stable")
        return phase + self.block * order.astype(np.int64)


class BlockDataset:
    """Training windows (B, T+1) of a token stream, in the order of a `BatchSampler`."""

    def __init__(self, stream: TokenStream, block: int, batch: int, seed: int = 0) -> None:
        """Start at the beginning; arguments and errors as for `BatchSampler`."""
        self.stream = stream
        self.sampler = BatchSampler(len(stream), block, batch, seed, stream.name)

    def next_batch(self) -> TokenIds:
        """The next batch, (batch, block + 1) int32: inputs [:, :-1], targets [:, 1:]."""
        return self.stream.windows(self.sampler.next_starts(), self.sampler.block + 1)

    def __iter__(self) -> Iterator[TokenIds]:
        while True:
            yield self.next_batch()

    def state_dict(self) -> dict[str, int]:
        """The position, see `BatchSampler.state_dict`."""
        return self.sampler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a position, see `BatchSampler.load_state_dict`."""
        self.sampler.load_state_dict(state)


@dataclass(frozen=True)
class EvaluationBatch:
    """Windows to score.

    Attributes:
        tokens: (B, T+1) int32; inputs [:, :-1], targets [:, 1:].
        scored: (B, T) bool, which targets count.
    """

    tokens: TokenIds
    scored: npt.NDArray[np.bool_]


def evaluation_batches(
    stream: TokenStream, context: int, stride: int, batch: int, start_id: int
) -> Iterator[EvaluationBatch]:
    """Windows over `stream` in order, in which each token is scored exactly once.

    The stream is preceded by `start_id`, so that its first token is scored too. A window has
    `context` inputs, or as many as the stream has tokens if those are fewer; the next one lies
    `stride` further, the last one ends with the stream. Every scored token but the first
    `context` has at least context - stride + 1 inputs before it.

    Args:
        stream: what to score.
        context: inputs in a window (T).
        stride: tokens from a window to the next, 1 to `context`; small strides cost more and give
            each token more context.
        batch: windows in a batch; the last batch may have fewer.
        start_id: the id before the first token, `TextTokenizer.start_id`.

    Raises:
        DataError: an empty stream, or stride or batch out of range.
    """
    if not 1 <= stride <= context:
        raise DataError(
            f"evaluation stride {stride} is outside 1 to the context {context}: set "
            "data.eval_stride"
        )
    if batch < 1:
        raise DataError(f"evaluation batch {batch} must be at least 1")
    n_tokens = len(stream)
    if n_tokens == 0:
        raise DataError(f"{stream.name} has no tokens to score: give a longer text")
    return _evaluation_batches(stream.tokens, min(context, n_tokens), stride, batch, start_id)


def _evaluation_batches(
    tokens: TokenIds, length: int, stride: int, batch: int, start_id: int
) -> Iterator[EvaluationBatch]:
    extended = np.concatenate([np.array([start_id], dtype=np.int32), tokens])
    last = tokens.size - length
    starts = np.append(np.arange(0, last, stride), last)
    # Target j of the window at s is token s + j; those before the previous window's end are done.
    done = np.concatenate([[0], starts[:-1] + length])
    offsets = np.arange(length)
    for first in range(0, starts.size, batch):
        rows = starts[first : first + batch, None]
        yield EvaluationBatch(
            tokens=extended[rows + np.arange(length + 1)],
            scored=rows + offsets >= done[first : first + batch, None],
        )


def _word(value: int) -> npt.NDArray[np.uint64]:
    return np.array([value & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64)


def _hash(counters: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The SplitMix64 output function, a bijection of 64-bit words; sums wrap."""
    words = counters + _GOLDEN_GAMMA
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
