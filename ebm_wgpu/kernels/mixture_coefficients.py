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
from ebm_wgpu.kernels._mixture import shares, slopes, squares, tilt_inputs, tilt_row, total
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
        return arrays | {"p": shares(rng, dims)}

    return Case(
        name,
        dims,
        inputs,
        Tolerance(1e-12, 8 * EPS32, "products of F, good to a few units, and sums of one sign"),
        {"dimension": dimension},
    )


KERNEL = Kernel(
    stem="mixture_coefficients",
    bindings=(
        Binding("p", "f32", ("B", "N")),
        Binding("s", "f32", ("B", "N")),
        Binding("a", "f32", ("N",)),
        Binding("h2", "f32", ("B",)),
        Binding("weight", "f32", ("B", "N"), "out"),
        Binding("tilt", "f32", ("B",), "out"),
    ),
    params=(Param("dimension", "u32"),),
    workgroups=lambda dims, params: dims["B"],
    mirror=mirror,
    reference=reference,
    rounds=lambda dims, params: (
        _rounds.strided(dims["N"], 256, _rounds.recurrence(params["dimension"]))
        + _rounds.reduction(256)
    ),
    constants={"WG": 256},
    subgroup=True,
    cases=(
        _case("d640", {"B": 5, "N": 301}, 640, (1, 50), 20),
        _case("d64", {"B": 3, "N": 129}, 64, (1, 10), 16),
        _case("d9", {"B": 4, "N": 33}, 9, (1, 50), 4),
        _case("strong tilt", {"B": 2, "N": 31}, 640, (1, 5), 600),
        _case("opposite tilt", {"B": 5, "N": 7}, 128, (1, 2), 16, opposite=-0.999),
        _case("one splat", {"B": 1, "N": 1}, 33, (1, 2), 5),
    ),
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
