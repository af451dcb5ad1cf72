"""Layer normalisation of rows, with the statistics that the backward needs:

    mean = sum_k x_k / N,   rstd = 1 / sqrt(sum_k (x_k - mean)^2 / N + epsilon),
    out = (x - mean) rstd weight + bias.

Source: Ba, Kiros, Hinton 2016 (arXiv:1607.06450).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numba import njit

from ebm_wgpu.kernels import _rounds
from ebm_wgpu.kernels._cases import normal
from ebm_wgpu.kernels._norms import (
    CASES,
    EPSILON,
    exact_layer_norm,
    norm_inputs,
    row_tolerance,
)
from ebm_wgpu.kernels._rows import WG
from ebm_wgpu.kernels.spec import (
    Array,
    Arrays,
    Binding,
    Case,
    Dims,
    Gradient,
    Kernel,
    Param,
    Run,
    Scalar,
    Tolerance,
    Work,
)


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


def _case(name: str, dims: Dims, mean: float) -> Case:
    def inputs(rng: np.random.Generator, sizes: Dims) -> Arrays:
        return norm_inputs(mean)(rng, sizes) | {"bias": normal(rng, sizes["N"])}

    return Case(name, dims, inputs, row_tolerance(mean, dims["N"]), EPSILON)


KERNEL = Kernel(
    stem="layer_norm",
    bindings=(
        Binding("x", "f32", ("R", "N"), half=True),
        Binding("weight", "f32", ("N",), half=True),
        Binding("bias", "f32", ("N",), half=True),
        Binding("out", "f32", ("R", "N"), "out", half=True),
        Binding("mean", "f32", ("R",), "out"),
        Binding("rstd", "f32", ("R",), "out"),
    ),
    params=(Param("epsilon", "f32"),),
    constants={"WG": WG},
    workgroups=lambda dims, params: dims["R"],
    mirror=mirror,
    reference=reference,
    rounds=_rounds.row_passes("N", 3, 2, WG),
    subgroup=True,
    cases=tuple(_case(*case) for case in CASES),
    gradient=Gradient(
        wrt=("x", "weight", "bias"),
        vjp=_vjp,
        outputs=("out",),
        tolerance=Tolerance(2e-5, 1e-5, "entries of about 100 lose two digits when centred"),
        cases=("odd", "one row", "far from zero"),
    ),
    work=lambda dims: Work(9.0 * dims["R"] * dims["N"], 8.0 * dims["R"] * dims["N"]),
    speed_case={"R": 16384, "N": 640},
)
