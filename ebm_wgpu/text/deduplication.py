"""Find texts that occurred before by 64-bit digests, in little memory."""

from __future__ import annotations

import hashlib
from array import array

_FIRST_SLOTS = 1 << 10
_MOST_SAMPLED = 1 << 18


def text_digest(text: str) -> int:
    """BLAKE2b of the UTF-8 bytes of `text`, in 1 to 2^64 - 1.

    Two given texts share a digest with probability 2^-64; among n texts, n^2/2^65 pairs are
    expected to (3e-4 for a hundred million).
    """
    data = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little") or 1


class DigestSet:
    """A set of digests in 12 to 32 bytes for each.

    Open addressing with linear probing in one array, at most two thirds full. A set of Python
    integers needs about 90 bytes for each.
    """

    def __init__(self) -> None:
        self._slots = array("Q", bytes(8 * _FIRST_SLOTS))
        self._size = 0

    def __len__(self) -> int:
        return self._size

    @property
    def n_bytes(self) -> int:
        """Bytes of the array."""
        return self._slots.itemsize * len(self._slots)

    def add(self, digest: int) -> bool:
        """Put `digest` in; whether it was not there before."""
        slots = self._slots
        mask = len(slots) - 1
        place = digest & mask
        while (found := slots[place]) != 0:
            if found == digest:
                return False
            place = (place + 1) & mask
        slots[place] = digest
        self._size += 1
        if 3 * self._size > 2 * len(slots):
            self._grow()
        return True

    def _grow(self) -> None:
        old = self._slots
        slots = array("Q", bytes(16 * len(old)))
        mask = len(slots) - 1
        for digest in old:
            if digest:
                place = digest & mask
                while slots[place]:
                    place = (place + 1) & mask
                slots[place] = digest
        self._slots = slots


class RepetitionSample:
    """Share of texts that occurred before, exact at first and from a sample later.

    Digests below a threshold are counted; when there are more than 2^18 distinct ones, the
    threshold is halved, so that a sample of distinct texts, each with its number of occurrences, is
    always at hand in bounded memory (adaptive sampling: Flajolet 1990). With 2^17 distinct texts
    sampled, the standard error of the share is about .001 where texts repeat a few times.
    """

    def __init__(self, most: int = _MOST_SAMPLED) -> None:
        """Keep `most` distinct digests at most."""
        self._most = most
        self._threshold = 1 << 64
        self._counts: dict[int, int] = {}
        self.total = 0

    @property
    def exact(self) -> bool:
        """Whether every text is still in the sample."""
        return self._threshold == 1 << 64

    def add(self, digest: int) -> None:
        """Count one occurrence."""
        self.total += 1
        if digest >= self._threshold:
            return
        counts = self._counts
        counts[digest] = counts.get(digest, 0) + 1
        while len(self._counts) > self._most:
            self._threshold //= 2
            self._counts = {d: n for d, n in self._counts.items() if d < self._threshold}

    @property
    def repeated_share(self) -> float:
        """Occurrences that are not the first of their text, over all: 1 - distinct/occurrences."""
        occurrences = sum(self._counts.values())
        return 1.0 - len(self._counts) / occurrences if occurrences else 0.0
