"""out[b, i] = uniform in (0, 1): Philox stream `stream` of chain[b] at `step`, coordinate i.

Values are (m + 1/2) 2^-23 with m a 23-bit integer: the same bits on every device.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ebm_wgpu.kernels._philox import (
    U32,
    split_seed,
    uniform4,
    uniform_reference,
)
from ebm_wgpu.kernels.spec import (
    EXACT,
    Array,
    Arrays,
    Binding,
    Case,
    Dims,
    Kernel,
    Param,
    Work,
)

PHILOX_FLOPS = 25.0
"""Integer operations for one 32-bit word of Philox4x32-10."""


@njit(cache=True, error_model="numpy")
def _rows(chain: Array, seed: np.uint64, step: U32, stream: U32, out: Array) -> None:
    k0, k1 = split_seed(seed)
    for row in range(out.shape[0]):
        for i in range(0, out.shape[1], 4):
            values = uniform4(np.uint32(i // 4), step, np.uint32(chain[row]), stream, k0, k1)
            for lane in range(min(4, out.shape[1] - i)):
                out[row, i + lane] = values[lane]


def mirror(chain: Array, seed: int, step: int, stream: int, out: Array) -> None:
    """Numba mirror."""
    _rows(chain, np.uint64(seed), np.uint32(step), np.uint32(stream), out)


def reference(chain: Array, D: int, seed: int, step: int, stream: int) -> Arrays:
    """Float64 reference."""
    return {"out": uniform_reference(chain, D, step, stream, seed)}


def chain_numbers(rng: np.random.Generator, dims: Dims) -> Arrays:
    """Chain numbers of any sign, the extremes among them."""
    chain = rng.integers(-(2**31), 2**31, dims["B"]).astype(np.int32)
    chain[0] = 2**31 - 1
    chain[-1] = 0
    return {"chain": chain}


KERNEL = Kernel(
    stem="philox_uniform",
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
            EXACT,
            {"seed": 0x0123456789ABCDEF, "step": 17, "stream": 0},
        ),
        Case("zeros", {"B": 1, "D": 3}, chain_numbers, EXACT, {"seed": 0, "step": 0, "stream": 0}),
        Case(
            "largest",
            {"B": 130, "D": 8},
            chain_numbers,
            EXACT,
            {"seed": 2**64 - 1, "step": 2**32 - 1, "stream": 4},
        ),
    ),
    work=lambda dims: Work(PHILOX_FLOPS * dims["B"] * dims["D"], 4.0 * dims["B"] * dims["D"]),
    speed_case={"B": 65536, "D": 640},
)
