"""Contrastive divergence: on an enumerable model it moves the distribution to the data's."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import nn

from ebm_wgpu.errors import ConfigError
from ebm_wgpu.models.contrastive_divergence import ContrastiveDivergence, Method

V, T, TRUTH = 3, 4, 5
STATES = torch.tensor(list(itertools.product(range(V), repeat=T)))


class Potts(nn.Module):
    """E(x) = -sum_t a[t, x_t] - sum_t b[t, x_t, x_t+1], whose Z is a sum over 81 states.

    Tokens are proposed by what E says about them and the one before.
    """

    def __init__(self, scale: float, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.single = nn.Parameter(scale * torch.randn(T, V, generator=generator))
        self.pair = nn.Parameter(scale * torch.randn(T - 1, V, V, generator=generator))

    def energy(self, tokens: torch.Tensor) -> torch.Tensor:
        sites = torch.arange(T)
        single = self.single[sites, tokens].sum(1)
        return -single - self.pair[sites[:-1], tokens[:, :-1], tokens[:, 1:]].sum(1)

    def read(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.energy(tokens), (V * torch.arange(T - 1) + tokens[:, :-1])[..., None]

    def propose(self, states: torch.Tensor) -> torch.Tensor:
        following = (self.pair + self.single[1:, None]).log_softmax(-1)
        return following.flatten(0, 1)[states[:, 0]]

    def propose_first(self) -> torch.Tensor:
        return self.single[0].log_softmax(0)

    @torch.no_grad()
    def log_probabilities(self) -> torch.Tensor:
        return (-self.energy(STATES)).log_softmax(0)

    def draws(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Exact independent sequences, (count, T)."""
        probabilities = self.log_probabilities().exp()
        return STATES[torch.multinomial(probabilities, count, True, generator=generator)]


class Still(Potts):
    """No move away from a sequence of one token is ever taken: it costs more than any chance."""

    def energy(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.where((tokens == tokens[:, :1]).all(1), -1e9, 1e9)


def divergence(truth: Potts, model: Potts) -> float:
    """KL(truth | model), nats, exact."""
    log_p = truth.log_probabilities()
    return float((log_p.exp() * (log_p - model.log_probabilities())).sum())


def one_first_token(data: torch.Tensor, count: int) -> torch.Tensor:
    """A batch that is not like the data: all of its sequences begin with token 0."""
    return data[data[:, 0] == 0][:count]


@pytest.mark.parametrize("method", ["cd", "pcd", "fast_pcd"])
def test_the_model_comes_to_the_truth(method: Method) -> None:
    generator = torch.Generator().manual_seed(0)
    truth, model = Potts(1.0, TRUTH), Potts(0.0)
    assert divergence(truth, model) > 1.0
    data = truth.draws(20_000, generator)
    loss = ContrastiveDivergence(method, T, 6, n_particles=1000)
    loss.negatives(model, one_first_token(data, 1000), generator)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 150)
    for _ in range(150):
        rows = torch.randint(len(data), (1000,), generator=generator)
        optimizer.zero_grad()
        loss(model, data[rows], generator).backward()
        optimizer.step()
        schedule.step()
    # 20,000 draws determine 22 free parameters to 22/40,000 nats; the rest is the lag of chains.
    assert divergence(truth, model) < 0.03


@pytest.mark.parametrize(
    ("method", "restart"), [("cd", 0.0), ("pcd", 0.0), ("fast_pcd", 0.0), ("fast_pcd", 0.1)]
)
def test_at_the_truth_the_gradient_is_zero(method: Method, restart: float) -> None:
    """Whatever the first batch was: particles forget it, the first tokens included."""
    generator = torch.Generator().manual_seed(0)
    truth, size = Potts(1.0, TRUTH), 1000
    conditionals = truth.log_probabilities().exp().view(V, V ** (T - 1))
    conditionals = conditionals / conditionals.sum(1, keepdim=True)
    assert (conditionals[0] - conditionals[2]).abs().sum() > 1
    data = truth.draws(60 * size, generator)
    loss = ContrastiveDivergence(method, T, 6, size, restart)
    loss.negatives(truth, one_first_token(data, size), generator)
    for step, batch in enumerate(data.view(60, size, T)):
        if step < 20:
            loss.negatives(truth, batch, generator)
        else:
            (loss(truth, batch, generator) / 40).backward()
    for parameter in truth.parameters():
        # Frequencies in 40,000 sequences: standard error .0025 for the data, some times that for
        # chains, which depend on each other.
        assert parameter.grad is not None
        assert parameter.grad.abs().max() < 0.03


def test_the_gradient_is_that_of_the_likelihood_when_chains_have_mixed() -> None:
    truth, model = Potts(1.0), Potts(0.5, seed=1)
    generator = torch.Generator().manual_seed(0)
    data = truth.draws(20_000, generator)
    loss = ContrastiveDivergence("cd", T, steps=60)
    loss(model, data, generator).backward()
    found = model.pair.grad
    model.zero_grad()
    log_partition = (-model.energy(STATES)).logsumexp(0)
    (model.energy(data).mean() + log_partition).backward()
    # Frequencies of 20,000 sequences: standard error at most .0036.
    torch.testing.assert_close(found, model.pair.grad, rtol=0, atol=0.015)


def test_particles_live_on_and_are_part_of_the_state() -> None:
    model, generator = Potts(1.0), torch.Generator().manual_seed(0)
    loss = ContrastiveDivergence("pcd", T, steps=1, n_particles=6)
    data = STATES[:4]
    loss(model, data, generator)
    first = loss.particles.clone()
    assert bool(((first != data[torch.arange(6) % 4]).sum(1) <= 1).all())
    resumed = ContrastiveDivergence("pcd", T, steps=1, n_particles=6)
    resumed.load_state_dict(loss.state_dict())
    found = [
        each.negatives(model, STATES[70:74], torch.Generator().manual_seed(1))
        for each in (loss, resumed)
    ]
    assert torch.equal(*found)
    assert int((loss.particles != first).any(1).sum()) <= 4
    loss.reset()
    again = STATES[70:74][torch.arange(6) % 4]
    loss.negatives(model, STATES[70:74], generator)
    assert bool(((loss.particles != again).sum(1) <= 1).all())


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_fast_pcd_moves_all_particles_and_restarts_some_at_the_data(probability: float) -> None:
    loss = ContrastiveDivergence("fast_pcd", T, 3, 50, restart_probability=probability)
    model = Still(1.0)
    zeros, ones = (torch.full((8, T), value) for value in (0, 1))
    assert bool((loss.negatives(model, zeros, torch.Generator().manual_seed(0)) == 0).all())
    negatives = loss.negatives(model, ones, torch.Generator().manual_seed(1))
    assert negatives.shape == (50, T)
    assert bool((negatives == int(probability)).all())
    negatives.fill_(2)
    assert bool((loss.particles == int(probability)).all())


def test_cd_starts_at_the_data_and_keeps_nothing() -> None:
    loss = ContrastiveDivergence("cd", T, steps=1)
    moved = loss.negatives(Potts(1.0), STATES, torch.Generator().manual_seed(0))
    assert bool(((moved != STATES).sum(1) <= 1).all())
    assert loss.particles.numel() == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "cd-1"}, "method='cd-1' does not exist"),
        ({"length": 1}, "length=1 of contrastive divergence must be at least 2"),
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
        loss.negatives(Potts(1.0), STATES[:, :3], torch.Generator())
