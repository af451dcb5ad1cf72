"""Mixtures that differ from row to row against float64 closed forms, and draws from them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import stats
from scipy.special import logsumexp, softmax

from ebm_wgpu.config import SamplerConfig
from ebm_wgpu.errors import ConfigError
from ebm_wgpu.kernels import KernelDevice
from ebm_wgpu.sampling.row_mixtures import RowMixtures, move_rows, sample_rows_exact
from ebm_wgpu.sphere import random_uniform
from ebm_wgpu.vmf import log_z0, log_z0_ratio, mean_cosine

G, R, K, D = 3, 4, 6, 16
A = 1.5 * (D - 1)
CAREFUL = SamplerConfig(n_steps=40, dt_omega=0.05)


def _rows(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Splats close enough to overlap, weights with gaps, tilts."""
    rng = np.random.default_rng(seed)
    mu = random_uniform(rng, 1, D) + 0.6 * random_uniform(rng, G * K, D)
    mu = (mu / np.linalg.norm(mu, axis=1, keepdims=True)).reshape(G, K, D)
    log_weight = rng.normal(0, 1, (G, R, K))
    log_weight[:, :, 1] = -np.inf
    log_weight[1, 2, 3:] = -np.inf
    h = 6 * random_uniform(rng, G * R, D)
    return tuple(v.astype(np.float32) for v in (mu, log_weight, h))  # type: ignore[return-value]


def _mixtures(device: KernelDevice) -> tuple[RowMixtures, np.ndarray]:
    mu, log_weight, h = _rows()
    return RowMixtures(mu, log_weight, A, device), h


def _reference_posterior() -> np.ndarray:
    mu, log_weight, h = (v.astype(np.float64) for v in _rows())
    h = h.reshape(G, R, 1, D)
    delta = 2 * A * (h * mu[:, None]).sum(-1) + (h**2).sum(-1)
    return softmax(log_weight + log_z0_ratio(A, delta, D), axis=-1)


def test_posteriors_are_the_closed_forms(any_device: KernelDevice) -> None:
    mixtures, h = _mixtures(any_device)
    np.testing.assert_allclose(mixtures.posterior(h), _reference_posterior(), atol=2e-6)
    mu, log_weight, _ = (v.astype(np.float64) for v in _rows())
    x = random_uniform(np.random.default_rng(1), G * R, D).astype(np.float32)
    cosine = np.einsum("grd,gkd->grk", x.reshape(G, R, D).astype(np.float64), mu)
    expected = softmax(log_weight + A * cosine, axis=-1)
    np.testing.assert_allclose(mixtures.memberships(x), expected, atol=5e-6)
    assert (mixtures.memberships(x)[:, :, 1] == 0).all()


def test_energies_and_gradients_are_those_of_each_row(numba_device: KernelDevice) -> None:
    mixtures, h = _mixtures(numba_device)
    mu, log_weight, _ = (v.astype(np.float64) for v in _rows())
    x = random_uniform(np.random.default_rng(1), G * R, D).astype(np.float32)
    value, gradient = mixtures.value_and_gradient(x, h)

    def energy(row: int, point: np.ndarray) -> float:
        g, r = divmod(row, R)
        log_w = log_weight[g, r] + A - log_z0(A, D)
        return float(-logsumexp(log_w + A * (mu[g] @ point - 1)) - h[row] @ point)

    for row in range(G * R):
        point = x[row].astype(np.float64)
        assert value[row] == pytest.approx(energy(row, point), abs=2e-5)
        step = 1e-5 * np.eye(D)
        slope = np.array([energy(row, point + s) - energy(row, point - s) for s in step]) / 2e-5
        np.testing.assert_allclose(gradient[row], slope - (slope @ point) * point, atol=1e-4)


def _many(device: KernelDevice, count: int) -> tuple[RowMixtures, np.ndarray, np.ndarray]:
    """One row of `_rows`, `count` times, and its posterior."""
    mu, log_weight, h = _rows()
    weight = np.repeat(log_weight[:1, :1], count, axis=1)
    mixtures = RowMixtures(mu[:1], weight, A, device)
    return mixtures, np.repeat(h[:1], count, axis=0), _reference_posterior()[0, 0]


@pytest.mark.parametrize("moved", [False, True])
def test_what_draws_are_read_as_has_the_posterior_as_its_mean(
    numba_device: KernelDevice, moved: bool
) -> None:
    """The mean of p(k|x) is p(k|c), and that of x the closed form, within 4 standard errors."""
    mixtures, h, p = _many(numba_device, 4000)
    chain = np.arange(4000, dtype=np.int32)
    start = sample_rows_exact(mixtures, mixtures.posterior(h), h, chain, 7).x
    x = move_rows(mixtures, start, h, chain, 7, CAREFUL) if moved else start
    assert (np.linalg.norm(x - start, axis=1).min() > 0.1) == moved
    read = mixtures.memberships(x)[0]
    assert 0.05 < read.std(0).max() < 0.45
    seen = p > 0
    error = (read.mean(0) - p)[seen] / (read.std(0)[seen] / np.sqrt(4000))
    assert np.abs(error).max() < 4
    eta = A * mixtures.mu[0].astype(np.float64) + h[0]
    length = np.linalg.norm(eta, axis=1)
    mean = (p * mean_cosine(length, D) / length) @ eta
    deviation = (x.mean(0, dtype=np.float64) - mean) / (x.std(0) / np.sqrt(4000))
    assert np.abs(deviation).max() < 4


def test_chains_and_draws_depend_on_their_own_numbers_alone(numba_device: KernelDevice) -> None:
    mixtures, h = _mixtures(numba_device)
    chain = np.arange(50, 50 + G * R, dtype=np.int32)
    x = sample_rows_exact(mixtures, mixtures.posterior(h), h, chain, 3).x
    moved = move_rows(mixtures, x, h, chain, 3, SamplerConfig(n_steps=5))
    mu, log_weight, _ = _rows()
    alone = RowMixtures(mu[1:2], log_weight[1:2, 2:3], A, numba_device)
    row = slice(R + 2, R + 3)
    x_alone = sample_rows_exact(alone, alone.posterior(h[row]), h[row], chain[row], 3).x
    np.testing.assert_allclose(x_alone, x[row], atol=1e-6)
    moved_alone = move_rows(alone, x_alone, h[row], chain[row], 3, SamplerConfig(n_steps=5))
    np.testing.assert_allclose(moved_alone, moved[row], atol=1e-5)
    other = sample_rows_exact(mixtures, mixtures.posterior(h), h, chain, 4).x
    assert np.abs(other - x).max() > 0.1


def test_draws_of_some_splats_come_from_those(numba_device: KernelDevice) -> None:
    mixtures, h, p = _many(numba_device, 2000)
    chain = np.arange(2000, dtype=np.int32)
    only = np.zeros_like(mixtures.log_weight)
    only[..., 4] = 0.2
    draws = sample_rows_exact(mixtures, only, h, chain, 1)
    assert (draws.component == 4).all()
    x = draws.x.astype(np.float64)
    eta = A * mixtures.mu[0, 4].astype(np.float64) + h[0]
    length = np.linalg.norm(eta)
    cosine = x @ eta / length
    error = (cosine.mean() - mean_cosine(length, D)) / (cosine.std() / np.sqrt(2000))
    assert abs(error) < 4
    assert stats.skew(cosine) < 0
    assert mixtures.memberships(x.astype(np.float32))[0, :, 4].mean() > p[4]


def test_the_published_integrator_keeps_its_constants(numba_device: KernelDevice) -> None:
    """A fifth of a step of .001 from rest moves a chain by about half a gradient times 1e-6."""
    mixtures, h = _mixtures(numba_device)
    chain = np.arange(G * R, dtype=np.int32)
    x = random_uniform(np.random.default_rng(1), G * R, D).astype(np.float32)
    sampler = dataclasses.replace(
        SamplerConfig(integrator="published"), published_steps=1, published_temperature=0.0
    )
    moved = move_rows(mixtures, x, h, chain, 0, sampler)
    gradient = mixtures.value_and_gradient(x, h)[1]
    np.testing.assert_allclose(moved - x, -0.5e-6 * gradient, atol=3e-7)


def test_a_row_that_sees_nothing_is_an_error(numba_device: KernelDevice) -> None:
    mu, log_weight, _ = _rows()
    log_weight[1, 3] = -np.inf
    with pytest.raises(ConfigError, match="row 7 sees no splat: leave such rows out"):
        RowMixtures(mu, log_weight, A, numba_device)
