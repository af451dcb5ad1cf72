"""The backward of `rms_norm` for its rows: with g = grad_out weight and y = x rstd,

grad_x = rstd (g - y mean_k(g_k y_k)).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ebm_wgpu.kernels._norms import backward_kernel
from ebm_wgpu.kernels.spec import Array, Arrays


@njit(cache=True, fastmath={"reassoc", "contract"})
def mirror(x: Array, weight: Array, rstd: Array, grad_out: Array, grad_x: Array) -> None:
    """Numba mirror."""
    for row in range(x.shape[0]):
        scale = rstd[row]
        along = np.float32(0)
        for k in range(x.shape[1]):
            along += grad_out[row, k] * weight[k] * x[row, k] * scale
        along /= np.float32(x.shape[1])
        for k in range(x.shape[1]):
            y = x[row, k] * scale
            grad_x[row, k] = scale * (grad_out[row, k] * weight[k] - y * along)


def reference(x: Array, weight: Array, rstd: Array, grad_out: Array) -> Arrays:
    """Float64 reference."""
    y = x * rstd[:, None]
    g = grad_out * weight
    return {"grad_x": rstd[:, None] * (g - y * np.mean(g * y, 1, keepdims=True))}


KERNEL = backward_kernel("rms", mirror, reference, passes=2, reductions=1, flops=9.0)
