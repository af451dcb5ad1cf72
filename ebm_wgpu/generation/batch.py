"""Many texts after many prompts: side by side, several to a prompt, the best of several."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch

from ebm_wgpu.errors import ConfigError
from ebm_wgpu.generation.prompts import Prompt, check_prompt, prompt_ids
from ebm_wgpu.generation.sampling import SamplingSettings
from ebm_wgpu.generation.text_stream import TextStream
from ebm_wgpu.generation.writer import NextTokenModel, TokenWriter
from ebm_wgpu.text.tokenizer_base import TextTokenizer
from ebm_wgpu.training.placement import EnergyModel, host_energies

_WINDOWS = 16

OnPiece = Callable[[str], None]

OnTokens = Callable[[int], None]
"""Is told how many tokens were drawn since it was last told, those of discarded texts too."""


@dataclass(frozen=True)
class GenerationPlan:
    """What is written after each prompt.

    Attributes:
        num_samples: texts a prompt.
        best_of: whole continuations of which a text is the one of least `GeneratedText.energy`.
        stop: strings before the first of which a text ends.
        energies: keep the energies of each token.
        batch_size: continuations written side by side.
    """

    num_samples: int = 1
    best_of: int = 1
    stop: tuple[str, ...] = ()
    energies: bool = False
    batch_size: int = 16

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: a value out of range.
        """
        for name in ("num_samples", "best_of", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1")

    def check(self, settings: SamplingSettings) -> None:
        """Check that `settings` let several continuations of a prompt differ.

        Raises:
            ConfigError: they are all the same, or their seeds run out of range.
        """
        count = self.num_samples * self.best_of
        if count > 1 and settings.temperature == 0 and settings.latent == "mean":
            raise ConfigError(
                f"temperature=0 writes the same text {count} times: raise temperature, or use "
                "num_samples=1 and best_of=1"
            )
        if settings.seed + count > 2**63:
            raise ConfigError(
                f"seed={settings.seed} leaves no room for {count} seeds below 2^63: lower it"
            )


class WritingModel(NextTokenModel, EnergyModel, Protocol):
    """What writing texts asks of a model."""


class TokenEnergies(NamedTuple):
    """Energies of the tokens of a text, nats.

    Attributes:
        tokens: -log p(token | text before) as the model predicts it.
        model: the family's own energy of each (`LanguageModel.target_energies`), if it has one.
            Training leaves it free by a constant of each context: it does not compare texts.
    """

    tokens: tuple[float, ...]
    model: tuple[float, ...] | None


@dataclass(frozen=True)
class GeneratedText:
    """A text that was written.

    Attributes:
        prompt: what it goes on from.
        text: what was written, without the stop string.
        tokens: all that were drawn, those of a stop string too.
        reason: what ended it: max_tokens ("length") or a stop string ("stop").
        seed: with this seed and without best_of the prompt alone gives the same text.
        seconds: from the start of its batch to its last token.
        energy: mean over `tokens` of E + log Z = -log p(token | text before), nats, as the model
            predicts them, before repetition penalty, temperature and truncation. The normaliser
            makes it comparable between contexts, the mean between lengths: `best_of` ranks by it.
        energies: of each of `tokens`, if they were asked for.
    """

    prompt: str
    text: str
    tokens: tuple[int, ...]
    reason: Literal["length", "stop"]
    seed: int
    seconds: float
    energy: float
    energies: TokenEnergies | None = None

    @property
    def whole(self) -> str:
        """Prompt and text."""
        return self.prompt + self.text

    @property
    def tokens_per_second(self) -> float:
        """Tokens drawn a second, reading the prompt included."""
        return len(self.tokens) / self.seconds


@dataclass
class _Continuation:
    """A text on its way."""

    prompt: Prompt
    ids: npt.NDArray[np.integer]
    seed: int
    stream: TextStream
    pieces: list[str] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    energies: list[float] = field(default_factory=list)
    seconds: float = 0.0


def generate_texts(
    model: WritingModel,
    tokenizer: TextTokenizer,
    prompts: Sequence[Prompt],
    settings: SamplingSettings,
    context: int,
    plan: GenerationPlan,
    on_piece: OnPiece | None = None,
    on_tokens: OnTokens | None = None,
) -> Iterator[GeneratedText]:
    """Texts after prompts, in the order of the prompts, each as soon as its batch is done.

    Text n of a prompt is the continuation with seed settings.seed + n; with best_of, the best of
    best_of seeds that follow each other. A prompt gets the same texts whatever is written beside
    it.

    Args:
        model: writes.
        tokenizer: of the model.
        prompts: texts to go on from; an empty one starts after a line end.
        settings: how to draw.
        context: most tokens the model reads.
        plan: how many texts, and what ends them.
        on_piece: told each piece of the first text as soon as it is certain; only where the plan
            makes one text of one prompt.
        on_tokens: told of all tokens as they are drawn.

    Raises:
        ConfigError: a plan that `settings` do not allow, or an empty stop string.
        DataError: a prompt longer than the context.
    """
    plan.check(settings)
    jobs = []
    for prompt in prompts:
        ids = prompt_ids(tokenizer, prompt.text)
        check_prompt(ids, context, prompt.name)
        for offset in range(plan.num_samples * plan.best_of):
            stream = TextStream(tokenizer, ids.tolist(), plan.stop)
            jobs.append(_Continuation(prompt, ids, settings.seed + offset, stream))
    alone = on_piece if len(jobs) == 1 else None
    return _generate(model, jobs, settings, context, plan, alone, on_tokens)


def _generate(
    model: WritingModel,
    jobs: Sequence[_Continuation],
    settings: SamplingSettings,
    context: int,
    plan: GenerationPlan,
    on_piece: OnPiece | None,
    on_tokens: OnTokens | None,
) -> Iterator[GeneratedText]:
    candidates: list[GeneratedText] = []
    for start in range(0, len(jobs), plan.batch_size):
        batch = jobs[start : start + plan.batch_size]
        _write(model, batch, settings, context, on_piece, on_tokens)
        for job in batch:
            candidates.append(_finished(model, job, context, plan))
            if len(candidates) == plan.best_of:
                yield min(candidates, key=lambda text: text.energy)
                candidates = []


def _write(
    model: WritingModel,
    batch: Sequence[_Continuation],
    settings: SamplingSettings,
    context: int,
    on_piece: OnPiece | None,
    on_tokens: OnTokens | None,
) -> None:
    begin = time.perf_counter()
    seeds = [job.seed for job in batch]
    writer = TokenWriter(model, [job.ids for job in batch], settings, context, seeds)
    while writer.going:
        written = writer.write()
        if on_tokens is not None:
            on_tokens(len(written))
        for number, token, energy in written:
            job = batch[number]
            job.tokens.append(token)
            job.energies.append(energy)
            job.seconds = time.perf_counter() - begin
            _show(job, job.stream.push(token), on_piece)
            if job.stream.ended and number in writer.going:
                writer.end(number)
    for job in batch:
        _show(job, job.stream.finish(), on_piece)


def _show(job: _Continuation, piece: str, on_piece: OnPiece | None) -> None:
    if piece:
        job.pieces.append(piece)
        if on_piece is not None:
            on_piece(piece)


def _finished(
    model: WritingModel, job: _Continuation, context: int, plan: GenerationPlan
) -> GeneratedText:
    energies = None
    if plan.energies:
        own = model_energies(model, [*job.ids.tolist(), *job.tokens], job.ids.size, context)
        energies = TokenEnergies(tuple(job.energies), own)
    return GeneratedText(
        prompt=job.prompt.text,
        text="".join(job.pieces),
        tokens=tuple(job.tokens),
        reason="stop" if job.stream.ended else "length",
        seed=job.seed,
        seconds=job.seconds,
        energy=sum(job.energies) / len(job.energies),
        energies=energies,
    )


@torch.no_grad()
def model_energies(
    model: EnergyModel, tokens: Sequence[int], start: int, context: int
) -> tuple[float, ...] | None:
    """The family's own energy of tokens[start:], each given up to `context` tokens before it.

    Args:
        model: whose energy.
        tokens: of a text, of which the first is always given.
        start: the first token to look at, from 1 to `context`.
        context: most tokens the model reads.

    Returns:
        Energies in nats, (len(tokens) - start,); nothing for a family without an energy.
    """
    text = torch.tensor([list(tokens)])
    first = host_energies(model, text[:, :-1][:, :context], text[:, 1:][:, :context])
    if first is None:
        return None
    energies = first[0, start - 1 :].tolist()
    if text.shape[1] > context + 1:
        # Later tokens were predicted from windows that slid, one for each.
        for windows in text[0, 1:].unfold(0, context + 1, 1).split(_WINDOWS):
            slid = host_energies(model, windows[:, :-1], windows[:, 1:])
            assert slid is not None
            energies += slid[:, -1].tolist()
    return tuple(energies)
