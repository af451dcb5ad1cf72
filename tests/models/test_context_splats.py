"""Splats of the context against a loop over the definition, exact normalisers, and causality."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ebm_wgpu.models.context_splats import ContextSplats, tilted_log_weight
from ebm_wgpu.vmf import log_z0_ratio

D, V, T = 16, 11, 9


@pytest.fixture
def splats() -> ContextSplats:
    torch.manual_seed(0)
    module = ContextSplats(D, 5.0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        module.decay.fill_(0.3)
        module.gate.bias.fill_(-3.0)
    return module


@pytest.mark.parametrize(("dimension", "tolerance"), [(128, 1e-5), (256, 1e-5), (640, 1e-5)])
@pytest.mark.parametrize("kappa", [1.0, 5.0, 50.0])
def test_log_weight_against_the_exact_normaliser(
    dimension: int, tolerance: float, kappa: float
) -> None:
    a = (dimension - 1) * kappa
    cosine = np.linspace(-1, 1, 21)
    for length in (0.5, 8.0, 60.0):
        exact = log_z0_ratio(a, 2 * a * length * cosine + length**2, dimension)
        found = tilted_log_weight(
            torch.from_numpy(cosine), a, torch.tensor(length, dtype=torch.float64), dimension
        )
        np.testing.assert_allclose(found.numpy(), exact, atol=tolerance, rtol=1e-6)


def by_definition(
    module: ContextSplats, states: torch.Tensor, following: torch.Tensor
) -> tuple[list[dict[int, float]], list[float]]:
    """p(w) of the splats seen by each position of one text, and the gate's logit."""
    keys, queries = module.keys(states).tolist(), module.queries(states).tolist()
    length, a = float(module.log_length.exp()), module.concentration
    mass, gates = [], []
    for t in range(len(states)):
        weights: dict[int, float] = {}
        for j in range(t):
            cosine = sum(x * y for x, y in zip(keys[j], queries[t], strict=True))
            value = log_z0_ratio(a, 2 * a * length * cosine + length**2, D)
            weight = (t - j) ** -float(module.decay) * math.exp(float(value))
            token = int(following[j])
            weights[token] = weights.get(token, 0.0) + weight
        total = sum(weights.values())
        mass.append({token: weight / total for token, weight in weights.items()})
        gates.append(math.log(total) if total else -math.inf)
    return mass, gates


@torch.no_grad()
def test_against_the_definition(splats: ContextSplats) -> None:
    states, following = torch.randn(2, T, D), torch.randint(V, (2, T))
    found = splats(states, following)
    for b in range(2):
        mass, evidence = by_definition(splats, states[b], following[b])
        assert torch.sigmoid(found.gate[b, 0]) == 0
        for t in range(1, T):
            expected = mass[t].get(int(following[b, t]), 0.0)
            assert float(found.log_mass[b, t].exp()) == pytest.approx(expected, abs=2e-5)
            gate = float(splats.evidence) * evidence[t] + float(splats.gate(states[b, t]))
            assert float(found.gate[b, t]) == pytest.approx(gate, abs=2e-3)


@torch.no_grad()
def test_splats_that_are_there_give_what_forward_gives(splats: ContextSplats) -> None:
    states, following = torch.randn(3, T, D), torch.randint(V, (3, T))
    age = torch.arange(T - 1, 0, -1)
    every = splats.recall(states[:, -1], splats.keys(states[:, :-1]), following[:, :-1], age, V)
    whole = splats(states, following)
    torch.testing.assert_close(every.gate, whole.gate[:, -1])
    chosen = every.log_mass.gather(1, following[:, -1:])[:, 0]
    torch.testing.assert_close(chosen.exp(), whole.log_mass[:, -1].exp())
    torch.testing.assert_close(every.log_mass.exp().sum(1), torch.ones(3))


@torch.no_grad()
def test_later_states_and_tokens_change_nothing(splats: ContextSplats) -> None:
    states, following = torch.randn(1, T, D), torch.randint(V, (1, T))
    before = splats(states, following)
    changed, other = states.clone(), following.clone()
    changed[:, 5:] = torch.randn(1, T - 5, D)
    other[:, 5:] = (following[:, 5:] + 1) % V
    after = splats(changed, other)
    assert torch.equal(before.log_mass[:, :5], after.log_mass[:, :5])
    assert torch.equal(before.gate[:, :5], after.gate[:, :5])


def test_gradients_are_finite_where_nothing_matches(splats: ContextSplats) -> None:
    states = torch.randn(1, T, D, requires_grad=True)
    found = splats(states, torch.arange(T)[None])
    total = torch.logaddexp(
        torch.nn.functional.logsigmoid(-found.gate),
        torch.nn.functional.logsigmoid(found.gate) + found.log_mass,
    ).sum()
    total.backward()
    assert states.grad is not None and bool(states.grad.isfinite().all())
    assert all(bool(p.grad.isfinite().all()) for p in splats.parameters() if p.grad is not None)
