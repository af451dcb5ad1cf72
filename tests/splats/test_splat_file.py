"""Stores read block by block: the same splats as in memory, and little memory for many of them."""

import json
import resource
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebm_wgpu.errors import ConfigError, StoreError
from ebm_wgpu.splats import SplatStore, hdf5
from ebm_wgpu.splats.inspection import nearest, ranked, summarize
from ebm_wgpu.splats.splat_file import SplatFile
from ebm_wgpu.splats.store import COLUMN_TYPES, SplatColumns

from .conftest import assert_same, make_store

ROWS_A_CHUNK = 7
MILLION = 1_000_000


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 7 rows of 8 numbers, two chunks a block."""
    monkeypatch.setattr(hdf5, "_CHUNK_BYTES", ROWS_A_CHUNK * 32)
    monkeypatch.setattr(hdf5, "BLOCK_BYTES", 2 * ROWS_A_CHUNK * 32)


@pytest.fixture
def saved(tmp_path: Path, small_blocks: None) -> tuple[Path, SplatStore]:
    store = make_store(count=50)
    store.save(tmp_path / "splats.h5")
    return tmp_path / "splats.h5", store


def test_blocks_columns_and_history_are_those_of_the_store(saved):
    path, store = saved
    read = []
    with SplatFile(path) as file:
        assert (len(file), file.dimension, file.history_length) == (50, 8, 3)
        firsts, blocks = zip(*file.blocks(read.append), strict=True)
        columns, history = file.columns, file.history()
    assert firsts == (0, 14, 28, 42)
    assert read == [14, 14, 14, 8]
    assert_same(
        SplatStore(
            np.concatenate(blocks),
            **{name: getattr(columns, name) for name in COLUMN_TYPES},
            kappa_range=columns.kappa_range,
            history=history,
        ),
        store,
    )
    assert np.array_equal(columns.log_weight, store.log_weight)


@given(indices=st.lists(st.integers(0, 49), max_size=30))
def test_rows_come_in_the_order_asked_for(saved, indices):
    path, store = saved
    with SplatFile(path) as file:
        assert np.array_equal(file.rows(indices), store.mu[indices])


@pytest.mark.parametrize("index", [-1, 50])
def test_rows_that_do_not_exist_are_named(saved, index):
    with SplatFile(saved[0]) as file, pytest.raises(ConfigError, match=f"splat {index} of .*49"):
        file.rows([0, index])


def test_files_written_in_blocks_are_those_written_at_once(saved, tmp_path):
    path, store = saved
    pieces = np.split(store.mu, [1, 20, 20, 33])
    hdf5.write_rows(tmp_path / "pieces.h5", store.columns, pieces, store.history)
    assert (tmp_path / "pieces.h5").read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        (lambda mu: [mu[:49]], "mu has 49 rows for 50 splats"),
        (lambda mu: [mu, mu[:1]], r"shape \(1, 8\) after 50 rows"),
        (lambda mu: [mu[:, :7]], r"shape \(50, 7\) after 0 rows"),
        (lambda mu: [mu[:30], 2 * mu[30:]], "mu of row 30 has length 2"),
    ],
)
def test_blocks_that_do_not_fit_are_refused_and_nothing_is_written(
    saved, tmp_path, pieces, message
):
    _, store = saved
    with pytest.raises(StoreError, match=message):
        hdf5.write_rows(tmp_path / "other.h5", store.columns, pieces(store.mu))
    assert [entry.name for entry in tmp_path.iterdir()] == ["splats.h5"]


def test_verify_shows_all_rows_and_finds_a_changed_number(saved):
    path, store = saved
    seen = []
    with SplatFile(path) as file:
        file.verify(lambda first, rows: seen.append((first, rows)))
    assert np.array_equal(np.concatenate([rows for _, rows in seen]), store.mu)
    with h5py.File(path, "r+") as edited:
        edited["splats/sid"][3] += 1
    with (
        SplatFile(path) as file,
        pytest.raises(StoreError, match=r"splats\.h5: content differs"),
    ):
        file.verify()


def test_damage_is_found_where_it_is_read(saved):
    path, store = saved
    with h5py.File(path, "r+") as edited:
        edited["splats/mu"][30, 1] = np.nan
    with SplatFile(path) as file:
        assert np.array_equal(file.rows([2, 13]), store.mu[[2, 13]])
        for read in (lambda: list(file.blocks()), lambda: file.rows([30]), file.verify):
            with pytest.raises(StoreError, match=r"splats\.h5: mu of row 30 holds NaN"):
                read()


def test_columns_are_checked_on_opening(saved):
    path, _ = saved
    with h5py.File(path, "r+") as edited:
        edited["splats/kappa"][4] = 51
    with pytest.raises(StoreError, match=r"splats\.h5: kappa of row 4 is 51"):
        SplatFile(path)
    with pytest.raises(StoreError, match="no such splat file"):
        SplatFile(path.with_name("none.h5"))


def random_columns(count: int, dimension: int) -> SplatColumns:
    rng = np.random.default_rng(0)
    return SplatColumns(
        alpha=rng.uniform(0.5, 2, count).astype(np.float32),
        kappa=rng.uniform(1, 50, count).astype(np.float32),
        sid=rng.integers(0, 50_000, count),
        frequency=rng.random(count) / count,
        age=rng.integers(0, 1000, count),
        width=dimension,
    )


def random_blocks(count: int, dimension: int, rows: int):
    """Unit rows block by block: a fresh block of normal numbers is scaled a row at a time."""
    rng = np.random.default_rng(1)
    for first in range(0, count, rows):
        block = rng.standard_normal((min(rows, count - first), dimension), np.float32)
        block /= np.linalg.norm(block, axis=1, keepdims=True)
        yield block


def test_memory_does_not_grow_with_the_directions(tmp_path, monkeypatch):
    """20 MB of directions are written, verified, searched and drawn from within 3 MB."""
    count, dimension = 5_000, 1024
    monkeypatch.setattr(hdf5, "_CHUNK_BYTES", 1 << 16)
    monkeypatch.setattr(hdf5, "BLOCK_BYTES", 1 << 17)
    columns = random_columns(count, dimension)
    query = next(random_blocks(1, dimension, 1))
    tracemalloc.start()
    try:
        blocks = random_blocks(count, dimension, 128)
        hdf5.write_rows(tmp_path / "splats.h5", columns, blocks)
        with SplatFile(tmp_path / "splats.h5") as file:
            summarize(file)
            found = nearest(file, query, 5)
            rows = file.rows(np.arange(0, count, 100))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3_000_000
    mu = np.concatenate(list(random_blocks(count, dimension, 128)))
    assert np.array_equal(rows, mu[::100])
    assert np.array_equal(found.indices[0], np.argsort(-(mu @ query[0]), kind="stable")[:5])


def _measure(path: str) -> None:
    """Open, list, search and verify the file in this process; print seconds and peak memory."""
    figures = {}

    def now() -> tuple[float, float]:
        return time.perf_counter(), time.process_time()

    def note(name: str, start: tuple[float, float]) -> None:
        wall, cpu = (end - begin for end, begin in zip(now(), start, strict=True))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        figures[name] = {"seconds": wall, "cpu_seconds": cpu, "peak_mb": peak}

    note("imports", now())
    start = now()
    with SplatFile(path) as file:
        note("open", start)
        start = now()
        order = ranked(file.columns, "usage")[:20]
        note("list", start)
        start = now()
        found = nearest(file, file.rows([MILLION // 2]), 10)
        note("search", start)
        start = now()
        summarize(file)
        note("verify", start)
    assert len(order) == 20
    assert found.indices[0, 0] == MILLION // 2
    print(json.dumps(figures))


@pytest.mark.slow
def test_a_million_splats_open_list_and_search_in_little_memory(tmp_path):
    """1,000,000 x 640 splats, 2.6 GB on disk, within 400 MB; prints seconds of each step.

    Started with `pytest -m slow -s tests/splats/test_splat_file.py`; takes a minute or two and
    2.6 GB of disk.
    """
    path = tmp_path / "million.h5"
    hdf5.write_rows(path, random_columns(MILLION, 640), random_blocks(MILLION, 640, 8192))
    assert path.stat().st_size > MILLION * 640 * 4
    code = (
        "import importlib.util, sys; sys.path.insert(0, sys.argv[1]);"
        "from splats.test_splat_file import _measure; _measure(sys.argv[2])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parents[1]), str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    for name, figure in figures.items():
        print(
            f"{name:8} {figure['seconds']:8.3f} s, {figure['cpu_seconds']:8.3f} s of a core, "
            f"peak {figure['peak_mb']:6.0f} MB"
        )
    assert figures["search"]["peak_mb"] < 400
    assert figures["verify"]["peak_mb"] < 400
