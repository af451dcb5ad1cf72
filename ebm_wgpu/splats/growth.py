"""Growth: a mixture of splats gets more of them and keeps what it has learned.

New splats go, in this order,

1. to tokens of the text that have none, the most frequent first, at the token's own direction: what
   has no splat cannot be read off the mixture at all;
2. to critical states, contexts in which the splats give the token that followed less than its
   frequency in the text does: drawn with probability proportional to what they lose by that, so
   that surprise and coverage both count (by surprise alone, splats made a language model worse);
3. to the splats that are used most, one at a time, each to the one with the most use a splat.

A splat of 2 and 3 splits off a splat of its token: it takes over its concentration and an equal
part of its weight, and stands near it, in 2 on the way to the state. The weight of every token's
splats stays what it was, but for the share that the tokens of 1 have of the text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ebm_wgpu.errors import ConfigError
from ebm_wgpu.sphere import expmap, inner, logmap, projx
from ebm_wgpu.splats.initialization import JITTER_COSINE, highest_averages, scattered
from ebm_wgpu.splats.store import Float32Array, Float64Array, Int64Array, SplatStore

SIBLING_COSINE = 0.95
"""Splats that split off the same one for critical states are no nearer to each other than this."""


@dataclass(frozen=True, eq=False)
class States:
    """Contexts of a text, and the token that followed each, as splats see them.

    Attributes:
        direction: (S, d) float32 unit rows, h/|h| of the tilt h.
        token: (S,) int64, the token that followed.
        log_mass: (S,) float64, log p_splat(token | c), nats; -inf where the token has no splat.
        splat: (S,) int64, the splat of the token with the greatest p(k | c); -1 where it has none.
    """

    direction: Float32Array
    token: Int64Array
    log_mass: Float64Array
    splat: Int64Array

    def __len__(self) -> int:
        return len(self.token)

    def excess(self, token_counts: ArrayLike) -> Float64Array:
        """log p(token) - log p_splat(token | c), nats, (S,), p(w) = (n_w + 1) / (n + V).

        Positive for critical states, and infinite where the token has no splat.
        token_counts: (V,) uses n_w of each token in the text.
        """
        counts = np.asarray(token_counts, np.float64) + 1
        return np.asarray(np.log(counts / counts.sum())[self.token] - self.log_mass)

    def critical_share(self, token_counts: ArrayLike) -> float:
        """Share of the states that are critical: what asks for new splats; 0 of no states."""
        return float((self.excess(token_counts) > 0).mean()) if len(self) else 0.0


@dataclass(frozen=True, eq=False)
class Growth:
    """A store that has grown to M splats.

    Attributes:
        store: the splats by token; within a token those that were there stand first, in order.
        origin: (M,) int64, the row of the old store that a splat was or split off; -1 for those of
            tokens that had none.
        born: (M,) which are new.
        uncovered, critical, used: new splats for tokens without one, for critical states, and split
            off the splats used most.
    """

    store: SplatStore
    origin: Int64Array
    born: NDArray[np.bool_]
    uncovered: int
    critical: int
    used: int


def grow(
    store: SplatStore,
    n_splats: int,
    states: States,
    token_directions: ArrayLike,
    token_counts: ArrayLike,
    rng: np.random.Generator,
) -> Growth:
    """Let `store` grow to `n_splats` splats, by the rules above.

    Args:
        store: N splats, rows in order of token ids.
        n_splats: how many there shall be, more than N.
        states: of the training text.
        token_directions: (V, d) unit rows.
        token_counts: (V,) uses of each token in the training text.
        rng: of all that is random.

    Raises:
        ConfigError: `n_splats` is not above N.
    """
    room = n_splats - len(store)
    if room < 1:
        raise ConfigError(f"growth to {n_splats} splats from {len(store)}: ask for more than that")
    counts = np.asarray(token_counts, np.float64)
    tokens = _uncovered(store.sid, counts)[:room]
    for_states, at_states = _for_critical_states(store, states, counts, room - len(tokens), rng)
    copies = 1 + np.bincount(for_states, minlength=len(store))
    left = room - len(tokens) - len(for_states)
    split = np.repeat(np.arange(len(store)), _most_used(store, copies, left) - copies)
    parents = np.concatenate([for_states, split])
    copies = 1 + np.bincount(parents, minlength=len(store))

    share = (counts[tokens] + 0.5) / (counts + 0.5).sum()
    rest = (1 - share.sum()) / copies
    kappa = np.exp(np.log(store.kappa.astype(np.float64)).mean()).clip(*store.kappa_range)

    def joined(old: NDArray[Any], new: ArrayLike, dtype: type) -> NDArray[Any]:
        """A column: of old splats, of tokens that had none, of those split off."""
        return np.concatenate([old, np.asarray(new), old[parents]]).astype(dtype)

    mu = [
        store.mu,
        np.asarray(token_directions)[tokens],
        at_states,
        scattered(store.mu[split], rng),
    ]
    origin = np.concatenate([np.arange(len(store)), np.full(len(tokens), -1), parents])
    sid = joined(store.sid, tokens, np.int64)
    age = np.concatenate([store.age, np.zeros(room, np.int64)])
    alpha = joined(n_splats * np.exp(store.log_pi) * rest, n_splats * share, np.float32)
    order = np.argsort(sid, kind="stable")
    grown = SplatStore(
        mu=np.concatenate(mu).astype(np.float32)[order],
        alpha=np.maximum(alpha, np.finfo(np.float32).tiny)[order],
        kappa=joined(store.kappa, np.full(len(tokens), kappa), np.float32)[order],
        sid=sid[order],
        frequency=joined(store.frequency * rest, share, np.float64)[order],
        age=age[order],
        kappa_range=store.kappa_range,
        history=store.history,
    )
    grown.validate()
    born = np.arange(n_splats)[order] >= len(store)
    return Growth(grown, origin[order], born, len(tokens), len(for_states), len(split))


def _uncovered(sid: Int64Array, counts: Float64Array) -> Int64Array:
    """Tokens that occur and have no splat, the most frequent first."""
    occurs = counts > 0
    occurs[sid] = False
    tokens = np.flatnonzero(occurs)
    return tokens[np.argsort(-counts[tokens], kind="stable")]


def _for_critical_states(
    store: SplatStore, states: States, counts: Float64Array, room: int, rng: np.random.Generator
) -> tuple[Int64Array, Float32Array]:
    """Splats that others split off, and where: at most `room`, for critical states.

    A new splat stands on the geodesic from the splat of the state to the state's direction, as far
    as scattered splats stand on average. States nearer than that are covered; to those as near to
    the antipode there is no certain way.
    """
    excess = states.excess(counts)
    cosine = inner(states.direction, store.mu[states.splat])
    far = (states.splat >= 0) & (np.abs(cosine) < JITTER_COSINE)
    able = np.flatnonzero((excess > 0) & far)
    # The first arrivals of independent Poisson processes of these rates are a draw without
    # replacement, each with probability in proportion to its rate.
    able = able[np.argsort(rng.standard_exponential(len(able)) / excess[able], kind="stable")]
    parents = states.splat[able]
    places = _toward(store.mu[parents], states.direction[able])
    chosen: list[int] = []
    siblings: dict[int, list[int]] = {}
    for row, parent in enumerate(parents.tolist()):
        if len(chosen) >= room:
            break
        others = siblings.setdefault(parent, [])
        if not others or (places[others] @ places[row]).max() <= SIBLING_COSINE:
            others.append(row)
            chosen.append(row)
    return parents[chosen], places[chosen]


def _toward(start: Float32Array, stop: Float32Array) -> Float32Array:
    """Points at the angle arccos `JITTER_COSINE` from `start` on the way to `stop`, (n, d)."""
    away = logmap(start, stop)
    length = np.linalg.norm(away, axis=1, keepdims=True)
    return projx(expmap(start, away * (np.arccos(JITTER_COSINE) / length))).astype(np.float32)


def _most_used(store: SplatStore, copies: Int64Array, room: int) -> Int64Array:
    """Copies of each splat, (N,), when `room` more go to those with the most use a copy."""
    use = store.frequency if store.frequency.any() else np.exp(store.log_pi)
    return highest_averages(use, room, copies)
