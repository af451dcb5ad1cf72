"""out[b, i] = standard normal: Philox stream `stream` of chain[b] at `step`, coordinate i.

Box and Muller's transform of `philox_uniform`: lanes (0, 1) and (2, 3) of each block of four are
sqrt(-2 log u0) (cos, sin)(2 pi u1). The largest possible value is sqrt(48 log 2) = 5.77.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ebm_wgpu.kernels._cases import EPS32
from ebm_wgpu.kernels._philox import fill_normal, normal_reference, seeded, split_seed
from ebm_wgpu.kernels._philox_rows import PHILOX_FLOPS, philox_kernel
from ebm_wgpu.kernels.spec import Array, Arrays, Tolerance

_TOLERANCE = Tolerance(
    6 * EPS32,
    4 * EPS32,
    "a radius of at most 5.8 times the absolute error of sine and cosine, one eps; roundings",
)


@seeded
@njit(cache=True)
def mirror(chain: Array, seed: int, step: int, stream: int, out: Array) -> None:
    """Numba mirror."""
    k0, k1 = split_seed(seed)
    for row in range(out.shape[0]):
        fill_normal(out[row], np.uint32(step), np.uint32(chain[row]), np.uint32(stream), k0, k1)


def reference(chain: Array, D: int, seed: int, step: int, stream: int) -> Arrays:
    """Float64 reference."""
    return {"out": normal_reference(chain, D, step, stream, seed)}


KERNEL = philox_kernel("philox_normal", mirror, reference, _TOLERANCE, PHILOX_FLOPS + 25)
