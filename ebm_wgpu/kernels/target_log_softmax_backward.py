"""grad_logits[b, k] = grad_log_p[b] ([k = target_b] - p[b, k]); grad_bias is its sum over rows."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from ebm_wgpu.kernels import _rounds
from ebm_wgpu.kernels._cases import EPS32, normal
from ebm_wgpu.kernels._math import exp_accurate
from ebm_wgpu.kernels._readout import BLOCKS, fold, part_sums
from ebm_wgpu.kernels.spec import Array, Arrays, Binding, Case, Dims, Kernel, Tolerance
from ebm_wgpu.kernels.target_log_softmax import CASES, target_inputs
from ebm_wgpu.kernels.target_log_softmax import reference as forward_reference


@njit(cache=True, error_model="numpy")
def _row(logits: Array, bias: Array, lse: float, gradient: float, out: Array) -> None:
    for k in range(logits.shape[0]):
        out[k] = -gradient * exp_accurate(logits[k] + bias[k] - lse)


@njit(parallel=True, cache=True, error_model="numpy")
def mirror(
    logits: Array,
    bias: Array,
    target_index: Array,
    lse: Array,
    grad_log_p: Array,
    grad_logits: Array,
    grad_bias: Array,
) -> None:
    """Numba mirror; the sum over rows is taken in a fixed number of parts."""
    rows = logits.shape[0]
    sums = part_sums(logits.shape[1])
    for block in prange(BLOCKS):
        for row in range(rows * block // BLOCKS, rows * (block + 1) // BLOCKS):
            _row(logits[row], bias, lse[row], grad_log_p[row], grad_logits[row])
            grad_logits[row, target_index[row]] += grad_log_p[row]
            for k in range(logits.shape[1]):
                sums[block, k] += grad_logits[row, k]
    fold(sums, grad_bias)


def reference(
    logits: Array, bias: Array, target_index: Array, lse: Array, grad_log_p: Array
) -> Arrays:
    """Float64 reference."""
    hit = target_index[:, None] == np.arange(len(bias))
    gradient = grad_log_p[:, None] * (hit - np.exp(logits + bias - lse[:, None]))
    return {"grad_logits": gradient, "grad_bias": gradient.sum(0)}


def _case(name: str, dims: Dims, scale: float) -> Case:
    def inputs(rng: np.random.Generator, sizes: Dims) -> Arrays:
        arrays = target_inputs(rng, sizes, scale)
        logits, bias = (arrays[name].astype(np.float64) for name in ("logits", "bias"))
        lse = forward_reference(logits, bias, arrays["target_index"])["lse"]
        return arrays | {
            "lse": lse.astype(np.float32),
            "grad_log_p": normal(rng, sizes["B"]),
        }

    error = EPS32 * (4 + 8 * scale)
    reason = f"logits up to {5 * scale:g} round by eps times that, and so do shares, relatively"
    return Case(
        name,
        dims,
        inputs,
        {
            "grad_logits": Tolerance(error, error, reason),
            "grad_bias": Tolerance(error * np.sqrt(dims["B"]), error, reason + ", over all rows"),
        },
    )


KERNEL = Kernel(
    stem="target_log_softmax_backward",
    bindings=(
        Binding("logits", "f32", ("B", "N")),
        Binding("bias", "f32", ("N",)),
        Binding("target_index", "i32", ("B",)),
        Binding("lse", "f32", ("B",)),
        Binding("grad_log_p", "f32", ("B",)),
        Binding("grad_logits", "f32", ("B", "N"), "out"),
        Binding("grad_bias", "f32", ("N",), "out"),
    ),
    workgroups=lambda dims, params: (dims["N"] + 63) // 64,
    mirror=mirror,
    reference=reference,
    rounds=lambda dims, params: _rounds.loop(dims["B"]),
    cases=tuple(_case(*case) for case in CASES),
)
