"""out = A(k) = E[mu.x] = d log Z0/dk on S^{dimension-1}, and slope = dA/dk = Var[mu.x], by entry.

A is odd in k; slope is 1/d at k = 0. Needs dimension >= 8.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ebm_wgpu.kernels._cases import EPS32
from ebm_wgpu.kernels._vmf import mean_ratio_and_slope
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
from ebm_wgpu.vmf import mean_cosine, mean_cosine_derivative

_EXPANSION = Tolerance(0.0, 8 * EPS32, "no cancellation: some twenty roundings, few of them alike")
_VALUE = Tolerance(0.0, 10 * EPS32, "each step of the recurrence damps the errors of those before")
_SLOPE = Tolerance(
    0.0,
    2e-4,
    "for large k all 28 steps carry on an error of an eps of D/2, D from 8 to 64, in (d-1)/2 = 3.5",
)


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


KERNEL = Kernel(
    stem="vmf_mean_cosine",
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
        Case(
            "d8",
            {"N": 193},
            concentrations,
            {"out": _VALUE, "slope": _SLOPE},
            {"dimension": 8},
        ),
        Case(
            "d9",
            {"N": 65},
            concentrations,
            {"out": _VALUE, "slope": _SLOPE},
            {"dimension": 9},
        ),
    ),
    gradient=Gradient(
        wrt=("k",),
        vjp=lambda run, inputs, params, cotangents: {
            "k": cotangents["out"]
            * run("vmf_mean_cosine", k=inputs["k"], dimension=params["dimension"])["slope"]
        },
        outputs=("out",),
        tolerance=Tolerance(4 * EPS32, 16 * EPS32, "float32 roundings; differences good to 1e-10"),
    ),
    work=lambda dims: Work(70.0 * dims["N"], 12.0 * dims["N"]),
    speed_case={"N": 16_777_216},
)
