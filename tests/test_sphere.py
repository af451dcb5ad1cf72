"""The laws of the sphere, over dimensions and types, and its values at the edges."""

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebm_wgpu.errors import ConfigError
from ebm_wgpu.sphere import (
    dist,
    expmap,
    inner,
    logmap,
    proju,
    projx,
    random_tangent,
    random_uniform,
    transp,
)

DIMENSIONS = (8, 64, 640)
DTYPES = (np.float32, np.float64)
SPACES = [(d, dtype) for d in DIMENSIONS for dtype in DTYPES]
spaces = pytest.mark.parametrize(("d", "dtype"), SPACES)
lengths = st.floats(1e-6, 3.1)
seeds = st.integers(0, 2**32 - 1)


def rounding(dtype: type, factor: float = 16) -> float:
    """A few machine epsilons: the sums of pairwise summation, a rounding or two a step."""
    return factor * float(np.finfo(dtype).eps)


def pair_at(seed: int, d: int, dtype: type, angle: float):
    """A point and a tangent of the given length there, exact in float64 before rounding."""
    rng = np.random.default_rng(seed)
    x = random_uniform(rng, 5, d)
    v = proju(x, random_tangent(rng, x))
    v *= angle / np.linalg.norm(v, axis=1, keepdims=True)
    return x.astype(dtype), v.astype(dtype)


@spaces
@given(seed=seeds, angle=lengths)
def test_exp_and_log_are_inverse(d, dtype, seed, angle):
    x, v = pair_at(seed, d, dtype, angle)
    back = logmap(x, expmap(x, v))
    # Rounding of the end point turns the direction by eps / sin(angle).
    scale = angle * rounding(dtype) / max(np.sin(angle), 0.04) + rounding(dtype)
    assert np.linalg.norm(back - v, axis=1).max() <= scale
    assert back.dtype == dtype


@spaces
@given(seed=seeds, angle=lengths)
def test_exp_stays_on_the_sphere_at_the_distance_of_its_argument(d, dtype, seed, angle):
    x, v = pair_at(seed, d, dtype, angle)
    y = expmap(x, v)
    assert np.abs(np.linalg.norm(y, axis=1) - 1).max() <= rounding(dtype)
    assert np.abs(dist(x, y) - angle).max() <= rounding(dtype)
    assert y.dtype == dist(x, y).dtype == dtype


@spaces
@given(seed=seeds, angle=st.floats(0, 3.1))
def test_transport_is_an_isometry_between_tangent_spaces(d, dtype, seed, angle):
    x, v = pair_at(seed, d, dtype, angle)
    y = expmap(x, v)
    rng = np.random.default_rng(seed + 1)
    a, b = random_tangent(rng, x) / np.sqrt(d).astype(dtype), random_tangent(rng, x)
    b /= np.sqrt(d).astype(dtype)
    moved_a, moved_b = transp(x, y, a), transp(x, y, b)
    # Rounding of the end points weighs 1 / |x+y| near the antipode, where |x+y| >= 0.04.
    scale = rounding(dtype, 64) / max(np.cos(angle / 2), 0.02)
    assert np.abs(inner(moved_a, y)).max() <= scale
    assert np.abs(inner(moved_a, moved_b) - inner(a, b)).max() <= scale
    assert np.abs(transp(y, x, moved_a) - a).max() <= scale
    assert moved_a.dtype == dtype


@spaces
@given(seed=seeds, angle=lengths)
def test_transport_carries_the_direction_of_the_geodesic(d, dtype, seed, angle):
    x, v = pair_at(seed, d, dtype, angle)
    y = expmap(x, v)
    scale = rounding(dtype) * (1 + angle / max(np.sin(angle), 0.04))
    assert np.linalg.norm(transp(x, y, v) + logmap(y, x), axis=1).max() <= 4 * scale


@spaces
@given(seed=seeds)
def test_projections_are_idempotent(d, dtype, seed):
    rng = np.random.default_rng(seed)
    raw, g = rng.standard_normal((2, 5, d)).astype(dtype)
    x = projx(raw)
    tangent = proju(x, g)
    assert np.abs(np.linalg.norm(x, axis=1) - 1).max() <= rounding(dtype, 4)
    assert np.abs(projx(x) - x).max() <= rounding(dtype, 4)
    assert np.abs(inner(x, tangent)).max() <= rounding(dtype) * np.sqrt(d)
    assert np.abs(proju(x, tangent) - tangent).max() <= rounding(dtype) * np.sqrt(d)


@spaces
@given(seed=seeds)
def test_distance_is_a_metric(d, dtype, seed):
    x, y, z = random_uniform(np.random.default_rng(seed), 3, d, dtype)
    assert dist(x, y) == dist(y, x)
    assert dist(x, x) == 0
    assert dist(x, z) <= dist(x, y) + dist(y, z) + rounding(dtype)
    assert dist(x, -x) == pytest.approx(np.pi, abs=rounding(dtype, 1))


@pytest.mark.parametrize("d", DIMENSIONS)
@pytest.mark.parametrize("angle", [1e-15, 1e-9, 1e-4, 1.0, np.pi - 1e-4, np.pi - 1e-9])
def test_distance_keeps_its_digits_at_both_ends(d, angle):
    x, y = np.zeros((2, d))
    x[0] = 1
    y[0], y[1] = np.cos(angle), np.sin(angle)
    with mpmath.workdps(50):
        exact = mpmath.atan2(mpmath.mpf(float(y[1])), mpmath.mpf(float(y[0])))
        assert abs(float(mpmath.mpf(float(dist(x, y))) / exact - 1)) <= 4e-16


def test_zero_tangents_and_equal_points_are_exact():
    x = random_uniform(np.random.default_rng(0), 3, 64)
    zero = np.zeros_like(x)
    assert np.array_equal(expmap(x, zero), x)
    assert np.array_equal(logmap(x, x), zero)
    v = random_tangent(np.random.default_rng(1), x)
    assert transp(x, x, v) == pytest.approx(v, abs=1e-14)


def test_the_smallest_tangents_move_by_themselves():
    x = np.eye(8)[0]
    v = np.eye(8)[1] * 1e-200
    assert np.array_equal(expmap(x, v), x + v)
    assert logmap(x, expmap(x, np.eye(8)[1] * 1e-12))[1] == pytest.approx(1e-12, rel=1e-15)


def test_verbs_broadcast_over_leading_axes():
    rng = np.random.default_rng(3)
    x = random_uniform(rng, 6, 8).reshape(2, 3, 8)
    y = random_uniform(rng, 1, 8)[0]
    assert dist(x, y).shape == inner(x, y).shape == (2, 3)
    assert inner(x, y, keepdims=True).shape == (2, 3, 1)
    assert expmap(x, logmap(x, y)) == pytest.approx(np.broadcast_to(y, x.shape), abs=1e-14)
    assert transp(x, y, proju(x, y)).shape == projx(x).shape == (2, 3, 8)


@pytest.mark.parametrize("dtype", DTYPES)
def test_antipodes_have_no_logarithm_and_no_transport(dtype):
    x = random_uniform(np.random.default_rng(4), 3, 64, dtype)
    y = x.copy()
    y[1] = -x[1]
    with pytest.raises(ConfigError, match=r"logmap: pair \(1,\) is antipodal"):
        logmap(x, y)
    with pytest.raises(ConfigError, match=r"transp: pair \(1,\) is antipodal"):
        transp(x, y, x)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_rows_without_direction_are_refused(value):
    x = np.ones((2, 3, 8))
    x[1, 2] = value
    with pytest.raises(ConfigError, match=r"projx: row \(1, 2\)"):
        projx(x)


def test_extreme_lengths_are_normalised():
    x = np.ones((1, 16), np.float32)
    for scale in (1e-30, 1e30):
        assert projx(x * np.float32(scale)) == pytest.approx(x / 4, rel=1e-6)


def test_mixed_and_integer_inputs_become_float64():
    single = random_uniform(np.random.default_rng(5), 1, 8, np.float32)
    assert proju(single, np.ones((1, 8))).dtype == np.float64
    assert projx(np.arange(8)).dtype == np.float64


@pytest.mark.parametrize("d", DIMENSIONS)
def test_random_points_and_tangents_have_the_right_moments(d):
    rng = np.random.default_rng(6)
    n = 20_000 if d < 640 else 4_000
    x = random_uniform(rng, n, d)
    v = random_tangent(rng, x)
    # Four standard errors: E[x_0^2] = 1/d, Var = 2(d-1)/(d^2(d+2)); |v|^2 is chi-square(d-1).
    spread = np.sqrt(2 * (d - 1) / (d**2 * (d + 2)) / n)
    assert abs((x[:, 0] ** 2).mean() - 1 / d) < 4 * spread
    assert abs(x[:, 1].mean()) < 4 / np.sqrt(d * n)
    assert abs((v**2).sum(axis=1).mean() - (d - 1)) < 4 * np.sqrt(2 * (d - 1) / n)
    assert np.abs(inner(x, v)).max() < 1e-12
