"""The backward of `attention` for its keys and values: with p = exp(s - lse), dp = grad_out.v,

    grad_v[h, j] = sum_{g, t} kept p_j grad_out[g, t],
    grad_k[h, j] = scale sum_{g, t} p_j (kept dp_j - delta[g, t]) q[g, t],

over the heads g that read key head h. Each sum has one owner and a fixed order: no atomics.
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
from ebm_wgpu.kernels.spec import (
    Array,
    Arrays,
    Binding,
    Case,
    Dims,
    Kernel,
    Scalar,
    Work,
)


def mirror(
    q: Array,
    k: Array,
    v: Array,
    mask: Array,
    lse: Array,
    delta: Array,
    grad_out: Array,
    scale: float,
    causal: int,
    offset: int,
    masked: int,
    dropout: float,
    dropout_scale: float,
    seed: int,
    grad_k: Array,
    grad_v: Array,
) -> None:
    """Products by BLAS, a block of queries at a time."""
    grad_k[:] = 0
    grad_v[:] = 0
    for block in blocks(q, k, mask, options_of(locals())):
        head, kv, rows = block.head, block.kv, block.rows
        p = shares(block.scores, lse[head, rows])
        grad_v[kv] += (p * block.kept).T @ grad_out[head, rows]
        pull = grad_out[head, rows] @ v[kv].T
        pull *= block.kept
        pull -= delta[head, rows, None]
        pull *= p
        pull *= np.float32(scale)
        grad_k[kv] += pull.T @ q[head, rows]


def reference(
    q: Array,
    k: Array,
    v: Array,
    mask: Array,
    lse: Array,
    delta: Array,
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
    sharing = len(q) // len(k)
    kept = exact_kept(scores.shape, options)
    p = exact_shares(scores, lse)
    pull = np.einsum("gtd,gsd->gts", grad_out, np.repeat(v, sharing, axis=0)) * kept
    grad_k = scale * np.einsum("gts,gtd->gsd", p * (pull - delta[..., None]), q)
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
    return Case(
        setting.name, setting.dims, inputs, {"grad_k": grad_k, "grad_v": grad_v}, setting.params
    )


def _count_rounds(dims: Dims, params: Mapping[str, Scalar]) -> int:
    tile = tile_rounds(2, 2, dims["D"])
    heads = _rounds.loop(dims["G"] // dims["KV"], _rounds.strided(dims["T"], SIDE, tile))
    return heads + finish_rounds(dims["D"])


KERNEL = Kernel(
    stem="attention_key_backward",
    bindings=(
        QUERIES,
        KEYS,
        VALUES,
        MASK,
        Binding("lse", "f32", ("G", "T")),
        Binding("delta", "f32", ("G", "T")),
        Binding("grad_out", "f32", ("G", "T", "D"), half=True),
        Binding("grad_k", "f32", ("KV", "S", "D"), "out", half=True),
        Binding("grad_v", "f32", ("KV", "S", "D"), "out", half=True),
    ),
    params=PARAMS,
    constants=CONSTANTS,
    workgroups=lambda dims, params: dims["KV"] * -(-dims["S"] // SIDE),
    derive=check_shapes,
    mirror=mirror,
    reference=reference,
    rounds=_count_rounds,
    cases=tuple(_case(setting) for setting in SETTINGS),
    work=lambda dims: Work(
        8.0 * pair_count(dims),
        4.0 * dims["D"] * (2 * dims["G"] * dims["T"] + 4 * dims["KV"] * dims["S"]),
    ),
    speed_case={"G": 160, "KV": 160, "T": 1024, "S": 1024, "D": 64, "M": 1, "MT": 1, "MS": 1},
)
