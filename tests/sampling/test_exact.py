"""Exact draws against the densities and moments they must have."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ebm_wgpu.energy import Energy
from ebm_wgpu.errors import ConfigError
from ebm_wgpu.kernels import KernelDevice
from ebm_wgpu.sampling import sample_exact
from ebm_wgpu.sphere import random_uniform
from ebm_wgpu.splats import SplatStore
from ebm_wgpu.vmf import log_z0_ratio, vmf_cosine_cdf


def _store(d: int, n: int, seed: int = 0) -> SplatStore:
    rng = np.random.default_rng(seed)
    return SplatStore.from_directions(
        random_uniform(rng, n, d), alpha=rng.uniform(0.2, 3, n), kappa=rng.uniform(1, 8, n)
    )


def _posterior(store: SplatStore, h: np.ndarray) -> np.ndarray:
    a = store.concentration
    delta = 2 * a * (store.mu.astype(np.float64) @ h) + h @ h
    log_mass = store.log_pi + log_z0_ratio(a, delta, store.dimension)
    mass = np.exp(log_mass - log_mass.max())
    return mass / mass.sum()


@pytest.mark.parametrize("d", [8, 32, 64, 256, 640])
@pytest.mark.parametrize("kappa", [1.0, 5.0, 20.0])
def test_cosine_to_the_splat_is_von_mises_fisher(
    numba_device: KernelDevice, d: int, kappa: float
) -> None:
    store = SplatStore.from_directions(np.eye(1, d), kappa=kappa)
    x = sample_exact(Energy(store, numba_device), 2000, seed=1).x
    cosine = x.astype(np.float64) @ store.mu[0]
    p = stats.kstest(cosine, lambda t: vmf_cosine_cdf(t, kappa * (d - 1), d)).pvalue
    assert p > 0.01


@pytest.mark.parametrize("length", [0.0, 20.0])
def test_components_follow_the_posterior(any_device: KernelDevice, length: float) -> None:
    store = _store(16, 12)
    h = length * np.eye(16)[3]
    draws = sample_exact(Energy(store, any_device), 4000, h, seed=5)
    counts = np.bincount(draws.component, minlength=12)
    expected = 4000 * _posterior(store, h)
    frequent = expected > 5
    observed = [*counts[frequent], counts[~frequent].sum()]
    wanted = [*expected[frequent], expected[~frequent].sum()]
    if wanted[-1] == 0:
        observed, wanted = observed[:-1], wanted[:-1]
    assert stats.chisquare(observed, wanted).pvalue > 0.01


def test_mean_of_tilted_draws_is_the_closed_form(numba_device: KernelDevice) -> None:
    store = _store(32, 40, seed=2)
    h = 15 * random_uniform(np.random.default_rng(3), 1, 32)[0]
    energy = Energy(store, numba_device)
    x = sample_exact(energy, 4000, h, seed=7).x.astype(np.float64)
    deviation = (x.mean(axis=0) - energy.mean(h)[0]) / (x.std(axis=0) / np.sqrt(len(x)))
    assert stats.kstest(deviation, "norm").pvalue > 0.01
    assert np.abs(deviation).max() < 4


def test_temperature_flattens_the_draws(numba_device: KernelDevice) -> None:
    store = SplatStore.from_directions(np.eye(1, 24), kappa=6.0)
    x = sample_exact(Energy(store, numba_device, temperature=3.0), 2000, seed=4).x
    p = stats.kstest(x[:, 0], lambda t: vmf_cosine_cdf(t, 2.0 * 23, 24)).pvalue
    assert p > 0.01


def test_a_draw_depends_on_its_number_and_its_tilt_alone(any_device: KernelDevice) -> None:
    energy = Energy(_store(16, 30), any_device)
    h = 10 * random_uniform(np.random.default_rng(1), 6, 16)
    own = sample_exact(energy, 6, h, seed=3)
    fewer = sample_exact(energy, 2, h[:2], seed=3)
    np.testing.assert_array_equal(own.x[:2], fewer.x)
    for i in (0, 5):
        shared = sample_exact(energy, 6, h[i], seed=3)
        assert shared.component[i] == own.component[i]
        np.testing.assert_allclose(shared.x[i], own.x[i], atol=1e-6)


def test_devices_draw_the_same(numba_device: KernelDevice, wgpu_device: KernelDevice) -> None:
    store = _store(40, 50)
    h = 8 * random_uniform(np.random.default_rng(1), 20, 40)
    one = sample_exact(Energy(store, numba_device), 20, h, seed=2**63 + 5)
    two = sample_exact(Energy(store, wgpu_device), 20, h, seed=2**63 + 5)
    np.testing.assert_array_equal(one.component, two.component)
    np.testing.assert_allclose(one.x, two.x, atol=2e-6)


def test_a_store_is_drawn_from_on_the_device_named() -> None:
    store = _store(8, 3)
    draws = sample_exact(store, 5, seed=1, device="numba")
    assert draws.x.shape == (5, 8) and draws.x.dtype == np.float32
    assert draws.component.dtype == np.int64
    np.testing.assert_allclose(np.linalg.norm(draws.x, axis=1), 1, atol=1e-6)


def test_a_splat_of_tiny_weight_is_still_drawn_from(numba_device: KernelDevice) -> None:
    alpha = np.ones(3, np.float32)
    alpha[1] = 1e-3
    store = SplatStore.from_directions(np.eye(3, 8), alpha=alpha)
    draws = sample_exact(Energy(store, numba_device), 20000, seed=0)
    count = np.sum(draws.component == 1)
    assert stats.binomtest(int(count), 20000, float(np.exp(store.log_pi[1]))).pvalue > 0.01


@pytest.mark.parametrize(
    ("n", "h", "seed", "message"),
    [
        (0, None, 0, "cannot draw 0"),
        (3, np.ones(7), 0, r"h has shape \(7,\)"),
        (3, np.ones((2, 8)), 0, r"h has shape \(2, 8\)"),
        (3, np.full(8, np.nan), 0, "h holds NaN"),
        (3, None, -1, "seed -1"),
        (3, None, 2**64, "seed 18446744073709551616"),
    ],
)
def test_errors(
    numba_device: KernelDevice, n: int, h: np.ndarray | None, seed: int, message: str
) -> None:
    energy = Energy(_store(8, 3), numba_device)
    with pytest.raises(ConfigError, match=message):
        sample_exact(energy, n, h, seed=seed)
