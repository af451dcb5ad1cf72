"""The next-token distribution: truncation by brute force, penalty, ranges of the settings."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebm_wgpu.errors import ConfigError
from ebm_wgpu.generation.sampling import (
    SamplingSettings,
    draw_token,
    latent_seed,
    next_token_probabilities,
)

LOGITS = st.lists(st.floats(-8, 8), min_size=2, max_size=12).map(
    lambda values: np.array(values) - np.logaddexp.reduce(values)
)


@given(LOGITS, st.floats(0.1, 4), st.integers(1, 12), st.floats(0.05, 1))
def test_truncation_equals_its_definition(
    log_probs: np.ndarray, temperature: float, top_k: int, top_p: float
) -> None:
    settings = SamplingSettings(temperature=temperature, top_k=top_k, top_p=top_p)
    result = next_token_probabilities(log_probs, settings)
    tempered = np.exp(log_probs / temperature - (log_probs / temperature).max())
    ranked = sorted(range(len(log_probs)), key=lambda i: (-log_probs[i], i))[:top_k]
    total = sum(tempered[i] for i in ranked)
    expected, reached = {}, 0.0
    for i in ranked:
        if reached >= top_p:
            break
        expected[i] = tempered[i]
        reached += tempered[i] / total
    kept = np.zeros(len(log_probs))
    for i, weight in expected.items():
        kept[i] = weight / sum(expected.values())
    # A sum that reaches top_p within rounding may fall on either side.
    if not np.isclose(reached, top_p, atol=1e-9):
        np.testing.assert_allclose(result, kept, atol=1e-12)
    assert result.sum() == pytest.approx(1)


def test_temperature_zero_is_greedy_and_ties_go_to_the_lower_id() -> None:
    result = next_token_probabilities(np.log([0.2, 0.4, 0.4]), SamplingSettings(temperature=0))
    assert result.tolist() == [0, 1, 0]


@given(LOGITS, st.floats(1, 3), st.sets(st.integers(0, 1), min_size=1))
def test_the_penalty_is_a_power_of_what_was_written(
    log_probs: np.ndarray, penalty: float, written: set[int]
) -> None:
    before = log_probs.copy()
    result = next_token_probabilities(
        log_probs, SamplingSettings(repetition_penalty=penalty), written
    )
    expected = np.exp(log_probs)
    for token in written:
        expected[token] **= penalty
    np.testing.assert_allclose(result, expected / expected.sum(), atol=1e-12)
    np.testing.assert_array_equal(log_probs, before)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_tokens": 0},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_k": 0},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"repetition_penalty": 0.9},
        {"repetition_penalty": float("inf")},
        {"seed": -1},
    ],
)
def test_settings_out_of_range_are_named(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        SamplingSettings(**wrong)  # type: ignore[arg-type]


def test_draws_never_take_what_has_no_probability() -> None:
    probabilities = np.array([0.0, 0.25, 0.0, 0.75, 0.0])
    drawn = {draw_token(probabilities, seed, 3) for seed in range(200)}
    assert drawn == {1, 3}


def test_latent_seeds_belong_to_the_text_only_where_latents_are_drawn() -> None:
    mean, exact = SamplingSettings(latent="mean"), SamplingSettings(latent="exact")
    assert latent_seed(mean, 1, 4) == latent_seed(mean, 2, 4) != latent_seed(mean, 1, 5)
    seeds = {latent_seed(exact, seed, place) for seed in range(5) for place in range(5)}
    assert len(seeds) == 25
    assert all(0 <= seed < 2**63 for seed in seeds)
