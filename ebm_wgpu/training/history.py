"""history.json: how a run scored, one entry an evaluation, for people and plotting programs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ebm_wgpu.files import write_atomically, writing

FORMAT = "ebm-wgpu-history"
VERSION = 1


def evaluation_entry(record: Mapping[str, Any]) -> dict[str, Any]:
    """The entry of a line of metrics that has a "valid" part.

    step; seconds of training; lr; the training loss and its parts since the line before, and
    train_perplexity, exp of the cross-entropy per token; and the validation figures per token
    (nats and perplexity), per word and per byte (bits). What the line does not have is null.
    """
    valid, token = record["valid"], record.get("token")
    known = ("step", "lr", "elapsed", "tokens_per_second", "unigram_nll")
    parts = {
        name: value
        for name, value in record.items()
        if name not in known and isinstance(value, (int, float))
    }
    return {
        "step": record["step"],
        "seconds": record.get("elapsed", 0.0),
        "lr": record.get("lr"),
        "train": parts,
        "train_perplexity": perplexity(token),
        "valid_loss": valid["nll_per_token"],
        "valid_perplexity": valid["token_perplexity"],
        "valid_word_perplexity": valid["word_perplexity"],
        "valid_bits_per_byte": valid["bits_per_byte"],
    }


def perplexity(nll: float | None) -> float | None:
    """exp(nll), nats per token; none where that is unknown or too large for a number."""
    if nll is None or not nll < 700:
        return None
    return math.exp(nll)


def write_history(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Make `path` the history of the evaluations among the lines of metrics `records`.

    Raises:
        CheckpointError: it cannot be written.
    """
    document = {
        "format": FORMAT,
        "version": VERSION,
        "evaluations": [evaluation_entry(record) for record in records if "valid" in record],
    }
    text = json.dumps(document, indent=1, allow_nan=False) + "\n"
    with writing(path):
        write_atomically(path, text.encode())
