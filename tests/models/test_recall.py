"""The gate to remembered splats: against its definition, its limits, and what fitting finds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ebm_wgpu.models.recall import Neighbours, RecallGate, mix
from ebm_wgpu.vmf import log_z0_ratio

D, V, P, K = 128, 7, 5, 6


def random_neighbours(seed: int = 0) -> Neighbours:
    generator = torch.Generator().manual_seed(seed)
    return Neighbours(
        2 * torch.rand(P, K, generator=generator) - 1,
        torch.rand(P, K, generator=generator),
        torch.randint(V, (P, K), generator=generator),
    )


def open_gate(**values: float) -> RecallGate:
    gate = RecallGate(D, 5.0, exponent=1.0)
    with torch.no_grad():
        for name, value in values.items():
            getattr(gate, name).fill_(value)
    return gate


@torch.no_grad()
def test_against_the_definition() -> None:
    gate = open_gate(log_length=math.log(9.0), exponent=0.7, evidence=0.4, offset=-1.5)
    found = random_neighbours()
    a = (D - 1) * 5.0
    cosines = found.cosines.double().numpy()
    weight = np.exp(
        log_z0_ratio(a, 2 * a * 9.0 * cosines + 81.0, D) + 0.7 * found.prior.double().numpy()
    )
    total = weight.sum(1)
    mass = np.stack([(weight * (found.sids.numpy() == w)).sum(1) / total for w in range(V)], 1)
    every = gate.every_token(found, V)
    np.testing.assert_allclose(every.log_mass.exp().numpy(), mass, atol=1e-5)
    np.testing.assert_allclose(every.gate.numpy(), 0.4 * (np.log(total) - 9.0) - 1.5, atol=1e-4)
    for target in range(V):
        chosen = gate(found, torch.full((P,), target))
        np.testing.assert_allclose(chosen.log_mass.exp().numpy(), mass[:, target], atol=1e-5)
        assert torch.equal(chosen.gate, every.gate)


@torch.no_grad()
def test_what_is_not_there_does_not_count() -> None:
    gate = open_gate(evidence=1.0, offset=-3.0)
    found = random_neighbours()
    prior = torch.cat([found.prior, torch.full((P, 2), -math.inf)], 1)
    more = Neighbours(
        torch.cat([found.cosines, torch.ones(P, 2)], 1),
        prior,
        torch.cat([found.sids, torch.zeros(P, 2, dtype=torch.int64)], 1),
    )
    targets = torch.zeros(P, dtype=torch.int64)
    for one, other in zip(gate(found, targets), gate(more, targets), strict=True):
        torch.testing.assert_close(one, other)


@torch.no_grad()
@pytest.mark.parametrize("evidence", [-1.0, 0.0, 1.0])
def test_an_empty_memory_changes_nothing(evidence: float) -> None:
    gate = open_gate(evidence=evidence, offset=5.0)
    empty = Neighbours(torch.zeros(P, K), torch.full((P, K), -math.inf), torch.zeros(K))
    log_p = torch.randn(P)
    torch.testing.assert_close(mix(log_p, gate(empty, torch.zeros(P))), log_p)


@torch.no_grad()
def test_mix_is_a_distribution() -> None:
    gate = open_gate(evidence=0.1, offset=0.3)
    log_p = torch.randn(P, V).log_softmax(1)
    mixed = mix(log_p, gate.every_token(random_neighbours(), V))
    torch.testing.assert_close(mixed.exp().sum(1), torch.ones(P))


def test_fit_finds_what_made_the_tokens() -> None:
    generator = torch.Generator().manual_seed(1)
    count, held = 4000, 12
    found = Neighbours(
        torch.rand(count, held, generator=generator),
        torch.zeros(count, held),
        torch.randint(50, (count, held), generator=generator),
    )
    truth = open_gate(log_length=math.log(15.0), evidence=0.2, offset=0.5)
    log_p = torch.full((count,), -math.log(50.0))
    with torch.no_grad():
        every = truth.every_token(found, 50)
        p = mix(torch.full((count, 50), -math.log(50.0)), every).exp()
        targets = torch.multinomial(p, 1, generator=generator)[:, 0]
        best = float((mix(log_p, truth(found, targets)) - log_p).mean())
    gate = RecallGate(D, 5.0, exponent=0.0)
    gain = gate.fit(log_p, found, targets)
    assert gain >= best - 1e-4
    assert float(gate.log_length.exp()) == pytest.approx(15.0, rel=0.25)
    assert not any(p.requires_grad for p in gate.parameters())


def test_fit_keeps_a_useless_memory_closed() -> None:
    generator = torch.Generator().manual_seed(2)
    found = Neighbours(
        torch.rand(500, K, generator=generator),
        torch.zeros(500, K),
        torch.full((500, K), 3),
    )
    gate = RecallGate(D, 5.0, exponent=0.0)
    gain = gate.fit(torch.full((500,), -0.1), found, torch.ones(500, dtype=torch.int64))
    assert 0 <= gain < 1e-3
    with torch.no_grad():
        targets = torch.ones(500, dtype=torch.int64)
        assert float(torch.sigmoid(gate(found, targets).gate).max()) < 0.01
