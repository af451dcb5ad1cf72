"""Which windows of a token stream to train on, in an order that two integers resume."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ebm_wgpu.errors import CheckpointError, DataError
from ebm_wgpu.text.tokenizer_base import TokenIds

_GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)


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
                "checkpoint is damaged, or was written with another data.documents or "
                "data.window_stride"
            )
        for key in [key for key in current if key not in ("epoch", "index")]:
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
        return phase + self.block * _random_order(key, n_windows)


class DocumentSampler(BatchSampler):
    """A `BatchSampler` whose windows overlap as asked and lie each in one segment of the stream.

    A segment is a document or a run of documents. In epoch e, segment i of L tokens gives windows
    at phase + stride * j while they fit, with a phase in [0, min(stride, L - block)) of its own;
    the windows of all segments are visited in a random order, each once. Phases and order come from
    the hash that `BatchSampler` uses. One segment with stride = block gives its very sequence.

    Attributes:
        covered_tokens: tokens in segments long enough for a window.
    """

    def __init__(
        self,
        ends: npt.NDArray[np.int64],
        block: int,
        batch: int,
        seed: int = 0,
        name: str = "text",
        stride: int | None = None,
    ) -> None:
        """Start at epoch 0, index 0.

        Args:
            ends: ends of the segments in the stream, exclusive, ascending, (S,); see
                `document_ends`.
            block: tokens predicted in a window; the window has one more.
            batch: windows in a batch.
            seed: of the order.
            name: where the text comes from, for messages.
            stride: tokens from a window to the next in a segment, 1 to `block`; None: `block`.

        Raises:
            DataError: no segment is long enough for a window, or the stride is out of range.
        """
        self.stride = block if stride is None else stride
        if stride is not None and not 1 <= stride <= block:
            raise DataError(
                f"window stride {stride} is outside 1 to the block size {block}: set "
                "data.window_stride"
            )
        lengths = np.diff(ends, prepend=0)
        if lengths.size > 1 and int(lengths.max()) <= block:
            raise DataError(
                f"the longest of {lengths.size} documents of {name} has {lengths.max()} tokens, a "
                f"window of block size {block} needs {block + 1}: give a smaller data.block_size, "
                "or data.documents=across"
            )
        fits = lengths > block
        self._firsts = (ends - lengths)[fits].astype(np.uint64)
        self._lengths = lengths[fits].astype(np.uint64)
        self.n_segments = int(lengths.size)
        self.covered_tokens = int(lengths[fits].sum())
        super().__init__(int(ends[-1]) if ends.size else 0, block, batch, seed, name)

    def state_dict(self) -> dict[str, int]:
        """The position and what it is a position in; plain integers."""
        mine = {"stride": self.stride, "segments": self.n_segments, "covered": self.covered_tokens}
        return {**super().state_dict(), **mine}

    def _epoch_starts(self, epoch: int) -> npt.NDArray[np.int64]:
        key = _hash(_hash(_word(self.seed)) ^ _word(epoch))
        stride, room = np.uint64(self.stride), self._lengths - np.uint64(self.block)
        # The first segment takes the phase that a `BatchSampler` takes.
        words = key ^ _hash(np.arange(self._lengths.size, dtype=np.uint64))
        words[:1] = key
        phases = _hash(words) % np.minimum(stride, room)
        counts = ((room - np.uint64(1) - phases) // stride + np.uint64(1)).astype(np.int64)
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        starts = np.repeat((self._firsts + phases).astype(np.int64), counts) + self.stride * within
        return starts[_random_order(key, starts.size)]


def document_ends(
    tokens: TokenIds, separator_id: int, pack_below: int | None = None
) -> npt.NDArray[np.int64]:
    """Where the documents of a stream end, (S,) int64, ascending; the last end is the stream's.

    A document ends with its separator, which it keeps: a model learns to end documents, and sees
    the separator wherever a window holds two.

    Args:
        tokens: the stream, (n,).
        separator_id: the token that ends documents, `TextTokenizer.token_id(END_OF_TEXT)`.
        pack_below: neighbouring documents of fewer tokens than this count as one.
    """
    ends = np.flatnonzero(tokens == separator_id).astype(np.int64) + 1
    if not ends.size or ends[-1] != tokens.size:
        ends = np.append(ends, np.int64(tokens.size))
    if pack_below is None:
        return ends
    short = np.diff(ends, prepend=0) < pack_below
    return ends[~np.append(short[:-1] & short[1:], False)]


def _word(value: int) -> npt.NDArray[np.uint64]:
    return np.array([value & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64)


def _random_order(key: npt.NDArray[np.uint64], n: int) -> npt.NDArray[np.int64]:
    """A permutation of 0..n-1, (n,)."""
    counters: npt.NDArray[np.uint64] = np.arange(1, n + 1, dtype=np.uint64)
    return np.argsort(_hash(key + counters * _GOLDEN_GAMMA), kind="stable").astype(np.int64)


def _hash(counters: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The SplitMix64 output function, a bijection of 64-bit words; sums wrap."""
    words = counters + _GOLDEN_GAMMA
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
