"""What the kernels of the sphere share: row reductions, errors of float32, inputs and records."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numba import njit

from ebm_wgpu.kernels._cases import EPS32, tangent_rows, unit_rows
from ebm_wgpu.kernels._math import F32
from ebm_wgpu.kernels._rows import row_kernel
from ebm_wgpu.kernels.spec import Array, Arrays, Binding, Case, Dims, Gradient, Kernel, Tolerance

Pairs = Callable[[np.random.Generator, Dims], Arrays]
"""Draws unit vectors x and y, (B, D) each."""
_SUMS = {"contract", "reassoc"}
_ZERO = np.float32(0)


@njit(cache=True, error_model="numpy", fastmath=_SUMS)
def dot(x: Array, y: Array) -> F32:
    """x.y of two float32 vectors."""
    total = _ZERO
    for i in range(x.shape[0]):
        total += x[i] * y[i]
    return total


@njit(cache=True, error_model="numpy", fastmath=_SUMS)
def chord_squares(x: Array, y: Array) -> tuple[F32, F32]:
    """|x - y|^2 and |x + y|^2 of two float32 vectors."""
    difference, total = _ZERO, _ZERO
    for i in range(x.shape[0]):
        minus, plus = x[i] - y[i], x[i] + y[i]
        difference += minus * minus
        total += plus * plus
    return difference, total


def coordinate_bound(d: int) -> float:
    """A bound on the coordinates of random unit vectors: 5 standard deviations, at most 1."""
    return min(1.0, 5 / math.sqrt(d))


def sphere_tolerance(d: int, length: float = 1.0, roundings: int = 8) -> Tolerance:
    """Tolerance for vectors of the given length made by reductions over rows.

    A row reduction in float32 is good to about 4 eps of the product of the lengths of its factors
    (64 partial sums of d/64 terms each, then a tree); what it multiplies has coordinates of at most
    `coordinate_bound` times a length.
    """
    bound = coordinate_bound(d)
    return Tolerance(
        roundings * EPS32 * length * bound,
        4 * EPS32,
        f"{roundings} eps of length {length:g} on coordinates of at most {bound:.2g}, and rounding",
    )


def random_pairs(rng: np.random.Generator, dims: Dims) -> Arrays:
    """Unit vectors x and y, independent of each other."""
    return {
        "x": unit_rows(rng, dims["B"], dims["D"]),
        "y": unit_rows(rng, dims["B"], dims["D"]),
    }


def same_and_opposite(rng: np.random.Generator, dims: Dims) -> Arrays:
    """Unit vectors x and y, y = x and y = -x by turns."""
    x = unit_rows(rng, dims["B"], dims["D"])
    return {"x": x, "y": x * np.where(np.arange(dims["B"]) % 2, -1, 1)[:, None].astype(np.float32)}


def pairs_at(angle: float | Array) -> Pairs:
    """Unit vectors x and y at an angle, or at one (B, 1) for each row."""

    def draw(rng: np.random.Generator, dims: Dims) -> Arrays:
        x = unit_rows(rng, dims["B"], dims["D"])
        across = tangent_rows(rng, x)
        y = np.cos(angle) * x.astype(np.float64) + np.sin(angle) * across
        return {"x": x, "y": y.astype(np.float32)}

    return draw


def sphere_kernel(
    stem: str,
    inputs: tuple[str, ...],
    mirror: Callable[..., None],
    reference: Callable[..., Arrays],
    cases: tuple[Case, ...],
    passes: int,
    reductions: int,
    flops: float,
    out: str = "out",
    out_shape: tuple[str, ...] = ("B", "D"),
    gradient: Gradient | None = None,
) -> Kernel:
    """The record of a kernel that maps rows (B, D) to rows, a workgroup a row.

    Args:
        stem: its name.
        inputs: names of the arrays (B, D) it reads.
        mirror: as in the declaration, like `reference`, `cases` and `gradient`.
        reference: float64.
        cases: the proofs.
        passes: how often a row is gone over.
        reductions: calls of lib/reduce.
        flops: of an entry.
        out: name of what it writes.
        out_shape: of what it writes.
        gradient: the proof of its backward.
    """
    return row_kernel(
        stem,
        (
            *(Binding(name, "f32", ("B", "D")) for name in inputs),
            Binding(out, "f32", out_shape, "out"),
        ),
        mirror,
        reference,
        cases,
        passes,
        reductions,
        workgroup=64,
        gradient=gradient,
        cost=(flops, 4.0 * (len(inputs) + ("D" in out_shape))),
        speed_case={"B": 65536, "D": 640},
    )
