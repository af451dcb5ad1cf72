"""Online memory: what a position sees, whatever the parts in which the text arrives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebm_wgpu.errors import ConfigError
from ebm_wgpu.kernels import KernelDevice
from ebm_wgpu.splats.hrm2 import Hrm2Search
from ebm_wgpu.splats.memory import OnlineMemory
from ebm_wgpu.splats.search import make_search

D = 8


def unit_rows(count: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, D)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def seen(memory: OnlineMemory, parts: list[int], total: int) -> list[dict[int, tuple[int, float]]]:
    """For each position, the token and cosine of what it sees, by age."""
    queries, mu = unit_rows(total, 1), unit_rows(total, 2)
    sids = np.arange(100, 100 + total)
    found, start = [], 0
    for size in parts:
        rows = slice(start, start + size)
        part = memory.recall(queries[rows], mu[rows], sids[rows])
        for row, (cosine, log_age) in enumerate(zip(part.cosines, part.log_age, strict=True)):
            there = np.isfinite(log_age)
            ages = np.round(np.exp(log_age[there])).astype(int).tolist()
            ids = np.broadcast_to(part.sids, part.cosines.shape)[row][there].tolist()
            found.append(
                dict(zip(ages, zip(ids, cosine[there].tolist(), strict=True), strict=True))
            )
        start += size
    return found


@given(
    capacity=st.integers(1, 12),
    parts=st.lists(st.integers(1, 7), min_size=1, max_size=6),
)
@settings(max_examples=40, deadline=None)
def test_each_position_sees_the_last_states_before_it(capacity: int, parts: list[int]) -> None:
    total = sum(parts)
    memory = OnlineMemory(D, capacity)
    found = seen(memory, parts, total)
    queries, mu = unit_rows(total, 1), unit_rows(total, 2)
    for t, what in enumerate(found):
        assert sorted(what) == list(range(1, min(t, capacity) + 1))
        for age, (sid, cosine) in what.items():
            assert sid == 100 + t - age
            assert cosine == pytest.approx(float(queries[t] @ mu[t - age]), abs=1e-6)
    assert len(memory) == min(total, capacity)


@given(
    capacity=st.integers(1, 12),
    parts=st.lists(st.integers(1, 7), min_size=1, max_size=8),
)
@settings(max_examples=40, deadline=None)
def test_a_search_for_more_than_there_are_sees_what_a_comparison_does(
    capacity: int, parts: list[int]
) -> None:
    everything = seen(OnlineMemory(D, capacity), parts, sum(parts))
    memory = OnlineMemory(D, capacity, lambda: make_search("flat"), n_neighbours=12)
    for found, expected in zip(seen(memory, parts, sum(parts)), everything, strict=True):
        assert found.keys() == expected.keys()
        for age, (sid, cosine) in found.items():
            assert sid == expected[age][0]
            assert cosine == pytest.approx(expected[age][1], abs=1e-6)


def test_a_search_sees_its_own_part_and_the_nearest_before(numba_device: KernelDevice) -> None:
    parts, capacity, wanted = [30] * 12, 100, 5
    memory = OnlineMemory(D, capacity, lambda: make_search("brute", numba_device), wanted)
    queries, mu = unit_rows(360, 1), unit_rows(360, 2)
    short = 0
    for t, what in enumerate(seen(memory, parts, 360)):
        begin = t // 30 * 30
        assert {age for age in what if age <= t - begin} == set(range(1, t - begin + 1))
        before = sorted((t - age for age in what if age > t - begin), reverse=True)
        held = np.arange(max(0, t - capacity), begin)
        nearest = held[np.argsort(-(mu[held] @ queries[t]))[:wanted]]
        assert set(before) <= set(held.tolist())
        # Of twice as many fetched some are forgotten, and now and then more than half.
        assert set(before) == set(nearest[: len(before)].tolist())
        short += len(before) < min(wanted, len(held))
    assert 0 < short < 30
    assert memory.width(30) == 35 and len(memory) == capacity


def test_a_memory_in_an_index_forgets(numba_device: KernelDevice) -> None:
    made: list[Hrm2Search] = []

    def make() -> Hrm2Search:
        made.append(Hrm2Search(numba_device, n_cells=6, n_probes=1000))
        return made[-1]

    memory = OnlineMemory(D, 64, make, 64)
    everything = seen(OnlineMemory(D, 64), [16] * 20, 320)
    for found, expected in zip(seen(memory, [16] * 20, 320), everything, strict=True):
        assert found.keys() == expected.keys()
    # 16, 32, ... 96 states, then the last 64 of them and more.
    assert [len(index) for index in made] == [96, 96, 96, 96, 96, 80]


def test_it_holds_the_newest_with_their_ages() -> None:
    memory = OnlineMemory(D, 3)
    mu = unit_rows(5)
    memory.recall(mu, mu, [9, 8, 7, 6, 5])
    assert len(memory) == 3
    found = memory.recall(mu[:1], mu[:1], [4])
    held = np.isfinite(found.log_age[0])
    np.testing.assert_array_equal(found.sids[held], [7, 6, 5])
    np.testing.assert_allclose(np.exp(found.log_age[0, held]), [3, 2, 1], rtol=1e-6)
    np.testing.assert_allclose(found.cosines[0, held], mu[2:] @ mu[0], atol=1e-6)


def test_errors_name_value_and_remedy() -> None:
    with pytest.raises(ConfigError, match=r"capacity = 0 .* use at least 1"):
        OnlineMemory(D, 0)
    with pytest.raises(ConfigError, match=r"n_neighbours = 65 .* use 1 to 64"):
        OnlineMemory(D, 2, lambda: make_search("flat"), 65)
    memory = OnlineMemory(D, 2)
    with pytest.raises(ConfigError, match="3 queries, 3 states and 2 tokens"):
        memory.recall(unit_rows(3), unit_rows(3), [1, 2])
    with pytest.raises(ConfigError, match="NaN or infinity"):
        memory.recall(np.full((1, D), np.nan), unit_rows(1), [1])
