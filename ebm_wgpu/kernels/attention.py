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

from ebm_wgpu.kernels._attention import (
    HIDDEN,
    Options,
    blocks,
    exact_kept,
    exact_lse,
    exact_scores,
    exact_shares,
    shares,
)
from ebm_wgpu.kernels._attention_cases import Setting, attention_kernel, of_queries, of_rows
from ebm_wgpu.kernels._cases import EPS32
from ebm_wgpu.kernels.spec import Array, Arrays, Case, Gradient, Run, Scalar, Tolerance


def mirror(
    q: Array,
    k: Array,
    v: Array,
    mask: Array,
    options: Options,
    out: Array,
    lse: Array,
) -> None:
    """Products by BLAS, a block of queries at a time."""
    for block in blocks(q, k, mask, options):
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
    options: Options,
) -> Arrays:
    """Float64 reference, with all scores at once."""
    scores = exact_scores(q, k, mask, options)
    lse = exact_lse(scores)
    p = exact_shares(scores, lse) * exact_kept(scores.shape, options)
    values = np.repeat(v, len(q) // len(v), axis=0)
    return {"out": np.einsum("gts,gsd->gtd", p, values), "lse": lse}


def _vjp(run: Run, inputs: Arrays, params: Mapping[str, Scalar], cotangents: Arrays) -> Arrays:
    forward = run("attention", **inputs, **params)
    shared: dict[str, Any] = {
        **inputs,
        **params,
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
    return setting.case(setting.inputs, {"out": out, "lse": lse})


KERNEL = attention_kernel(
    "attention",
    (of_queries("out", "out"), of_rows("lse", "out")),
    mirror,
    reference,
    _case,
    products=1,
    sums=1,
    gradient=Gradient(
        wrt=("q", "k", "v"),
        vjp=_vjp,
        outputs=("out",),
        tolerance=Tolerance(2e-5, 2e-5, "scores up to 40 leave shares exact to 2e-5"),
    ),
)
