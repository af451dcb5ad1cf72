"""Reductions beyond the operator database: long rows, many dimensions, other types."""

from __future__ import annotations

import pytest
import torch

import ebm_wgpu.torch_device  # noqa: F401


def _normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(300_001,), (3, 100_003), (100_003, 3), (257, 129)])
def test_long_rows_are_summed_in_parts_as_exactly_as_they_can_be(shape: tuple[int, ...]) -> None:
    x = _normal(*shape)
    for dim in (None, *range(len(shape))):
        exact = x.double().sum(dim) if dim is not None else x.double().sum()
        size = x.double().square().sum(dim).sqrt() if dim is not None else x.norm().double()
        result = x.to("wgpu").sum(dim)
        # Lanes, trees and parts: partial sums grow as the whole does.
        assert ((result.cpu() - exact).abs() <= 8 * torch.finfo(torch.float32).eps * size).all()
        assert torch.equal(result.cpu(), x.to("wgpu").sum(dim).cpu())


@pytest.mark.parametrize("dims", [(0, 2, 4), (1, 3), (5,), (0, 1, 2, 3, 4, 5), (2, 3)])
def test_views_of_many_dimensions(dims: tuple[int, ...]) -> None:
    x = _normal(3, 2, 4, 3, 2, 5)
    order = (4, 1, 5, 0, 3, 2)
    view = x.to("wgpu").permute(order)[:, :, ::2, 1:]
    expected = x.permute(order)[:, :, ::2, 1:]
    torch.testing.assert_close(view.sum(dims).cpu(), expected.sum(dims), rtol=1e-6, atol=1e-5)
    assert torch.equal(view.amax(dims, True).cpu(), expected.amax(dims, True))
    variance = view.var(dims, correction=0).cpu()
    torch.testing.assert_close(variance, expected.var(dims, correction=0), rtol=1e-5, atol=1e-6)


def test_broadcast_dimensions_count_as_often_as_they_are_seen() -> None:
    x = torch.tensor([1.0, 2.0, 4.0])
    view = x.to("wgpu").view(3, 1).expand(3, 5)
    assert view.sum().item() == 35
    assert view.sum(0).cpu().tolist() == [7.0] * 5
    assert view.mean(1).cpu().tolist() == [1.0, 2.0, 4.0]


def test_whole_numbers_and_truth_values_sum_exactly() -> None:
    x = torch.randint(-1000, 1000, (37, 900), generator=torch.Generator().manual_seed(1))
    on_device = x.to("wgpu")
    assert torch.equal(on_device.sum(1).cpu(), x.sum(1))
    assert torch.equal(on_device.amin(0).cpu(), x.amin(0))
    assert torch.equal((on_device > 990).sum().cpu(), (x > 990).sum())
    assert torch.equal((on_device > 990).any(1).cpu(), (x > 990).any(1))
    assert torch.equal((on_device > -999).all(0).cpu(), (x > -999).all(0))
    assert torch.equal(on_device.cumsum(1).cpu(), x.cumsum(1))
    assert on_device.sum().dtype == torch.int64
    assert on_device.float().mean().item() == pytest.approx(x.float().mean().item(), rel=1e-6)


def test_halves_are_summed_in_float32() -> None:
    x = torch.full((5000,), 0.1, dtype=torch.float16).to("wgpu")
    assert x.sum().item() == torch.tensor(5000 * float(torch.tensor(0.1).half())).half().item()
    assert x.sum().dtype == torch.float16


def test_empty_tensors() -> None:
    x = torch.empty(0, 3, device="wgpu")
    assert x.sum(0).cpu().tolist() == [0.0] * 3
    assert x.prod(0).cpu().tolist() == [1.0] * 3
    assert x.sum(1).shape == (0,)
    assert torch.isnan(x.mean()).item()
    assert x.all().item()
    assert not x.any().item()
    with pytest.raises(RuntimeError, match="reduction dim"):
        x.amax(0)
