"""Gradient of expert_gate by the logits, from those of the weights and the importance.

grad_logits[b, e] = p_be (gi_e - sum_f p_bf gi_f) / B, p = softmax(logits[b]), plus for each choice
a of row b, at e = index[b, a]: w_ba (gw_ba - sum_c w_bc gw_bc). The choice itself has no gradient.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ebm_wgpu.kernels import _rounds
from ebm_wgpu.kernels._cases import EPS32, normal
from ebm_wgpu.kernels.expert_gate import reference as forward_reference
from ebm_wgpu.kernels.spec import Array, Arrays, Binding, Case, Dims, Kernel, Tolerance


@njit(cache=True)
def mirror(
    logits: Array,
    index: Array,
    weight: Array,
    grad_weight: Array,
    grad_importance: Array,
    grad_logits: Array,
) -> None:
    """Numba mirror."""
    n_rows, n_experts = logits.shape
    for row in range(n_rows):
        p = np.exp(logits[row] - logits[row].max())
        p /= p.sum()
        mean = np.float32(0)
        for e in range(n_experts):
            mean += p[e] * grad_importance[e]
        for e in range(n_experts):
            grad_logits[row, e] = p[e] * (grad_importance[e] - mean) / np.float32(n_rows)
        weighted = np.float32(0)
        for a in range(index.shape[1]):
            weighted += weight[row, a] * grad_weight[row, a]
        for a in range(index.shape[1]):
            grad_logits[row, index[row, a]] += weight[row, a] * (grad_weight[row, a] - weighted)


def reference(
    logits: Array, index: Array, weight: Array, grad_weight: Array, grad_importance: Array
) -> Arrays:
    """Float64 reference."""
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    grad = p * (grad_importance - p @ grad_importance[:, None]) / len(logits)
    chosen = weight * (grad_weight - np.sum(weight * grad_weight, 1, keepdims=True))
    np.add.at(grad, (np.arange(len(logits))[:, None], index), chosen)
    return {"grad_logits": grad}


def _inputs(rng: np.random.Generator, dims: Dims) -> Arrays:
    logits = normal(rng, dims["B"], dims["E"])
    forward = forward_reference(logits.astype(np.float64), dims["A"])
    return {
        "logits": logits,
        "index": forward["index"],
        "weight": forward["weight"].astype(np.float32),
        "grad_weight": normal(rng, dims["B"], dims["A"]),
        "grad_importance": normal(rng, dims["E"], scale=float(dims["B"])),
    }


_TOLERANCE = Tolerance(
    16 * EPS32, 16 * EPS32, "softmax values, accurate to about 10 eps, times gradients of order one"
)

KERNEL = Kernel(
    stem="expert_gate_backward",
    bindings=(
        Binding("logits", "f32", ("B", "E")),
        Binding("index", "i32", ("B", "A")),
        Binding("weight", "f32", ("B", "A")),
        Binding("grad_weight", "f32", ("B", "A")),
        Binding("grad_importance", "f32", ("E",)),
        Binding("grad_logits", "f32", ("B", "E"), "out"),
    ),
    workgroups=lambda dims, params: (dims["B"] + 63) // 64,
    mirror=mirror,
    reference=reference,
    rounds=lambda dims, params: 3 * _rounds.loop(dims["E"]) + 2 * _rounds.loop(dims["A"]),
    cases=(
        Case("top 2 of 4", {"B": 131, "E": 4, "A": 2}, _inputs, _TOLERANCE),
        Case("top 1 of 7", {"B": 5, "E": 7, "A": 1}, _inputs, _TOLERANCE),
        Case("one row, all of 3", {"B": 1, "E": 3, "A": 3}, _inputs, _TOLERANCE),
        Case("one expert", {"B": 65, "E": 1, "A": 1}, _inputs, _TOLERANCE),
    ),
)
