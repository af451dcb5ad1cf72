"""Where a model computes: in main memory, or on torch.device("wgpu") beside its kernels."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ebm_wgpu.config import Latent, TrainConfig
from ebm_wgpu.errors import ConfigError
from ebm_wgpu.kernels import KernelDevice
from ebm_wgpu.kernels.device import WgpuDevice
from ebm_wgpu.models.base import LanguageModel
from ebm_wgpu.models.recall import NextReading, Reader, Reading


class Scorer(Protocol):
    """What of a model is needed to score text."""

    def token_log_probs(self, tokens: Tensor, targets: Tensor, latent: Latent, seed: int) -> Tensor:
        """log p(targets[b, t] | tokens[b, :t+1]), nats, (B, T) for tokens and targets (B, T)."""


class EnergyModel(Protocol):
    """What of a model is needed for the energies of tokens."""

    def target_energies(self, tokens: Tensor, targets: Tensor) -> Tensor | None:
        """See `LanguageModel.target_energies`."""


def training_device(device: KernelDevice, train: TrainConfig) -> KernelDevice:
    """The device of the kernels, made torch.device("wgpu") as well if it is a GPU.

    Raises:
        ConfigError: a train.precision that the device does not store: bfloat16 is for the
            processor, float16 for GPUs with the feature shader-f16.
    """
    precision = train.precision
    if not isinstance(device, WgpuDevice):
        if precision == "float16":
            raise ConfigError(
                f"train.precision=float16 is for GPUs and the device is {device.description}: use "
                "train.precision=bfloat16 or train.precision=float32"
            )
        return device
    if precision == "bfloat16":
        raise ConfigError(
            "train.precision=bfloat16 is for the processor and the device is "
            f"{device.description}: use train.precision=float16 or train.precision=float32"
        )
    if precision == "float16" and not device.supports_half:
        raise ConfigError(
            f"{device.description} cannot store float16 (no shader-f16): use "
            "train.precision=float32"
        )
    return resident_device(device)


def resident_device(device: KernelDevice) -> KernelDevice:
    """The device of the kernels, made torch.device("wgpu") as well if it is a GPU.

    Returns:
        It, or the device that tensors are on already.
    """
    if not isinstance(device, WgpuDevice):
        return device
    from ebm_wgpu.torch_device.state import adopt

    return adopt(device)


def place_model(model: LanguageModel, device: KernelDevice) -> None:
    """Move a model for use to `device`, of `resident_device`.

    One made of splats stays in main memory, where what reads its latents in float64 finds them: its
    kernels run on the device from there.
    """
    if model.splat_model is None:
        model.to(torch_device_of(device))


def torch_device_of(device: KernelDevice) -> torch.device:
    """Where the tensors are of a model whose kernels run on `device`, of `resident_device`."""
    return torch.device("wgpu" if isinstance(device, WgpuDevice) else "cpu")


def place_of(model: object) -> torch.device:
    """Where the parameters of a model are; main memory for what has none."""
    first = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    return torch.device("cpu") if first is None else first.device


def on_host(values: Any) -> Any:
    """Nested lists and dictionaries with every tensor in main memory."""
    return pytree.tree_map(lambda v: v.cpu() if isinstance(v, Tensor) else v, values)


class HostScorer:
    """Scores tokens of main memory by a model that may be elsewhere."""

    def __init__(self, model: Scorer) -> None:
        """Take a model."""
        self._model = model

    def token_log_probs(
        self, tokens: Tensor, targets: Tensor, latent: Latent = "mean", seed: int = 0
    ) -> Tensor:
        """As `LanguageModel.token_log_probs`, from and to main memory."""
        place = place_of(self._model)
        log_probs = self._model.token_log_probs(
            tokens.to(place), targets.to(place), latent=latent, seed=seed
        )
        return log_probs.cpu()


def host_reading(
    model: Reader, tokens: Tensor, targets: Tensor, wanted: Tensor | None = None
) -> Reading:
    """As `Reader.read`, from and to main memory."""
    place = place_of(model)
    there = None if wanted is None else wanted.to(place)
    return Reading(*(v.cpu() for v in model.read(tokens.to(place), targets.to(place), there)))


def host_next(model: Reader, tokens: Tensor) -> NextReading:
    """As `Reader.read_next`, from and to main memory."""
    return NextReading(*(v.cpu() for v in model.read_next(tokens.to(place_of(model)))))


def host_energies(model: EnergyModel, tokens: Tensor, targets: Tensor) -> Tensor | None:
    """As `LanguageModel.target_energies`, from and to main memory."""
    place = place_of(model)
    energies = model.target_energies(tokens.to(place), targets.to(place))
    return None if energies is None else energies.cpu()
