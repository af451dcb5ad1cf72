"""One BAOAB step of Langevin chains on the sphere up to its next force: B, A, O, A.

    v <- v - kick grad;  drift(half_step);  v <- P_x(decay v + noise g);  drift(half_step)

`drift` follows the geodesic and carries v by parallel transport; decay = exp(-gamma dt) and
noise = sqrt(T (1 - decay^2)) make the middle the exact Ornstein-Uhlenbeck flow on the tangent
space; g is Philox stream 0. The closing half kick of one step and the opening one of the next use
the same force, so kick is dt/2 for the first step and dt after it; `langevin_kick` closes the last.
Leimkuhler and Matthews, Applied Mathematics Research eXpress 2013(1), 34-56; on manifolds:
Leimkuhler and Patrick, J. Nonlinear Science 26 (2016).
"""

from __future__ import annotations

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
    drift_thermalise_drift,
    move_case,
    move_work,
    reference_drift_thermalise_drift,
)
from ebm_wgpu.kernels._philox import seeded, split_seed
from ebm_wgpu.kernels.spec import Array, Arrays, Kernel, Param


@seeded
@njit(cache=True)
def mirror(
    x: Array,
    v: Array,
    grad: Array,
    chain: Array,
    kick: float,
    half_step: float,
    decay: float,
    noise: float,
    seed: int,
    step: int,
) -> None:
    """Numba mirror."""
    kick32, time = np.float32(kick), np.float32(half_step)
    decay32, noise32, step32 = np.float32(decay), np.float32(noise), np.uint32(step)
    key = split_seed(seed)
    g = np.empty(x.shape[1], np.float32)
    for row in range(x.shape[0]):
        for i in range(x.shape[1]):
            v[row, i] -= kick32 * grad[row, i]
        drift_thermalise_drift(
            x[row], v[row], time, decay32, noise32, step32, np.uint32(chain[row]), key, g
        )


def reference(
    x: Array,
    v: Array,
    grad: Array,
    chain: Array,
    kick: float,
    half_step: float,
    decay: float,
    noise: float,
    seed: int,
    step: int,
) -> Arrays:
    """Float64 reference."""
    x, v = reference_drift_thermalise_drift(
        x, v - kick * grad, half_step, decay, noise, seed, step, chain
    )
    return {"x": x, "v": v}


_WARM = {"kick": 0.02, "half_step": 0.01, "decay": 0.6, "noise": 0.8, "seed": 1, "step": 9}
_FREE = {"kick": 0.0, "half_step": 0.01, "decay": 1.0, "noise": 0.0, "seed": 0, "step": 0}

KERNEL = Kernel(
    stem="langevin_baoab",
    bindings=(X, V, GRAD, CHAIN),
    params=(Param("kick", "f32"), Param("half_step", "f32"), *THERMAL),
    workgroups=lambda dims, params: dims["B"],
    mirror=mirror,
    reference=reference,
    rounds=lambda dims, params: _rounds.quads(dims["D"], 64) + _rounds.drifts(dims["D"], 64),
    subgroup=True,
    cases=(
        move_case("thermal", 5, 640, _WARM),
        move_case("odd", 3, 641, _WARM),
        move_case("d8", 9, 8, _WARM),
        move_case("d10, large seed", 1, 10, _WARM | {"seed": 2**64 - 3}),
        move_case("free flight", 3, 65, _FREE),
        move_case("at rest", 3, 65, _FREE, at_rest=True),
    ),
    work=move_work(60.0),
    speed_case=SPEED_CASE,
)
