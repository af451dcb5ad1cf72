"""out = arccos(x.y) = 2 atan2(|x - y|, |x + y|) by rows: the angle of unit vectors, in [0, pi].

Exact to rounding at 0 and at pi, where the arc cosine loses half its digits.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from ebm_wgpu.kernels import _rounds
from ebm_wgpu.kernels._cases import EPS32, tangent_rows, unit_rows
from ebm_wgpu.kernels._math import atan2_accurate
from ebm_wgpu.kernels._sphere import chord_squares
from ebm_wgpu.kernels.spec import Array, Arrays, Binding, Case, Dims, Kernel, Tolerance, Work

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


def _random(rng: np.random.Generator, dims: Dims) -> Arrays:
    return {
        "x": unit_rows(rng, dims["B"], dims["D"]),
        "y": unit_rows(rng, dims["B"], dims["D"]),
    }


def _same_and_opposite(rng: np.random.Generator, dims: Dims) -> Arrays:
    x = unit_rows(rng, dims["B"], dims["D"])
    return {"x": x, "y": x * np.where(np.arange(dims["B"]) % 2, -1, 1)[:, None].astype(np.float32)}


def _angles(rng: np.random.Generator, dims: Dims) -> Arrays:
    x = unit_rows(rng, dims["B"], dims["D"])
    small = 10.0 ** -np.arange(dims["B"])[:, None]
    angle = np.where(np.arange(dims["B"])[:, None] % 2, math.pi - small, small)
    y = np.cos(angle) * x + np.sin(angle) * tangent_rows(rng, x)
    return {"x": x, "y": y.astype(np.float32)}


KERNEL = Kernel(
    stem="sphere_distance",
    bindings=(
        Binding("x", "f32", ("B", "D")),
        Binding("y", "f32", ("B", "D")),
        Binding("out", "f32", ("B",), "out"),
    ),
    workgroups=lambda dims, params: dims["B"],
    mirror=mirror,
    reference=reference,
    rounds=_rounds.row_passes("D", 1, 2),
    subgroup=True,
    cases=(
        Case("odd", {"B": 7, "D": 641}, _random, _TOLERANCE),
        Case("d8", {"B": 33, "D": 8}, _random, _TOLERANCE),
        Case("same and opposite", {"B": 4, "D": 20}, _same_and_opposite, _TOLERANCE),
        Case("towards 0 and pi", {"B": 8, "D": 65}, _angles, _TOLERANCE),
        Case("one row", {"B": 1, "D": 9}, _random, _TOLERANCE),
    ),
    work=lambda dims: Work(6.0 * dims["B"] * dims["D"], 8.0 * dims["B"] * dims["D"]),
    speed_case={"B": 65536, "D": 640},
)
