import types

import pytest

from ebm_wgpu.config import Config, apply_overrides
from ebm_wgpu.errors import ConfigError
from ebm_wgpu.models.base import LanguageModel
from ebm_wgpu.models.causal_transformer import CausalTransformer
from ebm_wgpu.models.energy_transformer import EnergyTransformer
from ebm_wgpu.models.nano_ebm import NanoEBM
from ebm_wgpu.models.registry import FAMILIES, build_model
from ebm_wgpu.models.splat_lm import SplatLM
from ebm_wgpu.models.splat_transformer import SplatTransformer
from ebm_wgpu.presets import load_config, preset

SMALL = (
    "model.dim=8", "model.n_splats=6", "model.n_experts=1", "model.n_active=1",
    "model.expert_hidden=4", "energy.n_neighbours=4", "sampler.list_size=4",
    "transformer.dim=16", "transformer.n_layers=1", "transformer.n_heads=2",
    "nano.interaction=4", "ebt.dim=12", "ebt.n_layers=1", "ebt.n_heads=2",
)  # fmt: skip
CLASSES = {
    "splat": SplatLM,
    "transformer": CausalTransformer,
    "nano": NanoEBM,
    "ebt": EnergyTransformer,
}


def test_every_family_is_built_by_name_from_its_section(numba_device):
    assert list(FAMILIES) == list(CLASSES)
    shapes = {}
    for name, family in FAMILIES.items():
        model = build_model(
            apply_overrides(Config(), [f"model.family={name}", *SMALL]), 5, numba_device
        )
        assert type(model) is CLASSES[name]
        assert isinstance(model, LanguageModel)
        assert model.vocab_size == 5
        assert (model.splat_model is model) == family.splats
        shapes[name] = {tuple(parameter.shape) for parameter in model.parameters()}
    # Splats (N, d), token embeddings (V, dim), and the interaction of NanoEBM.
    assert (6, 8) in shapes["splat"]
    assert (5, 16) in shapes["transformer"]
    assert (4, 16) in shapes["nano"]
    assert (5, 12) in shapes["ebt"]


def test_every_family_has_a_preset_that_goes_with_it():
    found = {
        name: load_config(family.preset, [f"model.family={name}"])
        for name, family in FAMILIES.items()
    }
    texts = {name: (c.data.dataset, c.data.tokenizer) for name, c in found.items()}
    assert texts == {
        "splat": ("wikitext-2", "bpe"),
        "transformer": ("wikitext-2", "bpe"),
        "nano": ("shakespeare", "char"),
        "ebt": ("shakespeare", "char"),
    }
    for name in ("nano", "ebt"):
        assert preset(FAMILIES[name].preset) == found[name]


def test_other_families_are_refused_with_those_there_are(numba_device):
    config = types.SimpleNamespace(model=types.SimpleNamespace(family="rnn"))
    with pytest.raises(ConfigError, match=r"model\.family=rnn does not exist: choose one of splat"):
        build_model(config, 5, numba_device)


def test_a_splat_model_over_a_transformer_is_built_from_both_sections(numba_device):
    shape = [s for s in SMALL if s.startswith(("transformer", "model.n_splats", "sampler"))]
    config = apply_overrides(Config(), ["model.context=transformer", *shape])
    model = build_model(config, 5, numba_device)
    assert type(model) is SplatTransformer
    assert model.splat_model is None and model.stored_splats is None


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.dsm_weight=0.5"], "train.dsm_weight=0.5 must be 0 for model.context=transformer"),
        (["transformer.max_length=64"], "must be <= transformer.max_length=64"),
        (["memory.n_neighbours=129"], "memory.n_neighbours=129 must be <= 128 for memory.search=a"),
    ],
)
def test_what_does_not_go_with_a_transformer_context_is_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        apply_overrides(Config(), ["model.context=transformer", *overrides])


def test_classes_of_tokens_are_not_for_an_energy_of_all_of_them():
    with pytest.raises(ConfigError, match=r"class_bounds must be none for model\.family=nano"):
        apply_overrides(Config(), ["model.family=nano", "transformer.class_bounds=5"])
