"""Consolidation: planted clusters are found, weights are counts, and the capacity holds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebm_wgpu.errors import ConfigError, StoreError
from ebm_wgpu.splats.consolidation import Consolidation
from ebm_wgpu.splats.store import SplatStore

D = 24
RANGE = (1.0, 50.0)


def unit(rows: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows, np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def clusters(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """States near 12 orthogonal directions, and which direction each is near."""
    rng = np.random.default_rng(seed)
    which = rng.integers(12, size=count)
    return unit(np.eye(D)[which] + 0.05 * rng.standard_normal((count, D))), which


def test_planted_clusters_become_one_splat_a_direction_and_token() -> None:
    soc = Consolidation(D, 1000, buffer=100, weight_decay=0.0)
    seen: dict[tuple[int, int], list[np.ndarray]] = {}
    for seed in range(5):
        mu, which = clusters(130, seed)
        sids = which % 5
        soc.observe(mu, np.ones(130), sids)
        for row, direction, sid in zip(mu, which, sids, strict=True):
            seen.setdefault((int(direction), int(sid)), []).append(row)
    soc.consolidate()
    store = soc.store(5.0, RANGE)
    assert len(store) == len(seen) == 12
    for mu, alpha, sid in zip(store.mu, store.alpha, store.sid, strict=True):
        direction = int(mu.argmax())
        states = seen.pop((direction, int(sid)))
        assert alpha == len(states)
        np.testing.assert_allclose(mu, unit(np.sum(states, 0)[None])[0], atol=0.02)
    assert not seen
    assert [r.states for r in soc.rounds] == [100] * 6 + [50]
    assert soc.rounds[0].created == 12
    assert sum(r.created for r in soc.rounds[1:]) == 0
    assert soc.rounds[-1].rate < soc.rounds[0].rate
    assert soc.rounds[0].order == 0 and soc.rounds[-1].order >= 1
    assert store.frequency.sum() == pytest.approx(1)
    assert store.history is not None and len(store.history) == 50


def test_states_of_different_tokens_are_never_merged() -> None:
    mu = np.repeat(unit(np.ones((1, D))), 6, 0)
    soc = Consolidation(D, 100, buffer=6)
    soc.observe(mu, np.zeros(6), [0, 1, 0, 2, 1, 0])
    store = soc.store(5.0, RANGE)
    np.testing.assert_array_equal(store.sid, [0, 1, 2])
    np.testing.assert_array_equal(store.alpha, [3, 2, 1])


@given(
    capacity=st.integers(1, 40),
    buffer=st.integers(1, 50),
    cosine=st.floats(0.0, 1.0),
    seed=st.integers(0, 50),
)
@settings(max_examples=40, deadline=None)
def test_laws(capacity: int, buffer: int, cosine: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 120))
    mu = unit(rng.standard_normal((count, D)) + 1)
    soc = Consolidation(D, capacity, buffer=buffer, merge_cosine=cosine, weight_decay=0.1)
    soc.observe(mu, rng.random(count), rng.integers(4, size=count))
    soc.consolidate()
    store = soc.store(5.0, RANGE)
    store.validate()
    assert 1 <= len(store) <= capacity
    assert (np.diff(store.sid) >= 0).all()
    assert sum(r.states for r in soc.rounds) == count
    assert all(r.merged + r.created == r.states for r in soc.rounds)
    made, gone = sum(r.created for r in soc.rounds), sum(r.pruned for r in soc.rounds)
    assert made - gone == len(store) == soc.rounds[-1].splats


def test_nearby_states_are_covered_and_distant_ones_are_not() -> None:
    rng = np.random.default_rng(3)
    mu = unit(rng.standard_normal((60, D)) + 0.7)
    soc = Consolidation(D, 1000, buffer=60, merge_cosine=0.6)
    soc.observe(mu, rng.random(60), np.zeros(60, int))
    single = soc.store(5.0, RANGE)
    alone = single.mu[single.alpha == 1]
    assert 0 < len(alone) < 60
    cosines = alone @ alone.T - 2 * np.eye(len(alone))
    assert cosines.max() < 0.6


def test_the_lightest_make_room_and_surprise_decides_between_equals() -> None:
    mu = unit(np.eye(D)[:6])
    soc = Consolidation(D, 3, buffer=8)
    soc.observe(
        np.concatenate([mu, mu[:2]]), [1, 1, 0.5, 4.0, 2.0, 3.0, 1, 1], [0, 1, 2, 3, 4, 5, 0, 1]
    )
    np.testing.assert_array_equal(soc.store(5.0, RANGE).sid, [0, 1, 3])
    assert soc.rounds[0].pruned == 3


def test_weights_decay_and_old_single_states_are_forgotten_first() -> None:
    mu = unit(np.eye(D)[:4])
    soc = Consolidation(D, 2, buffer=2, weight_decay=0.5)
    soc.observe(mu, np.zeros(4), [0, 1, 2, 3])
    store = soc.store(5.0, RANGE)
    np.testing.assert_array_equal(store.sid, [2, 3])
    soc.observe(mu[2:3], [0.0], [2])
    soc.consolidate()
    store = soc.store(5.0, RANGE)
    np.testing.assert_allclose(store.alpha, [1.5, 0.5])
    np.testing.assert_array_equal(store.age, [1, 1])


def test_the_store_survives_its_file(tmp_path) -> None:
    soc = Consolidation(D, 50, buffer=40)
    mu, which = clusters(100, 0)
    soc.observe(mu, np.ones(100), which)
    store = soc.store(5.0, RANGE)
    store.save(tmp_path / "splats.h5")
    again = SplatStore.load(tmp_path / "splats.h5")
    np.testing.assert_array_equal(again.mu, store.mu)
    np.testing.assert_array_equal(again.alpha, store.alpha)
    assert again.history is not None and store.history is not None
    np.testing.assert_array_equal(again.history.tokens, store.history.tokens)


def test_errors_name_value_and_remedy() -> None:
    with pytest.raises(ConfigError, match=r"capacity = 0 .* use at least 1"):
        Consolidation(D, 0)
    with pytest.raises(ConfigError, match=r"merge_cosine = 1\.5"):
        Consolidation(D, 4, merge_cosine=1.5)
    soc = Consolidation(D, 4)
    with pytest.raises(ConfigError, match="2 states, 1 surprises and 2 tokens"):
        soc.observe(unit(np.ones((2, D))), [0.0], [1, 2])
    with pytest.raises(StoreError, match="no splats"):
        soc.store(5.0, RANGE)
