"""log_W = log_pi + log Z0(|a mu + h|) - log Z0(a), the log mass of each splat under each context.

Inputs are s = mu.h (B,N) and h2 = |h|^2 (B); `dimension` is d. The derivatives, with r = |eta|, are
d/ds = A(r) a/r, d/dh2 = A(r)/(2r), d/da = A(r) (a+s)/r - A(a).
"""

from __future__ import annotations

from collections.abc import Mapping

from numba import njit, prange

from ebm_wgpu.kernels._cases import EPS32
from ebm_wgpu.kernels._mixture import log_ratio_row, tilt_inputs, untilted_terms
from ebm_wgpu.kernels.spec import (
    Array,
    Arrays,
    Binding,
    Case,
    Dims,
    Gradient,
    Kernel,
    Param,
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


def _case(
    name: str,
    dims: Dims,
    dimension: int,
    kappa: tuple[float, float],
    length: float,
    opposite: float = 0.0,
) -> Case:
    size = 20 + (kappa[1] * dimension if opposite else 1.2 * length)
    return Case(
        name,
        dims,
        tilt_inputs(kappa, length, dimension, opposite),
        Tolerance(
            2 * EPS32 * size,
            2 * EPS32,
            "the ratio is at most |h|, as are its float32 parts, and log_pi is above -20",
        ),
        {"dimension": dimension},
    )


KERNEL = Kernel(
    stem="mixture_log_weights",
    bindings=(
        Binding("s", "f32", ("B", "N")),
        Binding("a", "f32", ("N",)),
        Binding("log_pi", "f32", ("N",)),
        Binding("h2", "f32", ("B",)),
        Binding("log_W", "f32", ("B", "N"), "out"),
    ),
    params=(Param("dimension", "u32"),),
    workgroups=lambda dims, params: -(-dims["B"] * dims["N"] // 256),
    mirror=mirror,
    reference=reference,
    constants={"WG": 256},
    cases=(
        _case("d640", {"B": 5, "N": 67}, 640, (1, 50), 20),
        _case("d64", {"B": 3, "N": 129}, 64, (1, 10), 16),
        _case("d65", {"B": 3, "N": 33}, 65, (1, 3), 16),
        _case("d9", {"B": 4, "N": 33}, 9, (1, 50), 4),
        _case("strong tilt", {"B": 2, "N": 31}, 640, (1, 5), 600),
        _case("opposite tilt", {"B": 5, "N": 7}, 128, (1, 2), 16, opposite=-0.999),
        _case("one splat", {"B": 1, "N": 1}, 33, (1, 2), 5),
    ),
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
