"""partials[first + t, p] = sum of x_t^2 over part p of x_t, for up to TENSORS flat tensors.

A tensor has as many parts as keep a workgroup busy each, at most P, and zeros in the other places
of its row. So a row sums to a tensor's square norm, in two stages with a fixed order. Rows beyond
the last of `partials` are left out, so that a launch may bring fewer tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numba import njit

from ebm_wgpu.errors import KernelError
from ebm_wgpu.kernels import _rounds
from ebm_wgpu.kernels._cases import EPS32, normal
from ebm_wgpu.kernels._keywords import ByKeyword
from ebm_wgpu.kernels._many import NAMES, TENSORS, drawn, sizes, total
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

PARTS = 256
"""A width of `partials` that keeps a GPU busy with one tensor alone."""
_SHARE = 16 * WG


def _parts(size: int, most: int) -> int:
    return max(1, min(most, -(-size // _SHARE)))


@njit(cache=True, fastmath={"reassoc", "contract"})
def _sum(x: Array) -> np.float32:
    total = np.float32(0)
    for i in range(x.shape[0]):
        total += x[i] * x[i]
    return total


def _fill(values: Mapping[str, Any], partials: Array) -> None:
    """Sums of the tensors' parts, in the type of `partials`."""
    for row, name in enumerate(NAMES[: len(partials) - values["first"]], values["first"]):
        x = values[name]
        count = _parts(len(x), partials.shape[1])
        step = -(-len(x) // count)
        partials[row] = 0
        for part in range(count):
            piece = x[part * step : (part + 1) * step]
            partials[row, part] = _sum(piece) if x.dtype == np.float32 else np.sum(piece**2)


def _mirror(values: Mapping[str, Any]) -> None:
    _fill(values, values["partials"])


def _reference(values: Mapping[str, Any]) -> Arrays:
    result = values["partials"].copy()
    _fill(values, result)
    return {"partials": result}


def _derive(dims: dict[str, int], params: Mapping[str, Scalar]) -> dict[str, int]:
    if params["first"] >= dims["R"]:
        raise KernelError(
            f"kernel square_sums: row {params['first']} does not lie in an array of {dims['R']}"
        )
    return {}


def _used(dims: Dims, params: Mapping[str, Scalar]) -> list[int]:
    return [dims[f"N{t}"] for t in range(min(TENSORS, dims["R"] - int(params["first"])))]


def _groups(dims: Dims, params: Mapping[str, Scalar]) -> int:
    return sum(_parts(size, dims["P"]) for size in _used(dims, params))


def _loops(dims: Dims, params: Mapping[str, Scalar]) -> int:
    longest = max(-(-size // _parts(size, dims["P"])) for size in _used(dims, params))
    others = TENSORS * (_rounds.loop(0) + _rounds.loop(0))
    return (
        _rounds.strided(longest, WG)
        + _rounds.strided(dims["P"], WG)
        + others
        + _rounds.reduction(WG)
    )


def _inputs(rng: np.random.Generator, dims: Dims) -> Arrays:
    return drawn(rng, dims) | {"partials": normal(rng, dims["R"], dims["P"])}


def _case(name: str, given: tuple[int, ...], rows: int, parts: int, first: int) -> Case:
    most = max(-(-size // _parts(size, parts)) for size in given)
    tolerance = Tolerance(0.0, EPS32 * (4 + most**0.5), "a sum of positive numbers in blocks")
    dims = sizes(*given) | {"R": rows, "P": parts}
    return Case(name, dims, _inputs, tolerance, {"first": first})


KERNEL = Kernel(
    stem="square_sums",
    bindings=(
        *(Binding(name, "f32", (f"N{t}",), half=True) for t, name in enumerate(NAMES)),
        Binding("partials", "f32", ("R", "P"), "inout"),
    ),
    params=(Param("first", "u32"),),
    constants={"WG": WG, "TENSORS": TENSORS, "SHARE": _SHARE},
    workgroups=_groups,
    derive=_derive,
    mirror=ByKeyword(_mirror, (*NAMES, "partials", "first")),
    reference=ByKeyword(_reference, (*NAMES, "partials", "first")),
    rounds=_loops,
    subgroup=True,
    cases=(
        _case("odd", (8209, 1, 4097, 300), 6, 5, 2),
        _case("all", tuple(range(1, 2 * TENSORS, 2)), TENSORS, 3, 0),
        _case("parts that are long", (12_301, 7), 2, 2, 0),
        _case("the last row", (5,), 3, 1, 2),
    ),
    work=lambda dims: Work(2.0 * total(dims), 4.0 * total(dims)),
    speed_case=sizes(1 << 24, 1 << 20, 640, 1 << 20) | {"R": TENSORS + 2, "P": PARTS},
)
