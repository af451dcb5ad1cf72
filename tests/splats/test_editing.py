"""Merged stores are mixtures, kept splats are themselves, and differences are what was changed."""

from dataclasses import replace

import numpy as np
import pytest

from ebm_wgpu.energy import Energy
from ebm_wgpu.errors import ConfigError, StoreError
from ebm_wgpu.sphere import dist, expmap, random_tangent, random_uniform
from ebm_wgpu.splats import SplatStore, hdf5
from ebm_wgpu.splats.editing import compare, keep, merge
from ebm_wgpu.splats.splat_file import SplatFile

from .conftest import assert_same, make_store


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(hdf5, "_CHUNK_BYTES", 128)
    monkeypatch.setattr(hdf5, "BLOCK_BYTES", 256)


def save(store: SplatStore, path) -> SplatFile:
    store.save(path)
    return SplatFile(path)


@pytest.mark.parametrize("share", [None, 0.25])
def test_a_merged_store_is_the_mixture_of_both(tmp_path, numba_device, share):
    left, right = make_store(0, 30), make_store(1, 10)
    left.kappa_range, right.kappa_range = (0.5, 50), (1, 60)
    with save(left, tmp_path / "a.h5") as one, save(right, tmp_path / "b.h5") as other:
        merge(one, other, tmp_path / "merged.h5", share=share)
    merged = SplatStore.load(tmp_path / "merged.h5")
    assert np.array_equal(merged.mu, np.concatenate([left.mu, right.mu]))
    assert np.array_equal(merged.sid, np.concatenate([left.sid, right.sid]))
    assert merged.kappa_range == (0.5, 60)
    assert merged.history is not None
    assert np.array_equal(merged.history.tokens[3:], right.history.tokens)
    assert merged.alpha.mean() == pytest.approx(1, rel=1e-6)
    s = 0.75 if share is None else share
    assert merged.frequency.sum() == pytest.approx(
        s * left.frequency.sum() + (1 - s) * right.frequency.sum()
    )
    x = random_uniform(np.random.default_rng(5), 20, 8, np.float32)
    parts = [-Energy(store, numba_device).value(x) for store in (left, right)]
    expected = np.logaddexp(np.log(s) + parts[0], np.log(1 - s) + parts[1])
    assert np.allclose(-Energy(merged, numba_device).value(x), expected, atol=2e-4)


def test_what_cannot_be_merged_is_refused(tmp_path):
    left, right = make_store(), make_store(dimension=9)
    with save(left, tmp_path / "a.h5") as one, save(right, tmp_path / "b.h5") as other:
        with pytest.raises(StoreError, match=r"dimension 8 and .* 9"):
            merge(one, other, tmp_path / "c.h5")
        with pytest.raises(StoreError, match=r"dimension 8 and .* 9"):
            compare(one, other)
        with pytest.raises(ConfigError, match="share 1 of the first"):
            merge(one, one, tmp_path / "c.h5", share=1.0)
    assert not (tmp_path / "c.h5").exists()


def test_kept_splats_are_as_they_were(tmp_path):
    store = make_store(count=40)
    mask = np.random.default_rng(0).random(40) < 0.4
    with save(store, tmp_path / "a.h5") as file:
        keep(file, mask, tmp_path / "kept.h5")
        with pytest.raises(ConfigError, match="none of the 40 splats"):
            keep(file, np.zeros(40, bool), tmp_path / "none.h5")
    names = ("mu", "alpha", "kappa", "sid", "frequency", "age")
    expected = replace(store, **{name: getattr(store, name)[mask] for name in names})
    assert_same(SplatStore.load(tmp_path / "kept.h5"), expected)


def test_differences_are_the_changes_made(tmp_path):
    rng = np.random.default_rng(3)
    before = make_store(count=50, dimension=16)
    before.sid[:] = rng.integers(0, 8, 50)
    moved = expmap(
        before.mu.astype(np.float64), 0.1 * random_tangent(rng, before.mu.astype(np.float64))
    )
    after = SplatStore.from_directions(
        moved,
        alpha=before.alpha * rng.uniform(0.5, 2, 50),
        kappa=np.clip(before.kappa + rng.normal(size=50), 1, 50),
        sid=before.sid,
        frequency=before.frequency + rng.random(50),
    )
    # The order among tokens changes, and one splat of a token goes while another token's comes.
    order = np.argsort(before.sid, kind="stable")[1:]
    lost = int(np.argsort(before.sid, kind="stable")[0])
    names = ("mu", "alpha", "kappa", "sid", "frequency", "age")
    after = replace(after, **{name: getattr(after, name)[order] for name in names})
    first = np.flatnonzero(before.sid == before.sid[lost])
    with save(before, tmp_path / "a.h5") as one, save(after, tmp_path / "b.h5") as other:
        difference = compare(one, other)
        same = compare(one, one)
    assert len(difference.before) == 49
    assert difference.only_after.size == 0
    assert difference.only_before.tolist() == [first[-1]]
    assert (before.sid[difference.before] == after.sid[difference.after]).all()
    others = ~np.isin(difference.before, first)
    k, j = difference.before[others], difference.after[others]
    assert np.array_equal(order[j], k)
    angles = np.degrees(dist(before.mu.astype(np.float64), moved))[k]
    assert np.allclose(difference.angle[others], angles, atol=1e-4)
    assert np.allclose(difference.log_weight_ratio, after.log_pi[difference.after]
                       - before.log_pi[difference.before])  # fmt: skip
    assert np.allclose(difference.kappa_change[others], after.kappa[j] - before.kappa[k], atol=1e-5)
    assert np.allclose(difference.usage_change[others], after.frequency[j] - before.frequency[k])
    assert (same.angle == 0).all()
    assert len(same.before) == 50


def test_stores_without_a_common_token_match_nowhere(tmp_path):
    left, right = make_store(0), make_store(1)
    left.sid[:], right.sid[:] = 1, 2
    with save(left, tmp_path / "a.h5") as one, save(right, tmp_path / "b.h5") as other:
        difference = compare(one, other)
    assert len(difference.before) == 0
    assert difference.only_before.tolist() == difference.only_after.tolist() == [0, 1, 2, 3, 4]
