"""Generation: truncation by brute force, draws against the distribution, streaming."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ebm_wgpu.errors import ConfigError, DataError
from ebm_wgpu.generation import (
    CachedModel,
    SamplingSettings,
    generate_ids,
    generate_text,
    next_token_probabilities,
)
from ebm_wgpu.models.base import LanguageModel
from ebm_wgpu.models.causal_transformer import CausalTransformer
from ebm_wgpu.models.energy_transformer import EnergyTransformer
from ebm_wgpu.models.energy_transformer_config import EnergyTransformerConfig
from ebm_wgpu.models.nano_ebm import NanoEBM
from ebm_wgpu.models.nano_ebm_config import NanoEBMConfig
from ebm_wgpu.models.transformer_config import TransformerConfig
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


def test_a_strong_penalty_writes_every_token_once() -> None:
    settings = SamplingSettings(max_tokens=19, temperature=0, repetition_penalty=1e6)
    ids = list(generate_ids(Bigram(random_table(20)), np.array([4]), settings, context=8))
    assert sorted([4, *ids]) == list(range(20))


CACHED_V = 11
SHAPE = TransformerConfig(dim=16, n_layers=2, n_heads=2, max_length=12)


def transformer() -> LanguageModel:
    return CausalTransformer(SHAPE, CACHED_V)


def nano() -> LanguageModel:
    return NanoEBM(SHAPE, NanoEBMConfig(interaction=8), CACHED_V)


def ebt() -> LanguageModel:
    config = EnergyTransformerConfig(
        dim=16, n_layers=2, n_heads=2, max_length=12, langevin_noise=0.5
    )
    return EnergyTransformer(config, CACHED_V)


class Uncached:
    """A model with its cache hidden; counts how often it is read."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self.reads = 0

    def next_token_log_probs(self, tokens: torch.Tensor, latent: str, seed: int) -> torch.Tensor:
        self.reads += 1
        return self._model.next_token_log_probs(tokens, latent, seed)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "latent"),
    [(transformer, "mean"), (nano, "mean"), (ebt, "mean"), (ebt, "exact"), (ebt, "langevin")],
)
def test_cached_and_uncached_texts_are_identical(make, latent) -> None:
    model = make().eval()
    assert isinstance(model, CachedModel)
    plain = Uncached(model)
    assert not isinstance(plain, CachedModel)
    # Weights far apart, so that what follows depends on all that was read.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.5)
    prompt = np.array([3, 1, 4, 1, 5])
    for seed in range(4):
        settings = SamplingSettings(max_tokens=20, latent=latent, seed=seed)
        expected = list(generate_ids(plain, prompt, settings, context=12))
        assert list(generate_ids(model, prompt, settings, context=12)) == expected
        assert len(set(expected)) > 3


def test_the_cache_is_read_until_the_window_slides(monkeypatch: pytest.MonkeyPatch) -> None:
    model = transformer()
    read: list[int] = []
    step, whole = model.step, model.next_token_log_probs

    def counted_step(tokens: torch.Tensor, *arguments, **options) -> torch.Tensor:
        read.append(tokens.shape[1])
        return step(tokens, *arguments, **options)

    def counted_whole(tokens: torch.Tensor, *arguments) -> torch.Tensor:
        read.append(tokens.shape[1])
        return whole(tokens, *arguments)

    monkeypatch.setattr(model, "step", counted_step)
    monkeypatch.setattr(model, "next_token_log_probs", counted_whole)
    list(generate_ids(model, np.array([3, 1, 4]), SamplingSettings(max_tokens=8), context=6))
    assert read == [3, 1, 1, 1, 6, 6, 6, 6]


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
        {"repetition_penalty": 0.9},
        {"repetition_penalty": float("inf")},
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
