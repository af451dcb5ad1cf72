"""Many texts: each as written alone, seeds, stop strings, the best of several, own energies."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from ebm_wgpu.errors import ConfigError, DataError
from ebm_wgpu.generation.batch import (
    GeneratedText,
    GenerationPlan,
    generate_texts,
    model_energies,
)
from ebm_wgpu.generation.prompts import Prompt
from ebm_wgpu.generation.sampling import SamplingSettings
from ebm_wgpu.generation.writer import generate_ids, generate_text
from ebm_wgpu.models.base import LanguageModel
from ebm_wgpu.models.energy_transformer import EnergyTransformer
from ebm_wgpu.models.nano_ebm import NanoEBM
from ebm_wgpu.models.splat_lm import SplatLM
from ebm_wgpu.text.tokenizers import make_tokenizer

from .test_writer import ebt, nano, sharp, splat, splat_transformer, transformer

# Ten characters and U+FFFD: as many ids as the models have.
TOKENIZER = make_tokenizer("char", "abcdefg .\n")
CONTEXT = 12
PROMPTS = ["abc", "a bad cab.", "", "e"]
SETTINGS = SamplingSettings(max_tokens=14, seed=3)


def generate(
    model: LanguageModel,
    prompts: list[str],
    settings: SamplingSettings = SETTINGS,
    **plan: object,
) -> list[GeneratedText]:
    named = [Prompt(text, f"prompt {number}") for number, text in enumerate(prompts)]
    chosen = GenerationPlan(**plan)  # type: ignore[arg-type]
    return list(generate_texts(model, TOKENIZER, named, settings, CONTEXT, chosen))


@pytest.mark.parametrize("make", [transformer, nano, ebt, splat, splat_transformer])
def test_a_prompt_gets_the_texts_it_gets_alone(make) -> None:
    model = sharp(make())
    settings = dataclasses.replace(SETTINGS, max_tokens=4)
    together = generate(model, PROMPTS, settings, num_samples=2, batch_size=3, stop=("d",))
    assert [text.prompt for text in together] == [prompt for prompt in PROMPTS for _ in range(2)]
    assert [text.seed for text in together] == [3, 4] * 4
    for text in together:
        own = dataclasses.replace(settings, seed=text.seed)
        alone = generate_text(model, TOKENIZER, text.prompt, own, CONTEXT, ("d",))
        assert text.text == "".join(alone)


def test_what_ended_a_text_and_its_tokens_are_told() -> None:
    model = sharp(transformer())
    for text in generate(model, PROMPTS, num_samples=4, stop=("c", "b a")):
        own = dataclasses.replace(SETTINGS, seed=text.seed)
        ids = TOKENIZER.encode(text.prompt or "\n")
        drawn = list(generate_ids(model, ids, own, CONTEXT))
        assert list(text.tokens) == drawn[: len(text.tokens)]
        written = TOKENIZER.decode(text.tokens)
        if text.reason == "stop":
            assert written in (text.text + "c", text.text + "b a")
        else:
            assert (written, len(text.tokens)) == (text.text, 14)
        assert text.seconds > 0
    reasons = {text.reason for text in generate(model, PROMPTS, num_samples=4, stop=("c",))}
    assert reasons == {"stop", "length"}


def test_one_text_arrives_in_pieces_while_it_is_written() -> None:
    model = transformer()
    pieces: list[str] = []
    arrived: list[int] = []
    step = model.step

    def watched(*arguments, **options):
        arrived.append(len(pieces))
        return step(*arguments, **options)

    model.step = watched
    settings = SamplingSettings(max_tokens=8)
    texts = list(
        generate_texts(
            model, TOKENIZER, [Prompt("ab")], settings, CONTEXT, GenerationPlan(), pieces.append
        )
    )
    assert arrived == list(range(8))
    assert "".join(pieces) == texts[0].text


@pytest.mark.parametrize(("make", "own"), [(transformer, False), (nano, True), (ebt, True)])
def test_best_of_keeps_the_continuation_of_least_energy_a_token(make, own: bool) -> None:
    model = sharp(make())
    settings = dataclasses.replace(SETTINGS, max_tokens=5)
    every = generate(model, ["ab", "c"], settings, num_samples=6, energies=True)
    means = [text.energy for text in every]
    best = generate(model, ["ab", "c"], settings, num_samples=2, best_of=3, batch_size=4)
    expected = [min(range(start, start + 3), key=means.__getitem__) for start in (0, 3, 6, 9)]
    assert [text.tokens for text in best] == [every[place].tokens for place in expected]
    assert [text.seed for text in best] == [every[place].seed for place in expected]
    assert len({round(mean, 4) for mean in means}) > 6
    for text in every:
        assert text.energies is not None
        assert (text.energies.model is not None) == own
        assert text.energy == pytest.approx(np.mean(text.energies.tokens))
    assert all(text.energies is None for text in best)


class FreeOffsets:
    """p(next | last token) from a table, and energies -log p with a constant for each context."""

    def __init__(self, offsets: np.ndarray) -> None:
        table = np.random.default_rng(1).dirichlet(np.full(11, 0.5), 11)
        self.log_table = torch.tensor(np.log(table))
        self.offsets = torch.tensor(offsets)

    def next_token_log_probs(self, tokens: torch.Tensor, latent: str, seed: int) -> torch.Tensor:
        return self.log_table[tokens[:, -1]]

    def target_energies(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return self.offsets[tokens] - self.log_table[tokens, targets]


def test_what_training_leaves_free_in_an_energy_chooses_no_text() -> None:
    offsets = np.random.default_rng(2).normal(0, 20, 11)
    plain, shifted = FreeOffsets(np.zeros(11)), FreeOffsets(offsets)
    settings = dataclasses.replace(SETTINGS, max_tokens=6)
    every = generate(shifted, PROMPTS, settings, num_samples=8, energies=True)
    best = generate(shifted, PROMPTS, settings, best_of=8)
    for number, text in enumerate(best):
        drawn = every[8 * number : 8 * number + 8]
        assert text.tokens == min(drawn, key=lambda text: text.energy).tokens
    assert [text.tokens for text in best] == [
        text.tokens for text in generate(plain, PROMPTS, settings, best_of=8)
    ]
    # The sum of its own energies would have chosen otherwise, for these offsets.
    totals = [sum(text.energies.model) for text in every]  # type: ignore[union-attr, arg-type]
    by_total = [int(np.argmin(totals[start : start + 8])) for start in range(0, 32, 8)]
    assert [every[8 * n + place].tokens for n, place in enumerate(by_total)] != [
        text.tokens for text in best
    ]


def test_lengths_of_texts_choose_none_of_them() -> None:
    """Texts end at a stop string: a sum would prefer those that end soon."""
    model = FreeOffsets(np.zeros(11))
    every = generate(model, PROMPTS, num_samples=8, stop=("a",))
    best = generate(model, PROMPTS, best_of=8, stop=("a",))
    ids = [TOKENIZER.encode(text.prompt or "\n").tolist() for text in every]
    sums = [
        -sum(float(model.log_table[a, b]) for a, b in itertools.pairwise([start[-1], *text.tokens]))
        for start, text in zip(ids, every, strict=True)
    ]
    means = [total / len(text.tokens) for total, text in zip(sums, every, strict=True)]
    groups = [range(start, start + 8) for start in range(0, 32, 8)]
    chosen = [min(group, key=means.__getitem__) for group in groups]
    assert [text.tokens for text in best] == [every[place].tokens for place in chosen]
    assert chosen != [min(group, key=sums.__getitem__) for group in groups]
    assert len({len(text.tokens) for text in every}) > 4


def test_tokens_are_told_as_they_are_drawn_those_of_discarded_texts_too() -> None:
    drawn: list[int] = []
    model = FreeOffsets(np.zeros(11))
    settings, plan = dataclasses.replace(SETTINGS, max_tokens=5), GenerationPlan(best_of=3)
    prompts = [Prompt("a"), Prompt("b")]
    texts = generate_texts(
        model, TOKENIZER, prompts, settings, CONTEXT, plan, on_tokens=drawn.append
    )  # type: ignore[arg-type]
    assert len(next(texts).tokens) == 5
    assert drawn == [6] * 5
    assert len(list(texts)) == 1


@pytest.mark.parametrize("make", [transformer, nano, ebt, splat, splat_transformer])
def test_token_energies_are_those_of_the_model(make) -> None:
    """-log p of each token from a pass over its own window, after the window slid as well."""
    model = sharp(make())
    (text,) = generate(model, ["a bad"], energies=True)
    assert text.energies is not None
    tokens = torch.tensor([[*TOKENIZER.encode("a bad").tolist(), *text.tokens]])
    for number, energy in enumerate(text.energies.tokens):
        window = tokens[:, : 5 + number][:, -CONTEXT:]
        log_probs = model.next_token_log_probs(window).detach()
        assert energy == pytest.approx(-float(log_probs[0, tokens[0, 5 + number]]), abs=1e-3)


def own_energy(model: LanguageModel, window: torch.Tensor, target: int) -> float:
    """The family's energy of a token after a window (1, T), from the parts of the model."""
    with torch.no_grad():
        if isinstance(model, NanoEBM):
            return -float(model.logits(model.backbone(window)[0, -1])[target])
        if isinstance(model, EnergyTransformer):
            certain = torch.nn.functional.one_hot(torch.tensor(target), model.vocab_size).float()
            distributions = certain.expand(*window.shape, -1)
            return float(model.energies(window, distributions, model._steps() - 1)[0, -1])
        assert isinstance(model, SplatLM)
        e = model.token_latents(torch.tensor(target)).double()
        h = model.features(window).h[0, -1].double()
        a = 7 * model.kappa().double()
        log_z = torch.tensor([log_z0(float(k)) for k in a])
        terms = model.log_pi().double() - log_z + a * (model.mu.double() @ e)
        return float(-torch.logsumexp(terms, 0) - h @ e)


def log_z0(k: float) -> float:
    """log E[exp(k x_1)] over the unit sphere of R^8, by quadrature."""
    t = np.cos(np.linspace(0, np.pi, 20001))
    log_f = k * t + 3 * np.log(np.maximum(1 - t**2, 1e-300))
    flat = 3 * np.log(np.maximum(1 - t**2, 1e-300))
    return float(np.logaddexp.reduce(log_f) - np.logaddexp.reduce(flat))


@pytest.mark.parametrize("make", [nano, ebt, splat])
def test_own_energies_are_those_of_each_window(make) -> None:
    model = sharp(make())
    tokens = np.random.default_rng(0).integers(0, 11, 17).tolist()
    found = model_energies(model, tokens, 5, CONTEXT)
    assert found is not None
    assert len(found) == 12
    for place, energy in enumerate(found, start=5):
        window = torch.tensor([tokens[:place][-CONTEXT:]])
        assert energy == pytest.approx(own_energy(model, window, tokens[place]), rel=1e-4, abs=1e-3)
    # A text that just fills the window has none that slid.
    assert len(model_energies(model, tokens[:13], 5, CONTEXT) or ()) == 8
    assert model_energies(transformer(), tokens, 5, CONTEXT) is None


def test_wrong_plans_are_errors() -> None:
    for name in ("num_samples", "best_of", "batch_size"):
        with pytest.raises(ConfigError, match=f"{name}=0 must be at least 1"):
            GenerationPlan(**{name: 0})
    greedy = SamplingSettings(max_tokens=2, temperature=0)
    with pytest.raises(ConfigError, match="temperature=0 writes the same text 6 times"):
        generate(transformer(), ["a"], greedy, num_samples=2, best_of=3)
    assert len(generate(ebt(), ["a"], dataclasses.replace(greedy, latent="exact"), best_of=2)) == 1
    with pytest.raises(ConfigError, match="leaves no room for 3 seeds"):
        generate(transformer(), ["a"], SamplingSettings(seed=2**63 - 2), num_samples=3)


def test_a_prompt_that_is_too_long_is_named_before_anything_is_written() -> None:
    prompts = [Prompt("a"), Prompt("b" * 13, "prompts.txt line 2")]
    with pytest.raises(
        DataError, match=r"prompts\.txt line 2 has 13 tokens and the model reads 12"
    ):
        generate_texts(transformer(), TOKENIZER, prompts, SETTINGS, CONTEXT, GenerationPlan())
