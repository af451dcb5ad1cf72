"""Moves of a Langevin chain on the sphere: twins of wgsl/lib/baoab.wgsl and float64 references.

A chain is a position x on the sphere and a tangent velocity v. The twins work in float32 on one row
in place; the references work in float64 on all rows at once and return new arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numba import njit

from ebm_wgpu.kernels._cases import EPS32, tangent_rows, unit_rows
from ebm_wgpu.kernels._philox import STREAM_LANGEVIN, fill_normal, normal_reference
from ebm_wgpu.kernels.spec import (
    Array,
    Arrays,
    Binding,
    Case,
    Dims,
    Param,
    Scalar,
    Tolerance,
    Work,
)

FAST = {"reassoc", "contract", "nsz"}
"""What Numba may do to float32: reorder sums, so that loops vectorise, and fuse; nothing else."""

_TINY = np.float32(1e-20)


@njit(cache=True, fastmath=FAST)
def drift(x: Array, v: Array, time: np.float32) -> None:
    """x(t) along the geodesic leaving x (D,) with velocity v, v carried by parallel transport."""
    squared = np.float32(0)
    for i in range(v.shape[0]):
        squared += v[i] * v[i]
    speed = np.sqrt(squared)
    cosine = np.cos(speed * time)
    sine = np.sin(speed * time)
    along = time if speed < _TINY else sine / speed
    back = sine * speed
    for i in range(v.shape[0]):
        before = x[i]
        x[i] = cosine * before + along * v[i]
        v[i] = cosine * v[i] - back * before


@njit(cache=True, fastmath=FAST)
def thermalise(
    v: Array,
    decay: np.float32,
    noise: np.float32,
    step: np.uint32,
    chain: np.uint32,
    key: tuple[np.uint32, np.uint32],
    g: Array,
) -> None:
    """v <- decay v + noise g; g (D,) is filled with the normals of (key, chain, step)."""
    fill_normal(g, step, chain, np.uint32(STREAM_LANGEVIN), key[0], key[1])
    for i in range(v.shape[0]):
        v[i] = decay * v[i] + noise * g[i]


@njit(cache=True, fastmath=FAST)
def reproject(x: Array, v: Array) -> None:
    """x <- x / |x|, v <- v - (x.v) x: removes what rounding and noise put outside."""
    squared = np.float32(0)
    radial = np.float32(0)
    for i in range(x.shape[0]):
        squared += x[i] * x[i]
        radial += x[i] * v[i]
    scale = np.float32(1) / np.sqrt(squared)
    radial *= scale
    for i in range(x.shape[0]):
        x[i] *= scale
        v[i] -= radial * x[i]


@njit(cache=True)
def drift_thermalise_drift(
    x: Array,
    v: Array,
    time: np.float32,
    decay: np.float32,
    noise: np.float32,
    step: np.uint32,
    chain: np.uint32,
    key: tuple[np.uint32, np.uint32],
    g: Array,
) -> None:
    """The drift and the exact Ornstein-Uhlenbeck step of BAOAB, A(t) O A(t); g (D,) is scratch."""
    drift(x, v, time)
    thermalise(v, decay, noise, step, chain, key, g)
    reproject(x, v)
    drift(x, v, time)


def reference_drift(x: Array, v: Array, time: float) -> tuple[Array, Array]:
    """Float64 reference of `drift` for rows (B, D)."""
    speed = np.linalg.norm(v, axis=1, keepdims=True)
    direction = np.divide(v, speed, out=np.zeros_like(v), where=speed > 0)
    cosine, sine = np.cos(speed * time), np.sin(speed * time)
    return cosine * x + sine * direction, cosine * v - sine * speed * x


def reference_thermalise(
    v: Array, decay: float, noise: float, seed: int, step: int, chain: Array
) -> Array:
    """Float64 reference of `thermalise` for rows (B, D)."""
    return decay * v + noise * normal_reference(chain, v.shape[1], step, STREAM_LANGEVIN, seed)


def reference_reproject(x: Array, v: Array) -> tuple[Array, Array]:
    """Float64 reference of `reproject` for rows (B, D)."""
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    return x, v - np.sum(x * v, axis=1, keepdims=True) * x


def reference_drift_thermalise_drift(
    x: Array,
    v: Array,
    time: float,
    decay: float,
    noise: float,
    seed: int,
    step: int,
    chain: Array,
) -> tuple[Array, Array]:
    """Float64 reference of `drift_thermalise_drift` for rows (B, D)."""
    x, v = reference_drift(x, v, time)
    x, v = reference_reproject(x, reference_thermalise(v, decay, noise, seed, step, chain))
    return reference_drift(x, v, time)


X = Binding("x", "f32", ("B", "D"), "inout")
V = Binding("v", "f32", ("B", "D"), "inout")
GRAD = Binding("grad", "f32", ("B", "D"))
CHAIN = Binding("chain", "i32", ("B",))
THERMAL = (
    Param("decay", "f32"),
    Param("noise", "f32"),
    Param("seed", "u64"),
    Param("step", "u32"),
)
"""What `thermalise` is told."""


def move_case(
    name: str,
    rows: int,
    d: int,
    params: Mapping[str, Scalar],
    at_rest: bool = False,
    random: bool = True,
) -> Case:
    """The proof of one move of `rows` chains with thermal velocities and forces of length 50.

    Args:
        name: says what is special about it.
        rows: number of chains.
        d: dimension.
        params: of the kernel.
        at_rest: no velocity and no force instead.
        random: the kernel takes chain numbers too.
    """

    def inputs(rng: np.random.Generator, dims: Dims) -> Arrays:
        x = unit_rows(rng, dims["B"], dims["D"])
        v, grad = tangent_rows(rng, x, np.sqrt(dims["D"] - 1)), tangent_rows(rng, x, 50.0)
        arrays = {"x": x, "v": 0 * v if at_rest else v, "grad": 0 * grad if at_rest else grad}
        chain = np.arange(7, 7 + dims["B"], dtype=np.int32)
        return arrays | {"chain": chain} if random else arrays

    return Case(name, {"B": rows, "D": d}, inputs, _move_tolerance(d), params)


def move_work(flops: float) -> Callable[[Dims], Work]:
    """Cost of a move of `flops` operations a coordinate: reads x, v and grad, writes x and v."""
    return lambda dims: Work(flops * dims["B"] * dims["D"], 20.0 * dims["B"] * dims["D"])


SPEED_CASE = {"B": 4096, "D": 640}


def _move_tolerance(d: int) -> dict[str, Tolerance]:
    """Tolerance of x and v after one move of speed about sqrt(d) with noise of order one.

    Entries of x are about 1/sqrt(d), those of v about 1, and the angle turned is below 1.
    """
    reason = "float32 rotation by an angle below 1, projection, normals: some 8 roundings"
    return {
        "x": Tolerance(8 * EPS32 / np.sqrt(d), 4 * EPS32, reason),
        "v": Tolerance(8 * EPS32, 4 * EPS32, reason),
    }
