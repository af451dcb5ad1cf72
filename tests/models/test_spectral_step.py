"""Curvature against eigenvalues, and descent where a fixed step diverges."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ebm_wgpu.models.energy_descent import Descent
from ebm_wgpu.models.spectral_step import dominant_curvature, spectral_step_size


def quadratics(seed: int, rows: int = 4, width: int = 6) -> Tensor:
    """Symmetric matrices of very different size, (rows, width, width)."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(rows, width, width, generator=generator, dtype=torch.float64)
    return (a + a.mT) * torch.logspace(-2, 3, rows, dtype=torch.float64)[:, None, None]


def energy(matrices: Tensor, x: Tensor) -> Tensor:
    """x.H x / 2 of each row."""
    return 0.5 * (x * (matrices @ x[..., None])[..., 0]).sum(-1)


def definite(seed: int) -> Tensor:
    a = quadratics(seed)
    return a @ a.mT


@given(st.integers(0, 1000))
def test_curvature_is_the_largest_eigenvalue(seed: int) -> None:
    matrices = definite(seed)
    x = torch.zeros(4, 6, dtype=torch.float64)
    found = dominant_curvature(lambda at: energy(matrices, at), x, 400)
    expected = torch.linalg.eigvalsh(matrices).abs().amax(1, keepdim=True)
    # Power iteration converges as (lambda_2/lambda_1)^n from below.
    assert bool((found <= expected * (1 + 1e-9)).all())
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0)


def test_curvature_of_an_indefinite_energy_is_of_largest_size() -> None:
    matrix = torch.diag(torch.tensor([1.0, -5.0, 2.0], dtype=torch.float64))
    found = dominant_curvature(
        lambda at: energy(matrix, at), torch.zeros(2, 3, dtype=torch.float64), 60
    )
    torch.testing.assert_close(found, torch.full((2, 1), 5.0, dtype=torch.float64))


def test_a_linear_energy_has_no_curvature() -> None:
    x = torch.randn(3, 4)
    assert dominant_curvature(lambda at: at.sum(-1), x, 3).tolist() == [[0], [0], [0]]
    largest = torch.tensor(7.0)
    step = spectral_step_size(lambda at: at.sum(-1), x, largest, 1.0, 3)
    assert step.tolist() == [[7], [7], [7]]


def test_rows_do_not_change_each_other() -> None:
    matrices = quadratics(3)
    x = torch.ones(4, 6, dtype=torch.float64)
    together = dominant_curvature(lambda at: energy(matrices, at), x, 5)
    for row in range(4):
        one = slice(row, row + 1)
        alone = dominant_curvature(lambda at, one=one: energy(matrices[one], at), x[one], 5)
        torch.testing.assert_close(together[one], alone, rtol=1e-12, atol=0)


@pytest.mark.parametrize("c", [0.5, 1.0, 1.5])
def test_spectral_descends_where_a_fixed_step_diverges(c: float) -> None:
    matrices = definite(1)
    start = torch.ones(4, 6, dtype=torch.float64)
    alpha = torch.tensor(1.0, dtype=torch.float64)
    energies: dict[str, Tensor] = {}
    for rule in ("learned", "spectral"):
        descent = Descent(update="raw", step_rule=rule, spectral_c=c, spectral_iterations=60)
        states = descent(lambda x, step: energy(matrices, x), start, alpha, 6).states
        energies[rule] = torch.stack([energy(matrices, state) for state in (start, *states)])
    assert bool((energies["learned"][-1, 1:] > 1e3 * energies["learned"][0, 1:]).all())
    assert bool((energies["spectral"].diff(dim=0) < 0).all())


def test_the_step_is_differentiable_where_it_is_the_learned_one() -> None:
    alpha = torch.tensor(0.3, requires_grad=True)
    curvature = torch.tensor([[1.0], [100.0]])
    size = spectral_step_size(
        lambda at: (0.5 * curvature * at.square()).sum(-1), torch.ones(2, 1), alpha, 1.0, 3
    )
    torch.testing.assert_close(size.detach(), torch.tensor([[0.3], [0.01]]))
    (gradient,) = torch.autograd.grad(size.sum(), alpha)
    assert gradient.item() == 1.0
