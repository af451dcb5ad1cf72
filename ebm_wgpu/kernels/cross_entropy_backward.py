"""The backward of `cross_entropy`, in the memory of the logits:

    z_k <- grad_loss (exp(z_k - lse) - (1 - s) [k = target] - s / V),

0 where target = ignore_index, NaN where a target lies outside the vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numba import njit

from ebm_wgpu.kernels import _rounds
from ebm_wgpu.kernels._cases import EPS32, normal
from ebm_wgpu.kernels._math import exp_accurate
from ebm_wgpu.kernels._rows import WG
from ebm_wgpu.kernels.cross_entropy import CASES, CONSTANTS, PARAMS, entropy_inputs
from ebm_wgpu.kernels.cross_entropy import reference as losses
from ebm_wgpu.kernels.spec import (
    Array,
    Arrays,
    Binding,
    Case,
    Dims,
    Kernel,
    Scalar,
    Tolerance,
    Work,
)


@njit(cache=True, error_model="numpy")
def _gradients(
    logits: Array, targets: Array, lse: Array, grad_loss: Array, ignore_index: int, smoothing: float
) -> None:
    count = logits.shape[1]
    spread = smoothing / np.float32(count)
    for row in range(logits.shape[0]):
        target = targets[row]
        if target == ignore_index:
            logits[row] = 0
        elif target < 0 or target >= count:
            logits[row] = np.nan
        else:
            for k in range(count):
                share = exp_accurate(logits[row, k] - lse[row])
                logits[row, k] = grad_loss[row] * (share - spread)
            logits[row, target] -= grad_loss[row] * (np.float32(1) - smoothing)


def mirror(
    logits: Array, targets: Array, lse: Array, grad_loss: Array, ignore_index: int, smoothing: float
) -> None:
    """Numba mirror."""
    _gradients(logits, targets, lse, grad_loss, ignore_index, np.float32(smoothing))


def reference(
    logits: Array, targets: Array, lse: Array, grad_loss: Array, ignore_index: int, smoothing: float
) -> Arrays:
    """Float64 reference."""
    count = logits.shape[1]
    hit = np.arange(count) == targets[:, None]
    gradient = np.exp(logits - lse[:, None]) - (1 - smoothing) * hit - smoothing / count
    gradient *= grad_loss[:, None]
    gradient[(targets < 0) | (targets >= count)] = np.nan
    gradient[targets == ignore_index] = 0
    return {"logits": gradient}


def _case(name: str, dims: Dims, scale: float, params: Mapping[str, Scalar], outside: bool) -> Case:
    def inputs(rng: np.random.Generator, sizes: Dims) -> Arrays:
        arrays = entropy_inputs(rng, sizes, scale, int(params["ignore_index"]), outside)
        lse = losses(arrays["logits"].astype(np.float64), arrays["targets"], 0, 0.0)["lse"]
        return arrays | {"lse": lse.astype(np.float32), "grad_loss": normal(rng, sizes["R"])}

    tolerance = Tolerance(
        EPS32 * (2 + scale),
        EPS32 * (8 + 8 * scale),
        f"exp of a rounded difference of numbers up to {5 * scale:g}; at the target it may cancel",
    )
    return Case(name, dims, inputs, tolerance, params)


KERNEL = Kernel(
    stem="cross_entropy_backward",
    bindings=(
        Binding("logits", "f32", ("R", "V"), "inout", half=True),
        Binding("targets", "i32", ("R",)),
        Binding("lse", "f32", ("R",)),
        Binding("grad_loss", "f32", ("R",)),
    ),
    params=PARAMS,
    constants=CONSTANTS,
    workgroups=lambda dims, params: dims["R"],
    mirror=mirror,
    reference=reference,
    rounds=_rounds.row_passes("V", 1, 0, WG),
    cases=tuple(_case(*case) for case in CASES),
    work=lambda dims: Work(25.0 * dims["R"] * dims["V"], 8.0 * dims["R"] * dims["V"]),
    speed_case={"R": 1024, "V": 50257},
)
