"""Verdicts on a run from its metrics: how good it is, and where it is heading.

Qualities are excellent, good, fair and bad; trends are converging, stable, needs attention and
diverging. The scales below say from which figure on. A perplexity alone says little, because it
depends on the tokens and the text. What is rated is the share of a text's unigram entropy that
the model explains, 1 - NLL / NLL of the unigram model, which is 0 for a model that knows only how
frequent tokens are. A word-level perplexity of 100 on WikiText-2, the published aim, is a share of
.50; 1.47 nats a character on Tiny Shakespeare is .56.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ebm_wgpu.training.trends import fit_line, series

Quality = Literal["excellent", "good", "fair", "bad"]
Trend = Literal["converging", "stable", "needs attention", "diverging"]
QUALITIES: tuple[Quality, ...] = ("excellent", "good", "fair", "bad")

WORSENED = 0.01
"""Share by which the validation loss may lie above its best before it counts as worse."""
GIVEN_BACK = 0.25
"""Share of all that was learned whose loss means divergence."""
IMPROVING = 0.01
"""Share by which the last third of a run must lower the loss to be converging."""
RECENT_LINES = 60
"""Lines of metrics in which the energy is looked at."""
STRETCHES = 12
"""Parts into which the training loss is averaged where there is no validation loss."""
_VALIDATION = "validation loss"


@dataclass(frozen=True)
class Scale:
    """From which value on a figure has a quality; below `fair` it is bad.

    Attributes:
        label: what the figure is, in words.
        excellent, good, fair: least values.
        source: why these.
    """

    label: str
    excellent: float
    good: float
    fair: float
    source: str

    def rate(self, value: float) -> Quality:
        """The quality of `value`; one that is no number is bad."""
        bounds = (self.excellent, self.good, self.fair)
        for quality, bound in zip(QUALITIES, bounds, strict=False):
            if value >= bound:
                return quality
        return "bad"


SCALES: Mapping[str, Scale] = {
    "explained_entropy": Scale(
        "share of the unigram entropy explained on validation text",
        0.50,
        0.40,
        0.20,
        "excellent is the published aim: perplexity 100 per word on WikiText-2",
    ),
    "score_matching": Scale(
        "explained share of score matching, mean over noise levels",
        0.90,
        0.75,
        0.50,
        "the aim is above .9; the published aim, a loss below .1, depends on the data's floor",
    ),
    "coverage": Scale(
        "share of the training text whose token has an active splat",
        0.80,
        0.65,
        0.40,
        "the published aim is 80%",
    ),
    "active": Scale(
        "share of the splats that are used",
        0.80,
        0.50,
        0.20,
        "a splat below a hundredth of the even share of use is dead weight",
    ),
}
"""The rated figures, by name."""


@dataclass(frozen=True)
class Rating:
    """One rated figure.

    Attributes:
        figure: its name in `SCALES`.
        value: what it is now.
        quality: what that is worth.
    """

    figure: str
    value: float
    quality: Quality


@dataclass(frozen=True)
class Verdict:
    """What the metrics say about a run.

    Attributes:
        quality: that of "explained_entropy", bad while nothing was measured.
        trend: where the run is heading.
        reasons: sentences that say why, the most important first.
        ratings: every figure that was measured.
    """

    quality: Quality
    trend: Trend
    reasons: tuple[str, ...]
    ratings: tuple[Rating, ...]


def judge(records: Sequence[Mapping[str, Any]]) -> Verdict:
    """The verdict on a run whose metrics.jsonl holds `records`.

    Diverging: a loss that is not finite; a run that stopped because of one; or a validation loss
    (training loss, before the second evaluation) that gave back `GIVEN_BACK` of what it had
    learned. Needs attention: the last two validation losses `WORSENED` above the best, a rising
    energy, or too few lines to judge. Converging: the last third of the run lowered the loss by
    `IMPROVING`. Stable: none of these.

    Args:
        records: in order; `RunFolder.read_metrics` gives them. Keys a family does not have may
            lack, and so may "unigram_nll", in whose place the first evaluation is taken.
    """
    ratings = _ratings(records)
    trend, reasons = _trend(records)
    entropy = next((r for r in ratings if r.figure == "explained_entropy"), None)
    quality: Quality = "bad" if entropy is None or trend == "diverging" else entropy.quality
    notes = tuple(
        f"{SCALES[r.figure].label}: {r.value:.0%}, {r.quality}"
        for r in sorted(ratings, key=lambda r: -QUALITIES.index(r.quality))
    )
    return Verdict(quality, trend, (*reasons, *notes), ratings)


def _ratings(records: Sequence[Mapping[str, Any]]) -> tuple[Rating, ...]:
    values: dict[str, float] = {}
    valid = series(records, "valid", "nll_per_token")
    reference = series(records, "unigram_nll") or valid[:1]
    if valid and reference[0][1] > 0:
        values["explained_entropy"] = 1 - valid[-1][1] / reference[0][1]
    levels = [r["valid"].get("score_matching") for r in records if "valid" in r]
    if levels and levels[-1]:
        explained = [math.nan if x["explained"] is None else x["explained"] for x in levels[-1]]
        values["score_matching"] = sum(explained) / len(explained)
    coverage = series(records, "splats", "coverage")
    if coverage:
        values["coverage"] = coverage[-1][1]
    active, count = series(records, "splats", "active"), series(records, "splats", "count")
    if active and count and count[-1][1]:
        values["active"] = active[-1][1] / count[-1][1]
    return tuple(
        Rating(name, values[name], scale.rate(values[name]))
        for name, scale in SCALES.items()
        if name in values
    )


def _trend(records: Sequence[Mapping[str, Any]]) -> tuple[Trend, list[str]]:
    if records and "failed" in records[-1]:
        return "diverging", [f"the run gave up: {records[-1]['failed']}"]
    name, points = _losses(records)
    if len(points) < 2:
        return "needs attention", ["too few lines of metrics to judge: train on"]
    values = [value for _, value in points]
    last, best, first = values[-1], min(values), values[0]
    if not math.isfinite(last):
        return "diverging", [f"the {name} is not finite"]
    learned = first - best
    if last - best > max(GIVEN_BACK * learned, 5 * WORSENED * abs(best)):
        return "diverging", [
            f"the {name} is {last:.4g}, at its best it was {best:.4g} and at first {first:.4g}"
        ]
    problems = []
    # One evaluation may have bad luck; two in a row have a reason.
    recent = min(values[-2:])
    if name == _VALIDATION and recent - best > WORSENED * abs(best):
        problems.append(f"the {name} has risen from {best:.4g} to {recent:.4g}")
    problems += _energy_problems(records)
    if problems:
        return "needs attention", problems
    turn = points[-1][0] * 2 / 3
    before = min(value for step, value in points if step <= max(turn, points[0][0]))
    if before - last > IMPROVING * abs(before):
        return "converging", [f"the {name} still falls: {before:.4g} to {last:.4g} of late"]
    return "stable", [f"the {name} stays at {last:.4g}"]


def _losses(records: Sequence[Mapping[str, Any]]) -> tuple[str, list[tuple[int, float]]]:
    """The loss to judge by, and its course: of validation, or before that of training, smoothed."""
    valid = series(records, "valid", "nll_per_token")
    if len(valid) > 1:
        return _VALIDATION, valid
    lines = series(records, "token") or series(records, "loss")
    size = max(1, len(lines) // STRETCHES)
    stretches = [lines[i : i + size] for i in range(0, len(lines) - size + 1, size)]
    return "training loss", [
        (stretch[-1][0], sum(value for _, value in stretch) / size) for stretch in stretches
    ]


def _energy_problems(records: Sequence[Mapping[str, Any]]) -> list[str]:
    energy = [value for _, value in series(records[-RECENT_LINES:], "energy")]
    if len(energy) < 10 or not all(map(math.isfinite, energy)):
        return []
    line = fit_line(energy)
    if line.rises and line.change > WORSENED * abs(line.level):
        return [f"the energy of the data rises, by {line.change:.3g} nats of late"]
    return []
