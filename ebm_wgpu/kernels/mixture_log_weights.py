"""log_W = log_pi + log Z0(|a mu + h|) - log Z0(a), the log mass of each splat under each context.

Inputs are s = mu.h (B,N) and h2 = |h|^2 (B); `dimension` is d. The derivatives, with r = |eta|, are
d/ds = A(r) a/r, d/dh2 = A(r)/(2r), d/da = A(r) (a+s)/r - A(a).
"""

from __future__ import annotations

from collections.abc import Mapping

from numba import njit, prange

from ebm_wgpu.kernels._cases import EPS32
from ebm_wgpu.kernels._mixture import log_ratio_row, untilted_terms
from ebm_wgpu.kernels._mixture_cases import (
    DIMENSION,
    FORWARD,
    H2,
    LOG_PI,
    A,
    S,
    Tilt,
    log_shares,
    tilt_cases,
)
from ebm_wgpu.kernels.spec import (
    Array,
    Arrays,
    Binding,
    Gradient,
    Kernel,
    Run,
    Scalar,
    Tolerance,
    Work,
)
from ebm_wgpu.vmf import log_z0_ratio


@njit(parallel=True, cache=True)
def mirror(s: Array, a: Array, log_pi: Array, h2: Array, dimension: int, log_W: Array) -> None:
    """Numba mirror."""
    root, log_u = untilted_terms(a, dimension)
    for row in prange(s.shape[0]):
        log_ratio_row(a, s[row], h2[row], dimension, root, log_u, log_W[row])
        for k in range(s.shape[1]):
            log_W[row, k] += log_pi[k]


def reference(s: Array, a: Array, log_pi: Array, h2: Array, dimension: int) -> Arrays:
    """Float64 reference."""
    return {"log_W": log_pi + log_z0_ratio(a, 2 * a * s + h2[:, None], int(dimension))}


def _vjp(run: Run, inputs: Arrays, params: Mapping[str, Scalar], cotangents: Arrays) -> Arrays:
    gradients = run(
        "mixture_log_weights_backward",
        s=inputs["s"],
        a=inputs["a"],
        h2=inputs["h2"],
        grad_log_W=cotangents["log_W"],
        dimension=params["dimension"],
    )
    return {name: gradients[f"grad_{name}"] for name in ("s", "a", "log_pi", "h2")}


def _tolerance(tilt: Tilt) -> Tolerance:
    size = 20 + (tilt.kappa[1] * tilt.dimension if tilt.opposite else 1.2 * tilt.length)
    return Tolerance(
        2 * EPS32 * size,
        2 * EPS32,
        "the ratio is at most |h|, as are its float32 parts, and log_pi is above -20",
    )


KERNEL = Kernel(
    stem="mixture_log_weights",
    bindings=(S, A, LOG_PI, H2, Binding("log_W", "f32", ("B", "N"), "out")),
    params=DIMENSION,
    workgroups=lambda dims, params: -(-dims["B"] * dims["N"] // 256),
    mirror=mirror,
    reference=reference,
    constants={"WG": 256},
    cases=tilt_cases(FORWARD, lambda rng, dims: {"log_pi": log_shares(rng, dims)}, _tolerance),
    gradient=Gradient(
        wrt=("s", "a", "log_pi", "h2"),
        vjp=_vjp,
        outputs=("log_W",),
        tolerance=Tolerance(2e-6, 1e-5, "a few float32 roundings and sums of a few terms"),
        step=3e-3,
    ),
    work=lambda dims: Work(60.0 * dims["B"] * dims["N"], 8.0 * dims["B"] * dims["N"]),
    speed_case={"B": 1024, "N": 16384},
)
