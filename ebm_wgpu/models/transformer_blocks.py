"""The parts of a causal transformer: key-value cache, attention, feed-forward, block."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebm_wgpu.errors import ConfigError
from ebm_wgpu.models.activations import linear_gelu, swiglu
from ebm_wgpu.models.dropout import dropout
from ebm_wgpu.models.rotary import attention_heads
from ebm_wgpu.models.transformer_config import TransformerConfig

INIT_STD = 0.05
"""Deviation of new embeddings."""
_SHORT = 512
"""Most tokens for which `causal_attention` takes products on a processor."""


class KeyValueCache:
    """Keys and values of the tokens read so far, for rows of different lengths.

    Row b holds its tokens at slots 0 .. lengths[b] - 1; what lies behind them (padding of shorter
    prompts) is never attended to and is overwritten by the tokens that follow.

    Attributes:
        lengths: tokens read so far, (B,) int64.
        keys, values: one tensor a block, (B, heads, slots, head_dim).
    """

    def __init__(self, lengths: Tensor, keys: list[Tensor], values: list[Tensor]) -> None:
        """Hold tensors as they are; `CachedBlocks.start_cache` makes an empty cache."""
        self.lengths, self.keys, self.values = lengths, keys, values

    @property
    def slots(self) -> int:
        """Tokens a row has room for."""
        return self.keys[0].shape[2]

    def reserve(self, slots: int) -> None:
        """Make room for `slots` tokens a row, at least doubling so that growth stays cheap."""
        if slots <= self.slots:
            return
        more = max(slots, 2 * self.slots) - self.slots
        self.keys = [F.pad(tensor, (0, 0, 0, more)) for tensor in self.keys]
        self.values = [F.pad(tensor, (0, 0, 0, more)) for tensor in self.values]

    def select(self, rows: Tensor) -> KeyValueCache:
        """A copy with the given rows (n,) int64, in that order; rows may repeat or be left out."""
        return KeyValueCache(
            self.lengths[rows],
            [tensor[rows] for tensor in self.keys],
            [tensor[rows] for tensor in self.values],
        )

    def new_lengths(self, count: int, lengths: Tensor | None = None) -> Tensor:
        """`lengths` (B,), how many of `count` further tokens of each row are real; or all of them.

        Raises:
            ConfigError: one of them is not from 1 to `count`.
        """
        if lengths is None:
            return torch.full_like(self.lengths, count)
        if not bool(((lengths >= 1) & (lengths <= count)).all()):
            raise ConfigError(
                f"lengths {lengths.tolist()} must be from 1 to the {count} tokens given"
            )
        return lengths

    def write(self, layer: int, slots: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store keys and values (B, heads, S, head_dim) of one block at slots (B, S).

        Returns:
            All keys and values of the block, (B, heads, slots, head_dim).
        """
        index = slots[:, None, :, None].expand_as(key)
        self.keys[layer].scatter_(2, index, key)
        self.values[layer].scatter_(2, index, value)
        return self.keys[layer], self.values[layer]


def causal_attention(query: Tensor, key: Tensor, value: Tensor, share: float = 0.0) -> Tensor:
    """softmax(q . k / sqrt(head_dim)) v over the tokens up to each one, (B, heads, T, head_dim).

    By torch's fused attention, but for short texts that learn in bfloat16 on a processor: there
    products and a softmax, with scores rounded to bfloat16, have their gradient in half the time.

    Args:
        query, key, value: (B, heads, T, head_dim) each.
        share: share of attention weights dropped.
    """
    batch, heads, length, width = query.shape
    short = value.dtype == torch.bfloat16 and length <= _SHORT and torch.is_grad_enabled()
    if not short or value.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value, dropout_p=share, is_causal=True)
    later = value.new_full((length, length), -math.inf).triu_(1)
    left, right = query.flatten(0, 1), key.flatten(0, 1).transpose(1, 2)
    weights = torch.baddbmm(later, left, right, alpha=width**-0.5).softmax(-1)
    if share:
        weights = dropout(weights, share)
    return (weights @ value.flatten(0, 1)).view(batch, heads, length, width)


class Attention(nn.Module):
    """softmax(R q . R k / sqrt(head_dim)) v over the tokens up to each one, all heads at once.

    Source: Vaswani et al. 2017 (arXiv:1706.03762), equation 1, with rotary positions R.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.n_heads, self.dropout = config.n_heads, config.attention_share
        self.inputs = nn.Linear(config.dim, 3 * config.dim, bias=False)
        self.output = nn.Linear(config.dim, config.dim, bias=False)

    def heads(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
        """Turned queries and keys, and values: (B, heads, T, head_dim) each, of x (B, T, dim)."""
        return attention_heads(self.inputs(x), self.n_heads, cos, sin)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, dropping: bool) -> Tensor:
        """Attention within x (B, T, dim); cos and sin (T, head_dim / 2)."""
        query, key, value = self.heads(x, cos, sin)
        share = self.dropout if dropping else 0.0
        return self._merge(causal_attention(query, key, value, share))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
        """Attention of queries (B, heads, S, head_dim) to cached slots where `visible` is true."""
        return self._merge(F.scaled_dot_product_attention(query, key, value, attn_mask=visible))

    def _merge(self, mixed: Tensor) -> Tensor:
        return self.output(mixed.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """W2 gelu(W1 x), or gated, W2 (silu(W1 x) * W3 x).

    Source of the gated form: Shazeer 2020 (arXiv:2002.05202), equation 6.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.gated = config.activation == "swiglu"
        hidden = config.hidden_units
        self.inputs = nn.Linear(config.dim, 2 * hidden if self.gated else hidden, bias=False)
        self.output = nn.Linear(hidden, config.dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., dim), returns the same shape."""
        if self.gated:
            return self.output(swiglu(self.inputs(x)))
        return self.output(linear_gelu(x, self.inputs.weight))


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.attention_norm = make_norm(config)
        self.attention = Attention(config)
        self.feed_forward_norm = make_norm(config)
        self.feed_forward = FeedForward(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, dropping: bool) -> Tensor:
        """x: (B, T, dim); `dropping` applies dropout."""
        x = x + self._drop(self.attention(self.attention_norm(x), cos, sin, dropping), dropping)
        return x + self._drop(self.feed_forward(self.feed_forward_norm(x)), dropping)

    def step(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        cache: KeyValueCache,
        layer: int,
        slots: Tensor,
        visible: Tensor,
    ) -> Tensor:
        """The same for new tokens x (B, S, dim) at `slots` (B, S) of a cache, which it extends."""
        query, key, value = self.attention.heads(self.attention_norm(x), cos, sin)
        keys, values = cache.write(layer, slots, key, value)
        used = visible.shape[-1]
        x = x + self.attention.attend(query, keys[:, :, :used], values[:, :, :used], visible)
        return x + self.feed_forward(self.feed_forward_norm(x))

    def _drop(self, x: Tensor, dropping: bool) -> Tensor:
        return dropout(x, self.dropout) if dropping and self.dropout else x


def make_norm(config: TransformerConfig) -> nn.Module:
    """RMSNorm (Zhang and Sennrich 2019, arXiv:1910.07467) or layer norm without shift."""
    if config.norm == "rms":
        return nn.RMSNorm(config.dim)
    return nn.LayerNorm(config.dim, bias=False)


@torch.no_grad()
def reset_parameters(module: nn.Module, n_layers: int, generator: torch.Generator) -> None:
    """Draw all weights anew: matrices of deviation 1/(2 sqrt(fan_in)), embeddings .05, gains one.

    What writes to the residual stream (modules named `output`) is smaller by sqrt(2 n_layers), so
    that the stream keeps its scale at any depth (Radford et al. 2019, section 2.3).
    """
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear):
            shrink = math.sqrt(2 * n_layers) if name.endswith("output") else 1.0
            std = 0.5 / (math.sqrt(part.in_features) * shrink)
            part.weight.normal_(0.0, std, generator=generator)
        elif isinstance(part, nn.Embedding):
            part.weight.normal_(0.0, INIT_STD, generator=generator)
        elif isinstance(part, (nn.LayerNorm, nn.RMSNorm)):
            part.weight.fill_(1.0)
