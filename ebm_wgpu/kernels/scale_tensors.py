"""x_t <- factor x_t for TENSORS flat tensors; the factor is one number on the device.

For clipped gradients and scaled losses: all parameters of a model in few launches. Where there are
fewer tensors, the others are arrays of one entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ebm_wgpu.kernels._cases import EPS32
from ebm_wgpu.kernels._keywords import ByKeyword
from ebm_wgpu.kernels._many import NAMES, TENSORS, drawn, sizes, total
from ebm_wgpu.kernels._rows import WG
from ebm_wgpu.kernels.spec import Arrays, Binding, Case, Dims, Kernel, Scalar, Tolerance, Work

_SHARE = 4 * WG


def _mirror(values: Mapping[str, Any]) -> None:
    for name in NAMES:
        np.multiply(values[name], values["factor"][0], out=values[name])


def _reference(values: Mapping[str, Any]) -> Arrays:
    return {name: values[name] * values["factor"][0] for name in NAMES}


def _inputs(rng: np.random.Generator, dims: Dims) -> Arrays:
    return drawn(rng, dims) | {"factor": rng.uniform(0.2, 0.9, 1).astype(np.float32)}


def _groups(dims: Dims, params: Mapping[str, Scalar]) -> int:
    return sum(-(-dims[f"N{t}"] // _SHARE) for t in range(TENSORS))


_TOLERANCE = Tolerance(0.0, EPS32, "one product")

KERNEL = Kernel(
    stem="scale_tensors",
    bindings=(
        *(Binding(name, "f32", (f"N{t}",), "inout", half=True) for t, name in enumerate(NAMES)),
        Binding("factor", "f32", (1,)),
    ),
    constants={"WG": WG, "TENSORS": TENSORS},
    workgroups=_groups,
    mirror=ByKeyword(_mirror, (*NAMES, "factor")),
    reference=ByKeyword(_reference, (*NAMES, "factor")),
    cases=(
        Case("odd", sizes(2305, 1, 1024, 7), _inputs, _TOLERANCE),
        Case("all", sizes(*range(3, 3 + TENSORS)), _inputs, _TOLERANCE),
    ),
    work=lambda dims: Work(1.0 * total(dims), 8.0 * total(dims)),
    speed_case=sizes(1 << 24, 1 << 20, 640, 1 << 20),
)
