"""Queries, keys and values of attention, from one projection of each token.

A row of x, (B, T, W = 3 H D), is [q | k | v], each of them H heads of D coordinates side by side.
q, k and v, (B, H, T, D), have a head's rows side by side; those of q and k are turned, each pair of
coordinates by the angle of the position:

    (a_i, a_{i + D/2}) -> (a_i cos - a_{i + D/2} sin, a_i sin + a_{i + D/2} cos).

Tables (P, T, C = D/2) serve all texts, or, with P = B, one text each.
Source: Su et al. 2021 (arXiv:2104.09864), equation 15; tables as `models.rotary.rotary_table`.
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
    Run,
    Scalar,
    Tolerance,
    Work,
)

PARTS = ("q", "k", "v")


@njit(cache=True)
def mirror(x: Array, cos: Array, sin: Array, q: Array, k: Array, v: Array) -> None:
    """Numba mirror."""
    half, width = cos.shape[2], x.shape[2] // 3
    for batch in range(q.shape[0]):
        table = batch if cos.shape[0] > 1 else 0
        for head in range(q.shape[1]):
            for time in range(q.shape[2]):
                for pair in range(half):
                    c, s = cos[table, time, pair], sin[table, time, pair]
                    first = 2 * half * head + pair
                    a, b = x[batch, time, first], x[batch, time, first + half]
                    q[batch, head, time, pair] = a * c - b * s
                    q[batch, head, time, pair + half] = a * s + b * c
                    first += width
                    a, b = x[batch, time, first], x[batch, time, first + half]
                    k[batch, head, time, pair] = a * c - b * s
                    k[batch, head, time, pair + half] = a * s + b * c
                    first += width
                    v[batch, head, time, pair] = x[batch, time, first]
                    v[batch, head, time, pair + half] = x[batch, time, first + half]


def turned(heads: Array, angles: Array) -> Array:
    """Float64 heads (B, H, T, D) turned by e^{i angle} (P, T, D/2)."""
    first, second = np.split(heads, 2, axis=-1)
    pairs = (first + 1j * second) * angles[:, None]
    return np.concatenate((pairs.real, pairs.imag), axis=-1)


def reference(x: Array, cos: Array, sin: Array, H: int, D: int) -> Arrays:
    """Float64 reference."""
    batch, time, _ = x.shape
    parts = x.reshape(batch, time, 3, H, D).transpose(2, 0, 3, 1, 4)
    q, k = (turned(part, cos + 1j * sin) for part in parts[:2])
    return {"q": q, "k": k, "v": parts[2]}


def head_dims(dims: dict[str, int], params: Mapping[str, Scalar]) -> dict[str, int]:
    """Sets D, the coordinates of a head, H, the heads, and W, the entries of a token.

    Raises:
        KernelError: they do not go together, or with the tables.
    """
    width = 2 * dims["C"]
    if dims.get("D", width) != width:
        raise KernelError(
            f"kernel attention_heads: heads of dimension {dims['D']} need tables of "
            f"{dims['D'] / 2:g} columns, not {dims['C']}"
        )
    heads = dims["H"] if "H" in dims else dims["W"] // (3 * width)
    if dims.get("W", 3 * heads * width) != 3 * heads * width:
        raise KernelError(
            f"kernel attention_heads: {dims['W']} entries are no queries, keys and values of "
            f"heads of dimension {width}"
        )
    if dims["P"] not in (1, dims["B"]):
        raise KernelError(
            f"kernel attention_heads: {dims['P']} tables for {dims['B']} texts: give 1 or all"
        )
    return {"D": width, "H": heads, "W": 3 * heads * width}


def _vjp(run: Run, inputs: Arrays, params: Mapping[str, Scalar], cotangents: Arrays) -> Arrays:
    pulls = {f"grad_{part}": cotangents[part] for part in PARTS}
    tables = {name: inputs[name] for name in ("cos", "sin")}
    return {"x": run("attention_heads_backward", **pulls, **tables)["grad_x"]}


def tables(rng: np.random.Generator, dims: Dims) -> Arrays:
    """cos and sin of positions in a row, from one at random on for each table."""
    rates = 10000.0 ** (-np.arange(dims["C"]) / dims["C"])
    starts = rng.integers(0, 300, (dims["P"], 1, 1))
    angles = (starts + np.arange(dims["T"])[:, None]) * rates
    return {"cos": np.cos(angles).astype(np.float32), "sin": np.sin(angles).astype(np.float32)}


def _inputs(rng: np.random.Generator, dims: Dims) -> Arrays:
    return {"x": normal(rng, dims["B"], dims["T"], dims["W"]), **tables(rng, dims)}


def cost(dims: Dims) -> Work:
    """Two of three parts turned, each read and written once."""
    count = dims["B"] * dims["T"] * dims["H"] * dims["D"]
    return Work(6.0 * count, 24.0 * count + 8.0 * dims["P"] * dims["T"] * dims["C"])


def _dims(batch: int, heads: int, times: int, dimension: int, tables: int = 1) -> Dims:
    sizes = {"B": batch, "H": heads, "T": times, "D": dimension, "P": tables}
    return sizes | {"C": dimension // 2, "W": 3 * heads * dimension}


CASE_DIMS: tuple[tuple[str, Dims], ...] = (
    ("one head", _dims(1, 1, 26, 64)),
    ("several", _dims(2, 3, 13, 10)),
    ("tables", _dims(3, 2, 7, 6, tables=3)),
    ("one pair", _dims(1, 1, 1, 2)),
)
SPEED_CASE = _dims(64, 6, 256, 64)
GRADIENT_TOLERANCE = Tolerance(2e-6, 1e-5, "a turn: a few float32 roundings")

KERNEL = Kernel(
    stem="attention_heads",
    bindings=(
        Binding("x", "f32", ("B", "T", "W"), half=True),
        Binding("cos", "f32", ("P", "T", "C"), half=True),
        Binding("sin", "f32", ("P", "T", "C"), half=True),
        *(Binding(part, "f32", ("B", "H", "T", "D"), "out", half=True) for part in PARTS),
    ),
    constants={"WG": WG},
    workgroups=entries("B", "T", "H", "C"),
    derive=head_dims,
    mirror=mirror,
    reference=reference,
    cases=tuple(Case(name, dims, _inputs, ELEMENTWISE) for name, dims in CASE_DIMS),
    gradient=Gradient(wrt=("x",), vjp=_vjp, outputs=PARTS, tolerance=GRADIENT_TOLERANCE),
    work=cost,
    speed_case=SPEED_CASE,
)
