"""The state of a set of splats: which are used, which are dead, which run away."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ebm_wgpu.splats.store import SplatStore

ACTIVE_SHARE = 0.01
"""Share of the even use, one over the number of splats, from which a splat counts as used."""
YOUNG = 100
"""Age in steps below which a splat that is not used is not dead: it had no time to be."""
EXPLODING_SHARE = 0.1
"""Share of all weight from which one splat is too much,"""
EXPLODING_RATIO = 10.0
"""if it is also so many times the even share."""
AT_LIMIT = 0.01
"""Share of the range of kappa within which a concentration lies at the end of the range."""
DUPLICATE_COSINE = 0.9999
_SAMPLE = 256


@dataclass(frozen=True)
class SplatHealth:
    """Counts and shares of a store of N splats.

    Attributes:
        count: N.
        dimension: d.
        tokens: different token ids.
        active: splats that are used, see `active_splats`.
        dead: splats that are not, though they are older than `YOUNG` steps.
        exploding: splats that hold at least `EXPLODING_SHARE` of all weight and `EXPLODING_RATIO`
            times the even share.
        largest_share: of all weight, of one splat.
        at_kappa_min, at_kappa_max: shares of splats at the ends of the range of kappa; 0 where the
            range is a point.
        effective_weight: exp of the entropy of the weights pi, N where all weigh the same.
        effective_use: exp of the entropy of the use, N where all are used alike; 0 before any use
            was counted.
        duplicates: share, of a sample, of splats that have another one of the same token within
            cosine `DUPLICATE_COSINE`.
    """

    count: int
    dimension: int
    tokens: int
    active: int
    dead: int
    exploding: int
    largest_share: float
    at_kappa_min: float
    at_kappa_max: float
    effective_weight: float
    effective_use: float
    duplicates: float


def active_splats(frequency: ArrayLike) -> NDArray[np.bool_]:
    """Which splats have at least `ACTIVE_SHARE` of the even share of all use, (N,).

    frequency: (N,) >= 0, use of each in any unit. Nobody is used where all are 0.
    """
    use = np.asarray(frequency, np.float64)
    total = use.sum()
    return (use > 0) & (use * len(use) >= ACTIVE_SHARE * total)


def splat_health(store: SplatStore, seed: int = 0) -> SplatHealth:
    """The state of `store`; `seed` chooses the sample that duplicates are looked for in."""
    pi = np.exp(store.log_pi)
    active = active_splats(store.frequency)
    low, high = store.kappa_range
    margin = AT_LIMIT * (high - low)
    ends = (store.kappa <= low + margin, store.kappa >= high - margin)
    at_limits = [float(end.mean()) if high > low else 0.0 for end in ends]
    return SplatHealth(
        count=len(store),
        dimension=store.dimension,
        tokens=int(np.unique(store.sid).size),
        active=int(active.sum()),
        dead=int((~active & (store.age >= YOUNG)).sum()),
        exploding=int(((pi >= EXPLODING_SHARE) & (pi * len(pi) >= EXPLODING_RATIO)).sum()),
        largest_share=float(pi.max()),
        at_kappa_min=at_limits[0],
        at_kappa_max=at_limits[1],
        effective_weight=effective_number(pi),
        effective_use=effective_number(store.frequency),
        duplicates=_duplicates(store, seed),
    )


def effective_number(amounts: ArrayLike) -> float:
    """exp of the entropy of amounts >= 0 (N,) as shares of their sum; 0 where that is 0."""
    amount = np.asarray(amounts, np.float64)
    positive = amount[amount > 0]
    if not len(positive):
        return 0.0
    share = positive / positive.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def _duplicates(store: SplatStore, seed: int) -> float:
    rows = np.random.default_rng(seed).permutation(len(store))[:_SAMPLE]
    rows.sort()
    order = np.argsort(store.sid, kind="stable")
    sorted_sid = store.sid[order]
    found = 0
    for row in rows:
        first, last = np.searchsorted(sorted_sid, store.sid[row] + np.arange(2))
        others = order[first:last]
        cosines = store.mu[others[others != row]] @ store.mu[row]
        found += bool((cosines >= DUPLICATE_COSINE).any())
    return found / len(rows)
