"""Composition: laws of the sum, the mean and the reflection."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebm_wgpu.composition import COMPOSERS, compose, negate
from ebm_wgpu.errors import ConfigError
from ebm_wgpu.sphere import dist, expmap, logmap, random_uniform

seeds = st.integers(0, 10_000)
dims = st.sampled_from([8, 33, 640])


def points(seed: int, dimension: int) -> np.ndarray:
    """Base, a and b."""
    return random_uniform(np.random.default_rng(seed), 3, dimension)


@given(seed=seeds, dimension=dims, share=st.floats(0, 1))
def test_the_geodesic_divides_the_angle_in_proportion(seed, dimension, share):
    base, a, b = points(seed, dimension)
    mixed = compose(a, b, base, method="geodesic", share=share)
    whole = dist(a, b)
    assert dist(a, mixed) == pytest.approx(share * whole, abs=1e-7)
    assert dist(mixed, b) == pytest.approx((1 - share) * whole, abs=1e-7)
    assert np.allclose(mixed, compose(b, a, base, method="geodesic", share=1 - share), atol=1e-9)


@given(seed=seeds, dimension=dims)
def test_the_sum_is_that_of_the_tangents(seed, dimension):
    base, a, b = points(seed, dimension)
    total = compose(a, b, base)
    assert np.allclose(total, expmap(base, logmap(base, a) + logmap(base, b)), atol=1e-9)
    assert np.allclose(total, compose(b, a, base), atol=1e-12)
    assert np.linalg.norm(total) == pytest.approx(1, abs=1e-12)


@given(seed=seeds, dimension=dims)
def test_the_base_is_neutral_and_the_negative_cancels(seed, dimension):
    base, a, _ = points(seed, dimension)
    assert np.allclose(compose(a, base, base), a, atol=1e-9)
    assert np.allclose(compose(a, negate(a, base), base), base, atol=1e-7)


@given(seed=seeds, dimension=dims)
def test_negation_is_a_reflection(seed, dimension):
    base, a, b = points(seed, dimension)
    assert np.allclose(negate(negate(a, base), base), a, atol=1e-12)
    assert np.allclose(negate(base, base), base, atol=1e-12)
    assert dist(negate(a, base), negate(b, base)) == pytest.approx(dist(a, b), abs=1e-9)
    assert np.allclose(negate(a, base), expmap(base, -logmap(base, a)), atol=1e-9)


@pytest.mark.parametrize("method", COMPOSERS)
def test_lengths_do_not_matter_and_rows_are_apart(method):
    base, a, b = points(1, 16)
    both = compose([3 * a, b], [b, a], 0.5 * base, method=method)
    assert np.allclose(both[0], compose(a, b, base, method=method))
    assert np.allclose(both[1], compose(b, a, base, method=method))


def test_bad_requests_are_refused():
    base, a, b = points(0, 8)
    with pytest.raises(
        ConfigError, match="unknown composition 'sum': use one of geodesic, tangent"
    ):
        compose(a, b, base, method="sum")
    with pytest.raises(ConfigError, match="share 2 of the second text"):
        compose(a, b, base, share=2)
    with pytest.raises(ConfigError, match="antipodal"):
        compose(a, -a, base, method="geodesic")


def test_a_map_of_its_own_is_given_unit_points_and_its_result_is_scaled():
    base, a, b = points(2, 16)
    seen = []

    def longer(m, x, y, share):
        seen.append((m, x, y, share))
        return 3 * (x + y)

    found = compose(2 * a, 5 * b, 7 * base, method=longer, share=0.25)
    assert np.allclose(found, (a + b) / np.linalg.norm(a + b), atol=1e-12)
    m, x, y, share = seen[0]
    assert share == 0.25
    assert np.allclose([m, x, y], [base, a, b], atol=1e-12)
