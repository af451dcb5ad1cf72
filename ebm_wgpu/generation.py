"""Write text token by token: truncated distributions, seeded draws, streamed decoding."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch

from ebm_wgpu.config import Latent
from ebm_wgpu.errors import ConfigError, DataError
from ebm_wgpu.text.tokenizer_base import TextTokenizer

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


class NextTokenModel(Protocol):
    """What generation asks of a model family."""

    def next_token_log_probs(self, tokens: torch.Tensor, latent: Latent, seed: int) -> torch.Tensor:
        """log p(next token | tokens), (B, V), for tokens (B, T); `seed` drives latent draws."""
        ...


@runtime_checkable
class CachedModel(NextTokenModel, Protocol):
    """A family that keeps what it has computed of a text while the text grows."""

    def start_cache(self, rows: int) -> Any:
        """An empty cache for `rows` texts."""

    def step(
        self,
        tokens: torch.Tensor,
        cache: Any,
        lengths: torch.Tensor | None = None,
        latent: Latent = "mean",
        seed: int = 0,
    ) -> torch.Tensor:
        """`next_token_log_probs` of all that was read, (B, V), after reading tokens (B, S) too."""


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
    written = set(tokens)
    reader = _Reader(model, settings, context)
    for position in range(settings.max_tokens):
        log_probs = reader.log_probs(tokens, _stream_seed(settings.seed, position))
        probabilities = next_token_probabilities(log_probs, settings, written)
        tokens.append(_draw(probabilities, settings.seed, position))
        written.add(tokens[-1])
        yield tokens[-1]


class _Reader:
    """Next-token distributions of a growing text, from a cache as far as there is one.

    Once the text is longer than the context the window slides: each of its tokens then has another
    position and fewer before it, so that nothing cached would be right.
    """

    def __init__(self, model: NextTokenModel, settings: SamplingSettings, context: int) -> None:
        self._model, self._latent, self._context = model, settings.latent, context
        self._cached = model if isinstance(model, CachedModel) else None
        self._cache = None if self._cached is None else self._cached.start_cache(1)
        self._read = 0

    @torch.no_grad()
    def log_probs(self, tokens: list[int], seed: int) -> npt.NDArray[np.floating]:
        """log p(next token | tokens), (V,); `tokens` begins with those of the call before."""
        if self._cached is not None and len(tokens) <= self._context:
            new = torch.tensor([tokens[self._read :]])
            self._read = len(tokens)
            return self._cached.step(new, self._cache, latent=self._latent, seed=seed)[0].numpy()
        window = torch.tensor([tokens[-self._context :]])
        return self._model.next_token_log_probs(window, self._latent, seed)[0].numpy()


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
