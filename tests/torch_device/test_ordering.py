"""Stable orders of whole numbers, by counting and by sorting."""

from __future__ import annotations

import pytest
import torch

import ebm_wgpu.torch_device  # noqa: F401
from ebm_wgpu.torch_device.ordering import _BY_COUNTING, row_order, stable_order


@pytest.mark.parametrize("count", [1, 700, _BY_COUNTING + 1])
def test_equal_numbers_stay_as_they_came(count: int) -> None:
    ids = torch.randint(-40, 40, (count,), generator=torch.Generator().manual_seed(count))
    order, sorted_ids = stable_order(ids.to("wgpu"))
    expected = ids.sort(stable=True)
    assert torch.equal(order.cpu(), expected.indices)
    assert torch.equal(sorted_ids.cpu(), expected.values)


def test_rows_of_every_length_to_a_block_and_beyond() -> None:
    generator = torch.Generator().manual_seed(0)
    for count in (1, 3, 64, 1023, 1024, 1500, 2048, 4097):
        x = torch.randint(0, 99, (4, count), generator=generator)
        order = row_order(x.to("wgpu"), False)[:, :count]
        assert torch.equal(order.cpu(), x.sort(dim=1, stable=True).indices), count
