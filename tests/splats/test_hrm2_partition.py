"""Cells of the sphere: centres of planted clusters, halves of equal size, bounds that hold."""

import numpy as np

from ebm_wgpu.sphere import dist, random_uniform
from ebm_wgpu.splats.hrm2_partition import (
    angles_to_centres,
    building_products,
    cosine_bound,
    default_cells,
    direction,
    nearest_centre,
    spherical_kmeans,
    upper_half,
)
from ebm_wgpu.vmf import sample_vmf


def test_k_means_finds_planted_clusters():
    rng = np.random.default_rng(0)
    centres = np.eye(16)[:6]
    rows = sample_vmf(300 * np.repeat(centres, 40, axis=0), rng).astype(np.float32)
    found = spherical_kmeans(rows, 12, seed=0)
    assert found.shape == (12, 16)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    cell = nearest_centre(rows, found)
    assert np.array_equal(cell, np.argmax(rows.astype(float) @ found.T.astype(float), axis=1))
    cluster = np.repeat(np.arange(6), 40)
    assert all(np.unique(cluster[cell == c]).size <= 1 for c in range(12))
    assert np.array_equal(found, spherical_kmeans(rows, 12, seed=0))


def test_angles_are_exact_where_the_arc_cosine_is_not():
    rng = np.random.default_rng(1)
    centres = random_uniform(rng, 3, 8, np.float32)
    rows = np.concatenate([centres, -centres, random_uniform(rng, 10, 8, np.float32)])
    cell = np.arange(len(rows)) % 3
    expected = dist(rows.astype(float), centres[cell].astype(float))
    np.testing.assert_allclose(angles_to_centres(rows, centres, cell), expected, atol=2e-3)
    near = angles_to_centres(centres + np.float32(1e-5), centres, np.arange(3))
    np.testing.assert_allclose(near, 1e-5 * 8**0.5, rtol=1e-2)


def test_halves_have_equal_size_and_separate_two_clusters():
    rng = np.random.default_rng(2)
    rows = sample_vmf(500 * np.eye(8)[[0] * 30 + [1] * 30], rng).astype(np.float32)
    half = upper_half(rows)
    assert half.sum() == 30 and len(np.unique(half[:30])) == len(np.unique(half[30:])) == 1
    assert upper_half(rows[:7]).sum() == 4
    assert upper_half(np.tile(rows[:1], (9, 1))).sum() == 5


def test_a_vector_without_direction_is_replaced():
    other = np.eye(8, dtype=np.float32)[2]
    assert np.array_equal(direction(np.zeros(8), other), other)
    np.testing.assert_allclose(direction(np.full(8, 3.0), other), 8**-0.5, rtol=1e-6)


def test_the_bound_of_a_cell_holds_for_every_member():
    rng = np.random.default_rng(12)
    centre, members = random_uniform(rng, 1, 8), random_uniform(rng, 50, 8)
    queries = np.concatenate([random_uniform(rng, 200, 8), members, -members, centre, -centre])
    reach = np.arccos(members @ centre[0])
    for member, angle in zip(members, reach, strict=True):
        bound = cosine_bound((queries @ centre.T).astype(np.float32), np.array([angle]))[:, 0]
        assert (queries @ member <= bound + 1e-12).all()
        outside = np.arccos(np.clip(queries @ centre[0], -1, 1)) - angle
        exact = np.cos(np.maximum(outside, 0))
        assert (bound <= exact + 0.01).all()


def test_building_costs_k_means_and_one_assignment():
    assert default_cells(2500) == 200
    # All of them in eight rounds, while 64 a centre are more than there are.
    assert building_products(2500) == 9 * 2500 * 200
    assert building_products(1_000_000) == (8 * 64 * 4000 + 1_000_000) * 4000
