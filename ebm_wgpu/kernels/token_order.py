"""A stable sort of token ids: sorted_ids = ids[order], places of equal ids in rising order.

By counting, B^2 comparisons: for the B of a training step, up to some 50,000, that is less than the
gradient of one layer, takes no scratch memory, no atomics and no second pass, and gives the same
order in every run.
"""

from __future__ import annotations

import numpy as np

from ebm_wgpu.kernels import _rounds
from ebm_wgpu.kernels._rows import WG, entries
from ebm_wgpu.kernels.spec import EXACT, Array, Arrays, Binding, Case, Dims, Kernel, Work


def mirror(ids: Array, order: Array, sorted_ids: Array) -> None:
    """NumPy's stable sort, a radix sort."""
    order[:] = np.argsort(ids, kind="stable")
    sorted_ids[:] = ids[order]


def reference(ids: Array) -> Arrays:
    """Exact reference."""
    order = np.array(sorted(range(len(ids)), key=lambda place: (ids[place], place)))
    return {"order": order, "sorted_ids": ids[order]}


def zipf_ids(rng: np.random.Generator, dims: Dims) -> Arrays:
    """Ids of which a few are frequent and most are absent, as in text."""
    ids = np.floor(dims["V"] ** rng.random(dims["B"])).astype(np.int32) - 1
    return {"ids": ids}


def _any_ids(rng: np.random.Generator, dims: Dims) -> Arrays:
    ids = rng.integers(-(2**31), 2**31, dims["B"]).astype(np.int32)
    ids[::3] = ids[0]
    ids[-1], ids[1] = -(2**31), 2**31 - 1
    return {"ids": ids}


KERNEL = Kernel(
    stem="token_order",
    bindings=(
        Binding("ids", "i32", ("B",)),
        Binding("order", "i32", ("B",), "out"),
        Binding("sorted_ids", "i32", ("B",), "out"),
    ),
    constants={"WG": WG},
    workgroups=entries("B"),
    mirror=mirror,
    reference=reference,
    rounds=lambda dims, params: _rounds.strided(dims["B"], WG, _rounds.loop(WG)),
    cases=(
        Case("all kinds of ids", {"B": 517}, _any_ids, EXACT),
        Case(
            "all equal",
            {"B": 256},
            lambda rng, dims: {"ids": np.full(dims["B"], 7, np.int32)},
            EXACT,
        ),
        Case("one", {"B": 1}, lambda rng, dims: {"ids": np.zeros(1, np.int32)}, EXACT),
    ),
    work=lambda dims: Work(3.0 * dims["B"] ** 2, 12.0 * dims["B"]),
    speed_case={"B": 16384},
)
