"""The backward of `attention` for its queries: with p = exp(s - lse) and dp = kept grad_out.v,

    delta[g, t] = out.grad_out,   grad_q[g, t] = scale sum_j p_j (dp_j - delta) k_j.

Shares are worked out again from the log-sum-exp. `delta` is what `attention_key_backward` needs.
Source: Dao et al. 2022 (arXiv:2205.14135), algorithm 4.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ebm_wgpu.kernels import _rounds
from ebm_wgpu.kernels._attention import (
    CONSTANTS,
    KEYS,
    MASK,
    PARAMS,
    QUERIES,
    SETTINGS,
    SIDE,
    VALUES,
    Setting,
    blocks,
    check_shapes,
    exact_kept,
    exact_scores,
    exact_shares,
    finish_rounds,
    options_of,
    pair_count,
    shares,
    tile_rounds,
)
from ebm_wgpu.kernels._cases import EPS32
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


def mirror(
    q: Array,
    k: Array,
    v: Array,
    mask: Array,
    out: Array,
    lse: Array,
    grad_out: Array,
    scale: float,
    causal: int,
    offset: int,
    masked: int,
    dropout: float,
    dropout_scale: float,
    seed: int,
    grad_q: Array,
    delta: Array,
) -> None:
    """Products by BLAS, a block of queries at a time."""
    np.einsum("gtd,gtd->gt", out, grad_out, out=delta)
    for block in blocks(q, k, mask, options_of(locals())):
        head, rows = block.head, block.rows
        p = shares(block.scores, lse[head, rows])
        pull = grad_out[head, rows] @ v[block.kv].T
        pull *= block.kept
        pull -= delta[head, rows, None]
        pull *= p
        pull *= np.float32(scale)
        grad_q[head, rows] = pull @ k[block.kv]


def reference(
    q: Array,
    k: Array,
    v: Array,
    mask: Array,
    out: Array,
    lse: Array,
    grad_out: Array,
    scale: float,
    causal: int,
    offset: int,
    masked: int,
    dropout: float,
    dropout_scale: float,
    seed: int,
) -> Arrays:
    """Float64 reference, with all scores at once."""
    options = options_of(locals())
    scores = exact_scores(q, k, mask, options)
    delta = np.sum(out * grad_out, -1)
    values, keys = (np.repeat(x, len(q) // len(x), axis=0) for x in (v, k))
    pull = np.einsum("gtd,gsd->gts", grad_out, values) * exact_kept(scores.shape, options)
    grad_scores = exact_shares(scores, lse) * (pull - delta[..., None])
    return {"grad_q": scale * np.einsum("gts,gsd->gtd", grad_scores, keys), "delta": delta}


def _case(setting: Setting) -> Case:
    depth = setting.dims["D"]
    delta = Tolerance(EPS32 * (4 + depth**0.5), 4 * EPS32, f"a float32 sum of {depth} products")
    grad_q = setting.tolerance(16.0, "a mean of scale grad_out.v, below 4, times keys below 4")
    return Case(
        setting.name,
        setting.dims,
        setting.backward_inputs,
        {"grad_q": grad_q, "delta": delta},
        setting.params,
    )


def _count_rounds(dims: Dims, params: Mapping[str, Scalar]) -> int:
    tile = tile_rounds(2, 1, dims["D"])
    return _rounds.strided(dims["S"], SIDE, tile) + finish_rounds(dims["D"])


KERNEL = Kernel(
    stem="attention_query_backward",
    bindings=(
        QUERIES,
        KEYS,
        VALUES,
        MASK,
        Binding("out", "f32", ("G", "T", "D"), half=True),
        Binding("lse", "f32", ("G", "T")),
        Binding("grad_out", "f32", ("G", "T", "D"), half=True),
        Binding("grad_q", "f32", ("G", "T", "D"), "out", half=True),
        Binding("delta", "f32", ("G", "T"), "out"),
    ),
    params=PARAMS,
    constants=CONSTANTS,
    workgroups=lambda dims, params: dims["G"] * -(-dims["T"] // SIDE),
    derive=check_shapes,
    mirror=mirror,
    reference=reference,
    rounds=_count_rounds,
    cases=tuple(_case(setting) for setting in SETTINGS),
    work=lambda dims: Work(
        6.0 * pair_count(dims),
        4.0 * dims["D"] * (4 * dims["G"] * dims["T"] + 2 * dims["KV"] * dims["S"]),
    ),
    speed_case={"G": 160, "KV": 160, "T": 1024, "S": 1024, "D": 64, "M": 1, "MT": 1, "MS": 1},
)
