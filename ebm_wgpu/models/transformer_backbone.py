"""Tokens to hidden states: the causal transformer that several model families share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ebm_wgpu.models.dropout import dropout
from ebm_wgpu.models.rotary import rotary_table
from ebm_wgpu.models.transformer_blocks import (
    Block,
    KeyValueCache,
    check_room,
    make_norm,
    reset_parameters,
)
from ebm_wgpu.models.transformer_config import TransformerConfig

_FIRST_SLOTS = 64


class TransformerBackbone(nn.Module):
    """h = norm(block_L(... block_1(W[tokens]))): state t sees the tokens up to t and no later one.

    The embedding W (V, dim) is there for heads to tie to.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, config: TransformerConfig, vocab_size: int) -> None:
        """Weights are those of seed 0 until `reset`."""
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(vocab_size, config.dim)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = make_norm(config)
        cos, sin = rotary_table(config.max_length, config.head_dim, config.rotary_base)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.reset(torch.Generator().manual_seed(0))

    def reset(self, generator: torch.Generator) -> None:
        """Draw all weights anew."""
        reset_parameters(self, self.config.n_layers, generator)

    def forward(self, tokens: Tensor, dropping: bool = False) -> Tensor:
        """Hidden states (B, T, dim) of tokens (B, T) int64.

        Args:
            tokens: ids in [0, V).
            dropping: apply dropout; for the loss of a training step only.

        Raises:
            ConfigError: more tokens than `max_length`.
        """
        length = tokens.shape[1]
        check_room(length, self.config.max_length)
        cos, sin = self.cos[:length], self.sin[:length]
        x = self.embedding(tokens)
        if dropping and self.config.dropout:
            x = dropout(x, self.config.dropout)
        for block in self.blocks:
            if self.config.checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, cos, sin, dropping, use_reentrant=False)
            else:
                x = block(x, cos, sin, dropping)
        return self.norm(x)

    def start_cache(self, rows: int) -> KeyValueCache:
        """An empty cache for `rows` texts that grow side by side."""
        config, like = self.config, self.embedding.weight
        shape = (rows, config.n_heads, min(_FIRST_SLOTS, config.max_length), config.head_dim)
        return KeyValueCache(
            torch.zeros(rows, dtype=torch.int64, device=like.device),
            [like.new_zeros(shape) for _ in self.blocks],
            [like.new_zeros(shape) for _ in self.blocks],
        )

    @torch.no_grad()
    def extend(self, tokens: Tensor, cache: KeyValueCache, lengths: Tensor | None = None) -> Tensor:
        """Hidden state after each row's last token, (B, dim); see `read_on`."""
        states = self.read_on(tokens, cache, lengths)
        last = cache.new_lengths(tokens.shape[1], lengths) - 1
        return states[torch.arange(len(tokens), device=tokens.device), last]

    @torch.no_grad()
    def read_on(
        self, tokens: Tensor, cache: KeyValueCache, lengths: Tensor | None = None
    ) -> Tensor:
        """Hidden states of new tokens, given what the cache holds already.

        Args:
            tokens: new tokens (B, S); shorter rows are padded at the end with any ids.
            cache: what was read before; extended in place.
            lengths: real tokens of each row (B,), from 1 to S; all S unless given.

        Returns:
            (B, S, dim), the states that `forward` gives for the same texts, up to rounding; those
            of padding mean nothing.

        Raises:
            ConfigError: lengths out of range, or more tokens than `max_length`; the cache is as it
                was.
        """
        count = tokens.shape[1]
        lengths = cache.new_lengths(count, lengths)
        offsets = torch.arange(count, device=tokens.device)
        slots = cache.lengths[:, None] + offsets
        check_room(int((cache.lengths + lengths).max()), self.config.max_length)
        used = int(slots.max()) + 1
        cache.reserve(used)
        # Padding may reach past the table; what it computes is never looked at.
        turns = slots.clamp(max=self.config.max_length - 1)
        cos, sin = self.cos[turns][:, None], self.sin[turns][:, None]
        visible = torch.arange(used, device=tokens.device) <= slots[:, None, :, None]
        x = self.embedding(tokens)
        for layer, block in enumerate(cast(Iterable[Block], self.blocks)):
            x = block.step(x, cos, sin, cache, layer, slots, visible)
        cache.lengths = cache.lengths + lengths
        return self.norm(x)
