"""Shapes: presets have the sizes they claim, and what does not fit is refused by its key."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ebm_wgpu.errors import ConfigError
from ebm_wgpu.models.causal_transformer import CausalTransformer
from ebm_wgpu.models.transformer_config import TRANSFORMER_PRESETS, TransformerConfig


@pytest.mark.parametrize(
    ("name", "millions"), [("nano", 0.8), ("small", 7.4), ("medium", 22.0), ("large", 59.0)]
)
def test_presets_have_their_sizes(name: str, millions: float) -> None:
    config = TRANSFORMER_PRESETS[name]
    matrices = config.n_layers * 12 * config.dim**2
    gains = (2 * config.n_layers + 1) * config.dim
    with torch.device("meta"):
        counted = CausalTransformer(config, 65).n_parameters()
    assert counted == matrices + gains + 65 + 65 * config.dim
    assert matrices / 1e6 == pytest.approx(millions, abs=0.06)


def test_swiglu_is_as_large_as_gelu() -> None:
    plain, gated = (
        TransformerConfig(dim=96, n_heads=6, activation=kind) for kind in ("gelu", "swiglu")
    )
    assert 3 * gated.hidden_units == 2 * plain.hidden_units


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dim": 4}, "transformer.dim=4 must be >= 8"),
        ({"dim": 100, "n_heads": 4}, "transformer.dim=100 must be a multiple of 2 x"),
        ({"dropout": 1.0}, "transformer.dropout=1.0 must be < 1"),
        ({"norm": "batch"}, "transformer.norm='batch' must be rms or layer"),
        ({"max_length": 0}, "transformer.max_length=0 must be >= 1"),
        ({"hidden": 0}, "transformer.hidden=0 must be >= 1"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_key(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TransformerConfig(**given)
