"""Ranges, agreement of values, the paper's sizes, and thinking."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from ebm_wgpu.errors import ConfigError
from ebm_wgpu.models.energy_blocks import EnergyBackbone
from ebm_wgpu.models.energy_transformer_config import (
    ENERGY_TRANSFORMER_SIZES,
    EnergyTransformerConfig,
    Thinking,
)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"dim": 20, "n_heads": 4}, "ebt.dim=20"),
        ({"min_steps": 3, "max_steps": 2}, "ebt.min_steps=3"),
        ({"spectral_c": 2.0}, "ebt.spectral_c=2.0"),
        ({"variant": "rotary"}, "ebt.variant="),
        ({"replay_share": 0.0}, "ebt.replay_share=0.0"),
        ({"step_jitter": 0.5}, "ebt.step_jitter=0.5"),
        ({"step_size": float("nan")}, "ebt.step_size=nan"),
    ],
)
def test_bad_values_are_named(values: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        EnergyTransformerConfig(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"steps": 0}, "think steps=0"),
        ({"best_of": 0}, "think_best_of=0"),
        ({"step_rule": "newton"}, "think_rule=newton"),
    ],
)
def test_bad_thinking_is_named(values: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        Thinking(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "millions"),
    [("2xs", 6.18), ("xs", 12.4), ("small", 48.8), ("medium", 176), ("large", 396), ("xl", 708)],
)
def test_sizes_have_the_parameters_the_paper_gives(name: str, millions: float) -> None:
    config = dataclasses.replace(ENERGY_TRANSFORMER_SIZES[name], variant="default")
    with torch.device("meta"):
        backbone = EnergyBackbone(config)
    count = sum(parameter.numel() for parameter in backbone.parameters())
    assert count == pytest.approx(millions * 1e6, rel=0.02)
