"""Write texts token by token, one or many side by side, from a cache where a family has one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.utils.rnn import pad_sequence

from ebm_wgpu.config import Latent
from ebm_wgpu.generation.prompts import check_prompt, prompt_ids
from ebm_wgpu.generation.sampling import (
    SamplingSettings,
    draw_token,
    latent_seed,
    next_token_probabilities,
)
from ebm_wgpu.generation.text_stream import TextStream
from ebm_wgpu.text.tokenizer_base import TextTokenizer
from ebm_wgpu.training.placement import place_of


class NextTokenModel(Protocol):
    """What generation asks of a model family."""

    def next_token_log_probs(self, tokens: torch.Tensor, latent: Latent, seed: int) -> torch.Tensor:
        """log p(next token | tokens), (B, V), for tokens (B, T); `seed` drives latent draws."""
        ...


@runtime_checkable
class CachedModel(NextTokenModel, Protocol):
    """A family that keeps what it has computed of a text while the text grows."""

    def start_cache(self, rows: int) -> Any:
        """An empty cache for `rows` texts; its `select(rows)` is one of some of them."""

    def step(
        self,
        tokens: torch.Tensor,
        cache: Any,
        lengths: torch.Tensor | None = None,
        latent: Latent = "mean",
        seed: int = 0,
    ) -> torch.Tensor:
        """`next_token_log_probs` of all that was read, (B, V), after reading tokens (B, S) too.

        Of row b the first lengths[b] count.
        """


class WrittenToken(NamedTuple):
    """A token of one of several texts.

    Attributes:
        text: which, counted from 0.
        token: its id.
        energy: -log p(token | text so far) in nats, as the model predicts it: before repetition
            penalty, temperature and truncation.
    """

    text: int
    token: int
    energy: float


class TokenWriter:
    """Writes several texts at once; each gets the tokens that it gets alone.

    Texts of different lengths share one pass where the family has a cache, which knows each row's
    length and never looks at padding; without a cache, texts of equal length share one. Latents
    that are drawn belong to a text, so that with those each text has passes of its own.
    """

    def __init__(
        self,
        model: NextTokenModel,
        prompts: Sequence[npt.NDArray[np.integer]],
        settings: SamplingSettings,
        context: int,
        seeds: Sequence[int] | None = None,
    ) -> None:
        """Texts to go on from.

        Args:
            model: gives the next-token distributions.
            prompts: token ids of each text, (T,) with T from 1 to `context`.
            settings: how to draw.
            context: most tokens the model reads; older ones are dropped as a text grows.
            seeds: of each text; settings.seed for all unless given.

        Raises:
            DataError: an empty prompt, or one longer than the context.
        """
        for prompt in prompts:
            check_prompt(prompt, context)
        self._settings = settings
        self._texts = [[int(token) for token in prompt] for prompt in prompts]
        self._seen = [set(text) for text in self._texts]
        self._seeds = [settings.seed] * len(prompts) if seeds is None else list(seeds)
        self._going = list(range(len(prompts)))
        self._position = 0
        apart = settings.latent != "mean"
        groups = [[text] for text in self._going] if apart else [self._going]
        self._readers = [_Reader(model, settings.latent, context, group) for group in groups]

    @property
    def going(self) -> tuple[int, ...]:
        """The texts that have not ended."""
        return tuple(self._going)

    def end(self, text: int) -> None:
        """Write no more of a text."""
        self._going.remove(text)

    def write(self) -> list[WrittenToken]:
        """The next token of each text that goes on; a text ends by itself at max_tokens."""
        settings, written = self._settings, []
        for reader in self._readers:
            texts = {text: self._texts[text] for text in reader.texts if text in self._going}
            if not texts:
                continue
            seed = latent_seed(settings, self._seeds[reader.texts[0]], self._position)
            for text, log_probs in reader.log_probs(texts, seed).items():
                probabilities = next_token_probabilities(log_probs, settings, self._seen[text])
                token = draw_token(probabilities, self._seeds[text], self._position)
                written.append(WrittenToken(text, token, -float(log_probs[token])))
        for text, token, _ in written:
            self._texts[text].append(token)
            self._seen[text].add(token)
        self._position += 1
        if self._position == settings.max_tokens:
            self._going = []
        return sorted(written)


class _Reader:
    """Next-token distributions of growing texts, from a cache as far as there is one.

    Once a text is longer than the context the window slides: each of its tokens then has another
    position and fewer before it, so that nothing cached would be right.
    """

    def __init__(
        self, model: NextTokenModel, latent: Latent, context: int, texts: Sequence[int]
    ) -> None:
        self.texts = tuple(texts)
        self._model, self._latent, self._context = model, latent, context
        self._place = place_of(model)
        self._cached = model if isinstance(model, CachedModel) else None
        self._cache = None if self._cached is None else self._cached.start_cache(len(texts))
        self._rows = [] if self._cached is None else list(texts)
        self._read = dict.fromkeys(texts, 0)

    @torch.no_grad()
    def log_probs(
        self, texts: Mapping[int, Sequence[int]], seed: int
    ) -> dict[int, npt.NDArray[np.floating]]:
        """log p(next token | text), (V,), of each text; it begins with what it was before.

        A text that is left out once cannot come again.
        """
        found: dict[int, npt.NDArray[np.floating]] = {}
        self._keep([text for text in self._rows if len(texts.get(text, ())) in self._room])
        if self._cached is not None and self._rows:
            new = [torch.tensor(texts[text][self._read[text] :]) for text in self._rows]
            self._read |= {text: len(texts[text]) for text in self._rows}
            log_probs = self._cached.step(
                pad_sequence(new, batch_first=True).to(self._place),
                self._cache,
                torch.tensor([len(tokens) for tokens in new]).to(self._place),
                latent=self._latent,
                seed=seed,
            )
            found |= dict(zip(self._rows, log_probs.cpu().numpy(), strict=True))
        by_length: dict[int, list[int]] = defaultdict(list)
        for text in texts:
            if text not in found:
                by_length[min(len(texts[text]), self._context)].append(text)
        for length, members in by_length.items():
            windows = torch.tensor([texts[text][-length:] for text in members]).to(self._place)
            log_probs = self._model.next_token_log_probs(windows, self._latent, seed)
            found |= dict(zip(members, log_probs.cpu().numpy(), strict=True))
        return found

    @property
    def _room(self) -> range:
        return range(1, self._context + 1)

    def _keep(self, rows: list[int]) -> None:
        """Drop the cached texts that are not among `rows`."""
        if len(rows) < len(self._rows):
            if rows and self._cache is not None:
                places = torch.tensor([self._rows.index(text) for text in rows])
                self._cache = self._cache.select(places.to(self._place))
            self._rows = rows


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
    writer = TokenWriter(model, [prompt], settings, context)
    while writer.going:
        yield writer.write()[0].token


def generate_text(
    model: NextTokenModel,
    tokenizer: TextTokenizer,
    prompt: str,
    settings: SamplingSettings,
    context: int,
    stop: Sequence[str] = (),
) -> Iterator[str]:
    """The continuation of a prompt, in pieces that are complete characters.

    An empty prompt starts after a line end. The text ends before the first of the strings `stop`.
    Other arguments and errors as `generate_ids`.
    """
    ids = prompt_ids(tokenizer, prompt)
    stream = TextStream(tokenizer, ids.tolist(), stop)
    for token in generate_ids(model, ids, settings, context):
        if piece := stream.push(token):
            yield piece
        if stream.ended:
            return
    if rest := stream.finish():
        yield rest
