"""Write text token by token: truncated distributions, seeded draws, streamed decoding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch

from ebm_wgpu.errors import ConfigError, DataError
from ebm_wgpu.text.tokenizer_base import TextTokenizer

Latent = Literal["mean", "exact", "langevin"]
_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


class NextTokenModel(Protocol):
    """What generation asks of a model family."""

    def next_token_log_probs(self, tokens: torch.Tensor, latent: Latent, seed: int) -> torch.Tensor:
        """log p(next token | tokens), (B, V), for tokens (B, T); `seed` drives latent draws."""
        ...


@dataclass(frozen=True)
class SamplingSettings:
    """How the next token is drawn.

    Attributes:
        max_tokens: tokens to write.
        temperature: the distribution is p^(1/temperature), renormalised; 0 takes the likeliest.
        top_k: keep the k likeliest tokens; None keeps all.
        top_p: keep the smallest set of likeliest tokens whose probability reaches top_p.
        latent: the latent that is decoded: its closed-form mean, an exact draw, a Langevin state.
        seed: the same seed, prompt and settings give the same text.
    """

    max_tokens: int = 100
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
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
            (not 0 <= self.seed < 2**63, f"seed={self.seed} must be from 0 to 2^63 - 1"),
        ):
            if wrong:
                raise ConfigError(message)


def next_token_probabilities(
    log_probs: npt.NDArray[np.floating], settings: SamplingSettings
) -> npt.NDArray[np.float64]:
    """Tempered, truncated and renormalised next-token distribution.

    Temperature comes first, then top-k, then top-p on what is left (the nucleus of Holtzman et al.
    2020, arXiv:1904.09751). Among equals the lower token id stays.

    Args:
        log_probs: log probabilities, (V,).
        settings: temperature, top_k and top_p.

    Returns:
        Probabilities, (V,) float64, summing to one.
    """
    log_probs = np.asarray(log_probs, np.float64)
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


def _draw(probabilities: npt.NDArray[np.float64], seed: int, position: int) -> int:
    # One counter-based stream a position: the draw does not depend on how many came before.
    uniform = np.random.Generator(np.random.Philox(key=[seed, position])).random()
    cumulative = np.cumsum(probabilities)
    token = int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))
    return min(token, int(np.flatnonzero(probabilities)[-1]))


def _stream_seed(seed: int, position: int) -> int:
    state = np.random.SeedSequence([seed, position]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def generate_ids(
    model: NextTokenModel,
    prompt: npt.NDArray[np.integer],
    settings: SamplingSettings,
    context: int,
) -> Iterator[int]:
    """Token ids drawn one after the other, each yielded as soon as it is known.

    Args:
        model: gives the next-token distribution.
        prompt: token ids, (T,), at least one.
        settings: how to draw.
        context: most tokens the model reads; older ones are dropped as the text grows.

    Raises:
        DataError: an empty prompt, or one longer than the context.
    """
    if prompt.size == 0:
        raise DataError("the prompt has no tokens: give some text")
    if prompt.size > context:
        raise DataError(
            f"the prompt has {prompt.size} tokens and the model reads {context}: shorten the "
            "prompt, or train with a larger data.eval_context"
        )
    tokens = [int(token) for token in prompt]
    for position in range(settings.max_tokens):
        window = torch.tensor([tokens[-context:]])
        with torch.no_grad():
            latent_seed = _stream_seed(settings.seed, position)
            log_probs = model.next_token_log_probs(window, settings.latent, latent_seed)
        probabilities = next_token_probabilities(log_probs[0].numpy(), settings)
        tokens.append(_draw(probabilities, settings.seed, position))
        yield tokens[-1]


def generate_text(
    model: NextTokenModel,
    tokenizer: TextTokenizer,
    prompt: str,
    settings: SamplingSettings,
    context: int,
) -> Iterator[str]:
    """The continuation of a prompt, in pieces that are complete characters.

    An empty prompt starts after a line end. Arguments and errors as `generate_ids`.
    """
    ids = tokenizer.encode(prompt)
    if ids.size == 0:
        ids = np.array([tokenizer.start_id], ids.dtype)
    # Decoding what is written so far as a whole lets a character span tokens, and lets a tokenizer
    # decide about spaces; the prompt is part of it for the same reason.
    written = [int(token) for token in ids]
    shown = tokenizer.decode(written)
    for token in generate_ids(model, ids, settings, context):
        written.append(token)
        text = tokenizer.decode(written)
        if not text.endswith(_INCOMPLETE):
            yield text[len(shown) :]
            shown = text
    if rest := tokenizer.decode(written)[len(shown) :]:
        yield rest
