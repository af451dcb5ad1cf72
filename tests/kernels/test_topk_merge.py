"""Errors and empty input of the merge; the rest is in its case table."""

from __future__ import annotations

import numpy as np
import pytest

from ebm_wgpu.errors import KernelError
from ebm_wgpu.kernels import KernelDevice


def merge(device: KernelDevice, values: list, indices: list, **dims: int) -> dict:
    found = device.run(
        "topk_merge",
        candidate_values=np.array(values, np.float32),
        candidate_indices=np.array(indices, np.int32),
        **dims,
    )
    return {name: array.numpy() for name, array in found.items()}


def test_rows_of_one_query_are_merged(any_device: KernelDevice) -> None:
    found = merge(
        any_device, [[3, 1], [2, 3], [5, 4], [0, 9]], [[7, 1], [2, 4], [3, 6], [0, -1]], B=2, K=3
    )
    assert found["values"].tolist() == [[3, 3, 2], [5, 4, 0]]
    assert found["indices"].tolist() == [[4, 7, 2], [3, 6, 0]]


def test_no_candidate_at_all(any_device: KernelDevice) -> None:
    found = merge(any_device, [[1.0, 2.0]], [[-1, -7]], B=1, K=3)
    assert found["indices"].tolist() == [[-1, -1, -1]]
    assert np.isnan(found["values"]).all()


@pytest.mark.parametrize(
    ("dims", "words"),
    [
        ({"B": 2, "K": 1}, "3 rows of candidates do not divide among B=2"),
        ({"B": 0, "K": 1}, "do not divide among B=0"),
        ({"K": 1}, "B is missing"),
        ({"B": 1}, "K is missing"),
        ({"B": 1, "K": 200}, "K=200 must be between 1 and 128"),
    ],
)
def test_impossible_requests_are_refused(
    numba_device: KernelDevice, dims: dict[str, int], words: str
) -> None:
    with pytest.raises(KernelError, match=words):
        merge(numba_device, [[1.0], [2.0], [3.0]], [[0], [1], [2]], **dims)
