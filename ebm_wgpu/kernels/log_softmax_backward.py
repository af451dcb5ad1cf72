"""The backward of `log_softmax`: grad_x = grad_out - exp(y) sum_k grad_out_k, y = log_softmax."""

from __future__ import annotations

import numpy as np
from numba import njit

from ebm_wgpu.kernels import _rounds
from ebm_wgpu.kernels._cases import EPS32, normal
from ebm_wgpu.kernels._math import exp_accurate
from ebm_wgpu.kernels._readout import row_sum
from ebm_wgpu.kernels._rows import WG
from ebm_wgpu.kernels.log_softmax import exact_log_softmax
from ebm_wgpu.kernels.softmax import CASES, row_inputs
from ebm_wgpu.kernels.spec import Array, Arrays, Binding, Case, Dims, Kernel, Tolerance, Work


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


KERNEL = Kernel(
    stem="log_softmax_backward",
    bindings=(
        Binding("y", "f32", ("R", "N"), half=True),
        Binding("grad_out", "f32", ("R", "N"), half=True),
        Binding("grad_x", "f32", ("R", "N"), "out", half=True),
    ),
    constants={"WG": WG},
    workgroups=lambda dims, params: dims["R"],
    mirror=mirror,
    reference=reference,
    rounds=_rounds.row_passes("N", 2, 1, WG),
    subgroup=True,
    cases=tuple(_case(*case) for case in CASES),
    work=lambda dims: Work(20.0 * dims["R"] * dims["N"], 12.0 * dims["R"] * dims["N"]),
    speed_case={"R": 16384, "N": 1024},
)
