"""The backward of `layer_norm` for its rows: with g = grad_out weight and y = (x - mean) rstd,

grad_x = rstd (g - mean_k g_k - y mean_k(g_k y_k)).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ebm_wgpu.kernels._norms import backward_kernel
from ebm_wgpu.kernels.spec import Array, Arrays


@njit(cache=True, fastmath={"reassoc", "contract"})
def mirror(
    x: Array, weight: Array, mean: Array, rstd: Array, grad_out: Array, grad_x: Array
) -> None:
    """Numba mirror."""
    count = np.float32(x.shape[1])
    for row in range(x.shape[0]):
        centre, scale = mean[row], rstd[row]
        shift = np.float32(0)
        along = np.float32(0)
        for k in range(x.shape[1]):
            g = grad_out[row, k] * weight[k]
            shift += g
            along += g * (x[row, k] - centre) * scale
        shift /= count
        along /= count
        for k in range(x.shape[1]):
            y = (x[row, k] - centre) * scale
            grad_x[row, k] = scale * (grad_out[row, k] * weight[k] - shift - y * along)


def reference(x: Array, weight: Array, mean: Array, rstd: Array, grad_out: Array) -> Arrays:
    """Float64 reference."""
    y = (x - mean[:, None]) * rstd[:, None]
    g = grad_out * weight
    along = np.mean(g * y, 1, keepdims=True)
    return {"grad_x": rstd[:, None] * (g - g.mean(1, keepdims=True) - y * along)}


KERNEL = backward_kernel("layer", mirror, reference, passes=2, reductions=2, flops=15.0)
