"""partials[first + g] = sum of x^2 over part g of `count` equal parts of x; the rest stays.

Every tensor of a gradient writes its own stretch of one array, from which `clip_factor` makes the
norm of all: two stages with a fixed order, nothing read back.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numba import njit

from ebm_wgpu.errors import KernelError
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

_ENTRIES, _MOST = 16 * WG, 256


def square_parts(size: int) -> int:
    """The number of parts for a tensor of `size` entries."""
    return max(1, min(_MOST, -(-size // _ENTRIES)))


@njit(cache=True, fastmath={"reassoc", "contract"})
def mirror(x: Array, partials: Array, first: int, count: int) -> None:
    """Numba mirror."""
    step = -(-x.shape[0] // count)
    for part in range(count):
        total = np.float32(0)
        for i in range(part * step, min((part + 1) * step, x.shape[0])):
            total += x[i] * x[i]
        partials[first + part] = total


def reference(x: Array, partials: Array, first: int, count: int) -> Arrays:
    """Float64 reference."""
    step = -(-len(x) // count)
    result = partials.copy()
    for part in range(count):
        result[first + part] = np.sum(x[part * step : (part + 1) * step] ** 2)
    return {"partials": result}


def _derive(dims: dict[str, int], params: Mapping[str, Scalar]) -> dict[str, int]:
    first, count = int(params["first"]), int(params["count"])
    if count < 1 or first + count > dims["S"]:
        raise KernelError(
            f"kernel square_sums: parts {first} to {first + count - 1} do not fit in an array of "
            f"{dims['S']}"
        )
    return {}


def _inputs(rng: np.random.Generator, dims: Dims) -> Arrays:
    return {"x": normal(rng, dims["N"]), "partials": normal(rng, dims["S"])}


def _case(name: str, size: int, room: int, first: int, count: int) -> Case:
    tolerance = Tolerance(
        0.0, EPS32 * (4 + (size / count) ** 0.5), "a sum of positive numbers in blocks"
    )
    params: dict[str, Scalar] = {"first": first, "count": count}
    return Case(name, {"N": size, "S": room}, _inputs, tolerance, params)


KERNEL = Kernel(
    stem="square_sums",
    bindings=(
        Binding("x", "f32", ("N",), half=True),
        Binding("partials", "f32", ("S",), "inout"),
    ),
    params=(Param("first", "u32"), Param("count", "u32")),
    constants={"WG": WG},
    workgroups=lambda dims, params: int(params["count"]),
    derive=_derive,
    mirror=mirror,
    reference=reference,
    rounds=lambda dims, params: (
        _rounds.strided(-(-dims["N"] // int(params["count"])), WG) + _rounds.reduction(WG)
    ),
    subgroup=True,
    cases=(
        _case("many parts", 8209, 300, 7, 256),
        _case("long parts", 4099, 7, 2, 3),
        _case("one", 1, 1, 0, 1),
        _case("parts without entries", 5, 4, 0, 4),
    ),
    work=lambda dims: Work(2.0 * dims["N"], 4.0 * dims["N"]),
    speed_case={"N": 1 << 24, "S": 1024},
)
