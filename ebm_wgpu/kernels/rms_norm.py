"""Root-mean-square normalisation of rows, with the scale that the backward needs:

    rstd = 1 / sqrt(sum_k x_k^2 / N + epsilon),   out = x rstd weight.

Source: Zhang and Sennrich 2019 (arXiv:1910.07467), equation 4.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numba import njit

from ebm_wgpu.kernels._norms import exact_rms_norm, forward_kernel
from ebm_wgpu.kernels.spec import Array, Arrays, Run, Scalar, Tolerance


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


KERNEL = forward_kernel(
    "rms",
    mirror,
    reference,
    _vjp,
    Tolerance(5e-6, 1e-5, "means of 641 products of order one"),
    passes=2,
    reductions=1,
    flops=5.0,
)
