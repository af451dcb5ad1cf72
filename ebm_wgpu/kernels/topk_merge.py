"""The K best of each query's candidates (values, indices), best first.

R = B S rows of C candidates: rows b S to (b+1) S - 1 belong to query b. Equal values are ordered by
the lower index, NaN comes last, a negative index means no candidate. The indices of a query's
candidates are distinct. Where fewer than K candidates exist, index -1 and value NaN fill up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numba import njit

from ebm_wgpu.errors import KernelError
from ebm_wgpu.kernels import _rounds, _topk
from ebm_wgpu.kernels.spec import EXACT, Array, Arrays, Binding, Case, Dims, Kernel, Scalar, Work


@njit(cache=True)
def _merge(bits: Array, candidates: Array, keys: Array, indices: Array) -> None:
    for row in range(bits.shape[0]):
        for i in range(bits.shape[1]):
            if candidates[row, i] >= 0:
                key = _topk.sort_key(bits[row, i])
                _topk.offer_key(key, candidates[row, i], keys[row], indices[row])


def mirror(
    candidate_values: Array, candidate_indices: Array, values: Array, indices: Array
) -> None:
    """Insertion into sorted lists by Numba."""
    n_queries = len(values)
    keys = np.empty_like(indices)
    _topk.start(keys, indices)
    _merge(
        candidate_values.view(np.int32).reshape(n_queries, -1),
        candidate_indices.reshape(n_queries, -1),
        keys,
        indices,
    )
    _topk.decode(keys, values.view(np.int32))


def reference(candidate_values: Array, candidate_indices: Array, B: int, K: int) -> Arrays:
    """Float64 reference."""
    values, indices = _topk.reference_best(
        candidate_values.reshape(B, -1), candidate_indices.reshape(B, -1), K
    )
    return {"values": values, "indices": indices}


def _derive(dims: dict[str, int], params: Mapping[str, Scalar]) -> dict[str, int]:
    for name in ("B", "K"):
        if name not in dims:
            raise KernelError(f"kernel topk_merge: {name} is missing; queries are B, results K")
    _topk.check_count("topk_merge", dims["K"])
    if dims["B"] < 1 or dims["R"] % dims["B"]:
        raise KernelError(
            f"kernel topk_merge: {dims['R']} rows of candidates do not divide among B={dims['B']}"
        )
    return {}


def _candidates(
    levels: int, missing: float = 0.0, nan: float = 0.0
) -> Callable[[np.random.Generator, Dims], Arrays]:
    """Shuffled distinct indices; values of few levels, so that they tie; some missing, some NaN."""

    def draw(rng: np.random.Generator, dims: Dims) -> Arrays:
        queries = dims["B"]
        count = dims["R"] * dims["C"] // queries
        indices = np.stack([rng.permutation(3 * count)[:count] for _ in range(queries)])
        indices[rng.random(indices.shape) < missing] = -1
        values = rng.integers(-levels, levels + 1, indices.shape) / levels
        values[rng.random(values.shape) < nan] = np.nan
        shape = dims["R"], dims["C"]
        return {
            "candidate_values": values.astype(np.float32).reshape(shape),
            "candidate_indices": indices.astype(np.int32).reshape(shape),
        }

    return draw


def _extremes(rng: np.random.Generator, dims: Dims) -> Arrays:
    special = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, 1e-45, -1e-45, 3e38], np.float32)
    values = rng.choice(special, (dims["R"], dims["C"]))
    indices = np.arange(values.size, dtype=np.int32).reshape(values.shape)
    return {"candidate_values": values, "candidate_indices": indices}


KERNEL = Kernel(
    stem="topk_merge",
    bindings=(
        Binding("candidate_values", "f32", ("R", "C")),
        Binding("candidate_indices", "i32", ("R", "C")),
        Binding("values", "f32", ("B", "K"), "out"),
        Binding("indices", "i32", ("B", "K"), "out"),
    ),
    constants={"WG": 128, "TOPK_STREAMS": 1},
    workgroups=lambda dims, params: dims["B"],
    derive=_derive,
    mirror=mirror,
    reference=reference,
    rounds=lambda dims, params: _rounds.topk_offers(
        dims["R"] // max(dims["B"], 1) * dims["C"], 1, dims["K"]
    ),
    cases=(
        Case("odd", {"R": 35, "C": 37, "B": 5, "K": 37}, _candidates(10**6), EXACT),
        Case("ties", {"R": 12, "C": 100, "B": 3, "K": 128}, _candidates(3), EXACT),
        Case("K=1", {"R": 4, "C": 33, "B": 4, "K": 1}, _candidates(5), EXACT),
        Case(
            "missing and NaN", {"R": 6, "C": 50, "B": 2, "K": 60}, _candidates(9, 0.3, 0.4), EXACT
        ),
        Case("fewer than K", {"R": 2, "C": 9, "B": 2, "K": 20}, _candidates(9, 0.3), EXACT),
        Case("infinities, zeros, tiny, NaN", {"R": 4, "C": 16, "B": 1, "K": 64}, _extremes, EXACT),
    ),
    work=lambda dims: Work(
        float(dims["R"] * dims["C"]), 8.0 * (dims["R"] * dims["C"] + dims["B"] * dims["K"])
    ),
    speed_case={"R": 1024, "C": 64, "B": 16, "K": 64},
)
