"""Count what streams by in bounded memory: lengths, words, characters and tokens."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from ebm_wgpu.text.tokenizer_base import TextTokenizer, TokenIds, token_safe_cut

_CODE_POINTS = 0x110000
_BATCH_CHARACTERS = 1 << 20
_DOCUMENT_PART = 1 << 16
_LONGEST_RUN = 1 << 20
_MOST_WORDS = 1 << 19
_LONGEST_WORD = 100
_UNUSUAL_CATEGORIES = frozenset({"Cc", "Cf", "Co", "Cn", "Cs", "Zs", "Zl", "Zp"})
_USUAL = frozenset("\t\n ")


class LengthCounts:
    """How often each length occurs; k distinct lengths need a text of k^2/2, so they are few."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def add(self, length: int) -> None:
        """Count one."""
        self._counts[length] += 1

    def quantiles(self, orders: Sequence[float]) -> list[float]:
        """Quantiles, linear between neighbours as `numpy.quantile` gives them; zeros for none."""
        if not self._counts:
            return [0.0] * len(orders)
        values = np.array(sorted(self._counts))
        last = np.cumsum([self._counts[value] for value in values.tolist()]) - 1
        places = np.asarray(orders) * last[-1]
        below, above = (
            values[np.searchsorted(last, whole)] for whole in (np.floor(places), np.ceil(places))
        )
        found: list[float] = (below + (above - below) * (places % 1.0)).tolist()
        return found


class WordCounts:
    """How often each word occurs, exact up to 2^19 distinct words.

    When there are more, the rarer half is let go, and begins anew when it comes again: a word that
    occurs more often than the highest counts let go, added up, stays, and its count lacks that sum
    at most (after lossy counting, Manku and Motwani 2002). Words longer than 100 characters are
    counted by their first 100.

    Attributes:
        total: all words.
        bound: that sum.
    """

    def __init__(self, most: int = _MOST_WORDS) -> None:
        """Keep `most` distinct words at most."""
        self._most = most
        self._counts: Counter[str] = Counter()
        self._let_go = 0
        self.total = self.bound = 0

    @property
    def exact(self) -> bool:
        """Whether no word was let go."""
        return self.bound == 0

    @property
    def types(self) -> int:
        """Distinct words; if not `exact`, a bound from above."""
        return len(self._counts) + self._let_go

    def add(self, words: Sequence[str]) -> None:
        """Count `words`."""
        self.total += len(words)
        if max(map(len, words), default=0) > _LONGEST_WORD:
            words = [word[:_LONGEST_WORD] for word in words]
        self._counts.update(words)
        while len(self._counts) > self._most:
            rare = int(np.median(np.fromiter(self._counts.values(), dtype=np.int64)))
            self.bound += rare
            kept = {word: n for word, n in self._counts.items() if n > rare}
            self._let_go += len(self._counts) - len(kept)
            self._counts = Counter(kept)

    def ranked(self) -> list[tuple[str, int]]:
        """Words with their counts, most frequent first, then by spelling."""
        return sorted(self._counts.items(), key=lambda item: (-item[1], item[0]))


class CharacterCounts:
    """How often each code point occurs."""

    def __init__(self) -> None:
        self._counts = np.zeros(_CODE_POINTS, dtype=np.int64)
        self._held: list[str] = []
        self._length = 0

    def add(self, text: str) -> None:
        """Count the characters of `text`."""
        self._held.append(text)
        self._length += len(text)
        if self._length >= _BATCH_CHARACTERS:
            self._count()

    def _count(self) -> None:
        data = "".join(self._held).encode("utf-32-le", "surrogatepass")
        self._held, self._length = [], 0
        codes = np.frombuffer(data, dtype="<u4")
        found = np.bincount(codes)
        self._counts[: found.size] += found

    def _counted(self) -> npt.NDArray[np.int64]:
        if self._held:
            self._count()
        return self._counts

    @property
    def total(self) -> int:
        """All characters."""
        return int(self._counted().sum())

    @property
    def distinct(self) -> int:
        """Code points that occur."""
        return int(np.count_nonzero(self._counted()))

    @property
    def non_ascii_share(self) -> float:
        """Share of characters above ASCII."""
        return float(self._counted()[128:].sum()) / max(self.total, 1)

    def unusual(self) -> dict[str, int]:
        """Characters that a clean text seldom has, with their counts, most frequent first.

        Controls but tab and newline, invisible, private and unassigned characters, spaces other
        than the usual one, and U+FFFD.
        """
        counts = self._counted()
        found = {
            chr(code): int(counts[code])
            for code in np.flatnonzero(counts).tolist()
            if chr(code) == "\ufffd"
            or (chr(code) not in _USUAL and unicodedata.category(chr(code)) in _UNUSUAL_CATEGORIES)
        }
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


class TokenCounts:
    """Tokens of documents, each document encoded for itself, several at a time.

    Attributes:
        total: all tokens.
        by_id: occurrences of each id, (vocab_size,) int64.
        lengths: tokens of each document.
    """

    def __init__(self, tokenizer: TextTokenizer) -> None:
        """Count with `tokenizer`."""
        self._tokenizer = tokenizer
        self.total = 0
        self.by_id = np.zeros(tokenizer.vocab_size, dtype=np.int64)
        self.lengths = LengthCounts()
        self._open: list[str] = []
        self._open_length, self._open_limit = 0, _DOCUMENT_PART
        self._parts: list[str] = []
        self._ends_document: list[bool] = []
        self._waiting = self._tokens_so_far = 0

    def add(self, text: str) -> None:
        """Take the next piece of the document."""
        self._open.append(text)
        self._open_length += len(text)
        if self._open_length < self._open_limit:
            return
        whole = "".join(self._open)
        cut = token_safe_cut(whole, _DOCUMENT_PART // 2)
        if cut is None and len(whole) > _LONGEST_RUN:
            cut = len(whole)
        self._open_limit = 2 * len(whole) if cut is None else _DOCUMENT_PART
        if cut is not None:
            self._put(whole[:cut], ends_document=False)
            whole = whole[cut:]
        self._open, self._open_length = [whole], len(whole)

    def end_document(self) -> None:
        """The document is complete."""
        self._put("".join(self._open), ends_document=True)
        self._open, self._open_length, self._open_limit = [], 0, _DOCUMENT_PART

    def finish(self) -> None:
        """Count what still waits."""
        encoded = self._tokenizer.encode_many(self._parts)
        for ids, ends_document in zip(encoded, self._ends_document, strict=True):
            self._tokens_so_far += ids.size
            if ends_document:
                self.lengths.add(self._tokens_so_far)
                self._tokens_so_far = 0
        self._count(encoded)
        self._parts, self._ends_document, self._waiting = [], [], 0

    def _put(self, text: str, ends_document: bool) -> None:
        self._parts.append(text)
        self._ends_document.append(ends_document)
        self._waiting += len(text)
        if self._waiting >= _BATCH_CHARACTERS:
            self.finish()

    def _count(self, encoded: Iterable[TokenIds]) -> None:
        parts = [ids for ids in encoded if ids.size]
        if parts:
            ids = np.concatenate(parts)
            self.total += ids.size
            self.by_id += np.bincount(ids, minlength=self.by_id.size)
