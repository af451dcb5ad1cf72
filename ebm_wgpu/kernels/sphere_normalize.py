"""out = x / |x| by rows: the retraction of R^d onto the sphere. A zero row stays zero."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numba import njit, prange

from ebm_wgpu.kernels._cases import ELEMENTWISE, EPS32, normal
from ebm_wgpu.kernels._sphere import sphere_kernel
from ebm_wgpu.kernels.spec import Array, Arrays, Case, Dims, Gradient, Tolerance


@njit(parallel=True, cache=True)
def mirror(x: Array, out: Array) -> None:
    """Numba mirror."""
    for row in prange(x.shape[0]):
        peak = np.float32(0)
        for i in range(x.shape[1]):
            peak = max(peak, abs(x[row, i]))
        if peak == 0:
            out[row] = 0
            continue
        total = np.float32(0)
        for i in range(x.shape[1]):
            value = x[row, i] / peak
            total += value * value
        factor = np.float32(1) / np.sqrt(total)
        for i in range(x.shape[1]):
            out[row, i] = x[row, i] / peak * factor


def reference(x: Array) -> Arrays:
    """Float64 reference."""
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    return {"out": np.divide(x, norm, out=np.zeros_like(x), where=norm > 0)}


def _scaled(factor: float) -> Callable[[np.random.Generator, Dims], Arrays]:
    return lambda rng, dims: {"x": normal(rng, dims["B"], dims["D"], scale=factor)}


def _with_zero_row(rng: np.random.Generator, dims: Dims) -> Arrays:
    x = normal(rng, dims["B"], dims["D"])
    x[0] = 0
    return {"x": x}


KERNEL = sphere_kernel(
    "sphere_normalize",
    ("x",),
    mirror,
    reference,
    cases=(
        Case("odd", {"B": 7, "D": 641}, _scaled(1.0), ELEMENTWISE),
        Case("d8", {"B": 33, "D": 8}, _scaled(1.0), ELEMENTWISE),
        Case("tiny values", {"B": 3, "D": 65}, _scaled(1e-30), ELEMENTWISE),
        Case("huge values", {"B": 3, "D": 65}, _scaled(1e30), ELEMENTWISE),
        Case("zero row", {"B": 3, "D": 16}, _with_zero_row, ELEMENTWISE),
    ),
    passes=3,
    reductions=2,
    flops=4.0,
    gradient=Gradient(
        wrt=("x",),
        vjp=lambda run, inputs, params, cotangents: {
            "x": run("sphere_normalize_backward", x=inputs["x"], grad_out=cotangents["out"])[
                "grad_x"
            ]
        },
        outputs=("out",),
        tolerance=Tolerance(
            8 * EPS32, 32 * EPS32, "float32 sums of rows; differences good to 1e-9"
        ),
        cases=("odd", "d8"),
    ),
)
