"""What there is to see in the splats of a file: summary, rankings, and nearest splats.

All of it works on an open `SplatFile`, block by block, in memory that does not grow with the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ebm_wgpu.errors import ConfigError
from ebm_wgpu.sphere import projx
from ebm_wgpu.splats.search import SearchResult
from ebm_wgpu.splats.splat_file import OnRows, SplatFile
from ebm_wgpu.splats.store import Float32Array, Float64Array, SplatColumns

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
_AT_LIMIT = 1e-3

SORTS: Mapping[str, Callable[[SplatColumns], Any]] = MappingProxyType(
    {
        "usage": lambda columns: -columns.frequency,
        "weight": lambda columns: -columns.alpha,
        "kappa": lambda columns: -columns.kappa,
        "age": lambda columns: -columns.age,
        "index": lambda columns: np.arange(len(columns)),
    }
)
"""What splats can be sorted by, the largest first; "index" is the order of the file."""


@dataclass(frozen=True)
class Summary:
    """How the splats of a store are spread.

    Attributes:
        splats, dimension: N and d.
        tokens: distinct token ids.
        effective_splats: exp of the entropy of pi = alpha / sum(alpha); N if all weigh the same.
        used_splats: exp of the entropy of usage shares; 0 if nothing was used yet.
        unused: splats of usage 0.
        at_kappa_limits: splats within a thousandth of the range from its lower and its upper end.
        kappa_range: the range.
        history: states in the history.
        concentration_of_directions: |mean of mu|: 0 if spread evenly, 1 if all are one.
        quantiles: least, quarter, median, three quarters and most of alpha, kappa, usage and age.
    """

    splats: int
    dimension: int
    tokens: int
    effective_splats: float
    used_splats: float
    unused: int
    at_kappa_limits: tuple[int, int]
    kappa_range: tuple[float, float]
    history: int
    concentration_of_directions: float | None
    quantiles: Mapping[str, tuple[float, ...]]


def summarize(file: SplatFile, *, verify: bool = True, on_rows: OnRows | None = None) -> Summary:
    """Counts, spreads and shares; with `verify` every byte is compared with the file's digest.

    Args:
        file: the splats.
        verify: without it directions are not read, and nothing is said of them.
        on_rows: is told of the rows read.

    Raises:
        StoreError: the file was altered or is damaged.
    """
    columns = file.columns
    total = np.zeros(file.dimension)

    def add(first: int, rows: Float32Array) -> None:
        total[:] += rows.sum(axis=0, dtype=np.float64)
        if on_rows is not None:
            on_rows(len(rows))

    if verify:
        file.verify(add)
    low, high = columns.kappa_range
    margin = _AT_LIMIT * (high - low)
    spreads = {
        "alpha": columns.alpha,
        "kappa": columns.kappa,
        "usage": columns.frequency,
        "age": columns.age,
    }
    return Summary(
        splats=len(file),
        dimension=file.dimension,
        tokens=int(np.unique(columns.sid).size),
        effective_splats=_effective_count(columns.alpha),
        used_splats=_effective_count(columns.frequency),
        unused=int((columns.frequency == 0).sum()),
        at_kappa_limits=(
            int((columns.kappa <= low + margin).sum()),
            int((columns.kappa >= high - margin).sum()),
        ),
        kappa_range=columns.kappa_range,
        history=file.history_length,
        concentration_of_directions=float(np.linalg.norm(total / len(file))) if verify else None,
        quantiles={
            name: tuple(np.quantile(np.asarray(values, np.float64), QUANTILES).tolist())
            for name, values in spreads.items()
        },
    )


def _effective_count(weights: NDArray[Any]) -> float:
    """exp of the entropy of the normalised weights; 0 if all are zero."""
    total = weights.sum(dtype=np.float64)
    if total == 0:
        return 0.0
    shares = weights[weights > 0] / total
    return float(np.exp(-np.sum(shares * np.log(shares))))


def ranked(
    columns: SplatColumns, sort: str = "usage", *, token: int | None = None, reverse: bool = False
) -> NDArray[np.int64]:
    """Indices of splats, the largest first (with `reverse` the smallest), ties by index.

    Args:
        columns: the splats.
        sort: a key of `SORTS`.
        token: only splats of this token id.
        reverse: the other way round.

    Raises:
        ConfigError: an unknown `sort`.
    """
    if sort not in SORTS:
        raise ConfigError(f"cannot sort splats by {sort!r}: use one of {', '.join(SORTS)}")
    chosen = np.arange(len(columns)) if token is None else np.flatnonzero(columns.sid == token)
    keys = SORTS[sort](columns)[chosen]
    return np.asarray(chosen[np.argsort(-keys if reverse else keys, kind="stable")])


def usage_shares(columns: SplatColumns) -> Float64Array:
    """Each splat's share of all usage, (N,); zeros if nothing was used yet."""
    return columns.frequency / max(float(columns.frequency.sum()), np.finfo(np.float64).tiny)


def nearest(
    file: SplatFile, queries: ArrayLike, k: int, *, on_rows: OnRows | None = None
) -> SearchResult:
    """The k splats of highest cosine to each query, exactly, ties by index.

    The file is read once, block by block, and k candidates a query are kept.

    Args:
        file: the splats.
        queries: (B, d) or (d,), of any length but zero.
        k: from 1 to N.
        on_rows: is told of the rows read.

    Raises:
        ConfigError: a k or queries that do not fit.
        StoreError: the file is damaged.
    """
    points = np.atleast_2d(np.asarray(queries, np.float64))
    if points.ndim != 2 or points.shape[1] != file.dimension:
        raise ConfigError(f"queries of shape {points.shape}: give (B, {file.dimension})")
    if not 1 <= k <= len(file):
        raise ConfigError(f"k = {k} neighbours of {len(file)} splats: use 1 to {len(file)}")
    unit = projx(points).astype(np.float32)
    cosines = np.empty((len(unit), 0), np.float32)
    indices = np.empty((len(unit), 0), np.int64)
    for first, rows in file.blocks(on_rows):
        found = unit @ rows.T
        here = np.broadcast_to(np.arange(first, first + len(rows)), found.shape)
        cosines = np.concatenate([cosines, found], axis=1)
        indices = np.concatenate([indices, here], axis=1)
        order = np.lexsort((indices, -cosines), axis=-1)[:, :k]
        cosines = np.take_along_axis(cosines, order, axis=1)
        indices = np.take_along_axis(indices, order, axis=1)
    return SearchResult(cosines, indices)
