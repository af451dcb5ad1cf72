"""Online memory: the last states of a text as splats, the oldest making room for the newest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ebm_wgpu.errors import ConfigError
from ebm_wgpu.splats.search import check_rows
from ebm_wgpu.splats.store import SplatStore

Float32Array = NDArray[np.float32]
Int64Array = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Recollection:
    """What S positions of a text see of the memory, as it was when each of them was read.

    Attributes:
        cosines: (S, K) float32, of splats and queries.
        log_age: (S, K) float32, logarithm of the tokens since the splat was made, from log 1 on;
            -inf where the splat is younger than the position or has been forgotten by then.
        sids: (K,) int64, the tokens that followed.
    """

    cosines: Float32Array
    log_age: Float32Array
    sids: Int64Array


class OnlineMemory:
    """A ring of at most C splats: direction mu_j of the state at j, id of the token after it.

    Position t sees the splats j with 1 <= t - j <= C, whose ids are tokens up to t: nothing that
    comes later. Comparing with all of them costs C d products a token, exactly.
    """

    def __init__(self, dimension: int, capacity: int) -> None:
        """An empty memory.

        Args:
            dimension: d.
            capacity: C.

        Raises:
            ConfigError: a capacity below 1.
        """
        if capacity < 1:
            raise ConfigError(f"capacity = {capacity} of the online memory: use at least 1")
        self.capacity = capacity
        self._mu = np.zeros((0, dimension), np.float32)
        self._sids = np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self._mu)

    def recall(self, queries: ArrayLike, mu: ArrayLike, sids: ArrayLike) -> Recollection:
        """What S consecutive positions see; then their own states are remembered.

        Args:
            queries: (S, d) unit rows, what each compares the splats with.
            mu: (S, d) unit rows, their states.
            sids: (S,) the token after each.

        Raises:
            ConfigError: rows of another dimension, NaN or infinity, or counts that differ.
        """
        dimension = self._mu.shape[1]
        asked = check_rows("queries of the online memory", queries, dimension)
        rows = check_rows("mu of the online memory", mu, dimension)
        ids = np.asarray(sids, np.int64)
        if not len(asked) == len(rows) == len(ids):
            raise ConfigError(
                f"{len(asked)} queries, {len(rows)} states and {len(ids)} tokens of the online "
                "memory: give as many of each"
            )
        held = len(self)
        self._mu = np.concatenate([self._mu, rows])
        self._sids = np.concatenate([self._sids, ids])
        age = np.arange(len(rows))[:, None] + held - np.arange(held + len(rows))
        seen = (age >= 1) & (age <= self.capacity)
        log_age = np.where(seen, np.log(np.maximum(age, 1)), -np.inf).astype(np.float32)
        found = Recollection(asked @ self._mu.T, log_age, self._sids)
        self._mu, self._sids = self._mu[-self.capacity :], self._sids[-self.capacity :]
        return found

    def to_store(self, kappa: float = 1.0) -> SplatStore:
        """The splats it holds, oldest first, with the age of each; kappa: their concentration.

        Raises:
            StoreError: it holds none.
        """
        age = np.arange(len(self), 0, -1)
        return SplatStore.from_directions(self._mu, kappa=kappa, sid=self._sids, age=age)
