"""Splat stores with all they can hold, and whether two are the same."""

from __future__ import annotations

import numpy as np

from ebm_wgpu.sphere import random_uniform
from ebm_wgpu.splats import History, SplatStore

ARRAYS = ("mu", "alpha", "kappa", "sid", "frequency", "age")
HISTORY_ARRAYS = ("latents", "energies", "tokens")


def make_store(
    seed: int = 0, count: int = 5, dimension: int = 8, states: int | None = 3
) -> SplatStore:
    """A store of random splats with every field set, and a history of `states` latents."""
    rng = np.random.default_rng(seed)
    history = None
    if states is not None:
        history = History(
            random_uniform(rng, states, dimension, np.float32).reshape(states, dimension),
            rng.standard_normal(states).astype(np.float32),
            rng.integers(0, 50_000, states),
        )
    return SplatStore.from_directions(
        random_uniform(rng, count, dimension),
        alpha=rng.uniform(1e-3, 1e3, count),
        kappa=rng.uniform(1, 50, count),
        sid=rng.integers(0, 50_000, count),
        frequency=rng.random(count),
        age=rng.integers(0, 1 << 40, count),
        history=history,
    )


def assert_same(left: SplatStore, right: SplatStore) -> None:
    """Every array of two stores is equal, to the bit and in type."""
    for name in ARRAYS:
        one, other = getattr(left, name), getattr(right, name)
        assert one.dtype == other.dtype
        assert np.array_equal(one, other), name
    assert left.kappa_range == right.kappa_range
    assert (left.history is None) == (right.history is None)
    if left.history is not None and right.history is not None:
        for name in HISTORY_ARRAYS:
            assert np.array_equal(getattr(left.history, name), getattr(right.history, name)), name
