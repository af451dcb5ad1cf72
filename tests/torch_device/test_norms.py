"""Norms and softmax against float64, with gradients of gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import layer_norm, rms_norm

import ebm_wgpu.torch_device as torch_device


def _normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("norm", [layer_norm, rms_norm])
@pytest.mark.parametrize("shape", [(7, 33), (2, 3, 64)])
def test_norms_and_their_gradients_of_gradients(norm: Any, shape: tuple[int, ...]) -> None:
    found = []
    for device, dtype in (("cpu", torch.float64), ("wgpu", torch.float32)):
        x = (_normal(*shape) * 3 + 5).to(device, dtype).requires_grad_()
        weight = _normal(shape[-1]).to(device, dtype).requires_grad_()
        y = norm(x, (shape[-1],), weight, eps=1e-5)
        gradients = torch.autograd.grad(y.square().sum(), (x, weight), create_graph=True)
        second = torch.autograd.grad(gradients[0].square().sum(), (x, weight))
        found.append([t.detach().cpu().float() for t in (y, *gradients, *second)])
    for value, expected in zip(found[1], found[0], strict=True):
        scale = float(expected.abs().max())
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=2e-5 * scale)


def test_softmax_along_any_dimension_and_of_halves() -> None:
    x = _normal(3, 40, 5) * 4
    for dim in range(3):
        found = x.to("wgpu").softmax(dim).cpu()
        torch.testing.assert_close(found, x.double().softmax(dim).float(), rtol=2e-5, atol=1e-7)
    half = x.half().to("wgpu").log_softmax(1)
    assert half.dtype == torch.float16
    exact = x.half().double().log_softmax(1).float()
    torch.testing.assert_close(half.float().cpu(), exact, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("norm", [layer_norm, rms_norm])
def test_a_norm_without_parameters_is_one_kernel(norm: Any) -> None:
    x = _normal(5, 24).to("wgpu")
    first = norm(x, (24,))
    runtime = torch_device.device().runtime
    before = runtime.dispatches
    again = norm(x, (24,))
    assert runtime.dispatches == before + 1
    assert torch.equal(first.cpu(), again.cpu())
    torch.testing.assert_close(first.cpu(), norm(x.cpu(), (24,)), rtol=1e-5, atol=1e-6)
