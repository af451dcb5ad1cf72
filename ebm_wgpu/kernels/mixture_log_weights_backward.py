"""The backward of `mixture_log_weights`: with G = grad_log_W, r = |eta| and F = A(r)/r,

    grad_s = G F a,   grad_h2 = sum_k G F / 2,
    grad_log_pi = sum_b G,   grad_a = sum_b G (F (a + s) - A(a)).

The last is worked out as F s + a (F - F(a^2)), the difference without cancellation: at large a it
is a millionth of A. Sums have one owner and a fixed order: the result is the same in every run.
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
    slopes,
    squares,
    tilt_change_row,
    tilt_inputs,
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
        return arrays | {"grad_log_W": cotangent(rng, dims["B"], dims["N"])}

    rows, count = dims["B"], dims["N"]
    relative = 8 * EPS32
    cosine = kappa[1] if opposite else 5 * length / (dimension**0.5 * (dimension - 1))
    return Case(
        name,
        dims,
        inputs,
        {
            "grad_s": Tolerance(1e-7, relative, "A to a few units, G below 4"),
            "grad_a": Tolerance(
                4 * relative * cosine * rows**0.5,
                relative,
                f"B terms of G < 4 times F s < {cosine:.1e}, which cancel among each other",
            ),
            "grad_log_pi": Tolerance(4 * EPS32 * rows**0.5, relative, "a sum of B values below 4"),
            "grad_h2": Tolerance(
                relative * count**0.5 / dimension, relative, "N values of about G/(2d), any sign"
            ),
        },
        {"dimension": dimension},
    )


KERNEL = Kernel(
    stem="mixture_log_weights_backward",
    bindings=(
        Binding("s", "f32", ("B", "N")),
        Binding("a", "f32", ("N",)),
        Binding("h2", "f32", ("B",)),
        Binding("grad_log_W", "f32", ("B", "N")),
        Binding("grad_s", "f32", ("B", "N"), "out"),
        Binding("grad_a", "f32", ("N",), "out"),
        Binding("grad_log_pi", "f32", ("N",), "out"),
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
    work=lambda dims: Work(130.0 * dims["B"] * dims["N"], 12.0 * dims["B"] * dims["N"]),
    speed_case={"B": 1024, "N": 16384},
)
