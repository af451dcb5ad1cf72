"""norm = sqrt(sum of partials), factor = min(1, max_norm / (norm + 1e-6)): gradient clipping.

Both stay on the device; `adamw` takes the factor as its scale. As in torch's `clip_grad_norm_`, of
which the 1e-6 is; a norm that is not finite gives a factor of 0 or NaN.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ebm_wgpu.kernels import _rounds
from ebm_wgpu.kernels._cases import EPS32
from ebm_wgpu.kernels._rows import WG
from ebm_wgpu.kernels.spec import Array, Arrays, Binding, Case, Dims, Kernel, Param, Tolerance, Work

_SAFETY = 1e-6


@njit(cache=True, error_model="numpy")
def mirror(partials: Array, max_norm: float, norm: Array, factor: Array) -> None:
    """Numba mirror."""
    total = np.float32(0)
    for i in range(partials.shape[0]):
        total += partials[i]
    norm[0] = np.sqrt(total)
    padded = norm[0] + np.float32(_SAFETY)
    factor[0] = 1 if padded <= max_norm else max_norm / padded


def reference(partials: Array, max_norm: float) -> Arrays:
    """Float64 reference."""
    norm = np.sqrt(partials.sum())
    with np.errstate(invalid="ignore"):
        factor = np.minimum(1, max_norm / (norm + _SAFETY))
    return {"norm": np.array([norm]), "factor": np.array([factor])}


def _inputs(rng: np.random.Generator, dims: Dims) -> Arrays:
    return {"partials": rng.gamma(1.0, size=dims["S"]).astype(np.float32)}


def _constant(value: float, max_norm: float = 1.0) -> Case:
    tolerance = Tolerance(0.0, 4 * EPS32, "one root and one quotient")
    return Case(
        f"sum of {value}",
        {"S": 1},
        lambda rng, dims: {"partials": np.full(dims["S"], value, np.float32)},
        tolerance,
        {"max_norm": max_norm},
    )


_TOLERANCE = Tolerance(0.0, 32 * EPS32, "half the relative error of a sum of 901 positive numbers")

KERNEL = Kernel(
    stem="clip_factor",
    bindings=(
        Binding("partials", "f32", ("S",)),
        Binding("norm", "f32", (1,), "out"),
        Binding("factor", "f32", (1,), "out"),
    ),
    params=(Param("max_norm", "f32"),),
    constants={"WG": WG},
    workgroups=lambda dims, params: 1,
    mirror=mirror,
    reference=reference,
    rounds=_rounds.row_passes("S", 1, 1, WG),
    subgroup=True,
    cases=(
        Case("clipped", {"S": 901}, _inputs, _TOLERANCE, {"max_norm": 1.0}),
        Case("not clipped", {"S": 70}, _inputs, _TOLERANCE, {"max_norm": 1e3}),
        _constant(0.0),
        _constant(1e-12, 1e-6),
        _constant(np.inf),
        _constant(np.nan),
    ),
    work=lambda dims: Work(1.0 * dims["S"], 4.0 * dims["S"]),
    speed_case={"S": 4096},
)
