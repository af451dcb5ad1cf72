"""out[b, i] = low + floor(w span / 2^64): whole numbers of a range, from 64-bit words w of Philox.

Coordinate i of a row is made of lanes (0, 1) or (2, 3) of block i // 2, the upper word first. No
number's probability differs from 1 / span by more than 2^-64. A span of 2^32 is passed as 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from ebm_wgpu.kernels._philox import U32, philox4x32, philox_reference, seeded, split_seed
from ebm_wgpu.kernels._philox_rows import PHILOX_FLOPS, philox_kernel
from ebm_wgpu.kernels.spec import EXACT, Array, Arrays, Param

_SHIFT = np.uint64(32)


@njit(cache=True, error_model="numpy", forceinline=True)
def _scaled(upper: U32, lower: U32, size: Any) -> Any:
    """floor(w size / 2^64) of the 64-bit word w of two 32-bit ones."""
    carry = (np.uint64(lower) * size) >> _SHIFT
    return np.int64((np.uint64(upper) * size + carry) >> _SHIFT)


@seeded
@njit(cache=True, error_model="numpy")
def mirror(
    chain: Array, seed: int, step: int, stream: int, span: int, low: int, out: Array
) -> None:
    """Numba mirror."""
    k0, k1 = split_seed(seed)
    size = np.uint64(span) if span else np.uint64(1) << _SHIFT
    for row in range(out.shape[0]):
        for i in range(0, out.shape[1], 2):
            words = philox4x32(
                np.uint32(i // 2), np.uint32(step), np.uint32(chain[row]), np.uint32(stream), k0, k1
            )
            out[row, i] = low + _scaled(words[0], words[1], size)
            if i + 1 < out.shape[1]:
                out[row, i + 1] = low + _scaled(words[2], words[3], size)


def reference(
    chain: Array, D: int, seed: int, step: int, stream: int, span: int, low: int
) -> Arrays:
    """Reference in whole numbers of any size."""
    blocks = np.arange(-(-D // 2))
    words = philox_reference(blocks, step, np.asarray(chain)[:, None], stream, seed).astype(object)
    long = (words[..., 0::2] << 32 | words[..., 1::2]).reshape(len(chain), -1)[:, :D]
    return {"out": ((long * (span or 2**32) >> 64) + low).astype(np.int64)}


KERNEL = philox_kernel(
    "philox_integers",
    mirror,
    reference,
    EXACT,
    2 * PHILOX_FLOPS,
    dtype="i32",
    lanes=2,
    params=(Param("span", "u32"), Param("low", "i32")),
    values=({"span": 10, "low": -3}, {"span": 0, "low": -(2**31)}, {"span": 12582912, "low": 0}),
)
