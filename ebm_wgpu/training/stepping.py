"""One optimiser step: batches, losses, gradients, and the rate they are followed at."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
import torch

from ebm_wgpu.config import TrainConfig
from ebm_wgpu.errors import EbmError
from ebm_wgpu.training.placement import place_of
from ebm_wgpu.training.precision import LossScale, scales_loss
from ebm_wgpu.training.recovery import DivergedError, check_finite, has_finite_parameters
from ebm_wgpu.training.state import TrainingState

USAGE_EVERY = 10
"""Steps from one measurement of how much each splat is used to the next."""


@dataclass(frozen=True)
class StepOutcome:
    """What came of an optimiser step.

    Attributes:
        parts: the loss, its parts, and what the model measures beside them, means over batches.
        lr: learning rate of encoder and decoder.
        seconds: what the step took.
    """

    parts: dict[str, float]
    lr: float
    seconds: float


class Stepper:
    """Takes optimiser steps, each over train.accumulation batches.

    What is random in a step depends on the seed, the step and the batch within it alone.
    """

    def __init__(self, train: TrainConfig) -> None:
        self._train = train

    def step(self, state: TrainingState, factor: float) -> StepOutcome:
        """Take a step at `factor` times the configured rates; the progress of `state` counts it.

        Where the loss is scaled (`LossScale`) and the gradient is not finite, the weights stay as
        they are, the batches are consumed, and the scale falls.

        Raises:
            DivergedError: loss or gradient is not finite; the weights are as they were, but batches
                were consumed.
        """
        begin = time.perf_counter()
        train, progress = self._train, state.progress
        scaled = scales_loss(train.precision, state.model)
        scale = progress.loss_scale if scaled else LossScale(1.0)
        micros = range(train.accumulation)
        batches = [torch.from_numpy(state.batches.next_batch()).long() for _ in micros]
        seeds = [_seed(train.seed, progress.step, micro) for micro in micros]
        try:
            measured = state.gradients(batches, seeds, scale.factor if scaled else None)
        except EbmError as error:
            if has_finite_parameters(state.model):
                raise
            raise DivergedError("loss", math.nan, progress.step + 1) from error
        length, parts = measured.norm, measured.parts
        norm = length / scale.factor
        if scaled:
            parts["loss_scale"] = scale.factor
        skipped = scale.skips(norm)
        parts |= {"skipped": 1.0} if skipped else {"grad_norm": norm}
        check_finite(parts, progress.step + 1)
        factor *= progress.rate_scale
        if not skipped:
            state.optimizers.clip(length, train.grad_clip, scale.factor)
            state.optimizers.step(factor)
            if state.average is not None:
                state.average.update(state.model)
        state.optimizers.zero_grad()
        progress.step += 1
        splats = state.model.splat_model
        if splats is not None and progress.step % USAGE_EVERY == 0:
            tokens = batches[-1][:1, :-1].to(place_of(state.model))
            splats.record_usage(tokens, USAGE_EVERY)
            if train.splat_decay:
                splats.decay_weights(USAGE_EVERY * train.splat_decay)
        return StepOutcome(parts, train.lr * factor, time.perf_counter() - begin)


def _seed(seed: int, step: int, micro: int) -> int:
    """A seed of its own for each batch, in [0, 2^63)."""
    return int(np.random.SeedSequence([seed, step, micro]).generate_state(1, np.uint64)[0] >> 1)
