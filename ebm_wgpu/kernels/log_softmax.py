"""out[r] = x[r] - logsumexp x[r], over the last axis."""

from __future__ import annotations

import numpy as np
from numba import njit

from ebm_wgpu.kernels._cases import EPS32
from ebm_wgpu.kernels._readout import row_max, share_sum
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
        peak = row_max(x[row])
        log_total = np.log(share_sum(x[row], peak))
        for k in range(x.shape[1]):
            out[row, k] = (x[row, k] - peak) - log_total


def exact_log_softmax(x: Array) -> Array:
    """Float64 log-softmax of each row."""
    shifted = x - x.max(1, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return result


def reference(x: Array) -> Arrays:
    """Float64 reference."""
    return {"out": exact_log_softmax(x)}


def _case(name: str, dims: Dims, scale: float, masked: bool) -> Case:
    tolerance = Tolerance(
        EPS32 * (4 + 8 * scale),
        4 * EPS32,
        f"differences of float32 numbers up to {5 * scale:g}, and a sum of at most 601 shares",
    )
    return Case(name, dims, row_inputs(scale, masked), tolerance)


KERNEL = forward_kernel("log_softmax", mirror, reference, _case, flops=25.0)
