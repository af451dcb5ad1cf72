"""out[p] = sum of x[r] over the rows of part p, rows p ceil(R/P) to (p + 1) ceil(R/P) - 1.

Once with many parts and once with P = 1 it sums any number of rows, in the same order in every run.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ebm_wgpu.kernels._cases import EPS32, normal
from ebm_wgpu.kernels._norms import SUM_CONSTANTS
from ebm_wgpu.kernels._rows import part_rounds, part_sums, part_workgroups, parts_of
from ebm_wgpu.kernels.spec import Array, Arrays, Binding, Case, Dims, Kernel, Tolerance, Work


@njit(cache=True)
def mirror(x: Array, out: Array) -> None:
    """Numba mirror."""
    out[:] = 0
    step = -(-x.shape[0] // out.shape[0])
    for row in range(x.shape[0]):
        for k in range(x.shape[1]):
            out[row // step, k] += x[row, k]


def reference(x: Array, P: int) -> Arrays:
    """Float64 reference."""
    return {"out": part_sums(x, P)}


def _inputs(rng: np.random.Generator, dims: Dims) -> Arrays:
    return {"x": normal(rng, dims["R"], dims["N"])}


def _case(name: str, rows: int, columns: int, parts: int) -> Case:
    most = -(-rows // parts)
    tolerance = Tolerance(
        EPS32 * (2 + most),
        4 * EPS32,
        f"a sum of {most} unit normals: partial sums of size sqrt(j), each rounded",
    )
    return Case(name, {"R": rows, "N": columns, "P": parts}, _inputs, tolerance)


KERNEL = Kernel(
    stem="column_sum",
    bindings=(
        Binding("x", "f32", ("R", "N"), half=True),
        Binding("out", "f32", ("P", "N"), "out"),
    ),
    constants=SUM_CONSTANTS,
    workgroups=part_workgroups,
    derive=parts_of,
    mirror=mirror,
    reference=reference,
    rounds=part_rounds,
    cases=(
        _case("odd", 301, 131, 4),
        _case("one part", 37, 70, 1),
        _case("more parts than rows", 2, 5, 3),
        _case("parts without rows", 9, 3, 7),
        _case("one number", 1, 1, 1),
    ),
    work=lambda dims: Work(1.0 * dims["R"] * dims["N"], 4.0 * dims["R"] * dims["N"]),
    speed_case={"R": 16384, "N": 2560, "P": 64},
)
