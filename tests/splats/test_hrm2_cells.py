"""Members in pages: what is put in comes back, through growth, moves and reuse of pages."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebm_wgpu.kernels import open_device
from ebm_wgpu.splats.hrm2_cells import Cells

D = 8


def check(cells, rows, cell):
    assert len(cells) == len(rows)
    assert np.array_equal(cells.cell, cell)
    assert np.array_equal(cells.sizes, np.bincount(cell, minlength=len(cells.sizes)))
    assert np.unique(cells.slot).size == len(rows)
    assert np.array_equal(cells.rows(np.arange(len(rows))), rows)
    # A page belongs to one cell.
    page = cells.slot // 32
    assert all(np.unique(cells.cell[page == p]).size == 1 for p in np.unique(page))
    x = np.eye(D, dtype=np.float32)[:2]
    for chosen in range(len(cells.sizes)):
        members = np.flatnonzero(cell == chosen)
        values, found = cells.scan(x, np.full((2, 1), chosen, np.int32), 100)
        order = np.lexsort((np.tile(members, (2, 1)), -(x @ rows[members].T)), axis=-1)[:, :100]
        assert np.array_equal(found[:, : len(members)], members[order])
        assert (found[:, len(members) :] == -1).all()
        assert np.isnan(values[:, len(members) :]).all()


@given(seed=st.integers(0, 1000), steps=st.integers(1, 5))
def test_members_survive_appends_and_moves(seed, steps):
    rng = np.random.default_rng(seed)
    cells = Cells(open_device("numba"), D)
    cells.open(4)
    rows, cell = np.zeros((0, D), np.float32), np.zeros(0, int)
    for _ in range(steps):
        count = int(rng.integers(1, 90))
        more = rng.integers(-9, 10, (count, D)).astype(np.float32)
        where = rng.integers(0, len(cells.sizes), count)
        cells.append(more, where)
        rows, cell = np.concatenate([rows, more]), np.append(cell, where)
        source = int(cell[0])
        members = np.flatnonzero(cell == source)
        moved = members[rng.random(len(members)) < 0.5]
        cells.open(1)
        cells.move(source, moved, len(cells.sizes) - 1)
        cell[moved] = len(cells.sizes) - 1
    check(cells, rows, cell)


@pytest.mark.parametrize("half", [False, True])
def test_members_survive_on_a_gpu(wgpu_device, half):
    rng = np.random.default_rng(0)
    cells = Cells(wgpu_device, D, half=half)
    cells.open(2)
    rows = rng.integers(-9, 10, (150, D)).astype(np.float32)
    cell = rng.integers(0, 2, 150)
    cells.append(rows[:60], cell[:60])
    cells.append(rows[60:], cell[60:])
    check(cells, rows, cell)


def test_pages_given_up_are_used_again(numba_device):
    cells = Cells(numba_device, D)
    cells.open(2)
    rows = np.arange(96 * D, dtype=np.float32).reshape(96, D)
    cells.append(rows, np.zeros(96, int))
    before = cells.nbytes
    cells.move(0, np.arange(64), 1)
    assert cells.nbytes == before
    check(cells, rows, np.repeat([1, 0], [64, 32]))
