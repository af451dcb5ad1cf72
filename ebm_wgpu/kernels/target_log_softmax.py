"""log_p[b] = z[b, target_b] - lse[b], lse[b] = logsumexp_k z[b, k], z = logits + bias."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numba import njit, prange

from ebm_wgpu.kernels._cases import EPS32, normal
from ebm_wgpu.kernels._readout import BLOCKS, row_max, share_sum
from ebm_wgpu.kernels._rows import row_kernel
from ebm_wgpu.kernels.spec import (
    Array,
    Arrays,
    Binding,
    Case,
    Dims,
    Gradient,
    Run,
    Scalar,
    Tolerance,
)


@njit(parallel=True, cache=True, error_model="numpy")
def mirror(logits: Array, bias: Array, target_index: Array, log_p: Array, lse: Array) -> None:
    """Numba mirror."""
    rows = logits.shape[0]
    for block in prange(BLOCKS):
        z = np.empty(logits.shape[1], np.float32)
        for row in range(rows * block // BLOCKS, rows * (block + 1) // BLOCKS):
            for k in range(z.shape[0]):
                z[k] = logits[row, k] + bias[k]
            chosen = z[target_index[row]]
            peak = row_max(z)
            lse[row] = peak + np.log(share_sum(z, peak))
            log_p[row] = chosen - lse[row]


def reference(logits: Array, bias: Array, target_index: Array) -> Arrays:
    """Float64 reference."""
    z = logits + bias
    peak = z.max(1)
    lse = peak + np.log(np.exp(z - peak[:, None]).sum(1))
    return {"log_p": z[np.arange(len(z)), target_index] - lse, "lse": lse}


def _vjp(run: Run, inputs: Arrays, params: Mapping[str, Scalar], cotangents: Arrays) -> Arrays:
    lse = run("target_log_softmax", **inputs)["lse"]
    gradients = run(
        "target_log_softmax_backward", **inputs, lse=lse, grad_log_p=cotangents["log_p"]
    )
    return {name: gradients[f"grad_{name}"] for name in ("logits", "bias")}


def target_inputs(rng: np.random.Generator, dims: Dims, scale: float) -> Arrays:
    """Logits of standard deviation `scale`, a bias of unit variance and random targets."""
    return {
        "logits": normal(rng, dims["B"], dims["N"], scale=scale),
        "bias": normal(rng, dims["N"]),
        "target_index": rng.integers(0, dims["N"], dims["B"]).astype(np.int32),
    }


CASES = (
    ("odd", {"B": 9, "N": 601}, 2.0),
    ("one column", {"B": 4, "N": 1}, 1.0),
    ("one row", {"B": 1, "N": 70}, 1.0),
    ("far apart", {"B": 17, "N": 65}, 60.0),
)


def _case(name: str, dims: Dims, scale: float) -> Case:
    return Case(
        name,
        dims,
        lambda rng, sizes: target_inputs(rng, sizes, scale),
        Tolerance(
            EPS32 * (4 + 8 * scale),
            4 * EPS32,
            f"differences of float32 numbers up to {5 * scale:g}, and a sum of at most 601 shares",
        ),
    )


KERNEL = row_kernel(
    "target_log_softmax",
    (
        Binding("logits", "f32", ("B", "N")),
        Binding("bias", "f32", ("N",)),
        Binding("target_index", "i32", ("B",)),
        Binding("log_p", "f32", ("B",), "out"),
        Binding("lse", "f32", ("B",), "out"),
    ),
    mirror,
    reference,
    tuple(_case(*case) for case in CASES),
    passes=2,
    reductions=2,
    gradient=Gradient(
        wrt=("logits", "bias"),
        vjp=_vjp,
        outputs=("log_p",),
        tolerance=Tolerance(2e-5, 2e-5, "logits up to 300 leave shares exact to 2e-5"),
    ),
    cost=(12.0, 4.0),
    speed_case={"B": 1024, "N": 50257},
)
