"""What an approximate search loses: recall, dropped mass, and the products it saves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ebm_wgpu.splats.search import NeighbourSearch, check_rows
from ebm_wgpu.splats.store import SplatStore
from ebm_wgpu.vmf import log_z0

Float32Array = NDArray[np.float32]
LogWeights = Callable[[Float32Array], NDArray[np.floating]]
"""From the cosines of points with all splats, (B, N), to log weights of the splats, (B, N)."""

_BATCH = 16
_ROUNDING = 2e-6


@dataclass(frozen=True)
class SearchQuality:
    """Figures of a search for the K nearest, means over the queries.

    Attributes:
        recall: share of the K found that belong to the true K nearest, ties counted as true.
        recall_error: its standard error.
        dropped_mass: share of the weight of all splats that those outside the K found hold.
        dropped_by_exact: the same for the true K nearest: what truncation costs by itself.
        worst_dropped_mass: of the query that loses most.
        products: directions and centres a query was compared with, None where that is not known.
        directions: N, what an exhaustive search compares a query with.
        neighbours: K.
    """

    recall: float
    recall_error: float
    dropped_mass: float
    dropped_by_exact: float
    worst_dropped_mass: float
    products: float | None
    directions: int
    neighbours: int

    @property
    def gain(self) -> float | None:
        """How many times fewer products than an exhaustive search."""
        return None if self.products is None else self.directions / self.products


def measure_search(
    search: NeighbourSearch,
    store: SplatStore,
    queries: ArrayLike,
    k: int,
    log_weights: LogWeights | None = None,
) -> SearchQuality:
    """Compare a search over the directions of a store with all of them, at the points `queries`.

    The weight of splat k at x is pi_k exp(a_k x.mu_k - log Z0(a_k)), its share of p(x), unless
    another one is given.

    Args:
        search: holds the directions of the store, in its order.
        store: the splats.
        queries: (B, d) unit rows.
        k: how many neighbours.
        log_weights: what the splats weigh instead.

    Raises:
        ConfigError: as `search.search`.
    """
    rows = check_rows("queries", queries, store.dimension)
    result = search.search(rows, k)
    weigh = log_weights or _log_shares(store)
    hits, dropped, least = [], [], []
    for start in range(0, len(rows), _BATCH):
        cosines = rows[start : start + _BATCH] @ store.mu.T
        best = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
        found = result.indices[start : start + _BATCH]
        last = np.take_along_axis(cosines, best, axis=1).min(axis=1, keepdims=True)
        named = np.take_along_axis(cosines, found, axis=1)
        hits.append((named >= last - _ROUNDING).mean(axis=1))
        logs = weigh(cosines)
        mass = np.exp(logs - logs.max(axis=1, keepdims=True), dtype=np.float64)
        mass /= mass.sum(axis=1, keepdims=True)
        dropped.append(1 - np.take_along_axis(mass, found, axis=1).sum(axis=1))
        least.append(1 - np.take_along_axis(mass, best, axis=1).sum(axis=1))
    recall, lost = np.concatenate(hits), np.concatenate(dropped)
    return SearchQuality(
        recall=float(recall.mean()),
        recall_error=float(recall.std() / max(len(recall) - 1, 1) ** 0.5),
        dropped_mass=float(lost.mean()),
        dropped_by_exact=float(np.concatenate(least).mean()),
        worst_dropped_mass=float(lost.max()),
        products=result.products,
        directions=len(store),
        neighbours=k,
    )


def _log_shares(store: SplatStore) -> LogWeights:
    """log pi_k - log Z0(a_k) + a_k x.mu_k by the cosines."""
    a = store.concentration
    log_normalised = store.log_pi - log_z0(a, store.dimension)
    return lambda cosines: log_normalised + a * cosines
