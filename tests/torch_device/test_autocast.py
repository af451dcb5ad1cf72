"""Mixed precision: products in float16, the rest and all gradients of weights in float32."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

pytestmark = pytest.mark.usefixtures("no_fallbacks")


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.LayerNorm(32), nn.Linear(32, 5))


def test_products_are_half_and_losses_single() -> None:
    host = _model()
    there = copy.deepcopy(host).to("wgpu")
    x = torch.randn(20, 16, generator=torch.Generator().manual_seed(1))
    target = torch.arange(20) % 5
    expected = F.cross_entropy(host(x), target)
    expected.backward()
    with torch.autocast("wgpu", dtype=torch.float16):
        logits = there(x.to("wgpu"))
        attended = F.scaled_dot_product_attention(*(logits.view(1, 1, 20, 5),) * 3)
        loss = F.cross_entropy(logits, target.to("wgpu"))
    assert logits.dtype == attended.dtype == torch.float16
    assert there[2](torch.ones(1, 32, device="wgpu")).dtype == torch.float32
    assert loss.dtype == torch.float32
    loss.backward()
    # Halves round to 5e-4 of a value; a few of them follow each other here.
    torch.testing.assert_close(loss.cpu(), expected, rtol=2e-3, atol=0)
    for actual, truth in zip(there.parameters(), host.parameters(), strict=True):
        assert actual.grad is not None
        assert truth.grad is not None
        assert actual.grad.dtype == torch.float32
        scale = float(truth.grad.abs().max())
        torch.testing.assert_close(actual.grad.cpu(), truth.grad, rtol=0, atol=1e-2 * scale)


def test_nothing_changes_outside() -> None:
    there = _model().to("wgpu")
    x = torch.ones(1, 16, device="wgpu")
    before = there(x)
    with torch.autocast("wgpu", dtype=torch.float16):
        there(x)
    assert before.dtype == torch.float32
    assert torch.equal(there(x).cpu(), before.cpu())


def test_what_was_not_exact_in_half_is_summed_in_single() -> None:
    with torch.autocast("wgpu", dtype=torch.float16):
        ones = torch.ones(5000, 1, device="wgpu") @ torch.ones(1, 1, device="wgpu")
        total = ones.sum()
        assert ones.dtype == torch.float16
    assert total.dtype == torch.float32
    assert total.item() == 5000


def _scaled_steps(model: nn.Module, scaler: torch.amp.GradScaler) -> list[float]:
    """Five steps with a clipped gradient; the scale after each."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
    x = torch.randn(20, 16, generator=torch.Generator().manual_seed(1)).to("wgpu")
    target = (torch.arange(20) % 5).to("wgpu")
    scales = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), target)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
    return scales


def test_scaled_losses_lead_to_the_same_steps() -> None:
    scaled, plain = _model().to("wgpu"), _model().to("wgpu")
    scaler = torch.amp.GradScaler("wgpu", init_scale=2.0**20, growth_interval=3)
    assert _scaled_steps(scaled, scaler) == [2.0**20, 2.0**20, 2.0**21, 2.0**21, 2.0**21]
    _scaled_steps(plain, torch.amp.GradScaler("wgpu", enabled=False))
    for one, other in zip(scaled.parameters(), plain.parameters(), strict=True):
        # Powers of two change no digit, and nothing here is near the ends of float32.
        assert torch.equal(one.cpu(), other.cpu())


def test_what_overflows_is_left_out_and_the_scale_falls() -> None:
    model = _model().to("wgpu")
    before = [parameter.detach().cpu() for parameter in model.parameters()]
    scaler = torch.amp.GradScaler("wgpu", init_scale=2.0**127)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
    scaler.scale(model(torch.ones(2, 16, device="wgpu")).square().sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0**126
    for parameter, start in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter.cpu(), start)
