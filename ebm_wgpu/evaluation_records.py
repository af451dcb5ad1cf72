"""Evaluations that a run keeps, `evaluation.json` in its folder, for comparisons to read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ebm_wgpu.errors import CheckpointError
from ebm_wgpu.files import parse_json, write_atomically, writing
from ebm_wgpu.training.run_folder import RunFolder

EVALUATION_FILE = "evaluation.json"


@dataclass(frozen=True)
class SavedScores:
    """What a kept evaluation says of the perplexity per word, static and online.

    Attributes:
        step: optimiser steps behind the model that was evaluated.
        n_words: words of the text incl. line ends.
        context, stride: tokens of input at most, and from a window to the next.
        static: of the model as it is; none where it is too large for a number.
        online: with a memory of what it has read; none where that was not measured.
        capacity: most states of that memory.
    """

    step: int
    n_words: int
    context: int
    stride: int
    static: float | None
    online: float | None = None
    capacity: int | None = None


def save_evaluation(run: RunFolder, split: str, record: Mapping[str, Any]) -> None:
    """Keep the record of an evaluation; it takes the place of an earlier one of the same split.

    Args:
        run: its folder.
        split: "valid" or "test".
        record: as `ebm evaluate --json` prints it.

    Raises:
        CheckpointError: the file is damaged, or cannot be written.
    """
    kept = {**_read(run), split: record}
    path = run.path / EVALUATION_FILE
    with writing(path):
        write_atomically(path, (json.dumps(kept, indent=1, allow_nan=False) + "\n").encode())


def read_scores(run: RunFolder, split: str = "valid") -> SavedScores | None:
    """The kept perplexities of a split; none if no evaluation that measured them was kept.

    Where "online" was measured, the static figure is the one that was taken beside it.

    Raises:
        CheckpointError: the file is damaged.
    """
    try:
        record = _read(run).get(split, {})
        online = record.get("online")
        static = record if online is None else online["static"]
        if "word_perplexity" not in static:
            return None
        scores = SavedScores(
            int(record["step"]),
            int(static["n_words"]),
            int(static["context"]),
            int(static["stride"]),
            _number(static["word_perplexity"]),
        )
        if online is None:
            return scores
        return replace(
            scores,
            online=_number(online["online"]["word_perplexity"]),
            capacity=int(online["settings"]["capacity"]),
        )
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise _damaged(run, f"{type(error).__name__}: {error}") from error


def _read(run: RunFolder) -> dict[str, Any]:
    path = run.path / EVALUATION_FILE
    try:
        document = parse_json(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise _damaged(run, str(error)) from error
    if not isinstance(document, dict):
        raise _damaged(run, "not a JSON object")
    return document


def _damaged(run: RunFolder, why: str) -> CheckpointError:
    return CheckpointError(
        f"{run.path / EVALUATION_FILE} is damaged ({why}): delete it, and run "
        "ebm evaluate --save again"
    )


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
