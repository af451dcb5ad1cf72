"""Figures of written text against counts by hand, and texts of a model whose words are known."""

import math
import sys

import numpy as np
import pytest
import torch

from ebm_wgpu.errors import ConfigError, DataError
from ebm_wgpu.evaluation.text_quality import (
    bleu,
    distinct,
    evaluate_generation,
    repetition_rate,
    rouge,
    text_quality,
)
from ebm_wgpu.generation.sampling import SamplingSettings
from ebm_wgpu.text.datasets import TokenStream
from ebm_wgpu.text.tokenizers import make_tokenizer

WORDS = "<eos> a b c d e"


def test_distinct_counts_different_n_grams_of_all_texts():
    texts = ["a b a b", "a b c", "c"]
    assert distinct(texts, 1) == 3 / 8
    assert distinct(texts, 2) == 3 / 5
    assert distinct(texts, 3) == 3 / 3
    assert distinct(texts, 4) == 1
    assert distinct(texts, 5) is None
    assert distinct([""], 1) is None


def test_repetition_is_within_a_text():
    assert repetition_rate("a b c d", 2) == 0
    assert repetition_rate("a b a b a b", 2) == 1 - 2 / 5
    assert repetition_rate("a a a a a", 1) == 1 - 1 / 5
    assert repetition_rate("a", 2) is None
    quality = text_quality(["a b c d e", "a b c d e", "x"], 3.0)
    assert quality.repetition == 0
    assert quality.distinct == (6 / 11, 4 / 8, 3 / 6, 2 / 4)
    assert quality.perplexity == 3


def test_bleu_and_rouge_have_their_ends_and_known_values():
    truths = ["the cat sat on the mat today", "a dog ran over the hill"]
    assert bleu(truths, truths) == pytest.approx(100)
    assert rouge(truths, truths) == pytest.approx({"rouge1": 1, "rouge2": 1, "rougeL": 1})
    others = ["nothing is alike here at all", "still no one word"]
    assert bleu(others, truths) < 5
    assert rouge(others, truths) == pytest.approx({"rouge1": 0, "rouge2": 0, "rougeL": 0})
    # Of 4 and 3 words 3 are shared, 2 of 3 and 2 pairs, and a subsequence of 3.
    some = rouge(["the cat sat"], ["the cat there sat"])
    assert some["rouge1"] == pytest.approx(2 * 3 / 7)
    assert some["rouge2"] == pytest.approx(2 * 1 / 5)
    assert some["rougeL"] == pytest.approx(2 * 3 / 7)


def test_without_the_libraries_there_are_no_such_figures(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    assert bleu(["a"], ["a"]) is None
    assert rouge(["a"], ["a"]) == {}


class Circle:
    """After each word the next one with probability .7, else any: known to write in order."""

    def __init__(self, size):
        self.table = 0.7 * np.roll(np.eye(size), 1, axis=1) + 0.3 / size

    def token_log_probs(self, tokens, targets, latent, seed):
        return torch.from_numpy(np.log(self.table))[tokens, targets]

    def next_token_log_probs(self, tokens, latent="mean", seed=0):
        return torch.from_numpy(np.log(self.table))[tokens[:, -1]]


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer("word", WORDS)


def stream(tokenizer, n=60):
    # Two steps at a time: never what `Circle` thinks likely.
    tokens = 2 * np.arange(n) % tokenizer.vocab_size
    return TokenStream(tokens.astype(np.int32), tokenizer.vocab_size, n)


def test_a_greedy_model_writes_what_it_finds_likely(tokenizer):
    model = Circle(tokenizer.vocab_size)
    seen = []
    report = evaluate_generation(
        model, tokenizer, stream(tokenizer), context=16, n_texts=4, prompt_tokens=3,
        settings=SamplingSettings(max_tokens=5, temperature=0), on_token=seen.append,
    )  # fmt: skip
    likely = 0.7 + 0.3 / tokenizer.vocab_size
    assert report.written.perplexity == pytest.approx(1 / likely, rel=1e-9)
    assert report.real.perplexity == pytest.approx(tokenizer.vocab_size / 0.3, rel=1e-9)
    assert (report.n_texts, report.prompt_tokens, report.new_tokens) == (4, 3, 5)
    assert seen == [1, 2, 3, 4, 5]
    assert len(report.examples) == 3
    prompt, written = report.examples[0]
    ids = tokenizer.encode(f"{prompt} {written}")
    assert ids[3] == (ids[2] + 1) % tokenizer.vocab_size


def test_texts_repeat_with_the_seed(tokenizer):
    model = Circle(tokenizer.vocab_size)

    def written(seed):
        return evaluate_generation(
            model, tokenizer, stream(tokenizer), context=16, n_texts=3, prompt_tokens=2,
            settings=SamplingSettings(max_tokens=8, seed=seed),
        )  # fmt: skip

    assert written(1) == written(1)
    assert written(1).examples != written(2).examples


@pytest.mark.parametrize("sizes", [{"prompt_tokens": 0}, {"n_texts": 0}, {"context": 6}])
def test_sizes_out_of_range_are_errors(tokenizer, sizes):
    given = {"context": 16, "n_texts": 2, "prompt_tokens": 3} | sizes
    with pytest.raises(ConfigError, match=r"data\.eval_context"):
        evaluate_generation(
            Circle(tokenizer.vocab_size), tokenizer, stream(tokenizer), **given,
            settings=SamplingSettings(max_tokens=4),
        )  # fmt: skip


def test_a_text_too_short_for_a_prompt_is_an_error(tokenizer):
    with pytest.raises(DataError, match="has 6 tokens"):
        evaluate_generation(
            Circle(tokenizer.vocab_size), tokenizer, stream(tokenizer, 6), context=16, n_texts=1,
            prompt_tokens=3, settings=SamplingSettings(max_tokens=4),
        )  # fmt: skip


def test_a_hopeless_model_has_infinite_perplexity(tokenizer):
    class Hopeless(Circle):
        def token_log_probs(self, tokens, targets, latent, seed):
            return torch.full(targets.shape, -1e6)

    report = evaluate_generation(
        Hopeless(tokenizer.vocab_size), tokenizer, stream(tokenizer), context=16, n_texts=1,
        prompt_tokens=3, settings=SamplingSettings(max_tokens=4),
    )  # fmt: skip
    assert report.written.perplexity == math.inf
