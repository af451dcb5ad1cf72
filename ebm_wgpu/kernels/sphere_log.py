"""out = log_x(y) = theta/sin(theta) (y - cos(theta) x) by rows: the tangent at x that leads to y.

theta is the angle between the unit vectors x and y, in radians, and the length of the result. y = x
gives zero. So does y = -x exactly, where every direction is as good as another: callers that can
meet an antipode test `sphere_distance` for pi.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from ebm_wgpu.kernels._math import atan2_accurate
from ebm_wgpu.kernels._sphere import (
    chord_squares,
    dot,
    pairs_at,
    random_pairs,
    same_and_opposite,
    sphere_kernel,
    sphere_tolerance,
)
from ebm_wgpu.kernels.spec import Array, Arrays, Case

_ZERO, _ONE, _TWO = np.float32(0), np.float32(1), np.float32(2)


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def mirror(x: Array, y: Array, out: Array) -> None:
    """Numba mirror."""
    for row in range(x.shape[0]):
        minus, plus = chord_squares(x[row], y[row])
        theta = _TWO * atan2_accurate(np.sqrt(minus), np.sqrt(plus))
        # P_x(y - x) and P_x(y + x) are both P_x y; the shorter one keeps its digits.
        sign = -_ONE if minus <= plus else _ONE
        for i in range(x.shape[1]):
            out[row, i] = y[row, i] + sign * x[row, i]
        radial = dot(out[row], x[row])
        for i in range(x.shape[1]):
            out[row, i] -= radial * x[row, i]
        sine = np.sqrt(dot(out[row], out[row]))
        scale = theta / sine if sine > 0 else _ZERO
        for i in range(x.shape[1]):
            out[row, i] *= scale


def reference(x: Array, y: Array) -> Arrays:
    """Float64 reference."""
    minus = np.linalg.norm(x - y, axis=1, keepdims=True)
    plus = np.linalg.norm(x + y, axis=1, keepdims=True)
    short = np.where(minus <= plus, y - x, y + x)
    tangent = short - np.sum(short * x, axis=1, keepdims=True) * x
    sine = np.linalg.norm(tangent, axis=1, keepdims=True)
    theta = 2 * np.arctan2(minus, plus)
    return {"out": tangent * np.divide(theta, sine, out=np.zeros_like(sine), where=sine > 0)}


def _at_angle(name: str, rows: int, d: int, angle: float) -> Case:
    return Case(name, {"B": rows, "D": d}, pairs_at(angle), sphere_tolerance(d, angle))


KERNEL = sphere_kernel(
    "sphere_log",
    ("x", "y"),
    mirror,
    reference,
    cases=(
        Case("odd", {"B": 7, "D": 641}, random_pairs, sphere_tolerance(641, math.pi / 2)),
        Case("d8", {"B": 33, "D": 8}, random_pairs, sphere_tolerance(8, math.pi)),
        Case("same and opposite", {"B": 4, "D": 20}, same_and_opposite, sphere_tolerance(20, 1e-7)),
        _at_angle("close", 3, 65, 1e-3),
        _at_angle("almost opposite", 3, 130, math.pi - 1e-3),
        _at_angle("quarter turn, one row", 1, 9, math.pi / 2),
    ),
    passes=4,
    reductions=4,
    flops=15.0,
)
