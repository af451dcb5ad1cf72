"""Sorting: stability, NaN, rows beyond one workgroup's block."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ebm_wgpu.torch_device  # noqa: F401


@pytest.mark.parametrize("count", [1, 2, 1000, 1025, 5000])
@pytest.mark.parametrize("descending", [False, True])
def test_order_of_rows_with_many_ties_is_that_of_the_processor(
    count: int, descending: bool
) -> None:
    x = torch.randint(0, 50, (3, count), generator=torch.Generator().manual_seed(count)).float()
    x[0, 0], x[1, -1] = torch.nan, -torch.inf
    expected = x.sort(dim=1, descending=descending, stable=True)
    found = x.to("wgpu").sort(dim=1, descending=descending, stable=True)
    torch.testing.assert_close(found.values.cpu(), expected.values, equal_nan=True, rtol=0, atol=0)
    assert torch.equal(found.indices.cpu(), expected.indices)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=70), st.booleans())
def test_whole_numbers_of_any_size_are_sorted(numbers: list[int], descending: bool) -> None:
    x = torch.tensor(numbers).to("wgpu")
    assert x.sort(descending=descending).values.cpu().tolist() == sorted(
        numbers, reverse=descending
    )


def test_the_greatest_of_a_vocabulary() -> None:
    x = torch.randn(2, 50_257, generator=torch.Generator().manual_seed(0))
    found, expected = x.to("wgpu").topk(40), x.topk(40)
    assert torch.equal(found.values.cpu(), expected.values)
    assert torch.equal(found.indices.cpu(), expected.indices)
    least = x.to("wgpu").topk(5, largest=False).indices
    assert torch.equal(least.cpu(), x.topk(5, largest=False).indices)
    with pytest.raises(RuntimeError, match="out of range"):
        x.to("wgpu").topk(50_258)


def test_distinct_entries_and_their_counts() -> None:
    x = torch.randint(-5, 5, (9, 100), generator=torch.Generator().manual_seed(0))
    for given_, expected in zip(
        x.to("wgpu").unique(return_inverse=True, return_counts=True),
        x.unique(return_inverse=True, return_counts=True),
        strict=True,
    ):
        assert torch.equal(given_.cpu(), expected)


def test_the_top_p_of_a_distribution_as_samplers_take_it() -> None:
    logits = torch.randn(4, 301, generator=torch.Generator().manual_seed(3))
    kept = []
    for device in ("cpu", "wgpu"):
        ordered, places = logits.to(device).softmax(-1).sort(-1, descending=True)
        drop = ordered.cumsum(-1) - ordered > 0.9
        kept.append(torch.zeros_like(drop).scatter(1, places, drop).cpu())
    assert torch.equal(kept[0], kept[1])
