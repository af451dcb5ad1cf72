"""What kernels that take each row, or each entry, on its own have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ebm_wgpu.kernels import _rounds
from ebm_wgpu.kernels.spec import (
    Array,
    Arrays,
    Binding,
    Case,
    Dims,
    Gradient,
    Kernel,
    Param,
    Scalar,
    Work,
)

WG = 256
"""Invocations of a workgroup."""
COLUMNS = 64
"""Columns a workgroup sums; its WG / COLUMNS lanes share the rows."""
ROWS_OF_A_PART = 64
MOST_PARTS = 64

Workgroups = Callable[[Dims, Mapping[str, Scalar]], int]


def entries(*names: str, each: int = 1) -> Workgroups:
    """Workgroups for `each` entries an invocation, of a product of dimensions."""

    def workgroups(dims: Dims, params: Mapping[str, Scalar]) -> int:
        count = 1
        for name in names:
            count *= dims[name]
        return -(-count // (each * WG))

    return workgroups


def row_parts(rows: int) -> int:
    """Into how many parts a sum over rows is best cut: few to add up, enough to fill a GPU."""
    return min(MOST_PARTS, max(1, rows // ROWS_OF_A_PART))


def parts_of(dims: dict[str, int], params: Mapping[str, Scalar]) -> dict[str, int]:
    """Sets P, the number of parts of the R rows, where the caller leaves it open."""
    return {"P": dims.get("P", row_parts(dims["R"]))}


def part_workgroups(dims: Dims, params: Mapping[str, Scalar]) -> int:
    """A workgroup for each part and each COLUMNS columns."""
    return dims["P"] * -(-dims["N"] // COLUMNS)


def part_rounds(dims: Dims, params: Mapping[str, Scalar]) -> int:
    """Rounds of a sum over the rows of one part."""
    lanes = WG // COLUMNS
    step = -(-dims["R"] // dims["P"])
    return _rounds.strided(step, lanes) + _rounds.loop(lanes)


def part_sums(terms: Array, parts: int) -> Array:
    """Float64 sums over the rows of each part: (R, N) -> (parts, N)."""
    step = -(-len(terms) // parts)
    return np.stack([terms[p * step : (p + 1) * step].sum(0) for p in range(parts)])


def row_kernel(
    stem: str,
    bindings: tuple[Binding, ...],
    mirror: Callable[..., None],
    reference: Callable[..., Arrays],
    cases: tuple[Case, ...],
    passes: int,
    reductions: int,
    params: tuple[Param, ...] = (),
    workgroup: int = WG,
    gradient: Gradient | None = None,
    cost: tuple[float, float] | None = None,
    speed_case: Dims | None = None,
) -> Kernel:
    """The record of a kernel that gives each row of a matrix to a workgroup.

    Args:
        stem: as in the declaration, like the others that are not named here.
        bindings: the matrix (rows, columns) is the first.
        mirror: Numba implementation.
        reference: float64 implementation.
        cases: the proofs.
        passes: how often a row is gone over.
        reductions: calls of lib/reduce.
        params: scalars.
        workgroup: invocations of a workgroup.
        gradient: the proof of the backward.
        cost: operations, and bytes that are read or written, of an entry of the matrix.
        speed_case: shapes for speed mode.
    """
    rows, columns = (str(axis) for axis in bindings[0].shape)
    return Kernel(
        stem=stem,
        bindings=bindings,
        params=params,
        constants={"WG": workgroup},
        workgroups=lambda dims, params: dims[rows],
        mirror=mirror,
        reference=reference,
        rounds=_rounds.row_passes(columns, passes, reductions, workgroup),
        subgroup=True,
        cases=cases,
        gradient=gradient,
        work=None if cost is None else _work_of_entries(rows, columns, *cost),
        speed_case=speed_case,
    )


def _work_of_entries(
    rows: str, columns: str, flops: float, nbytes: float
) -> Callable[[Dims], Work]:
    return lambda dims: Work(
        flops * dims[rows] * dims[columns], nbytes * dims[rows] * dims[columns]
    )
