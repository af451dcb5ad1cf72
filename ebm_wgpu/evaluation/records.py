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

_OF_ALL_PARTS = ("step", "data", "think_steps", "think_best_of", "think_rule")
"""What the parts of a record have in common: of one model, thinking in one way, on one text."""


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


def save_evaluation(run: RunFolder, split: str, record: Mapping[str, Any]) -> str | None:
    """Keep the record of an evaluation beside what is kept of other parts of the same split.

    A part that is measured again takes the place of what it was. An earlier record of another
    step, or that was taken with other thinking, goes as a whole: its figures are of another model.

    Args:
        run: its folder.
        split: "valid" or "test".
        record: as `ebm evaluate --json` prints it.

    Returns:
        What was replaced as a whole and why, in one line; none if nothing was.

    Raises:
        CheckpointError: the file is damaged, or cannot be written.
    """
    kept = _read(run)
    earlier = kept.get(split, {})
    try:
        other = [
            f"{name}={earlier.get(name)} (now {record.get(name)})"
            for name in _OF_ALL_PARTS
            if earlier and earlier.get(name) != record.get(name)
        ]
        merged = _merged({} if other else earlier, record)
    except (AttributeError, TypeError) as error:
        raise _damaged(run, f"{type(error).__name__}: {error}") from error
    path = run.path / EVALUATION_FILE
    content = json.dumps({**kept, split: merged}, indent=1, allow_nan=False) + "\n"
    with writing(path):
        write_atomically(path, content.encode())
    return f"the {split} figures of {', '.join(other)} are replaced in {path}" if other else None


def _merged(earlier: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """`record` and the parts of `earlier` that it does not measure."""
    # The list of score matching is there and empty where that was not measured.
    merged = {**earlier, **{name: value for name, value in record.items() if value != []}}
    reasons = {**earlier.get("unavailable", {}), **record.get("unavailable", {})}
    merged["unavailable"] = {
        part: why for part, why in reasons.items() if part.replace("-", "_") not in merged
    }
    return merged


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
