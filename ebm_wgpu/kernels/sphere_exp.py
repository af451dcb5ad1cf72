"""out = exp_x(v) = cos|v| x + sin|v| v/|v| by rows: the geodesic from x along the tangent v.

Lengths are in radians, up to 8192; v = 0 gives x exactly.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from ebm_wgpu.kernels._cases import tangent_rows, unit_rows
from ebm_wgpu.kernels._math import sincos_accurate
from ebm_wgpu.kernels._sphere import dot, sphere_kernel, sphere_tolerance
from ebm_wgpu.kernels.spec import Array, Arrays, Case, Dims

_ONE = np.float32(1)


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def mirror(x: Array, v: Array, out: Array) -> None:
    """Numba mirror."""
    for row in range(x.shape[0]):
        angle = np.sqrt(dot(v[row], v[row]))
        sine, cosine = sincos_accurate(angle)
        # A length that underflows to zero leaves out = x + v, which is right to rounding.
        ratio = sine / angle if angle > 0 else _ONE
        for i in range(x.shape[1]):
            out[row, i] = cosine * x[row, i] + ratio * v[row, i]


def reference(x: Array, v: Array) -> Arrays:
    """Float64 reference."""
    angle = np.linalg.norm(v, axis=1, keepdims=True)
    return {"out": np.cos(angle) * x + np.sinc(angle / np.pi) * v}


def _case(name: str, rows: int, d: int, length: float) -> Case:
    def inputs(rng: np.random.Generator, dims: Dims) -> Arrays:
        x = unit_rows(rng, dims["B"], dims["D"])
        return {"x": x, "v": tangent_rows(rng, x, length)}

    # The angle is a rounded length, so its error grows with it.
    tolerance = sphere_tolerance(d, 1.0, 4 + math.ceil(length))
    return Case(name, {"B": rows, "D": d}, inputs, tolerance)


KERNEL = sphere_kernel(
    "sphere_exp",
    ("x", "v"),
    mirror,
    reference,
    cases=(
        _case("odd", 7, 641, 0.7),
        _case("d8", 33, 8, 1.3),
        _case("no move", 2, 9, 0.0),
        _case("below underflow of the square", 2, 12, 1e-25),
        _case("tiny", 3, 65, 1e-6),
        _case("half a turn", 3, 65, math.pi),
        _case("many turns", 3, 130, 40.0),
    ),
    passes=2,
    reductions=1,
    flops=5.0,
)
