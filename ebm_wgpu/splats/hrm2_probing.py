"""Which cells of a hierarchical index a query visits, and how far that must go to find enough.

Seen from the centre of a cell, a query is at the angle alpha and the members are, on average, at
beta. With A the angle between the ways to the query and to a member, their cosine is

    cos alpha cos beta + sin alpha sin beta cos A              (spherical law of cosines)

so that a member is nearer to the query than the k-th found so far, of cosine s, if cos A exceeds

    t = (s - cos alpha cos beta) / (sin alpha sin beta)

The larger t, the fewer directions around the centre do. A query therefore visits the cells of
nearest centre first, which gives s, and then all those of t up to a limit: easy queries few, hard
ones many, and narrow cells only from near by. The limit is what `Hrm2Search.tune` chooses.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]

CONFIDENCE = 3.0
"""Standard errors that a recall must have in hand: as many other queries then fall short of it in
one case of sixty."""
_LEAST_SINE = 1e-4


@dataclass(frozen=True)
class Tuning:
    """What a choice of cells was seen to give.

    Attributes:
        first: cells a query visits before it knows better.
        alignment: highest t of the cells it visits after that.
        cells: mean number of cells that a query visits.
        recall: share of the true k nearest that were found, mean over the queries.
        error: its standard error.
        products: mean number of products of a query, centres and members.
        directions: N, the products of a search of everything.
    """

    first: int
    alignment: float
    cells: float
    recall: float
    error: float
    products: float
    directions: int

    @property
    def gain(self) -> float:
        """How many times fewer products than a search of everything."""
        return self.directions / self.products


def best_cells(scores: Float32Array, count: int) -> NDArray[np.int32]:
    """The `count` cells of highest score for each query, (B, count), from scores (B, C)."""
    if count >= scores.shape[1]:
        return np.tile(np.arange(scores.shape[1], dtype=np.int32), (len(scores), 1))
    return np.argpartition(-scores, count - 1, axis=1)[:, :count].astype(np.int32)


def alignment_needed(
    scores: Float32Array, mean_cosine: Float64Array, last: Float32Array
) -> Float32Array:
    """t of each cell for each query, (B, C): how near cos A must come to 1 for a nearer member.

    Args:
        scores: (B, C) cosines of queries and centres.
        mean_cosine: (C,) mean cosine of the members of a cell and its centre.
        last: (B,) cosine of the k-th nearest found so far.
    """
    cosine = mean_cosine.astype(np.float32)
    sine = np.sqrt(np.maximum(1 - np.square(mean_cosine), _LEAST_SINE**2)).astype(np.float32)
    across = np.sqrt(np.maximum(1 - np.square(scores), np.float32(_LEAST_SINE**2)))
    needed: Float32Array = (last[:, None] - scores * cosine) / (across * sine)
    return needed


def chosen_cells(chosen: NDArray[np.bool_]) -> NDArray[np.int32]:
    """The cells of each query that are set, (B, C), as lists of equal length, -1 where it ends."""
    counts = chosen.sum(axis=1)
    query, cell = np.nonzero(chosen)
    place = np.arange(len(cell)) - np.repeat(np.cumsum(counts) - counts, counts)
    cells = np.full((len(chosen), int(counts.max(initial=0))), -1, np.int32)
    cells[query, place] = cell
    return cells


def least_limit(needed: Float32Array, recall: float) -> tuple[float, float, float]:
    """The least limit within which enough of the nearest lie.

    Args:
        needed: (n, k) limit that each of the k nearest of n queries takes; -inf for none.
        recall: mean share that must be within, less three standard errors.

    Returns:
        The limit, the mean share and its standard error.
    """
    values = np.unique(needed)
    # Within the greatest of them everything lies.
    low, high = 0, len(values) - 1
    while low < high:
        middle = (low + high) // 2
        mean, error = _share_within(needed, values[middle])
        if mean - CONFIDENCE * error >= recall:
            high = middle
        else:
            low = middle + 1
    limit = float(values[low])
    return (limit, *_share_within(needed, limit))


def _share_within(needed: Float32Array, limit: float) -> tuple[float, float]:
    share = (needed <= limit).mean(axis=1)
    return float(share.mean()), float(share.std() / max(len(share) - 1, 1) ** 0.5)
