"""Ties, NaN, edges and errors of the search; parity with float64 is proven by its case table."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebm_wgpu.errors import KernelError
from ebm_wgpu.kernels import KernelDevice


def search(device: KernelDevice, x: np.ndarray, mu: np.ndarray, **dims: int) -> tuple:
    found = device.run("similarity_topk", x=x, mu=mu, **dims)
    return found["values"].numpy().copy(), found["indices"].numpy().copy()


def best(x: np.ndarray, mu: np.ndarray, k: int) -> tuple:
    """By a stable sort in float64: equal values keep the order of their indices."""
    cosines = x.astype(np.float64) @ mu.astype(np.float64).T
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(cosines, order, 1), order


def whole_numbers(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-2, 3, shape).astype(np.float32)


@given(
    queries=st.integers(1, 9),
    splats=st.integers(1, 400),
    d=st.integers(8, 20),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
)
def test_equals_a_stable_sort(
    any_device: KernelDevice, queries: int, splats: int, d: int, share: float, seed: int
) -> None:
    x, mu = whole_numbers(seed, queries, d), whole_numbers(seed + 1, splats, d)
    k = 1 + int(share * (min(splats, 128) - 1))
    values, indices = search(any_device, x, mu, K=k)
    expected_values, expected_indices = best(x, mu, k)
    np.testing.assert_array_equal(values, expected_values)
    np.testing.assert_array_equal(indices, expected_indices)


def test_equal_splats_come_in_the_order_of_their_indices(any_device: KernelDevice) -> None:
    mu = np.zeros((2100, 8), np.float32)
    mu[:, 1] = 1
    twins = [3, 127, 128, 129, 1023, 1024, 2099]
    mu[twins] = np.eye(8, dtype=np.float32)[0]
    x = np.eye(8, dtype=np.float32)[:1]
    values, indices = search(any_device, x, mu, K=10)
    assert indices[0].tolist() == [*twins, 0, 1, 2]
    assert values[0].tolist() == [1.0] * 7 + [0.0] * 3


def test_zero_and_minus_zero_are_equal(any_device: KernelDevice) -> None:
    x = np.ones((1, 8), np.float32)
    mu = np.zeros((6, 8), np.float32)
    mu[::2] = -0.0
    values, indices = search(any_device, x, mu, K=6)
    assert indices[0].tolist() == [0, 1, 2, 3, 4, 5]
    assert not values.any()


def test_nan_comes_last_and_minus_infinity_before_it(any_device: KernelDevice) -> None:
    mu = np.zeros((9, 8), np.float32)
    mu[:, 0] = [np.nan, 1, -np.inf, np.nan, 3, np.inf, 1, np.nan, -1]
    x = np.zeros((1, 8), np.float32)
    x[0, 0] = 1
    values, indices = search(any_device, x, mu, K=9)
    assert indices[0].tolist() == [5, 4, 1, 6, 8, 2, 0, 3, 7]
    expected = [np.inf, 3, 1, 1, -1, -np.inf, np.nan, np.nan, np.nan]
    np.testing.assert_array_equal(values[0], np.array(expected, np.float32))


def test_a_nan_query_spoils_no_other(any_device: KernelDevice) -> None:
    x, mu = whole_numbers(5, 6, 12), whole_numbers(6, 200, 12)
    _, clean = search(any_device, x, mu, K=7)
    x[2] = np.nan
    values, indices = search(any_device, x, mu, K=7)
    assert np.isnan(values[2]).all()
    assert indices[2].tolist() == list(range(7))
    others = [0, 1, 3, 4, 5]
    np.testing.assert_array_equal(indices[others], clean[others])


def test_segments_search_disjoint_ranges(any_device: KernelDevice) -> None:
    x, mu = whole_numbers(1, 3, 8), whole_numbers(2, 100, 8)
    values, indices = search(any_device, x, mu, K=4, R=9)
    for query in range(3):
        for segment, (start, end) in enumerate([(0, 34), (34, 68), (68, 100)]):
            expected_values, expected_indices = best(x[query : query + 1], mu[start:end], 4)
            np.testing.assert_array_equal(values[3 * query + segment], expected_values[0])
            np.testing.assert_array_equal(indices[3 * query + segment], start + expected_indices[0])


def test_places_beyond_a_short_segment_are_empty(any_device: KernelDevice) -> None:
    x, mu = whole_numbers(1, 1, 8), whole_numbers(2, 7, 8)
    values, indices = search(any_device, x, mu, K=4, R=5)
    assert (indices >= 0).sum(axis=1).tolist() == [2, 2, 2, 1, 0]
    np.testing.assert_array_equal(np.isnan(values), indices < 0)


def test_half_precision_splats_are_searched_as_stored(any_device: KernelDevice) -> None:
    x, mu = whole_numbers(1, 5, 16), whole_numbers(2, 150, 16)
    stored = any_device.array(mu, "f16")
    found = any_device.run("similarity_topk", x=x, mu=stored, K=20)
    np.testing.assert_array_equal(found["indices"].numpy(), best(x, mu, 20)[1])


def test_no_queries_give_no_rows(any_device: KernelDevice) -> None:
    values, indices = search(any_device, np.zeros((0, 8), np.float32), whole_numbers(1, 5, 8), K=3)
    assert values.shape == indices.shape == (0, 3)


@pytest.mark.parametrize(
    ("dims", "words"),
    [
        ({"K": 11}, "K=11 exceeds N=10"),
        ({"K": 0}, "K=0 must be between 1 and 128"),
        ({"K": 129}, "K=129 must be between 1 and 128"),
        ({}, "K, the number of splats wanted, is missing"),
        ({"K": 2, "R": 5}, "R=5 must be a multiple of B=2"),
        ({"K": 2, "R": 0}, "R=0 must be a multiple of B=2"),
    ],
)
def test_impossible_requests_are_refused(
    numba_device: KernelDevice, dims: dict[str, int], words: str
) -> None:
    with pytest.raises(KernelError, match=words):
        search(numba_device, whole_numbers(1, 2, 8), whole_numbers(2, 10, 8), **dims)
