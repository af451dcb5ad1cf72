"""The backward of `embedding`: grad_weight[v] = sum of grad_out[b] over all b with ids[b] = v.

0 for v = padding_index (-1 for none). `order` and `sorted_ids` are those of `token_order`, so that
the places of a token lie together: no float atomics, each sum has one owner and a fixed order. Work
is one bisection a token and one reading of grad_out; scanning all ids for each row of the weight
would take V B comparisons, 10^9 for 50,000 tokens and a batch of 16,384.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numba import njit

from ebm_wgpu.kernels import _rounds
from ebm_wgpu.kernels._cases import EPS32, normal
from ebm_wgpu.kernels._rows import WG
from ebm_wgpu.kernels.spec import (
    Array,
    Arrays,
    Binding,
    Case,
    Dims,
    Kernel,
    Param,
    Scalar,
    Tolerance,
    Work,
)
from ebm_wgpu.kernels.token_order import zipf_ids

ROWS = 8
"""Tokens of a workgroup: few, so that the frequent ones, often neighbours, are spread."""


@njit(cache=True)
def mirror(
    order: Array, sorted_ids: Array, grad_out: Array, padding_index: int, grad_weight: Array
) -> None:
    """Numba mirror."""
    grad_weight[:] = 0
    for place in range(order.shape[0]):
        token = sorted_ids[place]
        if token != padding_index and 0 <= token < grad_weight.shape[0]:
            for k in range(grad_out.shape[1]):
                grad_weight[token, k] += grad_out[order[place], k]


def reference(
    order: Array, sorted_ids: Array, grad_out: Array, padding_index: int, V: int
) -> Arrays:
    """Float64 reference."""
    grad_weight = np.zeros((V, grad_out.shape[1]))
    taken = (sorted_ids != padding_index) & (sorted_ids >= 0) & (sorted_ids < V)
    np.add.at(grad_weight, sorted_ids[taken], grad_out[order[taken]])
    return {"grad_weight": grad_weight}


def _inputs(rng: np.random.Generator, dims: Dims) -> Arrays:
    ids = zipf_ids(rng, dims)["ids"]
    if dims["B"] > 8:
        ids[:3] = [-5, dims["V"], dims["V"] + 3]
    order = np.argsort(ids, kind="stable").astype(np.int32)
    return {
        "order": order,
        "sorted_ids": ids[order],
        "grad_out": normal(rng, dims["B"], dims["D"]),
    }


def _case(name: str, vocabulary: int, columns: int, batch: int, padding: int) -> Case:
    tolerance = Tolerance(
        EPS32 * (2 + batch / 2),
        4 * EPS32,
        f"sums of at most {batch} unit normals: partial sums of size sqrt(j), each rounded",
    )
    dims = {"V": vocabulary, "D": columns, "B": batch}
    return Case(name, dims, _inputs, tolerance, {"padding_index": padding})


def _count_rounds(dims: Dims, params: Mapping[str, Scalar]) -> int:
    columns = _rounds.strided(dims["D"], WG, _rounds.loop(dims["B"]))
    # All rows together have B places, whichever row they belong to.
    others = _rounds.loop(ROWS - 1, _rounds.strided(dims["D"], WG, _rounds.loop(0)))
    return _rounds.loop(dims["B"].bit_length()) + others + columns


KERNEL = Kernel(
    stem="embedding_backward",
    bindings=(
        Binding("order", "i32", ("B",)),
        Binding("sorted_ids", "i32", ("B",)),
        Binding("grad_out", "f32", ("B", "D"), half=True),
        Binding("grad_weight", "f32", ("V", "D"), "out", half=True),
    ),
    params=(Param("padding_index", "i32"),),
    constants={"WG": WG, "ROWS": ROWS},
    workgroups=lambda dims, params: -(-dims["V"] // ROWS),
    mirror=mirror,
    reference=reference,
    rounds=_count_rounds,
    cases=(
        _case("odd", 43, 261, 119, -1),
        _case("padding", 17, 9, 60, 0),
        _case("one token", 1, 5, 3, -1),
        _case("no such padding", 8, 8, 1, 100),
    ),
    work=lambda dims: Work(1.0 * dims["B"] * dims["D"], 4.0 * dims["D"] * (dims["B"] + dims["V"])),
    speed_case={"V": 50257, "D": 640, "B": 16384},
)
