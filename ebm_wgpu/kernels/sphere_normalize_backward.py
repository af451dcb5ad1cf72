"""grad_x = P_n g / |x|, n = x/|x|: the gradient of `sphere_normalize`, g = grad_out, by rows.

A zero row, where there is none, gets zeros.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ebm_wgpu.kernels._cases import EPS32, normal
from ebm_wgpu.kernels._math import F32
from ebm_wgpu.kernels._sphere import sphere_kernel
from ebm_wgpu.kernels.spec import Array, Arrays, Case, Dims, Tolerance

_ZERO, _ONE = np.float32(0), np.float32(1)


@njit(cache=True, error_model="numpy", fastmath={"contract", "reassoc"})
def _sums(x: Array, g: Array, scale: F32) -> tuple[F32, F32]:
    square, product = _ZERO, _ZERO
    for i in range(x.shape[0]):
        value = x[i] * scale
        square += value * value
        product += value * g[i]
    return square, product


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def mirror(x: Array, grad_out: Array, grad_x: Array) -> None:
    """Numba mirror."""
    for row in range(x.shape[0]):
        peak = _ZERO
        for i in range(x.shape[1]):
            peak = max(peak, abs(x[row, i]))
        if peak == _ZERO:
            grad_x[row] = _ZERO
            continue
        scale = _ONE / peak
        square, product = _sums(x[row], grad_out[row], scale)
        inverse = _ONE / np.sqrt(square)
        radial = product * inverse * inverse
        for i in range(x.shape[1]):
            across = grad_out[row, i] - radial * (x[row, i] * scale)
            grad_x[row, i] = across * inverse * scale


def reference(x: Array, grad_out: Array) -> Arrays:
    """Float64 reference."""
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    inverse = np.divide(1, norm, out=np.zeros_like(norm), where=norm > 0)
    unit = x * inverse
    return {"grad_x": (grad_out - np.sum(grad_out * unit, axis=1, keepdims=True) * unit) * inverse}


def _case(name: str, rows: int, d: int, scale: float, zero_row: bool = False) -> Case:
    def inputs(rng: np.random.Generator, dims: Dims) -> Arrays:
        x = normal(rng, dims["B"], dims["D"], scale=scale)
        if zero_row:
            x[0] = 0
        return {"x": x, "grad_out": normal(rng, dims["B"], dims["D"])}

    # Entries of x of size `scale`, so rows of length `scale` sqrt(d).
    tolerance = Tolerance(
        16 * EPS32 / (scale * d**0.5),
        4 * EPS32,
        "float32 sums of rows (4 eps) times coordinates of up to 4 deviations, over |x|",
    )
    return Case(name, {"B": rows, "D": d}, inputs, tolerance)


KERNEL = sphere_kernel(
    "sphere_normalize_backward",
    ("x", "grad_out"),
    mirror,
    reference,
    cases=(
        _case("odd", 7, 641, 1.0),
        _case("d8", 33, 8, 1.0),
        _case("tiny values", 3, 65, 1e-30),
        _case("huge values", 3, 65, 1e30),
        _case("zero row", 3, 16, 1.0, zero_row=True),
    ),
    passes=3,
    reductions=3,
    flops=9.0,
    out="grad_x",
)
