"""The backward of `rms_norm` for its weight, in P parts of the rows: sum grad_out x rstd.

`column_sum` adds the parts up.
"""

from __future__ import annotations

from numba import njit

from ebm_wgpu.kernels._norms import CASES, SUM_CONSTANTS, backward_inputs, sum_tolerance
from ebm_wgpu.kernels._rows import part_rounds, part_sums, part_workgroups, parts_of
from ebm_wgpu.kernels.spec import Array, Arrays, Binding, Case, Kernel, Work


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


KERNEL = Kernel(
    stem="rms_norm_weight_backward",
    bindings=(
        Binding("x", "f32", ("R", "N"), half=True),
        Binding("rstd", "f32", ("R",)),
        Binding("grad_out", "f32", ("R", "N"), half=True),
        Binding("grad_weight", "f32", ("P", "N"), "out"),
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
            backward_inputs(mean, True, False),
            sum_tolerance(0, dims["R"]),
        )
        for (name, dims, mean), parts in zip(CASES, (2, 5, 1, 3), strict=True)
    ),
    work=lambda dims: Work(4.0 * dims["R"] * dims["N"], 8.0 * dims["R"] * dims["N"]),
    speed_case={"R": 16384, "N": 640, "P": 64},
)
