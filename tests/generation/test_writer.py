"""Generation: draws against the distribution, caches, texts side by side, streaming."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy import stats

from ebm_wgpu.config import EnergyConfig, ModelConfig, SamplerConfig
from ebm_wgpu.errors import DataError
from ebm_wgpu.generation.sampling import SamplingSettings
from ebm_wgpu.generation.writer import (
    CachedModel,
    TokenWriter,
    generate_ids,
    generate_text,
)
from ebm_wgpu.kernels import open_device
from ebm_wgpu.models.base import LanguageModel
from ebm_wgpu.models.causal_transformer import CausalTransformer
from ebm_wgpu.models.energy_transformer import EnergyTransformer
from ebm_wgpu.models.energy_transformer_config import EnergyTransformerConfig
from ebm_wgpu.models.memory_config import MemoryConfig
from ebm_wgpu.models.nano_ebm import NanoEBM
from ebm_wgpu.models.nano_ebm_config import NanoEBMConfig
from ebm_wgpu.models.splat_lm import SplatLM
from ebm_wgpu.models.splat_transformer import SplatTransformer
from ebm_wgpu.models.transformer_config import TransformerConfig
from ebm_wgpu.splats.store import SplatStore
from ebm_wgpu.text.tokenizers import make_tokenizer


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


def test_a_strong_penalty_writes_every_token_once() -> None:
    settings = SamplingSettings(max_tokens=19, temperature=0, repetition_penalty=1e6)
    ids = list(generate_ids(Bigram(random_table(20)), np.array([4]), settings, context=8))
    assert sorted([4, *ids]) == list(range(20))


CACHED_V = 11
ALL_LATENTS = ("mean", "exact", "langevin")
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


def splat() -> LanguageModel:
    config = ModelConfig(
        dim=8, n_splats=23, n_experts=3, expert_hidden=12, recent_window=3, decay_window=5,
        attention_window=7, context_scale_init=6.0,
    )  # fmt: skip
    sampler = SamplerConfig(n_steps=3, list_size=16)
    return SplatLM(config, EnergyConfig(), CACHED_V, open_device("numba"), sampler)


def splat_transformer() -> LanguageModel:
    """Its gates are half open, and it has stored splats."""
    model = SplatTransformer(
        ModelConfig(kappa_init=2.0), SHAPE, MemoryConfig(n_neighbours=6), CACHED_V,
        SamplerConfig(n_steps=3), open_device("numba"),
    )  # fmt: skip
    rng = np.random.default_rng(5)
    mu = rng.standard_normal((20, SHAPE.dim))
    sid = rng.integers(CACHED_V, size=20)
    model.store_splats(SplatStore.from_directions(mu, kappa=2.0, sid=sid))
    with torch.no_grad():
        model.context.gate.bias.fill_(-0.3)
        model.recall.offset.fill_(0.4)
        for splats in (model.context, model.recall):
            splats.log_length.fill_(0.6)
    return model


def sharp(model: LanguageModel) -> LanguageModel:
    """With weights far apart, so that what follows depends on all that was read."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name != "mu":
                parameter.mul_(2.5)
    return model.eval()


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
    [
        (transformer, "mean"),
        (nano, "mean"),
        *((make, latent) for make in (ebt, splat_transformer) for latent in ALL_LATENTS),
    ],
)
def test_cached_and_uncached_texts_are_identical(make, latent) -> None:
    model = sharp(make())
    assert isinstance(model, CachedModel)
    plain = Uncached(model)
    assert not isinstance(plain, CachedModel)
    prompt = np.array([3, 1, 4, 1, 5])
    for seed in range(4):
        settings = SamplingSettings(max_tokens=20, latent=latent, seed=seed)
        expected = list(generate_ids(plain, prompt, settings, context=12))
        assert list(generate_ids(model, prompt, settings, context=12)) == expected
        assert len(set(expected)) > 3


PROMPTS = [np.array(ids) for ids in ([3, 1, 4, 1, 5], [9], [2, 6, 5, 3, 5, 8, 9, 7], [9, 3, 2])]


@pytest.mark.parametrize(
    ("make", "latent", "hidden"),
    [
        (transformer, "mean", False),
        (transformer, "mean", True),
        (nano, "mean", False),
        (splat_transformer, "mean", True),
        *(
            (make, latent, False)
            for make in (ebt, splat, splat_transformer)
            for latent in ALL_LATENTS
        ),
        (ebt, "langevin", True),
    ],
)
def test_texts_side_by_side_are_those_written_alone(make, latent, hidden) -> None:
    """Prompts of 1 to 8 tokens, each with its seed; windows slide at 10, one text ends early."""
    model = sharp(make())
    model = Uncached(model) if hidden else model
    settings = SamplingSettings(max_tokens=6, latent=latent)
    seeds = [5, 6, 5, 8]
    writer = TokenWriter(model, PROMPTS, settings, 10, seeds)
    written: dict[int, list[int]] = {number: [] for number in range(4)}
    energies: dict[int, list[float]] = {number: [] for number in range(4)}
    while writer.going:
        for number, token, energy in writer.write():
            written[number].append(token)
            energies[number].append(energy)
        if len(written[1]) == 3 and 1 in writer.going:
            writer.end(1)
    assert [len(ids) for ids in written.values()] == [6, 3, 6, 6]
    for number, (prompt, seed) in enumerate(zip(PROMPTS, seeds, strict=True)):
        own = dataclasses.replace(settings, seed=seed)
        alone = TokenWriter(model, [prompt], own, 10)
        for token, energy in zip(written[number], energies[number], strict=True):
            (expected,) = alone.write()
            assert token == expected.token
            # float32, other orders of summation.
            assert energy == pytest.approx(expected.energy, abs=2e-3)


def test_texts_of_one_latent_share_passes_whatever_their_length() -> None:
    model = transformer()
    shapes: list[tuple[int, ...]] = []
    step, whole = model.step, model.next_token_log_probs

    def counted(function):
        def run(tokens, *arguments, **options):
            shapes.append(tuple(tokens.shape))
            return function(tokens, *arguments, **options)

        return run

    model.step, model.next_token_log_probs = counted(step), counted(whole)
    writer = TokenWriter(model, PROMPTS[:3], SamplingSettings(max_tokens=4), 9)
    while writer.going:
        writer.write()
    # The third text, of 8 tokens, leaves the cache when it has 10; the others stay.
    assert shapes == [(3, 8), (3, 1), (2, 1), (1, 9), (2, 1), (1, 9)]


def test_without_a_cache_texts_of_equal_length_share_passes() -> None:
    plain = Uncached(transformer())
    writer = TokenWriter(plain, [PROMPTS[0]] * 3 + [PROMPTS[1]], SamplingSettings(max_tokens=5), 12)
    while writer.going:
        writer.write()
    assert plain.reads == 10


def test_energies_are_minus_log_p_before_truncation() -> None:
    table = random_table(6)
    settings = SamplingSettings(max_tokens=30, temperature=0.5, top_k=2, repetition_penalty=3)
    writer = TokenWriter(Bigram(table), [np.array([2])], settings, 8)
    last = 2
    while writer.going:
        (written,) = writer.write()
        assert written.energy == pytest.approx(-np.log(table[last, written.token]), rel=1e-12)
        last = written.token


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
