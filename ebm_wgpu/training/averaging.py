"""A moving average of the weights, which generalises better than the last of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from ebm_wgpu.training.grown_rows import GrownRows, is_splat_parameter

WARMUP = 10
"""Updates after which the average looks back as far as half its decay allows, roughly."""


class WeightAverage:
    """s <- d s + (1 - d) w of every parameter w that learns, after each optimiser step.

    The decay of update n (from 1) is d = min(decay, (1 + n) / (`WARMUP` + n)), so that the first
    weights are soon forgotten. Rows of parameters with the attribute `spherical` are scaled back
    to unit length. Buffers are not averaged.

    Source: Polyak and Juditsky, "Acceleration of stochastic approximation by averaging" (1992);
    the warm-up is that of TensorFlow's ExponentialMovingAverage.

    Attributes:
        updates: optimiser steps averaged over so far.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Start from the weights `model` has now."""
        self._decay = decay
        self.updates = 0
        self._average = {name: weight.detach().clone() for name, weight in learning(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move toward the weights of `model`."""
        self.updates += 1
        decay = min(self._decay, (1 + self.updates) / (WARMUP + self.updates))
        for name, weight in learning(model).items():
            average = self._average[name].lerp_(weight, 1 - decay)
            if getattr(weight, "spherical", False):
                average.div_(torch.linalg.vector_norm(average, dim=-1, keepdim=True))

    @torch.no_grad()
    def grown(self, before: nn.Module, after: nn.Module, rows: GrownRows) -> WeightAverage:
        """The average of `after`, whose splats grew from those of `before`, averaged so far.

        What growth changed in the weights of a splat it changes in their average; new splats begin
        with the weights they have.
        """
        average = WeightAverage(after, self._decay)
        average.updates = self.updates
        old = learning(before)
        for name, weight in average._average.items():
            held = self._average[name]
            if is_splat_parameter(learning(after)[name]):
                lag = rows.take(held - old[name], new=False)
                weight.add_(lag)
            else:
                weight.copy_(held)
        return average

    @contextlib.contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Let `model` have the average for its weights inside the block."""
        live = {name: weight.detach().clone() for name, weight in learning(model).items()}
        load_learning(model, self._average)
        try:
            yield
        finally:
            load_learning(model, live)


def learning(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of `model` that learn, each once, by name."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


@torch.no_grad()
def load_learning(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give the parameters of `model` that learn the values of `weights`, which names them all.

    Raises:
        KeyError: one is missing.
    """
    for name, weight in learning(model).items():
        weight.copy_(weights[name])
