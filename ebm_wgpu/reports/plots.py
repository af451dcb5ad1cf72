"""Plots of runs, drawn with matplotlib, as SVG or PNG."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ebm_wgpu.training.trends import series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ebm_wgpu.diagnosis.comparison import RunCurve
    from ebm_wgpu.diagnosis.evidence import Spread

# Paul Tol's "bright" scheme: told apart by colour-blind readers, and in print.
COLOURS = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#777777")
_SIZE = (5.2, 3.2)
_SVG_SALT = "ebm-wgpu"


@dataclass(frozen=True)
class Plot:
    """A picture with a name: SVG text that stands for itself."""

    title: str
    svg: str


def run_plots(records: Sequence[Mapping[str, Any]], best_step: int | None) -> list[Plot]:
    """What can be drawn of the metrics of a run: only series that are there.

    best_step: of the best checkpoint, marked in the plot of the losses.
    """
    drawn = [
        _losses(records, best_step),
        _lines(
            "Validation perplexity", records, {"per token": ("valid", "token_perplexity")}, log=True
        ),
        _lines("Loss parts", records, {"latent": ("latent",), "balance": ("balance",)}),
        _lines("Energy of the data, nats", records, {"energy": ("energy",)}),
        _lines(
            "Gradient norm and learning rate",
            records,
            {"gradient norm": ("grad_norm",), "learning rate": ("lr",)},
            log=True,
        ),
        _lines(
            "Concentration of splats",
            records,
            {f"kappa, {n}": ("splats", f"kappa_{n}") for n in ("max", "mean", "min")},
            log=True,
        ),
        _lines(
            "Splats",
            records,
            {"in use": ("splats", "active"), "effective weight": ("splats", "effective")},
        ),
        _score_matching(records),
        _lines("Tokens per second", records, {"tokens per second": ("tokens_per_second",)}),
    ]
    return [plot for plot in drawn if plot is not None]


def spread_plots(spreads: Mapping[str, Spread]) -> list[Plot]:
    """Histograms of splats."""
    labels = {
        "kappa": "Concentrations of the splats",
        "log10 weight": "Weights, log10 of multiples of the even share",
        "log10 use": "Use, log10 of multiples of the even share",
    }
    plots = []
    for name, spread in spreads.items():
        figure, axes = _figure()
        axes.stairs(spread.counts, spread.edges, fill=True, color=COLOURS[0])
        axes.set_xlabel(name)
        axes.set_ylabel("splats")
        plots.append(Plot(labels[name], to_svg(figure)))
    return plots


def comparison_figure(curves: Sequence[RunCurve]) -> Figure:
    """Validation perplexity of runs against steps and against seconds, side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.4, 4.2), layout="constrained")
    by_step, by_time = figure.subplots(1, 2, sharey=True)
    for number, curve in enumerate(curves):
        colour = COLOURS[number % len(COLOURS)]
        style = ("-", "--", ":")[number // len(COLOURS) % 3]
        for axes, x in ((by_step, curve.steps), (by_time, curve.seconds)):
            axes.plot(x, curve.perplexity, style, color=colour, marker="o", ms=3, label=curve.label)
    for axes, label in ((by_step, "optimiser steps"), (by_time, "seconds of training")):
        _finish(axes)
        _log_scale(axes)
        axes.set_xlabel(label)
    by_step.set_ylabel("validation perplexity per word")
    figure.legend(*by_step.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def to_svg(figure: Figure) -> str:
    """The figure as SVG, the same text each time it is drawn."""
    return _rendered(figure, "svg").decode()


def to_png(figure: Figure) -> bytes:
    """The figure as PNG."""
    return _rendered(figure, "png")


def _rendered(figure: Figure, kind: Literal["svg", "png"]) -> bytes:
    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": _SVG_SALT}):
        metadata: dict[str, Any] = {"Date": None} if kind == "svg" else {}
        figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
    return buffer.getvalue()


def _figure() -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.subplots()
    _finish(axes)
    return figure, axes


def _finish(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)


def _log_scale(axes: Axes) -> None:
    """A logarithmic axis with plain numbers, between the powers of ten too where these are few."""
    from matplotlib.ticker import LogFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(LogFormatter())
    axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.5, 0.5)))


def _drawable(points: Sequence[tuple[int, float]], log: bool) -> list[tuple[int, float]]:
    return [(step, y) for step, y in points if math.isfinite(y) and (y > 0 or not log)]


def _lines(
    title: str,
    records: Sequence[Mapping[str, Any]],
    paths: Mapping[str, tuple[str, ...]],
    log: bool = False,
) -> Plot | None:
    """One plot of several series against steps; none if there is nothing to draw."""
    found = {label: _drawable(series(records, *path), log) for label, path in paths.items()}
    found = {label: points for label, points in found.items() if points}
    if not found:
        return None
    figure, axes = _figure()
    for colour, (label, points) in zip(COLOURS, found.items(), strict=False):
        _draw(axes, points, colour, label)
    if log:
        _log_scale(axes)
    if len(found) > 1:
        axes.legend(frameon=False)
    else:
        axes.set_ylabel(next(iter(found)))
    axes.set_xlabel("step")
    return Plot(title, to_svg(figure))


def _draw(axes: Axes, points: Sequence[tuple[int, float]], colour: str, label: str) -> None:
    steps, values = zip(*points, strict=True)
    marker = "o" if len(points) < 30 else ""
    axes.plot(steps, values, color=colour, label=label, marker=marker, ms=3, lw=1.4)


def _losses(records: Sequence[Mapping[str, Any]], best_step: int | None) -> Plot | None:
    train = _drawable(series(records, "token"), log=False)
    valid = _drawable(series(records, "valid", "nll_per_token"), log=False)
    if not train and not valid:
        return None
    figure, axes = _figure()
    for points, colour, label in (
        (train, COLOURS[0], "training"),
        (valid, COLOURS[1], "validation"),
    ):
        if points:
            _draw(axes, points, colour, label)
    if best_step is not None:
        axes.axvline(best_step, color=COLOURS[6], ls=":", lw=1, label=f"best, step {best_step}")
    axes.legend(frameon=False)
    axes.set_xlabel("step")
    axes.set_ylabel("nats per token")
    return Plot("Cross-entropy", to_svg(figure))


def _score_matching(records: Sequence[Mapping[str, Any]]) -> Plot | None:
    levels: dict[float, list[tuple[int, float]]] = {}
    for record in records:
        for level in record.get("valid", {}).get("score_matching") or ():
            if level["explained"] is not None:
                levels.setdefault(level["kappa"], []).append((record["step"], level["explained"]))
    if not levels:
        return None
    figure, axes = _figure()
    for colour, (kappa, points) in zip(COLOURS, sorted(levels.items()), strict=False):
        _draw(axes, points, colour, f"noise kappa {kappa:g}")
    axes.axhline(0.9, color=COLOURS[6], ls=":", lw=1, label="aim")
    axes.legend(frameon=False)
    axes.set_xlabel("step")
    return Plot("Score matching, explained share", to_svg(figure))
