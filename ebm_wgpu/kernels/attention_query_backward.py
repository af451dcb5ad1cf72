"""The backward of `attention` for its queries: with p = exp(s - lse) and dp = kept grad_out.v,

    delta[g, t] = out.grad_out,   grad_q[g, t] = scale sum_j p_j (dp_j - delta) k_j.

Shares are worked out again from the log-sum-exp. `delta` is what `attention_key_backward` needs.
Source: Dao et al. 2022 (arXiv:2205.14135), algorithm 4.
"""

from __future__ import annotations

import numpy as np

from ebm_wgpu.kernels._attention import (
    Options,
    blocks,
    exact_kept,
    exact_scores,
    exact_shares,
    shares,
)
from ebm_wgpu.kernels._attention_cases import Setting, attention_kernel, of_queries, of_rows
from ebm_wgpu.kernels._cases import EPS32
from ebm_wgpu.kernels.spec import Array, Arrays, Case, Tolerance


def mirror(
    q: Array,
    k: Array,
    v: Array,
    mask: Array,
    out: Array,
    lse: Array,
    grad_out: Array,
    options: Options,
    grad_q: Array,
    delta: Array,
) -> None:
    """Products by BLAS, a block of queries at a time."""
    np.einsum("gtd,gtd->gt", out, grad_out, out=delta)
    for block in blocks(q, k, mask, options):
        head, rows = block.head, block.rows
        p = shares(block.scores, lse[head, rows])
        pull = grad_out[head, rows] @ v[block.kv].T
        pull *= block.kept
        pull -= delta[head, rows, None]
        pull *= p
        pull *= np.float32(options["scale"])
        grad_q[head, rows] = pull @ k[block.kv]


def reference(
    q: Array,
    k: Array,
    v: Array,
    mask: Array,
    out: Array,
    lse: Array,
    grad_out: Array,
    options: Options,
) -> Arrays:
    """Float64 reference, with all scores at once."""
    scores = exact_scores(q, k, mask, options)
    delta = np.sum(out * grad_out, -1)
    values, keys = (np.repeat(x, len(q) // len(x), axis=0) for x in (v, k))
    pull = np.einsum("gtd,gsd->gts", grad_out, values) * exact_kept(scores.shape, options)
    grad_scores = exact_shares(scores, lse) * (pull - delta[..., None])
    return {
        "grad_q": options["scale"] * np.einsum("gts,gsd->gtd", grad_scores, keys),
        "delta": delta,
    }


def _case(setting: Setting) -> Case:
    depth = setting.dims["D"]
    delta = Tolerance(EPS32 * (4 + depth**0.5), 4 * EPS32, f"a float32 sum of {depth} products")
    grad_q = setting.tolerance(16.0, "a mean of scale grad_out.v, below 4, times keys below 4")
    return setting.case(setting.backward_inputs, {"grad_q": grad_q, "delta": delta})


KERNEL = attention_kernel(
    "attention_query_backward",
    (
        of_queries("out"),
        of_rows("lse"),
        of_queries("grad_out"),
        of_queries("grad_q", "out"),
        of_rows("delta", "out"),
    ),
    mirror,
    reference,
    _case,
    products=2,
    sums=1,
)
