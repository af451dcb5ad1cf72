import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
import torch

from ebm_wgpu.config import Config, DataConfig, TrainConfig
from ebm_wgpu.errors import ConfigError, DataError
from ebm_wgpu.evaluation.perplexity import PerplexityReport, evaluate_perplexity
from ebm_wgpu.text.datasets import TokenStream
from ebm_wgpu.text.tokenizers import make_tokenizer

VOCAB = 5
TABLE = np.random.default_rng(0).dirichlet(np.ones(VOCAB), size=VOCAB)
CONFIG = Config(
    data=DataConfig(block_size=8, eval_context=6, eval_stride=2),
    train=TrainConfig(batch_size=3),
)

WHOLE = dataclasses.replace(CONFIG, data=DataConfig(block_size=12, eval_context=12, eval_stride=12))


class Bigram:
    """p(w | previous) from a table, so that the text's probability is a product of entries."""

    def __init__(self):
        self.calls = 0

    def token_log_probs(self, tokens, targets, latent, seed):
        self.calls += 1
        return torch.from_numpy(np.log(TABLE))[tokens, targets]


class Blurred:
    """p(w | previous) with a logarithm off by sigma z - sigma^2 / 2, z a normal draw."""

    def __init__(self, sigma=0.5):
        self.sigma = sigma

    def token_log_probs(self, tokens, targets, latent, seed):
        z = np.random.default_rng(seed).standard_normal(tuple(tokens.shape))
        exact = np.log(TABLE)[tokens.numpy(), targets.numpy()]
        return torch.from_numpy(exact + self.sigma * z - self.sigma**2 / 2)


class Recorded:
    """Draws from a table of probabilities (M, N), the text in one window."""

    def __init__(self, draws, n):
        self.table = np.random.default_rng(4).uniform(1e-3, 1, (draws, n))
        self.draw = 0

    def token_log_probs(self, tokens, targets, latent, seed):
        row = torch.from_numpy(np.log(self.table[self.draw]))[None]
        self.draw += 1
        return row


def stream(n, seed=1):
    tokens = np.random.default_rng(seed).integers(VOCAB, size=n)
    return TokenStream(tokens.astype(np.int32), VOCAB, n_words=max(1, n // 3))


def exact_nll(tokens, start):
    return -math.fsum(
        math.log(TABLE[before, after])
        for before, after in zip([start, *tokens[:-1]], tokens, strict=True)
    )


@pytest.mark.parametrize("n", [1, 2, 6, 7, 50, 53])
def test_the_sum_is_that_of_the_chain_rule(n):
    text = stream(n)
    report = evaluate_perplexity(Bigram(), text, CONFIG, start_id=2, n_bytes=4 * n)
    nll = exact_nll(text.tokens, 2)
    assert report.n_tokens == n
    assert report.nll_sum == pytest.approx(nll, rel=1e-12)
    assert report.token_perplexity == pytest.approx(math.exp(nll / n), rel=1e-12)
    assert report.word_perplexity == pytest.approx(math.exp(nll / max(1, n // 3)), rel=1e-12)
    assert report.bits_per_byte == pytest.approx(nll / math.log(2) / (4 * n), rel=1e-12)
    assert (report.context, report.stride, report.standard_error) == (6, 2, 0.0)


def test_probabilities_of_all_texts_sum_to_one():
    length, total = 3, 0.0
    for code in range(VOCAB**length):
        tokens = np.array([code // VOCAB**i % VOCAB for i in range(length)], np.int32)
        report = evaluate_perplexity(Bigram(), TokenStream(tokens, VOCAB, 1), CONFIG, start_id=0)
        total += math.exp(-report.nll_sum)
    assert total == pytest.approx(1, rel=1e-12)


class Remembering:
    """p(w | all tokens of the window so far): every earlier token counts, the later ones more."""

    weight = np.random.default_rng(2).standard_normal((3, 3))

    def logits(self, before):
        ages = np.arange(len(before), 0, -1)
        return (0.8 ** ages[:, None] * self.weight[before]).sum(0) * 4

    def token_log_probs(self, tokens, targets, latent, seed):
        found = np.empty(tokens.shape)
        for row, (before, after) in enumerate(zip(tokens.numpy(), targets.numpy(), strict=True)):
            for t, target in enumerate(after):
                logits = self.logits(before[: t + 1])
                found[row, t] = logits[target] - np.logaddexp.reduce(logits)
        return torch.from_numpy(found)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_in_windows_every_text_has_its_probability_and_all_sum_to_one(stride):
    """Texts of 5 tokens read in windows of 3: each scored by hand, and the sum over all of them."""
    length, context, model = 5, 3, Remembering()
    data = dataclasses.replace(CONFIG.data, eval_context=context, eval_stride=stride)
    config = dataclasses.replace(CONFIG, data=data)
    # Where the window begins that scores each token: the first one that reaches it.
    starts = {1: [0, 0, 0, 1, 2], 2: [0, 0, 0, 2, 2], 3: [0, 0, 0, 2, 2]}[stride]
    total = 0.0
    for text in itertools.product(range(3), repeat=length):
        extended, nll = np.array([1, *text]), 0.0
        for place, start in enumerate(starts):
            logits = model.logits(extended[start : place + 1])
            nll -= math.log(np.exp(logits)[text[place]] / np.exp(logits).sum())
        read = TokenStream(np.array(text, np.int32), 3, 2)
        report = evaluate_perplexity(model, read, config, start_id=1)
        assert report.nll_sum == pytest.approx(nll, rel=1e-12)
        assert report.token_perplexity == pytest.approx(math.exp(nll / length), rel=1e-12)
        total += math.exp(-report.nll_sum)
    assert total == pytest.approx(1, rel=1e-12)


class Even:
    """Every token is as likely as every other."""

    def __init__(self, vocab_size):
        self.nll = math.log(vocab_size)

    def token_log_probs(self, tokens, targets, latent, seed):
        return torch.full(tokens.shape, -self.nll, dtype=torch.float64)


@pytest.mark.parametrize(("kind", "n_tokens"), [("word", 8), ("char", 22), ("bpe", None)])
def test_words_are_counted_in_the_text_whatever_the_tokens(kind, n_tokens):
    text = "ab cd ef ab\nnew words\n"
    # Four words, then two, and a line end each.
    n_words = 8
    tokenizer = make_tokenizer(kind, text, 300 if kind == "bpe" else None)
    read = TokenStream.from_text(text, tokenizer)
    model = Even(tokenizer.vocab_size)
    report = evaluate_perplexity(
        model, read, CONFIG, start_id=tokenizer.start_id, n_bytes=len(text.encode())
    )
    assert report.n_words == n_words
    assert n_tokens is None or report.n_tokens == n_tokens
    nll = len(tokenizer.encode(text)) * math.log(tokenizer.vocab_size)
    assert report.token_perplexity == pytest.approx(tokenizer.vocab_size)
    assert report.word_perplexity == pytest.approx(math.exp(nll / n_words))
    assert report.bits_per_byte == pytest.approx(nll / math.log(2) / len(text))


def test_draws_are_averaged_as_probabilities_with_their_error():
    text = stream(400)
    exact = exact_nll(text.tokens, 0)
    draws = 32
    report = evaluate_perplexity(
        Blurred(), text, CONFIG, start_id=0, latent="exact", draws=draws, seed=5
    )
    # Relative variance of one log-normal draw with mean 1, over the draws; half of it is the bias.
    variance = math.expm1(0.5**2) / draws
    expected_error = math.sqrt(len(text) * variance) / len(text) * report.token_perplexity
    assert report.standard_error == pytest.approx(expected_error, rel=0.1)
    bias = len(text) * variance / 2
    assert abs(report.nll_sum - exact - bias) < 3 * math.sqrt(len(text) * variance)
    assert report.draws == draws


@pytest.mark.parametrize(("draws", "sigma"), [(2, 0.3), (3, 0.5), (8, 0.5), (64, 1.0)])
def test_the_bias_of_few_draws_is_known(draws, sigma):
    text = stream(3000)
    model = Blurred(sigma)
    report = evaluate_perplexity(
        model, text, CONFIG, start_id=0, latent="exact", draws=draws, seed=3
    )
    exact = exact_nll(text.tokens, 0)
    error = len(text) * report.standard_error / report.token_perplexity
    assert report.nll_sum - exact > 5 * error
    assert abs(report.nll_sum - report.nll_bias - exact) < 3 * error
    expected = math.exp((report.nll_sum - report.nll_bias) / len(text))
    assert report.extrapolated_perplexity == pytest.approx(expected, rel=1e-12)


def test_the_bias_is_that_of_leaving_each_draw_out():
    text, draws = stream(12), 5
    report = evaluate_perplexity(
        Recorded(draws, len(text)), text, WHOLE, start_id=0, latent="exact", draws=draws
    )
    p = Recorded(draws, len(text)).table
    without = [np.log(np.delete(p, m, axis=0).mean(0)) for m in range(draws)]
    bias = (draws - 1) * (np.log(p.mean(0)) - np.mean(without, 0))
    assert report.nll_sum == pytest.approx(-np.log(p.mean(0)).sum(), rel=1e-12)
    assert report.nll_bias == pytest.approx(bias.sum(), rel=1e-10)


def test_draws_repeat_with_the_seed_and_differ_without():
    text = stream(60)

    def nll(seed):
        return evaluate_perplexity(
            Blurred(), text, CONFIG, start_id=0, latent="exact", draws=2, seed=seed
        ).nll_sum

    assert nll(1) == nll(1)
    assert nll(1) != nll(2)


def test_one_random_draw_has_no_known_error():
    report = evaluate_perplexity(Blurred(), stream(20), CONFIG, start_id=0, latent="exact")
    assert report.standard_error is None
    assert report.nll_bias is None
    assert report.extrapolated_perplexity is None


def test_arguments_out_of_range_are_errors():
    for latent, draws in (("mean", 2), ("exact", 0)):
        with pytest.raises(ConfigError, match=f"draws={draws} with latent={latent}"):
            evaluate_perplexity(Bigram(), stream(9), CONFIG, start_id=0, latent=latent, draws=draws)
    with pytest.raises(DataError, match="no tokens to score"):
        evaluate_perplexity(Bigram(), stream(0), CONFIG, start_id=0)


def test_progress_counts_every_token_once():
    seen = []
    evaluate_perplexity(Bigram(), stream(50), CONFIG, start_id=0, on_batch=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 50


def test_a_summary_is_json_even_when_the_model_is_hopeless():
    report = PerplexityReport(1e6, 10, 5, None, 6, 2, "mean", 1, 0.0, 0.0)
    assert report.token_perplexity == math.inf
    summary = json.loads(json.dumps(report.summary(), allow_nan=False))
    assert summary["token_perplexity"] is None
    assert summary["nll_sum"] == 1e6
    assert summary["bits_per_byte"] is None
