"""Writing with an online memory: what was read and written stays in reach, however long ago."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ebm_wgpu.config import Config, Latent
from ebm_wgpu.errors import ConfigError
from ebm_wgpu.generation.batch import model_energies
from ebm_wgpu.models.base import LanguageModel
from ebm_wgpu.models.recall import Reader, mix
from ebm_wgpu.online_memory import OnlineSettings, TextMemory, fit_online, memory_text, read_parts
from ebm_wgpu.readers import reader_of
from ebm_wgpu.text.datasets import TokenStream
from ebm_wgpu.training.loading import LoadedRun
from ebm_wgpu.training.placement import host_next

ENDLESS = sys.maxsize
"""The context of a model that remembers, for generation: no token is dropped as a text grows."""


@dataclass
class _Text:
    """A text that is written: its tokens, what is remembered of them, and the last state's key."""

    tokens: list[int]
    memory: TextMemory
    key: Tensor | None = None


class RememberedTexts:
    """The cache of texts that grow side by side, each with a memory of its own."""

    def __init__(self, texts: Sequence[_Text]) -> None:
        """Hold texts; `RememberingModel.start_cache` makes empty ones."""
        self.texts = list(texts)

    def select(self, rows: Tensor) -> RememberedTexts:
        """A copy with the given rows (n,) int64, in that order; rows may repeat or be left out."""
        chosen = [self.texts[row] for row in rows.tolist()]
        return RememberedTexts(
            [replace(text, tokens=[*text.tokens], memory=text.memory.copy()) for text in chosen]
        )


class RememberingModel:
    """A model with an online memory, as generation uses it: a `CachedModel` without a context.

        p(w|text) = (1 - g) p_model(w | last tokens) + g p_memory(w | state),

    where the memory holds the last states of the text as splats whose id is the token that
    followed (`RecallGate`). The model itself reads data.eval_context tokens, the memory has what
    came before as well. Probabilities are those of `evaluation.online.online_log_probs`.
    """

    def __init__(
        self, model: LanguageModel, reader: Reader, settings: OnlineSettings, config: Config
    ) -> None:
        """A memory that is empty until `read`.

        Args:
            model: what writes.
            reader: the same model, as `reader_of` gives it.
            settings: how it remembers, of `fit_online`.
            config: of its run; sections data, train and memory.
        """
        self._model, self._reader = model, reader
        self._settings, self._config = settings, config
        self._memory = TextMemory(settings.centre, settings.capacity, config)

    def read(self, stream: TokenStream, start_id: int) -> None:
        """Remember a text, which is there before every text that is written from now on.

        Args:
            stream: the text; of a long one the end is read, all that the memory holds.
            start_id: the id before its first token.
        """
        unread = len(stream) - self._settings.capacity - self._config.data.eval_context
        if unread > 0:
            start_id = int(stream.tokens[unread - 1])
            stream = replace(stream, tokens=stream.tokens[unread:])
        for part in read_parts(self._reader, stream, self._config, start_id):
            self._memory.remember(part.keys, part.targets)

    def start_cache(self, rows: int) -> RememberedTexts:
        """Empty texts that remember what was read."""
        return RememberedTexts([_Text([], self._memory.copy()) for _ in range(rows)])

    @torch.no_grad()
    def step(
        self,
        tokens: Tensor,
        cache: RememberedTexts,
        lengths: Tensor | None = None,
        latent: Latent = "mean",
        seed: int = 0,
    ) -> Tensor:
        """log p(next token | all read so far), (B, V), after reading on; see `CachedModel`.

        Args:
            tokens: new tokens (B, S); shorter rows are padded at the end with any ids.
            cache: what was read before; extended in place.
            lengths: real tokens of each row (B,), from 1 to S; all S unless given.
            latent: "mean".
            seed: changes nothing.

        Raises:
            ConfigError: another latent.
        """
        _check_latent(latent)
        counts = [tokens.shape[1]] * len(tokens) if lengths is None else lengths.tolist()
        rows = zip(cache.texts, tokens.tolist(), counts, strict=True)
        return torch.cat([self._read_on(text, new[:count]) for text, new, count in rows])

    def next_token_log_probs(
        self, tokens: Tensor, latent: Latent = "mean", seed: int = 0
    ) -> Tensor:
        """log p(next token | tokens), (B, V), for tokens (B, T) of texts that begin with them."""
        return self.step(tokens, self.start_cache(len(tokens)), latent=latent, seed=seed)

    def target_energies(self, tokens: Tensor, targets: Tensor) -> Tensor | None:
        """The model's own energies, (B, T), without a memory, which has none comparable to them."""
        texts = torch.cat([tokens, targets[:, -1:]], dim=1).tolist()
        context = self._config.data.eval_context
        energies = [model_energies(self._model, text, 1, context) for text in texts]
        return None if None in energies else torch.tensor(energies)

    def _read_on(self, text: _Text, new: Sequence[int]) -> Tensor:
        """What follows a text, (1, V), after new tokens."""
        first, *rest = new
        if text.key is not None:
            text.memory.remember(text.key, torch.tensor([first]))
        text.tokens.append(first)
        if len(text.tokens) == 1 and rest:
            after = TokenStream(np.array(rest, np.int32), self._model.vocab_size, len(rest))
            for part in read_parts(self._reader, after, self._config, first):
                text.memory.remember(part.keys, part.targets)
            text.tokens += rest
            rest = []
        log_p = self._predict(text)
        return self._read_on(text, rest) if rest else log_p

    def _predict(self, text: _Text) -> Tensor:
        window = torch.tensor([text.tokens[-self._config.data.eval_context :]])
        reading = host_next(self._reader, window)
        text.key = reading.key.float()
        base = reading.alone if self._settings.supersede else reading.log_p
        if len(text.memory) == 0:
            return base
        found = text.memory.look(reading.query.float())
        return mix(base, self._settings.gate.every_token(found, self._model.vocab_size))


def _check_latent(latent: Latent) -> None:
    if latent != "mean":
        raise ConfigError(
            f"sampler.latent={latent} cannot be drawn beside an online memory: use --latent mean, "
            "or leave out --memory and --read"
        )


def remembering(
    run: LoadedRun,
    capacity: int | None = None,
    first: TokenStream | None = None,
    latent: Latent = "mean",
) -> RememberingModel:
    """The model of a run with a memory, fitted on text of its corpus that training has not seen.

    Args:
        run: the run.
        capacity: states remembered; memory.capacity unless given.
        first: a text that it reads before it writes.
        latent: what it will be asked to write with.

    Raises:
        ConfigError: a capacity below 1, a family that keeps no states, or a latent that is drawn.
        DataError: the text to fit the memory on cannot be read, or is empty.
    """
    _check_latent(latent)
    config, start_id = run.config, run.tokenizer.start_id
    reader = reader_of(run.model)
    if reader is None:
        raise ConfigError(
            f"model.family={config.model.family} keeps no state of a text to remember: leave out "
            "--memory and --read, or use another family"
        )
    states = config.memory.capacity if capacity is None else capacity
    if states < 1:
        raise ConfigError(f"--memory {states}: remember at least 1 state, or leave it out")
    # Whatever the model has not been trained on may be looked at here: nothing is scored.
    heldout = memory_text(config, run.tokenizer, "test")
    assert heldout is not None
    settings = fit_online(reader, heldout, config, start_id=start_id, capacity=states)
    model = RememberingModel(run.model, reader, settings, config)
    if first is not None:
        model.read(first, start_id)
    return model
