import types

import pytest

from ebm_wgpu.config import Config
from ebm_wgpu.errors import ConfigError
from ebm_wgpu.kernels import open_device
from ebm_wgpu.models.registry import FAMILIES, build_model
from ebm_wgpu.models.splat_lm import SplatLM


def test_families_are_built_by_name():
    assert list(FAMILIES) == ["splat"]
    config = Config()
    model = config.model.__class__(dim=8, n_splats=6, n_experts=1, n_active=1, expert_hidden=4)
    given = types.SimpleNamespace(model=model, energy=config.energy, sampler=config.sampler)
    built = build_model(given, 5, open_device("numba"))
    assert isinstance(built, SplatLM)
    assert built.mu.shape == (6, 8)


def test_other_families_are_refused_with_those_there_are():
    config = types.SimpleNamespace(model=types.SimpleNamespace(family="rnn"))
    with pytest.raises(ConfigError, match=r"model\.family=rnn does not exist: choose one of splat"):
        build_model(config, 5, open_device("numba"))
