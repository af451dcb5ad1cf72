"""The backward of `mixture_log_weights`: with G = grad_log_W, r = |eta| and F = A(r)/r,

    grad_s = G F a,   grad_h2 = sum_k G F / 2,
    grad_log_pi = sum_b G,   grad_a = sum_b G (F (a + s) - A(a)).

The last is worked out as F s + a (F - F(a^2)), the difference without cancellation: at large a it
is a millionth of A. Sums have one owner and a fixed order: the result is the same in every run.
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
    tilt_change_row,
    total,
)
from ebm_wgpu.kernels._mixture_cases import (
    BACKWARD,
    DIMENSION,
    H2,
    A,
    S,
    Tilt,
    cotangent,
    tilt_cases,
)
from ebm_wgpu.kernels.spec import Array, Arrays, Binding, Dims, Kernel, Tolerance, Work


@njit(parallel=True, cache=True)
def mirror(
    s: Array,
    a: Array,
    h2: Array,
    grad_log_W: Array,
    dimension: int,
    grad_s: Array,
    grad_a: Array,
    grad_log_pi: Array,
    grad_h2: Array,
) -> None:
    """Numba mirror."""
    rows, count = s.shape
    tasks = (rows + ROWS - 1) // ROWS
    sums = np.zeros((tasks, 2, count), np.float32)
    for task in prange(tasks):
        f, change = np.empty(count, np.float32), np.empty(count, np.float32)
        for row in range(task * ROWS, min((task + 1) * ROWS, rows)):
            tilt_change_row(a, s[row], h2[row], dimension, f, change)
            sums[task, 0] += grad_log_W[row]
            sums[task, 1] += grad_log_W[row] * (f * s[row] + a * change)
            f *= grad_log_W[row]
            grad_h2[row] = np.float32(0.5) * total(f)
            grad_s[row] = f * a
    grad_log_pi[:] = 0
    grad_a[:] = 0
    for task in range(tasks):
        grad_log_pi += sums[task, 0]
        grad_a += sums[task, 1]


def reference(s: Array, a: Array, h2: Array, grad_log_W: Array, dimension: int) -> Arrays:
    """Float64 reference."""
    f, _ = slopes(squares(s, a, h2), dimension)
    untilted, _ = slopes(a**2, dimension)
    return {
        "grad_s": grad_log_W * f * a,
        "grad_a": np.sum(grad_log_W * (f * (a + s) - a * untilted), axis=0),
        "grad_log_pi": np.sum(grad_log_W, axis=0),
        "grad_h2": np.sum(grad_log_W * f, axis=1) / 2,
    }


def _cotangents(rng: np.random.Generator, dims: Dims) -> Arrays:
    return {"grad_log_W": cotangent(rng, dims["B"], dims["N"])}


def _tolerance(tilt: Tilt) -> dict[str, Tolerance]:
    rows, count, d = tilt.dims["B"], tilt.dims["N"], tilt.dimension
    relative = 8 * EPS32
    cosine = tilt.kappa[1] if tilt.opposite else 5 * tilt.length / (d**0.5 * (d - 1))
    return {
        "grad_s": Tolerance(1e-7, relative, "A to a few units, G below 4"),
        "grad_a": Tolerance(
            4 * relative * cosine * rows**0.5,
            relative,
            f"B terms of G < 4 times F s < {cosine:.1e}, which cancel among each other",
        ),
        "grad_log_pi": Tolerance(4 * EPS32 * rows**0.5, relative, "a sum of B values below 4"),
        "grad_h2": Tolerance(
            relative * count**0.5 / d, relative, "N values of about G/(2d), any sign"
        ),
    }


KERNEL = Kernel(
    stem="mixture_log_weights_backward",
    bindings=(
        S,
        A,
        H2,
        Binding("grad_log_W", "f32", ("B", "N")),
        Binding("grad_s", "f32", ("B", "N"), "out"),
        Binding("grad_a", "f32", ("N",), "out"),
        Binding("grad_log_pi", "f32", ("N",), "out"),
        Binding("grad_h2", "f32", ("B",), "out"),
    ),
    params=DIMENSION,
    workgroups=column_workgroups,
    mirror=mirror,
    reference=reference,
    rounds=column_rounds,
    constants={"WG": 256},
    subgroup=True,
    cases=tilt_cases(BACKWARD, _cotangents, _tolerance),
    work=lambda dims: Work(130.0 * dims["B"] * dims["N"], 12.0 * dims["B"] * dims["N"]),
    speed_case={"B": 1024, "N": 16384},
)
