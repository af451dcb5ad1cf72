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
from ebm_wgpu.kernels.spec import (
    Array,
    Arrays,
    Binding,
    Case,
    Gradient,
    Kernel,
    Param,
    Tolerance,
    Work,
)
from ebm_wgpu.kernels.vmf_log_normalizer import check_dimension, concentrations
from ebm_wgpu.vmf import log_z0, mean_cosine

_EXPANSION = Tolerance(
    1e-30, 8 * EPS32, "no cancellation: some twenty roundings, few of them alike"
)
_RECURRENCE = Tolerance(
    1e-30, 60 * EPS32, "28 steps take off all but an eighth, and the errors of all are left"
)


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


KERNEL = Kernel(
    stem="vmf_log_peak",
    bindings=(
        Binding("k", "f32", ("N",)),
        Binding("out", "f32", ("N",), "out"),
        Binding("slope", "f32", ("N",), "out"),
    ),
    params=(Param("dimension", "u32"),),
    workgroups=lambda dims, params: -(-dims["N"] // 64),
    mirror=mirror,
    reference=reference,
    derive=check_dimension,
    cases=(
        Case("d640", {"N": 641}, concentrations, _EXPANSION, {"dimension": 640}),
        Case("d64", {"N": 130}, concentrations, _EXPANSION, {"dimension": 64}),
        Case("d8", {"N": 193}, concentrations, _RECURRENCE, {"dimension": 8}),
        Case("d9", {"N": 65}, concentrations, _RECURRENCE, {"dimension": 9}),
    ),
    gradient=Gradient(
        wrt=("k",),
        vjp=lambda run, inputs, params, cotangents: {
            "k": cotangents["out"]
            * run("vmf_log_peak", k=inputs["k"], dimension=params["dimension"])["slope"]
        },
        outputs=("out",),
        tolerance=Tolerance(
            2e-6, 40 * EPS32, "sums of values up to 1e4 over steps of 1e-3; float32 roundings"
        ),
        step=1e-3,
    ),
    work=lambda dims: Work(150.0 * dims["N"], 12.0 * dims["N"]),
    speed_case={"N": 16_777_216},
)
