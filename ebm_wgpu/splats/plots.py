"""Pictures of splats by matplotlib: histograms, a map of the plane, the energy along a circle.

Figures are made without pyplot: nothing is global, and no window system is asked for.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from ebm_wgpu.errors import ConfigError, StoreError
from ebm_wgpu.files import replacing
from ebm_wgpu.splats.splat_map import COLOURS, LOGARITHMIC, SplatMap
from ebm_wgpu.splats.store import SplatColumns

if TYPE_CHECKING:
    from ebm_wgpu.landscape import Landscape

PICTURES = (".png", ".svg", ".pdf")

_BLUE, _ORANGE, _GREY = "#0072b2", "#d55e00", "#888888"
_DOTS_PER_INCH = 110
_LONGEST_NAME = 18
_LONGEST_LABEL = 32
_NAMED_SHARE = 0.04
_MOST_SINGLE_BARS = 60


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, SVG or PDF, by the suffix, whole or not at all.

    Raises:
        ConfigError: another suffix.
        StoreError: the file cannot be written.
    """
    kind = path.suffix.lower()
    if kind not in PICTURES:
        raise ConfigError(f"{path}: unknown kind of picture: use {', '.join(PICTURES)}")
    try:
        with replacing(path) as temporary, warnings.catch_warnings():
            # Tokens may be in scripts that the font has not; they become boxes.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            figure.savefig(temporary, format=kind[1:], dpi=_DOTS_PER_INCH, bbox_inches="tight")
    except OSError as error:
        raise StoreError(f"{path}: cannot write: {error.strerror or error}") from error


def histograms(columns: SplatColumns, neighbour_angles: ArrayLike) -> Figure:
    """Weights, kappa, usage, age, splats a token, and the angle to the nearest other splat.

    Args:
        columns: the splats.
        neighbour_angles: (n,) degrees, of some or all splats.
    """
    figure = Figure(figsize=(11, 6.2), layout="constrained")
    count = len(columns)
    figure.suptitle(f"{count:,} splats on S^{columns.dimension - 1}")
    axes = figure.subplots(2, 3).reshape(-1)
    used = columns.frequency[columns.frequency > 0]
    shares = used / max(float(used.sum()), np.finfo(np.float64).tiny)
    unused = count - len(used)
    _, per_token = np.unique(columns.sid, return_counts=True)
    _histogram(axes[0], count * np.exp(columns.log_pi), "weight, times the number of splats", True)
    _histogram(axes[1], columns.kappa, "kappa")
    _histogram(axes[2], count * shares, f"share of usage, times N ({unused:,} unused)", True)
    _histogram(axes[3], columns.age, "age (steps)", whole=True)
    _histogram(axes[4], per_token, f"splats a token ({len(per_token):,} tokens)", whole=True)
    angles = np.asarray(neighbour_angles)
    _histogram(axes[5], angles, f"angle to the nearest other ({len(angles):,} splats, degrees)")
    for place in (0, 3):
        axes[place].set_ylabel("splats")
    axes[4].set_ylabel("tokens")
    return figure


def _histogram(
    axes: Any, values: ArrayLike, label: str, logarithmic: bool = False, whole: bool = False
) -> None:
    numbers = np.asarray(values, np.float64)
    axes.set_xlabel(label)
    axes.spines[["top", "right"]].set_visible(False)
    if not len(numbers):
        axes.text(0.5, 0.5, "none", ha="center", va="center", transform=axes.transAxes)
        return
    low, high = float(numbers.min()), float(numbers.max())
    bins: Any = 50
    if whole:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if high - low < _MOST_SINGLE_BARS:
            bins = np.arange(low, high + 2) - 0.5
    elif logarithmic and high > low:
        bins = np.geomspace(low, high * (1 + 1e-9), 51)
        axes.set_xscale("log")
    axes.hist(numbers, bins=bins, color=_BLUE)


def map_figure(splats: SplatMap, colour: str = "usage") -> Figure:
    """Splats as points of the plane, in the colour of a quantity, with names of the most used.

    Args:
        splats: what to draw.
        colour: a key of `splat_map.COLOURS`.

    Raises:
        ConfigError: an unknown colour.
    """
    if colour not in COLOURS:
        raise ConfigError(f"cannot colour splats by {colour!r}: use one of {', '.join(COLOURS)}")
    figure = Figure(figsize=(9.5, 7.5), layout="constrained")
    axes = figure.subplots()
    values = splats.values[colour]
    positive = values > 0
    logarithmic = colour in LOGARITHMIC and bool(positive.any())
    # What has no logarithm is drawn below the rest, in grey.
    shown = positive if logarithmic else np.ones(len(values), bool)
    sizes = splats.sizes
    across, up = splats.points.T
    axes.scatter(across[~shown], up[~shown], s=sizes[~shown], c="#cccccc", linewidths=0)
    order = np.argsort(values[shown], kind="stable")
    found = axes.scatter(
        across[shown][order],
        up[shown][order],
        s=sizes[shown][order],
        c=values[shown][order],
        norm=_norm(values[shown], logarithmic),
        cmap="viridis",
        linewidths=0,
        alpha=0.8,
    )
    figure.colorbar(found, ax=axes, label=COLOURS[colour], shrink=0.8)
    _name(axes, splats)
    axes.set_xlabel(splats.axes[0])
    axes.set_ylabel(splats.axes[1])
    axes.set_title(splats.title, fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_aspect("equal", adjustable="datalim")
    return figure


def _norm(values: NDArray[Any], logarithmic: bool) -> Normalize:
    """From the least to the largest value, without the outermost 2%."""
    low, high = np.quantile(values, [0.01, 0.99])
    if low == high:
        low, high = values.min(), values.max()
    return LogNorm(low, high) if logarithmic and low < high else Normalize(low, high)


def _name(axes: Any, splats: SplatMap) -> None:
    """Token texts at the points to be named, except where they would overlap one written before."""
    taken: list[NDArray[Any]] = []
    span = np.ptp(splats.points, axis=0)
    apart = np.maximum(span, np.finfo(np.float64).tiny) * [_NAMED_SHARE * 1.8, _NAMED_SHARE]
    for place in splats.named:
        point = splats.points[place]
        if any((np.abs(point - other) < apart).all() for other in taken):
            continue
        taken.append(point)
        axes.annotate(
            _short(splats.names[place]),
            point,
            xytext=(3, 3),
            textcoords="offset points",
            fontsize=8,
            parse_math=False,
            bbox={"boxstyle": "round,pad=0.1", "facecolor": "white", "alpha": 0.65, "lw": 0},
        )


def _short(name: str, longest: int = _LONGEST_NAME) -> str:
    return name if len(name) <= longest else name[: longest - 1] + "…"


def landscape_figure(landscape: Landscape, labels: tuple[str, str], names: Sequence[str]) -> Figure:
    """Energies along the great circle between two texts, and whose splat is the nearest on the way.

    Args:
        landscape: what to draw.
        labels: the two texts.
        names: (n,) token text of the splat that dominates at each point.
    """
    figure = Figure(figsize=(10, 5.6), layout="constrained")
    axes, strip = figure.subplots(2, 1, sharex=True, height_ratios=(12, 1))
    one, other = (_short(label, _LONGEST_LABEL) for label in labels)
    angle = landscape.angle
    axes.plot(angle, landscape.free, color=_GREY, lw=1.5, label="no context: -log p(x)")
    axes.plot(angle, landscape.from_a, color=_BLUE, lw=2, label=f"after {one!r}")
    axes.plot(angle, landscape.from_b, color=_ORANGE, lw=2, label=f"after {other!r}")
    for at, label, colour in ((0.0, one, _BLUE), (landscape.separation, other, _ORANGE)):
        axes.axvline(at, color=colour, ls=":", lw=1)
        axes.annotate(
            f" {label}",
            (at, 1),
            xycoords=("data", "axes fraction"),
            va="top",
            color=colour,
            parse_math=False,
        )
    axes.set_ylabel("energy -log p(x | context), nats")
    legend = axes.legend(fontsize=9)
    for text in legend.get_texts():
        text.set_parse_math(False)
    axes.set_title(f"along the great circle, {landscape.separation:.1f} degrees apart", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    _strip(strip, landscape, names)
    strip.set_xlabel(f"degrees from {one!r} towards {other!r}", parse_math=False)
    return figure


def _strip(axes: Any, landscape: Landscape, names: Sequence[str]) -> None:
    """Bars over the stretches in which one splat dominates, with its token's text."""
    angle, splat = landscape.angle, landscape.splat
    edges = np.flatnonzero(np.diff(splat)) + 1
    starts, ends = np.append(0, edges), np.append(edges, len(splat)) - 1
    half = (angle[1] - angle[0]) / 2
    for number, (first, last) in enumerate(zip(starts, ends, strict=True)):
        left, right = angle[first] - half, angle[last] + half
        colour = ("#cfe3f0", "#f5dcc9")[number % 2]
        axes.axvspan(left, right, color=colour, lw=0)
        if right - left > _NAMED_SHARE * np.ptp(angle):
            axes.text(
                (left + right) / 2,
                0.5,
                _short(names[first]),
                ha="center",
                va="center",
                fontsize=8,
                clip_on=True,
                parse_math=False,
            )
    axes.set_xlim(angle[0], angle[-1])
    axes.set_yticks([])
    axes.set_ylabel("splat", rotation=0, ha="right", va="center", fontsize=8)
    axes.spines[["top", "right", "left"]].set_visible(False)
