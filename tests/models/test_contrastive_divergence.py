"""Contrastive divergence: on an enumerable model it moves the distribution to the data's."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import nn

from ebm_wgpu.errors import ConfigError
from ebm_wgpu.models.contrastive_divergence import ContrastiveDivergence, Method
from ebm_wgpu.models.token_chains import Gibbs, Metropolis

V, T = 3, 4
STATES = torch.tensor(list(itertools.product(range(V), repeat=T)))


class Potts(nn.Module):
    """E(x) = -sum_t a[t, x_t] - sum_t b[t, x_t, x_t+1], whose Z is a sum over 81 states."""

    def __init__(self, scale: float, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.single = nn.Parameter(scale * torch.randn(T, V, generator=generator))
        self.pair = nn.Parameter(scale * torch.randn(T - 1, V, V, generator=generator))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        sites = torch.arange(T)
        single = self.single[sites, tokens].sum(1)
        return -single - self.pair[sites[:-1], tokens[:, :-1], tokens[:, 1:]].sum(1)

    @torch.no_grad()
    def log_probabilities(self) -> torch.Tensor:
        return (-self(STATES)).log_softmax(0)

    def draws(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Exact independent sequences, (count, T)."""
        probabilities = self.log_probabilities().exp()
        return STATES[torch.multinomial(probabilities, count, True, generator=generator)]


def divergence(truth: Potts, model: Potts) -> float:
    """KL(truth | model), nats, exact."""
    log_p = truth.log_probabilities()
    return float((log_p.exp() * (log_p - model.log_probabilities())).sum())


def trained(method: Method, steps: int, sampler: str) -> tuple[float, float]:
    generator = torch.Generator().manual_seed(0)
    truth, model = Potts(1.0), Potts(0.0)
    before = divergence(truth, model)
    data = truth.draws(20_000, generator)
    kernel = (Gibbs if sampler == "gibbs" else Metropolis)(model, V)
    loss = ContrastiveDivergence(method, T, steps, n_particles=400)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 250)
    for _ in range(250):
        rows = torch.randint(len(data), (256,), generator=generator)
        optimizer.zero_grad()
        loss(model, kernel, data[rows], generator).backward()
        optimizer.step()
        schedule.step()
    return before, divergence(truth, model)


@pytest.mark.parametrize(
    ("method", "sampler"),
    [("cd", "gibbs"), ("cd", "metropolis"), ("pcd", "metropolis"), ("fast_pcd", "metropolis")],
)
def test_the_model_comes_to_the_truth(method: Method, sampler: str) -> None:
    before, after = trained(method, 4, sampler)
    assert before > 1.0
    # 20,000 draws determine 22 free parameters to 22/40,000 nats; the rest is the noise of chains.
    assert after < 0.01


def test_the_gradient_is_that_of_the_likelihood_when_chains_have_mixed() -> None:
    truth, model = Potts(1.0), Potts(0.5, seed=1)
    generator = torch.Generator().manual_seed(0)
    data = truth.draws(20_000, generator)
    loss = ContrastiveDivergence("cd", T, steps=60)
    loss(model, Gibbs(model, V), data, generator).backward()
    found = model.pair.grad
    model.zero_grad()
    log_partition = (-model(STATES)).logsumexp(0)
    (model(data).mean() + log_partition).backward()
    # Frequencies of 20,000 sequences: standard error at most .0036.
    torch.testing.assert_close(found, model.pair.grad, rtol=0, atol=0.015)


def test_particles_live_on_and_are_part_of_the_state() -> None:
    model, generator = Potts(1.0), torch.Generator().manual_seed(0)
    kernel = Metropolis(model, V)
    loss = ContrastiveDivergence("pcd", T, steps=1, n_particles=6)
    data = STATES[:4]
    loss(model, kernel, data, generator)
    first = loss.particles.clone()
    assert bool(((first != data[torch.arange(6) % 4]).sum(1) <= 1).all())
    resumed = ContrastiveDivergence("pcd", T, steps=1, n_particles=6)
    resumed.load_state_dict(loss.state_dict())
    found = [
        each.negatives(kernel, STATES[70:74], torch.Generator().manual_seed(1))
        for each in (loss, resumed)
    ]
    assert torch.equal(*found)
    assert int((loss.particles != first).any(1).sum()) <= 4
    loss.reset()
    loss.negatives(kernel, STATES[70:74], generator)
    assert bool((loss.particles[:, 0] >= 1).any())


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_fast_pcd_moves_all_particles_and_restarts_some_at_the_data(probability: float) -> None:
    def still(tokens: torch.Tensor) -> torch.Tensor:
        """No move away from any state is ever taken: moving costs more than any chance."""
        return torch.where((tokens == tokens[:, :1]).all(1), -1e9, 1e9)

    loss = ContrastiveDivergence("fast_pcd", T, 3, 50, restart_probability=probability)
    kernel = Metropolis(still, V)
    zeros, ones = (torch.full((8, T), value) for value in (0, 1))
    assert bool((loss.negatives(kernel, zeros, torch.Generator().manual_seed(0)) == 0).all())
    negatives = loss.negatives(kernel, ones, torch.Generator().manual_seed(1))
    assert negatives.shape == (50, T)
    assert bool((negatives == int(probability)).all())
    negatives.fill_(2)
    assert bool((loss.particles == int(probability)).all())


def test_cd_starts_at_the_data_and_keeps_nothing() -> None:
    loss = ContrastiveDivergence("cd", T, steps=1)
    moved = loss.negatives(Metropolis(Potts(1.0), V), STATES, torch.Generator().manual_seed(0))
    assert bool(((moved != STATES).sum(1) <= 1).all())
    assert loss.particles.numel() == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "cd-1"}, "method='cd-1' does not exist"),
        ({"steps": 0}, "steps=0 of contrastive divergence must be at least 1"),
        ({"n_particles": 0}, "n_particles=0 of contrastive"),
        ({"restart_probability": 1.5}, "restart_probability=1.5 must be from 0 to 1"),
    ],
)
def test_what_is_out_of_range_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ContrastiveDivergence(**({"method": "pcd", "length": T} | given))


def test_sequences_of_another_length_are_refused() -> None:
    loss = ContrastiveDivergence("pcd", T)
    with pytest.raises(ConfigError, match="got sequences of 3 tokens and was made for 4"):
        loss.negatives(Metropolis(Potts(1.0), V), STATES[:, :3], torch.Generator())
