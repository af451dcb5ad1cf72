"""The backward of `attention` for its keys and values: with p = exp(s - lse), dp = grad_out.v,

    grad_v[h, j] = sum_{g, t} kept p_j grad_out[g, t],
    grad_k[h, j] = scale sum_{g, t} p_j (kept dp_j - delta[g, t]) q[g, t],

over the heads g that read key head h. Each sum has one owner and a fixed order: no atomics.
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
from ebm_wgpu.kernels._attention_cases import (
    Setting,
    attention_kernel,
    of_keys,
    of_queries,
    of_rows,
)
from ebm_wgpu.kernels.spec import Array, Arrays, Case, Dims


def mirror(
    q: Array,
    k: Array,
    v: Array,
    mask: Array,
    lse: Array,
    delta: Array,
    grad_out: Array,
    options: Options,
    grad_k: Array,
    grad_v: Array,
) -> None:
    """Products by BLAS, a block of queries at a time."""
    grad_k[:] = 0
    grad_v[:] = 0
    for block in blocks(q, k, mask, options):
        head, kv, rows = block.head, block.kv, block.rows
        p = shares(block.scores, lse[head, rows])
        grad_v[kv] += (p * block.kept).T @ grad_out[head, rows]
        pull = grad_out[head, rows] @ v[kv].T
        pull *= block.kept
        pull -= delta[head, rows, None]
        pull *= p
        pull *= np.float32(options["scale"])
        grad_k[kv] += pull.T @ q[head, rows]


def reference(
    q: Array,
    k: Array,
    v: Array,
    mask: Array,
    lse: Array,
    delta: Array,
    grad_out: Array,
    options: Options,
) -> Arrays:
    """Float64 reference, with all scores at once."""
    scores = exact_scores(q, k, mask, options)
    sharing = len(q) // len(k)
    kept = exact_kept(scores.shape, options)
    p = exact_shares(scores, lse)
    pull = np.einsum("gtd,gsd->gts", grad_out, np.repeat(v, sharing, axis=0)) * kept
    grad_k = options["scale"] * np.einsum("gts,gtd->gsd", p * (pull - delta[..., None]), q)
    grad_v = np.einsum("gts,gtd->gsd", p * kept, grad_out)
    of_key_heads = (len(k), sharing, *k.shape[1:])
    return {
        "grad_k": grad_k.reshape(of_key_heads).sum(1),
        "grad_v": grad_v.reshape(of_key_heads).sum(1),
    }


def _case(setting: Setting) -> Case:
    def inputs(rng: np.random.Generator, dims: Dims) -> Arrays:
        arrays = setting.backward_inputs(rng, dims)
        delta = np.sum(arrays["out"].astype(np.float64) * arrays["grad_out"], -1)
        del arrays["out"]
        return arrays | {"delta": delta.astype(np.float32)}

    summed = (setting.dims["T"] * setting.dims["G"] / setting.dims["KV"]) ** 0.5
    grad_k = setting.tolerance(
        16.0 * setting.size * summed, "sums of scale grad_out.v, below 4, times queries below 4"
    )
    grad_v = setting.tolerance(4.0 * summed, "sums of grad_out, below 4")
    return setting.case(inputs, {"grad_k": grad_k, "grad_v": grad_v})


KERNEL = attention_kernel(
    "attention_key_backward",
    (
        of_rows("lse"),
        of_rows("delta"),
        of_queries("grad_out"),
        of_keys("grad_k", "out"),
        of_keys("grad_v", "out"),
    ),
    mirror,
    reference,
    _case,
    products=2,
    sums=2,
    walks_queries=True,
)
