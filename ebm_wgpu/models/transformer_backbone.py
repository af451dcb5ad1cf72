"""Tokens to hidden states: the causal transformer that several model families share."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ebm_wgpu.models.cached_blocks import CachedBlocks
from ebm_wgpu.models.dropout import dropout
from ebm_wgpu.models.transformer_blocks import Block, KeyValueCache, make_norm, reset_parameters
from ebm_wgpu.models.transformer_config import TransformerConfig


class TransformerBackbone(CachedBlocks):
    """h = norm(block_L(... block_1(W[tokens]))): state t sees the tokens up to t and no later one.

    The embedding W (V, dim) is there for heads to tie to.
    """

    section: ClassVar[str] = "transformer"

    def __init__(self, config: TransformerConfig, vocab_size: int) -> None:
        """Weights are those of seed 0 until `reset`."""
        super().__init__(config, config.max_length)
        self.embedding = nn.Embedding(vocab_size, config.dim)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = make_norm(config)
        self.reset(torch.Generator().manual_seed(0))

    def reset(self, generator: torch.Generator) -> None:
        """Draw all weights anew."""
        reset_parameters(self, self.shape.n_layers, generator)

    def forward(self, tokens: Tensor, dropping: bool = False) -> Tensor:
        """Hidden states (B, T, dim) of tokens (B, T) int64.

        Args:
            tokens: ids in [0, V).
            dropping: apply dropout; for the loss of a training step only.

        Raises:
            ConfigError: more tokens than `max_length`.
        """
        length = tokens.shape[1]
        self.check_room(length)
        cos, sin = self.cos[:length], self.sin[:length]
        x = self.embedding(tokens)
        if dropping and self.shape.dropout:
            x = dropout(x, self.shape.dropout)
        for block in self.blocks:
            if self.shape.checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, cos, sin, dropping, use_reentrant=False)
            else:
                x = block(x, cos, sin, dropping)
        return self.norm(x)

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
        lengths = cache.new_lengths(tokens.shape[1], lengths)
        return self.norm(self.read_cached(self.embedding(tokens), cache, lengths))
