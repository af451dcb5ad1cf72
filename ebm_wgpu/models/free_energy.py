"""The energy of a guess of the next token: its value, its gradient, and step sizes for it."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebm_wgpu.models.nano_ebm_config import System2Config
from ebm_wgpu.models.spectral_step import spectral_step_size


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

    @property
    def weights(self) -> Tensor:
        """s / sqrt J, (J,)."""
        return self.strength * len(self.strength) ** -0.5

    def energy(self, inputs: Tensor) -> Tensor:
        """Phi (P,) for the inputs A h + B e + c of the units, (P, J)."""
        return 0.5 * F.relu(inputs).square() @ self.weights


class FreeEnergy:
    """F(p | h) for P rows of states h, a function of the logits of the guess p = softmax(logits).

        F(p | h) = sum_w p_w E(h, w) + entropy * sum_w p_w log p_w + Phi(h, e(p))

    E(h, w) is the energy of a token and e(p) = sum_w p_w W_w the soft token; with hard tokens e is
    the embedding of the likeliest token, differentiated as if it were soft.
    """

    def __init__(
        self,
        config: System2Config,
        interaction: Interaction | None,
        h: Tensor,
        energies: Tensor,
        weight: Tensor,
    ) -> None:
        """Hold what the energy depends on besides the guess.

        Args:
            config: what kind of energy and gradient.
            interaction: Phi, or none.
            h: states, (P, D).
            energies: E(h, w), (P, V).
            weight: W, (V, D).
        """
        self._config, self._energies, self._interaction = config, energies, interaction
        if interaction is not None:
            self._context = interaction.context(h)
            self._to_units = _cheapest(weight, interaction.guess.weight.T, len(h))
            *first, last = self._to_units
            # Strengths scale a matrix of J columns here, and not one of P rows in each step.
            self._from_units = [last * interaction.weights, *reversed(first)]

    def __call__(self, logits: Tensor) -> Tensor:
        """F (P,), nats, of logits (P, V)."""
        log_p = F.log_softmax(logits, dim=-1)
        p = log_p.exp()
        expected = (p * (self._energies + self._config.entropy * log_p)).sum(-1)
        if self._interaction is None:
            return expected
        return expected + self._interaction.energy(self._inputs(p))

    def direction(self, logits: Tensor) -> Tensor:
        """What a step of size 1 takes off the logits (P, V), clamped.

        With g_w = dF/dp_w, the gradient in the logits is p * (g - p.g); the natural gradient, in
        the metric of the softmax, is g - p.g (Amari 1998).
        """
        log_p = F.log_softmax(logits, dim=-1)
        p = log_p.exp()
        slope = self._energies + self._config.entropy * log_p
        if self._interaction is not None:
            pull = F.relu(self._inputs(p))
            for factor in self._from_units:
                pull = pull @ factor.T
            slope = slope + pull
        slope = slope - (p * slope).sum(-1, keepdim=True)
        if self._config.gradient == "logit":
            slope = p * slope
        return slope.clamp(-self._config.step_clamp, self._config.step_clamp)

    def step_size(self, logits: Tensor, largest: Tensor) -> Tensor:
        """min(largest, c / |lambda|_max) for each guess, (P, 1), as `spectral_step_size` has it.

        lambda are the eigenvalues of what the direction is linear in: of the Hessian H of F in the
        logits or, for the natural gradient, of G H with H the Hessian in p and G = diag(p) - p p^T,
        the Fisher matrix. These are those of C^T H C, where C y = r * (y - r (r.y)) with r =
        sqrt(p) has C C^T = G; the entropy's part of it is the projection y - r (r.y) itself.
        """
        config = self._config
        energy: Callable[[Tensor], Tensor] = self
        at = logits
        if config.gradient == "natural":
            energy, at = self._along_simplex(logits), torch.zeros_like(logits)
        return spectral_step_size(
            energy, at, largest, config.spectral_c, config.spectral_iterations
        )

    def _along_simplex(self, logits: Tensor) -> Callable[[Tensor], Tensor]:
        """y (P, V) to an energy whose Hessian at y = 0 is C^T H C; see `step_size`."""
        p = logits.detach().softmax(-1)
        root = p.sqrt()
        inputs = None if self._interaction is None else self._inputs(p).detach()

        def energy(y: Tensor) -> Tensor:
            y = y - root * (root * y).sum(-1, keepdim=True)
            curved = 0.5 * self._config.entropy * y.square().sum(-1)
            if self._interaction is None or inputs is None:
                return curved
            return curved + self._interaction.energy(self._embedded(root * y, inputs))

        return energy

    def _inputs(self, p: Tensor) -> Tensor:
        """A h + B e(p) + c, (P, J), of p (P, V)."""
        if self._config.tokens == "soft":
            return self._embedded(p, self._context)
        token = torch.arange(p.shape[-1], device=p.device)
        certain = (token == p.argmax(-1, keepdim=True)).to(p.dtype)
        if torch.is_grad_enabled():
            certain = certain + (p - p.detach())
        return self._embedded(certain, self._context)

    def _embedded(self, p: Tensor, added: Tensor) -> Tensor:
        """B W^T p for each row of p (P, V), plus `added` (P, J)."""
        *first, last = self._to_units
        for factor in first:
            p = p @ factor
        return torch.addmm(added, p, last)


def _cheapest(first: Tensor, second: Tensor, rows: int) -> tuple[Tensor, ...]:
    """Matrices whose product is first @ second, such that x times all of them costs least.

    That is the product itself, or the two one after the other: first (V, D), second (D, J), x
    (rows, V).
    """
    (wide, inner), units = first.shape, second.shape[1]
    joined = wide * units * (inner + rows)
    return (first @ second,) if joined < rows * inner * (wide + units) else (first, second)
