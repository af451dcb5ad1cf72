"""Runs side by side: what each reached, how fast, and at equal time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ebm_wgpu.errors import CheckpointError
from ebm_wgpu.evaluation.records import SavedScores, read_scores
from ebm_wgpu.kernels import KernelDevice
from ebm_wgpu.models.registry import build_model
from ebm_wgpu.training.run_folder import RunFolder
from ebm_wgpu.training.trends import series
from ebm_wgpu.training.verdicts import Quality, Trend, judge


@dataclass(frozen=True)
class RunCurve:
    """Validation perplexity per word of a run as it trained.

    Attributes:
        label: name of the run.
        steps, seconds, perplexity: at each evaluation; seconds of training, all kinds of work
            counted.
    """

    label: str
    steps: tuple[int, ...]
    seconds: tuple[float, ...]
    perplexity: tuple[float, ...]


@dataclass(frozen=True)
class RunSummary:
    """What a run reached.

    Attributes:
        label: its name, the folder where names are the same.
        path: its folder.
        family: of its model.
        parameters: numbers that learn.
        data: name of its text and of its tokenizer.
        step: optimiser steps taken.
        seconds: of training, none before the first line of metrics.
        tokens_per_second: median over the lines of metrics.
        best_step: step of the lowest validation loss, none before the first evaluation.
        word_perplexity, token_perplexity, bits_per_byte: at that step; none where there is none, or
            it is too large for a number.
        word_perplexity_at_equal_time: the lowest within the time that the shortest of the compared
            runs took.
        quality, trend: the verdict.
        saved: what `ebm evaluate --save` kept, static and online apart; none where it kept nothing,
            or that of a later step.
    """

    label: str
    path: str
    family: str
    parameters: int
    data: str
    step: int
    seconds: float | None
    tokens_per_second: float | None
    best_step: int | None
    word_perplexity: float | None
    token_perplexity: float | None
    bits_per_byte: float | None
    word_perplexity_at_equal_time: float | None
    quality: Quality
    trend: Trend
    saved: SavedScores | None = None


@dataclass(frozen=True)
class Comparison:
    """Several runs.

    Attributes:
        runs: the best first, by perplexity per word.
        curves: of the same runs in the same order.
        equal_seconds: the time of the shortest run, none where one has no time.
        warnings: why figures may not be compared.
    """

    runs: tuple[RunSummary, ...]
    curves: tuple[RunCurve, ...]
    equal_seconds: float | None
    warnings: tuple[str, ...]

    def summary(self) -> dict[str, Any]:
        """As types JSON holds."""
        curves = {curve.label: asdict(curve) for curve in self.curves}
        return {
            "equal_seconds": self.equal_seconds,
            "warnings": list(self.warnings),
            "runs": [{**asdict(run), "curve": curves[run.label]} for run in self.runs],
        }


def compare(
    paths: Sequence[str | Path],
    device: KernelDevice,
    on_run: Callable[[int], None] = lambda done: None,
) -> Comparison:
    """Compare the runs at `paths`.

    Args:
        paths: run folders, or checkpoints, up to which the run then counts.
        device: models are built on it, to count their parameters.
        on_run: called with the number of runs read so far.

    Raises:
        CheckpointError: fewer than two different runs, or one that cannot be read, or its kept
            evaluation.
    """
    located = [RunFolder.locate(path) for path in paths]
    if len({(run.path.absolute(), step) for run, step in located}) < max(2, len(located)):
        raise CheckpointError("comparing needs two or more different runs: name their folders")
    labels = _labels(located)
    runs, curves = [], []
    for done, ((run, step), label) in enumerate(zip(located, labels, strict=True), 1):
        records = [r for r in run.read_metrics() if step is None or r["step"] <= step]
        try:
            summary, curve = _read(run, records, label, device)
        # Lines that are JSON, but not what a trainer writes, fail where they are first looked at.
        except (AttributeError, LookupError, TypeError, ValueError, ArithmeticError) as error:
            raise CheckpointError(
                f"{run.metrics_path} is damaged ({type(error).__name__}: {error}): restore it"
            ) from error
        saved = read_scores(run)
        if saved is not None and (step is None or saved.step <= step):
            summary = replace(summary, saved=saved)
        runs.append(summary)
        curves.append(curve)
        on_run(done)
    times = [run.seconds for run in runs if run.seconds is not None]
    equal = min(times) if len(times) == len(runs) else None
    if equal is not None:
        runs = [_at_equal_time(run, curve, equal) for run, curve in zip(runs, curves, strict=True)]
    order = sorted(range(len(runs)), key=lambda i: runs[i].word_perplexity or math.inf)
    return Comparison(
        runs=tuple(runs[i] for i in order),
        curves=tuple(curves[i] for i in order),
        equal_seconds=equal,
        warnings=_warnings(runs),
    )


def _labels(located: Sequence[tuple[RunFolder, int | None]]) -> list[str]:
    names = [run.path.absolute().name for run, _ in located]
    labels = [
        name if names.count(name) == 1 else str(run.path)
        for (run, _), name in zip(located, names, strict=True)
    ]
    return [
        label if labels.count(label) == 1 else f"{label} at {step if step is not None else 'last'}"
        for label, (_, step) in zip(labels, located, strict=True)
    ]


def _read(
    run: RunFolder, records: Sequence[dict[str, Any]], label: str, device: KernelDevice
) -> tuple[RunSummary, RunCurve]:
    config, tokenizer = run.read_config(), run.read_tokenizer()
    model = build_model(config, tokenizer.vocab_size, device)
    verdict = judge(records)
    valid = [r for r in records if r.get("valid") and r["valid"]["nll_per_token"] is not None]
    best = min(valid, key=lambda r: float(r["valid"]["nll_per_token"]), default=None)
    scores: dict[str, Any] = {} if best is None else best["valid"]
    speeds = sorted(value for _, value in series(records, "tokens_per_second"))
    elapsed = [r["elapsed"] for r in records if "elapsed" in r]
    scored = [r for r in valid if r["valid"]["word_perplexity"] is not None]
    curve = RunCurve(
        label=label,
        steps=tuple(r["step"] for r in scored),
        seconds=tuple(float(r.get("elapsed", 0.0)) for r in scored),
        perplexity=tuple(float(r["valid"]["word_perplexity"]) for r in scored),
    )
    summary = RunSummary(
        label=label,
        path=str(run.path),
        family=config.model.family,
        parameters=model.n_parameters(),
        data=f"{config.data.dataset}, tokenizer {tokenizer.name} of {tokenizer.vocab_size:,}",
        step=max((r["step"] for r in records), default=0),
        seconds=float(elapsed[-1]) if elapsed else None,
        tokens_per_second=speeds[len(speeds) // 2] if speeds else None,
        best_step=None if best is None else best["step"],
        word_perplexity=scores.get("word_perplexity"),
        token_perplexity=scores.get("token_perplexity"),
        bits_per_byte=scores.get("bits_per_byte"),
        word_perplexity_at_equal_time=None,
        quality=verdict.quality,
        trend=verdict.trend,
    )
    return summary, curve


def _at_equal_time(run: RunSummary, curve: RunCurve, seconds: float) -> RunSummary:
    within = [
        value for at, value in zip(curve.seconds, curve.perplexity, strict=True) if at <= seconds
    ]
    return replace(run, word_perplexity_at_equal_time=min(within, default=None))


def _warnings(runs: Sequence[RunSummary]) -> tuple[str, ...]:
    warnings = []
    texts = {run.data.partition(", tokenizer ")[0] for run in runs}
    if len(texts) > 1:
        warnings.append(
            f"the runs were scored on different texts ({', '.join(sorted(texts))}): their figures "
            "cannot be compared"
        )
    elif len({run.data for run in runs}) > 1:
        warnings.append(
            "the runs have different tokenizers: compare per word or bits per byte, not per token"
        )
    saved = [run.saved for run in runs if run.saved is not None]
    if len({scores.n_words for scores in saved}) > 1:
        warnings.append(
            "the kept evaluations scored different parts of the text: repeat ebm evaluate --save "
            "with the same --tokens, or none"
        )
    windows = {(scores.context, scores.stride) for scores in saved}
    if len(windows) > 1:
        read = " and ".join(
            f"{context:,} tokens in strides of {stride:,}" for context, stride in sorted(windows)
        )
        warnings.append(
            f"the kept evaluations read {read}: a longer context or a shorter stride reads lower; "
            "compare runs of one data.eval_context and data.eval_stride"
        )
    capacities = {scores.capacity for scores in saved if scores.capacity is not None}
    if len(capacities) > 1:
        sizes = " and ".join(f"{capacity:,}" for capacity in sorted(capacities))
        warnings.append(
            f"the online figures are of memories of {sizes} states: repeat ebm evaluate --part "
            "online --save with one --capacity"
        )
    return tuple(warnings)
