"""out_i = x_i / (1 - p) with probability 1 - p, else 0, on random numbers that need no mask:

entry i is kept where the uniform in lane i % 4 of Philox block i // 4 is at least p. The counter's
other words are `step` and `site`, which of a model's dropouts it is. The gradient is the same
kernel on the gradient. Source: Srivastava et al. 2014 (JMLR 15).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numba import njit

from ebm_wgpu.errors import KernelError
from ebm_wgpu.kernels._cases import EPS32, normal
from ebm_wgpu.kernels._philox import U32, split_seed, uniform4, uniform_reference
from ebm_wgpu.kernels._rows import WG, entries
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

STREAM_DROPOUT = 5
"""The Philox stream of dropout, after those of the samplers."""


def dropout_params(probability: float, seed: int, step: int, site: int) -> dict[str, Scalar]:
    """The kernel's parameters for a probability of dropping in [0, 1].

    Raises:
        KernelError: the probability lies outside.
    """
    if not 0 <= probability <= 1:
        raise KernelError(f"dropout probability {probability} must lie between 0 and 1")
    scale = 1 / (1 - probability) if probability < 1 else 0.0
    return {"probability": probability, "scale": scale, "seed": seed, "step": step, "site": site}


@njit(cache=True, error_model="numpy")
def _entries(
    x: Array, probability: float, scale: float, seed: np.uint64, step: U32, site: U32, out: Array
) -> None:
    k0, k1 = split_seed(seed)
    for i in range(0, x.shape[0], 4):
        u = uniform4(np.uint32(i // 4), step, site, np.uint32(STREAM_DROPOUT), k0, k1)
        for lane in range(min(4, x.shape[0] - i)):
            out[i + lane] = x[i + lane] * scale if u[lane] >= probability else np.float32(0)


def mirror(
    x: Array, probability: float, scale: float, seed: int, step: int, site: int, out: Array
) -> None:
    """Numba mirror."""
    _entries(
        x,
        np.float32(probability),
        np.float32(scale),
        np.uint64(seed),
        np.uint32(step),
        np.uint32(site),
        out,
    )


def reference(
    x: Array, N: int, probability: float, scale: float, seed: int, step: int, site: int
) -> Arrays:
    """Float64 reference."""
    u = uniform_reference(np.array([site]), N, step, STREAM_DROPOUT, seed)[0]
    return {"out": np.where(u >= np.float32(probability), x * scale, 0.0)}


def _vjp(run: Run, inputs: Arrays, params: Mapping[str, Scalar], cotangents: Arrays) -> Arrays:
    options = {p.name: params[p.name] for p in KERNEL.params}
    return {"x": run("dropout", x=cotangents["out"], **options)["out"]}


def _inputs(rng: np.random.Generator, dims: Dims) -> Arrays:
    return {"x": normal(rng, dims["N"])}


def _case(name: str, count: int, params: dict[str, Scalar]) -> Case:
    tolerance = Tolerance(0.0, 2 * EPS32, "the same entries, times a rounded scale, or zero")
    return Case(name, {"N": count}, _inputs, tolerance, params)


KERNEL = Kernel(
    stem="dropout",
    bindings=(
        Binding("x", "f32", ("N",), half=True),
        Binding("out", "f32", ("N",), "out", half=True),
    ),
    params=(
        Param("probability", "f32"),
        Param("scale", "f32"),
        Param("seed", "u64"),
        Param("step", "u32"),
        Param("site", "u32"),
    ),
    constants={"WG": WG, "STREAM_DROPOUT": STREAM_DROPOUT},
    workgroups=entries("N", each=4),
    mirror=mirror,
    reference=reference,
    cases=(
        _case("odd", 4099, dropout_params(0.1, 0x0123456789ABCDEF, 17, 3)),
        _case("half of it", 1030, dropout_params(0.5, 1, 2**32 - 1, 2**32 - 1)),
        _case("all dropped", 5, dropout_params(1.0, 2**64 - 1, 0, 0)),
        _case("none dropped", 1, dropout_params(0.0, 0, 0, 0)),
    ),
    gradient=Gradient(
        wrt=("x",),
        vjp=_vjp,
        outputs=("out",),
        tolerance=Tolerance(2e-6, 1e-6, "a product with a rounded scale"),
    ),
    work=lambda dims: Work(25.0 * dims["N"], 8.0 * dims["N"]),
    speed_case={"N": 1 << 24},
)
