"""States of a text: what of a model family a memory can hold and compositions can be made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebm_wgpu.embedding import TextEmbedder
from ebm_wgpu.errors import ConfigError
from ebm_wgpu.models.base import LanguageModel
from ebm_wgpu.models.nano_ebm import NanoEBM
from ebm_wgpu.models.recall import NextReading, Reader, Reading
from ebm_wgpu.models.splat_lm import SplatLM
from ebm_wgpu.sphere import FloatArray, projx
from ebm_wgpu.text.tokenizer_base import TextTokenizer
from ebm_wgpu.training.placement import host_reading, place_of

_BATCH = 64
"""Texts read at a time."""


@dataclass(frozen=True, eq=False)
class StateReader:
    """A `Reader` made of a model whose states are known: keys and queries are both the states.

    Attributes:
        model: scores tokens, with latent=mean.
        states: from tokens (B, T) to what the model makes of each of them, (B, T, d).
    """

    model: LanguageModel
    states: Callable[[Tensor], Tensor]

    def read(self, tokens: Tensor, targets: Tensor, wanted: Tensor | None = None) -> Reading:
        """See `Reader`; all positions are scored."""
        place = place_of(self.model)
        tokens, targets = tokens.to(place), targets.to(place)
        log_p = self.model.token_log_probs(tokens, targets, latent="mean")
        states = self.states(tokens)
        return Reading(log_p, states, states, log_p)

    @torch.no_grad()
    def read_next(self, tokens: Tensor) -> NextReading:
        """See `Reader`."""
        tokens = tokens.to(place_of(self.model))
        log_p = self.model.next_token_log_probs(tokens, latent="mean")
        state = self.states(tokens)[:, -1]
        return NextReading(log_p, state, state, log_p)


def reader_of(model: LanguageModel) -> Reader | None:
    """How the states of `model` are read; none for a family that keeps none.

    Models over a transformer have its hidden states, `SplatLM` the tilt h(c) of its splats.
    """
    if isinstance(model, NanoEBM):
        return StateReader(model, model.backbone)
    if isinstance(model, SplatLM):
        return StateReader(model, lambda tokens: model.features(tokens).h)
    return model if isinstance(model, Reader) else None


@dataclass(frozen=True, eq=False)
class PlacedTexts:
    """Texts as points of the sphere.

    Attributes:
        directions: (n, d) unit rows.
        base: (d,) unit, the middle from which they are seen.
    """

    directions: FloatArray
    base: FloatArray


@torch.no_grad()
def place_texts(
    model: LanguageModel, tokenizer: TextTokenizer, texts: Sequence[str], context: int
) -> PlacedTexts:
    """Where a model puts texts, each read from the start of a line to its end.

    `SplatLM` has the directions of its mean latents E[x|c], seen from its own mean without context
    (`TextEmbedder`); other models that can be read have the directions of the keys of their last
    states, seen from the mean direction of all the texts.

    Args:
        model: reads.
        tokenizer: its tokenizer.
        texts: n of them, none empty.
        context: most tokens the model reads; of longer texts the last ones.

    Raises:
        ConfigError: a model of a family that keeps no states.
    """
    if isinstance(model, SplatLM):
        embedder = TextEmbedder(model, tokenizer, model.device, context)
        directions = embedder.embed(texts).direction
        return PlacedTexts(projx(np.asarray(directions, np.float64)), embedder.base_point())
    reader = reader_of(model)
    if reader is None:
        raise ConfigError(f"{type(model).__name__} keeps no state of a text: use another family")
    start = np.array([tokenizer.start_id])
    ids = [np.concatenate([start, tokenizer.encode(text)])[-context:] for text in texts]
    rows = [_last_keys(reader, ids[first : first + _BATCH]) for first in range(0, len(ids), _BATCH)]
    points = projx(np.concatenate(rows))
    return PlacedTexts(points, projx(points.mean(0)))


def _last_keys(reader: Reader, ids: Sequence[NDArray[np.integer]]) -> FloatArray:
    """The key of the last state of each text, (B, d)."""
    tokens = torch.zeros(len(ids), max(map(len, ids)), dtype=torch.int64)
    for row, text in zip(tokens, ids, strict=True):
        # What stands after the end of a text changes no state before it.
        row[: len(text)] = torch.from_numpy(text.astype(np.int64))
    nothing = torch.zeros_like(tokens)
    keys = host_reading(reader, tokens, nothing, nothing.bool()).keys
    last = torch.tensor([len(text) - 1 for text in ids])
    return np.asarray(keys[torch.arange(len(ids)), last].double().numpy())
