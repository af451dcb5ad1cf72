"""out = P_x g = g - (x.g) x by rows: the part of g tangent to the sphere at the unit vector x.

P_x is symmetric, so the kernel is its own backward with respect to g.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ebm_wgpu.kernels._cases import EPS32, normal, unit_rows
from ebm_wgpu.kernels._sphere import dot, sphere_kernel, sphere_tolerance
from ebm_wgpu.kernels.spec import Array, Arrays, Case, Dims, Gradient, Tolerance


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def mirror(x: Array, g: Array, out: Array) -> None:
    """Numba mirror."""
    for row in range(x.shape[0]):
        radial = dot(x[row], g[row])
        for i in range(x.shape[1]):
            out[row, i] = g[row, i] - radial * x[row, i]


def reference(x: Array, g: Array) -> Arrays:
    """Float64 reference."""
    return {"out": g - np.sum(x * g, axis=1, keepdims=True) * x}


def _random(rng: np.random.Generator, dims: Dims) -> Arrays:
    x = unit_rows(rng, dims["B"], dims["D"])
    return {"x": x, "g": normal(rng, dims["B"], dims["D"])}


def _almost_radial(rng: np.random.Generator, dims: Dims) -> Arrays:
    x = unit_rows(rng, dims["B"], dims["D"])
    return {"x": x, "g": 3 * x + normal(rng, dims["B"], dims["D"], scale=1e-4)}


def _zero(rng: np.random.Generator, dims: Dims) -> Arrays:
    x = unit_rows(rng, dims["B"], dims["D"])
    return {"x": x, "g": np.zeros_like(x)}


KERNEL = sphere_kernel(
    "sphere_project",
    ("x", "g"),
    mirror,
    reference,
    cases=(
        Case("odd", {"B": 7, "D": 641}, _random, sphere_tolerance(641, 641**0.5, 4)),
        Case("d8", {"B": 33, "D": 8}, _random, sphere_tolerance(8, 8**0.5, 4)),
        Case("almost radial", {"B": 3, "D": 130}, _almost_radial, sphere_tolerance(130, 3, 4)),
        Case("zero g, one row", {"B": 1, "D": 9}, _zero, sphere_tolerance(9, 1, 4)),
    ),
    passes=2,
    reductions=1,
    flops=4.0,
    gradient=Gradient(
        wrt=("g",),
        vjp=lambda run, inputs, params, cotangents: {
            "g": run("sphere_project", x=inputs["x"], g=cotangents["out"])["out"]
        },
        outputs=("out",),
        tolerance=Tolerance(4 * EPS32, 16 * EPS32, "the projection is linear: float32 sums only"),
    ),
)
