"""Ids in rising order with rows to be summed by id: drawn inputs and tolerance."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ebm_wgpu.kernels._cases import EPS32
from ebm_wgpu.kernels._order import Kind
from ebm_wgpu.kernels.spec import DTYPES, EXACT, Array, Arrays, Dims, Tolerance

WG = 256
SPAN = 64
"""Places of a block, whose runs of equal ids are summed first."""
CASES: tuple[tuple[str, int, Dims], ...] = (
    ("odd", 40, {"B": 501, "D": 3}),
    ("one id", 1, {"B": 200, "D": 1}),
    ("one place", 3, {"B": 1, "D": 5}),
)
"""Name, number of ids, and dimensions."""


def values(rng: np.random.Generator, kind: Kind, *shape: int) -> Array:
    """Entries of order one, or small whole numbers."""
    drawn = rng.standard_normal(shape) if kind == "f32" else rng.integers(-9, 9, shape)
    return drawn.astype(DTYPES[kind])


def draw(kind: Kind, count: int) -> Callable[[np.random.Generator, Dims], Arrays]:
    """Draws ids below `count`, a few of them frequent, and rows."""

    def inputs(rng: np.random.Generator, dims: Dims) -> Arrays:
        ids = np.floor((count + 1) ** rng.random(dims["B"])).astype(np.int32) - 1
        if count > 10:
            ids[:3] = [-4, count, 2**31 - 1]
        order = np.argsort(ids, kind="stable").astype(np.int32)
        return {
            "order": order,
            "sorted_ids": ids[order],
            "x": values(rng, kind, dims["B"], dims["D"]),
        }

    return inputs


def run_sums(order: Array, sorted_ids: Array, x: Array) -> Array:
    """Sums of runs of equal ids within blocks, at their first places; 0 elsewhere."""
    count = len(sorted_ids)
    places = np.arange(count)
    first = (places % SPAN == 0) | (np.roll(sorted_ids, 1) != sorted_ids)
    run = np.cumsum(first) - 1
    sums = np.zeros((run[-1] + 1, x.shape[1]), x.dtype)
    np.add.at(sums, run, x[order])
    result = np.zeros((count, x.shape[1]), x.dtype)
    result[first] = sums
    return result


def tolerance(kind: Kind, terms: int) -> Tolerance:
    """Of sums of up to `terms` unit normals."""
    if kind == "i32":
        return EXACT
    return Tolerance(
        EPS32 * (2 + terms / 4),
        4 * EPS32,
        f"sums of up to {terms} unit normals: partial sums of size sqrt(j), each rounded",
    )
