"""out[b, i] = uniform in (0, 1): Philox stream `stream` of chain[b] at `step`, coordinate i.

Values are (m + 1/2) 2^-23 with m a 23-bit integer: the same bits on every device.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ebm_wgpu.kernels._philox import seeded, split_seed, uniform4, uniform_reference
from ebm_wgpu.kernels._philox_rows import PHILOX_FLOPS, philox_kernel
from ebm_wgpu.kernels.spec import EXACT, Array, Arrays


@seeded
@njit(cache=True, error_model="numpy")
def mirror(chain: Array, seed: int, step: int, stream: int, out: Array) -> None:
    """Numba mirror."""
    k0, k1 = split_seed(seed)
    for row in range(out.shape[0]):
        for i in range(0, out.shape[1], 4):
            values = uniform4(
                np.uint32(i // 4), np.uint32(step), np.uint32(chain[row]), np.uint32(stream), k0, k1
            )
            for lane in range(min(4, out.shape[1] - i)):
                out[row, i + lane] = values[lane]


def reference(chain: Array, D: int, seed: int, step: int, stream: int) -> Arrays:
    """Float64 reference."""
    return {"out": uniform_reference(chain, D, step, stream, seed)}


KERNEL = philox_kernel("philox_uniform", mirror, reference, EXACT, PHILOX_FLOPS)
