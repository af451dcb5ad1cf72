"""What families without splats or thinking get from `LanguageModel`, and who overrides it."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from ebm_wgpu.config import EnergyConfig, ModelConfig
from ebm_wgpu.errors import ConfigError
from ebm_wgpu.kernels import KernelDevice
from ebm_wgpu.models.base import LanguageModel, SplatModel
from ebm_wgpu.models.causal_transformer import CausalTransformer
from ebm_wgpu.models.energy_transformer import EnergyTransformer
from ebm_wgpu.models.energy_transformer_config import EnergyTransformerConfig, Thinking
from ebm_wgpu.models.nano_ebm import NanoEBM
from ebm_wgpu.models.nano_ebm_config import NanoEBMConfig
from ebm_wgpu.models.splat_lm import SplatLM
from ebm_wgpu.models.transformer_config import TransformerConfig

SHAPE = TransformerConfig(dim=16, n_layers=1, n_heads=2, max_length=16)
EBT = EnergyTransformerConfig(dim=16, n_layers=1, n_heads=2, max_length=16, learn_step_size=False)
V = 7


def splat_model(device: KernelDevice) -> SplatLM:
    config = ModelConfig(dim=8, n_splats=6, n_experts=1, n_active=1, expert_hidden=4)
    return SplatLM(config, EnergyConfig(), V, device)


def test_the_base_cannot_be_made_without_its_parts() -> None:
    with pytest.raises(TypeError, match="abstract"):
        LanguageModel()  # type: ignore[abstract]
    with pytest.raises(TypeError, match="abstract"):
        SplatModel()  # type: ignore[abstract]


def test_only_values_that_learn_are_counted_and_shared_ones_once() -> None:
    model = EnergyTransformer(EBT, V)
    assert model.n_parameters() == sum(p.numel() for p in model.parameters()) - 1
    tied = EnergyTransformer(dataclasses.replace(EBT, tie_prediction=True), V)
    assert model.n_parameters() - tied.n_parameters() == V * EBT.dim
    plain = CausalTransformer(SHAPE, V)
    blocks = sum(p.numel() for p in plain.backbone.blocks.parameters())
    assert plain.n_parameters() == blocks + SHAPE.dim + V * SHAPE.dim + V


def test_splat_models_say_so_and_name_their_device(numba_device: KernelDevice) -> None:
    splats, plain = splat_model(numba_device), CausalTransformer(SHAPE, V)
    assert splats.splat_model is splats
    assert splats.device_description == numba_device.description
    assert plain.splat_model is None
    assert "torch" in plain.device_description


def test_models_that_do_not_think_refuse_to(numba_device: KernelDevice) -> None:
    for model in (splat_model(numba_device), CausalTransformer(SHAPE, V)):
        model.think()
        with pytest.raises(ConfigError, match="think_steps=3 is for models that refine"):
            model.think(steps=3)
        with pytest.raises(ConfigError, match="think_best_of=2 is for models that refine"):
            model.think(best_of=2)
        with pytest.raises(ConfigError, match="think_rule=spectral is for models that refine"):
            model.think(step_rule="spectral")


def test_nano_ebm_thinks_in_steps_by_either_rule() -> None:
    model = NanoEBM(SHAPE, NanoEBMConfig(interaction=4), V)
    model.think(steps=0, best_of=1)
    assert model.think_steps == 0
    model.think()
    assert model.think_steps == 0
    with pytest.raises(ConfigError, match="think_best_of=2 is for models that start from noise"):
        model.think(best_of=2)
    with pytest.raises(ConfigError, match=r"nano.think_steps=1001 must be <= 1000"):
        model.think(steps=1001)
    with pytest.raises(ConfigError, match=r"nano\.step_rule='newton'"):
        model.think(step_rule="newton")  # type: ignore[arg-type]
    assert model.think_steps == 0
    model.think(steps=3)
    tokens = torch.arange(6)[None]
    strength = model.system2.interaction
    assert strength is not None
    strength.strength.data.fill_(40.0)
    own, loss = model.next_token_log_probs(tokens), model.losses(tokens)
    model.think(step_rule="spectral")
    trained = NanoEBM(SHAPE, NanoEBMConfig(interaction=4, step_rule="spectral"), V)
    trained.load_state_dict(model.state_dict())
    trained.think(steps=3)
    found = model.next_token_log_probs(tokens)
    assert not torch.equal(found, own)
    assert torch.equal(found, trained.next_token_log_probs(tokens))
    # Training goes on as configured.
    assert torch.equal(model.losses(tokens)["token"], loss["token"])
    model.think(step_rule="learned")
    assert torch.equal(model.next_token_log_probs(tokens), own)


def test_an_energy_transformer_thinks_in_steps_and_starts() -> None:
    model = EnergyTransformer(EBT, V, Thinking(step_rule="spectral"))
    model.think(steps=5)
    model.think(best_of=3)
    assert model.thinking == Thinking(steps=5, best_of=3, step_rule="spectral")
    model.think(step_rule="learned")
    assert model.thinking == Thinking(steps=5, best_of=3, step_rule="learned")
    tokens = torch.arange(6)[None]
    assert model.next_token_log_probs(tokens).exp().sum().item() == pytest.approx(1, abs=1e-5)
    for wrong in ({"steps": 0}, {"best_of": 0}):
        with pytest.raises(ConfigError, match="must be at least 1"):
            model.think(**wrong)
