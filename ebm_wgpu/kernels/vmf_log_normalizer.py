"""out = log Z0(k) = log E_uniform[exp(k mu.x)] on S^{dimension-1}, entry by entry, in nats.

Even in k, exactly 0 at k = 0; its derivative is `vmf_mean_cosine`. Needs dimension >= 8.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numba import njit

from ebm_wgpu.errors import KernelError
from ebm_wgpu.kernels._cases import EPS32
from ebm_wgpu.kernels._vmf import fill_log_z0_ratio
from ebm_wgpu.kernels.spec import (
    Array,
    Arrays,
    Binding,
    Case,
    Dims,
    Gradient,
    Kernel,
    Param,
    Scalar,
    Tolerance,
    Work,
)
from ebm_wgpu.vmf import MIN_DIMENSION, log_z0

_EXPANSION = Tolerance(1e-30, 6 * EPS32, "no cancellation: a dozen roundings of positive terms")
_RECURRENCE = Tolerance(1e-30, 10 * EPS32, "28 recurrence steps, each adding a rounded logarithm")


@njit(cache=True, error_model="numpy")
def mirror(k: Array, dimension: int, out: Array) -> None:
    """Numba mirror."""
    fill_log_z0_ratio(np.zeros_like(k), k * k, dimension, out)


def reference(k: Array, dimension: int) -> Arrays:
    """Float64 reference."""
    return {"out": np.asarray(log_z0(np.abs(k), dimension))}


def check_dimension(dims: dict[str, int], params: Mapping[str, Scalar]) -> dict[str, int]:
    """Refuse dimensions below 8, for which the expansions were not made."""
    if params["dimension"] < MIN_DIMENSION:
        raise KernelError(
            f"dimension {params['dimension']} is below {MIN_DIMENSION}: use d >= {MIN_DIMENSION}"
        )
    return {}


def concentrations(rng: np.random.Generator, dims: Dims) -> Arrays:
    """Concentrations over ten orders of magnitude, the published range and zero among them."""
    k = 10.0 ** rng.uniform(-4, 6, dims["N"])
    k[:6] = 0, 10, 320, 639, 6390, 31950
    return {"k": k.astype(np.float32)}


KERNEL = Kernel(
    stem="vmf_log_normalizer",
    bindings=(Binding("k", "f32", ("N",)), Binding("out", "f32", ("N",), "out")),
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
            * run("vmf_mean_cosine", k=inputs["k"], dimension=params["dimension"])["out"]
        },
        outputs=("out",),
        tolerance=Tolerance(
            2e-6, 16 * EPS32, "sums of values up to 1e6 over steps of 1e-3; float32 roundings"
        ),
        step=1e-3,
    ),
    work=lambda dims: Work(80.0 * dims["N"], 8.0 * dims["N"]),
    speed_case={"N": 16_777_216},
)
