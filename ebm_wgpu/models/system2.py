"""System 2: a guess of the next token, refined by going downhill in the energy of the guess."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ebm_wgpu.models.energy_transformer_config import StepRule
from ebm_wgpu.models.free_energy import FreeEnergy, Interaction
from ebm_wgpu.models.nano_ebm_config import System2Config


class System2(nn.Module):
    """Descends the energy F(p | h) of a guess p over the vocabulary, `FreeEnergy`.

    The guess starts at p = softmax(-E), System 1, which minimises the expected energy minus the
    entropy at entropy = 1: the interaction Phi is what thinking adds. At entropy = 0 without
    interaction this is plain descent of the expected energy, which sharpens.

    Gradients are written out in closed form, so that learning through the steps takes no second
    derivatives; only a spectral step size does, through which nothing learns.

    The noise of training, N(0, 2 T s) on each logit in a step of size s, disturbs the guesses that
    steps learn from; it samples no distribution. For that, steps along the natural gradient would
    need noise of the same metric, of deviation sqrt(2 T s / p_w), which is boundless; those along
    the gradient in logits are Langevin steps for exp(-F/T), but F is bounded over all logits, so
    that this has no finite integral.
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
        step_rule: StepRule | None = None,
    ) -> Tensor:
        """Logits (P, V) of the guess softmax(-energies) after refinement.

        A row whose energy would fall by less than `energy_tolerance` stays as it is, and where no
        row moves refinement ends. Steps with noise take no account of that.

        Args:
            h: states, (P, D).
            energies: E(h, w), (P, V).
            weight: W, (V, D).
            steps: how many; 0 gives System 1.
            noisy: add the configured noise, by torch's own random state.
            step_rule: of the step size; the configured one unless given.
        """
        config, logits = self.config, -energies
        if steps == 0:
            return logits
        energy = self.free_energy(h, energies, weight)
        spectral = (step_rule or config.step_rule) == "spectral"
        step, noise = self.log_step.exp(), config.noise if noisy else 0.0
        watching = config.energy_tolerance > 0 and noise == 0
        current = energy(logits) if watching else None
        for _ in range(steps):
            size = energy.step_size(logits, step) if spectral else step
            proposed = logits - size * energy.direction(logits)
            if noise > 0:
                proposed = proposed + (2 * noise * size).sqrt() * torch.randn_like(logits)
            if current is not None:
                after = energy(proposed)
                moving = current - after >= config.energy_tolerance
                if not bool(moving.any()):
                    break
                proposed = torch.where(moving[:, None], proposed, logits)
                current = torch.where(moving, after, current)
            logits = proposed
        return logits
