"""Composition as retrieval: planted compositions are found, and chance is chance."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebm_wgpu.composition import COMPOSERS, compose, negate
from ebm_wgpu.errors import DataError
from ebm_wgpu.evaluation.composition import (
    REFLECTION,
    CompositionReport,
    TemplateTexts,
    evaluate_composition,
    frequent_words,
    score_composition,
)
from ebm_wgpu.models.causal_transformer import CausalTransformer
from ebm_wgpu.models.transformer_config import TransformerConfig
from ebm_wgpu.sphere import FloatArray, projx, random_uniform
from ebm_wgpu.text.tokenizers import make_tokenizer
from ebm_wgpu.training.composition_fitting import ALONE, LEARNED

D = 24
BASE = np.eye(D)[0]


def words(n: int) -> list[str]:
    return [f"w{i}" for i in range(n)]


@given(st.integers(5, 40), st.integers(0, 9))
def test_each_word_begins_two_pairs_and_ends_two(n: int, seed: int) -> None:
    texts = TemplateTexts.of(words(n), seed)
    assert sorted(texts.words) == sorted(words(n))
    assert set(Counter(texts.first.tolist()).values()) == {2}
    assert set(Counter(texts.second.tolist()).values()) == {2}
    assert len(set(texts.wholes)) == 2 * n
    assert not (texts.first == texts.second).any()
    a, b = texts.wholes[0].split(" and ")
    assert (a, b) == (texts.words[texts.first[0]], texts.words[texts.second[0]])
    assert texts.negations[0] == f"not {texts.words[0]}"


def test_four_words_are_too_few() -> None:
    with pytest.raises(DataError, match="4 words that the tokenizer knows are too few"):
        TemplateTexts.of(words(4))


def test_planted_compositions_are_named_every_time() -> None:
    """Wholes that are tangent sums and negations that are reflections, by construction."""
    texts = TemplateTexts.of(words(30))
    rng = np.random.default_rng(0)
    points = projx(BASE + 0.2 * rng.standard_normal((30, D)))
    wholes = compose(points[texts.first], points[texts.second], BASE)
    report = score_composition(texts, points, wholes, negate(points, BASE), BASE)
    assert (report.n_words, report.n_pairs) == (30, 60)
    whole, apart, negation = report.tasks
    for found in (whole.scores["tangent"], apart.scores["tangent"], negation.scores[REFLECTION]):
        assert found.top_1 == found.reciprocal_rank == 1
        assert found.cosine == pytest.approx(1, abs=1e-9)
    # One part alone is near its two wholes as last word, and its two as first: it cannot choose.
    assert whole.scores[ALONE].reciprocal_rank < 0.7
    # A meaning is farthest of all from what negates it.
    assert negation.scores[ALONE].reciprocal_rank < negation.chance_reciprocal_rank
    assert (whole.n, whole.candidates) == (60, 60)
    assert (apart.n, apart.candidates) == (60, 30)
    assert (negation.n, negation.candidates) == (30, 30)


def test_a_learned_composition_stands_beside_the_others() -> None:
    """Wholes that are the geodesic middle: a map that gives it is right where the sum is not."""
    texts = TemplateTexts.of(words(12))
    points = projx(BASE + 0.5 * np.random.default_rng(3).standard_normal((12, D)))
    middle = compose(points[texts.first], points[texts.second], BASE, method="geodesic")
    wholes = projx(middle + 0.3 * BASE)

    def learned(base: FloatArray, a: FloatArray, b: FloatArray, share: float) -> FloatArray:
        return projx(compose(a, b, base, method="geodesic", share=share) + 0.3 * base)

    report = score_composition(texts, points, wholes, negate(points, BASE), BASE, learned)
    whole, apart, negation = report.tasks
    assert list(whole.scores) == [ALONE, "geodesic", "tangent", LEARNED]
    assert whole.scores[LEARNED].cosine == pytest.approx(1, abs=1e-9)
    assert whole.scores["tangent"].cosine < 0.99
    assert LEARNED in apart.scores
    assert list(negation.scores) == [ALONE, REFLECTION]


def test_random_directions_score_as_chance_says() -> None:
    n = 150
    texts = TemplateTexts.of(words(n))
    rng = np.random.default_rng(1)
    points, wholes, negations = (random_uniform(rng, k * n, D) for k in (1, 2, 1))
    report = score_composition(texts, points, wholes, negations, BASE)
    for asked in report.tasks:
        ranks = 1 / np.arange(1, asked.candidates + 1)
        assert asked.chance_reciprocal_rank == pytest.approx(ranks.mean(), rel=1e-12)
        assert asked.chance_top_1 == 1 / asked.candidates
        error = ranks.std() / np.sqrt(asked.n)
        # Guesses that share a word are alike: twice the error of independent ones, three times.
        for name in ("tangent", "geodesic", REFLECTION):
            if name in asked.scores:
                found = asked.scores[name].reciprocal_rank
                assert abs(found - asked.chance_reciprocal_rank) < 6 * error, (asked.question, name)


def test_words_are_the_frequent_ones_that_the_tokenizer_knows() -> None:
    text = "and and and and not not not the the the cat cat dog 3 3 3 , x-y ox\n"
    tokenizer = make_tokenizer("word", "the cat ox dog and not\n")
    assert frequent_words(text, tokenizer, 9) == ["the", "cat", "dog", "ox"]
    # With two wanted, two of the most frequent are left out.
    assert frequent_words(text, tokenizer, 2) == ["dog", "ox"]
    assert frequent_words("yes yes no the\n", tokenizer, 9) == ["the"]
    many = " ".join(f"{'x' * (i + 1)}" for i in range(130))
    characters = make_tokenizer("char", many)
    assert len(frequent_words(many, characters, 30)) == 30
    assert frequent_words(many, characters, 30)[0] == "x" * 101


def transformer(vocab_size: int) -> CausalTransformer:
    shape = TransformerConfig(dim=16, n_layers=1, n_heads=2, max_length=32)
    model = CausalTransformer(shape, vocab_size)
    model.initialize(np.arange(vocab_size), np.ones(vocab_size), seed=0)
    return model.eval()


TEXT = "the cat and not the dog saw an owl with red eyes near old trees\n"


def test_a_model_is_asked_about_the_words_of_a_text() -> None:
    tokenizer = make_tokenizer("char", TEXT)
    model = transformer(tokenizer.vocab_size)

    def evaluated(seed: int) -> CompositionReport:
        return evaluate_composition(model, tokenizer, TEXT, context=32, n_words=8, seed=seed)

    report = evaluated(0)
    assert (report.n_words, report.n_pairs) == (8, 16)
    record = json.loads(json.dumps(asdict(report), allow_nan=False))
    methods = [set(asked["scores"]) for asked in record["tasks"]]
    assert methods == [{ALONE, *COMPOSERS}] * 2 + [{ALONE, REFLECTION}]
    assert all(asked.candidates <= asked.n for asked in report.tasks)
    assert evaluated(0) == report
    assert evaluated(1) != report


def test_templates_that_cannot_be_written_are_an_error() -> None:
    tokenizer = make_tokenizer("char", "abc def\n")
    with pytest.raises(DataError, match="does not know 'and' and 'not'"):
        evaluate_composition(transformer(9), tokenizer, "abc def", context=32, n_words=8)
    words_only = make_tokenizer("word", "and not cat\n")
    with pytest.raises(DataError, match="1 words that the tokenizer knows are too few"):
        evaluate_composition(transformer(9), words_only, "cat cow\n", context=32, n_words=8)
