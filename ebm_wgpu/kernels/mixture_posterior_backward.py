"""grad_log_W = p (grad_p - sum_k grad_p_k p_k + grad_log_z): backward of `mixture_posterior`."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from ebm_wgpu.kernels._cases import EPS32, normal
from ebm_wgpu.kernels._rows import row_kernel
from ebm_wgpu.kernels.spec import Array, Arrays, Binding, Case, Dims, Tolerance


@njit(parallel=True, cache=True)
def mirror(p: Array, grad_p: Array, grad_log_z: Array, grad_log_W: Array) -> None:
    """Numba mirror."""
    for row in prange(p.shape[0]):
        shift = grad_log_z[row] - np.dot(p[row], grad_p[row])
        for k in range(p.shape[1]):
            grad_log_W[row, k] = p[row, k] * (grad_p[row, k] + shift)


def reference(p: Array, grad_p: Array, grad_log_z: Array) -> Arrays:
    """Float64 reference."""
    shift = grad_log_z - np.sum(p * grad_p, axis=1)
    return {"grad_log_W": p * (grad_p + shift[:, None])}


def _inputs(rng: np.random.Generator, dims: Dims) -> Arrays:
    shape = dims["B"], dims["N"]
    p = np.exp(2 * rng.standard_normal(shape))
    return {
        "p": (p / p.sum(axis=1, keepdims=True)).astype(np.float32),
        "grad_p": normal(rng, *shape),
        "grad_log_z": normal(rng, dims["B"]),
    }


_TOLERANCE = Tolerance(
    4 * EPS32, 4 * EPS32, "a convex combination of values of order one, times a share of the mass"
)

KERNEL = row_kernel(
    "mixture_posterior_backward",
    (
        Binding("p", "f32", ("B", "N")),
        Binding("grad_p", "f32", ("B", "N")),
        Binding("grad_log_z", "f32", ("B",)),
        Binding("grad_log_W", "f32", ("B", "N"), "out"),
    ),
    mirror,
    reference,
    (
        Case("odd", {"B": 5, "N": 1037}, _inputs, _TOLERANCE),
        Case("few", {"B": 33, "N": 7}, _inputs, _TOLERANCE),
        Case("one splat", {"B": 3, "N": 1}, _inputs, _TOLERANCE),
    ),
    passes=2,
    reductions=1,
    cost=(5.0, 12.0),
    speed_case={"B": 1024, "N": 16384},
)
