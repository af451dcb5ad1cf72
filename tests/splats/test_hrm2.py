"""HRM2: exact where all cells are visited, recall as tuned, insertion, splits, automatic choice."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebm_wgpu.errors import ConfigError
from ebm_wgpu.kernels import open_device
from ebm_wgpu.sphere import random_uniform
from ebm_wgpu.splats.hrm2 import Hrm2Search
from ebm_wgpu.splats.search import make_search
from ebm_wgpu.vmf import sample_vmf

COSINE_ROUNDING = 1e-6


def clustered(rng, count, dimension, per_cluster=50):
    """Directions in clusters, and as many queries as clusters."""
    centres = random_uniform(rng, max(1, count // per_cluster), dimension)
    mu = sample_vmf(200 * np.resize(centres, (count, dimension)), rng)
    return mu.astype(np.float32), sample_vmf(200 * centres, rng).astype(np.float32)


def by_product(queries, mu, k):
    cosines = queries.astype(np.float64) @ mu.astype(np.float64).T
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(cosines, order, axis=1), order


def recall(found, expected):
    return np.mean([np.isin(f, e).mean() for f, e in zip(found, expected, strict=True)])


def test_tuned_cells_find_what_was_asked_with_a_tenth_of_the_products(numba_device):
    rng = np.random.default_rng(0)
    mu, queries = clustered(rng, 8000, 32, per_cluster=100)
    index = Hrm2Search(numba_device, recall=0.98, recall_at=16)
    index.add(mu)
    result = index.search(queries, 16)
    _, expected = by_product(queries, mu, 16)
    assert recall(result.indices, expected) > 0.97
    assert result.products < len(mu) / 10
    assert index.tuning.recall >= 0.98
    assert index.tuning.products == pytest.approx(result.products, rel=0.2)
    assert index.tuning.gain == pytest.approx(len(mu) / index.tuning.products)


def test_products_are_those_of_the_centres_and_of_the_cells_visited(numba_device):
    mu, queries = clustered(np.random.default_rng(1), 500, 16)
    index = Hrm2Search(numba_device, n_cells=9, n_probes=9)
    index.add(mu)
    assert index.search(queries, 3).products == 9 + 500
    assert index.tuning is None


@given(seed=st.integers(0, 1000), k=st.integers(1, 60), n_probes=st.integers(1, 12))
def test_exact_searches_miss_nothing(seed, k, n_probes):
    rng = np.random.default_rng(seed)
    mu, queries = clustered(rng, 400, 8)
    queries[0] = mu[7]
    index = Hrm2Search(open_device("numba"), n_cells=12, n_probes=n_probes)
    index.add(mu)
    result = index.search(queries, k, exact=True)
    cosines, _ = by_product(queries, mu, k)
    assert result.similarities == pytest.approx(cosines, abs=COSINE_ROUNDING)
    assert all(np.unique(row).size == k for row in result.indices)
    assert result.products <= 12 + 400


def test_exact_searches_skip_cells_that_cannot_hold_a_neighbour(any_device):
    rng = np.random.default_rng(2)
    centres = np.eye(8)[[0, 1, 2, 3]]
    mu = sample_vmf(5000 * np.repeat(centres, 100, axis=0), rng).astype(np.float32)
    index = Hrm2Search(any_device, n_cells=4, n_probes=1)
    index.add(mu)
    result = index.search(mu[::100], 50, exact=True)
    assert np.array_equal(result.indices[:, 0], np.arange(0, 400, 100))
    assert result.products == 4 + 100


def test_ties_go_to_the_lower_index_where_all_cells_are_visited(any_device):
    # Small whole numbers, so that every product is exact and hundreds are equal.
    rng = np.random.default_rng(3)
    mu = rng.integers(-1, 2, (700, 8)).astype(np.float32)
    queries = rng.integers(-2, 3, (25, 8)).astype(np.float32)
    index = Hrm2Search(any_device, n_cells=20, n_probes=1000)
    index.add(mu)
    for k in (1, 7, 64):
        cosines, order = by_product(queries, mu, k)
        result = index.search(queries, k)
        assert np.array_equal(result.indices, order)
        assert np.array_equal(result.similarities, cosines.astype(np.float32))


def uneven(rng, count, dimension):
    """Clusters of very different size and width, elongated, on a common drift; and queries."""
    size = rng.pareto(1.0, 60) + 0.2
    spread = rng.uniform(0.1, 0.9, 60)
    spectrum = 1 / np.arange(1, dimension + 1) ** 0.5
    centres = rng.standard_normal((60, dimension)) * spectrum + spectrum

    def draw(n):
        cluster = rng.choice(60, n, p=size / size.sum())
        noise = rng.standard_normal((n, dimension)) * spectrum * spread[cluster, None]
        rows = centres[cluster] + noise
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    return draw(count), draw(200)


def test_hard_queries_visit_more_cells_than_easy_ones(numba_device):
    rng = np.random.default_rng(4)
    mu, queries = uneven(rng, 6000, 48)
    index = Hrm2Search(numba_device, n_probes=1)
    index.add(mu)
    tuning = index.tune(queries[:100], 16, 0.95)
    _, expected = by_product(queries, mu, 16)
    result = index.search(queries[:100], 16)
    assert recall(result.indices, expected[:100]) == pytest.approx(tuning.recall, abs=1e-9)
    assert result.products == pytest.approx(tuning.products)
    assert recall(index.search(queries[100:], 16).indices, expected[100:]) > 0.95
    products = [index.search(row[None], 16).products for row in queries[:100]]
    assert np.mean(products) == pytest.approx(tuning.products)
    assert np.std(products) > 0.1 * np.mean(products)
    # The length of a query changes nothing.
    longer = index.search(7 * queries[:100], 16)
    assert recall(longer.indices, result.indices) > 0.999
    # As many cells for every query find less for as many products.
    fixed = Hrm2Search(numba_device, n_probes=index.n_probes)
    fixed.add(mu)
    alike = fixed.search(queries[:100], 16)
    assert alike.products > 0.8 * tuning.products
    assert recall(alike.indices, expected[:100]) < tuning.recall


def test_queries_beyond_a_chunk_are_found_too(numba_device, monkeypatch):
    monkeypatch.setattr("ebm_wgpu.splats.hrm2._QUERIES_AT_A_TIME", 7)
    mu, queries = clustered(np.random.default_rng(4), 900, 8)
    index = Hrm2Search(numba_device, n_cells=200, n_probes=150)
    index.add(mu)
    result = index.search(queries, 20)
    cosines, _ = by_product(queries, mu, 20)
    assert result.similarities == pytest.approx(cosines, abs=COSINE_ROUNDING)
    index.tune(queries, 20, 0.9)
    # Products are summed in another order, so that a cell at the limit may fall to either side.
    parts = np.concatenate([index.search(row[None], 20).indices for row in queries])
    assert recall(index.search(queries, 20).indices, parts) > 0.99


@pytest.mark.parametrize("batch", [1, 7, 400])
def test_directions_added_a_few_at_a_time_are_all_found(any_device, batch):
    if batch == 1 and any_device.name == "wgpu":
        batch = 3
    rng = np.random.default_rng(5)
    mu, queries = clustered(rng, 400, 8)
    index = Hrm2Search(any_device, n_probes=10_000)
    for start in range(0, len(mu), batch):
        index.add(mu[start : start + batch])
        assert len(index) == min(start + batch, len(mu))
    cosines, _ = by_product(queries, mu, 64)
    result = index.search(queries, 64)
    assert result.similarities == pytest.approx(cosines, abs=COSINE_ROUNDING)
    own = np.einsum("bd,bkd->bk", queries, mu[result.indices])
    assert own == pytest.approx(cosines, abs=COSINE_ROUNDING)


def test_a_cell_that_grows_is_split_and_keeps_its_members(numba_device):
    rng = np.random.default_rng(6)
    mu = random_uniform(rng, 600, 16, np.float32)
    index = Hrm2Search(numba_device, n_cells=10, n_probes=1000)
    index.add(mu)
    near = sample_vmf(500 * np.repeat(mu[:1], 500, axis=0).astype(np.float64), rng)
    index.add(near.astype(np.float32))
    assert index.n_cells > 10
    everything = np.concatenate([mu, near.astype(np.float32)])
    cosines, _ = by_product(mu[:5], everything, 100)
    for exact in (False, True):
        result = index.search(mu[:5], 100, exact=exact)
        assert result.similarities == pytest.approx(cosines, abs=COSINE_ROUNDING)
    assert index.search(mu[:1], 64).products == index.n_cells + 1100


def test_directions_that_are_all_equal_can_be_split(numba_device):
    index = Hrm2Search(numba_device, n_cells=5, n_probes=1000)
    index.add(np.tile(np.eye(8)[0], (2000, 1)))
    assert index.n_cells > 5
    result = index.search(np.eye(8)[:2], 100)
    assert np.array_equal(result.indices, np.tile(np.arange(100), (2, 1)))


def test_cells_are_made_anew_when_the_directions_have_doubled(numba_device):
    mu, queries = clustered(np.random.default_rng(7), 2000, 16)
    index = Hrm2Search(numba_device, recall_at=8)
    index.add(mu[:400])
    assert index.n_cells == 80
    index.add(mu[400:700])
    assert index.tuning.directions == 700
    index.add(mu[700:])
    assert index.n_cells == round(4 * 2000**0.5)
    _, expected = by_product(queries, mu, 8)
    assert recall(index.search(queries, 8).indices, expected) > 0.95


def test_queries_given_choose_the_cells(numba_device):
    rng = np.random.default_rng(8)
    mu, queries = clustered(rng, 3000, 24)
    index = Hrm2Search(numba_device, n_probes=1)
    index.add(mu)
    far = random_uniform(rng, 200, 24, np.float32)
    easy, hard = index.tune(queries, 10, 0.9), index.tune(far, 10, 0.9)
    assert easy.cells < hard.cells and index.n_probes == round(hard.cells)
    _, expected = by_product(far, mu, 10)
    found = recall(index.search(far, 10).indices, expected)
    assert found == pytest.approx(hard.recall, abs=1e-9)
    assert hard.recall >= 0.9


def test_the_queries_given_go_on_choosing_as_directions_come(numba_device):
    rng = np.random.default_rng(14)
    mu = random_uniform(rng, 1500, 16, np.float32)
    far = random_uniform(rng, 200, 16, np.float32)
    index = Hrm2Search(numba_device)
    index.add(mu[:1000])
    index.tune(far, 10, 0.8)
    index.add(mu[1000:])
    assert index.tuning.directions == 1500
    _, expected = by_product(far, mu, 10)
    found = recall(index.search(far, 10).indices, expected)
    assert found == pytest.approx(index.tuning.recall, abs=1e-9)


def test_few_directions_can_all_be_asked_for(any_device):
    mu = random_uniform(np.random.default_rng(9), 60, 8, np.float32)
    index = Hrm2Search(any_device, n_cells=30, n_probes=1)
    index.add(mu)
    result = index.search(mu[:3], 60)
    assert np.array_equal(np.sort(result.indices, axis=1), np.tile(np.arange(60), (3, 1)))


def test_one_direction(numba_device):
    index = Hrm2Search(numba_device)
    index.add(np.eye(8)[:1])
    assert np.array_equal(index.search(np.eye(8)[:2], 1).indices, [[0], [0]])


def test_half_storage_rounds_the_directions(wgpu_device):
    mu, queries = clustered(np.random.default_rng(10), 300, 16)
    index = Hrm2Search(wgpu_device, n_probes=1000, half=True)
    index.add(mu[:200])
    index.add(mu[200:])
    rounded = mu.astype(np.float16).astype(np.float32)
    cosines, _ = by_product(queries, rounded, 20)
    assert index.search(queries, 20).similarities == pytest.approx(cosines, abs=COSINE_ROUNDING)
    full = Hrm2Search(wgpu_device, n_probes=1000)
    full.add(mu)
    assert index.nbytes < full.nbytes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_cells": 0}, "n_cells = 0 of the hrm2 index"),
        ({"n_probes": -1}, "n_probes = -1"),
        ({"recall": 1.0}, "recall = 1.0 of the hrm2 index: use more than 0"),
        ({"half": True}, "half = True of the hrm2 index: Numba .* lacks float16"),
        ({"lists": 3}, "search 'hrm2' has no option 'lists'"),
    ],
)
def test_wrong_options_are_refused(numba_device, options, message):
    with pytest.raises(ConfigError, match=message):
        make_search("hrm2", numba_device, **options)


def test_impossible_requests_are_refused(numba_device):
    index = Hrm2Search(numba_device, n_probes=2)
    with pytest.raises(ConfigError, match="k = 1 neighbours of 0 splats"):
        index.search(np.eye(8), 1)
    index.add(np.tile(np.eye(8), (20, 1)))
    with pytest.raises(ConfigError, match="at most 128, use the flat search"):
        index.search(np.eye(8), 129)
    with pytest.raises(ConfigError, match=r"mu of shape \(9, 9\): give \(rows, 8\)"):
        index.add(np.eye(9))
