"""Perplexity of a model that remembers what it has read of the text, beside the static one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ebm_wgpu.config import Config
from ebm_wgpu.evaluation.perplexity import PerplexityReport
from ebm_wgpu.models.recall import Reader, mix
from ebm_wgpu.online_memory import (
    OnlineSettings,
    TextMemory,
    compares_all,
    fit_online,
    read_parts,
)
from ebm_wgpu.text.datasets import TokenStream


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
            "search": "none" if compares_all(settings.capacity, config) else config.memory.search,
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
    memory = TextMemory(settings.centre, settings.capacity, config)
    for part in read_parts(model, stream, config, start_id):
        found = memory.recall(part)
        base = part.base(settings.supersede)
        yield part.log_p, mix(base, settings.gate(found, part.targets))
