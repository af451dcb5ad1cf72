"""Root-mean-square normalisation of rows, with the scale that the backward needs:

    rstd = 1 / sqrt(sum_k x_k^2 / N + epsilon),   out = x rstd weight.

Source: Zhang and Sennrich 2019 (arXiv:1910.07467), equation 4.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numba import njit

from ebm_wgpu.kernels import _rounds
from ebm_wgpu.kernels._norms import CASES, EPSILON, exact_rms_norm, norm_inputs, row_tolerance
from ebm_wgpu.kernels._rows import WG
from ebm_wgpu.kernels.spec import (
    Array,
    Arrays,
    Binding,
    Case,
    Gradient,
    Kernel,
    Param,
    Run,
    Scalar,
    Tolerance,
    Work,
)


@njit(cache=True, fastmath={"reassoc", "contract"})
def _rows(x: Array, weight: Array, epsilon: float, out: Array, rstd: Array) -> None:
    for row in range(x.shape[0]):
        square = np.float32(0)
        for k in range(x.shape[1]):
            square += x[row, k] * x[row, k]
        scale = np.float32(1) / np.sqrt(square / np.float32(x.shape[1]) + epsilon)
        for k in range(x.shape[1]):
            out[row, k] = x[row, k] * scale * weight[k]
        rstd[row] = scale


def mirror(x: Array, weight: Array, epsilon: float, out: Array, rstd: Array) -> None:
    """Numba mirror."""
    _rows(x, weight, np.float32(epsilon), out, rstd)


def reference(x: Array, weight: Array, epsilon: float) -> Arrays:
    """Float64 reference."""
    y, rstd = exact_rms_norm(x, epsilon)
    return {"out": y * weight, "rstd": rstd}


def _vjp(run: Run, inputs: Arrays, params: Mapping[str, Scalar], cotangents: Arrays) -> Arrays:
    rstd = run("rms_norm", **inputs, epsilon=params["epsilon"])["rstd"]
    shared = {"x": inputs["x"], "rstd": rstd, "grad_out": cotangents["out"]}
    rows = run("rms_norm_backward", **shared, weight=inputs["weight"])
    parts = run("rms_norm_weight_backward", **shared, P=2)["grad_weight"]
    return {"x": rows["grad_x"], "weight": run("column_sum", x=parts, P=1)["out"][0]}


KERNEL = Kernel(
    stem="rms_norm",
    bindings=(
        Binding("x", "f32", ("R", "N"), half=True),
        Binding("weight", "f32", ("N",), half=True),
        Binding("out", "f32", ("R", "N"), "out", half=True),
        Binding("rstd", "f32", ("R",), "out"),
    ),
    params=(Param("epsilon", "f32"),),
    constants={"WG": WG},
    workgroups=lambda dims, params: dims["R"],
    mirror=mirror,
    reference=reference,
    rounds=_rounds.row_passes("N", 2, 1, WG),
    subgroup=True,
    cases=tuple(
        Case(name, dims, norm_inputs(mean), row_tolerance(0, dims["N"]), EPSILON)
        for name, dims, mean in CASES
    ),
    gradient=Gradient(
        wrt=("x", "weight"),
        vjp=_vjp,
        outputs=("out",),
        tolerance=Tolerance(5e-6, 1e-5, "means of 641 products of order one"),
        cases=("odd", "one row", "far from zero"),
    ),
    work=lambda dims: Work(5.0 * dims["R"] * dims["N"], 8.0 * dims["R"] * dims["N"]),
    speed_case={"R": 16384, "N": 640},
)
