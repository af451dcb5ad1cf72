"""The model families by the name `model.family` gives them: the one place that knows them all.

Importing it is cheap: what a family is made of is imported when one is built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from ebm_wgpu.errors import ConfigError

if TYPE_CHECKING:
    from ebm_wgpu.config import Config
    from ebm_wgpu.kernels import KernelDevice
    from ebm_wgpu.models.base import LanguageModel

Disagreements = Iterator[tuple[bool, str]]
"""Whether values of a configuration contradict each other, and the message that says so."""
Idle = Iterator[tuple[tuple[str, ...], str]]
"""Patterns of the keys of options that have no effect, and why they have none."""


@dataclass(frozen=True)
class Family:
    """A kind of model.

    Attributes:
        build: the model of a configuration for a number of token ids, its kernels on a device.
        latents: what may be random in a prediction.
        splats: whether it is made of splats, which score matching needs.
        preset: the configuration that a run has where none is chosen.
        disagreements: what a configuration of this family must avoid besides.
        idle: options of its sections that change nothing in a configuration of it.
    """

    build: Callable[[Config, int, KernelDevice], LanguageModel]
    latents: tuple[str, ...]
    splats: bool
    preset: str
    disagreements: Callable[[Config], Disagreements]
    idle: Callable[[Config], Idle]


def _splat(config: Config, vocab_size: int, device: KernelDevice) -> LanguageModel:
    if config.model.context == "transformer":
        from ebm_wgpu.models.splat_transformer import SplatTransformer

        return SplatTransformer(
            config.model, config.transformer, config.memory, vocab_size, config.sampler, device
        )
    from ebm_wgpu.models.splat_lm import SplatLM

    return SplatLM(config.model, config.energy, vocab_size, device, config.sampler)


def _transformer(config: Config, vocab_size: int, device: KernelDevice) -> LanguageModel:
    from ebm_wgpu.models.causal_transformer import CausalTransformer

    return CausalTransformer(config.transformer, vocab_size)


def _nano(config: Config, vocab_size: int, device: KernelDevice) -> LanguageModel:
    from ebm_wgpu.models.nano_ebm import NanoEBM

    return NanoEBM(config.transformer, config.nano, vocab_size)


def _ebt(config: Config, vocab_size: int, device: KernelDevice) -> LanguageModel:
    from ebm_wgpu.models.energy_transformer import EnergyTransformer

    return EnergyTransformer(config.ebt, vocab_size)


_TERMS = ("lambda_geom", "lambda_comp", "lambda_entropy")
_ALL_TERMS = (*_TERMS, "spread_loss", "coverage_loss", "pair_loss", "entropy_loss")


def _energy_keys(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"energy.{name}" for name in names)


def _further_terms(config: Config) -> tuple[float, ...]:
    """Weights of all energy terms beside the mixture, in the order of `_ALL_TERMS`."""
    return tuple(getattr(config.energy, name) for name in _ALL_TERMS)


def _splat_disagreements(config: Config) -> Disagreements:
    if config.model.context == "transformer":
        yield from _splat_transformer_disagreements(config)
        return
    for key, size in (
        ("energy.n_neighbours", config.energy.n_neighbours),
        ("sampler.list_size", config.sampler.list_size),
    ):
        n_splats = config.model.n_splats
        yield size > n_splats, f"{key}={size} must be <= model.n_splats={n_splats}"
    energy, n_splats = config.energy, config.model.n_splats
    in_energy = any(getattr(energy, name) for name in _TERMS)
    yield (
        energy.term_neighbours > n_splats and any(_further_terms(config)),
        f"energy.term_neighbours={energy.term_neighbours} must be <= model.n_splats={n_splats}",
    )
    for key, latent in _latents(config):
        yield (
            latent == "exact" and (energy.form != "normalized" or in_energy),
            f"{key}=exact needs energy.form=normalized and {'=0, '.join(_energy_keys(_TERMS))}=0: "
            f"use {key}=langevin",
        )


def _splat_transformer_disagreements(config: Config) -> Disagreements:
    yield from _transformer_disagreements(config)
    yield (
        config.train.dsm_weight > 0,
        f"train.dsm_weight={config.train.dsm_weight} must be 0 for model.context=transformer: its "
        "splats are states, which score matching does not teach",
    )
    memory = config.memory
    yield (
        memory.search in ("auto", "brute", "hrm2") and memory.n_neighbours > 128,
        f"memory.n_neighbours={memory.n_neighbours} must be <= 128 for memory.search="
        f"{memory.search}: use memory.search=flat for more",
    )
    for key, value in zip(_energy_keys(_ALL_TERMS), _further_terms(config), strict=True):
        yield (
            value > 0,
            f"{key}={value} must be 0 for model.context=transformer: its splats are states, whose "
            "energy has no further terms",
        )


def _transformer_disagreements(config: Config) -> Disagreements:
    yield from _room(config, "transformer", config.transformer.max_length)


def _nano_disagreements(config: Config) -> Disagreements:
    yield from _transformer_disagreements(config)
    yield (
        config.transformer.class_bounds is not None,
        "transformer.class_bounds must be none for model.family=nano, whose energy is one of all "
        "tokens",
    )
    nano, block = config.nano, config.data.block_size
    yield (
        nano.contrastive_weight > 0 and nano.contrastive_length > block,
        f"nano.contrastive_length={nano.contrastive_length} must be <= data.block_size={block}",
    )


def _ebt_disagreements(config: Config) -> Disagreements:
    ebt, block = config.ebt, config.data.block_size
    yield from _room(config, "ebt", ebt.max_length)
    yield (
        ebt.replay_capacity > 0 and ebt.replay_tokens < block,
        f"ebt.replay_tokens={ebt.replay_tokens} must be >= data.block_size={block}",
    )


_SPLAT_TRAINING = tuple(
    f"train.{name}"
    for name in ("splat_decay", "latent_weight", "dsm_levels", "terms_weight", "balance_weight")
)
_CONSOLIDATION = tuple(
    f"memory.{name}" for name in ("states", "buffer", "merge_cosine", "weight_decay")
)
_HIERARCHICAL = (
    *("model.context_*", "model.*_window", "model.n_experts", "model.n_active"),
    *("model.expert_hidden", "model.dropout", "model.splat_init", "model.embedding_path"),
    "energy.*",
)


def _splat_idle(config: Config) -> Idle:
    model = config.model
    if model.context == "hierarchical":
        yield _CONSOLIDATION, "with model.context=hierarchical, whose splats learn"
        if model.splat_init != "embedding":
            yield ("model.embedding_path",), f"with model.splat_init={model.splat_init}"
        return
    states = "with model.context=transformer, whose splats are states"
    yield (*_HIERARCHICAL, *_SPLAT_TRAINING), states
    if model.dim != config.transformer.dim:
        yield ("model.dim",), f"{states} of transformer.dim={config.transformer.dim}"


def _splatless_idle(config: Config) -> Idle:
    yield (
        (*_SPLAT_TRAINING, "train.lr_splats", *_CONSOLIDATION),
        f"with model.family={config.model.family}, which has no splats",
    )


def _room(config: Config, section: str, max_length: int) -> Disagreements:
    data = config.data
    for name, length in (("block_size", data.block_size), ("eval_context", data.eval_context)):
        yield (
            length > max_length,
            f"data.{name}={length} must be <= {section}.max_length={max_length}",
        )


def _latents(config: Config) -> tuple[tuple[str, str], ...]:
    """The latents a configuration chooses, by their keys."""
    return (
        ("sampler.latent", config.sampler.latent),
        ("train.token_latent", config.train.token_latent),
    )


_ALL_LATENTS = ("mean", "exact", "langevin")

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "splat": Family(_splat, _ALL_LATENTS, True, "small", _splat_disagreements, _splat_idle),
        "transformer": Family(
            _transformer, ("mean",), False, "small", _transformer_disagreements, _splatless_idle
        ),
        "nano": Family(
            _nano, ("mean",), False, "shakespeare-nano", _nano_disagreements, _splatless_idle
        ),
        "ebt": Family(
            _ebt, _ALL_LATENTS, False, "shakespeare-ebt", _ebt_disagreements, _splatless_idle
        ),
    }
)


def family_disagreements(config: Config) -> Disagreements:
    """What of a configuration its family does not go with."""
    name = config.model.family
    family = FAMILIES[name]
    for key, latent in _latents(config):
        yield (
            latent not in family.latents,
            f"{key}={latent} must be {' or '.join(family.latents)} for model.family={name}",
        )
    yield (
        config.train.dsm_weight > 0 and not family.splats,
        f"train.dsm_weight={config.train.dsm_weight} must be 0 for model.family={name}: score "
        "matching is for models made of splats",
    )
    yield from family.disagreements(config)


def idle_options(config: Config) -> Idle:
    """Options of the sections that the family uses which change nothing in this configuration.

    Patterns of keys, as `fnmatch` has them, and a reason that completes "KEY has no effect".
    Sections of other families are not among them: a preset may hold several.
    """
    yield from FAMILIES[config.model.family].idle(config)


def learns_splats(config: Config) -> bool:
    """Whether the model has splats that are parameters."""
    return FAMILIES[config.model.family].splats and config.model.context == "hierarchical"


def build_model(config: Config, vocab_size: int, device: KernelDevice) -> LanguageModel:
    """The model `config` describes for `vocab_size` token ids.

    Splats compute in kernels on `device`. The other families are written in torch and compute where
    their parameters are: in main memory at first.

    Raises:
        ConfigError: there is no such family.
    """
    family = FAMILIES.get(config.model.family)
    if family is None:
        raise ConfigError(
            f"model.family={config.model.family} does not exist: choose one of "
            f"{', '.join(FAMILIES)}"
        )
    model = family.build(config, vocab_size, device)
    model.label_smoothing = config.train.label_smoothing
    return model
