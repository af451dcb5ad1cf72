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
    chain_inputs,
    drift_thermalise_drift,
    move_tolerance,
    reference_drift_thermalise_drift,
)
from ebm_wgpu.kernels._philox import split_seed
from ebm_wgpu.kernels.spec import Array, Arrays, Binding, Case, Dims, Kernel, Param, Work


@njit(cache=True)
def _rows(
    x: Array,
    v: Array,
    grad: Array,
    chain: Array,
    kick: np.float32,
    half_step: np.float32,
    decay: np.float32,
    noise: np.float32,
    seed: np.uint64,
    step: np.uint32,
) -> None:
    key = split_seed(seed)
    g = np.empty(x.shape[1], np.float32)
    for row in range(x.shape[0]):
        for i in range(x.shape[1]):
            v[row, i] -= kick * grad[row, i]
        drift_thermalise_drift(
            x[row], v[row], half_step, decay, noise, step, np.uint32(chain[row]), key, g
        )


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
    kick32, half32, decay32, noise32 = np.array([kick, half_step, decay, noise], np.float32)
    _rows(x, v, grad, chain, kick32, half32, decay32, noise32, np.uint64(seed), np.uint32(step))


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


def _at_rest(rng: np.random.Generator, dims: Dims) -> Arrays:
    inputs = chain_inputs(rng, dims)
    inputs["v"] *= 0
    inputs["grad"] *= 0
    return inputs


_THERMAL = {"kick": 0.02, "half_step": 0.01, "decay": 0.6, "noise": 0.8, "seed": 1, "step": 9}
_FREE = {"kick": 0.0, "half_step": 0.01, "decay": 1.0, "noise": 0.0, "seed": 0, "step": 0}

KERNEL = Kernel(
    stem="langevin_baoab",
    bindings=(
        Binding("x", "f32", ("B", "D"), "inout"),
        Binding("v", "f32", ("B", "D"), "inout"),
        Binding("grad", "f32", ("B", "D")),
        Binding("chain", "i32", ("B",)),
    ),
    params=(
        Param("kick", "f32"),
        Param("half_step", "f32"),
        Param("decay", "f32"),
        Param("noise", "f32"),
        Param("seed", "u64"),
        Param("step", "u32"),
    ),
    workgroups=lambda dims, params: dims["B"],
    mirror=mirror,
    reference=reference,
    rounds=lambda dims, params: _rounds.quads(dims["D"], 64) + _rounds.drifts(dims["D"], 64),
    subgroup=True,
    cases=(
        Case("thermal", {"B": 5, "D": 640}, chain_inputs, move_tolerance(640), _THERMAL),
        Case("odd", {"B": 3, "D": 641}, chain_inputs, move_tolerance(641), _THERMAL),
        Case("d8", {"B": 9, "D": 8}, chain_inputs, move_tolerance(8), _THERMAL),
        Case(
            "d10, large seed",
            {"B": 1, "D": 10},
            chain_inputs,
            move_tolerance(10),
            _THERMAL | {"seed": 2**64 - 3},
        ),
        Case("free flight", {"B": 3, "D": 65}, chain_inputs, move_tolerance(65), _FREE),
        Case("at rest", {"B": 3, "D": 65}, _at_rest, move_tolerance(65), _FREE),
    ),
    work=lambda dims: Work(60.0 * dims["B"] * dims["D"], 20.0 * dims["B"] * dims["D"]),
    speed_case={"B": 4096, "D": 640},
)
