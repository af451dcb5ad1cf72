"""A time limit for work that is done in pieces."""

from __future__ import annotations

import math
from time import perf_counter


class TimeBudget:
    """Seconds for all of some work, from now on."""

    def __init__(self, seconds: float | None) -> None:
        """Start the clock; none: there is no limit."""
        self._start = perf_counter()
        self._limit = math.inf if seconds is None else seconds

    @property
    def limited(self) -> bool:
        """Whether there is a limit."""
        return self._limit < math.inf

    @property
    def spent(self) -> float:
        """Seconds that have passed."""
        return perf_counter() - self._start

    @property
    def left(self) -> float | None:
        """Seconds until the limit, at least 0; none without a limit."""
        return max(self._limit - self.spent, 0.0) if self.limited else None

    def allows(self, seconds: float, share: float = 1.0) -> bool:
        """Whether `seconds` more end within a share of all."""
        return self.spent + seconds <= share * self._limit
