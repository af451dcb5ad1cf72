"""What a model with splats of the context keeps of texts while they grow."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ebm_wgpu.models.transformer_blocks import KeyValueCache


class SeenSplats(NamedTuple):
    """Splats of B texts as the last position of each sees them.

    Attributes:
        keys: (B, K, d), directions.
        sids: (B, K), the token that followed each state.
        age: (B, K), tokens from each state to the last one; below 1 there is no splat.
    """

    keys: Tensor
    sids: Tensor
    age: Tensor


class ContextCache:
    """Keys and values of the backbone, and the splats that the tokens read so far have made.

    As in `KeyValueCache`, row b holds its tokens at slots 0 .. lengths[b] - 1, and what lies behind
    them is never looked at.

    Attributes:
        attention: keys and values of the backbone.
        keys: (B, slots, d), the direction of the splat that each state makes.
        tokens: (B, slots) int64, the tokens read.
    """

    def __init__(self, attention: KeyValueCache, keys: Tensor, tokens: Tensor) -> None:
        """Hold tensors as they are; `SplatTransformer.start_cache` makes an empty cache."""
        self.attention, self.keys, self.tokens = attention, keys, tokens

    def select(self, rows: Tensor) -> ContextCache:
        """A copy with the given rows (n,) int64, in that order; rows may repeat or be left out."""
        return ContextCache(self.attention.select(rows), self.keys[rows], self.tokens[rows])

    def write(self, slots: Tensor, keys: Tensor, tokens: Tensor) -> None:
        """Store directions (B, S, d) and tokens (B, S) at slots (B, S) of the backbone's cache."""
        more = self.attention.slots - self.tokens.shape[1]
        if more > 0:
            self.keys = F.pad(self.keys, (0, 0, 0, more))
            self.tokens = F.pad(self.tokens, (0, more))
        self.keys.scatter_(1, slots[..., None].expand_as(keys), keys)
        self.tokens.scatter_(1, slots, tokens)

    def seen(self) -> SeenSplats:
        """The splats, K being the length of the longest text less one."""
        last = self.attention.lengths - 1
        count = int(last.max())
        age = last[:, None] - torch.arange(count, device=last.device)
        return SeenSplats(self.keys[:, :count], self.tokens[:, 1 : count + 1], age)
