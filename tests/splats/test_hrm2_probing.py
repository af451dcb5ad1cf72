"""Which cells are visited: the triangle on the sphere, lists of cells, the least limit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebm_wgpu.sphere import random_uniform
from ebm_wgpu.splats.hrm2_probing import (
    CONFIDENCE,
    Tuning,
    alignment_needed,
    best_cells,
    chosen_cells,
    least_limit,
)


@given(seed=st.integers(0, 1000), d=st.sampled_from([8, 65]))
def test_a_member_is_nearer_exactly_if_it_is_aligned_better(seed, d):
    # One cell, whose members are all at the same angle, so that the mean is everybody's.
    rng = np.random.default_rng(seed)
    centre, query = random_uniform(rng, 2, d)
    across = random_uniform(rng, 200, d)
    across -= (across @ centre)[:, None] * centre
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    beta = rng.uniform(0.1, 1.4)
    members = np.cos(beta) * centre + np.sin(beta) * across
    last = float(rng.uniform(-0.5, 0.9))
    scores = np.array([[query @ centre]], np.float32)
    needed = alignment_needed(scores, np.array([np.cos(beta)]), np.array([last], np.float32))
    towards = query - (query @ centre) * centre
    aligned = across @ towards / np.linalg.norm(towards)
    clear = np.abs(members @ query - last) > 1e-5
    assert np.array_equal((aligned > needed[0, 0])[clear], (members @ query > last)[clear])


def test_a_cell_of_one_direction_is_visited_only_if_that_is_nearer():
    scores = np.array([[0.5, 0.7]], np.float32)
    needed = alignment_needed(scores, np.ones(2), np.array([0.6], np.float32))
    assert needed[0, 0] > 100 and needed[0, 1] < -100


def test_best_cells_are_those_of_highest_value():
    values = np.random.default_rng(0).random((5, 9), np.float32)
    for count in (1, 4, 9):
        order = np.argsort(-values, axis=1)[:, :count]
        assert np.array_equal(np.sort(best_cells(values, count)), np.sort(order))
    assert best_cells(values, 30).shape == (5, 9)


@given(seed=st.integers(0, 1000))
def test_lists_hold_the_cells_that_are_set(seed):
    rng = np.random.default_rng(seed)
    chosen = rng.random((6, 11)) < rng.random((6, 1))
    chosen[2] = False
    cells = chosen_cells(chosen)
    assert cells.dtype == np.int32 and cells.shape == (6, chosen.sum(axis=1).max())
    for row, listed in zip(chosen, cells, strict=True):
        count = row.sum()
        assert np.array_equal(listed[:count], np.flatnonzero(row))
        assert (listed[count:] == -1).all()


@given(seed=st.integers(0, 1000), recall=st.floats(0.1, 0.98))
def test_the_limit_is_the_least_that_suffices(seed, recall):
    rng = np.random.default_rng(seed)
    needed = rng.integers(-3, 30, (40, 5)).astype(np.float32)
    needed[needed < 0] = -np.inf
    limit, mean, error = least_limit(needed, recall)
    shares = (needed <= limit).mean(axis=1)
    assert mean == pytest.approx(shares.mean())
    assert error == pytest.approx(shares.std(ddof=0) / 39**0.5)
    assert mean - CONFIDENCE * error >= recall or limit == needed.max()
    for lower in np.unique(needed[needed < limit])[-1:]:
        within = (needed <= lower).mean(axis=1)
        assert within.mean() - CONFIDENCE * within.std() / 39**0.5 < recall


def test_nothing_more_is_visited_where_the_first_cells_suffice():
    assert least_limit(np.full((9, 4), -np.inf, np.float32), 0.99) == (-np.inf, 1.0, 0.0)


def test_gain_is_the_ratio_of_products():
    assert Tuning(4, 0.1, 9.0, 0.99, 0.001, 250.0, 1000).gain == 4.0
