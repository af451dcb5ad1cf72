"""Several indices, masks, views, repeated places."""

from __future__ import annotations

import pytest
import torch

import ebm_wgpu.torch_device  # noqa: F401


def _normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("accumulate", [False, True])
def test_several_indices_with_slices_between(accumulate: bool) -> None:
    x = _normal(4, 5, 6, 3)
    rows, planes = torch.tensor([[0], [3], [-1]]), torch.tensor([1, -2])
    device = x.to("wgpu")
    found = device[rows.to("wgpu"), :, planes.to("wgpu")]
    assert torch.equal(found.cpu(), x[rows, :, planes])
    values = _normal(3, 2, 5, 3)
    view, host = device.transpose(1, 2), x.clone().transpose(1, 2)
    given = (rows.to("wgpu"), planes.to("wgpu"))
    view.index_put_(given, values.to("wgpu"), accumulate)
    host.index_put_((rows, planes), values, accumulate)
    if accumulate:
        torch.testing.assert_close(view.cpu(), host, rtol=1e-6, atol=1e-6)
    else:
        # Rows 3 and -1 are the same: either may be the last.
        assert torch.equal(view[0].cpu(), host[0])


def test_masks() -> None:
    x = _normal(30, 40)
    mask = x > 0.5
    device = x.to("wgpu")
    assert torch.equal(device[mask.to("wgpu")].cpu(), x[mask])
    assert torch.equal(mask.to("wgpu").nonzero().cpu(), mask.nonzero())
    device[mask.to("wgpu")] = 7.0
    assert torch.equal(device.cpu(), torch.where(mask, 7.0, x))
    assert device[torch.zeros(30, dtype=torch.bool, device="wgpu")].shape == (0, 40)
    with pytest.raises(IndexError, match="mask"):
        device[mask.t().to("wgpu")]
