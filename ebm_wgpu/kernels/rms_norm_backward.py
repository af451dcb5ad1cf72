"""The backward of `rms_norm` for its rows: with g = grad_out weight and y = x rstd,

grad_x = rstd (g - y mean_k(g_k y_k)).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ebm_wgpu.kernels import _rounds
from ebm_wgpu.kernels._norms import CASES, backward_inputs, row_tolerance
from ebm_wgpu.kernels._rows import WG
from ebm_wgpu.kernels.spec import Array, Arrays, Binding, Case, Kernel, Work


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


KERNEL = Kernel(
    stem="rms_norm_backward",
    bindings=(
        Binding("x", "f32", ("R", "N"), half=True),
        Binding("weight", "f32", ("N",), half=True),
        Binding("rstd", "f32", ("R",)),
        Binding("grad_out", "f32", ("R", "N"), half=True),
        Binding("grad_x", "f32", ("R", "N"), "out", half=True),
    ),
    constants={"WG": WG},
    workgroups=lambda dims, params: dims["R"],
    mirror=mirror,
    reference=reference,
    rounds=_rounds.row_passes("N", 2, 1, WG),
    subgroup=True,
    cases=tuple(
        Case(name, dims, backward_inputs(mean, False, False), row_tolerance(0, dims["N"]))
        for name, dims, mean in CASES
    ),
    work=lambda dims: Work(9.0 * dims["R"] * dims["N"], 12.0 * dims["R"] * dims["N"]),
    speed_case={"R": 16384, "N": 640},
)
