"""Scores of a language model on held-out text: perplexity with its error, and score matching."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch

from ebm_wgpu.config import Config, Latent
from ebm_wgpu.errors import ConfigError
from ebm_wgpu.files import finite_numbers
from ebm_wgpu.text.datasets import TokenStream, evaluation_batches
from ebm_wgpu.training.placement import HostScorer, Scorer
from ebm_wgpu.training.score_matching import NoiseLevel


@dataclass(frozen=True)
class PerplexityReport:
    """How well a model predicts a text.

    Attributes:
        nll_sum: minus the sum of log p(token | tokens before it), nats, over all tokens.
        n_tokens: tokens scored, each once.
        n_words: words of the text incl. one per line end.
        n_bytes: bytes of the text in UTF-8, or none if not told.
        context: most tokens of input.
        stride: tokens from a window to the next.
        latent: how latents were found.
        draws: latents averaged over for each token.
        standard_error: of `token_perplexity`, due to the finite number of draws: 0 for
            latent=mean, none for a single random draw.
        nll_bias: by how many nats `nll_sum` is too high because draws are few, estimated by the
            jackknife: 0 for latent=mean, none for a single random draw.
        score_matching: denoising score matching by noise level; empty if not asked for.
        memory: "static" for a model that stays as it is while it reads the text, "online" for one
            that remembers what it has read. The two are never mixed in one figure.
    """

    nll_sum: float
    n_tokens: int
    n_words: int
    n_bytes: int | None
    context: int
    stride: int
    latent: Latent
    draws: int
    standard_error: float | None
    nll_bias: float | None
    score_matching: tuple[NoiseLevel, ...] = ()
    memory: Literal["static", "online"] = "static"

    @property
    def nll_per_token(self) -> float:
        """nll_sum / n_tokens, nats."""
        return self.nll_sum / self.n_tokens

    @property
    def token_perplexity(self) -> float:
        """exp(nll_sum / n_tokens)."""
        return perplexity_of(self.nll_per_token)

    @property
    def extrapolated_perplexity(self) -> float | None:
        """exp((nll_sum - nll_bias) / n_tokens), what `token_perplexity` goes to as draws grow."""
        if self.nll_bias is None:
            return None
        return perplexity_of((self.nll_sum - self.nll_bias) / self.n_tokens)

    @property
    def word_perplexity(self) -> float:
        """exp(nll_sum / n_words), comparable across tokenizers."""
        return perplexity_of(self.nll_sum / self.n_words)

    @property
    def bits_per_byte(self) -> float | None:
        """nll_sum / (n_bytes log 2), comparable across tokenizers."""
        return None if self.n_bytes is None else self.nll_sum / self.n_bytes / math.log(2)

    def summary(self) -> dict[str, Any]:
        """All figures as types JSON holds; none for those too large for a number."""
        figures = {
            "nll_per_token": self.nll_per_token,
            "token_perplexity": self.token_perplexity,
            "extrapolated_perplexity": self.extrapolated_perplexity,
            "word_perplexity": self.word_perplexity,
            "bits_per_byte": self.bits_per_byte,
        }
        found: dict[str, Any] = finite_numbers({**figures, **asdict(self)})
        return found


@torch.no_grad()
def evaluate_perplexity(
    model: Scorer,
    stream: TokenStream,
    config: Config,
    *,
    start_id: int,
    latent: Latent | None = None,
    draws: int = 1,
    seed: int = 0,
    n_bytes: int | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> PerplexityReport:
    """Perplexity of `model` on `stream`, each token scored once with left context.

    With M random draws the probability of a token is the mean of M, and its logarithm has by the
    delta method the variance sum_m (p_m/p - 1)^2 / (M (M-1)); draws of different tokens are
    independent. The logarithm of a mean of few draws is too small on average; by how much is
    estimated from the means that leave one draw out (Efron 1982, The Jackknife, chapter 2).

    Args:
        model: what to score.
        stream: the text.
        config: gives data.eval_context and data.eval_stride, and the tokens of a batch.
        start_id: the id before the first token, `TextTokenizer.start_id`.
        latent: mean, exact or langevin; by default train.token_latent.
        draws: M; more than one needs a random latent.
        seed: of the draws.
        n_bytes: bytes of the text, for bits per byte.
        on_batch: called with the number of tokens scored so far.

    Raises:
        ConfigError: draws out of range.
        DataError: the text is empty.
    """
    latent = latent or config.train.token_latent
    if draws < 1 or (draws > 1 and latent == "mean"):
        raise ConfigError(
            f"draws={draws} with latent={latent}: give 1, or more with latent=exact or langevin"
        )
    context, stride = config.data.eval_context, config.data.eval_stride
    batch = max(1, config.train.batch_size * config.data.block_size // context)
    scorer = HostScorer(model)
    nll, variance, bias, scored = 0.0, 0.0, 0.0, 0
    for index, window in enumerate(evaluation_batches(stream, context, stride, batch, start_id)):
        tokens = torch.from_numpy(window.tokens).long()
        log_probs = np.stack(
            [
                scorer.token_log_probs(
                    tokens[:, :-1],
                    tokens[:, 1:],
                    latent=latent,
                    seed=_draw_seed(seed, index, draw),
                )
                .double()
                .numpy()[window.scored]
                for draw in range(draws)
            ]
        )
        log_mean = np.logaddexp.reduce(log_probs, axis=0) - math.log(draws)
        nll -= float(log_mean.sum())
        if draws > 1:
            ratio = np.exp(log_probs - log_mean)
            variance += float(np.square(ratio - 1).sum()) / (draws * (draws - 1))
            bias -= float(_log_mean_bias(log_probs, log_mean).sum())
        scored += log_mean.size
        if on_batch is not None:
            on_batch(scored)
    known = draws > 1 or latent == "mean"
    return PerplexityReport(
        nll,
        scored,
        stream.n_words,
        n_bytes,
        context,
        stride,
        latent,
        draws,
        standard_error=perplexity_of(nll / scored) * math.sqrt(variance) / scored
        if known
        else None,
        nll_bias=bias if known else None,
    )


def _log_mean_bias(log_p: np.ndarray, log_mean: np.ndarray) -> np.ndarray:
    """(M - 1) (mean_m log mean_{j != m} p_j - log mean_j p_j) of draws log_p (M, N), (N,)."""
    draws = len(log_p)
    before = np.logaddexp.accumulate(log_p, axis=0)
    after = np.logaddexp.accumulate(log_p[::-1], axis=0)[::-1]
    others = np.concatenate([after[1:2], np.logaddexp(before[:-2], after[2:]), before[-2:-1]])
    bias: np.ndarray = (draws - 1) * ((others - math.log(draws - 1)).mean(0) - log_mean)
    return bias


def _draw_seed(seed: int, index: int, draw: int) -> int:
    """A seed of its own for each batch and draw."""
    return int(np.random.SeedSequence([seed, index, draw]).generate_state(1, np.uint64)[0] >> 1)


def perplexity_of(nll: float) -> float:
    """exp(nll) of nats a token, infinity where that overflows: a model can be that wrong."""
    return math.exp(nll) if nll < math.log(np.finfo(np.float64).max) else math.inf
