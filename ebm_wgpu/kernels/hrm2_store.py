"""mu[slots[b]] = rows[b] and ids[slots[b]] = row_ids[b]; a slot outside 0 .. M - 1 takes nothing.

The way rows get into the pages of a hierarchical index. No slot may be named twice.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ebm_wgpu.kernels._cases import normal
from ebm_wgpu.kernels._rows import WG, entries
from ebm_wgpu.kernels.spec import EXACT, Array, Arrays, Binding, Case, Dims, Kernel, Work


@njit(cache=True)
def mirror(rows: Array, slots: Array, row_ids: Array, mu: Array, ids: Array) -> None:
    """Numba mirror."""
    for row in range(slots.shape[0]):
        slot = slots[row]
        if 0 <= slot < mu.shape[0]:
            mu[slot] = rows[row]
            ids[slot] = row_ids[row]


def reference(rows: Array, slots: Array, row_ids: Array, mu: Array, ids: Array) -> Arrays:
    """Float64 reference."""
    inside = (slots >= 0) & (slots < len(mu))
    mu, ids = mu.copy(), ids.copy()
    mu[slots[inside]] = rows[inside]
    ids[slots[inside]] = row_ids[inside]
    return {"mu": mu, "ids": ids}


def _inputs(rng: np.random.Generator, dims: Dims) -> Arrays:
    slots = rng.permutation(max(dims["M"], dims["B"]))[: dims["B"]]
    return {
        "rows": normal(rng, dims["B"], dims["D"]),
        "slots": slots.astype(np.int32),
        "row_ids": rng.integers(0, 2**31 - 1, dims["B"]).astype(np.int32),
        "mu": normal(rng, dims["M"], dims["D"]),
        "ids": np.full(dims["M"], -1, np.int32),
    }


def _outside(rng: np.random.Generator, dims: Dims) -> Arrays:
    arrays = _inputs(rng, dims)
    arrays["slots"][:4] = [-1, dims["M"], 2**31 - 1, -(2**31)]
    return arrays


KERNEL = Kernel(
    stem="hrm2_store",
    bindings=(
        Binding("rows", "f32", ("B", "D"), half=True),
        Binding("slots", "i32", ("B",)),
        Binding("row_ids", "i32", ("B",)),
        Binding("mu", "f32", ("M", "D"), "inout", half=True),
        Binding("ids", "i32", ("M",), "inout"),
    ),
    constants={"WG": WG},
    workgroups=entries("B", "D"),
    mirror=mirror,
    reference=reference,
    cases=(
        Case("odd", {"B": 29, "D": 131, "M": 37}, _inputs, EXACT),
        Case("d8, one row", {"B": 1, "D": 8, "M": 5}, _inputs, EXACT),
        Case("every slot", {"B": 33, "D": 9, "M": 33}, _inputs, EXACT),
        Case("slots that are none", {"B": 7, "D": 12, "M": 9}, _outside, EXACT),
    ),
    work=lambda dims: Work(0.0, 8.0 * dims["B"] * (dims["D"] + 1)),
    speed_case={"B": 20000, "D": 640, "M": 40000},
)
