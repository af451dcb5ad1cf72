"""out = v - (v.(x+y))/(1+x.y) (x+y) by rows: parallel transport of v along the geodesic x to y.

For v tangent at x the result is tangent at y and as long as v. y = -x exactly, which no single
geodesic reaches, gives v itself: tangent there too, and as long.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from ebm_wgpu.kernels._cases import tangent_rows
from ebm_wgpu.kernels._math import F32
from ebm_wgpu.kernels._sphere import (
    Pairs,
    pairs_at,
    random_pairs,
    same_and_opposite,
    sphere_kernel,
    sphere_tolerance,
)
from ebm_wgpu.kernels.spec import Array, Arrays, Case, Dims

_ZERO, _TWO = np.float32(0), np.float32(2)


@njit(cache=True, error_model="numpy", fastmath={"contract", "reassoc"})
def _factor(x: Array, y: Array, v: Array) -> F32:
    along, square = _ZERO, _ZERO
    for i in range(x.shape[0]):
        middle = x[i] + y[i]
        along += v[i] * middle
        square += middle * middle
    return _TWO * along / square if square > 0 else _ZERO


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def mirror(x: Array, y: Array, v: Array, out: Array) -> None:
    """Numba mirror."""
    for row in range(x.shape[0]):
        factor = _factor(x[row], y[row], v[row])
        for i in range(x.shape[1]):
            out[row, i] = v[row, i] - factor * (x[row, i] + y[row, i])


def reference(x: Array, y: Array, v: Array) -> Arrays:
    """Float64 reference."""
    middle = x + y
    square = np.sum(middle**2, axis=1, keepdims=True)
    along = 2 * np.sum(v * middle, axis=1, keepdims=True)
    factor = np.divide(along, square, out=np.zeros_like(square), where=square > 0)
    return {"out": v - factor * middle}


def _case(name: str, rows: int, d: int, pairs: Pairs, length: float = 1.0) -> Case:
    def inputs(rng: np.random.Generator, dims: Dims) -> Arrays:
        arrays = pairs(rng, dims)
        return arrays | {"v": tangent_rows(rng, arrays["x"], length)}

    return Case(name, {"B": rows, "D": d}, inputs, sphere_tolerance(d, length))


KERNEL = sphere_kernel(
    "sphere_transport",
    ("x", "y", "v"),
    mirror,
    reference,
    cases=(
        _case("odd", 7, 641, random_pairs),
        _case("d8", 33, 8, random_pairs),
        _case("same and opposite", 4, 20, same_and_opposite),
        _case("short step, fast", 3, 65, pairs_at(1e-3), length=25.0),
        _case("almost opposite", 3, 130, pairs_at(math.pi - 1e-3)),
        _case("one row", 1, 9, pairs_at(2.0)),
    ),
    passes=2,
    reductions=2,
    flops=7.0,
)
