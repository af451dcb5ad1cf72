"""Perplexity of a model that remembers what it has read of the text, beside the static one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ebm_wgpu.config import Config
from ebm_wgpu.errors import DataError
from ebm_wgpu.evaluation import PerplexityReport
from ebm_wgpu.kernels import open_device
from ebm_wgpu.models.recall import Neighbours, Reader, RecallGate, mix
from ebm_wgpu.splats.memory import OnlineMemory
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


class _Part(NamedTuple):
    """Consecutive positions of a text."""

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


@dataclass(frozen=True)
class OnlineReport:
    """Static and online perplexity of one model on one text, never mixed.

    Attributes:
        static: of the model as it is.
        online: with the memory of what it has read.
        settings: capacity, tilt, decay, evidence and offset of the memory, what they were fitted
            on, and the search by which states are found, "none" where all are compared.
    """

    static: PerplexityReport
    online: PerplexityReport
    settings: dict[str, float | str]

    def summary(self) -> dict[str, Any]:
        """All figures as types JSON holds."""
        return {
            "static": self.static.summary(),
            "online": self.online.summary(),
            "settings": self.settings,
        }


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
    parts = list(_parts(model, heldout, config, start_id))
    keys = torch.cat([part.keys for part in parts])
    centre = keys.mean(0)
    memory = _memory(keys.shape[1], capacity, config)
    # Every n-th position, so that the memory is seen empty, filling and full.
    every = max(1, len(keys) // _FIT_POSITIONS)
    log_p, alone, cosines, ages, same = [], [], [], [], []
    for part in parts:
        seen = _recall(memory, part, centre)
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
def evaluate_online(
    model: Reader,
    stream: TokenStream,
    config: Config,
    settings: OnlineSettings,
    *,
    start_id: int,
    n_bytes: int | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> OnlineReport:
    """Static and online perplexity of `model` on `stream`, each token scored once.

    The memory is empty at the start of the text; a position sees states and tokens before it alone.

    Args:
        model: what to score.
        stream: the text.
        config: gives data.eval_context and data.eval_stride, and the tokens of a batch.
        settings: how it remembers.
        start_id: the id before the first token.
        n_bytes: bytes of the text, for bits per byte.
        on_batch: called with the number of tokens scored so far.

    Raises:
        DataError: the text is empty.
    """
    static = online = 0.0
    scored = 0
    for log_p, log_online in online_log_probs(model, stream, config, settings, start_id=start_id):
        static -= float(log_p.double().sum())
        online -= float(log_online.double().sum())
        scored += len(log_p)
        if on_batch is not None:
            on_batch(scored)
    report = PerplexityReport(
        static,
        scored,
        stream.n_words,
        n_bytes,
        config.data.eval_context,
        config.data.eval_stride,
        "mean",
        1,
        standard_error=0.0,
        nll_bias=0.0,
    )
    gate = settings.gate
    return OnlineReport(
        static=report,
        online=replace(report, nll_sum=online, memory="online"),
        settings={
            "capacity": settings.capacity,
            "search": "none" if _compares_all(settings.capacity, config) else config.memory.search,
            "tilt_length": float(gate.log_length.exp()),
            "age_exponent": float(gate.exponent),
            "evidence": float(gate.evidence),
            "offset": float(gate.offset),
            "supersede": settings.supersede,
            "gain_on_heldout": settings.gain,
            "fitted_on": settings.fitted_on,
            "fitted_tokens": settings.fitted_tokens,
        },
    )


def score_online(
    model: Reader,
    heldout: TokenStream,
    stream: TokenStream,
    config: Config,
    *,
    start_id: int,
    capacity: int,
    n_bytes: int | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> OnlineReport:
    """`evaluate_online` on `stream` with the settings that `fit_online` chooses on `heldout`.

    Arguments and errors as theirs.
    """
    settings = fit_online(model, heldout, config, start_id=start_id, capacity=capacity)
    return evaluate_online(
        model, stream, config, settings, start_id=start_id, n_bytes=n_bytes, on_batch=on_batch
    )


@torch.no_grad()
def online_log_probs(
    model: Reader, stream: TokenStream, config: Config, settings: OnlineSettings, *, start_id: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """log p of the tokens of `stream` in order, without and with the memory, in parts (S,) each."""
    memory = _memory(len(settings.centre), settings.capacity, config)
    for part in _parts(model, stream, config, start_id):
        found = _recall(memory, part, settings.centre)
        base = part.base(settings.supersede)
        yield part.log_p, mix(base, settings.gate(found, part.targets))


def _parts(model: Reader, stream: TokenStream, config: Config, start_id: int) -> Iterator[_Part]:
    """Scored positions of `stream` in order, at most `_BLOCK` at a time."""
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
            yield _Part(*values)


def _memory(dimension: int, capacity: int, config: Config) -> OnlineMemory:
    """An empty memory, which searches if it is large."""
    if _compares_all(capacity, config):
        return OnlineMemory(dimension, capacity)
    options = config.memory
    search = partial(make_search, options.search, open_device("numba"))
    return OnlineMemory(dimension, capacity, search, options.n_neighbours)


def _compares_all(capacity: int, config: Config) -> bool:
    return capacity <= config.memory.compared


def _recall(memory: OnlineMemory, part: _Part, centre: Tensor) -> Neighbours:
    """What the positions of a part see of the memory, which takes in their states."""
    queries = F.normalize(part.queries - centre, dim=-1)
    mu = F.normalize(part.keys - centre, dim=-1)
    found = memory.recall(queries.numpy(), mu.numpy(), part.targets.numpy())
    return Neighbours(
        torch.from_numpy(found.cosines),
        torch.from_numpy(found.log_age),
        torch.from_numpy(found.sids),
    )


def _left_pad(values: Tensor, width: int, fill: float) -> Tensor:
    """`values` (S, K) filled up on the left to (S, width)."""
    return F.pad(values, (width - values.shape[1], 0), value=fill)
