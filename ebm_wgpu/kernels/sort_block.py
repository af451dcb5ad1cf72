"""Bitonic merges of `first`, 2 first, ..., `last` entries within blocks of 1024.

Of a larger merge these are the steps whose pairs are less than 1024 apart; with first = 2 they are
a sort of each block, upwards and downwards in turn.
"""

from __future__ import annotations

from ebm_wgpu.kernels import _bitonic
from ebm_wgpu.kernels.spec import EXACT, Array, Arrays, Binding, Case, Kernel, Param

WG = 256
BLOCK = 1024


def mirror(keys: Array, order: Array, first: int, last: int) -> None:
    """The same steps in NumPy."""
    merge = first
    while merge <= last:
        apart = min(merge, BLOCK) // 2
        while apart:
            _bitonic.step(keys, order, merge, apart)
            apart //= 2
        merge *= 2


def reference(keys: Array, order: Array, first: int, last: int) -> Arrays:
    """The same steps on copies."""
    outputs = {"keys": keys.copy(), "order": order.copy()}
    mirror(**outputs, first=first, last=last)
    return outputs


def _case(name: str, rows: int, width: int, first: int, last: int) -> Case:
    dims, params = {"R": rows, "P": width}, {"first": first, "last": last}
    return Case(name, dims, _bitonic.draw, EXACT, params)


KERNEL = Kernel(
    stem="sort_block",
    bindings=(
        Binding("keys", "i32", ("R", "P"), "inout"),
        Binding("order", "i32", ("R", "P"), "inout"),
    ),
    params=(Param("first", "u32"), Param("last", "u32")),
    constants={"WG": WG, "BLOCK": BLOCK},
    workgroups=lambda dims, params: -(-dims["R"] * dims["P"] // BLOCK),
    mirror=mirror,
    reference=reference,
    cases=(
        _case("short rows", 77, 32, 2, 32),
        _case("blocks of a long row", 2, 4096, 2, 1024),
        _case("end of a long merge", 2, 4096, 2048, 2048),
        _case("one entry a row", 5, 1, 2, 1),
    ),
)
