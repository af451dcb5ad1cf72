"""Norms, variances, running sums and products against float64."""

from __future__ import annotations

import math

import pytest
import torch

import ebm_wgpu.torch_device  # noqa: F401


def test_running_sums_of_long_rows() -> None:
    x = torch.randint(-9, 10, (3, 9001), generator=torch.Generator().manual_seed(2))
    assert torch.equal(x.to("wgpu").cumsum(1).cpu(), x.cumsum(1))
    floats = x.float() / 8
    assert torch.equal(floats.to("wgpu").cumsum(1).cpu(), floats.cumsum(1))
    assert torch.equal(floats.t().to("wgpu").cumsum(0).cpu(), floats.t().cumsum(0))


def test_running_products_of_long_rows() -> None:
    generator = torch.Generator().manual_seed(3)
    signs = 1 - 2 * torch.randint(0, 2, (2, 5003), generator=generator)
    signs[1, 4500] = 0
    assert torch.equal(signs.to("wgpu").cumprod(1).cpu(), signs.cumprod(1))
    factors = (torch.randn(2, 5003, generator=generator) / 100).exp() * signs
    exact = factors.double().cumprod(1)
    # Each entry is a product of up to 5003 factors, each product rounded to 2^-24.
    found = factors.to("wgpu").cumprod(1).cpu().double()
    torch.testing.assert_close(found, exact, rtol=2**-24 * 2 * 5003**0.5, atol=0)
    columns = factors.t().half().to("wgpu").cumprod(0)
    assert columns.dtype == torch.float16
    assert columns.shape == (5003, 2)


@pytest.mark.parametrize("zeros", [0, 1, 2])
def test_the_gradient_of_a_product_with_zeros(zeros: int) -> None:
    x = torch.tensor([1.5, -2.0, 3.0, 0.5])
    x[:zeros] = 0
    host, there = x.double().requires_grad_(), x.to("wgpu").requires_grad_()
    for leaf in (host, there):
        (leaf.prod() * 3 + leaf.cumprod(0).sum()).backward()
    assert host.grad is not None
    assert there.grad is not None
    torch.testing.assert_close(there.grad.cpu(), host.grad.float(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("order", [0, 0.5, 1, 2, 3, math.inf, -math.inf])
def test_norms_of_every_order(order: float) -> None:
    x = torch.randn(70, 513, generator=torch.Generator().manual_seed(0))
    x[:, ::7] = 0
    for dim in (0, 1, None):
        exact = torch.linalg.vector_norm(x.double(), order, dim).float()
        found = torch.linalg.vector_norm(x.to("wgpu"), order, dim).cpu()
        torch.testing.assert_close(found, exact, rtol=2e-5, atol=0)


def test_variances_far_from_zero_keep_their_digits() -> None:
    x = torch.randn(9, 20_000, generator=torch.Generator().manual_seed(1)) + 1000
    exact, mean = torch.var_mean(x.double(), 1)
    found = torch.var_mean(x.to("wgpu"), 1)
    # Entries about 1000 are rounded to 2^-14, which their centred squares remember.
    torch.testing.assert_close(found[0].cpu(), exact.float(), rtol=1e-4, atol=0)
    torch.testing.assert_close(found[1].cpu(), mean.float(), rtol=1e-6, atol=0)
    assert torch.ones(1, device="wgpu").var().isnan().item()
