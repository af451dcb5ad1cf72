"""Splats as tables: there and back to the bit, readable by others, and every kind of damage."""

import csv

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from ebm_wgpu.errors import ConfigError, StoreError
from ebm_wgpu.splats import SplatStore, export_npz, export_tables, hdf5
from ebm_wgpu.splats.export import export_splats, formats, holds_history, import_splats
from ebm_wgpu.splats.splat_file import SplatFile

from .conftest import assert_same, make_store

TEXTS = (" the", 'a"b', "x,y", "\n", "", "漢", "'")


def token_text(token: int) -> str:
    return TEXTS[token % len(TEXTS)]


def exported(tmp_path, suffix: str, store: SplatStore):
    store.save(tmp_path / "splats.h5")
    with SplatFile(tmp_path / "splats.h5") as file:
        export_splats(file, tmp_path / f"table{suffix}", token_text=token_text)
    return tmp_path / f"table{suffix}"


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npz"])
@settings(max_examples=8)
@given(
    seed=st.integers(0, 1000),
    count=st.integers(1, 60),
    dimension=st.sampled_from([8, 33]),
    states=st.none() | st.integers(0, 5),
)
def test_there_and_back_is_the_same_file(tmp_path_factory, suffix, seed, count, dimension, states):
    folder = tmp_path_factory.mktemp("round")
    store = make_store(seed, count, dimension, states if suffix == ".npz" else None)
    store.kappa_range = (0.1, 50.7)
    table = exported(folder, suffix, store)
    import_splats(table, folder / "back.h5")
    assert (folder / "back.h5").read_bytes() == (folder / "splats.h5").read_bytes()


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npz"])
def test_many_blocks_are_the_same_as_one(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(hdf5, "_CHUNK_BYTES", 1 << 10)
    monkeypatch.setattr(hdf5, "BLOCK_BYTES", 1 << 11)
    # Arrow reads at least a line a block.
    monkeypatch.setattr(export_npz, "BLOCK_BYTES", 1 << 12)
    monkeypatch.setattr(export_tables, "BLOCK_BYTES", 1 << 12)
    monkeypatch.setattr(export_tables, "_READ_ROWS", 17)
    store = make_store(count=300, states=None)
    told = []
    table = exported(tmp_path, suffix, store)
    import_splats(table, tmp_path / "back.h5", on_rows=told.append)
    assert_same(SplatStore.load(tmp_path / "back.h5"), store)
    assert sum(told) == 300
    assert len(told) > 2


def test_the_history_is_kept_by_npz_alone(tmp_path):
    store = make_store()
    for suffix in formats():
        import_splats(exported(tmp_path, suffix, store), tmp_path / "back.h5")
        back = SplatStore.load(tmp_path / "back.h5")
        assert (
            (back.history is not None)
            == holds_history(tmp_path / f"x{suffix}")
            == (suffix == ".npz")
        )


def test_other_programs_read_the_tables(tmp_path):
    store = make_store(count=9)
    with np.load(exported(tmp_path, ".npz", store)) as arrays:
        assert np.array_equal(arrays["mu"], store.mu)
        assert np.array_equal(arrays["log_weight"], store.log_weight_f32)
        assert arrays["kappa_range"].tolist() == [1, 50]
        assert np.array_equal(arrays["history_tokens"], store.history.tokens)
    table = parquet.read_table(exported(tmp_path, ".parquet", store))
    assert table.column("token").to_pylist() == [token_text(int(t)) for t in store.sid]
    assert np.array_equal(np.stack(table.column("mu").to_pylist()).astype(np.float32), store.mu)
    with exported(tmp_path, ".csv", store).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["token"] for row in rows] == [token_text(int(t)) for t in store.sid]
    assert [np.float32(row["mu_3"]) for row in rows] == store.mu[:, 3].tolist()
    assert [float(row["frequency"]) for row in rows] == store.frequency.tolist()


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npz"])
@pytest.mark.parametrize("content", [b"", b"not a table", b"PK\x03\x04" + b"\xff" * 90])
def test_other_files_are_refused(tmp_path, suffix, content):
    path = tmp_path / f"other{suffix}"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=rf"other\{suffix}: ") as caught:
        import_splats(path, tmp_path / "back.h5")
    assert "\n" not in str(caught.value)
    with pytest.raises(StoreError, match="no such file"):
        import_splats(tmp_path / f"none{suffix}", tmp_path / "back.h5")


@pytest.mark.parametrize("suffix", [".parquet", ".npz"])
def test_truncated_or_flipped_files_are_refused_or_hold_the_same(tmp_path, suffix):
    store = make_store(count=40, states=None)
    table = exported(tmp_path, suffix, store)
    content = table.read_bytes()
    for size in np.linspace(0, len(content) - 1, 12, dtype=int):
        table.write_bytes(content[:size])
        with pytest.raises(StoreError):
            import_splats(table, tmp_path / "back.h5")
    refused = 0
    for bit in np.random.default_rng(0).choice(8 * len(content), 60, replace=False):
        altered = bytearray(content)
        altered[bit // 8] ^= 1 << (bit % 8)
        table.write_bytes(altered)
        try:
            import_splats(table, tmp_path / "back.h5")
        except StoreError as error:
            refused += 1
            assert "\n" not in str(error)
        else:
            assert_same(SplatStore.load(tmp_path / "back.h5"), store)
    # What remains are statistics, names of programs, dates and the like.
    assert refused > 30


def test_unknown_suffixes_and_folders_are_refused(tmp_path):
    make_store().save(tmp_path / "splats.h5")
    with SplatFile(tmp_path / "splats.h5") as file:
        with pytest.raises(ConfigError, match=r"unknown kind of file: use \.csv, \.parquet, \.npz"):
            export_splats(file, tmp_path / "x.xlsx")
        with pytest.raises(StoreError, match="cannot write"):
            export_splats(file, tmp_path / "absent" / "x.npz")
    with pytest.raises(ConfigError, match="unknown kind of file"):
        import_splats(tmp_path / "splats.h5", tmp_path / "y.h5")


def test_a_damaged_file_leaves_the_old_export(tmp_path, monkeypatch):
    store = make_store(count=40, states=None)
    table = exported(tmp_path, ".npz", store)
    old = table.read_bytes()
    path = tmp_path / "splats.h5"
    content = bytearray(path.read_bytes())
    content[content.find(store.mu[20:22].tobytes())] ^= 1
    path.write_bytes(content)
    with SplatFile(path) as file, pytest.raises(StoreError, match="damaged"):
        export_splats(file, table)
    assert table.read_bytes() == old
    assert {entry.name for entry in tmp_path.iterdir()} == {"splats.h5", "table.npz"}
