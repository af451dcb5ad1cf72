"""The backward of `layer_norm` for its weight and bias, in P parts of the rows:

grad_weight = sum grad_out (x - mean) rstd,   grad_bias = sum grad_out.

`column_sum` adds the parts up: two stages, each sum with one owner and a fixed order.
"""

from __future__ import annotations

from numba import njit

from ebm_wgpu.kernels._norms import weight_backward_kernel
from ebm_wgpu.kernels._rows import part_sums
from ebm_wgpu.kernels.spec import Array, Arrays


@njit(cache=True, fastmath={"contract"})
def mirror(
    x: Array, mean: Array, rstd: Array, grad_out: Array, grad_weight: Array, grad_bias: Array
) -> None:
    """Numba mirror."""
    grad_weight[:] = 0
    grad_bias[:] = 0
    parts = grad_weight.shape[0]
    step = -(-x.shape[0] // parts)
    for row in range(x.shape[0]):
        part = row // step
        for k in range(x.shape[1]):
            y = (x[row, k] - mean[row]) * rstd[row]
            grad_weight[part, k] += grad_out[row, k] * y
            grad_bias[part, k] += grad_out[row, k]


def reference(x: Array, mean: Array, rstd: Array, grad_out: Array, P: int) -> Arrays:
    """Float64 reference."""
    y = (x - mean[:, None]) * rstd[:, None]
    return {"grad_weight": part_sums(grad_out * y, P), "grad_bias": part_sums(grad_out, P)}


KERNEL = weight_backward_kernel("layer", mirror, reference, flops=6.0)
