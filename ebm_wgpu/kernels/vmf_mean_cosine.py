"""out = A(k) = E[mu.x] = d log Z0/dk on S^{dimension-1}, and slope = dA/dk = Var[mu.x], by entry.

A is odd in k; slope is 1/d at k = 0. Needs dimension >= 8.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ebm_wgpu.kernels._cases import EPS32
from ebm_wgpu.kernels._vmf import mean_ratio_and_slope
from ebm_wgpu.kernels._vmf_cases import vmf_kernel
from ebm_wgpu.kernels.spec import Array, Arrays, Tolerance
from ebm_wgpu.vmf import mean_cosine, mean_cosine_derivative


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def mirror(k: Array, dimension: int, out: Array, slope: Array) -> None:
    """Numba mirror."""
    for i in range(k.shape[0]):
        ratio, derivative = mean_ratio_and_slope(k[i], dimension)
        out[i] = k[i] * ratio
        slope[i] = derivative


def reference(k: Array, dimension: int) -> Arrays:
    """Float64 reference."""
    size = np.abs(k)
    return {
        "out": np.sign(k) * mean_cosine(size, dimension),
        "slope": np.asarray(mean_cosine_derivative(size, dimension)),
    }


KERNEL = vmf_kernel(
    "vmf_mean_cosine",
    ("out", "slope"),
    mirror,
    reference,
    expansion=Tolerance(
        0.0, 8 * EPS32, "no cancellation: some twenty roundings, few of them alike"
    ),
    recurrence={
        "out": Tolerance(
            0.0, 10 * EPS32, "each step of the recurrence damps the errors of those before"
        ),
        "slope": Tolerance(
            0.0,
            2e-4,
            "for large k all 28 steps carry on an error of an eps of D/2, D from 8 to 64, in "
            "(d-1)/2 = 3.5",
        ),
    },
    derivative=("vmf_mean_cosine", "slope"),
    gradient=Tolerance(4 * EPS32, 16 * EPS32, "float32 roundings; differences good to 1e-10"),
    flops=70.0,
)
