"""The best entry of a row: NaN, ties, long rows."""

from __future__ import annotations

import torch

import ebm_wgpu.torch_device  # noqa: F401


def test_nan_wins_in_extremes_and_the_first_of_equals_is_found() -> None:
    x = torch.tensor([[1.0, 5.0, 5.0, -2.0], [0.0, torch.nan, 7.0, torch.nan]]).to("wgpu")
    assert torch.isnan(x.amax(1)).cpu().tolist() == [False, True]
    assert x.argmax(1).cpu().tolist() == [1, 1]
    assert x.argmin(1).cpu().tolist() == [3, 1]
    assert x.max(0).indices.cpu().tolist() == [0, 1, 1, 1]


def test_the_greatest_of_a_long_row_is_found_in_segments() -> None:
    x = torch.randn(2, 1 << 16, generator=torch.Generator().manual_seed(0))
    x[0, 50_000] = x[0, 60_000] = 9
    for dim in (0, 1):
        found, expected = x.to("wgpu").max(dim), x.max(dim)
        assert torch.equal(found.values.cpu(), expected.values)
        assert torch.equal(found.indices.cpu(), expected.indices)
    assert x.to("wgpu").argmax().item() == 50_000
