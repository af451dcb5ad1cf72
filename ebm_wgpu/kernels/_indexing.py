"""What `take` and `put` share: bindings, the grid, drawn indices and shapes of the case tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from ebm_wgpu.kernels._keywords import ByKeyword
from ebm_wgpu.kernels.pointwise import GRID, grid_view, placement
from ebm_wgpu.kernels.spec import (
    DTYPES,
    EXACT,
    Array,
    Arrays,
    Binding,
    Case,
    Dims,
    Kernel,
    Param,
    Scalar,
)

NAMES = ("out", "index", "x")
WG = 256
PARAMETERS = (*GRID, *(p for name in NAMES for p in placement(name)), "size", "step")
Move = Callable[[Array, Array, Array, Array, int], None]
"""(out, x, places, valid, step): the work of one kernel on views of the grid."""


def places(values: Mapping[str, Any], array: str) -> tuple[Array, Array]:
    """The entries of a flat array that the indices name, and which indices name one."""
    count = values[array].size
    positions = grid_view(np.arange(count), array, values)
    index = grid_view(values["index"].reshape(-1), "index", values).astype(np.int64)
    size, step = int(values["size"]), int(values["step"])
    at = np.where(index < 0, index + size, index)
    valid = (at >= 0) & (at < size)
    return positions + np.where(valid, at, 0) * step, valid


def _case(
    name: str,
    kind: Literal["f32", "i32"],
    params: dict[str, Scalar],
    needed: Mapping[str, int],
    draw: Callable[[np.random.Generator, int], Array],
) -> Case:
    def inputs(rng: np.random.Generator, dims: Dims) -> Arrays:
        x = rng.integers(-(2**31), 2**31, needed["x"])
        return {
            "out": np.full(needed["out"], 7, DTYPES[kind]),
            "index": draw(rng, needed["index"]).astype(np.int32),
            "x": (x / 2**30 if kind == "f32" else x).astype(DTYPES[kind]),
        }

    return Case(name, {}, inputs, EXACT, params)


def cases(kind: Literal["f32", "i32"], indexed: Literal["x", "out"]) -> tuple[Case, ...]:
    """The case table.

    Args:
        kind: type of the entries.
        indexed: the array that the indices reach into; they are distinct where it is written.
    """
    other = "out" if indexed == "x" else "x"
    flat: dict[str, Scalar] = dict(zip(GRID, (601, 0, 1, 1, 1), strict=True))
    flat |= dict(zip(placement(indexed), (3, 0, 0, 0, 0), strict=True))
    flat |= dict(zip(placement("index"), (2, 0, 0, 0, 1), strict=True))
    flat |= dict(zip(placement(other), (1, 0, 0, 0, 1), strict=True))
    flat |= {"size": 999, "step": 2}

    def distinct(rng: np.random.Generator, count: int) -> Array:
        chosen = rng.permutation(1200)[:count]
        return np.where((chosen % 3 == 0) & (chosen < 999), chosen - 999, chosen)

    def any_index(rng: np.random.Generator, count: int) -> Array:
        chosen = rng.integers(-1100, 1100, count)
        chosen[:3] = [-(2**31), 2**31 - 1, 0]
        return chosen

    strided: dict[str, Scalar] = dict(zip(GRID, (210, 4, 2, 5, 7), strict=True))
    strided |= dict(zip(placement(indexed), (4, 70, 0, 7, 1), strict=True))
    strided |= dict(zip(placement("index"), (1, 0, 1, 0, 0), strict=True))
    strided |= dict(zip(placement(other), (0, 1, 3, 6, 31), strict=True))
    strided |= {"size": 2, "step": 35}
    return (
        _case(
            "one row",
            kind,
            flat,
            {indexed: 2100, "index": 603, other: 610},
            any_index if indexed == "x" else distinct,
        ),
        _case(
            "strided",
            kind,
            strided,
            {indexed: 230, "index": 3, other: 240},
            lambda rng, count: np.array([0, 1, -2])[:count],
        ),
    )


def kernel(
    family: Literal["take", "put"],
    kind: Literal["f32", "i32"],
    function: Callable[[Mapping[str, Any]], Array],
    defines: Mapping[str, str],
) -> Kernel:
    """The kernel for entries of one type; function(values) -> the array `out`, updated."""
    names = (*NAMES, *PARAMETERS)

    def mirror(values: Mapping[str, Any]) -> None:
        values["out"][...] = function(values)

    def reference(values: Mapping[str, Any]) -> Arrays:
        return {"out": function(values)}

    whole: tuple[Literal["u32"], ...] = ("u32",) if kind == "i32" else ()
    half = kind == "f32"
    return Kernel(
        stem=f"{family}_{'float' if half else 'int'}",
        source=family,
        defines=defines,
        bindings=(
            Binding("out", kind, ("*",), "inout", half=half, also=whole),
            Binding("index", "i32", ("*",)),
            Binding("x", kind, ("*",), half=half, also=whole),
        ),
        params=tuple(Param(name, "u32") for name in PARAMETERS),
        constants={"WG": WG, "NAN_BITS": 0x7FC00000},
        workgroups=lambda dims, params: -(-int(params["count"]) // WG),
        mirror=ByKeyword(mirror, names),
        reference=ByKeyword(reference, names),
        cases=cases(kind, "x" if family == "take" else "out"),
    )
