"""The model families by the name `model.family` gives them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from ebm_wgpu.errors import ConfigError

if TYPE_CHECKING:
    from ebm_wgpu.config import Config
    from ebm_wgpu.kernels import KernelDevice
    from ebm_wgpu.models.splat_lm import SplatLM


def _splat(config: Config, vocab_size: int, device: KernelDevice) -> SplatLM:
    from ebm_wgpu.models.splat_lm import SplatLM

    return SplatLM(config.model, config.energy, vocab_size, device, config.sampler)


FAMILIES: Mapping[str, Callable[[Config, int, KernelDevice], SplatLM]] = MappingProxyType(
    {"splat": _splat}
)


def build_model(config: Config, vocab_size: int, device: KernelDevice) -> SplatLM:
    """The model `config` describes for `vocab_size` token ids, with its kernels on `device`.

    Raises:
        ConfigError: there is no such family.
    """
    builder = FAMILIES.get(config.model.family)
    if builder is None:
        raise ConfigError(
            f"model.family={config.model.family} does not exist: choose one of "
            f"{', '.join(FAMILIES)}"
        )
    return builder(config, vocab_size, device)
