"""Gradients of mixture_energy with respect to s, a and log_w.

With p_k = exp(log_w_k + a_k (s_k - 1) + energy) and g = grad_energy: grad_s = -g p a,
grad_log_w = -sum_b g p, grad_a = -sum_b g p (s - 1).
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from ebm_wgpu.kernels import _rounds
from ebm_wgpu.kernels._cases import EPS32, normal
from ebm_wgpu.kernels._math import exp_accurate
from ebm_wgpu.kernels._readout import BLOCKS, fold, part_sums
from ebm_wgpu.kernels.mixture_energy import CASES, cosine_inputs
from ebm_wgpu.kernels.mixture_energy import KERNEL as FORWARD
from ebm_wgpu.kernels.spec import Array, Arrays, Binding, Case, Dims, Kernel, Tolerance

_ONE = np.float32(1)


@njit(cache=True, error_model="numpy")
def _row(
    s: Array,
    a: Array,
    log_w: Array,
    energy: float,
    gradient: float,
    grad_s: Array,
    sum_log_w: Array,
    sum_a: Array,
) -> None:
    for k in range(s.shape[0]):
        below = s[k] - _ONE
        share = -gradient * exp_accurate(log_w[k] + a[k] * below + energy)
        grad_s[k] = share * a[k]
        sum_log_w[k] += share
        sum_a[k] += share * below


@njit(parallel=True, cache=True, error_model="numpy")
def mirror(
    s: Array,
    a: Array,
    log_w: Array,
    energy: Array,
    grad_energy: Array,
    grad_s: Array,
    grad_a: Array,
    grad_log_w: Array,
) -> None:
    """Numba mirror; sums over rows are taken in a fixed number of parts."""
    rows, splats = s.shape
    sums_log_w = part_sums(splats)
    sums_a = part_sums(splats)
    for block in prange(BLOCKS):
        for row in range(rows * block // BLOCKS, rows * (block + 1) // BLOCKS):
            _row(
                s[row],
                a,
                log_w,
                energy[row],
                grad_energy[row],
                grad_s[row],
                sums_log_w[block],
                sums_a[block],
            )
    fold(sums_log_w, grad_log_w)
    fold(sums_a, grad_a)


def reference(s: Array, a: Array, log_w: Array, energy: Array, grad_energy: Array) -> Arrays:
    """Float64 reference."""
    share = -grad_energy[:, None] * np.exp(log_w + a * (s - 1) + energy[:, None])
    return {
        "grad_s": share * a,
        "grad_a": np.sum(share * (s - 1), 0),
        "grad_log_w": share.sum(0),
    }


def _case(name: str, dims: Dims, a_max: float) -> Case:
    def inputs(rng: np.random.Generator, sizes: Dims) -> Arrays:
        arrays = cosine_inputs(rng, sizes, a_max)
        exact = {n: v.astype(np.float64) for n, v in arrays.items()}
        return arrays | {
            "energy": FORWARD.reference(**exact)["energy"].astype(np.float32),
            "grad_energy": normal(rng, sizes["B"]),
        }

    # log_w, a (s - 1) and the energy are of this size where the share is not negligible.
    error = EPS32 * (32 + 0.2 * a_max)
    reason = f"terms up to {0.1 * a_max:g} round by eps times that, and shares by it, relatively"
    share = Tolerance(1e-7, error, reason)
    return Case(
        name,
        dims,
        inputs,
        {
            "grad_s": Tolerance(1e-7 * a_max, error, reason),
            "grad_a": Tolerance(error, error, reason + "; signs cancel over rows"),
            "grad_log_w": Tolerance(error, share.rtol, reason + "; signs cancel over rows"),
        },
    )


KERNEL = Kernel(
    stem="mixture_energy_backward",
    bindings=(
        *FORWARD.inputs,
        Binding("energy", "f32", ("B",)),
        Binding("grad_energy", "f32", ("B",)),
        Binding("grad_s", "f32", ("B", "N"), "out"),
        Binding("grad_a", "f32", ("N",), "out"),
        Binding("grad_log_w", "f32", ("N",), "out"),
    ),
    workgroups=lambda dims, params: (dims["N"] + 63) // 64,
    mirror=mirror,
    reference=reference,
    rounds=lambda dims, params: _rounds.loop(dims["B"]),
    cases=tuple(_case(*case) for case in CASES),
)
