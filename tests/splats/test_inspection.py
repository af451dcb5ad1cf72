"""Summaries, rankings and exact nearest splats of a file."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebm_wgpu.errors import ConfigError, StoreError
from ebm_wgpu.splats import SplatStore, hdf5
from ebm_wgpu.splats.inspection import SORTS, nearest, ranked, summarize, usage_shares
from ebm_wgpu.splats.splat_file import SplatFile

from .conftest import make_store


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """60 splats in blocks of 8, half of them unused, with two equal directions."""
    monkeypatch.setattr(hdf5, "_CHUNK_BYTES", 128)
    monkeypatch.setattr(hdf5, "BLOCK_BYTES", 256)
    store = make_store(count=60)
    store.frequency[::2] = 0
    store.mu[41] = store.mu[7]
    store.sid[:] = np.arange(60) % 9
    store.save(tmp_path / "splats.h5")
    return tmp_path / "splats.h5", store


def test_summary_counts_what_the_store_holds(saved):
    path, store = saved
    store.kappa[:5], store.kappa[5:7] = 1, 50
    store.save(path)
    read = []
    with SplatFile(path) as file:
        summary = summarize(file, on_rows=read.append)
        assert summarize(file, verify=False).concentration_of_directions is None
    assert sum(read) == 60
    assert (summary.splats, summary.dimension, summary.tokens, summary.history) == (60, 8, 9, 3)
    assert summary.unused == 30
    low, high = summary.at_kappa_limits
    assert low == (store.kappa <= 1.049).sum() >= 5
    assert high == (store.kappa >= 49.951).sum() >= 2
    for name, weights in (("effective_splats", store.alpha), ("used_splats", store.frequency)):
        p = weights[weights > 0] / weights.sum(dtype=np.float64)
        assert getattr(summary, name) == pytest.approx(np.exp(-np.sum(p * np.log(p))), rel=1e-6)
    mean = np.linalg.norm(store.mu.astype(np.float64).mean(axis=0))
    assert summary.concentration_of_directions == pytest.approx(mean, rel=1e-6)
    assert summary.quantiles["kappa"] == tuple(
        np.quantile(store.kappa.astype(np.float64), [0, 0.25, 0.5, 0.75, 1])
    )


def test_equal_weights_are_all_effective_and_no_use_is_none(tmp_path):
    store = SplatStore.from_directions(np.eye(8), alpha=3)
    store.save(tmp_path / "splats.h5")
    with SplatFile(tmp_path / "splats.h5") as file:
        summary = summarize(file)
        assert not usage_shares(file.columns).any()
    assert summary.effective_splats == pytest.approx(8)
    assert summary.used_splats == 0
    assert summary.concentration_of_directions == pytest.approx(8**-0.5, rel=1e-7)


@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize("reverse", [False, True])
def test_ranking_is_sorted_and_complete(saved, sort, reverse):
    _, store = saved
    values = {
        "usage": store.frequency,
        "weight": store.alpha,
        "kappa": store.kappa,
        "age": store.age,
        "index": -np.arange(60),
    }[sort]
    order = ranked(store.columns, sort, reverse=reverse)
    assert sorted(order) == list(range(60))
    steps = np.diff(values[order])
    assert (steps >= 0).all() if reverse else (steps <= 0).all()
    ties = np.flatnonzero(steps == 0)
    assert (order[ties] < order[ties + 1]).all()


def test_ranking_of_a_token_holds_its_splats_only(saved):
    _, store = saved
    assert set(ranked(store.columns, token=4)) == set(range(4, 60, 9))
    assert len(ranked(store.columns, token=77)) == 0
    with pytest.raises(ConfigError, match="cannot sort splats by 'size'"):
        ranked(store.columns, "size")


@given(seed=st.integers(0, 99), k=st.integers(1, 60), rows=st.integers(1, 3))
def test_nearest_are_those_of_the_whole_matrix(saved, seed, k, rows):
    path, store = saved
    queries = np.random.default_rng(seed).standard_normal((rows, 8))
    with SplatFile(path) as file:
        found = nearest(file, queries, k)
    unit = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    cosines = unit @ store.mu.T.astype(np.float64)
    assert np.allclose(found.similarities, -np.sort(-cosines, axis=1)[:, :k], atol=2e-7)
    assert np.allclose(np.take_along_axis(cosines, found.indices, 1), found.similarities, atol=2e-7)
    assert all(len(set(row)) == k for row in found.indices)


def test_equal_directions_come_in_the_order_of_the_file(saved):
    path, store = saved
    with SplatFile(path) as file:
        found = nearest(file, store.mu[41], 2)
        assert found.indices.tolist() == [[7, 41]]
        for k in (0, 61):
            with pytest.raises(ConfigError, match=f"k = {k} neighbours of 60"):
                nearest(file, store.mu[41], k)
        with pytest.raises(ConfigError, match=r"queries of shape \(1, 9\)"):
            nearest(file, np.ones(9), 1)


def test_a_summary_of_altered_splats_is_refused(saved):
    path, store = saved
    content = bytearray(path.read_bytes())
    place = content.find(store.mu[20:22].tobytes())
    content[place] ^= 1
    path.write_bytes(content)
    with SplatFile(path) as file, pytest.raises(StoreError, match="damaged"):
        summarize(file)
