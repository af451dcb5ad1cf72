"""out = op(a) op(b), where op(m) is m or, with trans_a or trans_b set to 1, its transpose."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ebm_wgpu.kernels._cases import EPS32, normal
from ebm_wgpu.kernels._matmul import check_shapes, depth_of
from ebm_wgpu.kernels.matmul_tiled import tile_constants, tile_rounds
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

TILE = 64
_CONSTANTS = tile_constants(TILE, TILE)


def mirror(a: Array, b: Array, out: Array, trans_a: int, trans_b: int) -> None:
    """BLAS through NumPy: no compiled loop of ours comes near it."""
    with np.errstate(invalid="ignore"):
        np.matmul(a.T if trans_a else a, b.T if trans_b else b, out=out)


def reference(a: Array, b: Array, trans_a: int, trans_b: int) -> Arrays:
    """Float64 reference."""
    return {"out": (a.T if trans_a else a) @ (b.T if trans_b else b)}


def _derive(dims: dict[str, int], params: Mapping[str, Scalar]) -> dict[str, int]:
    return check_shapes("matmul", dims, params)


def _vjp(
    run: Run, inputs: Arrays, params: Mapping[str, Scalar], cotangents: Arrays
) -> dict[str, Array]:
    """d out -> op(b) and op(a) times d out, transposed so that no operand need be copied."""
    a, b, d_out = inputs["a"], inputs["b"], cotangents["out"]
    trans_a, trans_b = int(params["trans_a"]), int(params["trans_b"])

    def product(left: Array, right: Array, trans_left: int, trans_right: int) -> Array:
        outputs = run("matmul", a=left, b=right, trans_a=trans_left, trans_b=trans_right)
        return outputs["out"]

    d_a = product(b, d_out, trans_b, 1) if trans_a else product(d_out, b, 0, 1 - trans_b)
    d_b = product(d_out, a, 1, trans_a) if trans_b else product(a, d_out, 1 - trans_a, 0)
    return {"a": d_a, "b": d_b}


def _inputs(scale: float = 1.0) -> Callable[[np.random.Generator, Dims], Arrays]:
    def draw(rng: np.random.Generator, dims: Dims) -> Arrays:
        return {
            "a": normal(rng, dims["AR"], dims["AC"], scale=scale),
            "b": normal(rng, dims["BR"], dims["BC"]),
        }

    return draw


def _case(
    name: str, m: int, k: int, n: int, trans_a: int = 0, trans_b: int = 0, scale: float = 1.0
) -> Case:
    rows_a, columns_a = (k, m) if trans_a else (m, k)
    rows_b, columns_b = (n, k) if trans_b else (k, n)
    dims = {"AR": rows_a, "AC": columns_a, "BR": rows_b, "BC": columns_b, "M": m, "N": n}
    tolerance = Tolerance(
        2 * EPS32 * k * scale,
        4 * EPS32,
        f"sum of {k} products of unit normals: partial sums of size sqrt(j), each rounded, err by "
        "0.2 eps k in standard deviation, by 2 eps k nowhere in these tables",
    )
    return Case(name, dims, _inputs(scale), tolerance, {"trans_a": trans_a, "trans_b": trans_b})


def _whole_numbers(rng: np.random.Generator, dims: Dims) -> Arrays:
    return {
        "a": rng.integers(-8, 9, (dims["AR"], dims["AC"])).astype(np.float32),
        "b": rng.integers(-8, 9, (dims["BR"], dims["BC"])).astype(np.float32),
    }


_EXACT_SUMS = Tolerance(0.0, 0.0, "sums of small whole numbers are exact in float32")

KERNEL = Kernel(
    stem="matmul",
    bindings=(
        Binding("a", "f32", ("AR", "AC"), half=True),
        Binding("b", "f32", ("BR", "BC"), half=True),
        Binding("out", "f32", ("M", "N"), "out", half=True),
    ),
    params=(Param("trans_a", "u32"), Param("trans_b", "u32")),
    constants=_CONSTANTS,
    workgroups=lambda dims, params: -(-dims["M"] // TILE) * -(-dims["N"] // TILE),
    derive=_derive,
    mirror=mirror,
    reference=reference,
    rounds=lambda dims, params: tile_rounds(depth_of(dims, params), _CONSTANTS),
    cases=(
        _case("several tiles, odd", 97, 83, 131),
        _case("odd, a transposed", 97, 35, 66, trans_a=1),
        _case("odd, b transposed", 65, 50, 97, trans_b=1),
        _case("odd, both transposed", 70, 33, 67, trans_a=1, trans_b=1),
        _case("exactly one tile", 64, 64, 64),
        _case("one row", 1, 641, 70, trans_b=1),
        _case("one column", 70, 100, 1),
        _case("one number", 1, 1, 1),
        _case("deep and small", 5, 2000, 7, trans_a=1),
        _case("small values", 33, 17, 9, scale=1e-3),
        Case(
            "whole numbers, exact",
            {"AR": 67, "AC": 45, "BR": 45, "BC": 66, "M": 67, "N": 66},
            _whole_numbers,
            _EXACT_SUMS,
            {"trans_a": 0, "trans_b": 0},
        ),
    ),
    gradient=Gradient(
        wrt=("a", "b"),
        vjp=_vjp,
        outputs=("out",),
        tolerance=Tolerance(
            2e-6, 2e-6, "float32 products of up to 2000 terms against float64 differences"
        ),
    ),
    work=lambda dims: Work(
        2.0 * dims["AR"] * dims["AC"] * dims["N"],
        4.0 * (dims["AR"] * dims["AC"] + dims["BR"] * dims["BC"] + dims["M"] * dims["N"]),
    ),
    speed_case={"AR": 2048, "AC": 2048, "BR": 2048, "BC": 2048, "M": 2048, "N": 2048},
)
