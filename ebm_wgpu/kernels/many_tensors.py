"""x_t <- x_t * number, or x_t + number, for TENSORS flat tensors; the number is on the device.

For clipped gradients, scaled losses and counts of steps: all tensors of a model in few launches.
Where there are fewer tensors, the others are arrays of one entry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ebm_wgpu.kernels._cases import EPS32
from ebm_wgpu.kernels._keywords import ByKeyword
from ebm_wgpu.kernels._many import NAMES, TENSORS, drawn, sizes, total
from ebm_wgpu.kernels._rows import WG
from ebm_wgpu.kernels.spec import Arrays, Binding, Case, Dims, Kernel, Scalar, Tolerance, Work

_SHARE = 4 * WG


def _inputs(rng: np.random.Generator, dims: Dims) -> Arrays:
    return drawn(rng, dims) | {"number": rng.uniform(0.2, 0.9, 1).astype(np.float32)}


def _groups(dims: Dims, params: Mapping[str, Scalar]) -> int:
    return sum(-(-dims[f"N{t}"] // _SHARE) for t in range(TENSORS))


def _kernel(member: str, sign: str, function: Callable[..., Any], tolerance: Tolerance) -> Kernel:
    def mirror(values: Mapping[str, Any]) -> None:
        for name in NAMES:
            function(values[name], values["number"][0], out=values[name])

    def reference(values: Mapping[str, Any]) -> Arrays:
        return {name: function(values[name], values["number"][0]) for name in NAMES}

    return Kernel(
        stem=f"many_tensors_{member}",
        source="many_tensors",
        defines={"SIGN": sign},
        bindings=(
            *(Binding(name, "f32", (f"N{t}",), "inout", half=True) for t, name in enumerate(NAMES)),
            Binding("number", "f32", (1,)),
        ),
        constants={"WG": WG, "TENSORS": TENSORS},
        workgroups=_groups,
        mirror=ByKeyword(mirror, (*NAMES, "number")),
        reference=ByKeyword(reference, (*NAMES, "number")),
        cases=(
            Case("odd", sizes(2305, 1, 1024, 7), _inputs, tolerance),
            Case("all", sizes(*range(3, 3 + TENSORS)), _inputs, tolerance),
        ),
        work=lambda dims: Work(1.0 * total(dims), 8.0 * total(dims)),
        speed_case=sizes(1 << 24, 1 << 20, 640, 1 << 20),
    )


KERNELS = (
    _kernel("scale", "*", np.multiply, Tolerance(0.0, EPS32, "one product")),
    _kernel("shift", "+", np.add, Tolerance(0.0, EPS32, "one sum of two float32 numbers")),
)
