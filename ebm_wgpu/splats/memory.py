"""Online memory: the last states of a text as splats, the oldest making room for the newest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ebm_wgpu.errors import ConfigError
from ebm_wgpu.splats.search import MAX_KERNEL_NEIGHBOURS, NeighbourSearch, check_rows

Float32Array = NDArray[np.float32]
Int64Array = NDArray[np.int64]

_MOST_HELD = 1.5
"""States that a search holds, forgotten ones too, in terms of the capacity."""


@dataclass(frozen=True, eq=False)
class Recollection:
    """What S positions of a text see of the memory, as it was when each of them was read.

    Attributes:
        cosines: (S, K) float32, of splats and queries.
        log_age: (S, K) float32, logarithm of the tokens since the splat was made, from log 1 on;
            -inf where the splat is younger than the position or has been forgotten by then.
        sids: (K,) or (S, K) int64, the tokens that followed.
    """

    cosines: Float32Array
    log_age: Float32Array
    sids: Int64Array


class OnlineMemory:
    """A ring of at most C splats: direction mu_j of the state at j, id of the token after it.

    Position t sees the splats j with 1 <= t - j <= C, whose ids are tokens up to t: nothing that
    comes later. Comparing with all of them costs C d products a token, exactly. With a `search` a
    position sees those of its own part of the text and the nearest of all before, which are added
    to the search part by part; it is made anew, without what is forgotten, before it holds more
    than 1.5 C.
    """

    def __init__(
        self,
        dimension: int,
        capacity: int,
        search: Callable[[], NeighbourSearch] | None = None,
        n_neighbours: int = 64,
    ) -> None:
        """An empty memory.

        Args:
            dimension: d.
            capacity: C.
            search: makes an empty search; unless given all splats are compared.
            n_neighbours: nearest splats that a position sees of those before its part, 1 to 64.
                Twice as many are fetched, of which those forgotten do not count: where that leaves
                fewer, it sees fewer.

        Raises:
            ConfigError: a capacity or a number of neighbours out of range.
        """
        if capacity < 1:
            raise ConfigError(f"capacity = {capacity} of the online memory: use at least 1")
        most = MAX_KERNEL_NEIGHBOURS // 2
        if not 1 <= n_neighbours <= most:
            raise ConfigError(
                f"n_neighbours = {n_neighbours} of the online memory: use 1 to {most}"
            )
        self.capacity = capacity
        self._make_search, self._n_neighbours = search, n_neighbours
        self._search: NeighbourSearch | None = None
        self._mu = np.zeros((0, dimension), np.float32)
        self._sids = np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self._mu)

    def width(self, part: int) -> int:
        """Most splats K that positions of a part of the text, `part` long, see."""
        return part + (self.capacity if self._make_search is None else self._n_neighbours)

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
        all_mu, all_sids = np.concatenate([self._mu, rows]), np.concatenate([self._sids, ids])
        if self._make_search is None:
            found = self._seen(asked @ all_mu.T, np.arange(len(all_mu)), held, all_sids)
        else:
            own = self._seen(asked @ rows.T, held + np.arange(len(rows)), held, all_sids)
            found = _side_by_side(self._nearest(asked), own)
        self._hold(all_mu, all_sids, len(rows))
        return found

    def look(self, query: ArrayLike) -> Recollection:
        """What the next position sees, S = 1, before the token after it is known.

        Args:
            query: (1, d), a unit row.

        Raises:
            ConfigError: rows of another dimension, NaN or infinity.
        """
        asked = check_rows("query of the online memory", query, self._mu.shape[1])
        if self._make_search is None:
            return self._seen(asked @ self._mu.T, np.arange(len(self)), len(self), self._sids)
        return self._nearest(asked)

    def remember(self, mu: ArrayLike, sids: ArrayLike) -> None:
        """Take in the states of consecutive positions, which are not asked what they see.

        Args:
            mu: (S, d) unit rows.
            sids: (S,) the token after each.

        Raises:
            ConfigError: rows of another dimension, NaN or infinity, or counts that differ.
        """
        rows = check_rows("mu of the online memory", mu, self._mu.shape[1])
        ids = np.asarray(sids, np.int64)
        if len(rows) != len(ids):
            raise ConfigError(
                f"{len(rows)} states and {len(ids)} tokens of the online memory: give as many of "
                "each"
            )
        self._hold(np.concatenate([self._mu, rows]), np.concatenate([self._sids, ids]), len(rows))

    def copy(self) -> OnlineMemory:
        """One that holds the same and goes on by itself."""
        other = OnlineMemory(
            self._mu.shape[1], self.capacity, self._make_search, self._n_neighbours
        )
        other._hold(self._mu, self._sids, len(self))
        return other

    def _seen(
        self, cosines: Float32Array, at: Int64Array, held: int, sids: Int64Array
    ) -> Recollection:
        """Of splats at places (K,) or (S, K) of the ring, what positions from `held` on see."""
        age = held + np.arange(len(cosines))[:, None] - at
        seen = (age >= 1) & (age <= self.capacity)
        log_age = np.where(seen, np.log(np.maximum(age, 1)), -np.inf).astype(np.float32)
        return Recollection(cosines, log_age, sids[at])

    def _nearest(self, asked: Float32Array) -> Recollection:
        """The splats held that are nearest to each query, the nearest first."""
        wanted = self._n_neighbours
        if self._search is None:
            nothing = np.zeros((len(asked), 0), np.float32)
            return Recollection(nothing, nothing, nothing.astype(np.int64))
        found = self._search.search(asked, min(2 * wanted, len(self._search)))
        # Those forgotten are at places below zero, and older than the capacity.
        at = found.indices + len(self) - len(self._search)
        seen = self._seen(found.similarities, at, len(self), self._sids)
        order = np.argsort(np.isneginf(seen.log_age), axis=1, kind="stable")[:, :wanted]
        return Recollection(
            np.take_along_axis(seen.cosines, order, axis=1),
            np.take_along_axis(seen.log_age, order, axis=1),
            np.take_along_axis(seen.sids, order, axis=1),
        )

    def _hold(self, mu: Float32Array, sids: Int64Array, new: int) -> None:
        """Keep the last states of all, `new` of which the search does not have.

        The search is made anew when much of it has been forgotten.
        """
        self._mu, self._sids = mu[-self.capacity :], sids[-self.capacity :]
        if self._make_search is None or not new:
            return
        rows = mu[-new:]
        if self._search is None or len(self._search) + new > _MOST_HELD * self.capacity:
            self._search, rows = self._make_search(), self._mu
        self._search.add(rows)


def _side_by_side(one: Recollection, other: Recollection) -> Recollection:
    """Two recollections of the same positions as one."""
    sids = np.broadcast_to(other.sids, other.cosines.shape)
    return Recollection(
        np.concatenate([one.cosines, other.cosines], axis=1),
        np.concatenate([one.log_age, other.log_age], axis=1),
        np.concatenate([one.sids, sids], axis=1),
    )
