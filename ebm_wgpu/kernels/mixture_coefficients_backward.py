"""The backward of `mixture_coefficients`.

With G = grad_weight a + grad_tilt, q = |eta|^2 and F' = dF/dq,

    grad_p = G F,   grad_s = p G F' 2 a,   grad_h2 = sum_k p G F',
    grad_a = sum_b p (grad_weight F + G F' 2 (a + s)).

F' = (A' - F)/(2q), A' = 1 - A^2 - (d-1) F, is worked out without that cancellation.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from ebm_wgpu.kernels import _rounds
from ebm_wgpu.kernels._cases import EPS32
from ebm_wgpu.kernels._mixture import (
    ROWS,
    column_workgroups,
    cotangent,
    shares,
    slopes,
    squares,
    tilt_inputs,
    tilt_row,
    total,
)
from ebm_wgpu.kernels.spec import (
    Array,
    Arrays,
    Binding,
    Case,
    Dims,
    Kernel,
    Param,
    Tolerance,
    Work,
)


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


def _case(
    name: str,
    dims: Dims,
    dimension: int,
    kappa: tuple[float, float],
    length: float,
    opposite: float = 0.0,
) -> Case:
    draw = tilt_inputs(kappa, length, dimension, opposite)

    def inputs(rng: np.random.Generator, dims: Dims) -> Arrays:
        arrays = draw(rng, dims)
        del arrays["log_pi"]
        return arrays | {
            "p": shares(rng, dims),
            "grad_weight": cotangent(rng, dims["B"], dims["N"]),
            "grad_tilt": cotangent(rng, dims["B"]),
        }

    rows, count = dims["B"], dims["N"]
    # 2 a^2 |F'| is below 1/d at h = 0, and below 4/d wherever |eta| > a/2 or |h| is below d.
    share = 8 * EPS32 * 4 * (2 / count) * (4 / dimension)
    return Case(
        name,
        dims,
        inputs,
        {
            "grad_p": Tolerance(8 * EPS32, 8 * EPS32, "a F below 1 times a cotangent below 4"),
            "grad_s": Tolerance(
                share, 8 * EPS32, "p < 2/N, cotangent below 4, 2 a^2 F' below 4/d, to 8 units"
            ),
            "grad_a": Tolerance(2 * share * rows**0.5, 8 * EPS32, "B terms like those of grad_s"),
            "grad_h2": Tolerance(
                share * count**0.5 / dimension, 8 * EPS32, "N terms like those of grad_s over 2a"
            ),
        },
        {"dimension": dimension},
    )


KERNEL = Kernel(
    stem="mixture_coefficients_backward",
    bindings=(
        Binding("p", "f32", ("B", "N")),
        Binding("s", "f32", ("B", "N")),
        Binding("a", "f32", ("N",)),
        Binding("h2", "f32", ("B",)),
        Binding("grad_weight", "f32", ("B", "N")),
        Binding("grad_tilt", "f32", ("B",)),
        Binding("grad_p", "f32", ("B", "N"), "out"),
        Binding("grad_s", "f32", ("B", "N"), "out"),
        Binding("grad_a", "f32", ("N",), "out"),
        Binding("grad_h2", "f32", ("B",), "out"),
    ),
    params=(Param("dimension", "u32"),),
    workgroups=column_workgroups,
    mirror=mirror,
    reference=reference,
    rounds=lambda dims, params: _rounds.rows_and_columns(
        dims, _rounds.recurrence(params["dimension"])
    ),
    constants={"WG": 256},
    subgroup=True,
    cases=(
        _case("d640", {"B": 33, "N": 67}, 640, (1, 50), 20),
        _case("d64", {"B": 19, "N": 301}, 64, (1, 10), 16),
        _case("d9", {"B": 4, "N": 33}, 9, (1, 50), 4),
        _case("strong tilt", {"B": 2, "N": 31}, 640, (1, 5), 600),
        _case("opposite tilt", {"B": 5, "N": 7}, 128, (1, 2), 16, opposite=-1.0),
        _case("one splat", {"B": 1, "N": 1}, 33, (1, 2), 5),
    ),
    work=lambda dims: Work(140.0 * dims["B"] * dims["N"], 20.0 * dims["B"] * dims["N"]),
    speed_case={"B": 1024, "N": 16384},
)
