"""The free energy: directions are gradients, spectral steps are those of the Hessian."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ebm_wgpu.models.free_energy import FreeEnergy, Interaction
from ebm_wgpu.models.nano_ebm_config import System2Config

P, V, D, J = 6, 7, 5, 4
DOUBLE = torch.float64


class Problem:
    """A free energy of random states, energies, embeddings and units, and logits to look at."""

    def __init__(self, seed: int = 0, rows: int = P, scale: float = 1.0, **options: Any) -> None:
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, dtype=DOUBLE, generator=generator)

        self.config = System2Config(**({"interaction": J, "step_clamp": 1e9} | options))
        self.units = None
        if self.config.interaction:
            self.units = Interaction(D, J).double()
            self.units.reset(generator)
            self.units.strength.data.copy_(scale * draw(J))
        self.h, self.energies, self.weight = draw(rows, D), draw(rows, V), draw(V, D)
        self.logits = draw(rows, V)
        self.energy = FreeEnergy(self.config, self.units, self.h, self.energies, self.weight)

    def plain(self, p: Tensor) -> Tensor:
        """F of probabilities (P, V), written out."""
        found = (p * (self.energies + self.config.entropy * p.log())).sum(-1)
        if self.units is None:
            return found
        inputs = self.units.context(self.h) + p @ self.weight @ self.units.guess.weight.T
        return found + 0.5 * inputs.relu().square() @ self.units.strength / J**0.5

    def curvature(self, p: Tensor) -> Tensor:
        """Hessians of `plain` in p, (P, V, V)."""
        rows = [
            torch.autograd.functional.hessian(lambda q, row=row: self._row(q, row), p[row])
            for row in range(len(p))
        ]
        return torch.stack(rows)

    def _row(self, q: Tensor, row: int) -> Tensor:
        whole = torch.ones(len(self.h), V, dtype=DOUBLE) / V
        return self.plain(torch.cat((whole[:row], q[None], whole[row + 1 :])))[row]


@pytest.mark.parametrize("interaction", [0, J])
@pytest.mark.parametrize("entropy", [0.0, 0.7])
@pytest.mark.parametrize("rows", [1, 500])
def test_the_value_and_the_direction_are_those_of_the_energy(
    interaction: int, entropy: float, rows: int
) -> None:
    options = {"interaction": interaction, "entropy": entropy, "rows": rows}
    problem = Problem(gradient="logit", **options)
    logits = problem.logits.requires_grad_()
    expected = problem.plain(logits.softmax(-1))
    torch.testing.assert_close(problem.energy(logits), expected, rtol=1e-12, atol=1e-12)
    (gradient,) = torch.autograd.grad(expected.sum(), logits)
    found = problem.energy.direction(logits)
    torch.testing.assert_close(found, gradient, rtol=1e-11, atol=1e-13)
    slope = Problem(gradient="natural", **options).energy.direction(logits)
    # The Fisher matrix of a softmax, diag(p) - p p^T, turns the natural gradient into the plain.
    p = logits.softmax(-1)
    fisher = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    product = (fisher @ slope[..., None])[..., 0]
    torch.testing.assert_close(product, gradient, rtol=1e-11, atol=1e-13)


def test_hard_tokens_read_the_likeliest_embedding() -> None:
    problem = Problem(tokens="hard")
    p = problem.logits.softmax(-1)
    token = problem.weight[p.argmax(-1)]
    assert problem.units is not None
    inputs = problem.units.context(problem.h) + token @ problem.units.guess.weight.T
    expected = (p * (problem.energies + p.log())).sum(-1)
    expected = expected + 0.5 * inputs.relu().square() @ problem.units.strength / J**0.5
    with torch.no_grad():
        alone = problem.energy(problem.logits)
    for found in (alone, problem.energy(problem.logits)):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("gradient", ["natural", "logit"])
@pytest.mark.parametrize(
    "options", [{}, {"entropy": 0.0}, {"entropy": 0.3, "scale": 20.0}, {"interaction": 0}]
)
def test_the_spectral_step_is_c_over_the_largest_eigenvalue(
    gradient: str, options: dict[str, Any]
) -> None:
    problem = Problem(gradient=gradient, spectral_c=0.8, spectral_iterations=2000, **options)
    p = problem.logits.softmax(-1)
    if gradient == "natural":
        fisher = torch.diag_embed(p) - p[:, :, None] * p[:, None]
        eigenvalues = torch.linalg.eigvals(fisher @ problem.curvature(p)).abs().amax(-1)
    else:
        rows = [
            torch.autograd.functional.hessian(
                lambda x, row=row: problem._row(x.softmax(-1), row), problem.logits[row]
            )
            for row in range(P)
        ]
        eigenvalues = torch.linalg.eigvalsh(torch.stack(rows)).abs().amax(-1)
    largest = torch.tensor([50.0], dtype=DOUBLE)
    found = problem.energy.step_size(problem.logits, largest)
    expected = (0.8 / eigenvalues).clamp(max=50.0)
    assert found.shape == (P, 1)
    torch.testing.assert_close(found[:, 0], expected, rtol=1e-6, atol=0)
    assert found.min() < 50


@pytest.mark.parametrize("tokens", ["soft", "hard"])
def test_a_guess_that_is_certain_has_a_step_size(tokens: str) -> None:
    problem = Problem(tokens=tokens)
    logits = torch.full((P, V), -1e4, dtype=DOUBLE)
    logits[:, 2] = 0
    size = problem.energy.step_size(logits, torch.tensor([5.0], dtype=DOUBLE))
    # Nothing is left to move in: only the entropy's curvature, 1.
    torch.testing.assert_close(size, torch.ones(P, 1, dtype=DOUBLE))


def test_rows_do_not_change_each_other() -> None:
    problem = Problem(spectral_iterations=3)
    largest = torch.tensor([9.0], dtype=DOUBLE)
    together = problem.energy.step_size(problem.logits, largest)
    for row in range(P):
        one = slice(row, row + 1)
        alone = FreeEnergy(
            problem.config, problem.units, problem.h[one], problem.energies[one], problem.weight
        )
        size = alone.step_size(problem.logits[one], largest)
        torch.testing.assert_close(size, together[one], rtol=1e-12, atol=0)


def test_nothing_is_learned_through_the_curvature() -> None:
    problem = Problem()
    largest = torch.tensor([0.01], dtype=DOUBLE, requires_grad=True)
    size = problem.energy.step_size(problem.logits.requires_grad_(), largest)
    (gradient,) = torch.autograd.grad(size.sum(), largest, retain_graph=True)
    assert gradient.item() == P
    assert torch.autograd.grad(size.sum(), problem.logits, allow_unused=True) == (None,)


def test_initially_there_is_no_interaction() -> None:
    units = Interaction(D, J)
    units.reset(torch.Generator().manual_seed(0))
    inputs = units.context(torch.randn(P, D)) + units.guess(torch.randn(P, D))
    assert units.energy(inputs).abs().sum() == 0
    assert units.weights.abs().sum() == 0
