"""out = log Z0(k) = log E_uniform[exp(k mu.x)] on S^{dimension-1}, entry by entry, in nats.

Even in k, exactly 0 at k = 0; its derivative is `vmf_mean_cosine`. Needs dimension >= 8.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ebm_wgpu.kernels._cases import EPS32
from ebm_wgpu.kernels._vmf import fill_log_z0_ratio
from ebm_wgpu.kernels._vmf_cases import vmf_kernel
from ebm_wgpu.kernels.spec import Array, Arrays, Tolerance
from ebm_wgpu.vmf import log_z0


@njit(cache=True, error_model="numpy")
def mirror(k: Array, dimension: int, out: Array) -> None:
    """Numba mirror."""
    fill_log_z0_ratio(np.zeros_like(k), k * k, dimension, out)


def reference(k: Array, dimension: int) -> Arrays:
    """Float64 reference."""
    return {"out": np.asarray(log_z0(np.abs(k), dimension))}


KERNEL = vmf_kernel(
    "vmf_log_normalizer",
    ("out",),
    mirror,
    reference,
    expansion=Tolerance(1e-30, 6 * EPS32, "no cancellation: a dozen roundings of positive terms"),
    recurrence=Tolerance(1e-30, 10 * EPS32, "28 recurrence steps, each adding a rounded logarithm"),
    derivative=("vmf_mean_cosine", "out"),
    gradient=Tolerance(
        2e-6, 16 * EPS32, "sums of values up to 1e6 over steps of 1e-3; float32 roundings"
    ),
    step=1e-3,
    flops=80.0,
)
