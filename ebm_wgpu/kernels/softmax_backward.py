"""The backward of `softmax`: grad_x = y (grad_out - sum_k y_k grad_out_k), y the softmax."""

from __future__ import annotations

import numpy as np
from numba import njit

from ebm_wgpu.kernels._cases import EPS32, normal
from ebm_wgpu.kernels._softmax import backward_kernel, row_inputs
from ebm_wgpu.kernels.softmax import exact_softmax
from ebm_wgpu.kernels.spec import Array, Arrays, Case, Dims, Tolerance


@njit(cache=True, fastmath={"reassoc", "contract"})
def mirror(y: Array, grad_out: Array, grad_x: Array) -> None:
    """Numba mirror."""
    for row in range(y.shape[0]):
        mean = np.float32(0)
        for k in range(y.shape[1]):
            mean += y[row, k] * grad_out[row, k]
        for k in range(y.shape[1]):
            grad_x[row, k] = y[row, k] * (grad_out[row, k] - mean)


def reference(y: Array, grad_out: Array) -> Arrays:
    """Float64 reference."""
    return {"grad_x": y * (grad_out - np.sum(y * grad_out, 1, keepdims=True))}


def _case(name: str, dims: Dims, scale: float, masked: bool) -> Case:
    def inputs(rng: np.random.Generator, sizes: Dims) -> Arrays:
        y = exact_softmax(row_inputs(scale, masked)(rng, sizes)["x"].astype(np.float64))
        return {"y": y.astype(np.float32), "grad_out": normal(rng, sizes["R"], sizes["N"])}

    tolerance = Tolerance(
        4 * EPS32, 4 * EPS32, "a mean of numbers below 5 by shares that sum to one, subtracted"
    )
    return Case(name, dims, inputs, tolerance)


KERNEL = backward_kernel("softmax_backward", mirror, reference, _case, flops=4.0)
