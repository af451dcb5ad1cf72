"""out[b, i] = standard normal: Philox stream `stream` of chain[b] at `step`, coordinate i.

Box and Muller's transform of `philox_uniform`: lanes (0, 1) and (2, 3) of each block of four are
sqrt(-2 log u0) (cos, sin)(2 pi u1). The largest possible value is sqrt(48 log 2) = 5.77.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ebm_wgpu.kernels._cases import EPS32
from ebm_wgpu.kernels._philox import U32, fill_normal, normal_reference, split_seed
from ebm_wgpu.kernels.philox_uniform import PHILOX_FLOPS, chain_numbers
from ebm_wgpu.kernels.spec import Array, Arrays, Binding, Case, Kernel, Param, Tolerance, Work

_TOLERANCE = Tolerance(
    6 * EPS32,
    4 * EPS32,
    "a radius of at most 5.8 times the absolute error of sine and cosine, one eps; roundings",
)


@njit(cache=True)
def _rows(chain: Array, seed: np.uint64, step: U32, stream: U32, out: Array) -> None:
    k0, k1 = split_seed(seed)
    for row in range(out.shape[0]):
        fill_normal(out[row], step, np.uint32(chain[row]), stream, k0, k1)


def mirror(chain: Array, seed: int, step: int, stream: int, out: Array) -> None:
    """Numba mirror."""
    _rows(chain, np.uint64(seed), np.uint32(step), np.uint32(stream), out)


def reference(chain: Array, D: int, seed: int, step: int, stream: int) -> Arrays:
    """Float64 reference."""
    return {"out": normal_reference(chain, D, step, stream, seed)}


KERNEL = Kernel(
    stem="philox_normal",
    bindings=(Binding("chain", "i32", ("B",)), Binding("out", "f32", ("B", "D"), "out")),
    params=(Param("seed", "u64"), Param("step", "u32"), Param("stream", "u32")),
    workgroups=lambda dims, params: -(-dims["B"] * -(-dims["D"] // 4) // 64),
    mirror=mirror,
    reference=reference,
    cases=(
        Case(
            "odd",
            {"B": 7, "D": 641},
            chain_numbers,
            _TOLERANCE,
            {"seed": 0x0123456789ABCDEF, "step": 17, "stream": 0},
        ),
        Case(
            "three coordinates",
            {"B": 1, "D": 3},
            chain_numbers,
            _TOLERANCE,
            {"seed": 0, "step": 0, "stream": 1},
        ),
        Case(
            "many rows",
            {"B": 2048, "D": 8},
            chain_numbers,
            _TOLERANCE,
            {"seed": 2**64 - 1, "step": 2**32 - 1, "stream": 3},
        ),
    ),
    work=lambda dims: Work(
        (PHILOX_FLOPS + 25.0) * dims["B"] * dims["D"], 4.0 * dims["B"] * dims["D"]
    ),
    speed_case={"B": 65536, "D": 640},
)
