"""The backward of `rms_norm` for its weight, in P parts of the rows: sum grad_out x rstd.

`column_sum` adds the parts up.
"""

from __future__ import annotations

from numba import njit

from ebm_wgpu.kernels._norms import weight_backward_kernel
from ebm_wgpu.kernels._rows import part_sums
from ebm_wgpu.kernels.spec import Array, Arrays


@njit(cache=True, fastmath={"contract"})
def mirror(x: Array, rstd: Array, grad_out: Array, grad_weight: Array) -> None:
    """Numba mirror."""
    grad_weight[:] = 0
    step = -(-x.shape[0] // grad_weight.shape[0])
    for row in range(x.shape[0]):
        for k in range(x.shape[1]):
            grad_weight[row // step, k] += grad_out[row, k] * x[row, k] * rstd[row]


def reference(x: Array, rstd: Array, grad_out: Array, P: int) -> Arrays:
    """Float64 reference."""
    return {"grad_weight": part_sums(grad_out * x * rstd[:, None], P)}


KERNEL = weight_backward_kernel("rms", mirror, reference, flops=4.0)
