"""Growth: what was learned is kept, and new splats go where text has none, is lost, or is read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebm_wgpu.errors import ConfigError
from ebm_wgpu.splats.growth import SIBLING_COSINE, Growth, States, grow
from ebm_wgpu.splats.initialization import JITTER_COSINE, uniform_directions
from ebm_wgpu.splats.store import SplatStore

D, V = 16, 9
DIRECTIONS = uniform_directions(V, D, seed=5)
COUNTS = np.array([50, 40, 30, 20, 10, 5, 2, 1, 0])


def splats(sid: Any, seed: int = 0) -> SplatStore:
    rng = np.random.default_rng(seed)
    sid = np.sort(np.asarray(sid))
    return SplatStore.from_directions(
        uniform_directions(len(sid), D, seed),
        alpha=rng.uniform(0.1, 2, len(sid)),
        kappa=rng.uniform(1, 50, len(sid)),
        sid=sid,
        frequency=rng.dirichlet(np.ones(len(sid))),
        age=rng.integers(0, 500, len(sid)),
    )


def seen(store: SplatStore, count: int, seed: int = 0, lost: float = 3.0) -> States:
    """States of random tokens; those with a splat are read `lost` nats below frequency, or less."""
    rng = np.random.default_rng(seed)
    token = rng.choice(V, count, p=COUNTS / COUNTS.sum())
    first = np.searchsorted(store.sid, token)
    has = np.isin(token, store.sid)
    log_p = np.log((COUNTS + 1) / (COUNTS + 1).sum())[token]
    mass = np.where(has, log_p - lost * rng.uniform(-1, 1, count), -np.inf)
    return States(uniform_directions(count, D, seed + 1), token, mass, np.where(has, first, -1))


def grown(store: SplatStore, n_splats: int, states: States, seed: int = 0) -> Growth:
    return grow(store, n_splats, states, DIRECTIONS, COUNTS, np.random.default_rng(seed))


def of_tokens(store: SplatStore, values: Any) -> Any:
    return np.bincount(store.sid, values, V)


EVERY = splats([*range(8), 0, 0, 1])
"""A splat or more for each token that occurs."""


def test_what_was_there_stays_and_every_token_keeps_its_weight() -> None:
    growth = grown(EVERY, 80, seen(EVERY, 60))
    store, kept = growth.store, ~growth.born
    assert (len(store), growth.born.sum()) == (80, 80 - len(EVERY))
    assert np.array_equal(growth.origin[kept], np.arange(len(EVERY)))
    for name in ("mu", "kappa", "sid", "age"):
        assert np.array_equal(getattr(store, name)[kept], getattr(EVERY, name)), name
    assert (store.age[growth.born] == 0).all()
    # Children have token and concentration of the one they split off, and an equal part of it.
    assert np.array_equal(store.sid, EVERY.sid[growth.origin])
    assert np.array_equal(store.kappa, EVERY.kappa[growth.origin])
    copies = np.bincount(growth.origin, minlength=len(EVERY))[growth.origin]
    assert np.exp(store.log_pi) == pytest.approx(np.exp(EVERY.log_pi)[growth.origin] / copies)
    assert store.frequency == pytest.approx(EVERY.frequency[growth.origin] / copies)
    assert of_tokens(store, np.exp(store.log_pi)) == pytest.approx(
        of_tokens(EVERY, np.exp(EVERY.log_pi)), abs=1e-6
    )
    assert store.alpha.mean() == pytest.approx(1, rel=1e-6)
    assert growth.uncovered == 0 and growth.critical > 0 and growth.used > 0
    assert growth.critical + growth.used == 80 - len(EVERY)


def test_tokens_without_a_splat_come_first_the_most_frequent_before_the_others() -> None:
    store = splats([1, 1, 4])
    growth = grown(store, 6, seen(store, 60))
    assert growth.uncovered == 3
    assert growth.store.sid.tolist() == [0, 1, 1, 2, 3, 4]
    assert growth.origin.tolist() == [-1, 0, 1, -1, -1, 2]
    fresh = growth.origin < 0
    assert np.array_equal(growth.store.mu[fresh], DIRECTIONS[[0, 2, 3]])
    share = (COUNTS[[0, 2, 3]] + 0.5) / (COUNTS + 0.5).sum()
    pi = np.exp(growth.store.log_pi)
    assert pi[fresh] == pytest.approx(share, rel=1e-6)
    assert pi[~fresh] == pytest.approx(np.exp(store.log_pi) * (1 - share.sum()), rel=1e-6)
    assert growth.store.frequency.sum() == pytest.approx(1)
    geometric = np.exp(np.log(store.kappa.astype(float)).mean())
    assert growth.store.kappa[fresh] == pytest.approx(geometric, rel=1e-6)
    # A token that never occurs gets none, however much room there is.
    assert 8 not in grown(store, 60, seen(store, 60)).store.sid


def test_splats_for_critical_states_stand_on_the_way_to_them() -> None:
    states = seen(EVERY, 40)
    growth = grown(EVERY, len(EVERY) + 5, states)
    assert (growth.critical, growth.used) == (5, 0)
    excess = states.excess(COUNTS)
    assert excess == pytest.approx(
        [np.log((COUNTS[t] + 1) / (COUNTS.sum() + V)) - m
         for t, m in zip(states.token, states.log_mass, strict=True)]
    )  # fmt: skip
    assert states.critical_share(COUNTS) == (excess > 0).mean()
    for row in np.flatnonzero(growth.born):
        mu, parent = growth.store.mu[row].astype(float), growth.origin[row]
        start = EVERY.mu[parent].astype(float)
        assert mu @ start == pytest.approx(JITTER_COSINE, abs=1e-5)
        # In the plane of the splat and the direction of a critical state of its own.
        of_it = states.direction[(states.splat == parent) & (excess > 0)].astype(float)
        away = of_it - (of_it @ start)[:, None] * start
        away /= np.linalg.norm(away, axis=1, keepdims=True)
        rest = (mu - JITTER_COSINE * start) / np.sqrt(1 - JITTER_COSINE**2)
        assert (away @ rest).max() == pytest.approx(1, abs=1e-4)


def test_covered_and_well_read_states_call_for_nothing() -> None:
    states = seen(EVERY, 40)
    well = States(states.direction, states.token, states.log_mass + 10, states.splat)
    assert well.critical_share(COUNTS) == 0
    assert grown(EVERY, 30, well).critical == 0
    at_splats = States(EVERY.mu[states.splat], states.token, states.log_mass, states.splat)
    assert at_splats.critical_share(COUNTS) > 0
    assert grown(EVERY, 30, at_splats).critical == 0
    nothing = States(np.zeros((0, D), np.float32), np.zeros(0, int), np.zeros(0), np.zeros(0, int))
    assert nothing.critical_share(COUNTS) == 0
    assert grown(EVERY, 30, nothing).used == 30 - len(EVERY)


def test_siblings_keep_apart() -> None:
    # Many states in nearly one direction need no more than one splat.
    rng = np.random.default_rng(0)
    one = uniform_directions(1, D, 9) + 0.01 * rng.standard_normal((50, D))
    one = (one / np.linalg.norm(one, axis=1, keepdims=True)).astype(np.float32)
    token = np.zeros(50, np.int64)
    states = States(one, token, np.full(50, -9.0), token)
    assert grown(EVERY, 40, states).critical == 1
    growth = grown(EVERY, 300, seen(EVERY, 2000))
    for parent in range(len(EVERY)):
        rows = np.flatnonzero(growth.born & (growth.origin == parent))
        toward = growth.store.mu[rows] @ EVERY.mu[parent]
        mu = growth.store.mu[rows[np.abs(toward - JITTER_COSINE) < 1e-5]]
        assert ((mu @ mu.T)[~np.eye(len(mu), dtype=bool)] <= SIBLING_COSINE + 1e-5).all()


def test_states_are_drawn_in_proportion_to_what_they_lose() -> None:
    store = splats(range(8))
    token = np.array([0, 1, 2])
    lost = np.array([0.5, 1.0, 2.5])
    log_p = np.log((COUNTS + 1) / (COUNTS + 1).sum())[token]
    states = States(-store.mu[[3, 4, 5]], token, log_p - lost, token)
    draws = 1000
    growths = (grown(store, 9, states, seed) for seed in range(draws))
    parents = np.array([growth.origin[growth.born][0] for growth in growths])
    share = lost / lost.sum()
    found = np.bincount(parents, minlength=8)[:3] / draws
    assert (np.abs(found - share) <= 4 * np.sqrt(share * (1 - share) / draws)).all()


@given(extra=st.integers(1, 80), seed=st.integers(0, 20))
def test_use_is_shared_out_as_evenly_as_can_be(extra: int, seed: int) -> None:
    store = splats(range(8), seed)
    growth = grown(store, 8 + extra, seen(store, 0))
    assert growth.used == extra
    copies = np.bincount(growth.origin, minlength=8)
    given_extra = copies > 1
    # None that was given one had less use a splat before than another has now.
    before = (store.frequency / np.maximum(copies - 1, 1))[given_extra].min()
    assert before >= (store.frequency / copies).max() * (1 - 1e-12)
    again = grown(store, 8 + extra, seen(store, 0))
    assert np.array_equal(growth.store.mu, again.store.mu)


def test_without_use_weights_decide() -> None:
    store = splats([0, 1])
    store.frequency[:] = 0
    store.alpha[:] = [1, 9]
    states = States(np.zeros((0, D), np.float32), np.zeros(0, int), np.zeros(0), np.zeros(0, int))
    growth = grow(store, 10, states, DIRECTIONS[:2], np.array([1, 9]), np.random.default_rng(0))
    assert np.bincount(growth.store.sid).tolist() == [1, 9]


def test_growth_is_growth() -> None:
    with pytest.raises(ConfigError, match="growth to 11 splats from 11: ask for more"):
        grown(EVERY, 11, seen(EVERY, 5))
