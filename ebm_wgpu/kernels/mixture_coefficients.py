"""weight = p F a and tilt = sum_k p F, with F = A(|eta|)/|eta|: the mixture's mean as a product.

E[x|c] = sum_k p_k A(r_k)/r_k (a_k mu_k + h) = weight @ mu + tilt h, so that training needs one
matrix product forward and two backward. F is finite at |eta| = 0, where it is 1/d.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numba import njit, prange

from ebm_wgpu.kernels import _rounds
from ebm_wgpu.kernels._cases import EPS32
from ebm_wgpu.kernels._mixture import slopes, squares, tilt_row, total
from ebm_wgpu.kernels._mixture_cases import DIMENSION, FORWARD, H2, A, S, shares, tilt_cases
from ebm_wgpu.kernels.spec import (
    Array,
    Arrays,
    Binding,
    Gradient,
    Kernel,
    Run,
    Scalar,
    Tolerance,
    Work,
)


@njit(parallel=True, cache=True)
def mirror(
    p: Array, s: Array, a: Array, h2: Array, dimension: int, weight: Array, tilt: Array
) -> None:
    """Numba mirror."""
    for row in prange(s.shape[0]):
        slope = np.empty_like(a)
        tilt_row(a, s[row], h2[row], dimension, weight[row], slope)
        weight[row] *= p[row]
        tilt[row] = total(weight[row])
        weight[row] *= a


def reference(p: Array, s: Array, a: Array, h2: Array, dimension: int) -> Arrays:
    """Float64 reference."""
    f, _ = slopes(squares(s, a, h2), dimension)
    return {"weight": p * f * a, "tilt": np.sum(p * f, axis=1)}


def _vjp(run: Run, inputs: Arrays, params: Mapping[str, Scalar], cotangents: Arrays) -> Arrays:
    gradients = run(
        "mixture_coefficients_backward",
        **inputs,
        grad_weight=cotangents["weight"],
        grad_tilt=cotangents["tilt"],
        dimension=params["dimension"],
    )
    return {name: gradients[f"grad_{name}"] for name in ("p", "s", "a", "h2")}


_TOLERANCE = Tolerance(1e-12, 8 * EPS32, "products of F, good to a few units, and sums of one sign")

KERNEL = Kernel(
    stem="mixture_coefficients",
    bindings=(
        Binding("p", "f32", ("B", "N")),
        S,
        A,
        H2,
        Binding("weight", "f32", ("B", "N"), "out"),
        Binding("tilt", "f32", ("B",), "out"),
    ),
    params=DIMENSION,
    workgroups=lambda dims, params: dims["B"],
    mirror=mirror,
    reference=reference,
    rounds=lambda dims, params: (
        _rounds.strided(dims["N"], 256, _rounds.recurrence(params["dimension"]))
        + _rounds.reduction(256)
    ),
    constants={"WG": 256},
    subgroup=True,
    cases=tilt_cases(FORWARD, lambda rng, dims: {"p": shares(rng, dims)}, lambda tilt: _TOLERANCE),
    gradient=Gradient(
        wrt=("p", "s", "a", "h2"),
        vjp=_vjp,
        outputs=("weight", "tilt"),
        tolerance=Tolerance(5e-6, 2e-5, "a few float32 roundings and sums of a few terms"),
        step=1e-2,
    ),
    work=lambda dims: Work(60.0 * dims["B"] * dims["N"], 12.0 * dims["B"] * dims["N"]),
    speed_case={"B": 1024, "N": 16384},
)
