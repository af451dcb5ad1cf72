"""p = softmax_k(log_W) and log_z = logsumexp_k(log_W) by rows: component posterior and log Z.

Entries of -inf get no mass; a row of nothing else gives p = 0 and log_z = -inf.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numba import njit, prange

from ebm_wgpu.kernels._cases import EPS32, normal
from ebm_wgpu.kernels._math import exp_accurate
from ebm_wgpu.kernels._rows import row_kernel
from ebm_wgpu.kernels._splat_stream import LOG_ERROR, log_sum_exp
from ebm_wgpu.kernels.spec import (
    Array,
    Arrays,
    Binding,
    Case,
    Dims,
    Gradient,
    Run,
    Scalar,
    Tolerance,
)


@njit(cache=True, fastmath={"contract", "reassoc"})
def _softmax(scores: Array, p: Array) -> Any:
    """Write the softmax of a row and return its log-sum-exp."""
    peak = np.float32(-np.inf)
    for k in range(scores.shape[0]):
        peak = max(peak, scores[k])
    if peak == np.float32(-np.inf):
        p[:] = 0
        return peak
    total = np.float32(0)
    for k in range(scores.shape[0]):
        weight = exp_accurate(scores[k] - peak)
        p[k] = weight
        total += weight
    scale = np.float32(1) / total
    for k in range(scores.shape[0]):
        p[k] *= scale
    return peak + np.log(total)


@njit(parallel=True, cache=True)
def mirror(log_W: Array, p: Array, log_z: Array) -> None:
    """Numba mirror."""
    for row in prange(log_W.shape[0]):
        log_z[row] = _softmax(log_W[row], p[row])


def reference(log_W: Array) -> Arrays:
    """Float64 reference."""
    log_z, p = log_sum_exp(log_W)
    return {"p": p, "log_z": log_z}


def _vjp(run: Run, inputs: Arrays, params: Mapping[str, Scalar], cotangents: Arrays) -> Arrays:
    p = run("mixture_posterior", **inputs)["p"]
    gradients = run(
        "mixture_posterior_backward",
        p=p,
        grad_p=cotangents["p"],
        grad_log_z=cotangents["log_z"],
    )
    return {"log_W": gradients["grad_log_W"]}


def _case(name: str, dims: Dims, scale: float, shift: float = 0.0, drop: bool = False) -> Case:
    def inputs(rng: np.random.Generator, dims: Dims) -> Arrays:
        log_W = normal(rng, dims["B"], dims["N"], scale=scale) + np.float32(shift)
        if drop:
            log_W[:, 1::3] = -np.inf
        return {"log_W": log_W}

    size = shift + 5 * scale
    return Case(
        name,
        dims,
        inputs,
        {
            "p": Tolerance(
                1e-9,
                40 * EPS32,
                "WGSL's exp errs by 3 + 2|x| units for e^x, and shares below e^-16 are under atol",
            ),
            "log_z": Tolerance(LOG_ERROR + EPS32 * size, 2 * EPS32, "WGSL's log, and one addition"),
        },
    )


KERNEL = row_kernel(
    "mixture_posterior",
    (
        Binding("log_W", "f32", ("B", "N")),
        Binding("p", "f32", ("B", "N"), "out"),
        Binding("log_z", "f32", ("B",), "out"),
    ),
    mirror,
    reference,
    (
        _case("odd", {"B": 5, "N": 1037}, 3.0),
        _case("one splat", {"B": 3, "N": 1}, 1.0),
        _case("equal", {"B": 2, "N": 300}, 0.0, 7.0),
        _case("far apart", {"B": 4, "N": 129}, 60.0),
        _case("large offset", {"B": 3, "N": 65}, 2.0, 1000.0),
        _case("some without mass", {"B": 6, "N": 67}, 2.0, drop=True),
    ),
    passes=3,
    reductions=2,
    gradient=Gradient(
        wrt=("log_W",),
        vjp=_vjp,
        outputs=("p", "log_z"),
        tolerance=Tolerance(2e-6, 1e-5, "float32 softmax against float64 central differences"),
    ),
    cost=(8.0, 12.0),
    speed_case={"B": 1024, "N": 16384},
)
