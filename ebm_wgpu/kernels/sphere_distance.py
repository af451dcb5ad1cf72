"""out = arccos(x.y) = 2 atan2(|x - y|, |x + y|) by rows: the angle of unit vectors, in [0, pi].

Exact to rounding at 0 and at pi, where the arc cosine loses half its digits.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from ebm_wgpu.kernels._cases import EPS32
from ebm_wgpu.kernels._math import atan2_accurate
from ebm_wgpu.kernels._sphere import (
    chord_squares,
    pairs_at,
    random_pairs,
    same_and_opposite,
    sphere_kernel,
)
from ebm_wgpu.kernels.spec import Array, Arrays, Case, Dims, Tolerance

_TWO = np.float32(2)
_TOLERANCE = Tolerance(
    0.0, 12 * EPS32, "sums of squares (4 eps), two roots, a quotient and an arc tangent of 3 ULP"
)


@njit(cache=True, error_model="numpy")
def mirror(x: Array, y: Array, out: Array) -> None:
    """Numba mirror."""
    for row in range(x.shape[0]):
        minus, plus = chord_squares(x[row], y[row])
        out[row] = _TWO * atan2_accurate(np.sqrt(minus), np.sqrt(plus))


def reference(x: Array, y: Array) -> Arrays:
    """Float64 reference."""
    minus, plus = np.linalg.norm(x - y, axis=1), np.linalg.norm(x + y, axis=1)
    return {"out": 2 * np.arctan2(minus, plus)}


def _towards_the_ends(rng: np.random.Generator, dims: Dims) -> Arrays:
    small = 10.0 ** -np.arange(dims["B"])[:, None]
    angle = np.where(np.arange(dims["B"])[:, None] % 2, math.pi - small, small)
    return pairs_at(angle)(rng, dims)


KERNEL = sphere_kernel(
    "sphere_distance",
    ("x", "y"),
    mirror,
    reference,
    cases=(
        Case("odd", {"B": 7, "D": 641}, random_pairs, _TOLERANCE),
        Case("d8", {"B": 33, "D": 8}, random_pairs, _TOLERANCE),
        Case("same and opposite", {"B": 4, "D": 20}, same_and_opposite, _TOLERANCE),
        Case("towards 0 and pi", {"B": 8, "D": 65}, _towards_the_ends, _TOLERANCE),
        Case("one row", {"B": 1, "D": 9}, random_pairs, _TOLERANCE),
    ),
    passes=1,
    reductions=2,
    flops=6.0,
    out_shape=("B",),
)
