"""One step of a bitonic merge of `merge` entries: pairs `apart` from each other are compared."""

from __future__ import annotations

from ebm_wgpu.kernels import _bitonic
from ebm_wgpu.kernels._rows import WG
from ebm_wgpu.kernels.spec import EXACT, Array, Arrays, Binding, Case, Kernel, Param


def mirror(keys: Array, order: Array, merge: int, apart: int) -> None:
    """The same step in NumPy."""
    _bitonic.step(keys, order, merge, apart)


def reference(keys: Array, order: Array, merge: int, apart: int) -> Arrays:
    """The same step on copies."""
    outputs = {"keys": keys.copy(), "order": order.copy()}
    mirror(**outputs, merge=merge, apart=apart)
    return outputs


KERNEL = Kernel(
    stem="sort_step",
    bindings=(
        Binding("keys", "i32", ("R", "P"), "inout"),
        Binding("order", "i32", ("R", "P"), "inout"),
    ),
    params=(Param("merge", "u32"), Param("apart", "u32")),
    constants={"WG": WG},
    workgroups=lambda dims, params: -(-dims["R"] * dims["P"] // (2 * WG)),
    mirror=mirror,
    reference=reference,
    cases=(
        Case("far", {"R": 3, "P": 4096}, _bitonic.draw, EXACT, {"merge": 2048, "apart": 1024}),
        Case("last merge", {"R": 1, "P": 256}, _bitonic.draw, EXACT, {"merge": 256, "apart": 128}),
        Case("neighbours", {"R": 5, "P": 8}, _bitonic.draw, EXACT, {"merge": 4, "apart": 1}),
    ),
)
