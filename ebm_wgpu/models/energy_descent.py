"""Refining a predicted distribution downhill in energy, y <- y - alpha grad E.

The update is that of Gladstone et al. 2025 (arXiv:2507.02092), equation 1, for a state y of scores
over the vocabulary whose softmax is the prediction. What the gradient is taken of:

    normalized        p = softmax(y), y <- p - alpha dE/dp         (the paper's language models)
    normalized_first  the same in the first step; after it y <- y - alpha dE/dy
    raw               y <- y - alpha dE/dy
    mirror            p = softmax(y), y <- y - alpha dE/dp         (mirror descent on the simplex)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ebm_wgpu.models.energy_transformer_config import Gradient, StepRule, Update
from ebm_wgpu.models.spectral_step import spectral_step_size

StateEnergy = Callable[[Tensor, int], Tensor]
"""From what the energy reads (..., V) and the number of the step to the energies (...)."""


class Refined(NamedTuple):
    """A state on its way down.

    Attributes:
        states: after each step, (..., V) each.
        energies: before each step, (...) each, without gradient.
    """

    states: list[Tensor]
    energies: list[Tensor]


@dataclass(frozen=True)
class Descent:
    """How states are refined.

    Attributes:
        update: what the gradient is taken of.
        gradient: what later differentiation sees: all steps, each by itself, only the last, or
            nothing (none).
        step_rule: learned takes the step size as it is, spectral bounds it by c / lambda_max.
        spectral_c: c.
        spectral_iterations: power iterations for lambda_max.
    """

    update: Update = "normalized"
    gradient: Gradient | None = None
    step_rule: StepRule = "learned"
    spectral_c: float = 1.0
    spectral_iterations: int = 4

    def argument(self, state: Tensor, step: int) -> Tensor:
        """What the energy reads of a state (..., V) before step `step` = 0, 1, ...: p or y."""
        raw = self.update == "raw" or (self.update == "normalized_first" and step > 0)
        return state if raw else state.softmax(-1)

    def __call__(
        self,
        energy: StateEnergy,
        state: Tensor,
        step_size: Tensor,
        steps: int,
        noise: Sequence[Tensor] = (),
    ) -> Refined:
        """Take `steps` steps.

        Args:
            energy: of each row by itself.
            state: the first state, (..., V).
            step_size: alpha, broadcast against (..., 1).
            steps: how many.
            noise: what is added to the state before each step, (..., V) each, or nothing.
        """
        refined = Refined([], [])
        for step in range(steps):
            if self.gradient != "full":
                state = state.detach()
            if noise:
                state = state + noise[step]
            last = step == steps - 1
            keep = self.gradient is not None and (last or self.gradient != "truncate")
            state, value = self._step(energy, state, step_size, step, keep)
            refined.states.append(state)
            refined.energies.append(value)
        return refined

    def _step(
        self, energy: StateEnergy, state: Tensor, step_size: Tensor, step: int, keep: bool
    ) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = self.argument(state, step)
            if not x.requires_grad:
                x = x.detach().requires_grad_()
            value = energy(x, step)
            (gradient,) = torch.autograd.grad(value.sum(), x, create_graph=keep)
        if self.step_rule == "spectral":
            step_size = spectral_step_size(
                lambda at: energy(at, step),
                x,
                step_size,
                self.spectral_c,
                self.spectral_iterations,
            )
        moved = (state if self.update == "mirror" else x) - step_size * gradient
        return moved if keep else moved.detach(), value.detach()


def lowest_energy(states: Sequence[Tensor], energies: Sequence[Tensor]) -> Tensor:
    """Of N candidates the state of lowest energy, (..., V), row by row; the first of equals.

    Args:
        states: N tensors (..., V).
        energies: their energies, N tensors (...).
    """
    best, lowest = states[0], energies[0]
    for state, value in zip(states[1:], energies[1:], strict=True):
        better = value < lowest
        best = torch.where(better[..., None], state, best)
        lowest = torch.where(better, value, lowest)
    return best
