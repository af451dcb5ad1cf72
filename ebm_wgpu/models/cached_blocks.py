"""Blocks over rotary positions that read texts piece by piece, through a key-value cache."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from ebm_wgpu.errors import ConfigError
from ebm_wgpu.models.rotary import rotary_table
from ebm_wgpu.models.transformer_blocks import Block, KeyValueCache
from ebm_wgpu.models.transformer_config import TransformerConfig

_FIRST_SLOTS = 64


class CachedBlocks(nn.Module):
    """A stack of blocks, the turns of its positions, and reading through a cache.

    Attributes:
        section: of the configuration that `max_length` stands in, for messages.
        shape: of the blocks.
        blocks: one after the other.
        cos, sin: turns of positions 0, 1, ..., (places, head_dim / 2), at least `max_length`.
    """

    section: ClassVar[str]
    blocks: nn.ModuleList
    cos: Tensor
    sin: Tensor

    def __init__(self, shape: TransformerConfig, places: int) -> None:
        """Make the turns of `places` positions; blocks are the subclass's."""
        super().__init__()
        self.shape = shape
        cos, sin = rotary_table(places, shape.head_dim, shape.rotary_base)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def start_cache(self, rows: int) -> KeyValueCache:
        """An empty cache for `rows` texts that grow side by side."""
        shape, like = self.shape, next(self.parameters())
        sizes = (rows, shape.n_heads, min(_FIRST_SLOTS, shape.max_length), shape.head_dim)
        return KeyValueCache(
            torch.zeros(rows, dtype=torch.int64, device=like.device),
            [like.new_zeros(sizes) for _ in self.blocks],
            [like.new_zeros(sizes) for _ in self.blocks],
        )

    def read_cached(self, x: Tensor, cache: KeyValueCache, lengths: Tensor) -> Tensor:
        """New embeddings (B, S, dim) after all blocks, given what the cache holds already.

        Args:
            x: new embeddings, of which the first `lengths` of a row count.
            cache: what was read before; extended in place.
            lengths: (B,), from 1 to S.

        Raises:
            ConfigError: more tokens than `max_length`; the cache is as it was.
        """
        slots = cache.lengths[:, None] + torch.arange(x.shape[1], device=x.device)
        self.check_room(int((cache.lengths + lengths).max()))
        used = int(slots.max()) + 1
        cache.reserve(used)
        # Padding may reach past the table; what it computes is never looked at.
        turns = slots.clamp(max=len(self.cos) - 1)
        cos, sin = self.cos[turns][:, None], self.sin[turns][:, None]
        visible = torch.arange(used, device=x.device) <= slots[:, None, :, None]
        for layer, block in enumerate(cast(Iterable[Block], self.blocks)):
            x = block.step(x, cos, sin, cache, layer, slots, visible)
        cache.lengths = cache.lengths + lengths
        return x

    def check_room(self, length: int) -> None:
        """Check that `length` tokens fit.

        Raises:
            ConfigError: they do not.
        """
        if length > self.shape.max_length:
            key = f"{self.section}.max_length"
            raise ConfigError(
                f"{length} tokens of input exceed {key}={self.shape.max_length}: shorten the "
                f"text, or train with a larger {key}"
            )
