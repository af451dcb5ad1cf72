"""Search that changes its ways with its size and its use: brute force, then HRM2."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from ebm_wgpu.splats.hrm2 import Hrm2Search
from ebm_wgpu.splats.hrm2_partition import building_products
from ebm_wgpu.splats.search import BruteForceSearch, NeighbourSearch, SearchResult, check_rows

if TYPE_CHECKING:
    from ebm_wgpu.kernels import KernelDevice

_SAMPLE = 256
"""Queries by which an index is tuned."""


class AutoSearch:
    """Brute force while directions or queries are few or without structure, then HRM2; k <= 128.

    From `LEAST_FOR_HRM2` directions on an index is made when brute force has cost as many products
    as making it does; so a few queries never wait for an index, and many never cost more than twice
    what would have been best. It is tuned on a sample of the queries that came, and stays if it
    saves them at least `LEAST_GAIN` times the products. Otherwise the next attempt is at twice as
    many directions.

    Attributes:
        current: the search in use.
    """

    LEAST_FOR_HRM2 = 20_000
    LEAST_GAIN = 4.0
    RECALL = 0.99

    def __init__(self, device: KernelDevice) -> None:
        """An empty search on a device."""
        self._device = device
        self._attempt = self.LEAST_FOR_HRM2
        self._spent = self._asked = 0
        self._sample: list[np.ndarray] = []
        self._rng = np.random.default_rng(0)
        self.current: NeighbourSearch = BruteForceSearch(device)

    def __len__(self) -> int:
        """How many directions are held."""
        return len(self.current)

    def add(self, mu: ArrayLike) -> None:
        """Append directions, (n, d) unit rows; the first call fixes d."""
        self.current.add(mu)

    def search(self, queries: ArrayLike, k: int) -> SearchResult:
        """The k nearest directions of each query, (B, d); errors as the search in use."""
        found = self.current.search(queries, k)
        if isinstance(self.current, BruteForceSearch) and len(self) >= self._attempt:
            rows = check_rows("queries", queries, 0)
            self._keep(rows)
            self._spent += len(rows) * len(self)
            if self._spent >= building_products(len(self)):
                self._make_index(self.current, k)
        return found

    def _make_index(self, brute: BruteForceSearch, k: int) -> None:
        index = Hrm2Search(self._device, n_probes=1)
        index.add(brute.mu)
        if index.tune(np.stack(self._sample), k, self.RECALL).gain >= self.LEAST_GAIN:
            self.current = index
        self._attempt = 2 * len(self)
        self._spent = self._asked = 0
        self._sample = []

    def _keep(self, rows: np.ndarray) -> None:
        """Keep a uniform sample of all queries that came (Vitter's algorithm R)."""
        for row in rows:
            self._asked += 1
            if self._asked <= _SAMPLE:
                self._sample.append(row.copy())
                continue
            place = int(self._rng.integers(self._asked))
            if place < _SAMPLE:
                self._sample[place] = row.copy()
