"""Configurations that have names, and configurations from files."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from ebm_wgpu.config import Config, DataConfig, ModelConfig, TrainConfig, apply_overrides
from ebm_wgpu.errors import ConfigError
from ebm_wgpu.models.energy_transformer_config import (
    ENERGY_TRANSFORMER_SIZES,
    EnergyTransformerConfig,
    system_2,
)
from ebm_wgpu.models.nano_ebm_config import NanoEBMConfig
from ebm_wgpu.models.transformer_config import TRANSFORMER_PRESETS, TransformerConfig
from ebm_wgpu.training.curriculum_config import CurriculumConfig

_HELDOUT = 8192
"""Tokens held out, where nothing else is said, for `ebm evaluate --part online` to fit on."""


def _shakespeare(block_size: int) -> DataConfig:
    """Tiny Shakespeare by characters, each of them scored after at least half a block."""
    return DataConfig(
        dataset="shakespeare",
        tokenizer="char",
        vocab_size=None,
        block_size=block_size,
        eval_context=block_size,
        eval_stride=block_size // 2,
    )


def _shape(
    family: Literal["transformer", "nano", "ebt"], shape: TransformerConfig
) -> TransformerConfig:
    """`shape`, with feed-forwards of nano narrower by the weights of System 2's interaction.

    So nano has as many parameters as the transformer. A unit of the interaction has 2 dim weights,
    and so has one of a feed-forward in each layer, or 3 dim where it is gated.
    """
    if family != "nano":
        return shape
    share = 2 / 3 if shape.activation == "swiglu" else 1
    units = share * NanoEBMConfig().interaction / shape.n_layers
    return dataclasses.replace(shape, hidden=8 * round((shape.hidden_units - units) / 8))


def _characters(family: Literal["transformer", "nano", "ebt"], lr: float = 6e-3) -> Config:
    """The shape of nanoGPT's small setting, 0.8 M parameters, for minutes on a processor.

    ebt has blocks of the same width and number, with the narrower feed-forwards of its paper.
    """
    block_size = 64
    return Config(
        data=_shakespeare(block_size),
        model=ModelConfig(family=family),
        train=TrainConfig(
            steps=5000,
            batch_size=12,
            lr=lr,
            betas=(0.9, 0.99),
            warmup_steps=100,
            min_lr_ratio=0.02,
        ),
        transformer=_shape(
            family, TransformerConfig(dim=128, n_layers=4, n_heads=4, max_length=block_size)
        ),
        ebt=EnergyTransformerConfig(dim=128, n_layers=4, n_heads=4, max_length=block_size),
    )


def _characters_system_2() -> Config:
    """shakespeare-ebt by the EBT paper's recipe for System 2, whose energy stands more steps.

    It learns from two or three noisy steps of varied size, some of them from where earlier windows
    ended, and looks back through the last step alone: think with it by more steps and more starts.
    """
    config = _characters("ebt", lr=2e-3)
    ebt = dataclasses.replace(system_2(config.ebt), replay_tokens=config.data.block_size)
    return dataclasses.replace(config, ebt=ebt)


def _ten_million(family: Literal["transformer", "nano"]) -> Config:
    """The size of nanoGPT's setting for a GPU: 10.7 M parameters in six layers.

    Fewer tokens will do: feed-forwards are gated, batches are a quarter of its own, and the rate
    ends near zero. Twelve times over the text, ten parameters a token, learn it by heart unless
    weights decay and are dropped more than there. Attention weights are not dropped, which lets the
    fused attention run.
    """
    return Config(
        data=_shakespeare(block_size=256),
        model=ModelConfig(family=family),
        train=TrainConfig(
            steps=3000,
            batch_size=16,
            lr=2e-3,
            betas=(0.9, 0.99),
            weight_decay=1.0,
            warmup_steps=100,
            min_lr_ratio=0.02,
            eval_tokens=None,
        ),
        transformer=_shape(
            family,
            TransformerConfig(
                activation="swiglu",
                norm="rms",
                dropout=0.3,
                attention_dropout=0.0,
                max_length=256,
            ),
        ),
    )


def _transformer(size: str, vocab_size: int, block_size: int, batch_size: int, lr: float) -> Config:
    """The compact transformer of a size over byte pairs."""
    return Config(
        data=DataConfig(
            vocab_size=vocab_size,
            block_size=block_size,
            heldout_tokens=_HELDOUT,
            eval_context=block_size,
            eval_stride=block_size // 2,
        ),
        model=ModelConfig(family="transformer"),
        train=TrainConfig(batch_size=batch_size, lr=lr, warmup_steps=400, patience=10),
        transformer=dataclasses.replace(
            TRANSFORMER_PRESETS[size], dropout=0.1, max_length=block_size
        ),
    )


def _energy_transformer(size: str, lr: float) -> Config:
    """The energy-based transformer in a size of its paper, at the paper's rate and context."""
    block_size = 256
    return Config(
        data=DataConfig(
            vocab_size=16384,
            block_size=block_size,
            eval_context=block_size,
            eval_stride=block_size // 2,
        ),
        model=ModelConfig(family="ebt"),
        train=TrainConfig(batch_size=32, lr=lr, warmup_steps=1000, patience=10),
        ebt=dataclasses.replace(ENERGY_TRANSFORMER_SIZES[size], max_length=block_size),
    )


def _wikitext(family: Literal["splat", "transformer"], *, gpu: bool = False) -> Config:
    """WikiText-2 by words over a transformer, for half an hour on two cores or an hour of a GPU."""
    if gpu:
        shape = TransformerConfig(
            dim=512,
            n_layers=8,
            n_heads=8,
            norm="rms",
            dropout=0.35,
            attention_dropout=0.0,
            max_length=512,
            class_bounds=(4000, 16000),
        )
        train = TrainConfig(batch_size=16, lr=6e-4, warmup_steps=1000, ema_decay=0.999)
    else:
        shape = TransformerConfig(
            dim=256,
            n_layers=3,
            n_heads=4,
            norm="rms",
            dropout=0.1,
            attention_dropout=0.0,
            max_length=512,
            class_bounds=(1000, 6000, 16000),
            max_logits=1 << 26,
        )
        train = TrainConfig(
            batch_size=4,
            lr=1.5e-3,
            warmup_steps=100,
            lr_splats=0.01,
            min_lr_ratio=0.02,
            precision="bfloat16",
        )
    return Config(
        data=DataConfig(
            tokenizer="word",
            vocab_size=None,
            block_size=512,
            heldout_tokens=32768,
            eval_context=512,
            eval_stride=256,
        ),
        model=ModelConfig(family=family, context="transformer", dim=shape.dim, n_splats=262144),
        train=dataclasses.replace(
            train, steps=200000, eval_every=1000, eval_tokens=16384, checkpoint_every=2000
        ),
        transformer=shape,
    )


def _prototype() -> Config:
    """The specification in a tenth of its size, to see a whole curriculum on a processor.

    500, 3,000 and 5,000 splats in d = 64 over 4,096 byte pairs: minutes on two cores. Weights,
    gradients and optimiser state of its 0.9 M parameters take 15 MB; what a process needs besides
    is that of nano.
    """
    nano = _nano()
    return dataclasses.replace(
        nano,
        model=dataclasses.replace(nano.model, n_splats=5000),
        curriculum=CurriculumConfig(splats=(500, 3000, 5000)),
    )


def _small() -> Config:
    """16,384 splats from the start, one for each of as many byte pairs, in d = 256.

    Each token is covered from the first step on, so that there is nothing to grow for. With
    gradients and optimiser state its 11.6 M parameters take 0.19 GB: for any GPU, or hours of a
    processor.
    """
    return Config(
        data=DataConfig(vocab_size=16384, block_size=256, heldout_tokens=_HELDOUT),
        model=ModelConfig(dim=256, n_splats=16384, expert_hidden=512),
    )


def _medium() -> Config:
    """A curriculum to 30,000 splats in d = 384: for a small GPU, or a night of many cores.

    3,000, 18,000 and 30,000 splats over 16,384 byte pairs. Weights, gradients and optimiser state
    of its 27 M parameters take 0.43 GB.
    """
    return Config(
        data=DataConfig(vocab_size=16384, block_size=256, heldout_tokens=_HELDOUT),
        model=ModelConfig(dim=384, n_splats=30000, expert_hidden=1024),
        train=TrainConfig(steps=50000, lr=8e-4, warmup_steps=500, eval_every=1000),
        curriculum=CurriculumConfig(splats=(3000, 18000, 30000)),
    )


def _production() -> Config:
    """The specification in full: 5,000, 30,000, then 50,000 splats on S^639, over GPT-2's tokens.

    In the last phase it has the shape of base, and with that its memory: for a GPU of 8 GB. To
    start from GPT-2's embedding, add model.splat_init=embedding model.embedding_path=gpt2.
    """
    return dataclasses.replace(_base(), curriculum=CurriculumConfig(splats=(5000, 30000, 50000)))


def _nano() -> Config:
    """A splat model in minutes on a processor."""
    return Config(
        data=DataConfig(
            vocab_size=4096,
            block_size=128,
            heldout_tokens=_HELDOUT,
            eval_context=256,
            eval_stride=128,
        ),
        model=ModelConfig(dim=64, n_splats=4096, expert_hidden=256),
        train=TrainConfig(
            steps=2000, lr=3e-3, warmup_steps=100, eval_every=200, checkpoint_every=200
        ),
    )


def _base() -> Config:
    """A splat model on S^639 over GPT-2's tokens, all of its splats from the start."""
    return Config(
        data=DataConfig(
            tokenizer="gpt2",
            vocab_size=50257,
            block_size=512,
            heldout_tokens=_HELDOUT,
            eval_context=1024,
            eval_stride=512,
        ),
        model=ModelConfig(dim=640, n_splats=50000, n_experts=8, expert_hidden=1024),
        train=TrainConfig(steps=100000, lr=6e-4, warmup_steps=1000, eval_every=1000),
    )


PRESETS: Mapping[str, Config] = MappingProxyType(
    {
        "nano": _nano(),
        "small": _small(),
        "base": _base(),
        "prototype": _prototype(),
        "medium": _medium(),
        "production": _production(),
        "transformer-small": _transformer("small", 8192, 256, 32, 1e-3),
        "transformer-medium": _transformer("medium", 16384, 512, 16, 6e-4),
        "transformer-large": _transformer("large", 16384, 512, 16, 4e-4),
        "ebt-small": _energy_transformer("small", 6e-4),
        "ebt-medium": _energy_transformer("medium", 3e-4),
        "ebt-large": _energy_transformer("large", 2.5e-4),
        "ebt-xl": _energy_transformer("xl", 2e-4),
        "wikitext-splat": _wikitext("splat"),
        "wikitext-transformer": _wikitext("transformer"),
        "wikitext-splat-gpu": _wikitext("splat", gpu=True),
        "wikitext-transformer-gpu": _wikitext("transformer", gpu=True),
        "shakespeare-transformer": _characters("transformer"),
        "shakespeare-nano": _characters("nano"),
        "shakespeare-ebt": _characters("ebt", lr=2e-3),
        "shakespeare-ebt-system2": _characters_system_2(),
        "shakespeare-10m": _ten_million("transformer"),
        "shakespeare-10m-nano": _ten_million("nano"),
    }
)


def preset(name: str) -> Config:
    """The preset `name`, a key of `PRESETS`.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ConfigError(f"unknown preset {name!r}{hint}; choose one of {', '.join(PRESETS)}")
    return PRESETS[name].validate()


def load_config(name_or_path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """A preset, or the configuration in a JSON file, with `overrides` applied.

    Args:
        name_or_path: a preset's name, or the path of a file that ends in .json.
        overrides: as for `apply_overrides`.

    Raises:
        ConfigError: unknown preset, unreadable file, or anything wrong in it or in an override.
    """
    path = Path(name_or_path)
    if path.suffix != ".json":
        return apply_overrides(preset(str(name_or_path)), overrides)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}): check the path") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: restore it") from error
    try:
        config = Config.from_json(text)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return apply_overrides(config, overrides)
