"""What the kernels of the sphere share: row reductions and the size of float32 errors."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from ebm_wgpu.kernels._cases import EPS32
from ebm_wgpu.kernels._math import F32
from ebm_wgpu.kernels.spec import Array, Tolerance

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
