"""Search that changes its ways with the number of directions: brute force, then HRM2."""

from __future__ import annotations

from typing import TYPE_CHECKING

from numpy.typing import ArrayLike

from ebm_wgpu.splats.hrm2 import Hrm2Search
from ebm_wgpu.splats.search import BruteForceSearch, NeighbourSearch, SearchResult

if TYPE_CHECKING:
    from ebm_wgpu.kernels import KernelDevice


class AutoSearch:
    """Brute force while directions are few or without structure, HRM2 where that wins; k <= 128.

    From `LEAST_FOR_HRM2` directions an index is made and tuned; it stays if it saves at least
    `LEAST_GAIN` times the products. Otherwise the next attempt is at twice as many directions.

    Attributes:
        current: the search in use.
    """

    LEAST_FOR_HRM2 = 20_000
    LEAST_GAIN = 4.0

    def __init__(self, device: KernelDevice) -> None:
        """An empty search on a device."""
        self._device = device
        self._attempt = self.LEAST_FOR_HRM2
        self.current: NeighbourSearch = BruteForceSearch(device)

    def __len__(self) -> int:
        """How many directions are held."""
        return len(self.current)

    def add(self, mu: ArrayLike) -> None:
        """Append directions, (n, d) unit rows; the first call fixes d."""
        self.current.add(mu)
        if isinstance(self.current, BruteForceSearch) and len(self) >= self._attempt:
            index = Hrm2Search(self._device)
            index.add(self.current.mu)
            if index.tuning is not None and index.tuning.gain >= self.LEAST_GAIN:
                self.current = index
            self._attempt = 2 * len(self)

    def search(self, queries: ArrayLike, k: int) -> SearchResult:
        """The k nearest directions of each query, (B, d); errors as the search in use."""
        return self.current.search(queries, k)
