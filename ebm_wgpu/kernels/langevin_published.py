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
from ebm_wgpu.kernels._langevin import FAST, GRAD, SPEED_CASE, V, X, move_case, move_work
from ebm_wgpu.kernels.spec import Array, Arrays, Kernel, Param


@njit(cache=True, fastmath=FAST)
def mirror(x: Array, v: Array, grad: Array, dt: float, kick: float, decay: float) -> None:
    """Numba mirror."""
    time, kick32, decay32 = np.float32(dt), np.float32(kick), np.float32(decay)
    for row in range(x.shape[0]):
        squared = np.float32(0)
        for i in range(x.shape[1]):
            v[row, i] = decay32 * v[row, i] - kick32 * grad[row, i]
            squared += v[row, i] * v[row, i]
        speed = np.sqrt(squared)
        cosine = np.cos(speed * time)
        along = np.sin(speed * time) / speed if speed > 0 else time
        for i in range(x.shape[1]):
            x[row, i] = cosine * x[row, i] + along * v[row, i]


def reference(x: Array, v: Array, grad: Array, dt: float, kick: float, decay: float) -> Arrays:
    """Float64 reference."""
    v = decay * v - kick * grad
    speed = np.linalg.norm(v, axis=1, keepdims=True)
    direction = np.divide(v, speed, out=np.zeros_like(v), where=speed > 0)
    return {"x": np.cos(speed * dt) * x + np.sin(speed * dt) * direction, "v": v}


_PUBLISHED = {"dt": 1e-3, "kick": 5e-4, "decay": 1 - 5e-5}
_LONG = {"dt": 0.03, "kick": 0.015, "decay": 0.9}

KERNEL = Kernel(
    stem="langevin_published",
    bindings=(X, V, GRAD),
    params=(Param("dt", "f32"), Param("kick", "f32"), Param("decay", "f32")),
    workgroups=lambda dims, params: dims["B"],
    mirror=mirror,
    reference=reference,
    rounds=_rounds.row_passes("D", 2, 1),
    subgroup=True,
    cases=(
        move_case("published constants", 5, 640, _PUBLISHED, random=False),
        move_case("odd, long step", 3, 641, _LONG, random=False),
        move_case("d8", 9, 8, _LONG, random=False),
        move_case("at rest", 2, 65, _LONG, at_rest=True, random=False),
    ),
    work=move_work(10.0),
    speed_case=SPEED_CASE,
)
