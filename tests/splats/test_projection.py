"""Directions on the plane: principal components against the singular value decomposition."""

import sys
import types

import numpy as np
import pytest

from ebm_wgpu.errors import ConfigError
from ebm_wgpu.sphere import projx, random_uniform
from ebm_wgpu.splats.projection import project


def test_principal_components_are_the_singular_vectors():
    rows = random_uniform(np.random.default_rng(0), 60, 12, np.float32)
    found = project(rows)
    centred = rows - rows.mean(axis=0, dtype=np.float64)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    expected = u[:, :2] * s[:2]
    signs = np.sign((expected * found.points).sum(axis=0))
    assert np.allclose(found.points, signs * expected, atol=1e-9)
    share = s[0] ** 2 / (s**2).sum()
    assert found.axes[0] == f"first principal component ({share:.1%} of variance)"


def test_what_lies_in_a_plane_keeps_its_distances():
    angles = np.linspace(0, 5, 20)
    rows = np.zeros((20, 9))
    rows[:, 3], rows[:, 6] = np.cos(angles), np.sin(angles)
    points = project(rows).points
    apart = np.linalg.norm(rows[:, None] - rows, axis=2)
    assert np.allclose(np.linalg.norm(points[:, None] - points, axis=2), apart, atol=1e-12)


def test_the_signs_do_not_depend_on_the_order():
    rows = random_uniform(np.random.default_rng(1), 40, 10)
    assert np.allclose(project(rows[::-1]).points[::-1], project(rows).points, atol=1e-9)


def test_equal_rows_lie_on_one_point():
    found = project(np.tile(projx(np.ones(8)), (4, 1)))
    assert np.allclose(found.points, 0)
    assert "0.0% of variance" in found.axes[0] or "100.0%" not in found.axes[1]


def test_too_few_rows_are_refused():
    with pytest.raises(ConfigError, match="a map of 2 directions: give at least 3"):
        project(np.eye(8)[:2])


def test_umap_is_asked_for_what_it_needs(monkeypatch):
    """UMAP is an optional extra; what it gets, and that its points are returned, is ours."""
    asked = {}

    class Umap:
        def __init__(self, **options):
            asked.update(options)

        def fit_transform(self, rows):
            return rows[:, :2] * 2

    module = types.ModuleType("umap")
    module.UMAP = Umap
    monkeypatch.setitem(sys.modules, "umap", module)
    rows = random_uniform(np.random.default_rng(0), 5, 8, np.float32)
    assert np.array_equal(project(rows, "umap", seed=3).points, 2 * rows[:, :2])
    assert asked["metric"] == "cosine"
    assert (asked["random_state"], asked["n_components"]) == (3, 2)


def test_umap_missing_is_one_line_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ConfigError, match=r'pip install "ebm-wgpu\[umap\]"'):
        project(np.eye(8), "umap")
