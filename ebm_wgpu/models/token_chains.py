"""Markov chains over token sequences whose stationary distribution is exp(-energy)/Z.

All chains are rows of one (N, T) tensor and move independently; each step changes at most one token
a row, at a site drawn at random. Random numbers come from a generator in main memory, so that
the same seed gives the same chains on any device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

EnergyFunction = Callable[[Tensor], Tensor]
"""Tokens (N, T) int64 to energies (N,), nats."""


class ChainKernel(Protocol):
    """Moves chains by a number of steps that leave exp(-energy)/Z as it is."""

    def advance(self, tokens: Tensor, steps: int, generator: torch.Generator) -> Tensor:
        """Chains (N, T) after `steps` steps from `tokens` (N, T), which stay as they are."""
        ...


class CausalEnergy(Protocol):
    """An energy that a causal network computes, and that can propose tokens from its states."""

    def read(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Energies (N,) of tokens (N, T), and states (N, T-1, D).

        State t must depend on tokens[:, :t+1] alone: it proposes token t+1.
        """
        ...

    def propose(self, states: Tensor) -> Tensor:
        """Log probabilities (N, V) of the tokens to propose after states (N, D)."""
        ...


@dataclass(frozen=True)
class Gibbs:
    """Draws a token from its conditional given all others, at V energies a row and step.

    Attributes:
        energy: the energy.
        vocab_size: V.
        first_site: sites before it are never changed.
    """

    energy: EnergyFunction
    vocab_size: int
    first_site: int = 0

    @torch.no_grad()
    def advance(self, tokens: Tensor, steps: int, generator: torch.Generator) -> Tensor:
        """See `ChainKernel.advance`."""
        rows, length = tokens.shape
        every = torch.arange(self.vocab_size, device=tokens.device)
        for _ in range(steps):
            sites = _sites(tokens, self.first_site, generator)
            variants = tokens[:, None].expand(rows, self.vocab_size, length).clone()
            variants.scatter_(
                2,
                sites[:, None, None].expand(-1, self.vocab_size, 1),
                every[:, None].expand(rows, -1, 1),
            )
            energies = self.energy(variants.flatten(0, 1)).view(rows, self.vocab_size)
            tokens = _with_token(tokens, sites, _categorical(-energies, generator))
        return tokens


@dataclass(frozen=True)
class Metropolis:
    """Proposes a uniform token and accepts it with min(1, exp(-difference)): one energy a step.

    Attributes:
        energy: the energy.
        vocab_size: V.
        first_site: sites before it are never changed.
    """

    energy: EnergyFunction
    vocab_size: int
    first_site: int = 0

    @torch.no_grad()
    def advance(self, tokens: Tensor, steps: int, generator: torch.Generator) -> Tensor:
        """See `ChainKernel.advance`."""
        current = self.energy(tokens)
        for _ in range(steps):
            sites = _sites(tokens, self.first_site, generator)
            token = torch.randint(self.vocab_size, sites.shape, generator=generator)
            proposed = _with_token(tokens, sites, token.to(tokens.device))
            energies = self.energy(proposed)
            taken = _accept(current - energies, generator)
            tokens = torch.where(taken[:, None], proposed, tokens)
            current = torch.where(taken, energies, current)
        return tokens


@dataclass(frozen=True)
class InformedMetropolis:
    """Proposes tokens that the causal model itself expects; one pass through it a step.

    The proposal q(. | x_<s) for site s does not look at site s or later, so that the move back has
    the same q; accepted with min(1, exp(E(x) - E(x')) q(x_s)/q(x'_s)) (Hastings 1970). The first
    token, which nothing proposes, stays.

    Attributes:
        model: gives energies, states and proposals.
    """

    model: CausalEnergy

    @torch.no_grad()
    def advance(self, tokens: Tensor, steps: int, generator: torch.Generator) -> Tensor:
        """See `ChainKernel.advance`."""
        rows = torch.arange(len(tokens), device=tokens.device)
        current, states = self.model.read(tokens)
        for _ in range(steps):
            sites = _sites(tokens, 1, generator)
            log_q = self.model.propose(states[rows, sites - 1])
            token = _categorical(log_q, generator)
            back = log_q[rows, tokens[rows, sites]]
            proposed = _with_token(tokens, sites, token)
            energies, new_states = self.model.read(proposed)
            taken = _accept(current - energies + back - log_q[rows, token], generator)
            tokens = torch.where(taken[:, None], proposed, tokens)
            current = torch.where(taken, energies, current)
            states = torch.where(taken[:, None, None], new_states, states)
        return tokens


def _sites(tokens: Tensor, first: int, generator: torch.Generator) -> Tensor:
    rows, length = tokens.shape
    return torch.randint(first, length, (rows,), generator=generator).to(tokens.device)


def _with_token(tokens: Tensor, sites: Tensor, token: Tensor) -> Tensor:
    return tokens.scatter(1, sites[:, None], token[:, None])


def _categorical(log_weights: Tensor, generator: torch.Generator) -> Tensor:
    """One index a row with probability softmax(log_weights), by the Gumbel maximum."""
    uniform = torch.rand(log_weights.shape, generator=generator, dtype=torch.float64)
    gumbel = -torch.log(-torch.log(uniform.clamp_(min=1e-300)))
    return (log_weights + gumbel.to(log_weights)).argmax(-1)


def _accept(log_ratio: Tensor, generator: torch.Generator) -> Tensor:
    uniform = torch.rand(log_ratio.shape, generator=generator)
    return uniform.log().to(log_ratio) < log_ratio
