"""Gradients of mixture_readout with respect to s, a, log pi and h2, and `pull` once more.

With G_k = dL/d log W_k, B_k = p_k (a_k grad_pull_k + grad_tilt) = dL/dF_k and r = |eta_k|:

    G_k = p_k (grad_log_z - grad_log_mass - carried) + B_k F_k
          + grad_log_mass p_k/mass in the group,
    y_k = G_k F_k/2 + B_k dF_k/d(r^2),
    grad_s = 2 a y,   grad_log_pi = sum_b G,
    grad_a = sum_b 2 y (a + s) - G a F(a^2) + p F grad_pull,

and grad_h2 = sum_k y_k = sum_k grad_s_k / (2 a_k), where carried = sum_k pull_k grad_pull_k +
tilt grad_tilt. For a mean pull mu + tilt h with gradient g these are grad_pull = g.mu_k,
grad_tilt = g.h and carried = g.mean.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numba import njit, prange

from ebm_wgpu.kernels import _rounds
from ebm_wgpu.kernels._cases import normal
from ebm_wgpu.kernels._math import exp_accurate
from ebm_wgpu.kernels._mixture import COLUMNS, log_ratio_row, tilt_row, untilted_terms
from ebm_wgpu.kernels._readout import BLOCKS, exact_tilt, fold, part_sums, readout_inputs
from ebm_wgpu.kernels.mixture_readout import CASES, tilt_error
from ebm_wgpu.kernels.mixture_readout import KERNEL as FORWARD
from ebm_wgpu.kernels.spec import (
    Array,
    Arrays,
    Binding,
    Case,
    Dims,
    Kernel,
    Scalar,
    Tolerance,
)
from ebm_wgpu.vmf import mean_cosine, mean_cosine_derivative

_HALF, _TWO = np.float32(0.5), np.float32(2)


@njit(cache=True, fastmath={"contract"}, error_model="numpy")
def _row(
    s: Array,
    a: Array,
    own: Array,
    p: Array,
    f: Array,
    slope: Array,
    by_log_w: Array,
    outer: float,
    grad_pull: Array,
    grad_tilt: float,
    grad_s: Array,
    pull: Array,
    sum_log_pi: Array,
    sum_a: Array,
) -> None:
    """One row; `by_log_w` comes with what the group adds."""
    for k in range(s.shape[0]):
        by_f = p[k] * (a[k] * grad_pull[k] + grad_tilt)
        g = p[k] * outer + by_f * f[k] + by_log_w[k]
        twice = g * f[k] + _TWO * by_f * slope[k]
        share = p[k] * f[k]
        grad_s[k] = a[k] * twice
        pull[k] = share * a[k]
        sum_log_pi[k] += g
        sum_a[k] += twice * (a[k] + s[k]) - g * own[k] + share * grad_pull[k]


@njit(cache=True, error_model="numpy")
def _shares(log_w: Array, log_pi: Array, log_z: float, p: Array) -> None:
    for k in range(log_w.shape[0]):
        log_w[k] += log_pi[k]
        p[k] = exp_accurate(log_w[k] - log_z)


@njit(cache=True, error_model="numpy")
def _untilted_cosines(a: Array, dimension: int) -> Array:
    """a F(a^2) = A(a)."""
    f, slope = np.empty_like(a), np.empty_like(a)
    tilt_row(a, np.zeros_like(a), np.float32(0), dimension, f, slope)
    return a * f


@njit(parallel=True, cache=True, error_model="numpy")
def mirror(
    s: Array,
    a: Array,
    log_pi: Array,
    h2: Array,
    first: Array,
    last: Array,
    log_z: Array,
    log_mass: Array,
    grad_log_z: Array,
    grad_log_mass: Array,
    grad_pull: Array,
    grad_tilt: Array,
    carried: Array,
    dimension: int,
    grad_s: Array,
    pull: Array,
    grad_a: Array,
    grad_log_pi: Array,
) -> None:
    """Numba mirror; sums over rows are taken in a fixed number of parts."""
    rows, splats = s.shape
    root, log_u = untilted_terms(a, dimension)
    own = _untilted_cosines(a, dimension)
    sums_log_pi = part_sums(splats)
    sums_a = part_sums(splats)
    for block in prange(BLOCKS):
        log_w = np.empty(splats, np.float32)
        p = np.empty(splats, np.float32)
        f = np.empty(splats, np.float32)
        slope = np.empty(splats, np.float32)
        by_log_w = np.zeros(splats, np.float32)
        for row in range(rows * block // BLOCKS, rows * (block + 1) // BLOCKS):
            log_ratio_row(a, s[row], h2[row], dimension, root, log_u, log_w)
            _shares(log_w, log_pi, log_z[row], p)
            tilt_row(a, s[row], h2[row], dimension, f, slope)
            base = log_z[row] + log_mass[row]
            for k in range(first[row], last[row]):
                by_log_w[k] = grad_log_mass[row] * exp_accurate(log_w[k] - base)
            outer = grad_log_z[row] - grad_log_mass[row] - carried[row]
            _row(
                s[row],
                a,
                own,
                p,
                f,
                slope,
                by_log_w,
                outer,
                grad_pull[row],
                grad_tilt[row],
                grad_s[row],
                pull[row],
                sums_log_pi[block],
                sums_a[block],
            )
            by_log_w[first[row] : last[row]] = 0
    fold(sums_log_pi, grad_log_pi)
    fold(sums_a, grad_a)


def reference(
    s: Array,
    a: Array,
    log_pi: Array,
    h2: Array,
    first: Array,
    last: Array,
    log_mass: Array,
    grad_log_z: Array,
    grad_log_mass: Array,
    grad_pull: Array,
    grad_tilt: Array,
    carried: Array,
    dimension: int,
) -> Arrays:
    """Float64 reference."""
    _, p, f, r = exact_tilt(s, a, log_pi, h2, dimension)
    slope = (mean_cosine_derivative(r, dimension) - f) / (2 * r**2)
    column = np.arange(s.shape[1])
    inside = (column >= first[:, None]) & (column < last[:, None])
    by_f = p * (a * grad_pull + grad_tilt[:, None])
    g = p * (grad_log_z - grad_log_mass - carried)[:, None] + by_f * f
    g += inside * grad_log_mass[:, None] * p * np.exp(-log_mass)[:, None]
    y = 0.5 * g * f + by_f * slope
    return {
        "grad_s": 2 * a * y,
        "pull": p * f * a,
        "grad_a": np.sum(2 * y * (a + s) - g * mean_cosine(a, dimension) + p * f * grad_pull, 0),
        "grad_log_pi": g.sum(0),
    }


def _case(name: str, dims: Dims, dimension: int) -> Case:
    params: dict[str, Scalar] = {"dimension": dimension}

    def inputs(rng: np.random.Generator, sizes: Dims) -> Arrays:
        arrays = readout_inputs(rng, sizes, params)
        forward = FORWARD.reference(**arrays, dimension=dimension)
        rows, splats = sizes["B"], sizes["N"]
        arrays |= {n: forward[n].astype(np.float32) for n in ("log_z", "log_mass")}
        upstream = {
            "grad_log_z": normal(rng, rows),
            "grad_log_mass": normal(rng, rows),
            "grad_pull": normal(rng, rows, splats),
            "grad_tilt": normal(rng, rows),
        }
        carried = np.sum(forward["pull"] * upstream["grad_pull"], 1)
        carried += forward["tilt"] * upstream["grad_tilt"]
        return arrays | upstream | {"carried": carried.astype(np.float32)}

    # grad_log_pi is a share times upstream gradients and a cancelling pair of at most 4.
    error = 4 * tilt_error()
    reason = "shares err by a few eps |h|, |h| up to 32, times upstream gradients up to 4"
    share = Tolerance(error, error, reason)
    # 2 y (a + s) - G a F(a^2) cancels to G times the change of A, but rounds at the size of G.
    return Case(
        name,
        dims,
        inputs,
        {
            "grad_s": share,
            "pull": Tolerance(1e-9, 2 * tilt_error(), reason),
            "grad_a": share,
            "grad_log_pi": Tolerance(error * dims["B"], error, reason + ", over all rows"),
        },
        params,
    )


def _count_rounds(dims: Dims, params: Mapping[str, Scalar]) -> int:
    recurrence = _rounds.recurrence(params["dimension"])
    lanes = 256 // COLUMNS
    return recurrence + _rounds.strided(dims["B"], lanes, 2 * recurrence) + _rounds.loop(lanes)


KERNEL = Kernel(
    stem="mixture_readout_backward",
    bindings=(
        *FORWARD.inputs,
        Binding("log_z", "f32", ("B",)),
        Binding("log_mass", "f32", ("B",)),
        Binding("grad_log_z", "f32", ("B",)),
        Binding("grad_log_mass", "f32", ("B",)),
        Binding("grad_pull", "f32", ("B", "N")),
        Binding("grad_tilt", "f32", ("B",)),
        Binding("carried", "f32", ("B",)),
        Binding("grad_s", "f32", ("B", "N"), "out"),
        Binding("pull", "f32", ("B", "N"), "out"),
        Binding("grad_a", "f32", ("N",), "out"),
        Binding("grad_log_pi", "f32", ("N",), "out"),
    ),
    params=FORWARD.params,
    constants=FORWARD.constants,
    workgroups=lambda dims, params: (dims["N"] + COLUMNS - 1) // COLUMNS,
    mirror=mirror,
    reference=reference,
    rounds=_count_rounds,
    cases=tuple(_case(*case) for case in CASES),
)
