"""Recall and dropped mass of a search against sums over all splats."""

import numpy as np
import pytest

from ebm_wgpu.sphere import random_uniform
from ebm_wgpu.splats import SplatStore
from ebm_wgpu.splats.search import SearchResult, make_search
from ebm_wgpu.splats.search_quality import measure_search
from ebm_wgpu.vmf import log_z0


class Wrong:
    """A search that returns the nearest, but for the last place: the farthest."""

    def __init__(self, mu):
        self._mu = mu

    def search(self, queries, k):
        order = np.argsort(-(queries @ self._mu.T), axis=1, kind="stable")
        order = np.concatenate([order[:, : k - 1], order[:, -1:]], axis=1)
        return SearchResult(np.take_along_axis(queries @ self._mu.T, order, 1), order)


@pytest.fixture
def store():
    rng = np.random.default_rng(0)
    mu = random_uniform(rng, 300, 16)
    return SplatStore.from_directions(mu, alpha=rng.gamma(1, size=300) + 0.1, kappa=2)


def test_an_exact_search_drops_what_truncation_drops(store):
    search = make_search("flat")
    search.add(store.mu)
    queries = random_uniform(np.random.default_rng(1), 40, 16, np.float32)
    quality = measure_search(search, store, queries, 8)
    assert quality.recall == 1
    assert quality.recall_error == 0
    assert quality.dropped_mass == pytest.approx(quality.dropped_by_exact, rel=1e-6)
    assert 0 < quality.dropped_mass < quality.worst_dropped_mass < 1
    assert quality.directions == 300 and quality.neighbours == 8


def test_each_figure_is_what_it_says(store):
    queries = random_uniform(np.random.default_rng(2), 40, 16, np.float32)
    quality = measure_search(Wrong(store.mu), store, queries, 8)
    logs = store.log_pi + store.concentration * (queries.astype(float) @ store.mu.T)
    mass = np.exp(logs - log_z0(store.concentration, 16))
    mass /= mass.sum(axis=1, keepdims=True)
    order = np.argsort(-(queries @ store.mu.T), axis=1)
    kept = np.take_along_axis(mass, order[:, [*range(7), -1]], axis=1).sum(axis=1)
    assert quality.recall == pytest.approx(7 / 8)
    assert quality.dropped_mass == pytest.approx((1 - kept).mean(), rel=1e-4)
    assert quality.worst_dropped_mass == pytest.approx((1 - kept).max(), rel=1e-4)
    exact = np.take_along_axis(mass, order[:, :8], axis=1).sum(axis=1)
    assert quality.dropped_by_exact == pytest.approx((1 - exact).mean(), rel=1e-4)
    assert quality.products is None and quality.gain is None


def test_brute_force_counts_all_products(store, numba_device):
    search = make_search("brute", numba_device)
    search.add(store.mu)
    quality = measure_search(search, store, store.mu[:3], 5)
    assert quality.products == 300 and quality.gain == 1


def test_weights_of_another_kind_can_be_given(store):
    search = make_search("flat")
    search.add(store.mu)
    queries = random_uniform(np.random.default_rng(3), 40, 16, np.float32)
    flat = measure_search(search, store, queries, 8, lambda cosines: np.zeros_like(cosines))
    assert flat.dropped_mass == pytest.approx(292 / 300)
    sharp = measure_search(search, store, queries, 8, lambda cosines: 1e4 * cosines)
    assert sharp.dropped_mass < 1e-9 < flat.recall == 1
