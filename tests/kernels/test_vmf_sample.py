"""Draws follow the von Mises-Fisher law in cosine and direction, at every concentration."""

import numpy as np
import pytest
from scipy import stats

from ebm_wgpu.errors import KernelError
from ebm_wgpu.kernels import KernelDevice, get_kernel
from ebm_wgpu.kernels.spec import Case
from ebm_wgpu.kernels.verify import _case_inputs
from ebm_wgpu.kernels.vmf_sample import reference_angle
from ebm_wgpu.sphere import random_uniform
from ebm_wgpu.vmf import mean_cosine, vmf_cosine_cdf

ROWS = 3000
LAWS = [(d, kappa) for d in (8, 64, 640) for kappa in (0.0, 0.02, 1.0, 10.0, 50.0)]


def _draw(device: KernelDevice, mean: np.ndarray, k: float, rows: int, step: int) -> np.ndarray:
    eta = np.repeat((k * mean)[None], rows, axis=0).astype(np.float32)
    chain = np.arange(rows, dtype=np.int32)
    out = device.run("vmf_sample", eta=eta, chain=chain, seed=2024, step=step)["out"]
    return out.numpy().astype(np.float64)


@pytest.mark.parametrize(("d", "kappa"), LAWS)
def test_cosine_follows_the_exact_law(d: int, kappa: float, numba_device: KernelDevice) -> None:
    rng = np.random.default_rng(d)
    k = kappa * (d - 1)
    mean = random_uniform(rng, 1, d)[0]
    x = _draw(numba_device, mean, k, ROWS, step=int(100 * kappa))
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, rtol=0, atol=1e-6)
    cosine = x @ mean
    assert stats.kstest(cosine, lambda t: vmf_cosine_cdf(t, k, d)).pvalue > 0.01
    error = cosine.std() / np.sqrt(ROWS)
    assert abs(cosine.mean() - float(mean_cosine(k, d))) < 3.5 * error


@pytest.mark.parametrize("kappa", [0.5, 5.0])
def test_cosine_follows_the_exact_law_on_wgpu(kappa: float, wgpu_device: KernelDevice) -> None:
    mean = random_uniform(np.random.default_rng(1), 1, 64)[0]
    cosine = _draw(wgpu_device, mean, 63 * kappa, 500, step=9) @ mean
    assert stats.kstest(cosine, lambda t: vmf_cosine_cdf(t, 63 * kappa, 64)).pvalue > 0.01


@pytest.mark.parametrize("d", [8, 64])
def test_largest_concentration_keeps_its_spread(d: int, numba_device: KernelDevice) -> None:
    """At |eta| = 1e6, sin^2 is about chi-square / |eta|: the digits that 1 - cosine would lose."""
    mean = np.zeros(d)
    mean[1] = 1.0
    x = _draw(numba_device, mean, 1e6, ROWS, step=4)
    across = np.delete(x, 1, axis=1)
    assert stats.kstest(1e6 * np.sum(across**2, axis=1), stats.chi2(d - 1).cdf).pvalue > 0.01


@pytest.mark.parametrize("d", [8, 64, 640])
def test_tangent_direction_is_uniform(d: int, numba_device: KernelDevice) -> None:
    rng = np.random.default_rng(d)
    mean, other = random_uniform(rng, 2, d)
    probe = other - (other @ mean) * mean
    probe /= np.linalg.norm(probe)
    x = _draw(numba_device, mean, 2.0 * d, ROWS, step=7)
    across = x - (x @ mean)[:, None] * mean
    cosine = (across @ probe) / np.linalg.norm(across, axis=1)
    # A coordinate t of a uniform point of S^{d-2}: (1+t)/2 is beta with both parameters (d-2)/2.
    law = stats.beta((d - 2) / 2, (d - 2) / 2)
    assert stats.kstest((1 + cosine) / 2, law.cdf).pvalue > 0.01


def test_zero_gives_the_uniform(numba_device: KernelDevice) -> None:
    x = _draw(numba_device, np.zeros(8), 0.0, ROWS, step=5)
    for axis in range(8):
        law = stats.beta(3.5, 3.5)
        assert stats.kstest((1 + x[:, axis]) / 2, law.cdf).pvalue > 0.001
    # n d |mean|^2 of n uniform points is about chi-square with d degrees of freedom.
    assert stats.chi2(8).sf(ROWS * 8 * np.sum(x.mean(axis=0) ** 2)) > 0.01


def test_draws_belong_to_chain_and_step(any_device: KernelDevice) -> None:
    eta = np.full((4, 12), 3.0, np.float32)
    draws = [
        any_device.run("vmf_sample", eta=eta, chain=chain, seed=1, step=step)["out"].numpy()
        for chain, step in (([0, 1, 1, 2], 0), ([1, 0, 2, 1], 0), ([0, 1, 1, 2], 1))
    ]
    np.testing.assert_array_equal(draws[0][1], draws[0][2])
    np.testing.assert_array_equal(draws[0][[1, 0, 3, 1]], draws[1])
    assert not np.isclose(draws[0], draws[2]).any()


@pytest.mark.parametrize("case", get_kernel("vmf_sample").cases, ids=lambda case: case.name)
def test_no_case_stands_on_the_threshold(case: Case) -> None:
    """Parity is only meaningful where float32 cannot turn an acceptance around."""
    inputs = _case_inputs(get_kernel("vmf_sample"), case, frozenset())
    k = np.linalg.norm(inputs["eta"].astype(np.float64), axis=1)
    d, seed, step = case.dims["D"], int(case.params["seed"]), int(case.params["step"])
    *_, margin = reference_angle(np.where(k < 1e-18, 0, k), d, inputs["chain"], seed, step)
    assert margin.min() > 1e-4


def test_small_dimension_is_refused(numba_device: KernelDevice) -> None:
    with pytest.raises(KernelError, match="dimension 7 is below 8"):
        numba_device.run("vmf_sample", eta=np.ones((1, 7)), chain=[0], seed=0, step=0)
