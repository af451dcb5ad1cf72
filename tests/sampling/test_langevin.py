"""Langevin chains against the density they must have, and the interface around them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ebm_wgpu.energy import Energy
from ebm_wgpu.energy_terms import GeometryTerm
from ebm_wgpu.errors import ConfigError
from ebm_wgpu.kernels import KernelDevice
from ebm_wgpu.sampling import sample_exact, sample_langevin
from ebm_wgpu.sampling.langevin import default_dt_omega, natural_frequency
from ebm_wgpu.sphere import random_uniform
from ebm_wgpu.splats import SplatStore
from ebm_wgpu.vmf import mean_cosine, mean_cosine_derivative, vmf_cosine_cdf


def _store(d: int = 24, n: int = 30) -> SplatStore:
    rng = np.random.default_rng(0)
    return SplatStore.from_directions(
        random_uniform(rng, n, d), alpha=rng.uniform(0.5, 2, n), kappa=rng.uniform(2, 6, n)
    )


def _one_splat(d: int, kappa: float, device: KernelDevice) -> Energy:
    return Energy(SplatStore.from_directions(np.eye(1, d), kappa=kappa), device)


def _p_value(x: np.ndarray, kappa: float) -> float:
    d = x.shape[1]
    return float(stats.kstest(x[:, 0], lambda t: vmf_cosine_cdf(t, kappa * (d - 1), d)).pvalue)


@pytest.mark.parametrize("d", [8, 32, 64, 256, 640])
@pytest.mark.parametrize("kappa", [1.0, 5.0, 20.0])
def test_baoab_keeps_the_density_and_the_published_scheme_does_not(
    numba_device: KernelDevice, d: int, kappa: float
) -> None:
    energy = _one_splat(d, kappa, numba_device)
    assert _p_value(sample_langevin(energy, 300, seed=1).x, kappa) > 0.01
    biased = sample_langevin(energy, 300, seed=1, integrator="published", dt_omega=0.4, n_steps=20)
    assert _p_value(biased.x, kappa) < 1e-4


@pytest.mark.parametrize("kappa", [1.0, 5.0, 20.0])
def test_bias_of_the_default_step_is_a_tenth_of_the_spread(
    numba_device: KernelDevice, kappa: float
) -> None:
    energy = _one_splat(640, kappa, numba_device)
    cosine = sample_langevin(energy, 2000, seed=1).x[:, 0].astype(np.float64)
    spread = np.sqrt(mean_cosine_derivative(639 * kappa, 640))
    bias = (cosine.mean() - mean_cosine(639 * kappa, 640)) / spread
    assert abs(bias) < 0.1 + 2 / np.sqrt(2000)
    assert cosine.std() / spread == pytest.approx(1, abs=3 / np.sqrt(2 * 2000) + 0.02)


def test_published_constants_leave_the_density(numba_device: KernelDevice) -> None:
    result = sample_langevin(_one_splat(16, 5.0, numba_device), 300, integrator="published")
    assert result.steps == 200
    assert _p_value(result.x, 5.0) < 1e-8


def test_baoab_reaches_the_density_from_elsewhere(numba_device: KernelDevice) -> None:
    energy = _one_splat(64, 5.0, numba_device)
    start = random_uniform(np.random.default_rng(0), 500, 64)
    x = sample_langevin(energy, start, n_steps=200, dt_omega=0.25, seed=1).x
    assert _p_value(x, 5.0) > 0.01


def test_velocities_are_thermal(numba_device: KernelDevice) -> None:
    energy = _one_splat(16, 5.0, numba_device)
    for steps, temperature in ((1, 1.0), (30, 1.0), (40, 0.25)):
        v = sample_langevin(energy, 800, n_steps=steps, temperature=temperature, dt_omega=0.1).v
        squared = np.sum(v.astype(np.float64) ** 2, axis=1) / temperature
        assert stats.kstest(squared, stats.chi2(15).cdf).pvalue > 0.01


def test_chains_stay_where_the_posterior_puts_them(numba_device: KernelDevice) -> None:
    """Splats too sharp to leave: Langevin occupies them as the exact draws that it starts from."""
    rng = np.random.default_rng(4)
    store = SplatStore.from_directions(
        random_uniform(rng, 6, 32), alpha=rng.uniform(0.2, 3, 6), kappa=20
    )
    energy = Energy(store, numba_device)
    h = 6 * random_uniform(rng, 1, 32)[0]
    result = sample_langevin(energy, 3000, h, n_steps=20, seed=5)
    np.testing.assert_array_equal(result.component, sample_exact(energy, 3000, h, seed=5).component)
    expected = 3000 * energy.posterior(h)[0].astype(np.float64)
    counts = np.bincount(result.component, minlength=6)
    assert stats.chisquare(counts, expected / expected.sum() * 3000).pvalue > 0.01


def test_tilted_chains_have_the_closed_form_mean(numba_device: KernelDevice) -> None:
    energy = Energy(_store(), numba_device)
    h = 10 * random_uniform(np.random.default_rng(3), 1, 24)[0]
    x = sample_langevin(energy, 3000, h, n_steps=40, dt_omega=0.2, seed=2).x.astype(np.float64)
    deviation = (x.mean(axis=0) - energy.mean(h)[0]) / (x.std(axis=0) / np.sqrt(len(x)))
    assert np.abs(deviation).max() < 4


@pytest.mark.parametrize("integrator", ["baoab", "published"])
@pytest.mark.parametrize("tilted", [False, True])
def test_devices_follow_the_same_trajectories(
    numba_device: KernelDevice, wgpu_device: KernelDevice, integrator: str, tilted: bool
) -> None:
    h = 6 * random_uniform(np.random.default_rng(3), 7, 24) if tilted else None
    arguments = {"integrator": integrator, "n_steps": 12, "seed": 2**40 + 9}
    one = sample_langevin(Energy(_store(), numba_device), 7, h, **arguments)
    two = sample_langevin(Energy(_store(), wgpu_device), 7, h, **arguments)
    np.testing.assert_array_equal(one.component, two.component)
    np.testing.assert_allclose(one.x, two.x, atol=5e-6)
    np.testing.assert_allclose(one.v, two.v, atol=2e-4)


@pytest.mark.parametrize("use_lists", [True, False])
@pytest.mark.parametrize("integrator", ["baoab", "published"])
def test_result_is_consistent(any_device: KernelDevice, use_lists: bool, integrator: str) -> None:
    energy = Energy(_store(), any_device, temperature=1.3)
    h = 6 * random_uniform(np.random.default_rng(3), 5, 24)
    start = 3 * random_uniform(np.random.default_rng(5), 5, 24)
    lists = use_lists if integrator == "baoab" else "auto"
    result = sample_langevin(
        energy, start, h, n_steps=9, integrator=integrator, use_lists=lists, dt_omega=0.2, seed=1
    )
    x = result.x.astype(np.float64)
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(np.sum(x * result.v, axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(result.energy, energy.value(result.x, h), atol=1e-4)
    np.testing.assert_array_equal(result.component, energy.heaviest(result.x))
    assert result.steps == 9
    assert np.abs(x - start / 3).max() > 1e-3


def test_same_seed_same_chain_whatever_runs_beside_it(any_device: KernelDevice) -> None:
    energy = Energy(_store(), any_device)
    many = sample_langevin(energy, 6, n_steps=10, seed=4)
    few = sample_langevin(energy, 2, n_steps=10, seed=4)
    np.testing.assert_array_equal(many.x[:2], few.x)
    other = sample_langevin(energy, 2, n_steps=10, seed=5)
    assert np.abs(other.x - few.x).max() > 1e-3


def test_energies_with_further_terms_are_sampled_in_full(numba_device: KernelDevice) -> None:
    """Rows that repel end further apart than rows that do not."""
    start = np.repeat(random_uniform(np.random.default_rng(1), 1, 24), 6, 0)
    cosines = []
    for weight in (1e-9, 300.0):
        term = GeometryTerm(weight, lambda_cover=0.0)
        energy = Energy(_store(), numba_device, geometry=term)
        nearby = start + 0.05 * np.random.default_rng(2).standard_normal(start.shape)
        x = sample_langevin(energy, nearby, n_steps=30, temperature=0.0).x
        cosines.append((x @ x.T)[np.triu_indices(6, 1)].mean())
    assert cosines[1] < cosines[0] - 0.1


@pytest.mark.parametrize(
    ("kappa", "expected"), [(1, 0.25), (2, 0.25), (3.5, 0.375), (5, 0.5), (50, 0.5)]
)
def test_step_follows_the_sharpest_splat(
    numba_device: KernelDevice, kappa: float, expected: float
) -> None:
    energy = _one_splat(24, kappa, numba_device)
    assert default_dt_omega(energy) == pytest.approx(expected)
    assert natural_frequency(energy) == pytest.approx(np.sqrt(23 * kappa))
    warm = Energy(energy.store, numba_device, temperature=100.0)
    assert natural_frequency(warm) == pytest.approx(np.sqrt(23))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"integrator": "verlet"}, "unknown integrator 'verlet'"),
        ({"n_steps": 0}, "n_steps = 0"),
        ({"dt_omega": 2.5}, "2.5 over the natural frequency"),
        ({"dt": -0.1}, "use between 0 and 2"),
        ({"gamma": -1.0}, "gamma = -1"),
        ({"temperature": np.inf}, "temperature = inf"),
        ({"list_eps": 0.0}, "list_eps = 0"),
        ({"list_size": 300}, "list_size = 300"),
        ({"use_lists": "yes"}, "use_lists = 'yes'"),
        ({"use_lists": True, "integrator": "published"}, "the integrator is 'published'"),
        ({"seed": -3}, "seed -3"),
        ({"start": np.zeros((2, 24))}, "start row 0 is zero"),
        ({"start": np.ones((2, 8))}, r"start has shape \(2, 8\)"),
        ({"start": 0}, "cannot draw 0"),
        ({"start": np.ones((2, 24)), "h": np.ones((3, 24))}, r"h has shape \(3, 24\)"),
    ],
)
def test_errors(numba_device: KernelDevice, arguments: dict, message: str) -> None:
    energy = Energy(_store(), numba_device)
    with pytest.raises(ConfigError, match=message):
        sample_langevin(energy, **{"start": 3, **arguments})


def test_lists_are_refused_where_they_prove_nothing(numba_device: KernelDevice) -> None:
    energy = Energy(_store(), numba_device, geometry=GeometryTerm(1.0))
    with pytest.raises(ConfigError, match="terms beside the mixture"):
        sample_langevin(energy, 3, use_lists=True)
