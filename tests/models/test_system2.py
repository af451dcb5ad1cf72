"""System 2: its steps are the gradient of its energy, go downhill, and can be learned through."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ebm_wgpu.models.free_energy import FreeEnergy
from ebm_wgpu.models.nano_ebm_config import System2Config
from ebm_wgpu.models.system2 import System2

P, V, D = 6, 7, 5
DOUBLE = torch.float64


def problem(seed: int = 0, **options: Any) -> tuple[System2, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    system = System2(System2Config(**({"interaction": 4} | options)), D).double()
    system.reset(generator)
    if system.interaction is not None:
        strength = torch.randn(4, dtype=DOUBLE, generator=generator)
        system.interaction.strength.data.copy_(strength)
    shapes = {"h": (P, D), "energies": (P, V), "weight": (V, D)}
    given = {k: torch.randn(s, dtype=DOUBLE, generator=generator) for k, s in shapes.items()}
    return system, given


def trace(system: System2, given: dict[str, torch.Tensor], steps: int) -> torch.Tensor:
    """Energies of the guess after 0, 1, ..., steps steps, (steps + 1, P)."""
    energy = system.free_energy(**given)
    return torch.stack([energy(system(**given, steps=count)) for count in range(steps + 1)])


@pytest.mark.parametrize("gradient", ["natural", "logit"])
@pytest.mark.parametrize("entropy", [0.0, 1.0])
def test_small_steps_lower_the_energy_every_time(gradient: str, entropy: float) -> None:
    for seed in range(10):
        system, given = problem(seed, gradient=gradient, entropy=entropy, step_size=0.01)
        start = system.free_energy(**given).direction(-given["energies"])
        # Without an active unit, System 1 is the minimum already.
        moving = start.abs().amax(1) > 1e-12
        assert bool(moving.any())
        steps = trace(system, given, 10).diff(dim=0)
        assert bool((steps[:, moving] < 0).all())
        assert steps[:, ~moving].abs().sum().item() < 1e-12


def test_no_steps_is_system_1() -> None:
    system, given = problem()
    assert torch.equal(system(**given, steps=0), -given["energies"])


def test_without_interaction_system_1_minimises_the_free_energy() -> None:
    system, given = problem(interaction=0, entropy=1.0)
    found = system(**given, steps=3)
    torch.testing.assert_close(found, -given["energies"], rtol=0, atol=1e-12)
    log_partition = (-given["energies"]).logsumexp(-1)
    lowest = system.free_energy(**given)(found)
    torch.testing.assert_close(lowest, -log_partition, rtol=1e-12, atol=1e-12)


def test_expected_energy_alone_only_sharpens() -> None:
    system, given = problem(interaction=0, entropy=0.0, step_size=0.5, step_clamp=1e9)
    found = system(**given, steps=3).log_softmax(-1)
    expected = (-2.5 * given["energies"]).log_softmax(-1)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_steps_are_clamped() -> None:
    system, given = problem(step_clamp=0.1, step_size=2.0)
    change = system(**given, steps=1) + given["energies"]
    assert change.abs().max().item() == pytest.approx(0.2)


def test_a_row_stops_where_its_energy_would_rise_or_hardly_fall() -> None:
    system, given = problem(step_size=30.0, energy_tolerance=1e-3, entropy=0.3)
    steps = trace(system, given, 10).diff(dim=0)
    assert bool(((steps <= -1e-3) | (steps == 0)).all())
    assert bool((steps == 0).any())
    # What one row does is none of another's business.
    together = system(**given, steps=10)
    alone = system(given["h"][:1], given["energies"][:1], given["weight"], steps=10)
    torch.testing.assert_close(together[:1], alone, rtol=1e-12, atol=1e-12)


def test_refinement_ends_where_no_row_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = {"steps": 0}
    direction = FreeEnergy.direction

    def counted(energy: FreeEnergy, logits: torch.Tensor) -> torch.Tensor:
        taken["steps"] += 1
        return direction(energy, logits)

    monkeypatch.setattr(FreeEnergy, "direction", counted)
    system, given = problem(energy_tolerance=1e-2, noise=0.1)
    found = system(**given, steps=900)
    needed = taken["steps"]
    assert 1 < needed < 100
    assert torch.equal(found, system(**given, steps=needed - 1))
    taken["steps"] = 0
    without, _ = problem(noise=0.1)
    assert not torch.equal(found, without(**given, steps=900))
    system(**given, steps=900, noisy=True)
    assert taken["steps"] == 1800


def test_learning_goes_through_hard_tokens_as_if_they_were_soft() -> None:
    system, given = problem(tokens="hard")
    learned = system(given["h"], given["energies"].requires_grad_(), given["weight"], steps=2)
    assert bool(torch.autograd.grad(learned[0, 0], given["energies"])[0][0].abs().sum() > 0)


@pytest.mark.parametrize("seed", range(2))
def test_spectral_steps_converge_where_plain_ones_do_not(seed: int) -> None:
    # Units of positive strength push away what they look at: the energy is convex, and steep.
    ends, slopes = {}, {}
    for rule in ("learned", "spectral"):
        system, given = problem(
            seed, step_rule=rule, spectral_iterations=10, step_size=4.0, step_clamp=1e9
        )
        assert system.interaction is not None
        system.interaction.strength.data.fill_(2.0)
        system.interaction.context.bias.data.fill_(2.0)
        refined, energy = system(**given, steps=200), system.free_energy(**given)
        slopes[rule], ends[rule] = energy.direction(refined).norm(dim=-1), energy(refined)
    # Where the slope is zero a convex energy is at its minimum.
    assert slopes["spectral"].max().item() < 1e-3 < 1.0 < slopes["learned"].min().item()
    assert bool((ends["spectral"] < ends["learned"]).all())


def test_a_spectral_step_of_an_energy_without_curvature_is_the_learned_one() -> None:
    options = {"interaction": 0, "entropy": 0.0, "step_size": 0.5, "step_clamp": 1e9}
    plain, given = problem(**options)
    spectral, _ = problem(step_rule="spectral", **options)
    assert torch.equal(spectral(**given, steps=3), plain(**given, steps=3))


def test_the_rule_may_be_another_than_the_configured_one() -> None:
    options = {"step_size": 4.0, "step_clamp": 1e9}
    plain, given = problem(**options)
    spectral, _ = problem(step_rule="spectral", **options)
    expected = spectral(**given, steps=3)
    assert torch.equal(plain(**given, steps=3, step_rule="spectral"), expected)
    assert not torch.equal(plain(**given, steps=3), expected)
    learned = spectral(**given, steps=3, step_rule="learned")
    assert torch.equal(learned, plain(**given, steps=3))


@pytest.mark.parametrize(
    "options",
    [{}, {"gradient": "logit", "entropy": 0.0}, {"step_rule": "spectral", "step_size": 0.01}],
)
def test_gradients_go_through_all_steps(options: dict[str, Any]) -> None:
    system, given = problem(**options)
    names = [name for name, _ in system.named_parameters()]

    def refined(h: torch.Tensor, e: torch.Tensor, w: torch.Tensor, *values: torch.Tensor) -> Any:
        parameters = dict(zip(names, values, strict=True))
        return torch.func.functional_call(system, parameters, (h, e, w, 3))

    inputs = [x.requires_grad_() for x in (*given.values(), *system.parameters())]
    assert torch.autograd.gradcheck(refined, inputs, fast_mode=True)


def test_noise_has_its_variance_whatever_the_guess() -> None:
    system, given = problem(noise=0.5, step_size=0.1)
    given = {k: x.repeat(2000, 1) if k != "weight" else x for k, x in given.items()}
    torch.manual_seed(0)
    noisy = system(**given, steps=1, noisy=True)
    difference = (noisy - system(**given, steps=1)).view(2000, P * V)
    # 2,000 draws of each: the standard error of a deviation is 1.6%.
    assert (difference.std(0) / (2 * 0.5 * 0.1) ** 0.5 - 1).abs().max().item() < 0.08


def test_a_fixed_step_size_is_not_learned() -> None:
    assert not problem(learn_step_size=False)[0].log_step.requires_grad
    assert problem()[0].log_step.requires_grad
