"""What a corpus is made of: sizes, lengths, coverage, repetitions, and the windows that suit it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ebm_wgpu.errors import DataError
from ebm_wgpu.text.counting import CharacterCounts, LengthCounts, TokenCounts, WordCounts
from ebm_wgpu.text.deduplication import RepetitionSample, text_digest
from ebm_wgpu.text.documents import DocumentRule, read_documents
from ebm_wgpu.text.streaming import Decoding, OnBytes, total_bytes
from ebm_wgpu.text.tokenizer_base import TextTokenizer

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
COVERAGES = (0.90, 0.95, 0.99)

_BLOCK_QUANTILE = 0.75
_FEWEST_BLOCK, _MOST_BLOCK = 16, 1024
_FEWEST_WINDOWS = 100
_ENOUGH_WINDOWS = 10_000
_WORDS_A_CALL = 1 << 14


@dataclass(frozen=True)
class WindowSuggestion:
    """Block size and stride that suit a corpus, see `suggest_windows`."""

    block_size: int
    window_stride: int


def suggest_windows(document_tokens: float, tokens: int) -> WindowSuggestion:
    """Block size and stride for training windows.

    The block size is the least power of two that holds `document_tokens`, the third quartile of
    document lengths, so that three documents in four fit into one window; at most 1024, and small
    enough that the corpus has a hundred windows; at least 16. The stride is half of it where the
    corpus has fewer than 10,000 windows, so that each token is seen at two distances from the
    start; otherwise it is the block size.

    Args:
        document_tokens: third quartile of the tokens in a document.
        tokens: tokens of the corpus.
    """
    wanted = min(max(document_tokens, _FEWEST_BLOCK), _MOST_BLOCK)
    block = 1 << (int(np.ceil(wanted)) - 1).bit_length()
    while block > _FEWEST_BLOCK and tokens < _FEWEST_WINDOWS * block:
        block //= 2
    overlap = tokens < _ENOUGH_WINDOWS * block
    return WindowSuggestion(block, block // 2 if overlap else block)


@dataclass(frozen=True)
class Coverage:
    """How far a vocabulary reaches.

    A token falls back if it stands for text outside the vocabulary (<unk>, U+FFFD) or for a piece
    of a character; a word is covered if none of its tokens does.

    Attributes:
        token_share: tokens of the text that do not fall back.
        vocabulary_used: token ids of the vocabulary that occur.
        word_share, word_type_share: words, and distinct words, that are covered.
        whole_word_share: words that are one token.
        types: distinct words; a bound from above if not `types_exact`.
        types_exact: whether all distinct words were kept; otherwise rare ones were left out.
        types_for: distinct words, most frequent first, that make .90, .95 and .99 of all words;
            None where words that were left out would be needed.
    """

    token_share: float
    vocabulary_used: float
    word_share: float
    word_type_share: float
    whole_word_share: float
    types: int
    types_exact: bool
    types_for: Mapping[str, int | None]


@dataclass(frozen=True)
class Repetition:
    """Documents and lines that occurred before, as shares; blank lines do not count.

    Attributes:
        documents, lines: the shares.
        exact: whether they are counted, and not estimated from a sample of 2^17 or more.
    """

    documents: float
    lines: float
    exact: bool


@dataclass(frozen=True)
class CorpusReport:
    """What `analyze_corpus` found.

    Attributes:
        files: number of files; bytes: as they lie on the disk.
        documents, lines, words, characters: of documents, without what separates them; words are
            between whitespace.
        tokenizer, vocab_size: kind and size of the vocabulary that counts tokens.
        tokens: of documents, each encoded for itself.
        document_tokens, line_characters: quantiles of lengths by their order, "0" to "1".
        suggestion: training windows that suit.
        coverage: of words and tokens by the vocabulary.
        repetition: share of what is there twice.
        distinct_characters: code points that occur.
        non_ascii_share: characters above ASCII.
        unusual: controls, invisible, private and unassigned characters, spaces other than the
            usual, and U+FFFD, with the number of each, most frequent first.
    """

    files: int
    bytes: int
    documents: int
    lines: int
    words: int
    characters: int
    tokenizer: str
    vocab_size: int
    tokens: int
    document_tokens: Mapping[str, float]
    line_characters: Mapping[str, float]
    suggestion: WindowSuggestion
    coverage: Coverage
    repetition: Repetition
    distinct_characters: int
    non_ascii_share: float
    unusual: Mapping[str, int]


def analyze_corpus(
    inputs: Sequence[Path],
    tokenizer: TextTokenizer,
    rule: DocumentRule | None = None,
    decoding: Decoding | None = None,
    on_bytes: OnBytes | None = None,
) -> CorpusReport:
    """Read a corpus once, in memory that its size does not change, and say what it is made of.

    Args:
        inputs: text files, see `streaming.expand_inputs`.
        tokenizer: whose tokens are counted.
        rule: what ends a document.
        decoding: of the bytes of `inputs`.
        on_bytes: is told of the bytes read, for progress.

    Raises:
        DataError: an input that is missing, binary or not in its encoding; or no text in any.
    """
    tokens, words, characters = TokenCounts(tokenizer), WordCounts(), CharacterCounts()
    line_lengths = LengthCounts()
    same_documents, same_lines = RepetitionSample(), RepetitionSample()
    digest = hashlib.blake2b(digest_size=8)
    lines, line_length = 0, 0
    for path in inputs:
        for piece in read_documents(path, rule, decoding, on_bytes):
            if piece is None:
                tokens.end_document()
                same_documents.add(int.from_bytes(digest.digest(), "little"))
                digest = hashlib.blake2b(digest_size=8)
                continue
            tokens.add(piece)
            characters.add(piece)
            words.add(piece.split())
            digest.update(piece.encode("utf-8", "surrogatepass"))
            line_length += len(piece)
            if piece.endswith("\n"):
                lines += 1
                line_lengths.add(line_length - 1)
                # A line that came in parts is known by its last.
                if piece != "\n":
                    same_lines.add(text_digest(piece))
                line_length = 0
    tokens.finish()
    if not same_documents.total:
        raise DataError(f"no text to analyze in {', '.join(map(str, inputs))}: give other files")
    document_tokens = tokens.lengths.quantiles((*QUANTILES, _BLOCK_QUANTILE))
    return CorpusReport(
        files=len(inputs),
        bytes=total_bytes(inputs),
        documents=same_documents.total,
        lines=lines,
        words=words.total,
        characters=characters.total,
        tokenizer=tokenizer.name,
        vocab_size=tokenizer.vocab_size,
        tokens=tokens.total,
        document_tokens=_named(QUANTILES, document_tokens),
        line_characters=_named(QUANTILES, line_lengths.quantiles(QUANTILES)),
        suggestion=suggest_windows(document_tokens[-1], tokens.total),
        coverage=_coverage(tokenizer, tokens, words),
        repetition=Repetition(
            same_documents.repeated_share,
            same_lines.repeated_share,
            same_documents.exact and same_lines.exact,
        ),
        distinct_characters=characters.distinct,
        non_ascii_share=characters.non_ascii_share,
        unusual=characters.unusual(),
    )


def _named(orders: Sequence[float], values: Iterable[float]) -> dict[str, float]:
    return {f"{order:g}": value for order, value in zip(orders, values, strict=False)}


def _coverage(tokenizer: TextTokenizer, tokens: TokenCounts, words: WordCounts) -> Coverage:
    fallback = np.zeros(tokenizer.vocab_size, dtype=bool)
    fallback[list(tokenizer.unknown_ids)] = True
    ranked = words.ranked()
    counts = np.array([count for _, count in ranked], dtype=np.int64)
    covered, whole = np.zeros(len(ranked), dtype=bool), np.zeros(len(ranked), dtype=bool)
    # In a text a word follows a space, which byte-level BPE makes part of its first token.
    before = " " if tokenizer.encode(" a").size == tokenizer.encode("a").size else ""
    for first in range(0, len(ranked), _WORDS_A_CALL):
        texts = [before + word for word, _ in ranked[first : first + _WORDS_A_CALL]]
        for place, ids in enumerate(tokenizer.encode_many(texts), first):
            covered[place] = not fallback[ids].any()
            whole[place] = ids.size == 1 and covered[place]
    reached = np.cumsum(counts)
    types_for: dict[str, int | None] = {}
    for share in COVERAGES:
        needed = int(np.searchsorted(reached, share * words.total)) + 1
        types_for[f"{share:g}"] = needed if needed <= len(ranked) else None
    kept = max(int(counts.sum()), 1)
    return Coverage(
        token_share=1.0 - float(tokens.by_id[fallback].sum()) / max(tokens.total, 1),
        vocabulary_used=float(np.count_nonzero(tokens.by_id)) / tokenizer.vocab_size,
        word_share=float(counts[covered].sum()) / kept,
        word_type_share=float(covered.mean()) if len(ranked) else 0.0,
        whole_word_share=float(counts[whole].sum()) / kept,
        types=words.types,
        types_exact=words.exact,
        types_for=types_for,
    )
