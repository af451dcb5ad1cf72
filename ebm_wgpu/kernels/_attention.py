"""What attention and its backwards share: parameters, truth, blocks of the mirrors, inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit

from ebm_wgpu.errors import KernelError
from ebm_wgpu.kernels import _rounds
from ebm_wgpu.kernels._cases import EPS32, normal
from ebm_wgpu.kernels._philox import philox_reference, split_seed, uniform4, uniforms_of
from ebm_wgpu.kernels.spec import Array, Arrays, Binding, Dims, Param, Scalar, Tolerance

SIDE = 32
"""Queries, and keys, of a tile."""
COLUMN_TILES = 4
MAX_HEAD_DIM = SIDE * COLUMN_TILES
HIDDEN = -1e30
"""Scores at or below this are of keys that are not seen."""
STREAM_ATTENTION = 6
"""The Philox stream of dropout in attention."""
WG = (SIDE // 4) ** 2
CONSTANTS = {
    "WG": WG,
    "SIDE": SIDE,
    "COLUMN_TILES": COLUMN_TILES,
    "STREAM_ATTENTION": STREAM_ATTENTION,
}
PARAMS = (
    Param("scale", "f32"),
    Param("causal", "u32"),
    Param("offset", "i32"),
    Param("masked", "u32"),
    Param("dropout", "f32"),
    Param("dropout_scale", "f32"),
    Param("seed", "u64"),
)
QUERIES = Binding("q", "f32", ("G", "T", "D"), half=True)
KEYS = Binding("k", "f32", ("KV", "S", "D"), half=True)
VALUES = Binding("v", "f32", ("KV", "S", "D"), half=True)
MASK = Binding("mask", "f32", ("M", "MT", "MS"))
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


def options_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters among named values."""
    return {param.name: given[param.name] for param in PARAMS}


def check_shapes(dims: dict[str, int], params: Mapping[str, Scalar]) -> dict[str, int]:
    """Refuses shapes that do not fit together.

    Raises:
        KernelError: heads too wide, or key heads or masks that heads cannot share evenly.
    """
    if dims["D"] > MAX_HEAD_DIM:
        raise KernelError(f"attention: heads of dimension {dims['D']} exceed {MAX_HEAD_DIM}")
    for name, what in (("KV", "key heads"), ("M", "masks")):
        if dims[name] < 1 or dims["G"] % dims[name]:
            raise KernelError(
                f"attention: {dims['G']} heads cannot share {dims[name]} {what} evenly"
            )
    for name, axis in (("MT", "T"), ("MS", "S")):
        if params["masked"] and dims[name] not in (1, dims[axis]):
            raise KernelError(
                f"attention: the mask has {name}={dims[name]}, which must be 1 or {dims[axis]}"
            )
    return {}


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


def blocks(q: Array, k: Array, mask: Array, options: Mapping[str, Scalar]) -> list[Block]:
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


def exact_scores(q: Array, k: Array, mask: Array, options: Mapping[str, Scalar]) -> Array:
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


def exact_kept(shape: tuple[int, ...], options: Mapping[str, Scalar]) -> Array:
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


@dataclass(frozen=True)
class Setting:
    """One row of the case tables of all three kernels."""

    name: str
    dims: Dims
    params: Mapping[str, Scalar]
    size: float = 1.0

    def inputs(self, rng: np.random.Generator, dims: Dims) -> Arrays:
        """Queries of deviation `size`, keys and values of 1, a mask that hides a third.

        With several masks the last one hides all keys from its queries.
        """
        mask = normal(rng, dims["M"], dims["MT"], dims["MS"])
        if self.params["masked"]:
            mask[rng.random(mask.shape) < 0.3] = -np.inf
            if len(mask) > 1:
                mask[-1] = -np.inf
        return {
            "q": normal(rng, dims["G"], dims["T"], dims["D"], scale=self.size),
            "k": normal(rng, dims["KV"], dims["S"], dims["D"]),
            "v": normal(rng, dims["KV"], dims["S"], dims["D"]),
            "mask": mask,
        }

    def backward_inputs(self, rng: np.random.Generator, dims: Dims) -> Arrays:
        """Those, what the forward made of them, and the gradient of the output."""
        arrays = self.inputs(rng, dims)
        exact = {name: value.astype(np.float64) for name, value in arrays.items()}
        scores = exact_scores(exact["q"], exact["k"], exact["mask"], self.params)
        lse = exact_lse(scores)
        kept = exact_shares(scores, lse) * exact_kept(scores.shape, self.params)
        values = np.repeat(exact["v"], dims["G"] // dims["KV"], axis=0)
        arrays["lse"] = lse.astype(np.float32)
        arrays["out"] = np.einsum("gts,gsd->gtd", kept, values).astype(np.float32)
        arrays["grad_out"] = normal(rng, dims["G"], dims["T"], dims["D"])
        return arrays

    @property
    def share_error(self) -> float:
        """Relative error of a share: that of the score, and of exp at what still counts."""
        return EPS32 * (4 + 2 * self.size * self.dims["D"] ** 0.5 / 2 + 8 * self.size)

    def tolerance(self, factor: float, what: str) -> Tolerance:
        """For sums of shares times numbers of about `factor` in all."""
        return Tolerance(
            factor * self.share_error,
            8 * EPS32,
            f"{what}; shares good to {self.share_error / EPS32:.0f} eps from products of "
            f"{self.dims['D']} terms",
        )


def _setting(
    name: str,
    heads: tuple[int, int],
    sizes: tuple[int, int, int],
    mask: tuple[int, int, int] = (1, 1, 1),
    size: float = 1.0,
    **options: float,
) -> Setting:
    dims = dict(zip(("G", "KV", "T", "S", "D", "M", "MT", "MS"), heads + sizes + mask, strict=True))
    scale = options.pop("scale", dims["D"] ** -0.5)
    return Setting(name, dims, attention_params(scale, **options), size)  # type: ignore[arg-type]


SETTINGS = (
    _setting("causal, odd", (3, 3), (37, 37, 24), causal=True),
    _setting("three tiles", (1, 1), (67, 70, 33)),
    _setting("cache, shared keys", (4, 2), (5, 41, 64), causal=True, offset=36),
    _setting("one mask", (2, 2), (33, 35, 8), (1, 33, 35), masked=True),
    _setting(
        "masks of keys, one hides all", (4, 4), (9, 34, 40), (2, 1, 34), masked=True, causal=True
    ),
    _setting("queries before all keys", (2, 1), (40, 7, 16), causal=True, offset=-33),
    _setting("dropout", (3, 3), (34, 34, 12), causal=True, dropout=0.3, seed=2**63 + 5),
    _setting("widest heads", (2, 1), (33, 33, MAX_HEAD_DIM), causal=True),
    _setting("far apart", (1, 1), (20, 33, 64), size=8.0),
    _setting("one of each", (1, 1), (1, 1, 1), scale=0.5),
)


def tile_rounds(products: int, sums: int, depth: int) -> _rounds.Rounds:
    """Rounds of one pair of tiles: `products` of rows and `sums` weighted with their results."""
    fill = _rounds.strided(SIDE * SIDE // 4, WG)
    product = _rounds.strided(depth, SIDE, fill + _rounds.loop(SIDE))
    weighted = COLUMN_TILES * (fill + _rounds.loop(SIDE))
    return products * product + sums * weighted + _rounds.loop(SIDE // 4) + 4 * _rounds.PHILOX


def finish_rounds(depth: int) -> _rounds.Rounds:
    """Rounds before and after the loop over tiles."""
    own = 4 * _rounds.strided(depth, SIDE // 4) + 4 * _rounds.loop(4)
    return own + 2 * _rounds.loop(SIDE // 4)


def pair_count(dims: Dims) -> float:
    """Pairs of queries and keys, times the head dimension."""
    return float(dims["G"] * dims["T"] * dims["S"] * dims["D"])
