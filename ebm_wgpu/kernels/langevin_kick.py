"""v <- P_x(decay v - kick grad + noise g), x <- x / |x|: the closing half of a Langevin step.

With decay = 1 and noise = 0 it closes a BAOAB step (kick = dt/2); with decay = 1 - gamma dt/2 and
noise = sqrt(2 gamma T dt) it closes a published Stoermer-Verlet step.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numba import njit

from ebm_wgpu.kernels import _rounds
from ebm_wgpu.kernels._langevin import (
    chain_inputs,
    move_tolerance,
    reference_reproject,
    reference_thermalise,
    reproject,
    thermalise,
)
from ebm_wgpu.kernels._philox import split_seed
from ebm_wgpu.kernels.spec import Array, Arrays, Binding, Case, Dims, Kernel, Param, Scalar, Work


@njit(cache=True)
def _rows(
    x: Array,
    v: Array,
    grad: Array,
    chain: Array,
    kick: np.float32,
    decay: np.float32,
    noise: np.float32,
    seed: np.uint64,
    step: np.uint32,
) -> None:
    key = split_seed(seed)
    g = np.empty(x.shape[1], np.float32)
    for row in range(x.shape[0]):
        if noise != 0:
            thermalise(v[row], decay, noise, step, np.uint32(chain[row]), key, g)
        else:
            for i in range(x.shape[1]):
                v[row, i] *= decay
        for i in range(x.shape[1]):
            v[row, i] -= kick * grad[row, i]
        reproject(x[row], v[row])


def mirror(
    x: Array,
    v: Array,
    grad: Array,
    chain: Array,
    kick: float,
    decay: float,
    noise: float,
    seed: int,
    step: int,
) -> None:
    """Numba mirror."""
    f = np.float32
    _rows(x, v, grad, chain, f(kick), f(decay), f(noise), np.uint64(seed), np.uint32(step))


def reference(
    x: Array,
    v: Array,
    grad: Array,
    chain: Array,
    kick: float,
    decay: float,
    noise: float,
    seed: int,
    step: int,
) -> Arrays:
    """Float64 reference."""
    v = reference_thermalise(v, decay, noise, seed, step, chain) - kick * grad
    x, v = reference_reproject(x, v)
    return {"x": x, "v": v}


def _case(name: str, b: int, d: int, **params: float) -> Case:
    return Case(
        name,
        {"B": b, "D": d},
        chain_inputs,
        move_tolerance(d),
        {"seed": 3 << 40, "step": 5} | params,
    )


def _count_rounds(dims: Dims, params: Mapping[str, Scalar]) -> int:
    d = dims["D"]
    thermal = _rounds.quads(d, 64, _rounds.PHILOX) + _rounds.quads(d, 64)
    return thermal + 3 * _rounds.quads(d, 64) + 2 * _rounds.reduction(64)


KERNEL = Kernel(
    stem="langevin_kick",
    bindings=(
        Binding("x", "f32", ("B", "D"), "inout"),
        Binding("v", "f32", ("B", "D"), "inout"),
        Binding("grad", "f32", ("B", "D")),
        Binding("chain", "i32", ("B",)),
    ),
    params=(
        Param("kick", "f32"),
        Param("decay", "f32"),
        Param("noise", "f32"),
        Param("seed", "u64"),
        Param("step", "u32"),
    ),
    workgroups=lambda dims, params: dims["B"],
    mirror=mirror,
    reference=reference,
    rounds=_count_rounds,
    subgroup=True,
    cases=(
        _case("closes BAOAB", 5, 641, kick=0.01, decay=1.0, noise=0.0),
        _case("closes Stoermer-Verlet", 5, 640, kick=0.01, decay=0.99, noise=0.3),
        _case("d8 noise only", 9, 8, kick=0.0, decay=1.0, noise=1.0),
        _case("odd d9", 1, 9, kick=0.02, decay=0.5, noise=0.7),
    ),
    work=lambda dims: Work(40.0 * dims["B"] * dims["D"], 20.0 * dims["B"] * dims["D"]),
    speed_case={"B": 4096, "D": 640},
)
