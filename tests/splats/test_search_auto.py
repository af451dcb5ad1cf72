"""The automatic choice of a search: the index where directions have structure, else brute force."""

import numpy as np

from ebm_wgpu.sphere import random_uniform
from ebm_wgpu.splats.hrm2 import Hrm2Search
from ebm_wgpu.splats.search import BruteForceSearch, make_search
from ebm_wgpu.splats.search_auto import AutoSearch
from ebm_wgpu.vmf import sample_vmf


def test_automatic_search_takes_the_index_only_where_it_wins(numba_device, monkeypatch):
    monkeypatch.setattr(AutoSearch, "LEAST_FOR_HRM2", 2000)
    rng = np.random.default_rng(11)
    centres = random_uniform(rng, 120, 32)
    mu = sample_vmf(200 * np.resize(centres, (6000, 32)), rng).astype(np.float32)
    queries = sample_vmf(200 * centres, rng).astype(np.float32)
    search = make_search("auto", numba_device)
    search.add(mu[:1500])
    assert isinstance(search.current, BruteForceSearch)
    search.add(mu[1500:5000])
    assert isinstance(search.current, Hrm2Search)
    search.add(mu[5000:])
    assert len(search) == 6000
    expected = np.argsort(-(queries @ mu.T), axis=1)[:, :16]
    found = search.search(queries, 16).indices
    assert np.mean([np.isin(f, e).mean() for f, e in zip(found, expected, strict=True)]) > 0.97


def test_noise_is_searched_by_brute_force_and_tried_again_at_twice_as_many(
    numba_device, monkeypatch
):
    monkeypatch.setattr(AutoSearch, "LEAST_FOR_HRM2", 1000)
    tried = []
    monkeypatch.setattr(
        Hrm2Search, "_tune_on_members", lambda self: tried.append(len(self)), raising=True
    )
    search = make_search("auto", numba_device)
    rng = np.random.default_rng(12)
    for rows in (1200, 600, 700):
        search.add(random_uniform(rng, rows, 64, np.float32))
        assert isinstance(search.current, BruteForceSearch)
    assert tried == [1200, 2500]
    monkeypatch.undo()
    noise = AutoSearch(numba_device)
    noise._attempt = 1500
    noise.add(random_uniform(rng, 2000, 256, np.float32))
    assert isinstance(noise.current, BruteForceSearch)
    assert noise.search(noise.current.mu[:3], 1).indices.tolist() == [[0], [1], [2]]
