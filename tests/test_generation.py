"""Generation: truncation by brute force, draws against the distribution, streaming."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ebm_wgpu.errors import ConfigError, DataError
from ebm_wgpu.generation import (
    SamplingSettings,
    generate_ids,
    generate_text,
    next_token_probabilities,
)
from ebm_wgpu.text.tokenizers import make_tokenizer

LOGITS = st.lists(st.floats(-8, 8), min_size=2, max_size=12).map(
    lambda values: np.array(values) - np.logaddexp.reduce(values)
)


class Bigram:
    """p(next | last token) from a table; counts how much it was given to read."""

    def __init__(self, table: np.ndarray) -> None:
        self.log_table = torch.tensor(np.log(table))
        self.longest = 0

    def next_token_log_probs(self, tokens: torch.Tensor, latent: str, seed: int) -> torch.Tensor:
        self.longest = max(self.longest, tokens.shape[1])
        return self.log_table[tokens[:, -1]]


def random_table(size: int) -> np.ndarray:
    return np.random.default_rng(0).dirichlet(np.ones(size), size)


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


def test_draws_follow_the_distribution() -> None:
    table = random_table(5)
    model = Bigram(table)
    settings = SamplingSettings(max_tokens=4000, seed=3)
    ids = list(generate_ids(model, np.array([0]), settings, context=8))
    observed = np.zeros((5, 5))
    np.add.at(observed, (np.array([0, *ids[:-1]]), np.array(ids)), 1)
    for last in range(5):
        expected = table[last] * observed[last].sum()
        assert stats.chisquare(observed[last], expected).pvalue > 0.01


def test_the_same_seed_repeats_and_another_differs() -> None:
    model = Bigram(random_table(50))

    def write(seed: int) -> list[int]:
        settings = SamplingSettings(max_tokens=30, seed=seed)
        return list(generate_ids(model, np.array([1]), settings, context=8))

    assert write(1) == write(1)
    assert write(1) != write(2)


def test_the_window_slides_and_never_exceeds_the_context() -> None:
    model = Bigram(random_table(4))
    list(generate_ids(model, np.array([1, 2]), SamplingSettings(max_tokens=20), context=6))
    assert model.longest == 6


def test_prompts_that_do_not_fit_are_errors() -> None:
    model = Bigram(random_table(4))
    with pytest.raises(DataError, match="has 7 tokens and the model reads 6"):
        next(generate_ids(model, np.zeros(7, int), SamplingSettings(), context=6))
    with pytest.raises(DataError, match="no tokens"):
        next(generate_ids(model, np.zeros(0, int), SamplingSettings(), context=6))


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_tokens": 0},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_k": 0},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"seed": -1},
    ],
)
def test_settings_out_of_range_are_named(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        SamplingSettings(**wrong)  # type: ignore[arg-type]


def test_streamed_pieces_are_whole_characters() -> None:
    text = "naïve café ∑ 日本語 🙂 end"
    tokenizer = make_tokenizer("gpt2", "")
    ids = tokenizer.encode(text)

    class Recite:
        def next_token_log_probs(
            self, tokens: torch.Tensor, latent: str, seed: int
        ) -> torch.Tensor:
            scores = torch.full((1, tokenizer.vocab_size), -1e9)
            scores[0, int(ids[tokens.shape[1]])] = 0
            return scores

    settings = SamplingSettings(max_tokens=len(ids) - 1)
    prompt = tokenizer.decode(ids[:1])
    pieces = list(generate_text(Recite(), tokenizer, prompt, settings, context=64))
    assert prompt + "".join(pieces) == text
    assert not any("�" in piece for piece in pieces)
    assert len(pieces) > 5
