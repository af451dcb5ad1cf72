"""Rotary positions: each pair of coordinates of a head turned by the angle of its position.

    (x_i, x_{i + D/2}) -> (x_i cos - x_{i + D/2} sin, x_i sin + x_{i + D/2} cos).

Heads of x stand where `x_at` and three strides put them, within a projection to queries, keys and
values for example, and are written side by side: out (B, H, T, D). Tables (P, T, D/2) serve all
texts, or, with P = B, one text each. inverse = 1 turns back, which is also the gradient.
Source: Su et al. 2021 (arXiv:2104.09864), equation 15; tables as `models.rotary.rotary_table`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numba import njit
from numpy.lib.stride_tricks import as_strided

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

_PLACEMENT = ("x_at", "x_batch", "x_head", "x_time")


@njit(cache=True)
def mirror(
    x: Array,
    cos: Array,
    sin: Array,
    x_at: int,
    x_batch: int,
    x_head: int,
    x_time: int,
    inverse: int,
    out: Array,
) -> None:
    """Numba mirror."""
    half = cos.shape[2]
    sign = np.float32(-1 if inverse else 1)
    for batch in range(out.shape[0]):
        table = batch if cos.shape[0] > 1 else 0
        for head in range(out.shape[1]):
            for time in range(out.shape[2]):
                start = x_at + batch * x_batch + head * x_head + time * x_time
                for pair in range(half):
                    c, s = cos[table, time, pair], sign * sin[table, time, pair]
                    a, b = x[start + pair], x[start + pair + half]
                    out[batch, head, time, pair] = a * c - b * s
                    out[batch, head, time, pair + half] = a * s + b * c


def _heads(x: Array, dims: Mapping[str, int], params: Mapping[str, Scalar]) -> Array:
    """The view (B, H, T, D) of a flat array that the parameters describe."""
    at, *strides = (int(params[name]) for name in _PLACEMENT)
    sizes = tuple(dims[name] for name in "BHTD")
    return as_strided(x[at:], sizes, [x.itemsize * step for step in (*strides, 1)])


def reference(
    x: Array,
    cos: Array,
    sin: Array,
    x_at: int,
    x_batch: int,
    x_head: int,
    x_time: int,
    inverse: int,
    B: int,
    H: int,
    T: int,
    D: int,
) -> Arrays:
    """Float64 reference."""
    placement = dict(zip(_PLACEMENT, (x_at, x_batch, x_head, x_time), strict=True))
    heads = _heads(x, {"B": B, "H": H, "T": T, "D": D}, placement)
    turned = heads[..., : D // 2] + 1j * heads[..., D // 2 :]
    turned = turned * (cos + 1j * (-sin if inverse else sin))[:, None]
    return {"out": np.concatenate((turned.real, turned.imag), axis=-1)}


def contiguous(heads: int, times: int, dimension: int) -> dict[str, Scalar]:
    """The parameters of an array (B, heads, times, dimension) that begins at its first entry."""
    strides = (heads * times * dimension, times * dimension, dimension)
    return dict(zip(_PLACEMENT, (0, *strides), strict=True))


def _vjp(run: Run, inputs: Arrays, params: Mapping[str, Scalar], cotangents: Arrays) -> Arrays:
    pull = cotangents["out"]
    batch, heads, times, dimension = pull.shape
    options = contiguous(heads, times, dimension) | {"inverse": 1 - params["inverse"]}
    dims = {"B": batch, "H": heads, "D": dimension}
    tables = {name: inputs[name] for name in ("cos", "sin")}
    turned = run("rotary", x=pull.reshape(-1), **tables, **dims, **options)["out"]
    gradient = np.zeros_like(inputs["x"], turned.dtype)
    _heads(gradient, dims | {"T": times}, params)[...] = turned
    return {"x": gradient}


def _derive(dims: dict[str, int], params: Mapping[str, Scalar]) -> dict[str, int]:
    if dims["D"] != 2 * dims["C"]:
        raise KernelError(
            f"kernel rotary: heads of dimension {dims['D']} need tables of {dims['D'] / 2:g} "
            f"columns, not {dims['C']}"
        )
    if dims["P"] not in (1, dims["B"]):
        raise KernelError(f"kernel rotary: {dims['P']} tables for {dims['B']} texts: give 1 or all")
    return {}


def _case(
    name: str, dims: dict[str, int], params: Mapping[str, Scalar], inverse: int = 0, tables: int = 1
) -> Case:
    dims = {**dims, "C": dims["D"] // 2, "P": tables}

    def inputs(rng: np.random.Generator, dims: Dims) -> Arrays:
        at, *strides = (int(params[p]) for p in _PLACEMENT)
        last = sum((dims[n] - 1) * step for n, step in zip("BHT", strides, strict=True))
        rates = 10000.0 ** (-np.arange(dims["C"]) / dims["C"])
        starts = rng.integers(0, 300, (dims["P"], 1, 1))
        angles = (starts + np.arange(dims["T"])[:, None]) * rates
        return {
            "x": normal(rng, at + last + dims["D"] + 3),
            "cos": np.cos(angles).astype(np.float32),
            "sin": np.sin(angles).astype(np.float32),
        }

    return Case(name, dims, inputs, ELEMENTWISE, {**params, "inverse": inverse})


def _projected(part: int, heads: int, times: int, dimension: int) -> dict[str, Scalar]:
    """Part 0, 1 or 2 of an array (B, times, 3, heads, dimension)."""
    width = heads * dimension
    strides = (part * width, 3 * times * width, dimension, 3 * width)
    return dict(zip(_PLACEMENT, strides, strict=True))


def _work(dims: Dims) -> Work:
    count = dims["B"] * dims["H"] * dims["T"] * dims["D"]
    return Work(3.0 * count, 8.0 * count + 8.0 * dims["P"] * dims["T"] * dims["C"])


KERNEL = Kernel(
    stem="rotary",
    bindings=(
        Binding("x", "f32", ("*",), half=True),
        Binding("cos", "f32", ("P", "T", "C"), half=True),
        Binding("sin", "f32", ("P", "T", "C"), half=True),
        Binding("out", "f32", ("B", "H", "T", "D"), "out", half=True),
    ),
    params=(*(Param(name, "u32") for name in _PLACEMENT), Param("inverse", "u32")),
    constants={"WG": WG},
    workgroups=entries("B", "H", "T", "C"),
    derive=_derive,
    mirror=mirror,
    reference=reference,
    cases=(
        _case("one head", {"B": 1, "H": 1, "T": 26, "D": 64}, contiguous(1, 26, 64)),
        _case("keys", {"B": 2, "H": 3, "T": 13, "D": 10}, _projected(1, 3, 13, 10)),
        _case("tables", {"B": 3, "H": 2, "T": 7, "D": 6}, _projected(0, 2, 7, 6), tables=3),
        _case("inverse", {"B": 2, "H": 2, "T": 9, "D": 8}, contiguous(2, 9, 8), inverse=1),
        _case("one pair", {"B": 1, "H": 1, "T": 1, "D": 2}, contiguous(1, 1, 2)),
    ),
    gradient=Gradient(
        wrt=("x",),
        vjp=_vjp,
        outputs=("out",),
        tolerance=Tolerance(2e-6, 1e-5, "a turn: a few float32 roundings"),
    ),
    work=_work,
    speed_case={"B": 1, "H": 1, "T": 163840, "D": 64, "C": 32, "P": 1},
)
