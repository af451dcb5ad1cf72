"""Energies along great circles, against densities computed point by point."""

import numpy as np
import pytest

from ebm_wgpu.energy import Energy
from ebm_wgpu.errors import ConfigError
from ebm_wgpu.landscape import energy_between, great_circle
from ebm_wgpu.sphere import dist, random_uniform
from ebm_wgpu.splats import SplatStore


def test_the_circle_passes_both_points_at_even_speed():
    a, b = random_uniform(np.random.default_rng(0), 2, 20)
    separation = float(dist(a, b))
    steps = np.linspace(0, 2 * np.pi, 9)
    x = great_circle(3 * a, b, [0, separation, *steps])
    assert np.allclose(x[:2], [a, b], atol=1e-12)
    assert np.allclose(dist(x[2:-1], x[3:]), steps[1], atol=1e-12)
    assert np.linalg.matrix_rank(np.stack([*x, a, b]), tol=1e-9) == 2


@pytest.mark.parametrize(("other", "message"), [(1.0, "two points are one"), (-1.0, "antipodal")])
def test_points_that_fix_no_circle_are_refused(other, message):
    a = random_uniform(np.random.default_rng(0), 1, 20)[0]
    with pytest.raises(ConfigError, match=message):
        great_circle(a, other * a, [0.1])


def test_energies_are_minus_the_log_densities(numba_device):
    rng = np.random.default_rng(1)
    store = SplatStore.from_directions(
        random_uniform(rng, 12, 10), kappa=rng.uniform(1, 4, 12), alpha=rng.uniform(0.5, 2, 12)
    )
    energy = Energy(store, numba_device, temperature=1.5)
    a, b = store.mu[3], store.mu[8]
    tilts = 4 * random_uniform(rng, 2, 10)
    found = energy_between(energy, a, b, *tilts, points=15, margin=20)
    assert found.separation == pytest.approx(np.degrees(np.arccos(a.astype(float) @ b)), abs=1e-4)
    assert found.angle[0] == -20
    assert found.angle[-1] == pytest.approx(found.separation + 20)
    x = great_circle(a, b, np.radians(found.angle))
    k, mu = energy.concentration, store.mu.astype(np.float64)
    terms = energy.log_weight + k * (x @ mu.T - 1)
    free = np.logaddexp.reduce(terms, axis=1)
    assert np.allclose(found.free, -free, atol=1e-4)
    assert np.array_equal(found.splat, terms.argmax(axis=1))
    assert found.splat[np.abs(found.angle).argmin()] == 3
    for curve, tilt in ((found.from_a, tilts[0]), (found.from_b, tilts[1])):
        expected = -(free + x @ tilt / 1.5) + float(energy.log_partition(tilt)[0])
        assert np.allclose(curve, expected, atol=1e-4)
