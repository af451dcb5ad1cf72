"""Rows of text about runs, as terminals and HTML reports show them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ebm_wgpu.diagnosis.diagnose import Diagnosis, Unreadable
from ebm_wgpu.diagnosis.evidence import CheckpointState
from ebm_wgpu.training.verdicts import SCALES, Verdict

if TYPE_CHECKING:
    from ebm_wgpu.diagnosis.comparison import Comparison

OVERVIEW_HEAD = (
    "run",
    "family",
    "step",
    "minutes",
    "per word",
    "quality",
    "trend",
    "first finding",
)
RATING_HEAD = ("figure", "value", "quality", "good from")
CHECKPOINT_HEAD = (
    "step",
    "",
    "weights changed",
    "splats moved",
    "in use",
    "dead",
    "exploding",
    "effective use",
    "at kappa min",
    "at kappa max",
    "twins",
)
COMPARISON_HEAD = (
    "run",
    "family",
    "parameters",
    "step",
    "minutes",
    "tokens/s",
    "best per word",
    "per token",
    "bits/byte",
    "per word at equal time",
    "evaluated static",
    "evaluated online",
    "quality",
    "trend",
)
_NONE = "-"


def headline(diagnosis: Diagnosis) -> str:
    """Family, progress and time of a run, in one line."""
    evidence = diagnosis.evidence
    time = "" if evidence.elapsed is None else f", {evidence.elapsed / 60:,.1f} minutes of training"
    return (
        f"family {evidence.config.model.family}, step {evidence.step:,} of "
        f"{evidence.config.train.steps:,} planned{time}"
    )


def overview_row(result: Diagnosis | Unreadable) -> tuple[str, ...]:
    """One run among several."""
    if isinstance(result, Unreadable):
        return (str(result.path), *[_NONE] * 4, "unreadable", _NONE, result.reason)
    evidence = result.evidence
    valid = [record["valid"] for record in evidence.records if "valid" in record]
    return (
        str(evidence.path),
        evidence.config.model.family,
        f"{evidence.step:,}",
        number(None if evidence.elapsed is None else evidence.elapsed / 60, ".1f"),
        number(valid[-1].get("word_perplexity") if valid else None, ",.2f"),
        result.verdict.quality,
        result.verdict.trend,
        result.findings[0].name if result.findings else _NONE,
    )


def rating_rows(verdict: Verdict) -> list[tuple[str, ...]]:
    """The rated figures."""
    return [
        (
            SCALES[rating.figure].label,
            f"{rating.value:.1%}",
            rating.quality,
            f"{SCALES[rating.figure].good:.0%}",
        )
        for rating in verdict.ratings
    ]


def checkpoint_rows(checkpoints: Sequence[CheckpointState]) -> list[tuple[str, ...]]:
    """The checkpoints by step; what a family does not have is a dash."""
    return [_checkpoint_row(state) for state in checkpoints]


def _checkpoint_row(state: CheckpointState) -> tuple[str, ...]:
    names = "damaged" if state.damage else ", ".join(state.names)
    moved = _NONE if state.moved is None else f"{state.moved:.2f}°"
    start = (f"{state.step:,}", names, number(state.changed, ".2%"), moved)
    health = state.splats
    if health is None:
        return (*start, *[_NONE] * 7)
    return (
        *start,
        f"{health.active:,} of {health.count:,}",
        f"{health.dead:,}",
        f"{health.exploding:,}",
        f"{health.effective_use:,.0f}",
        f"{health.at_kappa_min:.1%}",
        f"{health.at_kappa_max:.1%}",
        f"{health.duplicates:.1%}",
    )


def comparison_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """The runs side by side, the best first."""
    return [
        (
            run.label,
            run.family,
            f"{run.parameters:,}",
            f"{run.step:,}",
            number(None if run.seconds is None else run.seconds / 60, ".1f"),
            number(run.tokens_per_second, ",.0f"),
            number(run.word_perplexity, ",.2f"),
            number(run.token_perplexity, ",.2f"),
            number(run.bits_per_byte, ".4f"),
            number(run.word_perplexity_at_equal_time, ",.2f"),
            number(None if run.saved is None else run.saved.static, ",.2f"),
            number(None if run.saved is None else run.saved.online, ",.2f"),
            run.quality,
            run.trend,
        )
        for run in comparison.runs
    ]


def number(value: float | None, form: str) -> str:
    """`value` in a format, or a dash for none."""
    return _NONE if value is None else format(value, form)
