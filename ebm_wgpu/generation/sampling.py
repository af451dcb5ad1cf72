"""How the next token is drawn: penalised, tempered, truncated distributions and seeded draws."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ebm_wgpu.config import Latent
from ebm_wgpu.errors import ConfigError


@dataclass(frozen=True)
class SamplingSettings:
    """How the next token is drawn.

    Attributes:
        max_tokens: tokens to write.
        temperature: the distribution is p^(1/temperature), renormalised; 0 takes the likeliest.
        top_k: keep the k likeliest tokens; None keeps all.
        top_p: keep the smallest set of likeliest tokens whose probability reaches top_p.
        repetition_penalty: tokens that the text has already get p^repetition_penalty; 1 is none.
        latent: the latent that is decoded: its closed-form mean, an exact draw, a Langevin state.
        seed: the same seed, prompt and settings give the same text.
    """

    max_tokens: int = 100
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    latent: Latent = "mean"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: a value out of range.
        """
        for wrong, message in (
            (self.max_tokens < 1, f"max_tokens={self.max_tokens} must be at least 1"),
            (
                not 0 <= self.temperature < np.inf,
                f"temperature={self.temperature} must be finite and at least 0 (0 is greedy)",
            ),
            (
                self.top_k is not None and self.top_k < 1,
                f"top_k={self.top_k} must be at least 1; leave it out to keep all tokens",
            ),
            (not 0 < self.top_p <= 1, f"top_p={self.top_p} must be above 0 and at most 1"),
            (
                not 1 <= self.repetition_penalty < np.inf,
                f"repetition_penalty={self.repetition_penalty} must be finite and at least 1 "
                "(1 is none)",
            ),
            (not 0 <= self.seed < 2**63, f"seed={self.seed} must be from 0 to 2^63 - 1"),
        ):
            if wrong:
                raise ConfigError(message)


def next_token_probabilities(
    log_probs: npt.NDArray[np.floating],
    settings: SamplingSettings,
    written: Collection[int] = (),
) -> npt.NDArray[np.float64]:
    """Penalised, tempered, truncated and renormalised next-token distribution.

    The penalty comes first (Keskar et al. 2019, arXiv:1909.05858, section 4.1, on log
    probabilities), then temperature, then top-k, then top-p on what is left (the nucleus of
    Holtzman et al. 2020, arXiv:1904.09751). Among equals the lower token id stays.

    Args:
        log_probs: log probabilities, (V,).
        settings: repetition_penalty, temperature, top_k and top_p.
        written: tokens that the text has already; how often does not matter.

    Returns:
        Probabilities, (V,) float64, summing to one.
    """
    log_probs = np.array(log_probs, np.float64)
    if settings.repetition_penalty != 1 and written:
        log_probs[list(written)] *= settings.repetition_penalty
    order = np.argsort(-log_probs, kind="stable")
    if settings.temperature == 0:
        order = order[:1]
    kept = log_probs[order] / (settings.temperature or 1.0)
    if settings.top_k is not None:
        order, kept = order[: settings.top_k], kept[: settings.top_k]
    weights = np.exp(kept - kept[0])
    weights /= weights.sum()
    if settings.top_p < 1:
        before = np.cumsum(weights) - weights
        inside = before < settings.top_p
        order, weights = order[inside], weights[inside] / weights[inside].sum()
    probabilities = np.zeros(log_probs.size)
    probabilities[order] = weights
    return probabilities


def draw_token(probabilities: npt.NDArray[np.float64], seed: int, position: int) -> int:
    """A token from `probabilities` (V,), decided by the seed and the position alone."""
    # One counter-based stream a position: the draw does not depend on how many came before.
    uniform = np.random.Generator(np.random.Philox(key=[seed, position])).random()
    cumulative = np.cumsum(probabilities)
    token = int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))
    return min(token, int(np.flatnonzero(probabilities)[-1]))


def latent_seed(settings: SamplingSettings, seed: int, position: int) -> int:
    """What seeds the model's own draws at a position of a text.

    With the mean latent, no more than the position counts: what a model may draw then (the starts
    of `LanguageModel.think`) serves to find the same answer, and texts written side by side share
    it.
    """
    own = 0 if settings.latent == "mean" else seed
    state = np.random.SeedSequence([own, position]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))
