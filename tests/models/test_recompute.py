"""Recomputing gives the gradients of the plain computation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ebm_wgpu.models.recompute import recomputed


def test_gradients_with_an_inner_derivative() -> None:
    torch.manual_seed(0)
    weight = torch.randn(4, 4, dtype=torch.float64, requires_grad=True)
    unused = torch.ones(2, dtype=torch.float64, requires_grad=True)
    fixed = torch.ones(4, dtype=torch.float64)
    source = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    calls = []

    def function(inputs: Sequence[Tensor], differentiate: bool) -> tuple[Tensor, ...]:
        calls.append(differentiate)
        with torch.enable_grad():
            x = inputs[0]
            if not x.requires_grad:
                x = x.detach().requires_grad_()
            energy = (x @ weight).tanh().square().sum()
            (inner,) = torch.autograd.grad(energy, x, create_graph=differentiate)
        return (x - inner) * inputs[1], energy.detach()

    def gradients(recompute: bool) -> tuple[Tensor, ...]:
        inputs = [source.sin(), fixed]
        if recompute:
            moved, _ = recomputed(function, inputs, [weight, unused])
        else:
            moved, _ = function(inputs, True)
        loss = moved.pow(3).sum()
        wanted = [source, weight, unused]
        found = torch.autograd.grad(loss, wanted, allow_unused=True)
        assert found[2] is None
        return loss.detach(), found[0], found[1]

    plain, twice = gradients(False), gradients(True)
    for a, b in zip(plain, twice, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=0)
    assert calls == [True, False, True]
