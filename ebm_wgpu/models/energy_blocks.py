"""Transformer blocks over [real | predicted] embeddings, with one energy a predicted position.

Predicted position t stands for a guess of token t + 1. It attends to the real tokens up to t and to
itself; real tokens attend to real tokens up to themselves and never to predictions (Gladstone et
al. 2025, arXiv:2507.02092, causal EBT). The real part therefore does not change while predictions
are refined: it is read once, kept as keys and values, and only the predicted part is computed anew
at each step. For the same reason what tells a block the number of the step reaches the predicted
part alone.

Refinement differentiates the energy by the predictions, and training differentiates that again.
Both go through the predicted part, whose attention is written out; the real part is differentiated
once, and its attention is the fused one.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebm_wgpu.models.cached_blocks import CachedBlocks
from ebm_wgpu.models.energy_transformer_config import EnergyTransformerConfig
from ebm_wgpu.models.transformer_blocks import Block, KeyValueCache, make_norm, reset_parameters


class RealPart(NamedTuple):
    """What predicted positions see of the text.

    Attributes:
        keys: one tensor a block, (B, heads, S, head_dim).
        values: the same.
        visible: which of the S a predicted position attends to, broadcast against (B, heads, P, S).
        cos: turns of the predicted positions, broadcast against (B, heads, P, head_dim / 2).
        sin: the same.
    """

    keys: list[Tensor]
    values: list[Tensor]
    visible: Tensor
    cos: Tensor
    sin: Tensor


class Modulation(nn.Module):
    """Shifts, scales and gates from the embedding of a step, zero at first (adaLN-Zero).

    Source: Peebles and Xie 2022 (DiT, arXiv:2212.09748), section 3.2.
    """

    def __init__(self, dim: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.inner = nn.Linear(dim, parts * dim)

    def forward(self, step: Tensor) -> tuple[Tensor, ...]:
        """`parts` tensors (dim,) for a step's embedding (dim,)."""
        return self.inner(F.silu(step)).chunk(self.parts, dim=-1)


class EnergyBlock(Block):
    """A transformer block that real and predicted embeddings share."""

    def __init__(self, config: EnergyTransformerConfig) -> None:
        super().__init__(config.blocks)
        self.modulation = Modulation(config.dim, 6) if config.variant == "adaln" else None

    def read(
        self, x: Tensor, cos: Tensor, sin: Tensor, visible: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Real embeddings (B, T, dim) after the block, and their keys and values."""
        query, key, value = self.attention.heads(self.attention_norm(x), cos, sin)
        x = x + self.attention.attend(query, key, value, visible)
        return x + self.feed_forward(self.feed_forward_norm(x)), key, value

    def predict(
        self,
        x: Tensor,
        key: Tensor,
        value: Tensor,
        visible: Tensor,
        cos: Tensor,
        sin: Tensor,
        step: Tensor | None,
    ) -> Tensor:
        """Predicted embeddings (B, P, dim) after the block.

        softmax over [q_t . K of the real tokens up to t, q_t . k_t] of [V, v_t], and so on.

        Args:
            x: predicted embeddings.
            key: of what they see, (B, heads, S, head_dim).
            value: the same.
            visible: as in `RealPart`.
            cos: as in `RealPart`.
            sin: as in `RealPart`.
            step: embedding of the step (dim,), for adaptive norms.
        """
        inner = self.attention_norm(x)
        change = self.modulation(step) if self.modulation is not None else None
        if change is not None:
            inner = inner * (1 + change[1]) + change[0]
        query, own_key, own_value = self.attention.heads(inner, cos, sin)
        query = query * query.shape[-1] ** -0.5
        scores = (query @ key.transpose(2, 3)).masked_fill(~visible, float("-inf"))
        own = (query * own_key).sum(-1, keepdim=True)
        weights = torch.cat((scores, own), -1).softmax(-1)
        mixed = weights[..., :-1] @ value + weights[..., -1:] * own_value
        mixed = self.attention.output(mixed.transpose(1, 2).flatten(2))
        x = x + (mixed if change is None else change[2] * mixed)
        inner = self.feed_forward_norm(x)
        if change is None:
            return x + self.feed_forward(inner)
        return x + change[5] * self.feed_forward(inner * (1 + change[4]) + change[3])


class EnergyBackbone(CachedBlocks):
    """E_t = w . norm(block_L(... block_1([real | predicted])))_t for each predicted position t.

    Attributes:
        blocks: shared by both parts.
        norm: of predicted embeddings before the head.
        head: w; a constant would change no gradient.
        steps: embeddings of the steps, for the variants that look at them.
    """

    section: ClassVar[str] = "ebt"

    def __init__(self, config: EnergyTransformerConfig) -> None:
        # A prediction stands one place after the last token it sees.
        super().__init__(config.blocks, config.max_length + 1)
        self.config = config
        self.blocks = nn.ModuleList(EnergyBlock(config) for _ in range(config.n_layers))
        self.norm = make_norm(self.shape)
        self.head = nn.Linear(config.dim, 1, bias=False)
        self.steps = (
            None if config.variant == "default" else nn.Embedding(config.max_steps, config.dim)
        )
        self.last_modulation = Modulation(config.dim, 2) if config.variant == "adaln" else None

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Draw all weights anew."""
        reset_parameters(self, self.config.n_layers, generator)
        for part in self.modules():
            if isinstance(part, Modulation):
                part.inner.weight.zero_()
                part.inner.bias.zero_()

    def _layers(self) -> list[EnergyBlock]:
        return cast("list[EnergyBlock]", list(self.blocks))

    def read(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Keys and values of real embeddings (B, T, dim), one (B, heads, T, head_dim) a block.

        Raises:
            ConfigError: more tokens than `max_length`.
        """
        length = x.shape[1]
        self.check_room(length)
        cos, sin = self.cos[:length], self.sin[:length]
        visible = self._visible(0, length)
        keys, values = [], []
        *first, last = self._layers()
        for block in first:
            x, key, value = block.read(x, cos, sin, visible)
            keys.append(key)
            values.append(value)
        # Nothing looks at what the last block makes of the real part.
        _, key, value = last.attention.heads(last.attention_norm(x), cos, sin)
        return [*keys, key], [*values, value]

    def part(self, keys: list[Tensor], values: list[Tensor], start: int, stop: int) -> RealPart:
        """What predicted positions start .. stop - 1 see of the text that `read` read."""
        return RealPart(
            [key[:, :, :stop] for key in keys],
            [value[:, :, :stop] for value in values],
            self._visible(start, stop),
            self.cos[start + 1 : stop + 1],
            self.sin[start + 1 : stop + 1],
        )

    def _visible(self, start: int, stop: int) -> Tensor:
        place = torch.arange(stop, device=self.cos.device)
        return place <= place[start:, None]

    def cached_part(self, cache: KeyValueCache) -> RealPart:
        """What the one position after each text of a cache sees of it."""
        used, lengths = int(cache.lengths.max()), cache.lengths
        visible = torch.arange(used, device=lengths.device) < lengths[:, None, None, None]
        return RealPart(
            [key[:, :, :used] for key in cache.keys],
            [value[:, :, :used] for value in cache.values],
            visible,
            self.cos[lengths][:, None, None],
            self.sin[lengths][:, None, None],
        )

    def energies(self, x: Tensor, real: RealPart, step: int) -> Tensor:
        """Energies (B, P) of predicted embeddings (B, P, dim), in nats, in step 0, 1, ...

        Steps beyond those trained look like the last one.
        """
        embedding = (
            None if self.steps is None else self.steps.weight[min(step, self.config.max_steps - 1)]
        )
        visible, prefix = real.visible, None
        if self.config.variant == "time" and embedding is not None:
            prefix = self._prefix(embedding)
            visible = F.pad(visible, (1, 0), value=True)
        for layer, block in enumerate(self._layers()):
            key, value = real.keys[layer], real.values[layer]
            if prefix is not None:
                rows = (len(key), -1, -1, -1)
                key = torch.cat((prefix[layer][0].expand(rows), key), 2)
                value = torch.cat((prefix[layer][1].expand(rows), value), 2)
            x = block.predict(x, key, value, visible, real.cos, real.sin, embedding)
        x = self.norm(x)
        if self.last_modulation is not None and embedding is not None:
            shift, scale = self.last_modulation(embedding)
            x = x * (1 + scale) + shift
        return self.head(x).squeeze(-1)

    def _prefix(self, step: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of a step's token, one place before the text, which sees itself only."""
        x, cos, sin = step[None, None], self.cos[1:2], -self.sin[1:2]
        alone = torch.ones(1, 1, dtype=torch.bool, device=x.device)
        parts = []
        for block in self._layers():
            x, key, value = block.read(x, cos, sin, alone)
            parts.append((key, value))
        return parts
