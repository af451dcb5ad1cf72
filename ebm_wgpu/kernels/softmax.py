"""out[r] = softmax(x[r]) = exp(x[r] - logsumexp x[r]), over the last axis.

An entry of -inf has no share; a row of nothing else gives NaN.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ebm_wgpu.kernels._cases import EPS32
from ebm_wgpu.kernels._readout import row_max, row_sum, shares
from ebm_wgpu.kernels._softmax import forward_kernel, row_inputs
from ebm_wgpu.kernels.spec import (
    Array,
    Arrays,
    Case,
    Dims,
    Tolerance,
)


@njit(cache=True, error_model="numpy")
def mirror(x: Array, out: Array) -> None:
    """Numba mirror."""
    for row in range(x.shape[0]):
        shares(x[row], row_max(x[row]), out[row])
        scale = np.float32(1) / row_sum(out[row])
        for k in range(x.shape[1]):
            out[row, k] *= scale


def exact_softmax(x: Array) -> Array:
    """Float64 softmax of each row."""
    shifted = np.exp(x - x.max(1, keepdims=True))
    result: Array = shifted / shifted.sum(1, keepdims=True)
    return result


def reference(x: Array) -> Arrays:
    """Float64 reference."""
    return {"out": exact_softmax(x)}


def _case(name: str, dims: Dims, scale: float, masked: bool) -> Case:
    tolerance = Tolerance(
        1e-36,
        EPS32 * (8 + 8 * scale),
        f"differences of numbers up to {5 * scale:g}, rounded, are the errors of logarithms",
    )
    return Case(name, dims, row_inputs(scale, masked), tolerance)


KERNEL = forward_kernel("softmax", mirror, reference, _case, flops=40.0)
