"""out = x: its rate is the copy bandwidth that speed mode compares memory-bound kernels with."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from ebm_wgpu.kernels._cases import normal
from ebm_wgpu.kernels.spec import EXACT, Array, Arrays, Binding, Case, Dims, Kernel, Work

WG = 256


@njit(parallel=True, cache=True)
def mirror(x: Array, out: Array) -> None:
    """Numba mirror."""
    for i in prange(x.shape[0]):
        out[i] = x[i]


def reference(x: Array) -> Arrays:
    """Float64 reference."""
    return {"out": x}


def _inputs(rng: np.random.Generator, dims: Dims) -> Arrays:
    return {"x": normal(rng, dims["N"])}


KERNEL = Kernel(
    stem="probe_copy",
    bindings=(Binding("x", "f32", ("N",)), Binding("out", "f32", ("N",), "out")),
    workgroups=lambda dims, params: -(-dims["N"] // (4 * WG)),
    mirror=mirror,
    reference=reference,
    constants={"WG": WG},
    cases=(
        Case("odd", {"N": 4099}, _inputs, EXACT),
        Case("one", {"N": 1}, _inputs, EXACT),
    ),
    work=lambda dims: Work(0.0, 8.0 * dims["N"]),
    speed_case={"N": 1 << 24},
)
