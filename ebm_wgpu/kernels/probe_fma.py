"""Chains of y <- m y + 1/2: their rate is the multiply-add peak of speed mode."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from ebm_wgpu.kernels.spec import Array, Arrays, Binding, Case, Dims, Kernel, Tolerance, Work

WG = 256
ITERATIONS = 256
BLOCK = 64
_STARTS = np.arange(8, dtype=np.float32)


@njit(parallel=True, cache=True, fastmath={"contract"})
def mirror(x: Array, out: Array) -> None:
    """Numba mirror: BLOCK chains side by side, to vectorise and hide each other's latency."""
    for block in prange((x.shape[0] + BLOCK - 1) // BLOCK):
        first = block * BLOCK
        count = min(BLOCK, x.shape[0] - first)
        m = np.zeros(BLOCK, np.float32)
        m[:count] = x[first : first + count]
        total = np.zeros(BLOCK, np.float32)
        y = np.empty(BLOCK, np.float32)
        for start in range(8):
            y[:] = np.float32(start)
            for _ in range(ITERATIONS):
                for i in range(BLOCK):
                    y[i] = y[i] * m[i] + np.float32(0.5)
            for i in range(BLOCK):
                total[i] += y[i]
        out[first : first + count] = total[:count]


def reference(x: Array) -> Arrays:
    """Float64 reference: m^n y0 + (1 - m^n) / (2 (1 - m)), summed over the eight starts."""
    power = x**ITERATIONS
    return {"out": power * _STARTS.sum() + 4.0 * (1.0 - power) / (1.0 - x)}


def _inputs(rng: np.random.Generator, dims: Dims) -> Arrays:
    return {"x": rng.uniform(-0.9, 0.9, dims["N"]).astype(np.float32)}


_CONTRACTION = Tolerance(
    0.0,
    1e-5,
    "each step rounds by eps/2 and |m| <= .9 forgets old errors: at most 10 eps, and sums",
)

KERNEL = Kernel(
    stem="probe_fma",
    bindings=(Binding("x", "f32", ("N",)), Binding("out", "f32", ("N",), "out")),
    workgroups=lambda dims, params: -(-dims["N"] // WG),
    mirror=mirror,
    reference=reference,
    constants={"WG": WG, "ITERATIONS": ITERATIONS},
    cases=(Case("odd", {"N": 515}, _inputs, _CONTRACTION),),
    work=lambda dims: Work(2.0 * 8 * ITERATIONS * dims["N"], 8.0 * dims["N"]),
    speed_case={"N": 1 << 20},
)
