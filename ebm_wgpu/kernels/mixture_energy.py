"""energy[b] = -logsumexp_k (log_w_k + a_k (s[b, k] - 1)): E_splats from the cosines s = x.mu.

For training, where the product x mu^T is wanted with its gradients; `splat_energy` streams over the
splats without it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numba import njit, prange

from ebm_wgpu.kernels._cases import EPS32, unit_rows
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

_ONE = np.float32(1)


@njit(parallel=True, cache=True, error_model="numpy")
def mirror(s: Array, a: Array, log_w: Array, energy: Array) -> None:
    """Numba mirror."""
    rows = s.shape[0]
    for block in prange(BLOCKS):
        z = np.empty(s.shape[1], np.float32)
        for row in range(rows * block // BLOCKS, rows * (block + 1) // BLOCKS):
            for k in range(z.shape[0]):
                z[k] = log_w[k] + a[k] * (s[row, k] - _ONE)
            peak = row_max(z)
            energy[row] = -peak - np.log(share_sum(z, peak))


def reference(s: Array, a: Array, log_w: Array) -> Arrays:
    """Float64 reference."""
    z = log_w + a * (s - 1)
    peak = z.max(1)
    return {"energy": -peak - np.log(np.exp(z - peak[:, None]).sum(1))}


def _vjp(run: Run, inputs: Arrays, params: Mapping[str, Scalar], cotangents: Arrays) -> Arrays:
    energy = run("mixture_energy", **inputs)["energy"]
    gradients = run(
        "mixture_energy_backward", **inputs, energy=energy, grad_energy=cotangents["energy"]
    )
    return {name: gradients[f"grad_{name}"] for name in ("s", "a", "log_w")}


def cosine_inputs(rng: np.random.Generator, dims: Dims, a_max: float) -> Arrays:
    """Cosines in 16 dimensions, some near 1; concentrations up to a_max; log weights to match."""
    mu = unit_rows(rng, dims["N"], 16)
    x = mu[rng.integers(0, dims["N"], dims["B"])] + 0.1 * rng.standard_normal((dims["B"], 16))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    a = rng.uniform(1, a_max, dims["N"])
    return {
        "s": (x @ mu.T).astype(np.float32),
        "a": a.astype(np.float32),
        "log_w": (7.5 * np.log(a) + rng.standard_normal(dims["N"])).astype(np.float32),
    }


CASES = (
    ("odd", {"B": 9, "N": 601}, 40.0),
    ("one splat", {"B": 3, "N": 1}, 40.0),
    ("one row", {"B": 1, "N": 70}, 700.0),
    ("kappa 50 at d 640", {"B": 17, "N": 65}, 32000.0),
)


def score_error(a_max: float) -> float:
    """Absolute error of log_w + a (s - 1) in float32, for the scores that matter.

    Their a (s - 1) is at most about 16 in size (the log weight decides how far they may lie) and
    log_w at most 8 log a_max; s - 1 is exact near 1.
    """
    return EPS32 * (32 + 8 * float(np.log(a_max)))


def _case(name: str, dims: Dims, a_max: float) -> Case:
    # Rows near a splat lie within 1 - s = 0.1 of it.
    size = 0.1 * a_max
    return Case(
        name,
        dims,
        lambda rng, sizes: cosine_inputs(rng, sizes, a_max),
        Tolerance(
            score_error(a_max),
            4 * EPS32,
            f"float32 sums of terms up to {size:g}, rounded to eps of themselves",
        ),
    )


KERNEL = row_kernel(
    "mixture_energy",
    (
        Binding("s", "f32", ("B", "N")),
        Binding("a", "f32", ("N",)),
        Binding("log_w", "f32", ("N",)),
        Binding("energy", "f32", ("B",), "out"),
    ),
    mirror,
    reference,
    tuple(_case(*case) for case in CASES),
    passes=2,
    reductions=2,
    gradient=Gradient(
        wrt=("s", "a", "log_w"),
        vjp=_vjp,
        outputs=("energy",),
        tolerance=Tolerance(4e-4, 4e-4, "scores up to 3,200 leave shares exact to 4e-4"),
        step=1e-7,
    ),
)
