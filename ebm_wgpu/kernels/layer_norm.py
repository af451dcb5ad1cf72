"""Layer normalisation of rows, with the statistics that the backward needs:

    mean = sum_k x_k / N,   rstd = 1 / sqrt(sum_k (x_k - mean)^2 / N + epsilon),
    out = (x - mean) rstd weight + bias.

Source: Ba, Kiros, Hinton 2016 (arXiv:1607.06450).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numba import njit

from ebm_wgpu.kernels._norms import exact_layer_norm, forward_kernel
from ebm_wgpu.kernels.spec import Array, Arrays, Run, Scalar, Tolerance


@njit(cache=True, fastmath={"reassoc", "contract"})
def _rows(
    x: Array, weight: Array, bias: Array, epsilon: float, out: Array, mean: Array, rstd: Array
) -> None:
    count = np.float32(x.shape[1])
    for row in range(x.shape[0]):
        total = np.float32(0)
        for k in range(x.shape[1]):
            total += x[row, k]
        centre = total / count
        square = np.float32(0)
        for k in range(x.shape[1]):
            square += (x[row, k] - centre) * (x[row, k] - centre)
        scale = np.float32(1) / np.sqrt(square / count + epsilon)
        for k in range(x.shape[1]):
            out[row, k] = (x[row, k] - centre) * scale * weight[k] + bias[k]
        mean[row] = centre
        rstd[row] = scale


def mirror(
    x: Array, weight: Array, bias: Array, epsilon: float, out: Array, mean: Array, rstd: Array
) -> None:
    """Numba mirror."""
    _rows(x, weight, bias, np.float32(epsilon), out, mean, rstd)


def reference(x: Array, weight: Array, bias: Array, epsilon: float) -> Arrays:
    """Float64 reference."""
    y, mean, rstd = exact_layer_norm(x, epsilon)
    return {"out": y * weight + bias, "mean": mean, "rstd": rstd}


def _vjp(run: Run, inputs: Arrays, params: Mapping[str, Scalar], cotangents: Arrays) -> Arrays:
    forward = run("layer_norm", **inputs, epsilon=params["epsilon"])
    shared = {
        "x": inputs["x"],
        "mean": forward["mean"],
        "rstd": forward["rstd"],
        "grad_out": cotangents["out"],
    }
    rows = run("layer_norm_backward", **shared, weight=inputs["weight"])
    parts = run("layer_norm_weight_backward", **shared, P=2)
    sums = {n: run("column_sum", x=parts[f"grad_{n}"], P=1)["out"][0] for n in ("weight", "bias")}
    return sums | {"x": rows["grad_x"]}


KERNEL = forward_kernel(
    "layer",
    mirror,
    reference,
    _vjp,
    Tolerance(2e-5, 1e-5, "entries of about 100 lose two digits when centred"),
    passes=3,
    reductions=2,
    flops=9.0,
)
