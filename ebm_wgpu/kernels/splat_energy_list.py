"""The energy and Riemannian gradient of `splat_energy` over each row's own list of splats.

Entries of `idx` outside 0..N-1, such as -1, are empty. A row without entries has infinite energy
and the gradient -P_x h of the tilt alone.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from ebm_wgpu.kernels import _rounds
from ebm_wgpu.kernels._splat_stream import (
    ENERGY_INPUTS,
    ENERGY_OUTPUTS,
    LOWEST,
    energy_case,
    energy_gradient,
    energy_row,
    fold_row,
    reference_energy,
)
from ebm_wgpu.kernels.spec import Array, Arrays, Binding, Dims, Kernel, Work


@njit(parallel=True, cache=True)
def mirror(
    x: Array,
    mu: Array,
    a: Array,
    log_w: Array,
    h: Array,
    idx: Array,
    energy: Array,
    grad: Array,
) -> None:
    """Numba mirror: each row gathers its splats and multiplies them by two products."""
    for row in prange(x.shape[0]):
        near = np.empty((idx.shape[1], x.shape[1]), np.float32)
        scores = np.empty(idx.shape[1], np.float32)
        factors = np.empty(idx.shape[1], np.float32)
        used = 0
        for j in range(idx.shape[1]):
            k = idx[row, j]
            if 0 <= k < mu.shape[0]:
                near[used] = mu[k]
                scores[used] = log_w[k]
                factors[used] = a[k]
                used += 1
        scores = scores[:used]
        factors = factors[:used]
        direction = np.zeros(x.shape[1], np.float32)
        peak, total = LOWEST, np.float32(0)
        if used > 0:
            scores += factors * (np.dot(near[:used], x[row]) - np.float32(1))
            peak, total, _ = fold_row(scores, factors, direction, peak, total)
            direction += np.dot(near[:used].T, factors)
        energy[row] = energy_row(x[row], h[row], direction, peak, total, grad[row])


def reference(x: Array, mu: Array, a: Array, log_w: Array, h: Array, idx: Array) -> Arrays:
    """Float64 reference: a splat listed twice counts twice."""
    inside = (idx >= 0) & (idx < len(mu))
    times = np.zeros((len(x), len(mu)))
    rows, _ = np.nonzero(inside)
    np.add.at(times, (rows, idx[inside]), 1)
    with np.errstate(divide="ignore"):
        scores = np.log(times) + log_w + a * (x @ mu.T - 1)
    return reference_energy(scores, a, mu, x, h)


def _lists(rng: np.random.Generator, dims: Dims, arrays: Arrays) -> None:
    """Each row's nearest splats in random order, a third of the entries empty."""
    dots = arrays["x"] @ arrays["mu"].T
    order = np.argsort(-dots, axis=1)[:, : dims["M"]]
    idx = np.full((dims["B"], dims["M"]), -1, np.int32)
    idx[:, : order.shape[1]] = rng.permuted(order, axis=1)
    idx[:, 2::3] = -1
    arrays["idx"] = idx


def _odd_lists(rng: np.random.Generator, dims: Dims, arrays: Arrays) -> None:
    """Entries beyond the last splat, and a splat listed twice."""
    idx = rng.integers(0, dims["N"], (dims["B"], dims["M"])).astype(np.int32)
    idx[1, ::2] = dims["N"]
    idx[2, :2] = 3
    arrays["idx"] = idx


def _full_lists(rng: np.random.Generator, dims: Dims, arrays: Arrays) -> None:
    """Every splat, once."""
    arrays["idx"] = np.tile(np.arange(dims["N"], dtype=np.int32), (dims["B"], 1))


KERNEL = Kernel(
    stem="splat_energy_list",
    bindings=(*ENERGY_INPUTS, Binding("idx", "i32", ("B", "M")), *ENERGY_OUTPUTS),
    workgroups=lambda dims, params: dims["B"],
    mirror=mirror,
    reference=reference,
    rounds=lambda dims, params: _rounds.splat_energy(dims["M"], dims["D"], 128),
    constants={"WG": 128},
    subgroup=True,
    cases=(
        energy_case("d640", {"B": 3, "N": 200, "M": 130, "D": 640}, (1, 3), tilt=20, change=_lists),
        energy_case("d8", {"B": 5, "N": 301, "M": 301, "D": 8}, (1, 50), 2, change=_full_lists),
        energy_case("odd lists", {"B": 4, "N": 67, "M": 9, "D": 33}, (1, 5), 16, change=_odd_lists),
        energy_case("one entry", {"B": 2, "N": 5, "M": 1, "D": 64}, (10, 10), change=_lists),
        energy_case(
            "published",
            {"B": 3, "N": 300, "M": 64, "D": 65},
            (1, 10),
            published=True,
            change=_lists,
        ),
    ),
    gradient=energy_gradient("splat_energy_list"),
    work=lambda dims: Work(
        4.0 * dims["B"] * dims["M"] * dims["D"], 4.0 * dims["B"] * (dims["M"] + 3) * dims["D"]
    ),
    speed_case={"B": 4096, "N": 16384, "M": 128, "D": 640},
)
