"""Rotary positions: each pair of coordinates of a head turned by the angle of its position.

    (x_i, x_j) -> (x_i cos - x_j sin, x_i sin + x_j cos),   angle = position theta_i,

position = offset + r mod period for row r: where rows are (batch, time) the period is the number of
times. Pairs are (i, i + D/2), or (2 i, 2 i + 1) with interleaved = 1. inverse = 1 turns back, which
is also the gradient. Source: Su et al. 2021 (arXiv:2104.09864), equation 15. Tables are those of
`models.rotary.rotary_table`, (L, D/2).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numba import njit

from ebm_wgpu.errors import KernelError
from ebm_wgpu.kernels._cases import ELEMENTWISE, normal
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


@njit(cache=True)
def mirror(
    x: Array,
    cos: Array,
    sin: Array,
    offset: int,
    period: int,
    inverse: int,
    interleaved: int,
    out: Array,
) -> None:
    """Numba mirror."""
    half = cos.shape[1]
    sign = np.float32(-1 if inverse else 1)
    spread, step = (2, 1) if interleaved else (1, half)
    for row in range(x.shape[0]):
        position = offset + row % period
        for head in range(x.shape[1]):
            for pair in range(half):
                first = spread * pair
                second = first + step
                c, s = cos[position, pair], sign * sin[position, pair]
                a, b = x[row, head, first], x[row, head, second]
                out[row, head, first] = a * c - b * s
                out[row, head, second] = a * s + b * c


def reference(
    x: Array,
    cos: Array,
    sin: Array,
    offset: int,
    period: int,
    inverse: int,
    interleaved: int,
) -> Arrays:
    """Float64 reference."""
    half = cos.shape[1]
    position = offset + np.arange(len(x)) % period
    turn = (cos + 1j * (-sin if inverse else sin))[position][:, None]
    first = np.s_[..., 0::2] if interleaved else np.s_[..., :half]
    second = np.s_[..., 1::2] if interleaved else np.s_[..., half:]
    turned = (x[first] + 1j * x[second]) * turn
    out = np.empty_like(x)
    out[first], out[second] = turned.real, turned.imag
    return {"out": out}


def _vjp(run: Run, inputs: Arrays, params: Mapping[str, Scalar], cotangents: Arrays) -> Arrays:
    options = {p.name: params[p.name] for p in KERNEL.params} | {"inverse": 1 - params["inverse"]}
    tables = {name: inputs[name] for name in ("cos", "sin")}
    return {"x": run("rotary", x=cotangents["out"], **tables, **options)["out"]}


def _derive(dims: dict[str, int], params: Mapping[str, Scalar]) -> dict[str, int]:
    if dims["D"] != 2 * dims["C"]:
        raise KernelError(
            f"kernel rotary: heads of dimension {dims['D']} need tables of {dims['D'] / 2:g} "
            f"columns, not {dims['C']}"
        )
    if params["period"] < 1:
        raise KernelError(f"kernel rotary: period={params['period']} must be at least 1")
    last = int(params["offset"] + min(params["period"], dims["R"])) - 1
    if last >= dims["L"]:
        raise KernelError(
            f"kernel rotary: position {last} lies beyond the {dims['L']} rows of the tables"
        )
    return {}


def _inputs(rng: np.random.Generator, dims: Dims) -> Arrays:
    rates = 10000.0 ** (-np.arange(dims["C"]) / dims["C"])
    angles = np.arange(dims["L"])[:, None] * rates
    return {
        "x": normal(rng, dims["R"], dims["H"], dims["D"]),
        "cos": np.cos(angles).astype(np.float32),
        "sin": np.sin(angles).astype(np.float32),
    }


def _case(
    name: str,
    sizes: tuple[int, int, int, int],
    offset: int = 0,
    period: int = 1,
    inverse: int = 0,
    interleaved: int = 0,
) -> Case:
    rows, heads, dimension, length = sizes
    dims = {"R": rows, "H": heads, "D": dimension, "C": dimension // 2, "L": length}
    params: dict[str, Scalar] = {
        "offset": offset,
        "period": period,
        "inverse": inverse,
        "interleaved": interleaved,
    }
    return Case(name, dims, _inputs, ELEMENTWISE, params)


KERNEL = Kernel(
    stem="rotary",
    bindings=(
        Binding("x", "f32", ("R", "H", "D"), half=True),
        Binding("cos", "f32", ("L", "C")),
        Binding("sin", "f32", ("L", "C")),
        Binding("out", "f32", ("R", "H", "D"), "out", half=True),
    ),
    params=(
        Param("offset", "u32"),
        Param("period", "u32"),
        Param("inverse", "u32"),
        Param("interleaved", "u32"),
    ),
    constants={"WG": WG},
    workgroups=entries("R", "H", "C"),
    derive=_derive,
    mirror=mirror,
    reference=reference,
    cases=(
        _case("two batches", (26, 3, 10, 13), period=13),
        _case("offset, interleaved", (7, 2, 64, 19), offset=12, period=7, interleaved=1),
        _case("inverse", (9, 1, 6, 9), period=9, inverse=1),
        _case(
            "inverse, interleaved", (5, 2, 8, 300), offset=295, period=5, inverse=1, interleaved=1
        ),
        _case("one pair", (1, 1, 2, 1)),
    ),
    gradient=Gradient(
        wrt=("x",),
        vjp=_vjp,
        outputs=("out",),
        tolerance=Tolerance(2e-6, 1e-5, "a turn: a few float32 roundings"),
    ),
    work=lambda dims: Work(
        3.0 * dims["R"] * dims["H"] * dims["D"], 8.0 * dims["R"] * dims["H"] * dims["D"]
    ),
    speed_case={"R": 16384, "H": 10, "D": 64, "C": 32, "L": 16384},
)
