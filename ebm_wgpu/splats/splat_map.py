"""A map of splats: which are drawn, where, how large, and with what to say of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ebm_wgpu.splats.inspection import ranked, usage_shares
from ebm_wgpu.splats.projection import Method, project
from ebm_wgpu.splats.splat_file import OnRows, SplatFile
from ebm_wgpu.splats.store import Float64Array, Int64Array

COLOURS: Mapping[str, str] = MappingProxyType(
    {
        "usage": "share of usage",
        "weight": "weight alpha / sum(alpha)",
        "kappa": "kappa",
        "age": "age (steps)",
    }
)
"""What points can be coloured by, and what it is called in full."""

LOGARITHMIC = frozenset({"usage", "weight"})
_LARGEST_POINT = 90.0
_SMALLEST_POINT = 4.0


@dataclass(frozen=True, eq=False)
class SplatMap:
    """Some or all splats of a file as points of the plane.

    Attributes:
        indices: (n,) which splats, ascending.
        points: (n, 2) where they are drawn.
        axes: what the coordinates are.
        sizes: (n,) areas in square points, growing with the weight.
        values: (n,) of each of `COLOURS`.
        tokens: (n,) token ids.
        names: (n,) texts of the tokens.
        named: places of those to be named in a picture, the most important first.
        title: what is shown.
    """

    indices: Int64Array
    points: Float64Array
    axes: tuple[str, str]
    sizes: Float64Array
    values: Mapping[str, NDArray[Any]]
    tokens: Int64Array
    names: tuple[str, ...]
    named: Int64Array
    title: str


def make_map(
    file: SplatFile,
    token_text: Callable[[int], str],
    *,
    method: Method = "pca",
    points: int = 20_000,
    labels: int = 80,
    seed: int = 0,
    on_rows: OnRows | None = None,
) -> SplatMap:
    """Draw splats, or a random choice of them, on the plane.

    The most used (the heaviest, before there is any use) are always among those drawn, and are
    named.

    Args:
        file: the splats.
        token_text: text of a token id.
        method: "pca" or "umap".
        points: how many splats to draw at most.
        labels: how many to name at most.
        seed: of the choice, and of UMAP.
        on_rows: is told of the rows read.

    Raises:
        ConfigError: fewer than 3 splats, or UMAP is not installed.
        StoreError: the file is damaged.
    """
    columns = file.columns
    important = ranked(columns, "usage" if columns.frequency.any() else "weight")[:labels]
    chosen = np.arange(len(file))
    if len(file) > points:
        rng = np.random.default_rng(seed)
        rest = np.setdiff1d(chosen, important)
        drawn = rng.choice(rest, max(0, points - len(important)), replace=False)
        chosen = np.sort(np.concatenate([important, drawn]))
    parts = []
    for first, rows in file.blocks(on_rows):
        inside = chosen[(chosen >= first) & (chosen < first + len(rows))]
        parts.append(rows[inside - first])
    projection = project(np.concatenate(parts), method, seed=seed)
    weight = np.exp(columns.log_pi[chosen])
    share = np.sqrt(weight / weight.max())
    tokens = columns.sid[chosen]
    drawn_of = f"{len(chosen):,} of {len(file):,}" if len(chosen) < len(file) else f"{len(file):,}"
    return SplatMap(
        indices=chosen,
        points=projection.points,
        axes=projection.axes,
        sizes=_SMALLEST_POINT + (_LARGEST_POINT - _SMALLEST_POINT) * share,
        values={
            "usage": usage_shares(columns)[chosen],
            "weight": weight,
            "kappa": columns.kappa[chosen],
            "age": columns.age[chosen],
        },
        tokens=tokens,
        names=tuple(token_text(int(token)) for token in tokens),
        named=np.searchsorted(chosen, important),
        title=f"{drawn_of} splats on S^{file.dimension - 1} by {method.upper()}",
    )
