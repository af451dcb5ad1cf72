"""Certified lists: the bound bounds, and trajectories over lists are those of the full energy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import logsumexp

from ebm_wgpu.energy import Energy
from ebm_wgpu.errors import ConfigError
from ebm_wgpu.kernels import KernelDevice
from ebm_wgpu.sampling import NeighbourLists, sample_langevin
from ebm_wgpu.sampling.integrators import Chains, Schedule, integrate
from ebm_wgpu.sampling.neighbour_lists import follow, mass_envelope
from ebm_wgpu.sphere import random_uniform
from ebm_wgpu.splats import SplatStore


def _clusters(
    d: int, n: int, kappa: tuple[float, float], seed: int = 0, spread: float = 0.5
) -> SplatStore:
    """Clusters of ten splats."""
    rng = np.random.default_rng(seed)
    centres = random_uniform(rng, -(-n // 10), d)
    mu = centres[np.arange(n) // 10] + spread * rng.standard_normal((n, d)) / np.sqrt(d)
    return SplatStore.from_directions(
        mu, alpha=rng.uniform(0.5, 2, n), kappa=rng.uniform(*kappa, n)
    )


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 30),
    largest=st.floats(1, 40000),
    share=st.floats(0.01, 1),
)
def test_envelope_lies_above_the_mass_and_close_to_it(
    seed: int, n: int, largest: float, share: float
) -> None:
    rng = np.random.default_rng(seed)
    a = rng.uniform(share * largest, largest, n)
    log_w = 3 * rng.standard_normal(n)
    lines = mass_envelope(a, log_w).astype(np.float64)
    c = rng.uniform(-1, 1, 50)
    mass = logsumexp(log_w + a * (c[:, None] - 1), axis=1)
    bound = np.max(lines[:, 0] + lines[:, 1] * (c[:, None] - 1), axis=1)
    assert (bound >= mass).all()
    if len(lines) < 64:
        assert (bound - mass).max() < 0.25 + 1e-5 * largest


def test_envelope_of_equal_concentrations_is_one_exact_line() -> None:
    log_w = np.array([0.0, 1.0, -2.0])
    lines = mass_envelope(np.full(3, 100.0), log_w)
    assert lines.shape == (1, 2)
    np.testing.assert_allclose(lines[0], [logsumexp(log_w), 100.0], rtol=2e-4)


def test_lists_hold_the_nearest_and_say_where_the_others_begin(any_device: KernelDevice) -> None:
    store = _clusters(12, 60, (1, 3))
    points = random_uniform(np.random.default_rng(4), 5, 12).astype(np.float32)
    lists = NeighbourLists(Energy(store, any_device), 7).around(points)
    cosines = points.astype(np.float64) @ store.mu.T
    order = np.argsort(-cosines, axis=1)
    np.testing.assert_array_equal(np.sort(lists.idx), np.sort(order[:, :7]))
    outside = np.take_along_axis(cosines, order[:, 7:8], 1)[:, 0]
    assert (lists.outer[:, 0] >= outside).all()
    np.testing.assert_allclose(np.hypot(*lists.outer.T), 1, atol=1e-6)


def test_lists_of_splats_are_searched_once(numba_device: KernelDevice) -> None:
    store = _clusters(12, 60, (1, 3))
    lists = NeighbourLists(Energy(store, numba_device), 7)
    points = np.zeros((4, 12), np.float32)
    points[3, 0] = 1
    first = lists.at(np.array([5, 9, 5, -1]), points)
    assert lists.builds == 3
    again = lists.at(np.array([9, 5]), points[:2])
    assert lists.builds == 3
    np.testing.assert_array_equal(again.idx, first.idx[[1, 0]])
    np.testing.assert_array_equal(first.anchor[1], store.mu[9])
    np.testing.assert_array_equal(first.anchor[3], points[3])


@pytest.mark.parametrize(
    ("kappa", "size", "use_lists"),
    [
        ((5, 5), 20, True),
        ((2, 12), 16, True),
        ((3, 3), 11, True),
        ((3, 3), 11, "auto"),
        ((1.5, 1.5), 20, True),
        ((1.5, 1.5), 20, "auto"),
        ((1, 1), 3, True),
        ((1, 1), 3, "auto"),
    ],
)
@pytest.mark.parametrize("tilted", [False, True])
def test_trajectories_over_lists_are_those_of_the_full_energy(
    any_device: KernelDevice,
    kappa: tuple[float, float],
    size: int,
    use_lists: bool | str,
    tilted: bool,
) -> None:
    store = _clusters(32, 120, kappa)
    energy = Energy(store, any_device)
    h = 12 * random_uniform(np.random.default_rng(2), 6, 32) if tilted else None
    arguments = {"n_steps": 15, "seed": 11}
    full = sample_langevin(energy, 6, h, use_lists=False, **arguments)
    over = sample_langevin(energy, 6, h, use_lists=use_lists, list_size=size, **arguments)
    assert over.list_builds > 0 and full.list_builds == 0
    # The list may lack 1e-6 of the mass; float32 sums in another order make the rest.
    np.testing.assert_allclose(over.x, full.x, atol=5e-6)
    np.testing.assert_allclose(over.v, full.v, atol=2e-4)
    np.testing.assert_allclose(over.energy, full.energy, atol=2e-4)
    np.testing.assert_array_equal(over.component, full.component)


def test_uncertified_lists_would_be_noticed(numba_device: KernelDevice) -> None:
    """Without the certificate the same lists give other trajectories: the comparison can fail."""
    energy = Energy(_clusters(32, 120, (1, 1)), numba_device)
    schedule = Schedule(n_steps=15, dt=0.04, gamma=6.0, temperature=1.0, seed=11)
    x = random_uniform(np.random.default_rng(1), 6, 32).astype(np.float32)
    ends = []
    for log_eps in (np.log(1e-6), 1e6):
        chains = Chains(x.copy(), np.zeros_like(x), np.zeros_like(x), np.arange(6, dtype=np.int32))
        followed = follow(
            NeighbourLists(energy, 3), chains, schedule, np.full(6, -1), log_eps, patience=1
        )
        assert (followed.forces == (16 if log_eps > 0 else 0)).all()
        if log_eps < 0:
            integrate(energy, chains, schedule, range(16))
        ends.append(chains.x)
    assert np.abs(ends[0] - ends[1]).max() > 1e-3


def test_complete_lists_are_never_renewed(
    numba_device: KernelDevice, wgpu_device: KernelDevice
) -> None:
    """Over more steps than are looked after at a time, in wells where rounding does not grow."""
    store = _clusters(8, 20, (20, 20), spread=0.05)
    one, two = (
        sample_langevin(Energy(store, device), 4, use_lists=True, n_steps=300, seed=3)
        for device in (numba_device, wgpu_device)
    )
    assert one.list_builds == two.list_builds == 0
    np.testing.assert_allclose(one.x, two.x, atol=2e-6)
    full = sample_langevin(Energy(store, wgpu_device), 4, use_lists=False, n_steps=300, seed=3)
    np.testing.assert_allclose(one.x, full.x, atol=2e-6)


def test_lists_can_be_shared_between_calls(numba_device: KernelDevice) -> None:
    energy = Energy(_clusters(32, 120, (6, 6), spread=0.3), numba_device)
    lists = NeighbourLists(energy, 20)
    first = sample_langevin(energy, 8, lists=lists, n_steps=10, seed=1)
    second = sample_langevin(energy, 8, lists=lists, n_steps=10, seed=1)
    assert 0 < first.list_builds <= 8
    assert second.list_builds == 0
    np.testing.assert_array_equal(first.x, second.x)


@pytest.mark.parametrize("size", [0, 129])
def test_list_size_out_of_range(numba_device: KernelDevice, size: int) -> None:
    with pytest.raises(ConfigError, match=f"list_size = {size}"):
        NeighbourLists(Energy(_clusters(8, 20, (1, 1)), numba_device), size)
