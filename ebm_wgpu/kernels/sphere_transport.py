"""out = v - (v.(x+y))/(1+x.y) (x+y) by rows: parallel transport of v along the geodesic x to y.

For v tangent at x the result is tangent at y and as long as v. y = -x exactly, which no single
geodesic reaches, gives v itself: tangent there too, and as long.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from ebm_wgpu.kernels import _rounds
from ebm_wgpu.kernels._cases import tangent_rows, unit_rows
from ebm_wgpu.kernels._math import F32
from ebm_wgpu.kernels._sphere import sphere_tolerance
from ebm_wgpu.kernels.spec import Array, Arrays, Binding, Case, Dims, Kernel, Work

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


def _random(rng: np.random.Generator, dims: Dims) -> Arrays:
    x = unit_rows(rng, dims["B"], dims["D"])
    return {"x": x, "y": unit_rows(rng, dims["B"], dims["D"]), "v": tangent_rows(rng, x)}


def _at_angle(name: str, rows: int, d: int, angle: float, length: float) -> Case:
    def inputs(rng: np.random.Generator, dims: Dims) -> Arrays:
        x = unit_rows(rng, dims["B"], dims["D"])
        across = tangent_rows(rng, x)
        y = math.cos(angle) * x.astype(np.float64) + math.sin(angle) * across
        return {"x": x, "y": y.astype(np.float32), "v": tangent_rows(rng, x, length)}

    return Case(name, {"B": rows, "D": d}, inputs, sphere_tolerance(d, length))


def _same_and_opposite(rng: np.random.Generator, dims: Dims) -> Arrays:
    x = unit_rows(rng, dims["B"], dims["D"])
    y = x * np.where(np.arange(dims["B"]) % 2, -1, 1)[:, None].astype(np.float32)
    return {"x": x, "y": y, "v": tangent_rows(rng, x)}


KERNEL = Kernel(
    stem="sphere_transport",
    bindings=(
        Binding("x", "f32", ("B", "D")),
        Binding("y", "f32", ("B", "D")),
        Binding("v", "f32", ("B", "D")),
        Binding("out", "f32", ("B", "D"), "out"),
    ),
    workgroups=lambda dims, params: dims["B"],
    mirror=mirror,
    reference=reference,
    rounds=_rounds.row_passes("D", 2, 2),
    subgroup=True,
    cases=(
        Case("odd", {"B": 7, "D": 641}, _random, sphere_tolerance(641)),
        Case("d8", {"B": 33, "D": 8}, _random, sphere_tolerance(8)),
        Case("same and opposite", {"B": 4, "D": 20}, _same_and_opposite, sphere_tolerance(20)),
        _at_angle("short step, fast", 3, 65, 1e-3, 25.0),
        _at_angle("almost opposite", 3, 130, math.pi - 1e-3, 1.0),
        _at_angle("one row", 1, 9, 2.0, 1.0),
    ),
    work=lambda dims: Work(7.0 * dims["B"] * dims["D"], 16.0 * dims["B"] * dims["D"]),
    speed_case={"B": 65536, "D": 640},
)
