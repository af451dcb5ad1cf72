"""Token windows: training batches that resume exactly, and windows that score each token once."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from ebm_wgpu.errors import DataError
from ebm_wgpu.text.corpora import word_count
from ebm_wgpu.text.samplers import BatchSampler, DocumentSampler, document_ends
from ebm_wgpu.text.tokenizer_base import END_OF_TEXT, TextTokenizer, TokenIds

DocumentPolicy = Literal["across", "within", "packed"]


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

    @classmethod
    def from_pieces(
        cls, pieces: Iterable[str], tokenizer: TextTokenizer, name: str = "text"
    ) -> tuple[Self, int]:
        """Encode a text that comes in pieces, cut where no token and no word can span the cut.

        Memory is that of the tokens and of a piece.

        Returns:
            The stream, and the bytes of the text in UTF-8.

        Raises:
            DataError: a piece is not valid Unicode.
        """
        ids = array("i")
        n_words = n_bytes = 0
        for piece in pieces:
            ids.frombytes(tokenizer.encode(piece).tobytes())
            n_words += word_count(piece)
            n_bytes += len(piece.encode())
        tokens = np.frombuffer(ids, np.int32) if ids else np.zeros(0, np.int32)
        return cls(tokens, tokenizer.vocab_size, n_words, name), n_bytes

    def __len__(self) -> int:
        return int(self.tokens.size)

    def prefix(self, n_tokens: int, tokenizer: TextTokenizer) -> tuple[Self, int]:
        """The first `n_tokens` tokens as a stream of their own, and its bytes of UTF-8.

        tokenizer: the one that made the tokens; it tells the words and bytes they stand for.
        """
        tokens = self.tokens[:n_tokens]
        text = tokenizer.decode(tokens)
        stream = type(self)(tokens, self.vocab_size, word_count(text), self.name)
        return stream, len(text.encode())

    def windows(self, starts: npt.NDArray[np.int64], length: int) -> TokenIds:
        """Rows tokens[s : s + length] for each s of `starts` (B,): (B, length) int32."""
        return self.tokens[starts[:, None] + np.arange(length)]


class BlockDataset:
    """Training windows (B, T+1) of a token stream, in the order of its sampler."""

    def __init__(
        self,
        stream: TokenStream,
        block: int,
        batch: int,
        seed: int = 0,
        *,
        stride: int | None = None,
        documents: DocumentPolicy = "across",
        separator_id: int | None = None,
    ) -> None:
        """Start at the beginning; further arguments and errors as for `BatchSampler`.

        Args:
            stream: the tokens.
            block, batch, seed: as for `BatchSampler`.
            stride: tokens from a window to the next; None: `block`. Smaller ones overlap.
            documents: "across" lets windows run over the ends of documents, "within" gives every
                window to one document and leaves out documents shorter than a window, "packed"
                lets neighbouring documents that short share windows, the separator between them.
            separator_id: the token that ends a document, needed unless "across".

        Raises:
            DataError: no separator is known, or no document is long enough for a window.
        """
        self.stream = stream
        self.sampler: BatchSampler
        if documents == "across":
            if stride is None:
                self.sampler = BatchSampler(len(stream), block, batch, seed, stream.name)
                return
            ends = np.array([len(stream)], dtype=np.int64)
        elif separator_id is None:
            raise DataError(
                f"data.documents={documents} needs a tokenizer with the token {END_OF_TEXT}, which "
                f"that of {stream.name} lacks: train one with this special token"
            )
        else:
            pack_below = block + 1 if documents == "packed" else None
            ends = document_ends(stream.tokens, separator_id, pack_below)
        self.sampler = DocumentSampler(ends, block, batch, seed, stream.name, stride)

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
