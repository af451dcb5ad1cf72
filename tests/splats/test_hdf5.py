"""The splats.h5 format: round trips, the layout others read, and every kind of damage."""

import hashlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebm_wgpu.errors import StoreError
from ebm_wgpu.splats import SplatStore
from ebm_wgpu.splats import hdf5 as splats_hdf5

from .conftest import assert_same, make_store


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "splats.h5"
    store = make_store()
    store.save(path)
    return path, store


@given(
    seed=st.integers(0, 1000),
    count=st.integers(1, 40),
    dimension=st.sampled_from([8, 33, 640]),
    states=st.none() | st.integers(0, 9),
)
def test_a_saved_store_loads_as_it_was(tmp_path_factory, seed, count, dimension, states):
    path = tmp_path_factory.mktemp("round") / "splats.h5"
    store = make_store(seed, count, dimension, states)
    store.kappa_range = (0.5, 50.25)
    store.save(path)
    assert_same(SplatStore.load(path), store)


def test_large_matrices_are_chunked_by_rows(tmp_path):
    store = make_store(count=3000, dimension=100)
    store.save(tmp_path / "splats.h5")
    with h5py.File(tmp_path / "splats.h5") as file:
        rows, columns = file["splats/mu"].chunks
    assert columns == 100
    assert 2_000 < rows < 3_000
    assert_same(SplatStore.load(tmp_path / "splats.h5"), store)


def test_layout_is_the_documented_one(saved):
    path, store = saved
    with h5py.File(path) as file:
        found = {}
        file.visititems(lambda name, node: found.update({name: node}))
        datasets = {name: n for name, n in found.items() if isinstance(n, h5py.Dataset)}
        assert {name: (n.dtype.str, n.shape) for name, n in datasets.items()} == {
            "splats/mu": ("<f4", (5, 8)),
            "splats/alpha": ("<f4", (5,)),
            "splats/kappa": ("<f4", (5,)),
            "splats/log_weight": ("<f4", (5,)),
            "splats/sid": ("<i8", (5,)),
            "splats/frequency": ("<f8", (5,)),
            "splats/age": ("<i8", (5,)),
            "history/latents": ("<f4", (3, 8)),
            "history/energies": ("<f4", (3,)),
            "history/tokens": ("<i8", (3,)),
        }
        assert all(node.fletcher32 for node in datasets.values())
        assert np.array_equal(file["splats/log_weight"][:], store.log_weight_f32)
        for group, encoding in (
            (file, b"ebm-wgpu-splats"),
            (file["splats"], b"splats"),
            (file["history"], b"history"),
        ):
            attributes = dict(group.attrs)
            assert attributes["encoding-type"] == encoding
            assert attributes["encoding-version"] == b"1"
            assert attributes["dimension"] == 8
            assert attributes["kappa-range"].tolist() == [1, 50]
            assert b"energy falls towards a splat" in attributes["sign-convention"]
            assert b"unit vectors" in attributes["units"]


def test_digest_is_the_documented_one(saved):
    path, _ = saved
    digest = hashlib.sha256()
    with h5py.File(path) as file:
        for group in ("/", "splats", "history"):
            attributes = {k: np.asarray(v) for k, v in file[group].attrs.items() if k != "sha256"}
            arrays = {k: n[...] for k, n in file[group].items() if isinstance(n, h5py.Dataset)}
            for values in (attributes, arrays):
                for name in sorted(values):
                    value = values[name]
                    digest.update(f"{group}|{name}|{value.dtype.str}|{value.shape}|".encode())
                    digest.update(value.tobytes())
        assert file.attrs["sha256"].decode() == digest.hexdigest()


def test_equal_stores_make_equal_files(tmp_path):
    make_store().save(tmp_path / "a.h5")
    make_store().save(tmp_path / "b.h5")
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_single_flipped_bits_never_change_what_is_read(saved, tmp_path):
    path, store = saved
    content = path.read_bytes()
    damaged = tmp_path / "damaged.h5"
    refused = 0
    for bit in np.random.default_rng(7).choice(len(content) * 8, 240, replace=False):
        altered = bytearray(content)
        altered[bit // 8] ^= 1 << (bit % 8)
        damaged.write_bytes(altered)
        try:
            assert_same(SplatStore.load(damaged), store)
        except StoreError as error:
            refused += 1
            assert str(damaged) in str(error)
            assert "\n" not in str(error)
    # What remains are bits of unused space.
    assert refused > 160


def test_truncated_files_are_refused(saved):
    path, _ = saved
    content = path.read_bytes()
    for size in np.linspace(0, len(content) - 1, 40, dtype=int):
        path.write_bytes(content[:size])
        with pytest.raises(StoreError, match=r"splats\.h5: "):
            SplatStore.load(path)


def set_attribute(group: str, name: str, value: object):
    def edit(file: h5py.File) -> None:
        file[group].attrs[name] = value

    return edit


def delete(name: str):
    def edit(file: h5py.File) -> None:
        del file[name]

    return edit


def delete_attribute(group: str, name: str):
    def edit(file: h5py.File) -> None:
        del file[group].attrs[name]

    return edit


def set_value(name: str, index: object, value: object):
    def edit(file: h5py.File) -> None:
        file[name][index] = value

    return edit


def replace(name: str, data: object):
    def edit(file: h5py.File) -> None:
        if name in file:
            del file[name]
        file[name] = data

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (set_attribute("/", "encoding-version", "2"), "encoding-version of / is '2', this program"),
        (set_attribute("splats", "encoding-version", "2"), "encoding-version of /splats is '2'"),
        (set_attribute("/", "encoding-type", "anndata"), "encoding-type of / is 'anndata'"),
        (set_attribute("/", "dimension", 9), "another dimension"),
        (set_attribute("history", "kappa-range", [1.0, 60.0]), "another kappa-range"),
        (set_attribute("splats", "units", "furlongs"), "units of /splats is 'furlongs'"),
        (set_attribute("splats", "sign-convention", "up"), "sign-convention of /splats is 'up'"),
        (set_attribute("splats", "note", "mine"), "differs from its sha256 digest"),
        (delete_attribute("/", "encoding-type"), "encoding-type of / is missing"),
        (delete_attribute("/", "sha256"), "sha256 of / is missing"),
        (delete_attribute("splats", "kappa-range"), "damaged or not a splat file"),
        (delete("splats"), "group /splats is missing"),
        (delete("splats/alpha"), "dataset /splats/alpha is missing"),
        (delete("history/tokens"), "dataset /history/tokens is missing"),
        (replace("splats/extra", [1]), "dataset /splats/extra is unknown"),
        (replace("extra", [1]), "unknown object /extra"),
        (replace("splats/alpha", np.ones(4, "f4")), "expected float32"),
        (
            replace("splats/alpha", np.ones(5, "f8")),
            "/splats/alpha is float64 .5,.: expected float32",
        ),
        (
            replace("splats/mu", np.ones((5, 9), "f4")),
            "/splats/mu is float32 .5, 9.: expected float32",
        ),
        (replace("splats/log_weight", np.ones(4, "f4")), "log_weight has 4 rows for 5 splats"),
        (set_value("splats/mu", (2, 1), np.nan), "mu of row 2 holds NaN"),
        (set_value("splats/mu", 3, 0), "mu of row 3 has length 0"),
        (set_value("splats/kappa", 1, 80), r"kappa of row 1 is 80.0: outside its range \[1, 50\]"),
        (set_value("splats/alpha", 1, 7), "log_weight of row 0"),
        (set_value("splats/log_weight", 2, np.nan), "log_weight of row 2 is nan"),
        (set_value("splats/sid", 1, 8), "differs from its sha256 digest"),
        (set_value("history/energies", 0, 8), "differs from its sha256 digest"),
        (delete("history"), "differs from its sha256 digest"),
    ],
)
def test_edited_files_are_refused_with_the_reason(saved, edit, message):
    path, _ = saved
    with h5py.File(path, "r+") as file:
        edit(file)
    with pytest.raises(StoreError, match=message) as caught:
        SplatStore.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_claimed_sizes_beyond_the_file_are_not_allocated(saved):
    path, _ = saved
    with h5py.File(path, "r+") as file:
        file["splats/alpha"].resize((1 << 50,))
    with pytest.raises(StoreError, match=r"claims \d+ bytes"):
        SplatStore.load(path)


@pytest.mark.parametrize("content", [b"", b"not HDF5", b"\x89HDF\r\n\x1a\n" + b"\xff" * 900])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "splats.h5"
    path.write_bytes(content)
    with pytest.raises(StoreError, match="damaged or not a splat file"):
        SplatStore.load(path)


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(StoreError, match=r"none\.h5: no such splat file"):
        SplatStore.load(tmp_path / "none.h5")
    with pytest.raises(StoreError, match="no such splat file"):
        SplatStore.load(tmp_path)
    with pytest.raises(StoreError, match="cannot write"):
        make_store().save(tmp_path / "absent" / "splats.h5")


def test_an_invalid_store_leaves_the_old_file(saved):
    path, store = saved
    store.mu[0, 0] = np.nan
    with pytest.raises(StoreError, match="mu of row 0 holds NaN"):
        store.save(path)
    assert_same(SplatStore.load(path), make_store())


def test_an_interrupted_write_leaves_the_old_file_and_no_rest(saved, monkeypatch):
    path, _ = saved

    def interrupted(folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(splats_hdf5, "content_digest", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_store(seed=1).save(path)
    monkeypatch.undo()
    assert_same(SplatStore.load(path), make_store())
    assert [entry.name for entry in path.parent.iterdir()] == ["splats.h5"]


def test_saving_replaces_the_old_file(saved):
    path, _ = saved
    newer = make_store(seed=2, count=9, states=None)
    newer.save(path)
    assert_same(SplatStore.load(path), newer)
    assert [entry.name for entry in path.parent.iterdir()] == ["splats.h5"]
