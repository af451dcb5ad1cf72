"""Shapes of the transformer families, as options a configuration can hold."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from ebm_wgpu.errors import ConfigError
from ebm_wgpu.options import Option, option


def check_options(section: str, config: Any) -> None:
    """Check type and range of every field of a dataclass of `option` fields.

    Raises:
        ConfigError: the first value out of range, by its key `section.name`.
    """
    hints = typing.get_type_hints(type(config))
    for entry in dataclasses.fields(config):
        known = Option(
            f"{section}.{entry.name}",
            hints[entry.name],
            entry.metadata["help"],
            entry.metadata["bounds"],
        )
        known.check(getattr(config, entry.name))


@dataclass(frozen=True)
class TransformerConfig:
    """A pre-norm causal transformer with rotary positions and tied embeddings."""

    dim: int = option(384, "width of the residual stream", ge=8)
    n_layers: int = option(6, "blocks of attention and feed-forward", ge=1)
    n_heads: int = option(6, "attention heads of a block", ge=1)
    hidden: int | None = option(
        None, "hidden units of a feed-forward (none: 4 dim for gelu, 8/3 dim for swiglu)", ge=1
    )
    activation: Literal["gelu", "swiglu"] = option("gelu", "feed-forward: plain GELU, or gated")
    norm: Literal["rms", "layer"] = option(
        "layer", "normalisation: by the root mean square, or layer"
    )
    dropout: float = option(0.0, "share of units dropped in training", ge=0, lt=1)
    attention_dropout: float | None = option(
        None,
        "share of attention weights dropped in training (none: as dropout); 0 lets the processor "
        "use its fused attention",
        ge=0,
        lt=1,
    )
    max_length: int = option(1024, "most tokens of input", ge=1)
    rotary_base: float = option(10000.0, "base of the rotary angles", gt=1)
    checkpointing: bool = option(
        False, "recompute blocks in the backward pass: less memory, a third more time"
    )
    max_logits: int = option(
        1 << 24, "most entries of a (positions, vocabulary) matrix held at a time", ge=1
    )
    class_bounds: tuple[int, ...] | None = option(
        None,
        "first token id of each class of rarer tokens, such as 1000,6000,16000: an exactly "
        "normalised softmax in two steps for large vocabularies whose ids go by frequency, of "
        "models of family transformer or splat (none: one softmax over all)",
        ge=1,
    )

    def __post_init__(self) -> None:
        """Check every value, and that heads divide the width evenly.

        Raises:
            ConfigError: the first value that is out of range or does not fit the others.
        """
        check_options("transformer", self)
        if self.dim % (2 * self.n_heads):
            raise ConfigError(
                f"transformer.dim={self.dim} must be a multiple of 2 x transformer.n_heads="
                f"{2 * self.n_heads}: rotary positions need heads of even dimension"
            )

        bounds = self.class_bounds or ()
        if list(bounds) != sorted(set(bounds)):
            raise ConfigError(
                f"transformer.class_bounds={','.join(map(str, bounds))} must ascend: give the "
                "first id of each class, from the most frequent on"
            )

    @property
    def attention_share(self) -> float:
        """Share of attention weights dropped in training."""
        return self.dropout if self.attention_dropout is None else self.attention_dropout

    @property
    def head_dim(self) -> int:
        """Dimension of one head."""
        return self.dim // self.n_heads

    @property
    def hidden_units(self) -> int:
        """Hidden units of a feed-forward; those of SwiGLU make it as large as one of 4 dim."""
        if self.hidden is not None:
            return self.hidden
        return 4 * self.dim if self.activation == "gelu" else max(8, 8 * round(self.dim / 3))


TRANSFORMER_PRESETS: Mapping[str, TransformerConfig] = MappingProxyType(
    {
        "nano": TransformerConfig(dim=128, n_layers=4, n_heads=4),
        "small": TransformerConfig(dim=320, n_layers=6, n_heads=5),
        "medium": TransformerConfig(dim=512, n_layers=7, n_heads=8),
        "large": TransformerConfig(dim=640, n_layers=12, n_heads=10, checkpointing=True),
    }
)
"""Sizes by name.

Parameters with the vocabularies of the configurations transformer-small, -medium and -large, which
are 8,192, 16,384 and 16,384: small 10.0 M, medium 30.4 M, large 69.5 M; without the embedding nano
.8 M, small 7.4 M, medium 22.0 M, large 59.0 M.
"""
