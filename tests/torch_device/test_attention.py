"""Attention on the device against the processor: masks, shared heads, first and second gradient."""

from __future__ import annotations

import gc
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import ebm_wgpu.torch_device as torch_device
from ebm_wgpu.errors import DeviceError

B, H, T, S, D = 2, 4, 37, 45, 16
MASKS = {
    "rows and columns": torch.arange(T * S).view(T, S) % 5 != 0,
    "padding": (torch.arange(S) < torch.tensor([[S], [20]]))[:, None, None, :],
    "heads": torch.arange(B * H * T * S).view(B, H, T, S) % 7 < 4,
    "one batch": (torch.arange(H * T * S).view(1, H, T, S) % 3 != 0),
    "added": torch.linspace(-3, 3, T * S).view(T, S),
    "nothing seen": torch.zeros(T, S, dtype=torch.bool),
}


def heads(queries: int = H, keys: int = H, length: int = S) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((B, queries, T, D), (B, keys, length, D), (B, keys, length, D))
    return [torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes]


def on_device(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    return [tensor.detach().to("wgpu").requires_grad_() for tensor in tensors]


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual.cpu(), expected, rtol=1e-5, atol=1e-5)


def compare(tensors: list[torch.Tensor], mask: torch.Tensor | None = None, **options: Any) -> None:
    copies = on_device(tensors)
    expected = F.scaled_dot_product_attention(*tensors, attn_mask=mask, **options)
    there = None if mask is None else mask.to("wgpu")
    actual = F.scaled_dot_product_attention(*copies, attn_mask=there, **options)
    close(actual, expected)
    upstream = torch.linspace(-1, 1, expected.numel()).view(expected.shape)
    gradients = torch.autograd.grad(actual, copies, upstream.to("wgpu"))
    for value, truth in zip(
        gradients, torch.autograd.grad(expected, tensors, upstream), strict=True
    ):
        close(value, truth)


@pytest.mark.parametrize("name", MASKS)
def test_masks(name: str) -> None:
    compare(heads(), MASKS[name])


@pytest.mark.parametrize("scale", [None, 0.1])
def test_causal(scale: float | None) -> None:
    compare(heads(length=T), is_causal=True, scale=scale)
    compare(heads(), is_causal=True)


def test_heads_that_share_keys() -> None:
    compare(heads(keys=2, length=T), is_causal=True, enable_gqa=True)


def test_batches_that_broadcast_and_views_that_are_transposes() -> None:
    q, k, v = heads()
    compare([q[0].detach().requires_grad_(), k, v])
    turned = [t.detach().transpose(1, 2).contiguous().transpose(1, 2) for t in (q, k, v)]
    compare([t.requires_grad_() for t in turned])


def test_no_matrix_of_scores_is_held() -> None:
    q = torch.randn(1, 1, 1024, 8, generator=torch.Generator().manual_seed(0)).to("wgpu")
    gc.collect()
    pool = torch_device.device().runtime.pool
    pool.reset_peak()
    before = pool.live_bytes
    F.scaled_dot_product_attention(q, q, q, is_causal=True)
    assert pool.peak_bytes - before < 1024 * 1024


@pytest.mark.parametrize(("dropout", "width"), [(0.0, 1e-6), (0.25, 0.05)])
def test_dropout_drops_shares_and_scales_the_rest(dropout: float, width: float) -> None:
    torch.manual_seed(3)
    q = torch.zeros(1, 8, 64, 8, device="wgpu")
    v = torch.ones(1, 8, 64, 8, device="wgpu", requires_grad=True)
    out = F.scaled_dot_product_attention(q, q, v, dropout_p=dropout)
    # A row keeps Binomial(64, 1 - p) shares of 1/(64 (1 - p)).
    kept = out[..., 0].detach().cpu() * 64 * (1 - dropout)
    torch.testing.assert_close(kept, kept.round(), rtol=0, atol=1e-3)
    assert out.mean().item() == pytest.approx(1, abs=width)
    (gradient,) = torch.autograd.grad(out, v, torch.ones_like(out))
    assert gradient.sum().item() == pytest.approx(out.sum().item(), rel=1e-5)
    torch.manual_seed(3)
    again = F.scaled_dot_product_attention(q, q, v, dropout_p=dropout)
    assert torch.equal(out.cpu(), again.cpu())


@pytest.mark.parametrize("masked", [False, True])
def test_second_derivatives(masked: bool) -> None:
    """Of the sum of squares of the gradient, as energy models take them."""
    results = []
    tensors = [t[:, :, :9].detach() for t in heads(keys=2)]
    mask = torch.arange(81).view(9, 9) % 4 != 0
    for place in ("cpu", "wgpu"):
        leaves = [t.to(place).requires_grad_() for t in tensors]
        options: dict[str, Any] = {"is_causal": True}
        if masked:
            options = {"attn_mask": mask.to(place)}
        # The processor's fused attention has no second derivative.
        with sdpa_kernel(SDPBackend.MATH):
            out = F.scaled_dot_product_attention(*leaves, enable_gqa=True, **options)
        first = torch.autograd.grad(out.square().sum(), leaves, create_graph=True)
        penalty = torch.stack([g.square().sum() for g in first]).sum()
        results.append([*first, *torch.autograd.grad(penalty, leaves)])
    for expected, actual in zip(*results, strict=True):
        scale = float(expected.detach().abs().max())
        torch.testing.assert_close(actual.cpu(), expected, rtol=1e-5, atol=2e-6 * scale)


def test_second_derivatives_through_dropout_are_refused() -> None:
    q = torch.ones(1, 1, 3, 8, device="wgpu", requires_grad=True)
    out = F.scaled_dot_product_attention(q, q, q, dropout_p=0.5)
    with pytest.raises(DeviceError, match="use dropout_p=0"):
        torch.autograd.grad(out.sum(), q, create_graph=True)


def test_what_the_kernels_do_not_cover_is_made_of_products() -> None:
    generator = torch.Generator().manual_seed(0)
    wide = [torch.randn(1, 2, 5, 200, generator=generator, requires_grad=True) for _ in range(3)]
    compare(wide)
    q, k, v = heads()
    compare([q, k, v[..., :7].detach().requires_grad_()])
    bias = torch.zeros(T, S, device="wgpu", requires_grad=True)
    out = F.scaled_dot_product_attention(*on_device([q, k, v]), attn_mask=bias)
    (gradient,) = torch.autograd.grad(out.sum(), bias)
    assert gradient.shape == bias.shape


def test_halves() -> None:
    q, k, v = (t.detach() for t in heads())
    expected = F.scaled_dot_product_attention(q, k, v)
    actual = F.scaled_dot_product_attention(*(t.half().to("wgpu") for t in (q, k, v)))
    assert actual.dtype == torch.float16
    torch.testing.assert_close(actual.cpu().float(), expected, rtol=0, atol=4e-3)


def test_a_mask_beside_causal_is_refused() -> None:
    q = torch.ones(1, 1, 3, 8, device="wgpu")
    with pytest.raises(RuntimeError, match="is_causal=True"):
        F.scaled_dot_product_attention(
            q, q, q, attn_mask=torch.zeros(3, 3, device="wgpu"), is_causal=True
        )


def test_scale_is_that_of_the_width() -> None:
    q = torch.full((1, 1, 2, 4), 2.0, device="wgpu")
    keys = torch.tensor([[[[1.0] * 4, [0.0] * 4]]], device="wgpu")
    values = torch.tensor([[[[1.0] * 4, [0.0] * 4]]], device="wgpu")
    out = F.scaled_dot_product_attention(q, keys, values)
    assert out[0, 0, 0, 0].item() == pytest.approx(1 / (1 + math.exp(-4.0)), rel=1e-6)
