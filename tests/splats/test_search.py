"""Neighbour search: every back end against a plain product, ties, edges, and the mass bound."""

import numpy as np
import pytest

from ebm_wgpu.errors import ConfigError
from ebm_wgpu.sphere import random_uniform
from ebm_wgpu.splats.search import (
    BruteForceSearch,
    FaissSearch,
    make_search,
)
from ebm_wgpu.vmf import sample_vmf

# Two float32 sums of d products of unit vectors differ by less than this.
COSINE_ROUNDING = 1e-6


@pytest.fixture(
    params=["brute-numba", "brute-wgpu", "hrm2-numba", "hrm2-wgpu", "flat", "ivf", "hnsw"]
)
def search(request):
    """Each back end, the approximate ones set to look everywhere."""
    kind, _, device = request.param.partition("-")
    if device:
        options = {"n_cells": 20, "n_probes": 1000} if kind == "hrm2" else {}
        return make_search(kind, request.getfixturevalue(f"{device}_device"), **options)
    options = {"ivf": {"n_lists": 4, "n_probes": 4}, "hnsw": {"effort": 2000}}.get(kind, {})
    return FaissSearch(kind, **options)


@pytest.fixture(params=["brute-numba", "brute-wgpu", "flat"])
def exact_search(request):
    kind, _, device = request.param.partition("-")
    return make_search(kind, request.getfixturevalue(f"{device}_device") if device else None)


def by_product(queries, mu, k):
    """The definition: cosines in descending order, ties by the lower index."""
    cosines = queries.astype(np.float64) @ mu.astype(np.float64).T
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(cosines, order, axis=1), order


@pytest.mark.parametrize(("count", "dimension", "k"), [(300, 8, 64), (500, 65, 1), (129, 640, 128)])
def test_neighbours_are_those_of_the_full_product(search, count, dimension, k):
    rng = np.random.default_rng(0)
    mu = random_uniform(rng, count, dimension, np.float32)
    queries = random_uniform(rng, 9, dimension, np.float32)
    search.add(mu)
    result = search.search(queries, k)
    cosines, order = by_product(queries, mu, k)
    assert result.similarities.dtype == np.float32
    assert result.indices.dtype == np.int64
    assert result.similarities == pytest.approx(cosines, abs=COSINE_ROUNDING)
    # Indices may differ only where two cosines agree to rounding.
    own = np.einsum("bd,bkd->bk", queries, mu[result.indices])
    assert own == pytest.approx(cosines, abs=COSINE_ROUNDING)
    assert (result.indices == order).mean() > 0.99
    assert (np.diff(result.similarities, axis=1) <= 0).all()


def test_ties_go_to_the_lower_index(exact_search):
    # Small whole numbers, so that every product is exact and hundreds are equal.
    rng = np.random.default_rng(1)
    mu = rng.integers(-1, 2, (700, 8)).astype(np.float32)
    queries = rng.integers(-2, 3, (25, 8)).astype(np.float32)
    exact_search.add(mu)
    for k in (1, 7, 64):
        cosines, order = by_product(queries, mu, k)
        result = exact_search.search(queries, k)
        assert np.array_equal(result.indices, order)
        assert np.array_equal(result.similarities, cosines.astype(np.float32))


def test_all_directions_equal(exact_search):
    exact_search.add(np.tile(np.eye(8)[0], (300, 1)))
    result = exact_search.search(np.eye(8)[:2], 100)
    assert np.array_equal(result.indices, np.tile(np.arange(100), (2, 1)))
    assert np.array_equal(result.similarities, np.repeat([[1.0], [0.0]], 100, axis=1))


def test_directions_added_later_are_found(search):
    rng = np.random.default_rng(2)
    mu = random_uniform(rng, 200, 16, np.float32)
    assert len(search) == 0
    search.add(mu[:150])
    assert len(search) == 150
    search.add(mu[150:])
    assert len(search) == 200
    result = search.search(mu, 1)
    assert np.array_equal(result.indices[:, 0], np.arange(200))


def test_every_direction_can_be_asked_for(search):
    mu = random_uniform(np.random.default_rng(3), 60, 8, np.float32)
    search.add(mu)
    result = search.search(mu[:3], 60)
    assert np.array_equal(np.sort(result.indices, axis=1), np.tile(np.arange(60), (3, 1)))


def test_an_index_that_runs_short_is_completed_exactly():
    rng = np.random.default_rng(4)
    mu = np.repeat(random_uniform(rng, 4, 8, np.float32), 50, axis=0)
    # One list of forty cannot hold 150 of the 200.
    index = FaissSearch("ivf", n_lists=40, n_probes=1)
    index.add(mu)
    result = index.search(mu[::50], 150)
    cosines, _ = by_product(mu[::50], mu, 150)
    assert result.similarities == pytest.approx(cosines, abs=COSINE_ROUNDING)
    assert all(np.unique(row).size == 150 for row in result.indices)


def test_approximate_indexes_find_most_neighbours_of_clustered_splats():
    rng = np.random.default_rng(5)
    centres = random_uniform(rng, 40, 32)
    mu = sample_vmf(200 * np.repeat(centres, 50, axis=0), rng).astype(np.float32)
    queries = sample_vmf(200 * centres, rng).astype(np.float32)
    _, expected = by_product(queries, mu, 16)
    for kind in ("ivf", "hnsw"):
        index = make_search(kind)
        index.add(mu)
        found = index.search(queries, 16).indices
        recall = np.mean([np.isin(f, e).mean() for f, e in zip(found, expected, strict=True)])
        assert recall > 0.9, kind


def test_impossible_numbers_of_neighbours_are_refused(search):
    with pytest.raises(ConfigError, match="k = 1 neighbours of 0 splats"):
        search.search(np.eye(8), 1)
    search.add(np.eye(8))
    for k in (0, 9):
        with pytest.raises(ConfigError, match=f"k = {k} neighbours of 8 splats: use 1 to 8"):
            search.search(np.eye(8), k)


def test_the_kernel_refuses_more_than_it_can_keep(numba_device):
    search = BruteForceSearch(numba_device)
    search.add(np.tile(np.eye(8), (20, 1)))
    with pytest.raises(ConfigError, match="at most 128, use the flat search"):
        search.search(np.eye(8), 129)


def test_rows_that_do_not_fit_are_refused(search):
    with pytest.raises(ConfigError, match=r"mu of shape \(8,\)"):
        search.add(np.ones(8))
    search.add(np.eye(8))
    with pytest.raises(ConfigError, match=r"mu of shape \(9, 9\): give \(rows, 8\)"):
        search.add(np.eye(9))
    with pytest.raises(ConfigError, match=r"queries of shape \(9, 9\): give \(rows, 8\)"):
        search.search(np.eye(9), 1)
    with pytest.raises(ConfigError, match="queries hold NaN"):
        search.search(np.full((1, 8), np.nan), 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: make_search("annoy"),
            "unknown search 'annoy': use one of auto, brute, hrm2, flat",
        ),
        (lambda: make_search("brute"), "'brute' runs on a device"),
        (lambda: make_search("auto"), "'auto' runs on a device"),
        (lambda: make_search("ivf", n_list=3), "search 'ivf' has no option 'n_list'"),
        (lambda: make_search("brute", n_lists=3), "search 'brute' has no option 'n_lists'"),
        (lambda: make_search("ivf", n_lists=0), "n_lists = 0"),
        (lambda: FaissSearch("pq"), "unknown FAISS index 'pq': use one of flat, ivf, hnsw"),
    ],
)
def test_wrong_names_and_options_are_refused(call, message):
    with pytest.raises(ConfigError, match=message):
        call()
