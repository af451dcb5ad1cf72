"""The K splat directions most similar to each query, without storing all (B, N) cosines.

values[r, j] = x[b].mu[indices[r, j]] is the (j+1)-th largest cosine of query b = r // S within
segment r % S of mu, where S = R // B is the number of equal segments mu is cut into. R defaults to
B: one segment, and values and indices are (B, K). More segments spread a search over more
workgroups; merge them with `topk_merge`, or call `ebm_wgpu.kernels.topk.similarity_topk`, which
does both.

Equal values are ordered by the lower index and NaN comes last. A segment of fewer than K rows
leaves places empty: index -1, value NaN. -0 is returned as 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from ebm_wgpu.errors import KernelError
from ebm_wgpu.kernels import _rounds, _search, _topk
from ebm_wgpu.kernels._cases import dot_tolerance, unit_rows
from ebm_wgpu.kernels.spec import (
    EXACT,
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

QUERIES = 4
_CONSTANTS = {"WG": 128, "TILE_K": 8, "TILE_A": 1, "TILE_B": 32, "TOPK_STREAMS": QUERIES}


def mirror(x: Array, mu: Array, values: Array, indices: Array) -> None:
    """Numba mirror, by chunks of splats in all threads."""
    if len(x) == 0:
        return
    segments = len(values) // len(x)
    length = -(-len(mu) // segments)
    keys = np.empty_like(indices)
    for segment in range(segments):
        start, end = segment * length, min(len(mu), (segment + 1) * length)
        rows = slice(segment, None, segments)
        keys[rows], indices[rows] = _best_between(x, mu, start, end, indices.shape[1])
    _topk.decode(keys, values.view(np.int32))


def _best_between(x: Array, mu: Array, start: int, end: int, k: int) -> tuple[Array, Array]:
    """Sorted lists of keys and indices (B, k): each thread keeps its own, merged at the end."""
    lists: list[tuple[Array, Array]] = []

    def work(chunks: Iterator[tuple[int, int]]) -> None:
        own = np.empty((len(x), k), np.int32), np.empty((len(x), k), np.int32)
        _topk.start(*own)
        for first, last in chunks:
            _search.scan(x, mu, first, last, *own)
        lists.append(own)

    _search.in_chunks(start, end, x.size, work)
    for own in lists[1:]:
        _search.merge(*own, *lists[0])
    return lists[0]


def reference(x: Array, mu: Array, K: int, R: int) -> Arrays:
    """Float64 reference."""
    segments = R // len(x)
    length = -(-len(mu) // segments)
    cosines = x @ mu.T
    values, indices = np.empty((len(x), segments, K)), np.empty((len(x), segments, K), np.int32)
    for segment in range(segments):
        part = np.arange(segment * length, min(len(mu), (segment + 1) * length))
        candidates = np.broadcast_to(part, (len(x), len(part)))
        values[:, segment], indices[:, segment] = _topk.reference_best(
            cosines[:, part], candidates, K
        )
    return {"values": values.reshape(R, K), "indices": indices.reshape(R, K)}


def _derive(dims: dict[str, int], params: Mapping[str, Scalar]) -> dict[str, int]:
    queries, splats = dims["B"], dims["N"]
    if "K" not in dims:
        raise KernelError("kernel similarity_topk: K, the number of splats wanted, is missing")
    _topk.check_count("similarity_topk", dims["K"])
    if dims["K"] > splats:
        raise KernelError(
            f"kernel similarity_topk: K={dims['K']} exceeds N={splats}, the number of rows of 'mu'"
        )
    rows = dims.get("R", queries)
    if queries and (rows < queries or rows % queries):
        raise KernelError(
            f"kernel similarity_topk: R={rows} must be a multiple of B={queries}, the rows of 'x'"
        )
    return {"R": rows}


def _comparable(outputs: Arrays, inputs: Arrays, params: Mapping[str, Scalar]) -> Arrays:
    """Replace each index by the exact cosine it stands for, since float32 may swap near-ties.

    Whole numbers give exact cosines: then the indices themselves must agree. An index that repeats
    within a row stands for infinity, which no tolerance forgives.
    """
    x, mu = inputs["x"].astype(np.float64), inputs["mu"].astype(np.float64)
    indices = outputs["indices"]
    if np.array_equal(x, np.trunc(x)) and np.array_equal(mu, np.trunc(mu)):
        return outputs
    segments = len(indices) // len(x)
    cosines = np.repeat(x @ mu.T, segments, axis=0)
    named = np.take_along_axis(cosines, np.maximum(indices, 0), 1)
    named[indices < 0] = np.nan
    for row, chosen in zip(named, indices, strict=True):
        real = chosen[chosen >= 0]
        if len(np.unique(real)) < len(real):
            row[:] = np.inf
    return {"values": outputs["values"], "indices": named}


def _units(rng: np.random.Generator, dims: Dims) -> Arrays:
    return {"x": unit_rows(rng, dims["B"], dims["D"]), "mu": unit_rows(rng, dims["N"], dims["D"])}


def _whole_numbers(rng: np.random.Generator, dims: Dims) -> Arrays:
    """Entries -1, 0 and 1: cosines are exact and nearly all of them tie."""
    return {
        "x": rng.integers(-1, 2, (dims["B"], dims["D"])).astype(np.float32),
        "mu": rng.integers(-1, 2, (dims["N"], dims["D"])).astype(np.float32),
    }


def _all_equal(rng: np.random.Generator, dims: Dims) -> Arrays:
    return {
        "x": np.ones((dims["B"], dims["D"]), np.float32),
        "mu": np.ones((dims["N"], dims["D"]), np.float32),
    }


def _ascending(rng: np.random.Generator, dims: Dims) -> Arrays:
    """Every later splat is better than all before it, for one query; the opposite for the next."""
    mu = np.zeros((dims["N"], dims["D"]), np.float32)
    mu[:, 0] = np.arange(dims["N"])
    x = np.zeros((dims["B"], dims["D"]), np.float32)
    x[0::2, 0], x[1::2, 0] = 1, -1
    return {"x": x, "mu": mu}


def _cosines(d: int) -> Tolerance:
    return dot_tolerance(d, 1.0 / np.sqrt(d))


def _dims(queries: int, splats: int, d: int, k: int, segments: int = 1) -> Dims:
    return {"B": queries, "N": splats, "D": d, "K": k, "R": queries * segments}


# TILE_K = 8 keeps tiles, lists and buffers within the 16 KiB of workgroup memory every adapter has.
def _count_rounds(dims: Dims, params: Mapping[str, Scalar]) -> int:
    segments = dims["R"] // max(dims["B"], 1)
    length = -(-dims["N"] // max(segments, 1))
    cosines = _rounds.tiles(dims["D"], _CONSTANTS)
    offers = _rounds.topk_offers(length, QUERIES, dims["K"], cosines)
    return offers + _rounds.loop(QUERIES)


KERNEL = Kernel(
    stem="similarity_topk",
    bindings=(
        Binding("x", "f32", ("B", "D")),
        Binding("mu", "f32", ("N", "D"), half=True),
        Binding("values", "f32", ("R", "K"), "out"),
        Binding("indices", "i32", ("R", "K"), "out"),
    ),
    constants=_CONSTANTS,
    workgroups=lambda dims, params: (
        -(-dims["B"] // QUERIES) * (dims["R"] // dims["B"]) if dims["B"] else 0
    ),
    derive=_derive,
    mirror=mirror,
    reference=reference,
    rounds=_count_rounds,
    comparable=_comparable,
    cases=(
        Case("odd, several blocks", _dims(7, 1001, 65, 37), _units, _cosines(65)),
        Case("d=641", _dims(2, 150, 641, 5), _units, _cosines(641)),
        Case("d8, K=128", _dims(3, 700, 8, 128), _units, _cosines(8)),
        Case("K=1, one query", _dims(1, 300, 16, 1), _units, _cosines(16)),
        Case("K=N", _dims(5, 67, 24, 67), _units, _cosines(24)),
        Case("one splat", _dims(2, 1, 9, 1), _units, _cosines(9)),
        Case("segments", _dims(5, 1003, 32, 33, segments=7), _units, _cosines(32)),
        Case("segments shorter than K", _dims(2, 50, 8, 20, segments=6), _units, _cosines(8)),
        Case("segments with ties, exact", _dims(6, 901, 12, 40, segments=4), _whole_numbers, EXACT),
        Case("ties, exact", _dims(9, 643, 8, 64), _whole_numbers, EXACT),
        Case("all equal", _dims(2, 400, 8, 100), _all_equal, EXACT),
        Case("ascending and descending, exact", _dims(2, 1500, 8, 128), _ascending, EXACT),
    ),
    work=lambda dims: Work(
        2.0 * dims["B"] * dims["N"] * dims["D"],
        4.0 * (dims["B"] * dims["D"] + dims["N"] * dims["D"] + 2 * dims["R"] * dims["K"]),
    ),
    speed_case=_dims(16, 50000, 640, 64, segments=64),
)
