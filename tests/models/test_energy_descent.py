"""The update equation, what is differentiated, and the choice of the lowest energy."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ebm_wgpu.models.energy_descent import Descent, lowest_energy
from ebm_wgpu.models.energy_transformer_config import Gradient, Update

WIDTH = 4


def energy(x: Tensor, step: int) -> Tensor:
    """A smooth energy that depends on the step, with couplings between all entries."""
    weights = torch.arange(1, WIDTH + 1, dtype=x.dtype)
    return (x * weights).sum(-1).sin() + (1 + step) * (x.square() * weights).sum(-1)


def numeric_gradient(x: Tensor, step: int, width: float = 1e-5) -> Tensor:
    """Central differences of `energy`, entry by entry."""
    gradient = torch.zeros_like(x)
    for index in range(WIDTH):
        shift = torch.zeros(WIDTH, dtype=x.dtype)
        shift[index] = width
        gradient[..., index] = (energy(x + shift, step) - energy(x - shift, step)) / (2 * width)
    return gradient


def paper_update(update: Update, y: Tensor, alpha: float, step: int) -> Tensor:
    """The equations in the head of the module, with numeric gradients."""
    p = y.softmax(-1)
    if update == "normalized" or (update == "normalized_first" and step == 0):
        return p - alpha * numeric_gradient(p, step)
    if update == "mirror":
        return y - alpha * numeric_gradient(p, step)
    return y - alpha * numeric_gradient(y, step)


@pytest.mark.parametrize("update", ["normalized", "normalized_first", "raw", "mirror"])
def test_the_update_is_the_equation(update: Update) -> None:
    torch.manual_seed(0)
    y = torch.randn(3, 2, WIDTH, dtype=torch.float64)
    noise = [torch.randn_like(y) for _ in range(3)]
    alpha = torch.tensor(0.05, dtype=torch.float64)
    refined = Descent(update=update)(energy, y, alpha, 3, noise)
    for step in range(3):
        start = y + noise[step]
        argument = Descent(update=update).argument(start, step)
        torch.testing.assert_close(refined.energies[step], energy(argument, step))
        y = paper_update(update, start, 0.05, step)
        torch.testing.assert_close(refined.states[step], y, rtol=1e-8, atol=1e-9)
        y = refined.states[step]


@pytest.mark.parametrize("update", ["normalized", "normalized_first", "raw", "mirror"])
def test_gradients_through_all_steps(update: Update) -> None:
    torch.manual_seed(1)
    start = torch.randn(2, WIDTH, dtype=torch.float64, requires_grad=True)
    alpha = torch.tensor(0.03, dtype=torch.float64, requires_grad=True)
    scale = torch.randn(WIDTH, dtype=torch.float64, requires_grad=True)

    def final(start: Tensor, alpha: Tensor, scale: Tensor) -> Tensor:
        descent = Descent(update=update, gradient="full")
        return descent(lambda x, step: energy(x * scale, step), start, alpha, 3).states[-1]

    assert torch.autograd.gradcheck(final, (start, alpha, scale))


@pytest.mark.parametrize("gradient", ["full", "detach", "truncate", None])
def test_what_is_differentiated(gradient: Gradient | None) -> None:
    """On E = a x^2 / 2 the states are (1 - alpha a)^k y, and their derivatives known."""
    y, a, alpha = 2.0, 3.0, torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    start = torch.tensor([[y]], dtype=torch.float64)
    descent = Descent(update="raw", gradient=gradient)
    states = descent(lambda x, _: 0.5 * a * x.square().sum(-1), start, alpha, 3).states
    shrink = 1 - 0.1 * a
    derivatives = []
    for k, state in enumerate(states, start=1):
        assert state.item() == pytest.approx(shrink**k * y, rel=1e-12)
        derivative = None
        if state.requires_grad:
            (derivative,) = torch.autograd.grad(state.sum(), alpha, retain_graph=True)
        derivatives.append(None if derivative is None else derivative.item())
    one_step = [-a * shrink**k * y for k in range(3)]
    expected: list[float | None] = {
        "full": [(k + 1) * one_step[k] for k in range(3)],
        "detach": one_step,
        "truncate": [None, None, one_step[2]],
        None: [None, None, None],
    }[gradient]
    for found, wanted in zip(derivatives, expected, strict=True):
        assert found == (None if wanted is None else pytest.approx(wanted, rel=1e-12))


@given(st.integers(1, 5), st.integers(0, 100))
def test_the_lowest_energy_is_chosen_row_by_row(count: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    states = [torch.randn(3, 2, WIDTH, generator=generator) for _ in range(count)]
    energies = [torch.randint(3, (3, 2), generator=generator).float() for _ in range(count)]
    best = lowest_energy(states, energies)
    for row in range(3):
        for place in range(2):
            values = [float(value[row, place]) for value in energies]
            assert torch.equal(best[row, place], states[values.index(min(values))][row, place])
