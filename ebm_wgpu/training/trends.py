"""Whether a noisy series of measurements goes up, goes down, or does neither."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

SIGNIFICANT = 3.0
"""Standard errors from which a slope counts."""


@dataclass(frozen=True)
class Line:
    """A least-squares line through a series.

    Attributes:
        change: what the line rises from the first point to the last, in the unit of the values.
        score: slope over its standard error; plus or minus infinity for points on a sloping line,
            0 where there are fewer than 3 points.
        level: mean of the values.
    """

    change: float
    score: float
    level: float

    @property
    def rises(self) -> bool:
        """Whether the values go up by more than their noise explains."""
        return self.score >= SIGNIFICANT

    @property
    def falls(self) -> bool:
        """Whether the values go down by more than their noise explains."""
        return self.score <= -SIGNIFICANT


def fit_line(values: Sequence[float], positions: Sequence[float] | None = None) -> Line:
    """The line y = b + s x with least sum of squares through equal steps, or `positions`.

    The standard error of s is sqrt(r / ((n - 2) sum (x - mean x)^2)), r the sum of squared
    residuals (ordinary least squares). Residuals below rounding count as none.

    Raises:
        ValueError: no values, values that are not finite, or another number of positions.
    """
    y = np.asarray(values, np.float64)
    x = np.arange(len(y), dtype=np.float64) if positions is None else np.asarray(positions, float)
    if not len(y) or len(x) != len(y) or not np.isfinite(y).all():
        raise ValueError("a line needs finite values, as many as positions")
    level = float(y.mean())
    centred = x - x.mean()
    spread = float(centred @ centred)
    if len(y) < 3 or spread == 0:
        return Line(0.0 if spread == 0 else float(y[-1] - y[0]), 0.0, level)
    slope = float(centred @ y) / spread
    residual = y - level - slope * centred
    floor = float(np.finfo(np.float64).eps * np.abs(y).max()) * math.sqrt(len(y))
    noise = math.sqrt(float(residual @ residual) / (len(y) - 2))
    change = slope * float(x[-1] - x[0])
    if noise <= floor:
        score = 0.0 if abs(change) <= floor else math.copysign(math.inf, change)
    else:
        score = slope / (noise / math.sqrt(spread))
    return Line(change, score, level)


def series(records: Sequence[Mapping[str, Any]], *names: str) -> list[tuple[int, float]]:
    """(step, value) of every record that has a value under the path `names`.

    A value that is null, which is how metrics.jsonl says "too large for a number", is infinity.
    """
    found = []
    for record in records:
        value: Any = record
        for name in names:
            value = value.get(name, _ABSENT) if isinstance(value, Mapping) else _ABSENT
        if value is None:
            found.append((int(record["step"]), math.inf))
        elif isinstance(value, (int, float)):
            found.append((int(record["step"]), float(value)))
    return found


_ABSENT = object()
