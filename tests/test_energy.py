"""The energy against brute force in float64, its closed forms against Monte Carlo draws."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import logsumexp, softmax

from ebm_wgpu.config import EnergyConfig
from ebm_wgpu.energy import Energy
from ebm_wgpu.energy_terms import CompositionTerm, EntropyTerm, GeometryTerm
from ebm_wgpu.errors import ConfigError, EbmError
from ebm_wgpu.kernels import KernelDevice
from ebm_wgpu.sphere import proju, projx, random_uniform
from ebm_wgpu.splats import SplatStore
from ebm_wgpu.vmf import log_z0, sample_vmf

Array = NDArray[np.float64]
DRAWS = 400_000


def make_store(n: int, d: int, seed: int = 0, kappa: tuple[float, float] = (1, 3)) -> SplatStore:
    rng = np.random.default_rng(seed)
    return SplatStore.from_directions(
        random_uniform(rng, n, d),
        alpha=rng.uniform(0.5, 2, n),
        kappa=rng.uniform(*kappa, n),
        sid=rng.integers(0, 5, n),
    )


def exact_energy(energy: Energy, x: Array, h: Array) -> Array:
    """-log sum_k w_k exp(a_k (mu_k.x - 1)) - h.x/T over all splats, in float64."""
    mu = energy.store.mu.astype(np.float64)
    exponent = energy.log_weight + energy.concentration * (x @ mu.T - 1)
    return -logsumexp(exponent, axis=1) - x @ h / energy.temperature


def exact_log_mass(energy: Energy, h: Array) -> Array:
    """log W_k of one tilt in float64."""
    mu = energy.store.mu.astype(np.float64)
    eta = energy.concentration[:, None] * mu + h / energy.temperature
    radius = np.linalg.norm(eta, axis=1)
    return energy.log_weight - energy.concentration + log_z0(radius, mu.shape[1])


@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
def test_value_and_gradient_by_brute_force(any_device: KernelDevice, temperature: float) -> None:
    rng = np.random.default_rng(1)
    energy = Energy(make_store(40, 16), any_device, temperature=temperature)
    x = random_uniform(rng, 5, 16).astype(np.float32)
    h = 4 * random_uniform(rng, 1, 16)[0].astype(np.float32)
    value, gradient = energy.value_and_gradient(x, h)
    points, tilt = projx(x.astype(np.float64)), h.astype(np.float64)
    np.testing.assert_allclose(value, exact_energy(energy, points, tilt), rtol=1e-5, atol=1e-4)
    step = 1e-6
    for direction in proju(points[None], np.eye(16)[::5, None]):
        ahead = exact_energy(energy, projx(points + step * direction), tilt)
        behind = exact_energy(energy, projx(points - step * direction), tilt)
        slope = np.sum(gradient * direction, axis=1)
        np.testing.assert_allclose(slope, (ahead - behind) / (2 * step), rtol=1e-4, atol=2e-3)
    np.testing.assert_allclose(np.sum(gradient * x, axis=1), 0, atol=1e-4)


def test_device_arrays_stay_on_the_device(any_device: KernelDevice) -> None:
    rng = np.random.default_rng(2)
    energy = Energy(make_store(20, 16), any_device, temperature=2)
    x = random_uniform(rng, 3, 16).astype(np.float32)
    h = rng.standard_normal((3, 16)).astype(np.float32)
    value, gradient = energy.value_and_gradient(any_device.array(x), any_device.array(h))
    expected = energy.value_and_gradient(x, h)
    np.testing.assert_array_equal(value.numpy(), expected[0])
    np.testing.assert_array_equal(gradient.numpy(), expected[1])
    np.testing.assert_array_equal(energy.value(x, h), expected[0])
    np.testing.assert_array_equal(energy.gradient(x, h), expected[1])


@pytest.mark.parametrize(("d", "temperature"), [(8, 1.0), (8, 3.0), (12, 2.0)])
def test_log_partition_is_the_integral(
    numba_device: KernelDevice, d: int, temperature: float
) -> None:
    rng = np.random.default_rng(d)
    energy = Energy(make_store(6, d), numba_device, temperature=temperature)
    h = 3 * random_uniform(rng, 1, d)[0]
    weight = np.exp(-exact_energy(energy, random_uniform(rng, DRAWS, d), h))
    error = weight.std() / DRAWS**0.5
    assert error < 0.02 * weight.mean()
    assert abs(weight.mean() - np.exp(energy.log_partition(h)[0])) < 3 * error


def test_density_integrates_to_one(numba_device: KernelDevice) -> None:
    rng = np.random.default_rng(3)
    energy = Energy(make_store(5, 8), numba_device)
    h = 2 * random_uniform(rng, 1, 8)[0]
    density = np.exp(energy.log_density(random_uniform(rng, DRAWS, 8), h).astype(np.float64))
    assert abs(density.mean() - 1) < 3 * density.std() / DRAWS**0.5


def test_log_density_of_one_splat_is_von_mises_fisher(any_device: KernelDevice) -> None:
    rng = np.random.default_rng(4)
    store = make_store(1, 64)
    energy = Energy(store, any_device)
    a, mu = energy.concentration[0], store.mu[0].astype(np.float64)
    x = sample_vmf(np.tile(a * mu, (50, 1)), rng)
    np.testing.assert_allclose(energy.log_density(x), a * (x @ mu) - log_z0(a, 64), atol=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_closed_forms_in_float64(any_device: KernelDevice, temperature: float) -> None:
    rng = np.random.default_rng(5)
    energy = Energy(make_store(50, 32, kappa=(1, 10)), any_device, temperature=temperature)
    h = 8 * random_uniform(rng, 3, 32)
    log_mass = np.stack([exact_log_mass(energy, row) for row in h])
    np.testing.assert_allclose(energy.posterior(h), softmax(log_mass, axis=1), rtol=1e-4)
    np.testing.assert_allclose(energy.posterior(h).sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(energy.log_partition(h), logsumexp(log_mass, axis=1), atol=1e-4)
    step = 1e-5
    for column in range(0, 32, 7):
        move = step * np.eye(32)[column]
        ahead = np.array([logsumexp(exact_log_mass(energy, row + move)) for row in h])
        behind = np.array([logsumexp(exact_log_mass(energy, row - move)) for row in h])
        slope = temperature * (ahead - behind) / (2 * step)
        np.testing.assert_allclose(energy.mean(h)[:, column], slope, atol=2e-5)


def test_without_context_nothing_tilts(any_device: KernelDevice) -> None:
    energy = Energy(make_store(30, 24), any_device)
    np.testing.assert_allclose(energy.log_partition(), [0], atol=1e-6)
    np.testing.assert_allclose(energy.posterior()[0], np.exp(energy.store.log_pi), rtol=1e-5)


def test_temperature_limits(numba_device: KernelDevice) -> None:
    rng = np.random.default_rng(6)
    store = make_store(4, 16)
    x = random_uniform(rng, 10, 16).astype(np.float32)
    h = rng.standard_normal(16)
    hot = Energy(store, numba_device, temperature=1e7)
    np.testing.assert_allclose(hot.log_density(x, h), 0, atol=1e-5)
    cold = Energy(store, numba_device, temperature=1e-3)
    assert cold.mean(0.1 * store.mu[2])[0] @ store.mu[2] > 0.99
    assert np.all(cold.log_density(store.mu) > cold.log_density(x).max())


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_published_form_by_brute_force(any_device: KernelDevice, temperature: float) -> None:
    rng = np.random.default_rng(7)
    store = make_store(60, 16)
    energy = Energy(
        store, any_device, form="published", tau=0.2, n_neighbours=9, temperature=temperature
    )
    x = random_uniform(rng, 4, 16).astype(np.float32)
    cosine = x.astype(np.float64) @ store.mu.astype(np.float64).T
    alpha = store.alpha.astype(np.float64)
    nearest = np.argsort(-cosine, axis=1)[:, :9]
    terms = np.log(alpha) + alpha * (cosine - 1) / (0.2 * temperature)
    expected = -logsumexp(np.take_along_axis(terms, nearest, axis=1), axis=1)
    np.testing.assert_allclose(energy.value(x), expected, rtol=1e-5, atol=1e-5)
    assert not energy.is_mixture
    with pytest.raises(ConfigError, match="mixture over all splats"):
        energy.log_partition()


def test_published_form_over_all_splats_is_a_mixture(any_device: KernelDevice) -> None:
    rng = np.random.default_rng(8)
    energy = Energy(make_store(7, 8), any_device, form="published", n_neighbours=7)
    h = rng.standard_normal(8)
    assert energy.is_mixture
    weight = np.exp(-exact_energy(energy, random_uniform(rng, DRAWS, 8), h))
    error = weight.std() / DRAWS**0.5
    assert abs(weight.mean() - np.exp(energy.log_partition(h)[0])) < 3 * error


def test_token_readout_adds_up_splats_of_a_token(any_device: KernelDevice) -> None:
    rng = np.random.default_rng(9)
    energy = Energy(make_store(50, 16), any_device)
    h = 5 * random_uniform(rng, 2, 16)
    posterior, tokens = energy.posterior(h), energy.token_readout(h, 6)
    for token in range(6):
        of_token = posterior[:, energy.store.sid == token].astype(np.float64).sum(axis=1)
        np.testing.assert_allclose(tokens[:, token], of_token, rtol=1e-6)
    np.testing.assert_allclose(tokens.sum(axis=1), 1, atol=1e-6)
    with pytest.raises(ConfigError, match="the vocabulary ends at 2"):
        energy.token_readout(h, 3)


def test_heaviest(any_device: KernelDevice) -> None:
    store = make_store(40, 32, kappa=(5, 5))
    energy = Energy(store, any_device)
    np.testing.assert_array_equal(energy.heaviest(store.mu[[3, 17, 0]]), [3, 17, 0])


def test_further_terms_add_values_and_gradients(any_device: KernelDevice) -> None:
    rng = np.random.default_rng(10)
    store = make_store(30, 16)
    geometry = GeometryTerm(2.0, rho_min=0.9)
    composition = CompositionTerm(3.0, (1.0, -2.0, 0.5), 0.1)
    entropy = EntropyTerm(0.5, n_neighbours=5)
    whole = Energy(store, any_device, geometry=geometry, composition=composition, entropy=entropy)
    x = random_uniform(rng, 4, 16).astype(np.float32)
    near = np.argsort(-(x @ store.mu.T), axis=1)[:, :8]
    value, gradient = Energy(store, any_device).value_and_gradient(x)
    for term in (geometry, composition, entropy):
        more, slope = term.value_and_gradient(x, store, near[:, : term.n_neighbours])
        value, gradient = value + more, gradient + slope
    np.testing.assert_allclose(whole.value(x), value, rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(whole.gradient(x), gradient, rtol=1e-5, atol=1e-4)
    assert not whole.is_mixture
    for closed_form in (whole.log_partition, whole.mean):
        with pytest.raises(ConfigError, match="Langevin"):
            closed_form()
    with pytest.raises(ConfigError, match="Langevin"):
        whole.token_readout(None, 10)
    assert whole.posterior().shape == (1, 30)


def test_from_config(numba_device: KernelDevice) -> None:
    store = make_store(20, 8)
    plain = Energy.from_config(store, numba_device, EnergyConfig(temperature=2))
    assert plain.is_mixture and plain.temperature == 2
    config = EnergyConfig(form="published", n_neighbours=5, lambda_geom=1, lambda_comp=2)
    energy = Energy.from_config(store, numba_device, config)
    assert energy.geometry is not None and energy.geometry.weight == 1
    assert energy.composition is not None and energy.composition.weight == 2
    assert energy.entropy is None
    config = EnergyConfig(
        lambda_entropy=3, lambda_comp=1, pair_coefficients=(1, 2, 3), pair_bias=4, term_neighbours=5
    )
    energy = Energy.from_config(store, numba_device, config)
    assert energy.entropy == EntropyTerm(3, 5) and energy.geometry is None
    assert energy.composition == CompositionTerm(1, (1, 2, 3), 4, n_neighbours=5)
    assert not energy.is_mixture
    energy = Energy.from_config(
        store, numba_device, EnergyConfig(lambda_geom=1, sharpness=4, rho_min=0.5)
    )
    assert energy.geometry == GeometryTerm(1, rho_min=0.5, sharpness=4)
    energy = Energy.from_config(
        store, numba_device, EnergyConfig(form="published", n_neighbours=5, temperature=0.5)
    )
    np.testing.assert_allclose(energy.concentration, store.alpha / 0.05, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "other"}, "unknown energy form 'other'"),
        ({"temperature": 0.0}, "temperature = 0.0"),
        ({"tau": -1.0}, "tau = -1.0"),
        ({"form": "published", "n_neighbours": 6}, "n_neighbours = 6: use 1 to 5"),
        ({"geometry": GeometryTerm(1)}, "the geometric term = 8: use 1 to 5"),
    ],
)
def test_options_out_of_range(
    numba_device: KernelDevice, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Energy(make_store(5, 8), numba_device, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_tilts_that_do_not_fit(numba_device: KernelDevice) -> None:
    energy = Energy(make_store(5, 8), numba_device)
    x = energy.store.mu[:3]
    with pytest.raises(ConfigError, match=r"h has shape \(1, 7\)"):
        energy.posterior(np.zeros(7))
    with pytest.raises(ConfigError, match="h has 2 rows for 3 positions"):
        energy.value(x, np.zeros((2, 8)))
    with pytest.raises(EbmError, match="shape"):
        energy.value(x[:, :7])
