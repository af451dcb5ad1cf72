"""Predictions: the same cached, batched or cut; ordered by energy; only as random as asked."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from ebm_wgpu.config import Latent
from ebm_wgpu.errors import ConfigError
from ebm_wgpu.models.energy_predictor import EnergyPredictor
from ebm_wgpu.models.energy_transformer_config import EnergyTransformerConfig, Thinking, Variant

VOCABULARY = 7
CONFIG = EnergyTransformerConfig(
    n_layers=2, n_heads=2, dim=8, max_length=16, max_steps=2, langevin_noise=0.5
)
LATENTS: list[Latent] = ["mean", "exact", "langevin"]


def make(seed: int = 0, thinking: Thinking | None = None, **values: Any) -> EnergyPredictor:
    """A float64 model whose energy depends strongly on text and prediction."""
    config = dataclasses.replace(CONFIG, **values)
    model = EnergyPredictor(config, VOCABULARY, thinking or Thinking()).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name != "log_step_size":
                parameter.normal_(0.0, 0.5, generator=generator)
    return model


def text(rows: int, length: int, seed: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(VOCABULARY, (rows, length), generator=generator)


def distributions(
    model: EnergyPredictor, tokens: Tensor, latent: Latent = "mean", seed: int = 0
) -> Tensor:
    """p(w | tokens[b, :t+1]), (B, T, V)."""
    every = [torch.full_like(tokens, target) for target in range(VOCABULARY)]
    scored = [model.token_log_probs(tokens, target, latent, seed) for target in every]
    return torch.stack(scored, -1).exp()


@pytest.mark.parametrize(
    ("latent", "thinking"),
    [
        ("mean", Thinking()),
        ("exact", Thinking(step_rule="spectral")),
        ("langevin", Thinking(steps=3, best_of=2)),
    ],
)
def test_all_ways_to_the_probabilities_agree(latent: Latent, thinking: Thinking) -> None:
    model, tokens = make(thinking=thinking), text(2, 6)
    model.prior.normal_(generator=torch.Generator().manual_seed(4))
    whole = distributions(model, tokens, latent, 11)
    torch.testing.assert_close(whole.sum(-1), torch.ones(2, 6, dtype=torch.float64))
    whole = whole.log()
    for length in (1, 3, 6):
        last = model.next_token_log_probs(tokens[:, :length], latent, 11)
        torch.testing.assert_close(last, whole[:, length - 1])
        alone = model.next_token_log_probs(tokens[:1, :length], latent, 11)
        torch.testing.assert_close(alone, whole[:1, length - 1])


def test_chunks_change_nothing() -> None:
    tokens, targets = text(2, 9), text(2, 9, seed=4)
    whole, cut = make(), make(max_logits=3 * 2 * VOCABULARY)
    assert [part.stop for part in cut.chunks(2, 9)] == [3, 6, 9]
    for latent in LATENTS:
        torch.testing.assert_close(
            cut.token_log_probs(tokens, targets, latent, 5),
            whole.token_log_probs(tokens, targets, latent, 5),
        )


@pytest.mark.parametrize(
    ("variant", "latent"), [("default", "langevin"), ("adaln", "mean"), ("time", "exact")]
)
def test_cached_prompts_of_different_length(variant: Variant, latent: Latent) -> None:
    model, prompts = make(variant=variant), [text(1, 5)[0], text(1, 2, seed=8)[0]]
    model.thinking = Thinking(best_of=2)
    padded = torch.zeros(2, 5, dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        padded[row, : len(prompt)] = prompt
    cache = model.start_cache(2)
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    found = model.step(padded, cache, lengths, latent, seed=2)
    for _ in range(3):
        for row, prompt in enumerate(prompts):
            expected = model.next_token_log_probs(prompt[None], latent, seed=2)[0]
            torch.testing.assert_close(found[row], expected)
        chosen = found.argmax(1)
        prompts = [torch.cat((p, c[None])) for p, c in zip(prompts, chosen, strict=True)]
        found = model.step(chosen[:, None], cache, latent=latent, seed=2)


def test_a_cache_refuses_bad_lengths_and_overflow() -> None:
    model = make()
    cache = model.start_cache(2)
    with pytest.raises(ConfigError, match=r"lengths \[0, 3\] must be from 1 to the 3 tokens"):
        model.step(text(2, 3), cache, torch.tensor([0, 3]))
    with pytest.raises(ConfigError, match=r"17 tokens of input exceed ebt\.max_length=16"):
        model.step(text(2, 17), cache)
    assert cache.lengths.tolist() == [0, 0]


def test_causality() -> None:
    model, tokens = make(), text(1, 6)
    before = distributions(model, tokens, "exact")
    energies = model.energies(tokens, before)
    for place in range(6):
        other = tokens.clone()
        other[0, place] = (other[0, place] + 1) % VOCABULARY
        changed = [position >= place for position in range(6)]
        after = distributions(model, other, "exact")
        assert (after != before).any(-1)[0].tolist() == changed
        assert (model.energies(other, before) != energies)[0].tolist() == changed


def test_energies_of_tokens_are_those_of_certain_distributions() -> None:
    model, tokens, targets = make(), text(2, 5), text(2, 5, seed=9)
    certain = torch.nn.functional.one_hot(targets, VOCABULARY).double()
    torch.testing.assert_close(
        model.token_energies(tokens, targets), model.energies(tokens, certain, 1)
    )


@pytest.mark.parametrize("latent", LATENTS)
def test_more_starts_end_at_lower_energies(latent: Latent) -> None:
    model, tokens = make(initial_noise=3.0), text(3, 8)
    found = []
    for best_of in (1, 2, 4):
        model.thinking = Thinking(best_of=best_of)
        found.append(model.energies(tokens, distributions(model, tokens, latent, 1), 1))
    assert bool((found[1] <= found[0] + 1e-12).all())
    assert bool((found[2] <= found[1] + 1e-12).all())
    assert bool((found[2] < found[0] - 1e-3).any())


def test_several_starts_need_noise() -> None:
    model = make(thinking=Thinking(best_of=2), initial_noise=0.0)
    with pytest.raises(ConfigError, match="think_best_of=2 needs starts that differ"):
        model.next_token_log_probs(text(1, 3))


def test_only_the_latents_that_are_random_depend_on_the_seed() -> None:
    model, tokens = make(), text(1, 4)
    same = {
        latent: torch.equal(
            model.next_token_log_probs(tokens, latent, 0),
            model.next_token_log_probs(tokens, latent, 1),
        )
        for latent in LATENTS
    }
    assert same == {"mean": True, "exact": False, "langevin": False}
    draws = [model.next_token_log_probs(tokens, latent, 0) for latent in LATENTS[1:]]
    assert not torch.equal(*draws)


def test_small_spectral_steps_descend() -> None:
    model, tokens = make(update="mirror", spectral_c=0.5, spectral_iterations=12), text(4, 1)
    energies = []
    for steps in range(1, 5):
        model.thinking = Thinking(steps=steps, step_rule="spectral")
        predicted = model.next_token_log_probs(tokens).exp()[:, None]
        energies.append(model.energies(tokens, predicted))
    assert bool((torch.stack(energies).diff(dim=0) <= 1e-12).all())


def test_initialize_sets_the_mean_of_the_first_state() -> None:
    counts = torch.tensor([0, 5, 1, 0, 0, 2, 1]).numpy()
    model = make(initial="unigram")
    model.initialize(counts, counts, seed=3)
    torch.testing.assert_close(model.prior.exp() * 16, torch.from_numpy(counts + 1.0))
    flat = make()
    flat.initialize(counts, counts, seed=3)
    assert not flat.prior.any()
    again = make(seed=9)
    again.initialize(counts, counts, seed=3)
    for a, b in zip(flat.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert flat.step_size.item() == pytest.approx(CONFIG.step_size)
