"""Opening half of the published Stoermer-Verlet step: v <- decay v - kick grad; x <- exp_x(dt v).

decay = 1 - gamma dt/2 and kick = dt/2; `langevin_kick` with the same two and noise = sqrt(2 gamma T
dt) closes the step at the new position. v is not carried along with x, as in the original: what it
then has along x is cut off by the closing projection, which acts as extra friction and biases the
scheme. Kept for comparison only.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ebm_wgpu.kernels import _rounds
from ebm_wgpu.kernels._langevin import FAST, chain_inputs, move_tolerance
from ebm_wgpu.kernels.spec import Array, Arrays, Binding, Case, Dims, Kernel, Param, Work


@njit(cache=True, fastmath=FAST)
def _rows(
    x: Array, v: Array, grad: Array, dt: np.float32, kick: np.float32, decay: np.float32
) -> None:
    for row in range(x.shape[0]):
        squared = np.float32(0)
        for i in range(x.shape[1]):
            v[row, i] = decay * v[row, i] - kick * grad[row, i]
            squared += v[row, i] * v[row, i]
        speed = np.sqrt(squared)
        cosine = np.cos(speed * dt)
        along = np.sin(speed * dt) / speed if speed > 0 else dt
        for i in range(x.shape[1]):
            x[row, i] = cosine * x[row, i] + along * v[row, i]


def mirror(x: Array, v: Array, grad: Array, dt: float, kick: float, decay: float) -> None:
    """Numba mirror."""
    _rows(x, v, grad, np.float32(dt), np.float32(kick), np.float32(decay))


def reference(x: Array, v: Array, grad: Array, dt: float, kick: float, decay: float) -> Arrays:
    """Float64 reference."""
    v = decay * v - kick * grad
    speed = np.linalg.norm(v, axis=1, keepdims=True)
    direction = np.divide(v, speed, out=np.zeros_like(v), where=speed > 0)
    return {"x": np.cos(speed * dt) * x + np.sin(speed * dt) * direction, "v": v}


def _inputs(rng: np.random.Generator, dims: Dims) -> Arrays:
    inputs = chain_inputs(rng, dims)
    del inputs["chain"]
    return inputs


def _at_rest(rng: np.random.Generator, dims: Dims) -> Arrays:
    inputs = _inputs(rng, dims)
    inputs["v"] *= 0
    inputs["grad"] *= 0
    return inputs


_PUBLISHED = {"dt": 1e-3, "kick": 5e-4, "decay": 1 - 5e-5}
_LONG = {"dt": 0.03, "kick": 0.015, "decay": 0.9}

KERNEL = Kernel(
    stem="langevin_published",
    bindings=(
        Binding("x", "f32", ("B", "D"), "inout"),
        Binding("v", "f32", ("B", "D"), "inout"),
        Binding("grad", "f32", ("B", "D")),
    ),
    params=(Param("dt", "f32"), Param("kick", "f32"), Param("decay", "f32")),
    workgroups=lambda dims, params: dims["B"],
    mirror=mirror,
    reference=reference,
    rounds=_rounds.row_passes("D", 2, 1),
    subgroup=True,
    cases=(
        Case("published constants", {"B": 5, "D": 640}, _inputs, move_tolerance(640), _PUBLISHED),
        Case("odd, long step", {"B": 3, "D": 641}, _inputs, move_tolerance(641), _LONG),
        Case("d8", {"B": 9, "D": 8}, _inputs, move_tolerance(8), _LONG),
        Case("at rest", {"B": 2, "D": 65}, _at_rest, move_tolerance(65), _LONG),
    ),
    work=lambda dims: Work(10.0 * dims["B"] * dims["D"], 20.0 * dims["B"] * dims["D"]),
    speed_case={"B": 4096, "D": 640},
)
