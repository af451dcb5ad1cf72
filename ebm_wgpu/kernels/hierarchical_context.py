"""Causal summaries of a sequence: recent mean, exponential average, attention.

out[b, t, 0] = mean of the last min(t + 1, recent_window) rows of x, row t included.
out[b, t, 1] = average with weights exp(-4 age / decay_window) over the last decay_window rows.
out[b, t, 2] = sum_j p_tj x_j, p = softmax over the last attention_window rows of scale q_t.k_j.
lse[b, t] = log sum_j exp(scale q_t.k_j), from which the backward kernel recomputes p.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numba import njit

from ebm_wgpu.kernels import _rounds
from ebm_wgpu.kernels._cases import EPS32
from ebm_wgpu.kernels._context import (
    BLOCK,
    LONGEST,
    PARAMS,
    SEQUENCES,
    Sequences,
    bands,
    check_windows,
    exact_weights,
    lowest,
    reaches,
)
from ebm_wgpu.kernels.spec import (
    Array,
    Arrays,
    Binding,
    Case,
    Dims,
    Gradient,
    Kernel,
    Run,
    Scalar,
    Tolerance,
    Work,
)


@njit(cache=True)
def mirror(
    x: Array,
    q: Array,
    k: Array,
    recent_window: int,
    decay_window: int,
    attention_window: int,
    scale: float,
    out: Array,
    lse: Array,
) -> None:
    """Numba mirror: dense products by blocks of queries."""
    factor = np.float32(scale)
    for start in range(0, x.shape[1], BLOCK):
        stop = min(start + BLOCK, x.shape[1])
        low = lowest(start, recent_window, decay_window, attention_window)
        recent, decay = bands(start, stop, low, recent_window, decay_window)
        for b in range(x.shape[0]):
            rows = x[b, low:stop]
            p = np.dot(q[b, start:stop], k[b, low:stop].T)
            for query in range(stop - start):
                end = start + query + 1 - low
                begin = max(0, end - attention_window)
                peak = np.float32(-np.inf)
                for j in range(begin, end):
                    p[query, j] *= factor
                    peak = max(peak, p[query, j])
                total = np.float32(0)
                for j in range(begin, end):
                    p[query, j] = np.exp(p[query, j] - peak)
                    total += p[query, j]
                p[query, :begin] = 0
                p[query, end:] = 0
                for j in range(begin, end):
                    p[query, j] /= total
                lse[b, start + query] = peak + np.log(total)
            out[b, start:stop, 0] = np.dot(recent, rows)
            out[b, start:stop, 1] = np.dot(decay, rows)
            out[b, start:stop, 2] = np.dot(p, rows)


def reference(
    x: Array,
    q: Array,
    k: Array,
    recent_window: int,
    decay_window: int,
    attention_window: int,
    scale: float,
) -> Arrays:
    """Float64 reference."""
    recent, decay, p, lse = exact_weights(
        q, k, recent_window, decay_window, attention_window, scale
    )
    return {"out": np.stack([recent @ x, decay @ x, p @ x], axis=2), "lse": lse}


def _vjp(run: Run, inputs: Arrays, params: Mapping[str, Scalar], cotangents: Arrays) -> Arrays:
    forward = run("hierarchical_context", **inputs, **params)
    gradients = run(
        "hierarchical_context_backward",
        **inputs,
        **params,
        **forward,
        grad_out=cotangents["out"],
    )
    return {name: gradients[f"grad_{name}"] for name in ("x", "q", "k")}


def _case(proof: Sequences) -> Case:
    error = proof.weight_error
    tolerance = Tolerance(
        error, 4 * EPS32, f"averages of values of order one with weights that err by {error:.1e}"
    )
    return Case(proof.name, proof.dims, proof.draw, tolerance, proof.params)


def _work(dims: Dims) -> Work:
    pairs = dims["B"] * dims["T"] * min(dims["T"], 512) * dims["D"]
    return Work(4.0 * pairs, 4.0 * 6 * dims["B"] * dims["T"] * dims["D"])


def _count_rounds(dims: Dims, params: Mapping[str, Scalar]) -> int:
    recent, decay, attention = reaches(dims, params)
    loop, strided = _rounds.loop, _rounds.strided
    scores = strided(attention, 64, loop(dims["D"])) + strided(attention, 64)
    sums = strided(dims["D"], 64, loop(recent) + loop(decay) + loop(attention))
    return scores + strided(decay, 64) + sums + 3 * _rounds.reduction(64)


KERNEL = Kernel(
    stem="hierarchical_context",
    bindings=(
        Binding("x", "f32", ("B", "T", "D")),
        Binding("q", "f32", ("B", "T", "D")),
        Binding("k", "f32", ("B", "T", "D")),
        Binding("out", "f32", ("B", "T", 3, "D"), "out"),
        Binding("lse", "f32", ("B", "T"), "out"),
    ),
    params=PARAMS,
    constants={"WG": 64, "LONGEST": LONGEST},
    derive=check_windows,
    workgroups=lambda dims, params: dims["B"] * dims["T"],
    mirror=mirror,
    reference=reference,
    rounds=_count_rounds,
    subgroup=True,
    cases=tuple(_case(proof) for proof in SEQUENCES),
    gradient=Gradient(
        wrt=("x", "q", "k"),
        vjp=_vjp,
        outputs=("out",),
        tolerance=Tolerance(
            2e-5, 2e-5, "attention weights err by up to 1.8e-5 in the sharpest case"
        ),
    ),
    work=_work,
    speed_case={"B": 8, "T": 512, "D": 640},
)
