"""Online memory of a model: how it is fitted, and what it holds of a text that is read."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ebm_wgpu.config import Config
from ebm_wgpu.errors import DataError
from ebm_wgpu.kernels import open_device
from ebm_wgpu.models.recall import Neighbours, Reader, RecallGate
from ebm_wgpu.splats.memory import OnlineMemory, Recollection
from ebm_wgpu.splats.search import make_search
from ebm_wgpu.text.corpora import load_corpus
from ebm_wgpu.text.datasets import TokenStream, evaluation_batches
from ebm_wgpu.text.tokenizer_base import TextTokenizer
from ebm_wgpu.training.placement import host_reading
from ebm_wgpu.training.run_data import RunData

_BLOCK = 256
"""Positions that are compared with the memory at a time."""
_FIT_POSITIONS = 1536
"""Positions by which the gate is chosen, spread over the held-out text."""


class TextPart(NamedTuple):
    """Consecutive positions of a text: S scores and targets, keys and queries (S, d).

    As in `ebm_wgpu.models.recall.Reading`.
    """

    log_p: Tensor
    targets: Tensor
    keys: Tensor
    queries: Tensor
    alone: Tensor

    def base(self, supersede: bool) -> Tensor:
        """What the memory is mixed with."""
        return self.alone if supersede else self.log_p


@dataclass(frozen=True, eq=False)
class OnlineSettings:
    """How a model remembers: fitted on text that it was not trained on, by `fit_online`.

    Attributes:
        capacity: most states remembered.
        centre: mean of the keys, (d,), which directions are taken from.
        gate: length of the tilt, decay with age, and the gate.
        supersede: whether the memory takes the place of the model's own splats of the context,
            whose states it holds as well, instead of adding to them; the better on that text.
        gain: of the memory on the text it was fitted to, nats a token.
        fitted_on: name of that text.
        fitted_tokens: its tokens.
    """

    capacity: int
    centre: Tensor
    gate: RecallGate
    supersede: bool
    gain: float
    fitted_on: str = ""
    fitted_tokens: int = 0


class TextMemory:
    """What a model remembers of one text: its states as directions from a centre.

    It searches if its capacity is above memory.compared.
    """

    def __init__(self, centre: Tensor, capacity: int, config: Config) -> None:
        """An empty memory.

        Args:
            centre: (d,), what directions are taken from.
            capacity: most states.
            config: its section memory.
        """
        self._centre = centre
        if compares_all(capacity, config):
            self._held = OnlineMemory(len(centre), capacity)
        else:
            options = config.memory
            search = partial(make_search, options.search, open_device("numba"))
            self._held = OnlineMemory(len(centre), capacity, search, options.n_neighbours)

    def __len__(self) -> int:
        return len(self._held)

    def copy(self) -> TextMemory:
        """One that holds the same and goes on by itself."""
        other = copy(self)
        other._held = self._held.copy()
        return other

    def width(self, part: int) -> int:
        """Most splats that positions of a part of the text, `part` long, see."""
        return self._held.width(part)

    def recall(self, part: TextPart) -> Neighbours:
        """What the positions of a part see; then their states are remembered."""
        queries, keys = self._directions(part.queries), self._directions(part.keys)
        return _neighbours(self._held.recall(queries, keys, part.targets.numpy()))

    def look(self, query: Tensor) -> Neighbours:
        """What a position (1, d) sees that comes after all that is remembered."""
        return _neighbours(self._held.look(self._directions(query)))

    def remember(self, keys: Tensor, following: Tensor) -> None:
        """Take in states (S, d) and the tokens (S,) that followed each."""
        self._held.remember(self._directions(keys), following.numpy())

    def _directions(self, states: Tensor) -> NDArray[np.float32]:
        return F.normalize(states - self._centre, dim=-1).numpy()


def compares_all(capacity: int, config: Config) -> bool:
    """Whether a memory of that capacity compares all its states instead of searching."""
    return capacity <= config.memory.compared


def memory_text(config: Config, tokenizer: TextTokenizer, split: str) -> TokenStream | None:
    """The text to fit a memory on before it is scored on `split`; training has not seen it.

    It is what data.heldout_tokens kept of the training text or, for the test text of a run that
    kept nothing, the validation text; otherwise there is none.

    Args:
        config: of the run.
        tokenizer: of the run.
        split: "valid" or "test".

    Raises:
        DataError: a text that cannot be read.
    """
    data = config.data
    if data.heldout_tokens:
        heldout = RunData.load(config, tokenizer).heldout
        if len(heldout):
            return heldout
    if split != "test":
        return None
    text = load_corpus(data.dataset, "valid", data.data_dir, data.valid_path)
    return TokenStream.from_text(text, tokenizer, f"validation text of {data.dataset}")


@torch.no_grad()
def fit_online(
    model: Reader, heldout: TokenStream, config: Config, *, start_id: int, capacity: int
) -> OnlineSettings:
    """Choose how `model` remembers on text of the training corpus that it was not trained on.

    Args:
        model: what remembers.
        heldout: the text, such as `RunData.heldout`.
        config: gives data.eval_context and data.eval_stride, and the tokens of a batch.
        start_id: the id before the first token.
        capacity: most states to remember.

    Raises:
        DataError: the text is empty.
    """
    if len(heldout) == 0:
        raise DataError(
            "no training text was held out to fit the memory on: train with "
            "data.heldout_tokens=32768"
        )
    parts = list(read_parts(model, heldout, config, start_id))
    keys = torch.cat([part.keys for part in parts])
    centre = keys.mean(0)
    memory = TextMemory(centre, capacity, config)
    # Every n-th position, so that the memory is seen empty, filling and full.
    every = max(1, len(keys) // _FIT_POSITIONS)
    log_p, alone, cosines, ages, same = [], [], [], [], []
    for part in parts:
        seen = memory.recall(part)
        rows = slice(None, None, every)
        width = memory.width(_BLOCK)
        log_p.append(part.log_p[rows])
        alone.append(part.alone[rows])
        cosines.append(_left_pad(seen.cosines[rows], width, 0.0))
        ages.append(_left_pad(seen.prior[rows], width, -torch.inf))
        sids = seen.sids.expand(len(part.targets), -1)[rows]
        same.append(_left_pad(sids, width, -1) == part.targets[rows, None])
    found = Neighbours(torch.cat(cosines), torch.cat(ages), torch.cat(same))
    # The ids are replaced by whether they are the target's: each position has a list of its own.
    hits = torch.ones(len(found.cosines), dtype=torch.bool)
    static, fitted = torch.cat(log_p), []
    for supersede, base in ((False, static), (True, torch.cat(alone))):
        if supersede and torch.equal(base, static):
            break
        gate = RecallGate(keys.shape[1], config.model.kappa_init, exponent=0.0)
        gain = gate.fit(base, found, hits) + float((base - static).mean())
        fitted.append(
            OnlineSettings(capacity, centre, gate, supersede, gain, heldout.name, len(heldout))
        )
    return max(fitted, key=lambda settings: settings.gain)


@torch.no_grad()
def read_parts(
    model: Reader, stream: TokenStream, config: Config, start_id: int
) -> Iterator[TextPart]:
    """Scored positions of `stream` in order, at most `_BLOCK` at a time.

    Windows are those of the evaluation: data.eval_context and data.eval_stride, batches as large as
    those of training.
    """
    data, train = config.data, config.train
    batch = max(1, train.batch_size * data.block_size // data.eval_context)
    for window in evaluation_batches(stream, data.eval_context, data.eval_stride, batch, start_id):
        tokens = torch.from_numpy(window.tokens).long()
        scored = torch.from_numpy(window.scored)
        reading = host_reading(model, tokens[:, :-1], tokens[:, 1:], scored)
        found = (
            reading.log_p,
            tokens[:, 1:],
            reading.keys.float(),
            reading.queries.float(),
            reading.alone,
        )
        for values in zip(*(value[scored].split(_BLOCK) for value in found), strict=True):
            yield TextPart(*values)


def _neighbours(found: Recollection) -> Neighbours:
    return Neighbours(
        torch.from_numpy(found.cosines),
        torch.from_numpy(found.log_age),
        torch.from_numpy(found.sids),
    )


def _left_pad(values: Tensor, width: int, fill: float) -> Tensor:
    """`values` (S, K) filled up on the left to (S, width)."""
    return F.pad(values, (width - values.shape[1], 0), value=fill)
