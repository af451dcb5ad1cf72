"""Maps: which splats are drawn, in what order, and what is said of them."""

import numpy as np
import pytest

from ebm_wgpu.splats import hdf5
from ebm_wgpu.splats.projection import project
from ebm_wgpu.splats.splat_file import SplatFile
from ebm_wgpu.splats.splat_map import make_map

from .conftest import make_store


@pytest.fixture
def saved(tmp_path, monkeypatch):
    monkeypatch.setattr(hdf5, "_CHUNK_BYTES", 256)
    monkeypatch.setattr(hdf5, "BLOCK_BYTES", 512)
    store = make_store(count=90)
    store.save(tmp_path / "splats.h5")
    return tmp_path / "splats.h5", store


def test_a_map_of_all_splats_is_their_projection(saved):
    path, store = saved
    read = []
    with SplatFile(path) as file:
        splats = make_map(file, str, labels=7, on_rows=read.append)
    assert sum(read) == 90
    assert np.array_equal(splats.indices, np.arange(90))
    assert np.array_equal(splats.points, project(store.mu).points)
    assert splats.names == tuple(str(t) for t in store.sid)
    assert np.array_equal(splats.values["kappa"], store.kappa)
    assert splats.values["usage"].sum() == pytest.approx(1)
    assert np.argmax(splats.sizes) == np.argmax(store.alpha)
    assert splats.named.tolist() == np.argsort(-store.frequency, kind="stable")[:7].tolist()
    assert splats.title == "90 splats on S^7 by PCA"


def test_a_choice_holds_the_most_used_and_repeats(saved):
    path, store = saved
    with SplatFile(path) as file:
        splats = make_map(file, str, points=20, labels=6, seed=4)
        again = make_map(file, str, points=20, labels=6, seed=4)
        other = make_map(file, str, points=20, labels=6, seed=5)
    assert len(splats.indices) == 20
    assert (np.diff(splats.indices) > 0).all()
    used = np.argsort(-store.frequency, kind="stable")[:6]
    assert np.array_equal(splats.indices[splats.named], used)
    assert np.array_equal(splats.points, project(store.mu[splats.indices]).points)
    assert np.array_equal(splats.tokens, store.sid[splats.indices])
    assert np.array_equal(splats.points, again.points)
    assert not np.array_equal(splats.indices, other.indices)
    assert splats.title.startswith("20 of 90 splats")


def test_before_any_use_the_heaviest_are_named(saved):
    path, store = saved
    store.frequency[:] = 0
    store.save(path)
    with SplatFile(path) as file:
        splats = make_map(file, str, labels=3)
    assert splats.named.tolist() == np.argsort(-store.alpha, kind="stable")[:3].tolist()
