"""Where a model learns: in main memory, or on torch.device("wgpu") beside its kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ebm_wgpu.config import Latent, TrainConfig
from ebm_wgpu.errors import ConfigError
from ebm_wgpu.kernels import KernelDevice
from ebm_wgpu.kernels.device import WgpuDevice
from ebm_wgpu.models.base import LanguageModel


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
    from ebm_wgpu.torch_device.state import adopt

    return adopt(device)


def torch_device_of(device: KernelDevice) -> torch.device:
    """Where the tensors are of a model whose kernels run on `device`, of `training_device`."""
    return torch.device("wgpu" if isinstance(device, WgpuDevice) else "cpu")


def place_of(model: nn.Module) -> torch.device:
    """Where the parameters of a model are."""
    return next(model.parameters()).device


def on_host(values: Any) -> Any:
    """Nested lists and dictionaries with every tensor in main memory."""
    return pytree.tree_map(lambda v: v.cpu() if isinstance(v, Tensor) else v, values)


class HostScorer:
    """Scores tokens of main memory by a model that may be elsewhere."""

    def __init__(self, model: LanguageModel) -> None:
        """Take a model."""
        self._model = model

    def token_log_probs(
        self, tokens: Tensor, targets: Tensor, latent: Latent = "mean", seed: int = 0
    ) -> Tensor:
        """As `LanguageModel.token_log_probs`, from and to main memory."""
        place = place_of(self._model)
        log_probs = self._model.token_log_probs(tokens.to(place), targets.to(place), latent, seed)
        return log_probs.cpu()
