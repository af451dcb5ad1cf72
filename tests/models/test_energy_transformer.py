"""Learning through refinement: terms of the loss, their gradients, replay, memory, progress."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ebm_wgpu.errors import ConfigError
from ebm_wgpu.models.energy_transformer import EnergyTransformer
from ebm_wgpu.models.energy_transformer_config import (
    EnergyTransformerConfig,
    Update,
    Variant,
    system_2,
)

VOCABULARY = 5
CONFIG = EnergyTransformerConfig(
    n_layers=2, n_heads=2, dim=8, max_length=16, min_steps=3, max_steps=3, step_size=0.7
)


def make(**values: Any) -> EnergyTransformer:
    """A float64 model whose energy depends strongly on text and prediction."""
    model = EnergyTransformer(dataclasses.replace(CONFIG, **values), VOCABULARY).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name != "log_step_size":
                parameter.normal_(0.0, 0.4, generator=generator)
    return model


def text(rows: int, length: int, seed: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(VOCABULARY, (rows, length), generator=generator)


def total(model: EnergyTransformer, tokens: Tensor, seed: int = 0) -> Tensor:
    terms, weights = model.losses(tokens, seed=seed), model.loss_weights
    return torch.stack([weights[name] * terms[name] for name in weights if name in terms]).sum()


def gradients(model: EnergyTransformer, tokens: Tensor) -> list[Tensor]:
    parameters = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad(total(model, tokens), parameters, allow_unused=True)
    return [
        torch.zeros_like(p) if gradient is None else gradient
        for p, gradient in zip(parameters, found, strict=True)
    ]


def check_against_differences(model: EnergyTransformer, tokens: Tensor) -> None:
    """Directional derivatives along random directions, parameter by parameter, width 1e-5."""
    generator = torch.Generator().manual_seed(1)
    parameters = [p for p in model.parameters() if p.requires_grad]
    for parameter, gradient in zip(parameters, gradients(model, tokens), strict=True):
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        losses = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter += sign * 1e-5 * direction
                losses.append(total(model, tokens).item())
                parameter -= sign * 1e-5 * direction
        numeric = (losses[0] - losses[1]) / 2e-5
        assert (gradient * direction).sum().item() == pytest.approx(numeric, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(
    ("update", "variant"),
    [
        ("normalized", "default"),
        ("normalized", "adaln"),
        ("normalized_first", "time"),
        ("raw", "default"),
        ("mirror", "default"),
    ],
)
def test_gradients_through_three_steps(update: Update, variant: Variant) -> None:
    model = make(update=update, variant=variant, langevin_noise=0.3, step_jitter=1.5)
    check_against_differences(model, text(2, 4))


def test_gradients_with_tied_tables() -> None:
    model = make(tie_prediction=True, min_steps=1, max_steps=1)
    check_against_differences(model, text(2, 4))


@pytest.mark.parametrize(
    ("gradient", "rule"),
    [("full", "spectral"), ("full", "learned"), ("detach", "learned"), ("truncate", "learned")],
)
def test_recomputing_in_chunks_changes_nothing(gradient: str, rule: str) -> None:
    values = {
        "gradient": gradient,
        "step_rule": rule,
        "contrastive_weight": 0.5,
        "langevin_noise": 0.2,
        "step_jitter": 2.0,
        "replay_capacity": 2,
        "replay_tokens": 7,
    }
    whole, cut = make(**values), make(**values, max_logits=2 * 3 * VOCABULARY)
    for tokens in (text(2, 8), text(2, 8, seed=4)):
        for a, b in zip(gradients(whole, tokens), gradients(cut, tokens), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    for name, buffer in whole.named_buffers():
        torch.testing.assert_close(cut.get_buffer(name), buffer)


def test_terms_are_what_they_say() -> None:
    model = make(contrastive_weight=0.5, initial_noise=0.0, variant="time")
    tokens = text(3, 6)
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    terms = model.losses(tokens)
    assert set(model.loss_weights) - {"replay"} <= set(terms)
    state = torch.zeros(3, 5, VOCABULARY, dtype=torch.float64)
    nll = []
    for step in range(3):
        p = state.softmax(-1).requires_grad_()
        energy = model.energies(inputs, p, step)
        (gradient,) = torch.autograd.grad(energy.sum(), p)
        state = (p - 0.7 * gradient).detach()
        nll.append(F.cross_entropy(state.flatten(0, 1), targets.flatten()))
    torch.testing.assert_close(terms["token"], nll[2])
    torch.testing.assert_close(terms["intermediate"], (nll[0] + nll[1]) / 2)
    torch.testing.assert_close(terms["energy"], energy.mean().detach())
    assert terms["step_size"].item() == pytest.approx(0.7)
    certain = F.one_hot(targets, VOCABULARY).double()
    true, false = model.energies(inputs, certain, 2), model.energies(inputs, state.softmax(-1), 2)
    pairs = torch.stack((-true, -false), -1).flatten(0, 1)
    contrast = F.cross_entropy(pairs, torch.zeros(len(pairs), dtype=torch.int64))
    torch.testing.assert_close(terms["contrastive"], contrast)
    # Inference from the mean of the first state is this computation too.
    scored = model.token_log_probs(inputs, targets)
    torch.testing.assert_close(-scored.mean(), terms["token"])


def test_the_contrastive_term_moves_energies_apart() -> None:
    model, tokens = make(contrastive_weight=1.0, min_steps=1, max_steps=1), text(4, 8)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    contrast = []
    for _ in range(8):
        terms = model.losses(tokens)
        contrast.append(terms["contrastive"].item())
        optimizer.zero_grad()
        terms["contrastive"].backward()
        optimizer.step()
    assert contrast[-1] < 0.5 * contrast[0]


def test_the_number_of_steps_varies_between_its_bounds() -> None:
    model, tokens = make(min_steps=1, max_steps=3, initial_noise=0.0), text(1, 3)
    terms = [model.losses(tokens, seed=seed) for seed in range(12)]
    assert len({round(term["token"].item(), 9) for term in terms}) == 3
    assert len({len(term) for term in terms}) == 2


def test_truncation_leaves_the_last_step_alone() -> None:
    terms = make(gradient="truncate").losses(text(2, 5))
    assert "intermediate" not in terms
    full = make().losses(text(2, 5))
    torch.testing.assert_close(terms["token"], full["token"])


def test_a_seed_fixes_everything() -> None:
    model = make(min_steps=1, langevin_noise=0.3, step_jitter=2.0)
    runs = [model.losses(text(2, 5), seed=seed)["token"].item() for seed in (4, 4, 5)]
    assert runs[0] == runs[1] != runs[2]


def test_replay_fills_resumes_and_is_left_alone_in_evaluation() -> None:
    values = {"replay_capacity": 4, "replay_tokens": 6, "replay_share": 0.5}
    model = make(**values)
    first = model.losses(text(2, 6), seed=0)
    assert "replay" not in first
    assert model.replay is not None and len(model.replay) == 2
    twin = make(**values)
    twin.load_state_dict(model.state_dict())
    for seed in (1, 2, 3):
        terms = [m.losses(text(2, 6, seed=seed), seed=seed) for m in (model, twin)]
        assert terms[0]["replay"].item() == terms[1]["replay"].item()
    assert len(model.replay) == 4
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.eval()
    assert "replay" in model.losses(text(2, 6), seed=9)
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name])
    model.initialize(text(1, 9)[0].numpy(), torch.ones(VOCABULARY).numpy(), seed=0)
    assert len(model.replay) == 0


def test_replayed_windows_go_on_from_where_they_were() -> None:
    """Without noise, k steps twice over a window are 2k steps."""
    values = {"replay_capacity": 2, "replay_tokens": 5, "replay_share": 1.0, "update": "raw"}
    model, tokens = make(**values, initial_noise=0.0, step_size=0.05), text(2, 6)
    model.losses(tokens)
    replayed = model.losses(tokens)["replay"]
    longer = make(update="raw", initial_noise=0.0, step_size=0.05, min_steps=6, max_steps=6)
    # The buffer keeps eleven significant bits.
    torch.testing.assert_close(replayed, longer.losses(tokens)["token"], rtol=1e-3, atol=0)


def test_fresh_windows_take_the_slots_of_replayed_ones() -> None:
    values = {"replay_capacity": 2, "replay_tokens": 5, "replay_share": 1.0, "initial_noise": 0.0}
    model, fresh = make(**values), make(**values)
    model.losses(text(2, 6, seed=1))
    model.losses(text(2, 6))
    fresh.losses(text(2, 6))
    assert model.replay is not None and fresh.replay is not None
    assert torch.equal(model.replay.tokens, fresh.replay.tokens)
    torch.testing.assert_close(model.replay.states, fresh.replay.states)


def test_a_window_too_long_for_the_buffer_is_refused() -> None:
    model = make(replay_capacity=2, replay_tokens=4)
    with pytest.raises(ConfigError, match=r"ebt\.replay_tokens=4 is less than the 5 tokens"):
        model.losses(text(1, 6))


def learn(model: EnergyTransformer, tokens: Tensor) -> None:
    """Sixty steps from the first weights."""
    model.initialize(tokens[0].numpy(), tokens[0].bincount(minlength=VOCABULARY).numpy(), 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for seed in range(60):
        optimizer.zero_grad()
        total(model, tokens, seed).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


@pytest.mark.parametrize("variant", ["default", "adaln", "time"])
def test_it_learns_a_sentence(variant: Variant) -> None:
    config = EnergyTransformerConfig(
        n_layers=1, n_heads=2, dim=32, max_length=16, variant=variant, initial_noise=0.1
    )
    model = EnergyTransformer(config, VOCABULARY)
    tokens = text(1, 13)
    learn(model, tokens)
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    assert -model.token_log_probs(inputs, targets).mean().item() < 0.1
    written = inputs[:, :3]
    for _ in range(10):
        chosen = model.next_token_log_probs(written).argmax(1, keepdim=True)
        written = torch.cat((written, chosen), 1)
    assert torch.equal(written, tokens)


def test_it_learns_by_the_recipe_of_system_2() -> None:
    config = EnergyTransformerConfig(n_layers=1, n_heads=2, dim=32, max_length=16)
    recipe = dataclasses.replace(system_2(config), replay_capacity=4, replay_tokens=12)
    model, tokens = EnergyTransformer(recipe, VOCABULARY), text(1, 13)
    learn(model, tokens)
    losses = []
    for steps in (1, 3):
        model.think(steps)
        losses.append(-model.token_log_probs(tokens[:, :-1], tokens[:, 1:]).mean().item())
    assert losses[1] < losses[0] < 0.05


def test_every_parameter_learns() -> None:
    for variant, update in itertools.product(("default", "adaln", "time"), ("normalized", "raw")):
        model = make(variant=variant, update=update)
        unread = [
            name
            for (name, parameter), found in zip(
                model.named_parameters(), gradients(model, text(2, 5)), strict=True
            )
            if parameter.requires_grad and not found.any()
        ]
        assert unread == []
