import dataclasses
import json

import pytest
import torch

from ebm_wgpu.config import Config, apply_overrides
from ebm_wgpu.errors import ConfigError
from ebm_wgpu.models.causal_transformer import CausalTransformer
from ebm_wgpu.models.energy_transformer_config import system_2
from ebm_wgpu.models.nano_ebm import NanoEBM
from ebm_wgpu.models.registry import build_model
from ebm_wgpu.models.transformer_config import TRANSFORMER_PRESETS
from ebm_wgpu.presets import PRESETS, load_config, preset
from ebm_wgpu.training.curriculum import Curriculum


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid_and_round_trip_through_json(name):
    config = preset(name)
    assert Config.from_json(config.to_json()) == config
    assert json.loads(config.to_json()) == json.loads(json.dumps(dataclasses.asdict(config)))


def test_presets_have_the_shapes_they_are_named_for():
    shapes = {
        name: (
            c.data.tokenizer,
            c.data.vocab_size,
            c.model.dim,
            c.model.n_splats,
            c.data.block_size,
        )
        for name, c in PRESETS.items()
        if c.model.family == "splat" and c.model.context == "hierarchical"
    }
    assert shapes == {
        "nano": ("bpe", 4096, 64, 4096, 128),
        "small": ("bpe", 16384, 256, 16384, 256),
        "base": ("gpt2", 50257, 640, 50000, 512),
        "prototype": ("bpe", 4096, 64, 5000, 128),
        "medium": ("bpe", 16384, 384, 30000, 256),
        "production": ("gpt2", 50257, 640, 50000, 512),
    }


def test_presets_hold_out_what_a_memory_is_fitted_on():
    """All of families that keep states of a text, but those of figures on all of Shakespeare."""
    none = {name for name, c in PRESETS.items() if not c.data.heldout_tokens}
    assert {name.partition("-")[0] for name in none} == {"ebt", "shakespeare"}


def test_presets_of_the_specification_grow_in_three_phases():
    phases = {name: c.curriculum.splats for name, c in PRESETS.items() if c.curriculum.splats}
    assert phases == {
        "prototype": (500, 3000, 5000),
        "medium": (3000, 18000, 30000),
        "production": (5000, 30000, 50000),
    }
    # The last phase of production is base, so that it needs no more memory than that.
    for name, plain in (("prototype", "nano"), ("production", "base")):
        final = Curriculum(PRESETS[name]).phases[-1].config
        assert final.train == PRESETS[plain].train and final.data == PRESETS[plain].data
    assert Curriculum(PRESETS["production"]).phases[-1].config.model == PRESETS["base"].model


@pytest.mark.parametrize(
    ("name", "millions"), [("prototype", 0.94), ("small", 11.6), ("medium", 27)]
)
def test_curricula_have_the_sizes_their_docstrings_say(name, millions, numba_device):
    config = preset(name)
    model = build_model(config, config.data.vocab_size, numba_device)
    assert model.n_parameters() == pytest.approx(millions * 1e6, rel=0.05)


@pytest.mark.parametrize("size", ["", "-gpu"])
def test_the_yardstick_of_wikitext_differs_in_nothing_but_the_family(size):
    splat, plain = PRESETS[f"wikitext-splat{size}"], PRESETS[f"wikitext-transformer{size}"]
    assert (splat.model.family, splat.model.context) == ("splat", "transformer")
    assert apply_overrides(splat, ["model.family=transformer"]) == plain
    assert splat.data.tokenizer == "word" and splat.data.vocab_size is None
    assert splat.data.heldout_tokens == 32768
    assert splat.model.dim == splat.transformer.dim


def test_presets_of_the_other_families_have_the_shapes_of_nanogpt():
    shapes = {
        name: (c.model.family, c.transformer.n_layers, c.transformer.dim, c.data.block_size)
        for name, c in PRESETS.items()
        if c.model.family != "splat" and c.data.tokenizer != "word" and not name.startswith("ebt")
    }
    assert shapes == {
        "transformer-small": ("transformer", 6, 320, 256),
        "transformer-medium": ("transformer", 7, 512, 512),
        "transformer-large": ("transformer", 12, 640, 512),
        "shakespeare-transformer": ("transformer", 4, 128, 64),
        "shakespeare-nano": ("nano", 4, 128, 64),
        "shakespeare-ebt": ("ebt", 4, 128, 64),
        "shakespeare-ebt-system2": ("ebt", 4, 128, 64),
        "shakespeare-10m": ("transformer", 6, 384, 256),
        "shakespeare-10m-nano": ("nano", 6, 384, 256),
    }
    ebt = PRESETS["shakespeare-ebt"].ebt
    assert (ebt.n_layers, ebt.dim, ebt.max_length) == (4, 128, 64)


@pytest.mark.parametrize(
    ("plain", "thinking", "millions"),
    [
        ("shakespeare-transformer", "shakespeare-nano", 0.8),
        ("shakespeare-10m", "shakespeare-10m-nano", 10.7),
    ],
)
def test_nano_ebm_has_as_many_parameters_as_the_yardstick(plain, thinking, millions):
    first, second = preset(plain), preset(thinking)
    with torch.device("meta"):
        yardstick = CausalTransformer(first.transformer, 65).n_parameters()
        nano = NanoEBM(second.transformer, second.nano, 65).n_parameters()
    assert yardstick == pytest.approx(millions * 1e6, rel=0.01)
    assert nano == pytest.approx(yardstick, rel=0.002)
    hidden = second.transformer.hidden_units
    widened = dataclasses.replace(second.transformer, hidden=None)
    assert hidden % 8 == 0 and widened == first.transformer
    assert apply_overrides(second, ["model.family=transformer", "transformer.hidden=none"]) == first


def test_system_2_has_the_recipe_of_its_paper_at_the_common_shape():
    plain, recipe = preset("shakespeare-ebt"), preset("shakespeare-ebt-system2")
    assert recipe.ebt == dataclasses.replace(system_2(plain.ebt), replay_tokens=64)
    assert recipe.ebt.blocks == plain.ebt.blocks
    assert (recipe.data, recipe.train) == (plain.data, plain.train)
    assert (recipe.ebt.min_steps, recipe.ebt.max_steps) == (2, 3)
    assert recipe.ebt.replay_capacity > 0 and recipe.ebt.gradient == "truncate"


@pytest.mark.parametrize(("size", "millions"), [("small", 10), ("medium", 30), ("large", 70)])
def test_the_compact_transformers_have_their_sizes(size, millions):
    config = preset(f"transformer-{size}")
    assert config.transformer == dataclasses.replace(
        TRANSFORMER_PRESETS[size], dropout=0.1, max_length=config.data.block_size
    )
    with torch.device("meta"):
        model = CausalTransformer(config.transformer, config.data.vocab_size)
    assert model.n_parameters() == pytest.approx(millions * 1e6, rel=0.05)
    larger = apply_overrides(config, ["transformer.dim=768", "transformer.n_heads=6"])
    with torch.device("meta"):
        assert CausalTransformer(larger.transformer, 99).weight.shape == (99, 768)


def test_the_energy_transformers_are_those_of_the_paper():
    shapes = {
        name: (c.model.family, c.ebt.n_layers, c.ebt.n_heads, c.ebt.dim, c.train.lr)
        for name, c in PRESETS.items()
        if name.startswith("ebt")
    }
    assert shapes == {
        "ebt-small": ("ebt", 12, 12, 768, 6e-4),
        "ebt-medium": ("ebt", 24, 16, 1024, 3e-4),
        "ebt-large": ("ebt", 24, 16, 1536, 2.5e-4),
        "ebt-xl": ("ebt", 24, 32, 2048, 2e-4),
    }


def test_unknown_preset_names_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown preset 'smal' \(did you mean small\?\)"):
        preset("smal")
    with pytest.raises(ConfigError, match="choose one of nano, small, base"):
        load_config("zzz")


def test_load_config_reads_presets_and_files(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(apply_overrides(preset("nano"), ["train.seed=7"]).to_json())
    assert load_config("nano", ["train.seed=7"]) == load_config(path)
    assert load_config(str(path), ["train.seed=8"]).train.seed == 8
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "none.json")
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(path)
    path.write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json: the configuration is not JSON"):
        load_config(path)
