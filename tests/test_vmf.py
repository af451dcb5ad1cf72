"""Von Mises-Fisher functions against mpmath's Bessel functions, and draws against their law."""

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ebm_wgpu.errors import ConfigError
from ebm_wgpu.sphere import random_uniform
from ebm_wgpu.vmf import (
    inverse_mean_cosine,
    log_z0,
    log_z0_ratio,
    mean_cosine,
    mean_cosine_derivative,
    mean_cosine_quick,
    sample_vmf,
    sample_vmf_cosine,
    vmf_cosine_cdf,
)

DIMENSIONS = (8, 9, 64, 127, 128, 640)
# The error of the Debye expansion at D = 128 and, from 640 on, float64 rounding.
LOG_Z0_ERROR = {8: 4e-12, 9: 4e-12, 64: 4e-11, 127: 4e-11, 128: 4e-11, 640: 2e-14}
MEAN_COSINE_ERROR = {8: 4e-15, 9: 4e-15, 64: 4e-15, 127: 1e-11, 128: 4e-11, 640: 4e-15}
CONCENTRATIONS = np.array([1e-3, 0.1, 1.0, 7.5, 63.0, 320.0, 639.0, 6390.0, 31950.0, 1e6])
concentrations = st.floats(0, 1e6)


def exact(k, d):
    """log Z0, A and dA/dk at 60 digits."""
    with mpmath.workdps(60):
        k, order = mpmath.mpf(float(k)), mpmath.mpf(d) / 2 - 1
        bessel = mpmath.besseli(order, k)
        log_normaliser = mpmath.loggamma(order + 1) + order * mpmath.log(2 / k) + mpmath.log(bessel)
        cosine = mpmath.besseli(order + 1, k) / bessel
        return log_normaliser, cosine, 1 - cosine**2 - (d - 1) * cosine / k


def relative(value, reference) -> float:
    with mpmath.workdps(60):
        return abs(float((mpmath.mpf(float(value)) - reference) / reference))


@pytest.mark.parametrize("d", DIMENSIONS)
def test_values_agree_with_mpmath(d):
    for k in CONCENTRATIONS:
        log_normaliser, cosine, derivative = exact(k, d)
        assert relative(log_z0(k, d), log_normaliser) <= LOG_Z0_ERROR[d]
        assert relative(mean_cosine(k, d), cosine) <= MEAN_COSINE_ERROR[d]
        # A' = 2 df/dq - f/q loses k/d digits where k is large.
        allowed = max(1e-10, 4e-16 * k / d)
        assert relative(mean_cosine_derivative(k, d), derivative) <= allowed


@pytest.mark.parametrize("d", [8, 64, 640])
@pytest.mark.parametrize("a", [0.0, 1e-3, 10.0, 639.0, 31950.0, 1e6])
def test_ratio_agrees_with_mpmath_however_small_the_change(d, a):
    for share in (-1.0, -0.5, -1e-6, 1e-13, 1e-6, 0.3, 100.0):
        delta = share * (a * a if a else 1.0)
        if a * a + delta < 0:
            continue
        with mpmath.workdps(60):
            end = mpmath.sqrt(mpmath.mpf(a) ** 2 + mpmath.mpf(delta))
            order = mpmath.mpf(d) / 2 - 1
            low, high = (
                mpmath.log(mpmath.hyp0f1(order + 1, k * k / 4)) for k in (mpmath.mpf(a), end)
            )
        assert relative(log_z0_ratio(a, delta, d), high - low) <= max(4 * LOG_Z0_ERROR[d], 1e-13)


@pytest.mark.parametrize("d", DIMENSIONS)
def test_zero_concentration_is_exact(d):
    assert log_z0(0.0, d) == 0
    assert mean_cosine(0.0, d) == mean_cosine_quick(0.0, d) == inverse_mean_cosine(0.0, d) == 0
    assert mean_cosine_derivative(0.0, d) == pytest.approx(1 / d, rel=1e-10)
    assert log_z0_ratio(5.0, 0.0, d) == 0


@given(k=st.floats(1e-3, 1e5), d=st.sampled_from(DIMENSIONS))
def test_mean_cosine_is_the_derivative_of_log_z0(k, d):
    step = 1e-3
    # The symmetric difference is right to (step^2/6) (third derivative / A) k^2 <= step^2.
    change = log_z0_ratio(k * (1 - step), 4 * step * k * k, d)
    assert change / (2 * step * k) == pytest.approx(mean_cosine(k, d), rel=2 * step**2)


@given(k=st.floats(1e-3, 1e5), d=st.sampled_from(DIMENSIONS))
def test_derivative_is_the_slope_of_the_mean_cosine(k, d):
    step = 1e-4
    change = mean_cosine(k * (1 + step), d) - mean_cosine(k * (1 - step), d)
    # Truncation 2 step^2, and the rounding of a difference of two numbers near A <= 1.
    rounding = 1e-15 / (2 * step * k)
    expected = pytest.approx(mean_cosine_derivative(k, d), rel=4 * step**2, abs=rounding)
    assert change / (2 * step * k) == expected


@given(k=concentrations, d=st.sampled_from(DIMENSIONS))
def test_inverse_returns_the_concentration(k, d):
    cosine = mean_cosine(k, d)
    # The cosine carries the roundings of the recurrence, which the inverse divides by dA/dk.
    conditioning = 4e-15 / mean_cosine_derivative(k, d)
    assert inverse_mean_cosine(cosine, d) == pytest.approx(k, rel=1e-12, abs=conditioning)


@pytest.mark.parametrize("d", [8, 640])
@pytest.mark.parametrize("gap", [1e-9, 1e-13, 2**-53])
def test_inverse_near_one_follows_its_limit(d, gap):
    cosine = 1 - gap
    # 1 - A = (d-1)/(2k) + O(1/k^2), and a rounding of the cosine is 1e-16 of the gap.
    limit = (d - 1) / (2 * (1 - cosine))
    assert inverse_mean_cosine(cosine, d) == pytest.approx(limit, rel=gap * d + 2e-15 / gap)


@given(a=concentrations, b=concentrations, d=st.sampled_from(DIMENSIONS))
def test_ratio_is_a_difference_and_mean_cosine_grows(a, b, d):
    difference = log_z0(b, d) - log_z0(a, d)
    scale = 1e-10 * max(abs(float(log_z0(a, d))), abs(float(log_z0(b, d)))) + 1e-300
    assert log_z0_ratio(a, b * b - a * a, d) == pytest.approx(difference, rel=1e-9, abs=scale)
    assert (mean_cosine(b, d) - mean_cosine(a, d)) * (b - a) >= 0
    assert 0 <= mean_cosine(a, d) < 1


@pytest.mark.parametrize("d", [8, 64, 640])
def test_quick_mean_cosine_is_within_its_stated_error(d):
    k = np.linspace(0, 20 * d, 5001)
    error = np.abs(mean_cosine_quick(k, d) - mean_cosine(k, d)).max()
    assert 0.2 / d < error < 0.25 / d
    quick = mean_cosine_quick(k, d)
    assert (d - 1) * quick / (1 - quick**2) == pytest.approx(k, rel=1e-12)


def test_shapes_and_types_are_kept():
    single = np.full((2, 3), 50, np.float32)
    for function in (log_z0, mean_cosine, mean_cosine_derivative, mean_cosine_quick):
        assert function(single, 64).dtype == np.float32
        assert function(single, 64).shape == (2, 3)
        assert function(single.astype(np.float64), 64).dtype == np.float64
    assert log_z0_ratio(single, single[:1], 64).dtype == np.float32
    assert log_z0_ratio(single, 1.0, 64).shape == (2, 3)
    assert inverse_mean_cosine(np.float32([0.5]), 64).dtype == np.float32


def test_ratio_takes_rounding_below_zero_as_zero():
    assert log_z0_ratio(10.0, -100.0 * (1 + 1e-9), 64) == -log_z0(10.0, 64)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: log_z0(-1.0, 8), "negative"),
        (lambda: log_z0(np.nan, 8), "not finite"),
        (lambda: mean_cosine([1.0, np.inf], 8), "not finite"),
        (lambda: log_z0(1.0, 7), "dimension 7 is below 8"),
        (lambda: log_z0_ratio(1.0, np.nan, 8), "delta is not finite"),
        (lambda: inverse_mean_cosine(1.0, 8), "0, 1"),
        (lambda: inverse_mean_cosine(-0.1, 8), "0, 1"),
        (lambda: sample_vmf(np.full((1, 8), np.nan), np.random.default_rng()), "not finite"),
    ],
)
def test_values_out_of_range_are_refused(call, message):
    with pytest.raises(ConfigError, match=message):
        call()


@pytest.mark.parametrize("d", [8, 64, 640])
def test_cdf_of_the_uniform_is_a_beta_distribution(d):
    t = np.linspace(-1, 1, 101)
    expected = stats.beta((d - 1) / 2, (d - 1) / 2).cdf((t + 1) / 2)
    assert vmf_cosine_cdf(t, 0.0, d) == pytest.approx(expected, abs=1e-13)


@pytest.mark.parametrize(
    ("d", "k"), [(8, 3.0), (8, 5e4), (64, 320.0), (640, 639.0), (640, 31950.0)]
)
def test_cdf_agrees_with_mpmath(d, k):
    centre, spread = mean_cosine(k, d), np.sqrt(mean_cosine_derivative(k, d))
    with mpmath.workdps(30):
        half = mpmath.mpf(d - 3) / 2
        peak = half * mpmath.log1p(-(mpmath.mpf(float(centre)) ** 2)) + k * float(centre)

        def density(t):
            return mpmath.exp(half * mpmath.log(1 - t * t) + k * t - peak)

        # The lower tail can be as heavy as exponential, so it needs more standard deviations.
        steps = (-40, -20, -10, -6, -4, -2, -1, 0, 1, 2, 4, 8, 14)
        knots = sorted({float(np.clip(centre + spread * step, -1, 1)) for step in steps})
        total = mpmath.quad(density, knots)
        for step in (-2, -1, 0, 1):
            upto = [knot for knot in knots if knot <= centre + spread * step]
            exact_value = float(mpmath.quad(density, upto) / total)
            assert vmf_cosine_cdf(upto[-1], k, d) == pytest.approx(exact_value, abs=1e-12)


@pytest.mark.parametrize("d", [8, 64, 640])
@pytest.mark.parametrize("kappa", [0.0, 0.3, 1.0, 5.0, 50.0, 1e4])
def test_cosines_follow_the_exact_marginal(d, kappa):
    k = kappa * (d - 1)
    draws = sample_vmf_cosine(np.full(4000, k), d, np.random.default_rng(12))
    assert stats.kstest(draws, lambda t: vmf_cosine_cdf(t, k, d)).pvalue > 0.01


@pytest.mark.parametrize("d", [8, 64, 640])
def test_draws_have_the_exact_marginal_and_an_isotropic_rest(d):
    rng = np.random.default_rng(1)
    mean, side = np.linalg.qr(rng.standard_normal((d, 2)))[0].T
    k = 2.0 * (d - 1)
    x = sample_vmf(np.tile(k * mean, (4000, 1)), rng)
    assert np.abs(np.linalg.norm(x, axis=1) - 1).max() < 1e-14
    assert stats.kstest(x @ mean, lambda t: vmf_cosine_cdf(t, k, d)).pvalue > 0.01
    # Given the cosine, the rest over its length is uniform on the sphere of one dimension less.
    rest = (x - (x @ mean)[:, None] * mean) @ side / np.sqrt(1 - (x @ mean) ** 2)
    uniform = stats.beta((d - 2) / 2, (d - 2) / 2)
    assert stats.kstest((rest + 1) / 2, uniform.cdf).pvalue > 0.01


def test_zero_parameters_draw_from_the_uniform():
    x = sample_vmf(np.zeros((5000, 8)), np.random.default_rng(2))
    for axis in (0, 3):
        assert stats.kstest((x[:, axis] + 1) / 2, stats.beta(3.5, 3.5).cdf).pvalue > 0.01


def test_mixed_concentrations_in_one_batch_keep_their_own_means():
    rng = np.random.default_rng(3)
    kappa = np.repeat([0.5, 3.0, 40.0], 3000)
    draws = sample_vmf_cosine((kappa * 63).reshape(3, 3000), 64, rng)
    for row, k in zip(draws, (31.5, 189.0, 2520.0), strict=True):
        error = np.sqrt(mean_cosine_derivative(k, 64) / 3000)
        assert abs(row.mean() - mean_cosine(k, 64)) < 4 * error


def test_draws_keep_shape_type_and_seed():
    eta = (30 * random_uniform(np.random.default_rng(4), 6, 16, np.float32)).reshape(2, 3, 16)
    first = sample_vmf(eta, np.random.default_rng(5))
    assert first.shape == eta.shape
    assert first.dtype == np.float32
    assert np.array_equal(first, sample_vmf(eta, np.random.default_rng(5)))
