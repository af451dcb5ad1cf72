import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebm_wgpu.config import OPTIONS, Config, ModelConfig, TrainConfig, apply_overrides
from ebm_wgpu.errors import ConfigError
from ebm_wgpu.models.memory_config import MOST_REMEMBERED
from ebm_wgpu.models.registry import FAMILIES
from ebm_wgpu.presets import preset
from ebm_wgpu.splats.search import MAX_KERNEL_NEIGHBOURS
from ebm_wgpu.text.tokenizers import TOKENIZERS


def value_of(config: Config, key: str):
    section, _, name = key.partition(".")
    return getattr(getattr(config, section), name)


def test_family_choices_are_the_registry():
    for name in FAMILIES:
        assert apply_overrides(Config(), [f"model.family={name}"]).model.family == name
    with pytest.raises(ConfigError, match=" or ".join(FAMILIES)):
        apply_overrides(Config(), ["model.family=gan"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.family=transformer", "data.eval_context=2048"], "<= transformer.max_length=1024"),
        (["model.family=nano", "data.block_size=1025"], "data.block_size=1025 must be <= trans"),
        (["model.family=ebt", "ebt.max_length=500"], "eval_context=512 must be <= ebt.max_length"),
        (["model.family=ebt", "ebt.replay_capacity=4", "data.block_size=257"], "ebt.replay_tokens"),
        (
            ["model.family=nano", "nano.contrastive_weight=1", "data.block_size=31"],
            "nano.contrastive_length=32 must be <= data.block_size=31",
        ),
        (["model.family=transformer", "sampler.latent=exact"], "sampler.latent=exact must be mean"),
        (["model.family=nano", "train.token_latent=langevin"], "train.token_latent=langevin must"),
        (["model.family=ebt", "train.dsm_weight=0.1"], "train.dsm_weight=0.1 must be 0 for"),
        (["transformer.dim=100"], "must be a multiple of 2 x transformer.n_heads=12"),
        (["nano.think_steps=-1"], "nano.think_steps=-1 must be >= 0"),
        (["ebt.min_steps=3"], "ebt.min_steps=3 must be <= ebt.max_steps=2"),
    ],
)
def test_what_a_family_does_not_go_with_is_one_line(overrides, message):
    with pytest.raises(ConfigError, match=message) as caught:
        apply_overrides(Config(), overrides)
    assert "\n" not in str(caught.value)


NO_EFFECT = {
    "model.context=transformer": (
        "model.splat_init=uniform", "model.embedding_path=gpt2", "model.n_experts=2",
        "model.n_active=1", "model.expert_hidden=64", "model.context_mixing=fixed",
        "model.context_scale_init=8", "model.recent_window=3", "model.decay_window=3",
        "model.attention_window=3", "model.dropout=0.1", "energy.temperature=2",
        "energy.form=published", "energy.tau=1", "energy.term_neighbours=4",
        "train.splat_decay=0.1", "train.latent_weight=0", "train.dsm_levels=2",
        "train.terms_weight=1", "train.balance_weight=0",
    ),
    "model.context=hierarchical": (
        "memory.states=5", "memory.buffer=5", "memory.merge_cosine=0.5", "memory.weight_decay=0",
        "model.embedding_path=gpt2",
    ),
    **{
        f"model.family={family}": (
            "train.lr_splats=0.1", "train.latent_weight=0", "train.balance_weight=0",
            "memory.merge_cosine=0.5",
        )
        for family in FAMILIES if family != "splat"
    },
}  # fmt: skip


@pytest.mark.parametrize("choice", NO_EFFECT)
def test_an_option_that_would_change_nothing_is_refused(choice):
    for override in NO_EFFECT[choice]:
        with pytest.raises(ConfigError, match=r"has no effect with model\.") as caught:
            apply_overrides(Config(), [override, choice])
        assert str(caught.value).startswith(override.partition("=")[0])
        assert str(caught.value).endswith("leave it out") and "\n" not in str(caught.value)


@pytest.mark.parametrize("choice", ["model.context=transformer", "model.family=transformer"])
def test_what_a_preset_holds_or_is_the_default_may_change_nothing(choice):
    nano = preset("nano")
    assert nano.model.expert_hidden != ModelConfig().expert_hidden
    same = ["train.latent_weight=1", "memory.merge_cosine=0.9"]
    assert apply_overrides(nano, [choice, *same]) == apply_overrides(nano, [choice])


def test_the_width_of_splats_of_states_is_that_of_the_states():
    shape = ["model.context=transformer", "transformer.dim=96"]
    assert apply_overrides(Config(), [*shape, "model.dim=96"]).model.dim == 96
    with pytest.raises(ConfigError, match=r"model\.dim=64 has no effect .* transformer\.dim=96"):
        apply_overrides(Config(), [*shape, "model.dim=64"])


def test_an_online_memory_that_searches_has_at_most_as_many_neighbours_as_it_can_fetch():
    assert MAX_KERNEL_NEIGHBOURS == 2 * MOST_REMEMBERED
    many = "memory.n_neighbours=65"
    apply_overrides(Config(), [many])
    apply_overrides(Config(), [many, "memory.capacity=20000", "memory.compared=20000"])
    apply_overrides(Config(), ["memory.n_neighbours=64", "memory.capacity=20000"])
    with pytest.raises(ConfigError, match=r"n_neighbours=65 must be <= 64 .*capacity=20000 above"):
        apply_overrides(Config(), [many, "memory.capacity=20000"])


def test_a_family_does_not_mind_the_sections_of_others():
    for ignored, family in (("model.n_splats=8", "transformer"), ("ebt.max_length=8", "splat")):
        config = apply_overrides(Config(), [f"model.family={family}", ignored])
        assert config.model.family == family
    assert apply_overrides(Config(), ["data.eval_context=2048"]).data.eval_context == 2048


def test_every_option_has_help_and_a_valid_default():
    assert all(option.help and "\n" not in option.help for option in OPTIONS.values())
    assert Config().validate() == Config()


def test_tokenizer_choices_are_the_registry():
    for name in TOKENIZERS:
        assert apply_overrides(Config(), [f"data.tokenizer={name}"]).data.tokenizer == name
    with pytest.raises(ConfigError, match=" or ".join(TOKENIZERS)):
        apply_overrides(Config(), ["data.tokenizer=words"])


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("train.lr=0.01", 0.01),
        ("train.lr = 1e-3", 1e-3),
        ("train.lr=1", 1.0),
        ("model.n_splats=4096", 4096),
        ("model.n_splats=4_096", 4096),
        ("train.max_minutes=30", 30.0),
        ("train.max_minutes=none", None),
        ("data.vocab_size=5000", 5000),
        ("data.data_dir=/a b/c=d", "/a b/c=d"),
        ("data.data_dir=None", None),
        ("data.tokenizer_path=runs/a/tokenizer.json", "runs/a/tokenizer.json"),
        ("data.window_stride=128", 128),
        ("data.documents=packed", "packed"),
        ("train.betas=0.8, 0.99", (0.8, 0.99)),
        ("train.betas=(0.8,0.99)", (0.8, 0.99)),
        ("train.dsm_levels=4", (4.0,)),
        ("train.dsm_levels=1,2,3", (1.0, 2.0, 3.0)),
        ("sampler.latent=langevin", "langevin"),
        ("sampler.dt_omega=0.4", 0.4),
        ("energy.form=published", "published"),
    ],
)
def test_overrides_take_the_type_of_the_option(override, value):
    found = value_of(apply_overrides(Config(), [override]), override.partition("=")[0].strip())
    assert found == value
    assert type(found) is type(value)


def test_later_overrides_win_and_the_original_stays():
    before = Config(train=TrainConfig(seed=1))
    after = apply_overrides(before, ["train.lr=1", "train.seed=3", "train.lr=2"])
    assert (after.train.lr, after.train.seed) == (2.0, 3)
    assert before == Config(train=TrainConfig(seed=1))
    assert dataclasses.replace(after, train=before.train) == before


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lr", "has no '='"),
        ("lr=0.1", "did you mean train.lr"),
        ("model.nsplats=3", "did you mean model.n_splats"),
        ("modle.n_splats=3", "did you mean model.n_splats"),
        ("qqq=3", r"there are data\.\*, model\.\*"),
        ("energy.qqq=3", "there are energy.form, energy.temperature"),
        ("train.lr=fast", "train.lr=fast must be a number"),
        ("train.lr=nan", "must be finite"),
        ("train.lr=1e999", "must be finite"),
        ("train.lr=0", "must be > 0"),
        ("train.steps=1e3", "must be an integer"),
        ("train.steps=true", "must be an integer"),
        ("train.steps=0", "must be >= 1"),
        ("train.steps=", "must be an integer"),
        ("train.betas=0.9", "must be 2 items between commas, each a number"),
        ("train.betas=0.9,1", "must be < 1"),
        ("train.dsm_levels=", "one or more items"),
        ("train.dsm_levels=1,0", "must be > 0"),
        ("data.dataset=", "must be text"),
        ("data.vocab_size=2", "must be >= 3"),
        ("data.vocab_size=256", "must be >= 257"),
        ("data.vocab_size=none", "must be >= 257"),
        ("data.eval_stride=513", "must be <= data.eval_context=512"),
        ("data.window_stride=257", "data.window_stride=257 must be <= data.block_size=256"),
        ("data.documents=inside", "across or within or packed"),
        ("model.dim=7", "must be >= 8"),
        ("model.n_splats=127", "sampler.list_size=128 must be <= model.n_splats=127"),
        ("energy.n_neighbours=20000", "must be <= model.n_splats"),
        ("model.kappa_init=51", "must be <= 50"),
        ("model.kappa_min=6", "must be from model.kappa_min=6.0"),
        ("model.n_active=5", "must be <= model.n_experts=4"),
        ("model.splat_init=embedding", "needs model.embedding_path"),
        ("sampler.dt_omega=2", "must be < 2"),
        ("train.seed=9223372036854775808", "must be < 9223372036854775808"),
        ("train.seed=" + "9" * 5000, "must be an integer"),
    ],
)
def test_a_wrong_override_is_one_line_that_names_it(override, message):
    with pytest.raises(ConfigError, match=message) as caught:
        apply_overrides(Config(), [override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "term",
    [
        "energy.lambda_geom=1",
        "energy.lambda_comp=1",
        "energy.lambda_entropy=1",
        "energy.form=published",
    ],
)
@pytest.mark.parametrize("key", ["sampler.latent", "train.token_latent"])
def test_exact_latents_need_the_solvable_energy(key, term):
    assert value_of(apply_overrides(Config(), [f"{key}=exact"]), key) == "exact"
    with pytest.raises(ConfigError, match=f"use {key}=langevin"):
        apply_overrides(Config(), [f"{key}=exact", term])


def test_energy_terms_need_splats_with_a_density():
    few = ["model.n_splats=4", "energy.n_neighbours=4", "sampler.list_size=4"]
    apply_overrides(Config(), few)
    for term in ("lambda_comp", "pair_loss"):
        with pytest.raises(ConfigError, match=r"neighbours=8 must be <= model\.n_splats=4"):
            apply_overrides(Config(), [*few, f"energy.{term}=0.1"])
        with pytest.raises(ConfigError, match=rf"energy\.{term}=0\.1 must be 0 for model"):
            apply_overrides(preset("wikitext-splat"), [f"energy.{term}=0.1"])


def edited(section: str, **entries) -> str:
    document = json.loads(Config().to_json())
    document[section] = {**document.get(section, {}), **entries}
    return json.dumps(document)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "not a JSON object"),
        ('{"data": 3}', "unknown option 'data'"),
        (edited("train", lrr=1), "unknown option 'train.lrr': did you mean train.lr"),
        (edited("extra", x=1), "unknown option 'extra.x'"),
        (edited("train", steps=1.5), "train.steps=1.5 must be an integer"),
        (edited("train", steps=True), "train.steps=true must be an integer"),
        (edited("train", steps=None), "train.steps=null must be an integer"),
        (edited("train", lr="1"), "must be a number"),
        (edited("train", lr=True), "must be a number"),
        (edited("train", lr=float("nan")), "must be finite"),
        (edited("train", lr=10**400), "must be a number"),
        (edited("train", betas=0.9), "must be 2 items"),
        (edited("train", betas=[0.9, "x"]), "must be 2 items"),
        (edited("train", dsm_levels=[]), "one or more"),
        (edited("data", tokenizer=["bpe"]), "must be bpe or gpt2"),
        (edited("data", data_dir=3), "must be text, or none"),
    ],
)
def test_wrong_json_is_one_line_that_names_the_key(text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        Config.from_json(text)
    assert "\n" not in str(caught.value)


def test_missing_keys_have_their_defaults():
    document = json.loads(apply_overrides(Config(), ["train.lr=0.5", "model.dim=16"]).to_json())
    del document["train"]["lr"], document["energy"]
    expected = apply_overrides(Config(), ["model.dim=16"])
    assert Config.from_json(json.dumps(document)) == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 1.0}, "train.steps=1.0 must be an integer"),
        ({"betas": [0.9, 0.95]}, "train.betas=.* must be 2 items"),
        ({"lr": float("inf")}, "train.lr=inf must be finite"),
        ({"steps": 10**400, "batch_size": 0}, "train.batch_size=0 must be >= 1"),
    ],
)
def test_validate_refuses_values_set_in_python(values, message):
    config = Config()
    changed = dataclasses.replace(config, train=dataclasses.replace(config.train, **values))
    with pytest.raises(ConfigError, match=message):
        changed.validate()


@given(st.floats(1e-300, 1e300), st.integers(1, 10**12), st.none() | st.floats(1e-300, 1e300))
def test_numbers_survive_json_and_overrides_exactly(lr, steps, minutes):
    config = apply_overrides(
        Config(), [f"train.lr={lr!r}", f"train.steps={steps}", f"train.max_minutes={minutes!r}"]
    )
    assert (config.train.lr, config.train.steps, config.train.max_minutes) == (lr, steps, minutes)
    assert Config.from_json(config.to_json()) == config
