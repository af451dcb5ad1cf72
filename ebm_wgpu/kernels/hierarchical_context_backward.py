"""Gradients of hierarchical_context with respect to x, q and k.

With p_tj the attention weights and g the gradient of the attention summary, dS_tj = p_tj (g_t.x_j -
g_t.out_t); grad_q_t = scale sum_j dS_tj k_j, grad_k_j = scale sum_t dS_tj q_t, and grad_x_j adds up
the three transposed averages of grad_out. No atomics: the sums have one order.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numba import njit

from ebm_wgpu.kernels import _rounds
from ebm_wgpu.kernels._cases import EPS32, normal
from ebm_wgpu.kernels._context import (
    BLOCK,
    SEQUENCES,
    Sequences,
    bands,
    exact_weights,
    lowest,
    reaches,
)
from ebm_wgpu.kernels.hierarchical_context import KERNEL as FORWARD
from ebm_wgpu.kernels.spec import Array, Arrays, Binding, Case, Dims, Kernel, Scalar, Tolerance


@njit(cache=True)
def mirror(
    x: Array,
    q: Array,
    k: Array,
    lse: Array,
    grad_out: Array,
    recent_window: int,
    decay_window: int,
    attention_window: int,
    scale: float,
    grad_x: Array,
    grad_q: Array,
    grad_k: Array,
) -> None:
    """Numba mirror: dense products by blocks of queries."""
    factor = np.float32(scale)
    grad_x[...] = 0
    grad_k[...] = 0
    width = x.shape[2]
    for start in range(0, x.shape[1], BLOCK):
        stop = min(start + BLOCK, x.shape[1])
        low = lowest(start, recent_window, decay_window, attention_window)
        recent, decay = bands(start, stop, low, recent_window, decay_window)
        g = np.empty((3, stop - start, width), np.float32)
        for b in range(x.shape[0]):
            for part in range(3):
                g[part] = grad_out[b, start:stop, part]
            rows, queries, keys = x[b, low:stop], q[b, start:stop], k[b, low:stop]
            p = np.dot(queries, keys.T)
            slope = np.dot(g[2], rows.T)
            for query in range(stop - start):
                end = start + query + 1 - low
                begin = max(0, end - attention_window)
                p[query, :begin] = 0
                p[query, end:] = 0
                slope[query, :begin] = 0
                slope[query, end:] = 0
                mean = np.float32(0)
                for j in range(begin, end):
                    p[query, j] = np.exp(factor * p[query, j] - lse[b, start + query])
                    mean += p[query, j] * slope[query, j]
                for j in range(begin, end):
                    slope[query, j] = factor * p[query, j] * (slope[query, j] - mean)
            grad_q[b, start:stop] = np.dot(slope, keys)
            grad_k[b, low:stop] += np.dot(slope.T, queries)
            grad_x[b, low:stop] += (
                np.dot(recent.T, g[0]) + np.dot(decay.T, g[1]) + np.dot(p.T, g[2])
            )


def reference(
    x: Array,
    q: Array,
    k: Array,
    out: Array,
    grad_out: Array,
    recent_window: int,
    decay_window: int,
    attention_window: int,
    scale: float,
) -> Arrays:
    """Float64 reference."""
    recent, decay, p, _ = exact_weights(q, k, recent_window, decay_window, attention_window, scale)
    g_recent, g_decay, g = (grad_out[:, :, part] for part in range(3))
    change = np.einsum("btd,bjd->btj", g, x) - np.sum(g * out[:, :, 2], 2)[..., None]
    slope = scale * p * change
    return {
        "grad_x": recent.T @ g_recent + decay.T @ g_decay + p.transpose(0, 2, 1) @ g,
        "grad_q": slope @ k,
        "grad_k": slope.transpose(0, 2, 1) @ q,
    }


def _case(proof: Sequences) -> Case:
    params, sharpness = proof.params, proof.sharpness

    def inputs(rng: np.random.Generator, sizes: Dims) -> Arrays:
        arrays = proof.draw(rng, sizes)
        forward = FORWARD.reference(**arrays, **params)
        arrays |= {n: v.astype(np.float32) for n, v in forward.items()}
        return arrays | {"grad_out": normal(rng, sizes["B"], sizes["T"], 3, sizes["D"])}

    # scale * (g.x - g.out) is of order one; it multiplies keys of order one and queries of order
    # `sharpness`, with entries up to 4.
    error = proof.weight_error
    return Case(
        proof.name,
        proof.dims,
        inputs,
        Tolerance(
            4 * error * sharpness,
            8 * EPS32,
            f"attention weights that err by {error:.1e}, times entries up to 4 x {sharpness:g}",
        ),
        params,
    )


def _count_rounds(dims: Dims, params: Mapping[str, Scalar]) -> int:
    recent, decay, attention = reaches(dims, params)
    loop, strided = _rounds.loop, _rounds.strided
    scores = 2 * strided(attention, 64, loop(dims["D"]))
    decays = strided(decay, 64, loop(decay))
    from_queries = strided(dims["D"], 64, loop(attention))
    from_keys = strided(dims["D"], 64, loop(recent) + loop(decay) + loop(attention))
    return scores + decays + from_queries + from_keys + _rounds.reduction(64)


KERNEL = Kernel(
    stem="hierarchical_context_backward",
    bindings=(
        *FORWARD.inputs,
        Binding("lse", "f32", ("B", "T")),
        Binding("out", "f32", ("B", "T", 3, "D")),
        Binding("grad_out", "f32", ("B", "T", 3, "D")),
        Binding("grad_x", "f32", ("B", "T", "D"), "out"),
        Binding("grad_q", "f32", ("B", "T", "D"), "out"),
        Binding("grad_k", "f32", ("B", "T", "D"), "out"),
    ),
    params=FORWARD.params,
    constants=FORWARD.constants,
    derive=FORWARD.derive,
    workgroups=FORWARD.workgroups,
    mirror=mirror,
    reference=reference,
    rounds=_count_rounds,
    subgroup=True,
    cases=tuple(_case(proof) for proof in SEQUENCES),
)
