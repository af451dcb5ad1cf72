"""Self-organised consolidation: the states of a text, gathered into splats of bounded number.

States wait in a buffer. When it is full each one is either covered, and merged into the splat of
its token that it is nearest to, or becomes a splat. A splat is the mean direction of its states
and weighs as many as they are; its weight decays from one buffer to the next, and the lightest make
room when there are more than the capacity. Surprise alone makes poor splats (chosen for their
energy only, states made a language model worse); here it decides between splats that weigh alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ebm_wgpu.errors import ConfigError
from ebm_wgpu.sphere import projx
from ebm_wgpu.splats.search import check_rows
from ebm_wgpu.splats.store import History, SplatStore

Float32Array = NDArray[np.float32]
Int64Array = NDArray[np.int64]

_SURPRISE_WEIGHT = 0.01
"""What a nat of surprise counts against the weight of one state, when splats are pruned."""
_HISTORY = 4096
"""States of the last buffer that go with the store."""
_ROWS = 2048
"""States of one token that are compared with each other at a time."""


@dataclass(frozen=True)
class Round:
    """One consolidation of the buffer.

    Attributes:
        states: states in it.
        merged: of them, those covered by a splat, new ones included.
        created: new splats.
        pruned: splats that made room.
        splats: how many there are now.
        order: the order parameter (1/N) sum_k alpha_k rho_k over the mean alpha and the mean rho,
            rho_k the states that splat k had covered before: 1 where use is spread without regard
            to weight, larger where few splats hold most; 0 before any state is covered.
    """

    states: int
    merged: int
    created: int
    pruned: int
    splats: int
    order: float

    @property
    def rate(self) -> float:
        """New splats a state, which falls as the splats cover the text."""
        return self.created / self.states


class _States(NamedTuple):
    """States that wait: directions (n, d), surprise (n,) in nats, and the token that followed."""

    mu: Float32Array
    surprise: Float32Array
    sids: Int64Array

    def take(self, rows: Any) -> _States:
        """Some of them."""
        return _States(*(values[rows] for values in self))

    def as_splats(self) -> _Splats:
        """A splat of each."""
        count = len(self.mu)
        return _Splats(
            self.mu,
            np.ones(count, np.float32),
            self.surprise,
            self.sids,
            np.zeros(count, np.float64),
            np.zeros(count, np.int64),
        )


class _Splats(NamedTuple):
    """Splats: unit directions, weights, surprise of the first state, token, uses and rounds."""

    mu: Float32Array
    alpha: Float32Array
    surprise: Float32Array
    sids: Int64Array
    frequency: NDArray[np.float64]
    age: Int64Array

    def take(self, rows: Any) -> _Splats:
        """Some of them."""
        return _Splats(*(values[rows] for values in self))

    def cover(self, mu: Float32Array, cosine: float) -> tuple[_Splats, NDArray[np.bool_]]:
        """Merge states (n, d) into the nearest splats within `cosine`; and which were merged.

        A merged splat is the mean direction of what it held, weighed by alpha, and of its states.
        """
        if not len(self.mu):
            return self, np.zeros(len(mu), np.bool_)
        cosines = mu @ self.mu.T
        nearest = cosines.argmax(1)
        near = cosines[np.arange(len(mu)), nearest] >= cosine
        uses = np.bincount(nearest[near], minlength=len(self.mu))
        sums = self.mu * self.alpha[:, None]
        np.add.at(sums, nearest[near], mu[near])
        touched = uses > 0
        merged = self.mu.copy()
        merged[touched] = projx(sums[touched])
        alpha = self.alpha + uses.astype(np.float32)
        return self._replace(mu=merged, alpha=alpha, frequency=self.frequency + uses), near


class Consolidation:
    """Splats from a stream of states.

    Attributes:
        rounds: what was done, in order.
    """

    def __init__(
        self,
        dimension: int,
        capacity: int,
        *,
        buffer: int = 65536,
        merge_cosine: float = 0.8,
        weight_decay: float = 0.02,
    ) -> None:
        """No splats yet.

        Args:
            dimension: d.
            capacity: most splats.
            buffer: states that are consolidated together.
            merge_cosine: a state this near to a splat of its token is covered by it.
            weight_decay: share of the weight that a splat loses from one buffer to the next.

        Raises:
            ConfigError: a value out of range.
        """
        for name, value in (("capacity", capacity), ("buffer", buffer)):
            if value < 1:
                raise ConfigError(f"{name} = {value} of the consolidation: use at least 1")
        if not -1 < merge_cosine <= 1 or not 0 <= weight_decay < 1:
            raise ConfigError(
                f"merge_cosine = {merge_cosine}, weight_decay = {weight_decay} of the "
                "consolidation: use a cosine above -1 and a share below 1"
            )
        self._capacity, self._size = capacity, buffer
        self._cosine, self._decay = merge_cosine, weight_decay
        self._splats = _States(
            np.zeros((0, dimension), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64)
        ).as_splats()
        self._waiting: list[_States] = []
        self._history: History | None = None
        self.rounds: list[Round] = []

    def __len__(self) -> int:
        return len(self._splats.mu)

    def observe(self, mu: ArrayLike, surprise: ArrayLike, sids: ArrayLike) -> None:
        """Take in states; consolidates whenever the buffer is full.

        Args:
            mu: (n, d) unit rows, directions of the states.
            surprise: (n,) -log p of the token that followed, nats.
            sids: (n,) that token.

        Raises:
            ConfigError: rows of another dimension, NaN or infinity, or counts that differ.
        """
        rows = check_rows("states", mu, self._splats.mu.shape[1])
        states = _States(rows, np.asarray(surprise, np.float32), np.asarray(sids, np.int64))
        if not len(states.mu) == len(states.surprise) == len(states.sids):
            raise ConfigError(
                f"{len(states.mu)} states, {len(states.surprise)} surprises and "
                f"{len(states.sids)} tokens: give as many of each"
            )
        while len(states.mu):
            room = self._size - sum(len(part.mu) for part in self._waiting)
            self._waiting.append(states.take(slice(None, room)))
            states = states.take(slice(room, None))
            if room <= len(self._waiting[-1].mu):
                self.consolidate()

    def consolidate(self) -> None:
        """Turn what waits in the buffer into splats; nothing happens if nothing waits."""
        if not self._waiting:
            return
        states = _States(*(np.concatenate(part) for part in zip(*self._waiting, strict=True)))
        self._waiting = []
        last = states.take(slice(-_HISTORY, None))
        self._history = History(last.mu.copy(), last.surprise.copy(), last.sids.copy())
        states = states.take(np.argsort(states.sids, kind="stable"))
        alpha = self._splats.alpha * np.float32(1 - self._decay)
        splats = self._splats._replace(alpha=alpha, age=self._splats.age + 1)
        uses = splats.frequency
        tokens, firsts = np.unique(states.sids, return_index=True)
        stops = np.append(firsts[1:], len(states.mu))
        lows = np.searchsorted(splats.sids, tokens)
        highs = np.searchsorted(splats.sids, tokens, side="right")
        parts, created, done = [], 0, 0
        for first, stop, low, high in zip(firsts, stops, lows, highs, strict=True):
            parts.append(splats.take(slice(done, low)))
            held = splats.take(slice(low, high))
            for start in range(first, stop, _ROWS):
                held, new = self._merge(held, states.take(slice(start, min(start + _ROWS, stop))))
                created += new
            parts.append(held)
            done = high
        parts.append(splats.take(slice(done, None)))
        grown = _join(parts)
        self._splats = grown.take(self._kept(grown))
        self.rounds.append(
            Round(
                states=len(states.mu),
                merged=len(states.mu) - created,
                created=created,
                pruned=len(grown.mu) - len(self),
                splats=len(self),
                order=_order(alpha, uses),
            )
        )

    def store(self, kappa: float, kappa_range: tuple[float, float]) -> SplatStore:
        """The splats, by token, with the last states of the buffer as history.

        frequency is the share of all merged states, age the rounds since a splat was made.

        Args:
            kappa: concentration of each.
            kappa_range: least and greatest there may be.

        Raises:
            StoreError: there are no splats.
        """
        splats = self._splats
        return SplatStore.from_directions(
            splats.mu,
            alpha=splats.alpha,
            kappa=kappa,
            sid=splats.sids,
            frequency=splats.frequency / max(splats.frequency.sum(), 1.0),
            age=splats.age,
            kappa_range=kappa_range,
            history=self._history,
        )

    def _merge(self, held: _Splats, states: _States) -> tuple[_Splats, int]:
        """The splats of a token after states of it, and how many of them are new."""
        held, near = held.cover(states.mu, self._cosine)
        rest = states.take(~near)
        leaders = _leaders(rest.mu, rest.surprise, self._cosine)
        new = rest.take(leaders).as_splats()
        new, _ = new.cover(rest.take(~leaders).mu, self._cosine)
        return _join([held, new]), len(new.mu)

    def _kept(self, splats: _Splats) -> Int64Array:
        """The rows within the capacity: the heaviest, the most surprising among equals."""
        surplus = len(splats.mu) - self._capacity
        if surplus <= 0:
            return np.arange(len(splats.mu))
        worth = splats.alpha + _SURPRISE_WEIGHT * splats.surprise
        return np.sort(np.argpartition(worth, surplus)[surplus:])


def _join(parts: list[_Splats]) -> _Splats:
    """Splats in order."""
    return _Splats(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _leaders(mu: Float32Array, surprise: Float32Array, cosine: float) -> NDArray[np.bool_]:
    """States, the most surprising first, of which none is within `cosine` of another chosen one.

    All others are within it of one that was chosen.
    """
    order = np.argsort(-surprise, kind="stable")
    near = mu[order] @ mu[order].T >= cosine
    chosen = np.ones(len(mu), np.bool_)
    for row in range(len(mu)):
        if chosen[row]:
            chosen[row + 1 :] &= ~near[row, row + 1 :]
    leaders = np.zeros(len(mu), np.bool_)
    leaders[order[chosen]] = True
    return leaders


def _order(alpha: Float32Array, uses: NDArray[np.float64]) -> float:
    """mean(alpha rho) / (mean(alpha) mean(rho)) with the uses for rho; 0 before any."""
    if not uses.sum():
        return 0.0
    return float((alpha * uses).mean() / (alpha.mean() * uses.mean()))
