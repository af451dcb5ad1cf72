"""Scaled dot-product attention without a matrix of scores in memory:

    s[g, t, j] = scale q[g, t].k[h, j] + mask,   p = softmax over the keys j that t sees,
    out[g, t] = sum_j kept_j p_j v[h, j],        lse[g, t] = logsumexp_j s[g, t, j].

Head g (of all batches) reads key head h = g KV / G, so several heads may share one. With `causal`
query t sees keys 0 to t + offset. With `masked` the mask of head g, g M / G, is added; scores at or
below HIDDEN are not seen, and a query that sees nothing gives 0 and lse = HIDDEN. With `dropout`
shares are dropped by Philox counters (key / 4, query, head), so that the backwards need no mask.

Tiles of 32 queries and 32 keys stand in workgroup memory; the running maximum and sum are those of
Dao et al. 2022 (arXiv:2205.14135), algorithm 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ebm_wgpu.kernels import _rounds
from ebm_wgpu.kernels._attention import (
    CONSTANTS,
    HIDDEN,
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
    exact_lse,
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
    Gradient,
    Kernel,
    Run,
    Scalar,
    Tolerance,
    Work,
)


def mirror(
    q: Array,
    k: Array,
    v: Array,
    mask: Array,
    scale: float,
    causal: int,
    offset: int,
    masked: int,
    dropout: float,
    dropout_scale: float,
    seed: int,
    out: Array,
    lse: Array,
) -> None:
    """Products by BLAS, a block of queries at a time."""
    for block in blocks(q, k, mask, options_of(locals())):
        peak = block.scores.max(1)
        p = shares(block.scores, peak)
        total = p.sum(1)
        seen = total != 0
        with np.errstate(divide="ignore"):
            lse[block.head, block.rows] = np.where(seen, peak + np.log(total), HIDDEN)
        p *= block.kept
        weighted = p @ v[block.kv]
        weighted /= np.where(seen, total, 1)[:, None]
        out[block.head, block.rows] = weighted


def reference(
    q: Array,
    k: Array,
    v: Array,
    mask: Array,
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
    lse = exact_lse(scores)
    p = exact_shares(scores, lse) * exact_kept(scores.shape, options)
    values = np.repeat(v, len(q) // len(v), axis=0)
    return {"out": np.einsum("gts,gsd->gtd", p, values), "lse": lse}


def _vjp(run: Run, inputs: Arrays, params: Mapping[str, Scalar], cotangents: Arrays) -> Arrays:
    options = options_of(params)
    forward = run("attention", **inputs, **options)
    shared: dict[str, Any] = {
        **inputs,
        **options,
        "lse": forward["lse"],
        "grad_out": cotangents["out"],
    }
    queries = run("attention_query_backward", **shared, out=forward["out"])
    keys = run("attention_key_backward", **shared, delta=queries["delta"])
    return {"q": queries["grad_q"], "k": keys["grad_k"], "v": keys["grad_v"]}


def _case(setting: Setting) -> Case:
    lse = Tolerance(
        setting.share_error / 2, 4 * EPS32, "the error of a score, which is that of its share"
    )
    out = setting.tolerance(4.0, "a mean of values below 4")
    return Case(
        setting.name, setting.dims, setting.inputs, {"out": out, "lse": lse}, setting.params
    )


def _count_rounds(dims: Dims, params: Mapping[str, Scalar]) -> int:
    tile = tile_rounds(1, 1, dims["D"])
    return _rounds.strided(dims["S"], SIDE, tile) + finish_rounds(dims["D"])


KERNEL = Kernel(
    stem="attention",
    bindings=(
        QUERIES,
        KEYS,
        VALUES,
        MASK,
        Binding("out", "f32", ("G", "T", "D"), "out", half=True),
        Binding("lse", "f32", ("G", "T"), "out"),
    ),
    params=PARAMS,
    constants=CONSTANTS,
    workgroups=lambda dims, params: dims["G"] * -(-dims["T"] // SIDE),
    derive=check_shapes,
    mirror=mirror,
    reference=reference,
    rounds=_count_rounds,
    cases=tuple(_case(setting) for setting in SETTINGS),
    gradient=Gradient(
        wrt=("q", "k", "v"),
        vjp=_vjp,
        outputs=("out",),
        tolerance=Tolerance(2e-5, 2e-5, "scores up to 40 leave shares exact to 2e-5"),
    ),
    work=lambda dims: Work(
        4.0 * pair_count(dims),
        8.0 * dims["D"] * (dims["G"] * dims["T"] + dims["KV"] * dims["S"]),
    ),
    speed_case={"G": 160, "KV": 160, "T": 1024, "S": 1024, "D": 64, "M": 1, "MT": 1, "MS": 1},
)
