"""System 2: a guess of the next token, refined by going downhill in the energy of the guess."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ebm_wgpu.models.free_energy import FreeEnergy, Interaction
from ebm_wgpu.models.nano_ebm_config import System2Config


@dataclass(frozen=True)
class RefinedGuess:
    """What System 2 came to.

    Attributes:
        logits: of the refined guess, (P, V).
        trace: energies of the guess before, between and after the steps, (steps + 1, P); none
            unless asked for.
    """

    logits: Tensor
    trace: Tensor | None


class System2(nn.Module):
    """Descends the energy F(p | h) of a guess p over the vocabulary, `FreeEnergy`.

    The guess starts at p = softmax(-E), System 1, which minimises the expected energy minus the
    entropy at entropy = 1: the interaction Phi is what thinking adds. At entropy = 0 without
    interaction this is plain descent of the expected energy, which sharpens.

    Gradients are written out in closed form, so that learning through the steps takes no second
    derivatives; only a spectral step size does, through which nothing learns.

    Attributes:
        config: how it thinks; another one may be assigned that has as many units of interaction.
    """

    def __init__(self, config: System2Config, dim: int) -> None:
        """`dim` is that of the states and of the token embeddings."""
        super().__init__()
        self.config = config
        self.interaction = Interaction(dim, config.interaction) if config.interaction else None
        log_step = torch.tensor([math.log(config.step_size)])
        self.log_step = nn.Parameter(log_step, requires_grad=config.learn_step_size)

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Go back to the first step size, and draw the interaction anew."""
        self.log_step.fill_(math.log(self.config.step_size))
        if self.interaction is not None:
            self.interaction.reset(generator)

    def free_energy(self, h: Tensor, energies: Tensor, weight: Tensor) -> FreeEnergy:
        """F(. | h), which the steps go down.

        Args:
            h: states, (P, D).
            energies: E(h, w), (P, V).
            weight: W, (V, D).
        """
        return FreeEnergy(self.config, self.interaction, h, energies, weight)

    def forward(
        self,
        h: Tensor,
        energies: Tensor,
        weight: Tensor,
        steps: int,
        noisy: bool = False,
        traced: bool = False,
    ) -> RefinedGuess:
        """Refine the guess softmax(-energies).

        A row whose energy would fall by less than `energy_tolerance` stays as it is.

        Args:
            h: states, (P, D).
            energies: E(h, w), (P, V).
            weight: W, (V, D).
            steps: how many; 0 gives System 1.
            noisy: Langevin steps, of the configured temperature; torch's own random state gives
                the noise.
            traced: also give the energies along the way.
        """
        config, logits = self.config, -energies
        if steps == 0 and not traced:
            return RefinedGuess(logits, None)
        energy = self.free_energy(h, energies, weight)
        step = self.log_step.exp()
        watching = traced or config.energy_tolerance > 0
        current = energy(logits) if watching else None
        trace = [] if current is None else [current]
        for _ in range(steps):
            size = step if config.step_rule == "learned" else energy.step_size(logits, step)
            proposed = logits - size * energy.direction(logits)
            if noisy and config.noise > 0:
                deviation = (2 * config.noise * size).sqrt()
                proposed = proposed + deviation * torch.randn_like(logits)
            if current is not None:
                after = energy(proposed)
                if config.energy_tolerance > 0:
                    moving = current - after >= config.energy_tolerance
                    proposed = torch.where(moving[:, None], proposed, logits)
                    after = torch.where(moving, after, current)
                current = after
                trace.append(after)
            logits = proposed
        return RefinedGuess(logits, torch.stack(trace) if traced else None)
