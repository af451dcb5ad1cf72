"""Views alias as on the processor."""

import pytest
import torch

import ebm_wgpu.torch_device  # noqa: F401
from ebm_wgpu.errors import DeviceError


def _change(x: torch.Tensor) -> torch.Tensor:
    x[1:3].t().add_(2)
    x.view(24)[0] = 7.0
    x.transpose(0, 1)[5].mul_(3)
    x[:, ::2].sub_(1)
    x.unfold(1, 2, 2)[0, 1].zero_()
    x.diagonal()[1:].fill_(-4)
    x.expand(2, 4, 6)[1, 2, 3] = 11.0
    return x


def test_writing_through_views_changes_the_base() -> None:
    expected = _change(torch.arange(24.0).view(4, 6))
    assert torch.equal(_change(torch.arange(24.0).view(4, 6).to("wgpu")).cpu(), expected)


def test_versions_and_bases_are_tracked() -> None:
    x = torch.zeros(4, 6, device="wgpu", requires_grad=True)
    view = x.view(24)
    assert view._base is x
    y = x * 1
    squared = y * y
    y.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        squared.backward(torch.ones_like(squared))


def test_results_keep_the_strides_of_dense_operands() -> None:
    x = torch.randn(4, 6, 8)
    y = x.to("wgpu")
    for axes in ((0, 1, 2), (2, 1, 0), (1, 2, 0), (2, 0, 1)):
        host, device = x.permute(axes), y.permute(axes)
        assert (device + 1).stride() == (host + 1).stride()
        assert (device[:, ::2] * device[:, 1::2]).stride() == (
            host[:, ::2] * host[:, 1::2]
        ).stride()
        assert device.exp().stride() == host.exp().stride()


def test_elements_are_not_read_as_another_type() -> None:
    x = torch.zeros(4, device="wgpu")
    assert x.view(torch.float32).shape == (4,)
    with pytest.raises(DeviceError, match=r"cannot be viewed as torch\.int32"):
        x.view(torch.int32)
