"""The backward of `layer_norm` for its weight and bias, in P parts of the rows:

grad_weight = sum grad_out (x - mean) rstd,   grad_bias = sum grad_out.

`column_sum` adds the parts up: two stages, each sum with one owner and a fixed order.
"""

from __future__ import annotations

from numba import njit

from ebm_wgpu.kernels._norms import CASES, SUM_CONSTANTS, backward_inputs, sum_tolerance
from ebm_wgpu.kernels._rows import part_rounds, part_sums, part_workgroups, parts_of
from ebm_wgpu.kernels.spec import Array, Arrays, Binding, Case, Kernel, Work


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


KERNEL = Kernel(
    stem="layer_norm_weight_backward",
    bindings=(
        Binding("x", "f32", ("R", "N"), half=True),
        Binding("mean", "f32", ("R",)),
        Binding("rstd", "f32", ("R",)),
        Binding("grad_out", "f32", ("R", "N"), half=True),
        Binding("grad_weight", "f32", ("P", "N"), "out"),
        Binding("grad_bias", "f32", ("P", "N"), "out"),
    ),
    constants=SUM_CONSTANTS,
    workgroups=part_workgroups,
    derive=parts_of,
    mirror=mirror,
    reference=reference,
    rounds=part_rounds,
    cases=tuple(
        Case(
            name,
            {**dims, "P": parts},
            backward_inputs(mean, True, True),
            sum_tolerance(mean, dims["R"]),
        )
        for (name, dims, mean), parts in zip(CASES, (2, 5, 1, 3), strict=True)
    ),
    work=lambda dims: Work(6.0 * dims["R"] * dims["N"], 8.0 * dims["R"] * dims["N"]),
    speed_case={"R": 16384, "N": 640, "P": 64},
)
