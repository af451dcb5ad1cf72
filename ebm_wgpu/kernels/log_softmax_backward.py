"""The backward of `log_softmax`: grad_x = grad_out - exp(y) sum_k grad_out_k, y = log_softmax."""

from __future__ import annotations

import numpy as np
from numba import njit

from ebm_wgpu.kernels._cases import EPS32, normal
from ebm_wgpu.kernels._math import exp_accurate
from ebm_wgpu.kernels._readout import row_sum
from ebm_wgpu.kernels._softmax import backward_kernel, row_inputs
from ebm_wgpu.kernels.log_softmax import exact_log_softmax
from ebm_wgpu.kernels.spec import Array, Arrays, Case, Dims, Tolerance


@njit(cache=True, fastmath={"contract"}, error_model="numpy")
def mirror(y: Array, grad_out: Array, grad_x: Array) -> None:
    """Numba mirror."""
    for row in range(y.shape[0]):
        total = row_sum(grad_out[row])
        for k in range(y.shape[1]):
            grad_x[row, k] = grad_out[row, k] - exp_accurate(y[row, k]) * total


def reference(y: Array, grad_out: Array) -> Arrays:
    """Float64 reference."""
    return {"grad_x": grad_out - np.exp(y) * grad_out.sum(1, keepdims=True)}


def _case(name: str, dims: Dims, scale: float, masked: bool) -> Case:
    def inputs(rng: np.random.Generator, sizes: Dims) -> Arrays:
        y = exact_log_softmax(row_inputs(scale, masked)(rng, sizes)["x"].astype(np.float64))
        return {"y": y.astype(np.float32), "grad_out": normal(rng, sizes["R"], sizes["N"])}

    count = dims["N"]
    tolerance = Tolerance(
        EPS32 * (4 + 8 * count**0.5),
        4 * EPS32,
        f"a sum of {count} numbers of order one, times a share good to 8 eps",
    )
    return Case(name, dims, inputs, tolerance)


KERNEL = backward_kernel("log_softmax_backward", mirror, reference, _case, flops=20.0)
