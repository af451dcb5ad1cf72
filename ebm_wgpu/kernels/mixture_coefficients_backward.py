"""The backward of `mixture_coefficients`.

With G = grad_weight a + grad_tilt, q = |eta|^2 and F' = dF/dq,

    grad_p = G F,   grad_s = p G F' 2 a,   grad_h2 = sum_k p G F',
    grad_a = sum_b p (grad_weight F + G F' 2 (a + s)).

F' = (A' - F)/(2q), A' = 1 - A^2 - (d-1) F, is worked out without that cancellation.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from ebm_wgpu.kernels._cases import EPS32
from ebm_wgpu.kernels._mixture import (
    ROWS,
    column_rounds,
    column_workgroups,
    slopes,
    squares,
    tilt_row,
    total,
)
from ebm_wgpu.kernels._mixture_cases import BACKWARD, Tilt, cotangent, shares, tilt_cases
from ebm_wgpu.kernels.mixture_coefficients import KERNEL as FORWARD
from ebm_wgpu.kernels.spec import Array, Arrays, Binding, Dims, Kernel, Tolerance, Work


@njit(parallel=True, cache=True)
def mirror(
    p: Array,
    s: Array,
    a: Array,
    h2: Array,
    grad_weight: Array,
    grad_tilt: Array,
    dimension: int,
    grad_p: Array,
    grad_s: Array,
    grad_a: Array,
    grad_h2: Array,
) -> None:
    """Numba mirror."""
    rows, count = s.shape
    tasks = (rows + ROWS - 1) // ROWS
    sums = np.zeros((tasks, count), np.float32)
    two = np.float32(2)
    for task in prange(tasks):
        f, slope = np.empty(count, np.float32), np.empty(count, np.float32)
        for row in range(task * ROWS, min((task + 1) * ROWS, rows)):
            tilt_row(a, s[row], h2[row], dimension, f, slope)
            g = grad_weight[row] * a + grad_tilt[row]
            slope *= p[row] * g
            grad_p[row] = g * f
            grad_s[row] = two * a * slope
            grad_h2[row] = total(slope)
            sums[task] += p[row] * grad_weight[row] * f + two * (a + s[row]) * slope
    grad_a[:] = 0
    for task in range(tasks):
        grad_a += sums[task]


def reference(
    p: Array,
    s: Array,
    a: Array,
    h2: Array,
    grad_weight: Array,
    grad_tilt: Array,
    dimension: int,
) -> Arrays:
    """Float64 reference."""
    f, slope = slopes(squares(s, a, h2), dimension)
    g = grad_weight * a + grad_tilt[:, None]
    change = p * g * slope
    return {
        "grad_p": g * f,
        "grad_s": 2 * a * change,
        "grad_a": np.sum(p * grad_weight * f + 2 * (a + s) * change, axis=0),
        "grad_h2": np.sum(change, axis=1),
    }


def _cotangents(rng: np.random.Generator, dims: Dims) -> Arrays:
    return {
        "p": shares(rng, dims),
        "grad_weight": cotangent(rng, dims["B"], dims["N"]),
        "grad_tilt": cotangent(rng, dims["B"]),
    }


def _tolerance(tilt: Tilt) -> dict[str, Tolerance]:
    rows, count, d = tilt.dims["B"], tilt.dims["N"], tilt.dimension
    # 2 a^2 |F'| is below 1/d at h = 0, and below 4/d wherever |eta| > a/2 or |h| is below d.
    share = 8 * EPS32 * 4 * (2 / count) * (4 / d)
    return {
        "grad_p": Tolerance(8 * EPS32, 8 * EPS32, "a F below 1 times a cotangent below 4"),
        "grad_s": Tolerance(
            share, 8 * EPS32, "p < 2/N, cotangent below 4, 2 a^2 F' below 4/d, to 8 units"
        ),
        "grad_a": Tolerance(2 * share * rows**0.5, 8 * EPS32, "B terms like those of grad_s"),
        "grad_h2": Tolerance(
            share * count**0.5 / d, 8 * EPS32, "N terms like those of grad_s over 2a"
        ),
    }


KERNEL = Kernel(
    stem="mixture_coefficients_backward",
    bindings=(
        *FORWARD.inputs,
        Binding("grad_weight", "f32", ("B", "N")),
        Binding("grad_tilt", "f32", ("B",)),
        Binding("grad_p", "f32", ("B", "N"), "out"),
        Binding("grad_s", "f32", ("B", "N"), "out"),
        Binding("grad_a", "f32", ("N",), "out"),
        Binding("grad_h2", "f32", ("B",), "out"),
    ),
    params=FORWARD.params,
    workgroups=column_workgroups,
    mirror=mirror,
    reference=reference,
    rounds=column_rounds,
    constants={"WG": 256},
    subgroup=True,
    cases=tilt_cases(BACKWARD, _cotangents, _tolerance),
    work=lambda dims: Work(140.0 * dims["B"] * dims["N"], 20.0 * dims["B"] * dims["N"]),
    speed_case={"B": 1024, "N": 16384},
)
