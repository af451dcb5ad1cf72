"""Attention and cache against loops over single tokens."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from ebm_wgpu.models.rotary import rotary_table, rotate
from ebm_wgpu.models.transformer_blocks import (
    Attention,
    Block,
    FeedForward,
    KeyValueCache,
    causal_attention,
    reset_parameters,
)
from ebm_wgpu.models.transformer_config import TransformerConfig


def test_attention_is_the_sum_over_earlier_tokens() -> None:
    config = TransformerConfig(dim=24, n_heads=3)
    attention = Attention(config).double()
    length = 6
    x = torch.randn(2, length, 24, dtype=torch.float64)
    cos, sin = (table.double() for table in rotary_table(length, 8))
    query, key, value = attention.inputs(x).view(2, length, 3, 3, 8).unbind(2)
    mixed = torch.zeros(2, length, 3, 8, dtype=torch.float64)
    for b in range(2):
        for head in range(3):
            for t in range(length):
                turned = rotate(query[b, [t], head], cos[[t]], sin[[t]])
                keys = rotate(key[b, : t + 1, head], cos[: t + 1], sin[: t + 1])
                share = ((keys @ turned[0]) / math.sqrt(8)).softmax(0)
                mixed[b, t, head] = share @ value[b, : t + 1, head]
    expected = attention.output(mixed.flatten(2))
    torch.testing.assert_close(attention(x, cos, sin, False), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("activation", ["gelu", "swiglu"])
def test_feed_forward_formula(activation: str) -> None:
    config = TransformerConfig(dim=16, n_heads=2, activation=activation)  # type: ignore[arg-type]
    part = FeedForward(config).double()
    x = torch.randn(5, 16, dtype=torch.float64)
    inner = x @ part.inputs.weight.T
    if activation == "swiglu":
        gate, inner = inner[:, : config.hidden_units], inner[:, config.hidden_units :]
        inner = gate * gate.sigmoid() * inner
    else:
        cubic = math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3)
        inner = 0.5 * inner * (1 + cubic.tanh())
    torch.testing.assert_close(part(x), inner @ part.output.weight.T, rtol=1e-12, atol=1e-13)


def test_first_weights_have_the_stated_scale() -> None:
    config = TransformerConfig(dim=128, n_heads=4, n_layers=8)
    block = Block(config)
    reset_parameters(block, config.n_layers, torch.Generator().manual_seed(0))
    inner, outer = block.feed_forward.inputs.weight, block.feed_forward.output.weight
    # 65,536 draws: the standard error of a deviation is 0.3%.
    assert inner.std().item() == pytest.approx(0.5 / math.sqrt(128), rel=0.015)
    assert outer.std().item() == pytest.approx(0.5 / math.sqrt(512) / 4, rel=0.015)
    assert bool((block.attention_norm.weight == 1).all())
    assert isinstance(block.attention_norm, nn.LayerNorm)


def test_cache_grows_without_losing_anything_and_selects_rows() -> None:
    held = [torch.randn(2, 3, 4, 5)]
    cache = KeyValueCache(torch.tensor([4, 2]), [held[0].clone()], [held[0].clone()])
    cache.reserve(3)
    assert cache.slots == 4
    cache.reserve(5)
    assert cache.slots == 8
    torch.testing.assert_close(cache.keys[0][:, :, :4], held[0], rtol=0, atol=0)
    chosen = cache.select(torch.tensor([1, 1, 0]))
    assert chosen.lengths.tolist() == [2, 2, 4]
    torch.testing.assert_close(chosen.values[0][0], cache.values[0][1], rtol=0, atol=0)
    chosen.keys[0].zero_()
    assert bool((cache.keys[0][0, :, :4] == held[0][0]).all())


@pytest.mark.parametrize("length", [1, 9, 64])
def test_attention_that_learns_in_bfloat16_is_that_in_float64_but_for_rounding(length: int) -> None:
    generator = torch.Generator().manual_seed(length)
    drawn = [torch.randn(2, 3, length, 16, generator=generator).bfloat16() for _ in range(4)]
    found = []
    for dtype in (torch.float64, torch.bfloat16):
        heads = [part.to(dtype).requires_grad_() for part in drawn[:3]]
        out = causal_attention(*heads)
        gradients = torch.autograd.grad(out, heads, drawn[3].to(dtype))
        found.append([t.detach().double() for t in (out, *gradients)])
    for exact, rounded in zip(*found, strict=True):
        # bfloat16 keeps 8 bits, of scores up to 4 or so as well.
        torch.testing.assert_close(rounded, exact, rtol=0.03, atol=0.03)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_short_attention_sees_no_later_token(share: float) -> None:
    heads = torch.randn(1, 2, 40, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    other = heads.clone()
    other[:, :, 25:] += 1
    found = []
    for given in (heads, other):
        torch.manual_seed(5)
        found.append(causal_attention(given, given, given.requires_grad_(), share))
    assert torch.equal(found[0][:, :, :25], found[1][:, :, :25])
    assert not torch.equal(found[0][:, :, 25:], found[1][:, :, 25:])


def test_short_attention_drops_a_share_of_the_weights() -> None:
    torch.manual_seed(0)
    query = torch.zeros(1, 4, 100, 1, dtype=torch.bfloat16)
    value = torch.ones(1, 4, 100, 1, dtype=torch.bfloat16, requires_grad=True)
    # Of the last token's hundred equal weights, each counts 1 / (1 - share) or nothing.
    last = causal_attention(query, query, value, 0.25)[:, :, -1].float()
    assert last.unique().numel() > 1
    assert last.mean().item() == pytest.approx(1.0, abs=0.15)
