import json
import math

import numpy as np
import pytest
import torch

from ebm_wgpu.config import Config, DataConfig, TrainConfig
from ebm_wgpu.errors import ConfigError, DataError
from ebm_wgpu.evaluation import PerplexityReport, evaluate_perplexity
from ebm_wgpu.text.datasets import TokenStream

VOCAB = 5
TABLE = np.random.default_rng(0).dirichlet(np.ones(VOCAB), size=VOCAB)
CONFIG = Config(
    data=DataConfig(block_size=8, eval_context=6, eval_stride=2),
    train=TrainConfig(batch_size=3),
)


class Bigram:
    """p(w | previous) from a table, so that the text's probability is a product of entries."""

    def __init__(self):
        self.calls = 0

    def token_log_probs(self, tokens, targets, latent, seed):
        self.calls += 1
        return torch.from_numpy(np.log(TABLE))[tokens, targets]


class Blurred:
    """p(w | previous) with a logarithm off by sigma z - sigma^2 / 2, z a normal draw."""

    sigma = 0.5

    def token_log_probs(self, tokens, targets, latent, seed):
        z = np.random.default_rng(seed).standard_normal(tuple(tokens.shape))
        exact = np.log(TABLE)[tokens.numpy(), targets.numpy()]
        return torch.from_numpy(exact + self.sigma * z - self.sigma**2 / 2)


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


def test_draws_are_averaged_as_probabilities_with_their_error():
    text = stream(400)
    exact = exact_nll(text.tokens, 0)
    draws = 32
    report = evaluate_perplexity(
        Blurred(), text, CONFIG, start_id=0, latent="exact", draws=draws, seed=5
    )
    # Relative variance of one log-normal draw with mean 1, over the draws; half of it is the bias.
    variance = math.expm1(Blurred.sigma**2) / draws
    expected_error = math.sqrt(len(text) * variance) / len(text) * report.token_perplexity
    assert report.standard_error == pytest.approx(expected_error, rel=0.1)
    bias = len(text) * variance / 2
    assert abs(report.nll_sum - exact - bias) < 3 * math.sqrt(len(text) * variance)
    assert report.draws == draws


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
    report = PerplexityReport(1e6, 10, 5, None, 6, 2, "mean", 1, 0.0)
    assert report.token_perplexity == math.inf
    summary = json.loads(json.dumps(report.summary(), allow_nan=False))
    assert summary["token_perplexity"] is None
    assert summary["nll_sum"] == 1e6
    assert summary["bits_per_byte"] is None
