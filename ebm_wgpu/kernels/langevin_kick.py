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
    CHAIN,
    GRAD,
    SPEED_CASE,
    THERMAL,
    V,
    X,
    move_case,
    move_work,
    reference_reproject,
    reference_thermalise,
    reproject,
    thermalise,
)
from ebm_wgpu.kernels._philox import seeded, split_seed
from ebm_wgpu.kernels.spec import Array, Arrays, Dims, Kernel, Param, Scalar


@seeded
@njit(cache=True)
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
    kick32, decay32, noise32 = np.float32(kick), np.float32(decay), np.float32(noise)
    step32 = np.uint32(step)
    key = split_seed(seed)
    g = np.empty(x.shape[1], np.float32)
    for row in range(x.shape[0]):
        if noise != 0:
            thermalise(v[row], decay32, noise32, step32, np.uint32(chain[row]), key, g)
        else:
            for i in range(x.shape[1]):
                v[row, i] *= decay32
        for i in range(x.shape[1]):
            v[row, i] -= kick32 * grad[row, i]
        reproject(x[row], v[row])


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


def _count_rounds(dims: Dims, params: Mapping[str, Scalar]) -> int:
    d = dims["D"]
    thermal = _rounds.quads(d, 64, _rounds.PHILOX) + _rounds.quads(d, 64)
    return thermal + 3 * _rounds.quads(d, 64) + 2 * _rounds.reduction(64)


_DRAW = {"seed": 3 << 40, "step": 5}

KERNEL = Kernel(
    stem="langevin_kick",
    bindings=(X, V, GRAD, CHAIN),
    params=(Param("kick", "f32"), *THERMAL),
    workgroups=lambda dims, params: dims["B"],
    mirror=mirror,
    reference=reference,
    rounds=_count_rounds,
    subgroup=True,
    cases=(
        move_case("closes BAOAB", 5, 641, _DRAW | {"kick": 0.01, "decay": 1.0, "noise": 0.0}),
        move_case(
            "closes Stoermer-Verlet", 5, 640, _DRAW | {"kick": 0.01, "decay": 0.99, "noise": 0.3}
        ),
        move_case("d8 noise only", 9, 8, _DRAW | {"kick": 0.0, "decay": 1.0, "noise": 1.0}),
        move_case("odd d9", 1, 9, _DRAW | {"kick": 0.02, "decay": 0.5, "noise": 0.7}),
    ),
    work=move_work(40.0),
    speed_case=SPEED_CASE,
)
