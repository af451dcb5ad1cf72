"""The state of splats: planted stores whose counts are known."""

import numpy as np
import pytest

from ebm_wgpu.splats.health import YOUNG, active_splats, splat_health
from ebm_wgpu.splats.store import SplatStore

N, D = 200, 16


def store(**changes) -> SplatStore:
    """Splats that are all alike but for their directions: used, old, of middling kappa."""
    x = np.random.default_rng(0).standard_normal((N, D))
    values = {"kappa": 10.0, "frequency": np.ones(N), "age": 10 * YOUNG} | changes
    return SplatStore.from_directions(x / np.linalg.norm(x, axis=1, keepdims=True), **values)


def test_a_healthy_store_has_nothing_wrong():
    health = splat_health(store())
    assert (health.count, health.dimension, health.tokens) == (N, D, N)
    assert (health.active, health.dead, health.exploding) == (N, 0, 0)
    assert (health.at_kappa_min, health.at_kappa_max, health.duplicates) == (0, 0, 0)
    assert health.effective_weight == pytest.approx(N)
    assert health.effective_use == pytest.approx(N)
    assert health.largest_share == pytest.approx(1 / N)


def test_splats_below_a_hundredth_of_the_even_share_are_not_in_use():
    use = np.ones(1000)
    use[:3] = (0.0, 0.0099, 0.0101)
    assert active_splats(use).tolist() == [False, False, *[True] * 998]
    assert not active_splats(np.zeros(5)).any()
    assert active_splats(1e-200 * use).tolist() == active_splats(use).tolist()


def test_unused_splats_are_dead_once_they_are_old():
    use, age = np.ones(N), np.full(N, YOUNG)
    use[:30], age[:10] = 0, YOUNG - 1
    health = splat_health(store(frequency=use, age=age))
    assert (health.active, health.dead) == (N - 30, 20)
    assert health.effective_use == pytest.approx(N - 30)


def test_nothing_is_known_of_use_before_any():
    health = splat_health(store(frequency=0.0, age=0))
    assert (health.active, health.dead, health.effective_use) == (0, 0, 0)


def test_a_splat_that_swallows_the_weight_is_exploding():
    alpha = np.ones(N)
    alpha[3] = N / 2
    health = splat_health(store(alpha=alpha))
    share = (N / 2) / (N / 2 + N - 1)
    assert health.exploding == 1
    assert health.largest_share == pytest.approx(share)
    entropy = -share * np.log(share) - (1 - share) * np.log((1 - share) / (N - 1))
    assert health.effective_weight == pytest.approx(np.exp(entropy))
    # One of two splats with a tenth of the weight is nothing special.
    pair = SplatStore.from_directions(np.eye(8)[:2], alpha=[1.0, 9.0])
    assert splat_health(pair).exploding == 0


def test_concentrations_at_the_ends_of_their_range_are_counted():
    kappa = np.full(N, 10.0)
    kappa[:20], kappa[20:60] = 1.2, 49.9
    health = splat_health(store(kappa=kappa))
    assert (health.at_kappa_min, health.at_kappa_max) == (20 / N, 40 / N)
    fixed = splat_health(store(kappa=10.0, kappa_range=(10.0, 10.0)))
    assert (fixed.at_kappa_min, fixed.at_kappa_max) == (0, 0)


def test_twins_have_the_same_token_and_direction():
    x = np.random.default_rng(1).standard_normal((N, D))
    x[1], x[3], x[5] = x[0], x[2], x[4]
    sid = np.arange(N)
    sid[1], sid[3] = 0, 2
    mu = x / np.linalg.norm(x, axis=1, keepdims=True)
    health = splat_health(SplatStore.from_directions(mu, sid=sid))
    assert health.duplicates == 4 / N
    assert health.tokens == N - 2
