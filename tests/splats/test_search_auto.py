"""The automatic choice of a search: the index where it pays and directions have structure."""

import numpy as np
import pytest

from ebm_wgpu.sphere import random_uniform
from ebm_wgpu.splats import search_auto
from ebm_wgpu.splats.hrm2 import Hrm2Search
from ebm_wgpu.splats.hrm2_partition import building_products
from ebm_wgpu.splats.search import BruteForceSearch, make_search
from ebm_wgpu.splats.search_auto import AutoSearch
from ebm_wgpu.vmf import sample_vmf


@pytest.fixture
def planted():
    """6000 directions in 120 clusters, and queries."""
    rng = np.random.default_rng(11)
    centres = random_uniform(rng, 120, 32)
    mu = sample_vmf(200 * np.resize(centres, (6000, 32)), rng).astype(np.float32)
    return mu, sample_vmf(200 * np.resize(centres, (3000, 32)), rng).astype(np.float32)


def ask(search, queries, k=16):
    """Search until as many products were spent as an index costs."""
    per_query = len(search)
    needed = -(-building_products(len(search)) // per_query)
    for start in range(0, needed, 500):
        search.search(np.resize(queries, (min(500, needed - start), queries.shape[1])), k)


def test_the_index_is_made_when_queries_have_cost_as_much(numba_device, monkeypatch, planted):
    monkeypatch.setattr(AutoSearch, "LEAST_FOR_HRM2", 2000)
    mu, queries = planted
    search = make_search("auto", numba_device)
    search.add(mu[:1500])
    ask(search, queries)
    assert isinstance(search.current, BruteForceSearch)
    search.add(mu[1500:5000])
    enough = -(-building_products(5000) // 5000)
    search.search(np.resize(queries, (enough - 1, 32)), 16)
    assert isinstance(search.current, BruteForceSearch)
    search.search(queries[:1], 16)
    assert isinstance(search.current, Hrm2Search)
    assert search.current.tuning.recall >= 0.99
    search.add(mu[5000:])
    assert len(search) == 6000
    expected = np.argsort(-(queries[:200] @ mu.T), axis=1)[:, :16]
    found = search.search(queries[:200], 16)
    recalls = [np.isin(f, e).mean() for f, e in zip(found.indices, expected, strict=True)]
    assert np.mean(recalls) > 0.97
    assert found.products < 6000 / AutoSearch.LEAST_GAIN


def test_noise_is_searched_by_brute_force_and_tried_again_at_twice_as_many(
    numba_device, monkeypatch
):
    monkeypatch.setattr(AutoSearch, "LEAST_FOR_HRM2", 500)
    tried = []

    class Watched(Hrm2Search):
        def tune(self, *arguments):
            tried.append(len(self))
            return super().tune(*arguments)

    monkeypatch.setattr(search_auto, "Hrm2Search", Watched)
    search = make_search("auto", numba_device)
    rng = np.random.default_rng(12)
    for rows in (600, 300, 400):
        search.add(random_uniform(rng, rows, 128, np.float32))
        ask(search, random_uniform(rng, 50, 128, np.float32))
        assert isinstance(search.current, BruteForceSearch)
    assert tried == [600, 1300]
    assert search.search(search.current.mu[:3], 1).indices.tolist() == [[0], [1], [2]]


def test_the_index_is_tuned_on_a_sample_of_all_queries(numba_device, monkeypatch):
    monkeypatch.setattr(search_auto, "_SAMPLE", 20)
    rng = np.random.default_rng(13)
    search = AutoSearch(numba_device)
    search._attempt = 0
    search.add(random_uniform(rng, 100, 8, np.float32))
    # Half of the queries have a first entry above zero.
    queries = random_uniform(rng, 300, 8, np.float32)
    queries[:, 0] = np.abs(queries[:, 0]) * np.repeat([1, -1], 150)
    for start in range(0, 300, 30):
        search.search(queries[start : start + 30], 4)
    kept = np.stack(search._sample)
    assert len(kept) == 20
    assert all((queries == row).all(1).any() for row in kept)
    assert 4 <= (kept[:, 0] > 0).sum() <= 16
