"""Arithmetic of the forward pass, and the scale of the loss that float16 needs."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import Literal

import torch

from ebm_wgpu.models.base import LanguageModel
from ebm_wgpu.models.kernel_tensors import half_operands
from ebm_wgpu.training.placement import place_of

Precision = Literal["float32", "bfloat16", "float16"]

FIRST_SCALE = 2.0**16
GROWTH_STEPS = 2000


def autocast(
    precision: Precision, model: LanguageModel
) -> contextlib.AbstractContextManager[object]:
    """A block in which products of `model` run in `precision`; sums and losses stay in float32.

    Weights, gradients of weights and optimiser states are float32 in any case. bfloat16 has the
    exponents of float32; float16 has not, and wants the loss scaled (`LossScale`). A family with
    kernels of its own reads operands as float16 and keeps all else in float32, gradients too.

    Args:
        precision: bfloat16 on the processor, or float16 on torch.device("wgpu"); see
            `training_device`.
        model: what computes in the block.
    """
    if precision == "float32":
        return contextlib.nullcontext()
    if model.splat_model is not None:
        return half_operands()
    # Weights cast once under no_grad must not be reused where gradients are wanted: no cache.
    return torch.autocast(
        place_of(model).type, dtype=getattr(torch, precision), cache_enabled=False
    )


def scales_loss(precision: Precision, model: LanguageModel) -> bool:
    """Whether gradients pass through float16, so that the loss of `model` wants a `LossScale`."""
    return precision == "float16" and model.splat_model is None


@dataclass
class LossScale:
    """The power of two that a loss is multiplied by, so that its gradients suit float16.

    Between operators gradients are stored in float16, which knows nothing below 6e-8 and nothing
    above 65504. Gradients of weights are float32, and are divided by the scale before they are
    clipped and followed. The scale is as large as it can be: it begins at `FIRST_SCALE`, is halved
    where a gradient is not finite, and doubled after `GROWTH_STEPS` steps in a row without that.

    Source: Micikevicius et al. 2018 (arXiv:1710.03740), section 3.2.

    Attributes:
        factor: the scale now, at least 1.
        steps: steps taken in a row since it changed.
    """

    factor: float = FIRST_SCALE
    steps: int = 0

    def skips(self, norm: float) -> bool:
        """Whether a step must be left out, by its gradient's norm; the scale follows.

        Where not even a scale of 1 leads to a finite gradient, the step is not left out: what is
        not finite is then no matter of scale.
        """
        if math.isfinite(norm):
            self.steps += 1
            if self.steps == GROWTH_STEPS:
                self.factor, self.steps = 2 * self.factor, 0
            return False
        if self.factor <= 1:
            return False
        self.factor, self.steps = self.factor / 2, 0
        return True
