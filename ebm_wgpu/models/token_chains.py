"""Markov chains over token sequences whose stationary distribution is exp(-energy)/Z."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class CausalEnergy(Protocol):
    """An energy of sequences that a causal network computes, and what proposes their tokens."""

    def read(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Energies (N,), nats, of tokens (N, T), T >= 2, and states (N, T-1, D).

        State t must depend on tokens[:, :t+1] alone: it proposes token t+1.
        """
        ...

    def propose(self, states: Tensor) -> Tensor:
        """Log probabilities (N, V) of the tokens to propose after states (N, D)."""
        ...

    def propose_first(self) -> Tensor:
        """Log probabilities (V,) of the first tokens to propose."""
        ...


@torch.no_grad()
def informed_metropolis(
    model: CausalEnergy, tokens: Tensor, steps: int, generator: torch.Generator
) -> Tensor:
    """Chains (N, T) after `steps` steps of Metropolis-Hastings that leave exp(-E)/Z as it is.

    A step changes at most one token a row, at a site drawn at random, and reads the model once. The
    proposal q(. | x_<s) for site s is what the causal model itself expects there; it does not look
    at site s or later, so that the move back has the same q. It is accepted with probability
    min(1, exp(E(x) - E(x')) q(x_s)/q(x'_s)) (Hastings 1970).

    Random numbers come from main memory: the same seed gives the same chains on any device.

    Args:
        model: gives energies, states and proposals.
        tokens: where the chains start, (N, T) int64, T >= 2; they stay as they are.
        steps: how many.
        generator: of everything random, in main memory.
    """
    rows = torch.arange(len(tokens), device=tokens.device)
    first = model.propose_first()
    current, states = model.read(tokens)
    for _ in range(steps):
        drawn = torch.randint(tokens.shape[1], (len(tokens),), generator=generator)
        sites = drawn.to(tokens.device)
        after = model.propose(states[rows, (sites - 1).clamp(min=0)])
        log_q = torch.where((sites == 0)[:, None], first, after)
        token = _categorical(log_q, generator)
        back = log_q[rows, tokens[rows, sites]]
        proposed = tokens.scatter(1, sites[:, None], token[:, None])
        energies, new_states = model.read(proposed)
        taken = _accept(current - energies + back - log_q[rows, token], generator)
        tokens = torch.where(taken[:, None], proposed, tokens)
        current = torch.where(taken, energies, current)
        states = torch.where(taken[:, None, None], new_states, states)
    return tokens


def _categorical(log_weights: Tensor, generator: torch.Generator) -> Tensor:
    """One index a row with probability softmax(log_weights), by the Gumbel maximum."""
    uniform = torch.rand(log_weights.shape, generator=generator, dtype=torch.float64)
    gumbel = -torch.log(-torch.log(uniform.clamp_(min=1e-300)))
    return (log_weights + gumbel.to(log_weights)).argmax(-1)


def _accept(log_ratio: Tensor, generator: torch.Generator) -> Tensor:
    uniform = torch.rand(log_ratio.shape, generator=generator)
    return uniform.log().to(log_ratio) < log_ratio
