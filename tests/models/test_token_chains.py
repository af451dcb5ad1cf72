"""Markov chains over tokens: they keep exp(-energy)/Z, enumerated, and reach it from anywhere."""

from __future__ import annotations

import itertools

import torch
from scipy.stats import chi2

from ebm_wgpu.models.token_chains import informed_metropolis

V, T = 3, 4
STATES = torch.tensor(list(itertools.product(range(V), repeat=T)))
POWERS = V ** torch.arange(T - 1, -1, -1)


class Table:
    """Any energy at all of V^T sequences; proposals depend on the token before alone."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.energies = 2 * torch.randn(V**T, generator=generator, dtype=torch.float64)
        self.proposals = torch.randn(V, V, generator=generator, dtype=torch.float64).log_softmax(1)
        self.first = torch.randn(V, generator=generator, dtype=torch.float64).log_softmax(0)

    def read(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.energies[tokens @ POWERS], tokens[:, :-1, None]

    def propose(self, states: torch.Tensor) -> torch.Tensor:
        return self.proposals[states[:, 0]]

    def propose_first(self) -> torch.Tensor:
        return self.first


def p_value(tokens: torch.Tensor, probabilities: torch.Tensor) -> float:
    """Of Pearson's chi-squared, rare states taken together."""
    counts = torch.bincount(tokens @ POWERS, minlength=V**T).double()
    expected = probabilities * len(tokens)
    rare = expected < 10
    counts = torch.cat((counts[~rare], counts[rare].sum()[None]))
    expected = torch.cat((expected[~rare], expected[rare].sum()[None]))
    statistic = ((counts - expected) ** 2 / expected).sum().item()
    return float(chi2.sf(statistic, len(counts) - 1))


def test_one_step_keeps_the_distribution_and_moves_every_site() -> None:
    table = Table(0)
    generator = torch.Generator().manual_seed(1)
    probabilities = (-table.energies).softmax(0)
    exact = STATES[torch.multinomial(probabilities, 40_000, True, generator=generator)]
    moved = informed_metropolis(table, exact, 1, generator)
    assert bool((moved != exact).any(0).all())
    assert p_value(moved, probabilities) > 1e-3


def test_chains_reach_the_distribution_from_one_state() -> None:
    table = Table(2)
    probabilities = (-table.energies).softmax(0)
    start = torch.tensor([[1, 0, 2, 1]]).repeat(4000, 1)
    reached = informed_metropolis(table, start, 200, torch.Generator().manual_seed(3))
    assert p_value(reached, probabilities) > 1e-3


def test_chains_leave_their_start_alone_and_depend_on_the_seed() -> None:
    start = STATES.clone()
    first, same, other = (
        informed_metropolis(Table(0), start, 3, torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    )
    assert torch.equal(start, STATES)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert bool(((first != start).sum(1) <= 3).all())
