"""out = k - log Z0(k), and slope = its derivative 1 - A(k), on S^{dimension-1}, entry by entry.

The log density of a vMF distribution at its mode, relative to the uniform one, in nats: what the
normaliser of a concentrated splat leaves over, without subtracting two large numbers. Exactly 0 at
k = 0. Needs dimension >= 8.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ebm_wgpu.kernels._cases import EPS32
from ebm_wgpu.kernels._vmf import log_peak, mean_cosine_gap
from ebm_wgpu.kernels._vmf_cases import vmf_kernel
from ebm_wgpu.kernels.spec import Array, Arrays, Tolerance
from ebm_wgpu.vmf import log_z0, mean_cosine


@njit(cache=True, error_model="numpy")
def mirror(k: Array, dimension: int, out: Array, slope: Array) -> None:
    """Numba mirror."""
    for i in range(k.shape[0]):
        out[i] = log_peak(k[i], dimension)
        slope[i] = mean_cosine_gap(k[i], dimension)


def reference(k: Array, dimension: int) -> Arrays:
    """Float64 reference."""
    size = np.abs(k)
    return {
        "out": np.asarray(k - log_z0(size, dimension)),
        "slope": np.asarray(1 - np.sign(k) * mean_cosine(size, dimension)),
    }


KERNEL = vmf_kernel(
    "vmf_log_peak",
    ("out", "slope"),
    mirror,
    reference,
    expansion=Tolerance(
        1e-30, 8 * EPS32, "no cancellation: some twenty roundings, few of them alike"
    ),
    recurrence=Tolerance(
        1e-30, 60 * EPS32, "28 steps take off all but an eighth, and the errors of all are left"
    ),
    derivative=("vmf_log_peak", "slope"),
    gradient=Tolerance(
        2e-6, 40 * EPS32, "sums of values up to 1e4 over steps of 1e-3; float32 roundings"
    ),
    step=1e-3,
    flops=150.0,
)
