"""out[r, q] = number of entries of the sorted row r of `boundaries` below x[r, q].

With `right`, those equal to it count too: x would be inserted before or behind equal entries.
"""

from __future__ import annotations

import numpy as np

from ebm_wgpu.kernels._rows import WG, entries
from ebm_wgpu.kernels.spec import EXACT, Array, Arrays, Binding, Case, Dims, Kernel, Param


def reference(boundaries: Array, x: Array, right: int) -> Arrays:
    """NumPy's bisection."""
    side = "right" if right else "left"
    rows = [np.searchsorted(b, q, side) for b, q in zip(boundaries, x, strict=True)]  # type: ignore[call-overload]
    return {"out": np.stack(rows)}


def mirror(boundaries: Array, x: Array, right: int, out: Array) -> None:
    """The same."""
    out[:] = reference(boundaries, x, right)["out"]


def _draw(rng: np.random.Generator, dims: Dims) -> Arrays:
    rows = np.sort(rng.integers(-9, 9, (dims["R"], dims["N"])), 1)
    wanted = rng.integers(-11, 11, (dims["R"], dims["Q"])) / 2
    return {"boundaries": rows.astype(np.float32), "x": wanted.astype(np.float32)}


KERNEL = Kernel(
    stem="search_sorted",
    bindings=(
        Binding("boundaries", "f32", ("R", "N")),
        Binding("x", "f32", ("R", "Q")),
        Binding("out", "i32", ("R", "Q"), "out"),
    ),
    params=(Param("right", "u32"),),
    constants={"WG": WG},
    workgroups=entries("R", "Q"),
    mirror=mirror,
    reference=reference,
    cases=(
        Case("left", {"R": 3, "N": 77, "Q": 101}, _draw, EXACT, {"right": 0}),
        Case("right", {"R": 2, "N": 64, "Q": 50}, _draw, EXACT, {"right": 1}),
        Case("one boundary", {"R": 1, "N": 1, "Q": 7}, _draw, EXACT, {"right": 0}),
    ),
)
