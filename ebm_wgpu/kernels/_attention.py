"""What attention and its backwards compute: parameters, blocks of the mirrors, truth."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit

from ebm_wgpu.errors import KernelError
from ebm_wgpu.kernels._philox import philox_reference, split_seed, uniform4, uniforms_of
from ebm_wgpu.kernels.spec import Array, Param, Scalar

SIDE = 32
"""Queries, and keys, of a tile."""
COLUMN_TILES = 4
MAX_HEAD_DIM = SIDE * COLUMN_TILES
HIDDEN = -1e30
"""Scores at or below this are of keys that are not seen."""
STREAM_ATTENTION = 6
"""The Philox stream of dropout in attention."""
PARAMS = (
    Param("scale", "f32"),
    Param("causal", "u32"),
    Param("offset", "i32"),
    Param("masked", "u32"),
    Param("dropout", "f32"),
    Param("dropout_scale", "f32"),
    Param("seed", "u64"),
)
Options = Mapping[str, Scalar]
"""The parameters by name."""
_BLOCK = 128


def attention_params(
    scale: float,
    causal: bool = False,
    offset: int = 0,
    masked: bool = False,
    dropout: float = 0.0,
    seed: int = 0,
) -> dict[str, Scalar]:
    """The parameters of the attention kernels.

    Args:
        scale: of the products of queries and keys.
        causal: query t sees keys 0 to t + offset.
        offset: keys before the first query, such as those of a cache.
        masked: `mask` is added to the scores; else it is not read.
        dropout: probability with which a share is dropped, in [0, 1).
        seed: of the dropout; another one for each call.

    Raises:
        KernelError: the probability lies outside.
    """
    if not 0 <= dropout < 1:
        raise KernelError(f"attention: dropout {dropout} must be at least 0 and below 1")
    return {
        "scale": scale,
        "causal": int(causal),
        "offset": offset,
        "masked": int(masked),
        "dropout": dropout,
        "dropout_scale": 1 / (1 - dropout),
        "seed": seed,
    }


def taking_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function(options, ...)` as one that takes each of the parameters by its own name."""
    signature = inspect.signature(function)
    others = [each for each in signature.parameters.values() if each.name != "options"]
    named = [inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY) for each in PARAMS]

    @functools.wraps(function)
    def call(**given: Any) -> Any:
        options = {param.name: given.pop(param.name) for param in PARAMS}
        return function(options=options, **given)

    call.__signature__ = signature.replace(parameters=[*others, *named])  # type: ignore[attr-defined]
    return call


@njit(cache=True, error_model="numpy")
def _fill_kept(
    head: int, first: int, dropout: float, scale: float, seed: np.uint64, out: Array
) -> None:
    k0, k1 = split_seed(seed)
    for row in range(out.shape[0]):
        query = np.uint32(first + row)
        for key in range(0, out.shape[1], 4):
            u = uniform4(
                np.uint32(key // 4), query, np.uint32(head), np.uint32(STREAM_ATTENTION), k0, k1
            )
            for lane in range(min(4, out.shape[1] - key)):
                out[row, key + lane] = scale if u[lane] >= dropout else np.float32(0)


@dataclass(frozen=True)
class Block:
    """Consecutive queries of one head in a mirror, with the scores of the keys they may see.

    Attributes:
        head: number of the head.
        kv: number of the key head.
        rows: the queries.
        scores: (queries, keys) float32, HIDDEN where a key is not seen.
        kept: what dropout makes of each share, or 1.
    """

    head: int
    kv: int
    rows: slice
    scores: Array
    kept: Array | float


def blocks(q: Array, k: Array, mask: Array, options: Options) -> list[Block]:
    """All queries of all heads by blocks, for the mirrors."""
    heads, length, _ = q.shape
    found = []
    for head in range(heads):
        kv = head * len(k) // heads
        for first in range(0, length, _BLOCK):
            rows = slice(first, min(first + _BLOCK, length))
            query = np.arange(rows.start, rows.stop)
            scores = q[head, rows] @ k[kv].T
            scores *= np.float32(options["scale"])
            if options["masked"]:
                of_head = mask[head * len(mask) // heads]
                scores += of_head[rows] if len(of_head) > 1 else of_head
            if options["causal"]:
                scores[np.arange(k.shape[1]) > query[:, None] + options["offset"]] = HIDDEN
            np.maximum(scores, np.float32(HIDDEN), out=scores)
            kept: Array | float = 1.0
            if options["dropout"] > 0:
                kept = np.empty_like(scores)
                _fill_kept(
                    head,
                    first,
                    np.float32(options["dropout"]),
                    np.float32(options["dropout_scale"]),
                    np.uint64(options["seed"]),
                    kept,
                )
            found.append(Block(head, kv, rows, scores, kept))
    return found


def shares(scores: Array, shift: Array) -> Array:
    """exp(score - shift of the row), 0 where hidden; the scores' memory."""
    hidden = scores <= HIDDEN
    np.exp(np.subtract(scores, shift[:, None], out=scores), out=scores)
    scores[hidden] = 0
    return scores


def exact_scores(q: Array, k: Array, mask: Array, options: Options) -> Array:
    """Float64 scores (G, T, S), -inf where a key is not seen."""
    heads, length, _ = q.shape
    spread = np.repeat(k, heads // len(k), axis=0)
    scores = options["scale"] * np.einsum("gtd,gsd->gts", q, spread)
    if options["masked"]:
        scores = scores + np.repeat(mask, heads // len(mask), axis=0)
    if options["causal"]:
        seen = np.arange(k.shape[1]) <= np.arange(length)[:, None] + options["offset"]
        scores = np.where(seen, scores, -np.inf)
    return np.where(scores <= HIDDEN, -np.inf, scores)


def exact_shares(scores: Array, lse: Array) -> Array:
    """Float64 exp(score - lse), 0 where hidden."""
    return np.where(np.isneginf(scores), 0.0, np.exp(scores - lse[..., None]))


def exact_kept(shape: tuple[int, ...], options: Options) -> Array:
    """Float64 factors of dropout, (G, T, S)."""
    heads, length, keys = shape
    if options["dropout"] <= 0:
        return np.ones(shape)
    words = philox_reference(
        np.arange(-(-keys // 4)),
        np.arange(length)[:, None],
        np.arange(heads)[:, None, None],
        STREAM_ATTENTION,
        int(options["seed"]),
    )
    uniforms = uniforms_of(words).reshape(heads, length, -1)[..., :keys]
    return np.where(uniforms >= np.float32(options["dropout"]), options["dropout_scale"], 0.0)


def exact_lse(scores: Array) -> Array:
    """Float64 log-sum-exp of the scores of each query, HIDDEN where it sees nothing."""
    with np.errstate(divide="ignore"):
        peak = np.maximum(scores.max(-1), HIDDEN)
        total = np.exp(scores - peak[..., None]).sum(-1)
        return np.where(total != 0, peak + np.log(total), HIDDEN)
