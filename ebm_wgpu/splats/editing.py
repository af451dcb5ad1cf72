"""Stores made of stores: merged, pruned, and compared, in memory that does not grow with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ebm_wgpu.errors import ConfigError, StoreError
from ebm_wgpu.sphere import dist, projx
from ebm_wgpu.splats.hdf5 import write_rows
from ebm_wgpu.splats.splat_file import OnRows, SplatFile
from ebm_wgpu.splats.store import (
    COLUMN_TYPES,
    Float32Array,
    Float64Array,
    History,
    Int64Array,
    SplatColumns,
)

_COMPARED_ROWS = 1024


def merge(
    one: SplatFile,
    other: SplatFile,
    path: Path,
    *,
    share: float | None = None,
    on_rows: OnRows | None = None,
) -> SplatColumns:
    """Write the splats of both files to `path`, as one mixture: p = s p_one + (1-s) p_other.

    Weights and usage of each file are scaled to its share; the mean of alpha is 1. Kappa may then
    lie anywhere in either's range, ages and token ids stay, and histories are joined.

    Args:
        one, other: the splats.
        path: the file to write.
        share: s, between 0 and 1; by default in proportion to the numbers of splats.
        on_rows: is told of the rows read.

    Returns:
        All but the directions of what was written.

    Raises:
        ConfigError: a share out of range.
        StoreError: different dimensions, a damaged file, or one that cannot be written.
    """
    if one.dimension != other.dimension:
        raise StoreError(
            f"{one.path} has dimension {one.dimension} and {other.path} {other.dimension}: only "
            "splats of one dimension can be merged"
        )
    count = len(one) + len(other)
    part = len(one) / count if share is None else share
    if not 0 < part < 1:
        raise ConfigError(f"share {part:g} of the first store: it must be between 0 and 1")
    joined = {
        name: np.concatenate([getattr(one.columns, name), getattr(other.columns, name)])
        for name in COLUMN_TYPES
    }
    both = ((one.columns, part), (other.columns, 1 - part))
    joined["alpha"] = np.concatenate([s * np.exp(columns.log_pi) for columns, s in both])
    joined["alpha"] = (count * joined["alpha"]).astype(np.float32)
    joined["frequency"] = np.concatenate([s * columns.frequency for columns, s in both])
    ranges = one.columns.kappa_range, other.columns.kappa_range
    low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
    columns = SplatColumns(**joined, width=one.dimension, kappa_range=(low, high))

    def blocks() -> Iterator[Float32Array]:
        for file in (one, other):
            for _, rows in file.blocks(on_rows):
                yield rows

    write_rows(path, columns, blocks(), _joined_history(one, other))
    return columns


def _joined_history(one: SplatFile, other: SplatFile) -> History | None:
    held = [history for file in (one, other) if (history := file.history()) is not None]
    if not held:
        return None
    return History(
        *(
            np.concatenate([getattr(history, name) for history in held])
            for name in ("latents", "energies", "tokens")
        )
    )


def keep(
    file: SplatFile, kept: NDArray[np.bool_], path: Path, *, on_rows: OnRows | None = None
) -> SplatColumns:
    """Write the splats of a file that are marked to `path`, with the history.

    Alpha stays what it was, so that the weights of those kept keep their proportions.

    Args:
        file: the splats.
        kept: (N,) which of them.
        path: the file to write.
        on_rows: is told of the rows read.

    Returns:
        All but the directions of what was written.

    Raises:
        ConfigError: none is marked.
        StoreError: a damaged file, or one that cannot be written.
    """
    if not kept.any():
        raise ConfigError(
            f"none of the {len(file)} splats of {file.path} would be left: choose another rule"
        )
    columns = file.columns.take(kept)
    blocks = (rows[kept[first : first + len(rows)]] for first, rows in file.blocks(on_rows))
    write_rows(path, columns, blocks, file.history())
    return columns


@dataclass(frozen=True, eq=False)
class Difference:
    """What became of splats from one store to another.

    Splats are matched by token id and, within a token, by their order in the file: training keeps
    both.

    Attributes:
        before, after: (M,) indices of matched splats in the one and the other file.
        only_before, only_after: indices of those without a match.
        angle: (M,) degrees that each direction moved.
        log_weight_ratio: (M,) change of log pi, nats.
        kappa_change, usage_change: (M,) differences, after minus before.
    """

    before: Int64Array
    after: Int64Array
    only_before: Int64Array
    only_after: Int64Array
    angle: Float64Array
    log_weight_ratio: Float64Array
    kappa_change: Float64Array
    usage_change: Float64Array


def compare(one: SplatFile, other: SplatFile, *, on_rows: OnRows | None = None) -> Difference:
    """How the splats of `other` differ from those of `one`.

    Args:
        one, other: the splats, before and after.
        on_rows: is told of the rows of `one` that were compared.

    Raises:
        StoreError: different dimensions, or a damaged file.
    """
    if one.dimension != other.dimension:
        raise StoreError(
            f"{one.path} has dimension {one.dimension} and {other.path} {other.dimension}: only "
            "splats of one dimension can be compared"
        )
    before, after = _matches(one.columns.sid, other.columns.sid)
    angle = np.empty(len(before))
    partner = np.full(len(one), -1)
    partner[before] = np.arange(len(before))
    for first, rows in one.blocks(on_rows):
        for start in range(0, len(rows), _COMPARED_ROWS):
            matched = partner[first + start : first + min(start + _COMPARED_ROWS, len(rows))]
            places = matched[matched >= 0]
            if len(places):
                mine = rows[start : start + _COMPARED_ROWS][matched >= 0]
                theirs = other.rows(after[places])
                # Lengths are 1 to float32 only, which would look like a small angle.
                angle[places] = np.degrees(dist(_unit(mine), _unit(theirs)))
    old, new = one.columns, other.columns
    return Difference(
        before=before,
        after=after,
        only_before=np.setdiff1d(np.arange(len(one)), before),
        only_after=np.setdiff1d(np.arange(len(other)), after),
        angle=angle,
        log_weight_ratio=new.log_pi[after] - old.log_pi[before],
        kappa_change=new.kappa[after].astype(np.float64) - old.kappa[before],
        usage_change=new.frequency[after] - old.frequency[before],
    )


def _unit(rows: Float32Array) -> Float64Array:
    return np.asarray(projx(rows.astype(np.float64)))


def _matches(one: Int64Array, other: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Indices of pairs of equal (token id, occurrence), in the order of the first."""
    _, labels = np.unique(np.concatenate([one, other]), return_inverse=True)
    occurrence = np.concatenate([_occurrences(one), _occurrences(other)])
    keys = labels * (occurrence.max() + 1) + occurrence
    _, before, after = np.intersect1d(keys[: len(one)], keys[len(one) :], True, True)
    order = np.argsort(before)
    return before[order], after[order]


def _occurrences(values: Int64Array) -> Int64Array:
    """How many equal values stand before each value."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    lengths = np.diff(np.append(starts, len(values)))
    counts = np.empty(len(values), np.int64)
    counts[order] = np.arange(len(values)) - np.repeat(starts, lengths)
    return counts
