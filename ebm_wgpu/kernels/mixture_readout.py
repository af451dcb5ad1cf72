"""What a token model asks of the tilted mixture, from the products s = mu.h, in one pass.

With log W_k = log pi_k + log Z0(|eta_k|) - log Z0(a_k), |eta_k|^2 = a_k^2 + 2 a_k s_k + h2,
p = softmax of log W and F_k = A(|eta_k|)/|eta_k|:

    log_z = logsumexp_k log W_k,       log_mass = log sum_{first <= k < last} p_k,
    pull_k = p_k F_k a_k,              tilt = sum_k p_k F_k,

so that the mean is pull mu + tilt h, and log_mass is the log-probability of the token whose splats
stand in rows first to last - 1 (-inf if it has none).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numba import njit, prange

from ebm_wgpu.kernels import _rounds
from ebm_wgpu.kernels._cases import EPS32
from ebm_wgpu.kernels._mixture import log_ratio_row, tilt_row, untilted_terms
from ebm_wgpu.kernels._mixture_cases import DIMENSION, H2, LOG_PI, A, S
from ebm_wgpu.kernels._readout import (
    BLOCKS,
    exact_tilt,
    readout_inputs,
    row_max,
    row_sum,
    share_sum,
    shares,
)
from ebm_wgpu.kernels.spec import (
    Array,
    Arrays,
    Binding,
    Case,
    Dims,
    Gradient,
    Kernel,
    Run,
    Scalar,
    Tolerance,
    Work,
)


@njit(cache=True, error_model="numpy")
def _pulls(p: Array, f: Array, a: Array, scale: float, pull: Array) -> float:
    for k in range(p.shape[0]):
        f[k] *= p[k] * scale
        pull[k] = f[k] * a[k]
    return row_sum(f)


@njit(parallel=True, cache=True, error_model="numpy")
def mirror(
    s: Array,
    a: Array,
    log_pi: Array,
    h2: Array,
    first: Array,
    last: Array,
    dimension: int,
    log_z: Array,
    log_mass: Array,
    pull: Array,
    tilt: Array,
) -> None:
    """Numba mirror."""
    rows, splats = s.shape
    root, log_u = untilted_terms(a, dimension)
    for block in prange(BLOCKS):
        log_w = np.empty(splats, np.float32)
        p = np.empty(splats, np.float32)
        f = np.empty(splats, np.float32)
        slope = np.empty(splats, np.float32)
        for row in range(rows * block // BLOCKS, rows * (block + 1) // BLOCKS):
            log_ratio_row(a, s[row], h2[row], dimension, root, log_u, log_w)
            log_w += log_pi
            peak = row_max(log_w)
            shares(log_w, peak, p)
            total = row_sum(p)
            log_z[row] = peak + np.log(total)
            inside = log_w[first[row] : last[row]]
            peak_inside = row_max(inside)
            log_mass[row] = peak_inside - log_z[row] + np.log(share_sum(inside, peak_inside))
            tilt_row(a, s[row], h2[row], dimension, f, slope)
            tilt[row] = _pulls(p, f, a, np.float32(1) / total, pull[row])


def reference(
    s: Array,
    a: Array,
    log_pi: Array,
    h2: Array,
    first: Array,
    last: Array,
    dimension: int,
) -> Arrays:
    """Float64 reference."""
    log_w, p, f, _ = exact_tilt(s, a, log_pi, h2, dimension)
    peak = log_w.max(1)
    column = np.arange(s.shape[1])
    inside = (column >= first[:, None]) & (column < last[:, None])
    with np.errstate(divide="ignore"):
        log_mass = np.log(np.sum(p * inside, 1))
    return {
        "log_z": peak + np.log(np.exp(log_w - peak[:, None]).sum(1)),
        "log_mass": log_mass,
        "pull": p * f * a,
        "tilt": np.sum(p * f, 1),
    }


def _vjp(run: Run, inputs: Arrays, params: Mapping[str, Scalar], cotangents: Arrays) -> Arrays:
    forward = run("mixture_readout", **inputs, dimension=params["dimension"])
    grad_pull, grad_tilt = cotangents["pull"], cotangents["tilt"]
    gradients = run(
        "mixture_readout_backward",
        **inputs,
        dimension=params["dimension"],
        log_z=forward["log_z"],
        log_mass=forward["log_mass"],
        grad_log_z=cotangents["log_z"],
        grad_log_mass=cotangents["log_mass"],
        grad_pull=grad_pull,
        grad_tilt=grad_tilt,
        carried=np.sum(forward["pull"] * grad_pull, 1) + forward["tilt"] * grad_tilt,
    )
    gradients["grad_h2"] = 0.5 * gradients["grad_s"] @ (1 / inputs["a"])
    return {name: gradients[f"grad_{name}"] for name in ("s", "a", "log_pi", "h2")}


def tilt_error(context: float = 32.0) -> float:
    """Absolute error of log W in float32: |h| A relative roundings of |eta|^2, and of log pi."""
    return EPS32 * (context + 16)


def _case(name: str, dims: Dims, dimension: int) -> Case:
    params: dict[str, Scalar] = {"dimension": dimension}
    error = tilt_error()
    reason = "log W errs by a few eps |h|, |h| up to 32"
    shares = Tolerance(1e-9, 2 * error, reason + "; a share by as much, relatively, and log Z too")
    logs = Tolerance(error, 4 * EPS32, reason)
    return Case(
        name,
        dims,
        lambda rng, sizes: readout_inputs(rng, sizes, params),
        {"log_z": logs, "log_mass": logs, "pull": shares, "tilt": shares},
        params,
    )


CASES = (
    ("odd, d 640", {"B": 2, "N": 301}, 640),
    ("odd, d 64", {"B": 11, "N": 37}, 64),
    ("d 9", {"B": 3, "N": 33}, 9),
    ("one splat", {"B": 2, "N": 1}, 16),
    ("one row", {"B": 1, "N": 70}, 33),
)


def _count_rounds(dims: Dims, params: Mapping[str, Scalar]) -> int:
    recurrence = _rounds.recurrence(params["dimension"])
    passes = 2 * _rounds.strided(dims["N"], 256, recurrence) + _rounds.strided(dims["N"], 256)
    return passes + 5 * _rounds.reduction(256)


KERNEL = Kernel(
    stem="mixture_readout",
    bindings=(
        S,
        A,
        LOG_PI,
        H2,
        Binding("first", "i32", ("B",)),
        Binding("last", "i32", ("B",)),
        Binding("log_z", "f32", ("B",), "out"),
        Binding("log_mass", "f32", ("B",), "out"),
        Binding("pull", "f32", ("B", "N"), "out"),
        Binding("tilt", "f32", ("B",), "out"),
    ),
    params=DIMENSION,
    constants={"WG": 256},
    workgroups=lambda dims, params: dims["B"],
    mirror=mirror,
    reference=reference,
    rounds=_count_rounds,
    subgroup=True,
    cases=tuple(_case(*case) for case in CASES),
    gradient=Gradient(
        wrt=("s", "a", "log_pi", "h2"),
        vjp=_vjp,
        outputs=("log_z", "log_mass", "pull", "tilt"),
        tolerance=Tolerance(
            5e-4,
            1e-4,
            "grad_a is what is left of terms that are a hundred times larger",
        ),
    ),
    work=lambda dims: Work(80.0 * dims["B"] * dims["N"], 8.0 * dims["B"] * dims["N"]),
    speed_case={"B": 1024, "N": 16384},
)
