"""System 2: a guess of the next token, refined by going downhill in the energy of the guess."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebm_wgpu.models.nano_ebm_config import System2Config


class Interaction(nn.Module):
    """Phi(h, e) = 1/(2 sqrt J) sum_j s_j relu(a_j.h + b_j.e + c_j)^2 with J units.

    An energy of context and guess, whose gradient in e is B^T (s * relu(A h + B e + c)) / sqrt J: a
    layer of rectified units that looks at the guess as well as at the context. With s = 0, where it
    starts, there is no interaction; sqrt J keeps the first steps of learning small.
    """

    def __init__(self, dim: int, units: int) -> None:
        super().__init__()
        self.context = nn.Linear(dim, units)
        self.guess = nn.Linear(dim, units, bias=False)
        self.strength = nn.Parameter(torch.zeros(units))

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Draw all weights anew, such that context and guess weigh about the same.

        A state has the length sqrt(dim) and a token embedding one of order 1.
        """
        std = 1 / math.sqrt(self.context.in_features)
        self.context.weight.normal_(0.0, std, generator=generator)
        self.guess.weight.normal_(0.0, 1.0, generator=generator)
        self.context.bias.zero_()
        self.strength.zero_()

    def energy(self, context: Tensor, guess: Tensor) -> Tensor:
        """Phi (P,) for A h + c (P, units), as `context` gives it, and e (P, D)."""
        units = F.relu(context + self.guess(guess))
        return 0.5 * units.square() @ (self.strength * len(self.strength) ** -0.5)

    def gradient(self, context: Tensor, guess: Tensor) -> Tensor:
        """dPhi/de (P, D)."""
        units = F.relu(context + self.guess(guess))
        return (self.strength * len(self.strength) ** -0.5 * units) @ self.guess.weight


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
    """Descends the energy of a guess p over the vocabulary, given the context state h.

        F(p | h) = sum_w p_w E(h, w) + entropy * sum_w p_w log p_w + Phi(h, e(p))

    E(h, w) = -(h.W_w + b_w) is the energy head and e(p) = sum_w p_w W_w the soft token; with hard
    tokens e is the embedding of the likeliest token, differentiated as if it were soft. The guess
    starts at p = softmax(-E), System 1, which minimises the first two terms at entropy = 1: the
    interaction Phi is what thinking adds. At entropy = 0 without interaction this is plain descent
    of the expected energy, which sharpens.

    With g_w = dF/dp_w, the gradient in the logits is p * (g - p.g); the natural gradient, in the
    metric of the softmax, is g - p.g (Amari 1998), which also moves tokens that the guess gives
    little. All is written out in closed form, so that learning through the steps takes no second
    derivatives.
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
        config = self.config
        context = None if self.interaction is None else self.interaction.context(h)
        step = self.log_step.exp()
        logits = -energies
        watching = traced or config.energy_tolerance > 0
        current = self._energy(logits, energies, context, weight) if watching else None
        trace = [] if current is None else [current]
        for _ in range(steps):
            proposed = logits - step * self._direction(logits, energies, context, weight)
            if noisy and config.noise > 0:
                deviation = (2 * config.noise * step).sqrt()
                proposed = proposed + deviation * torch.randn_like(logits)
            if current is not None:
                after = self._energy(proposed, energies, context, weight)
                if config.energy_tolerance > 0:
                    moving = current - after >= config.energy_tolerance
                    proposed = torch.where(moving[:, None], proposed, logits)
                    after = torch.where(moving, after, current)
                current = after
                trace.append(after)
            logits = proposed
        return RefinedGuess(logits, torch.stack(trace) if traced else None)

    def energy(self, h: Tensor, logits: Tensor, energies: Tensor, weight: Tensor) -> Tensor:
        """F(softmax(logits) | h), (P,) nats; arguments as for `forward`."""
        context = None if self.interaction is None else self.interaction.context(h)
        return self._energy(logits, energies, context, weight)

    def direction(self, h: Tensor, logits: Tensor, energies: Tensor, weight: Tensor) -> Tensor:
        """What a step of size 1 takes off the logits, (P, V); arguments as for `forward`."""
        context = None if self.interaction is None else self.interaction.context(h)
        return self._direction(logits, energies, context, weight)

    def _energy(
        self, logits: Tensor, energies: Tensor, context: Tensor | None, weight: Tensor
    ) -> Tensor:
        log_p = F.log_softmax(logits, dim=-1)
        p = log_p.exp()
        expected = (p * (energies + self.config.entropy * log_p)).sum(-1)
        if self.interaction is None or context is None:
            return expected
        return expected + self.interaction.energy(context, self._token(p, weight))

    def _direction(
        self, logits: Tensor, energies: Tensor, context: Tensor | None, weight: Tensor
    ) -> Tensor:
        log_p = F.log_softmax(logits, dim=-1)
        p = log_p.exp()
        slope = energies + self.config.entropy * log_p
        if self.interaction is not None and context is not None:
            pull = self.interaction.gradient(context, self._token(p, weight))
            slope = slope + pull @ weight.T
        slope = slope - (p * slope).sum(-1, keepdim=True)
        if self.config.gradient == "logit":
            slope = p * slope
        return slope.clamp(-self.config.step_clamp, self.config.step_clamp)

    def _token(self, p: Tensor, weight: Tensor) -> Tensor:
        if self.config.tokens == "soft":
            return p @ weight
        hard = weight[p.argmax(-1)]
        if not torch.is_grad_enabled():
            return hard
        soft = p @ weight
        return hard + (soft - soft.detach())
