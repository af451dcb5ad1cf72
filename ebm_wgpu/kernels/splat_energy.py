"""energy = -log sum_k exp(log_w_k + a_k (mu_k.x - 1)) - h.x and its Riemannian gradient.

The sum runs over all splats; grad = P_x(-sum_k p_k a_k mu_k - h) with p the softmax of the
exponents. With log_w = log w and a = (d-1) kappa it is the normalised energy, with log_w =
log alpha and a = alpha / tau the published one. A splat of log_w = -inf does not count.
"""

from __future__ import annotations

import functools

import numpy as np
from numba import njit

from ebm_wgpu.kernels import _rounds
from ebm_wgpu.kernels._search import fill_cosines
from ebm_wgpu.kernels._splat_stream import (
    BLOCK,
    ENERGY_INPUTS,
    ENERGY_OUTPUTS,
    ROWS,
    add_weighted,
    at_poles,
    energy_case,
    energy_gradient,
    energy_row,
    fold_row,
    reference_energy,
    stream,
    without_weight,
)
from ebm_wgpu.kernels.spec import Array, Arrays, Kernel, Work


def mirror(
    x: Array, mu: Array, a: Array, log_w: Array, h: Array, energy: Array, grad: Array
) -> None:
    """Numba mirror: one pass over mu for up to ROWS rows, by chunks of splats in all threads."""
    for start in range(0, len(x), ROWS):
        rows = slice(start, start + ROWS)
        scan = functools.partial(_scan, x[rows], mu, a, log_w)
        peak, total, _, sums = stream(x[rows], len(mu), scan)
        _finish(x[rows], h[rows], sums, peak, total, energy[rows], grad[rows])


@njit(cache=True, nogil=True)
def _scan(
    x: Array,
    mu: Array,
    a: Array,
    log_w: Array,
    peak: Array,
    total: Array,
    scalar: Array,
    sums: Array,
    first: int,
    last: int,
) -> None:
    """Take splats `first` to `last` into the running sums of all rows."""
    dots = np.empty((x.shape[0], BLOCK), np.float32)
    scores = np.empty(BLOCK, np.float32)
    used = np.empty(x.shape[0], np.int32)
    for start in range(first, last, BLOCK):
        end = min(start + BLOCK, last)
        block, sharp, log_weights = mu[start:end], a[start:end], log_w[start:end]
        width = end - start
        factors = dots[:, :width]
        fill_cosines(x, block, factors, 0, width)
        for row in range(x.shape[0]):
            own = factors[row]
            for j in range(width):
                scores[j] = log_weights[j] + sharp[j] * (own[j] - np.float32(1))
                own[j] = sharp[j]
            peak[row], total[row], used[row] = fold_row(
                scores[:width], own, sums[row], peak[row], total[row]
            )
        add_weighted(factors, used, block, sums)


@njit(cache=True)
def _finish(
    x: Array, h: Array, sums: Array, peak: Array, total: Array, energy: Array, grad: Array
) -> None:
    for row in range(x.shape[0]):
        energy[row] = energy_row(x[row], h[row], sums[row], peak[row], total[row], grad[row])


def reference(x: Array, mu: Array, a: Array, log_w: Array, h: Array) -> Arrays:
    """Float64 reference."""
    return reference_energy(log_w + a * (x @ mu.T - 1), a, mu, x, h)


KERNEL = Kernel(
    stem="splat_energy",
    bindings=(*ENERGY_INPUTS, *ENERGY_OUTPUTS),
    workgroups=lambda dims, params: dims["B"],
    mirror=mirror,
    reference=reference,
    rounds=lambda dims, params: _rounds.splat_energy(dims["N"], dims["D"], 256),
    constants={"WG": 256},
    subgroup=True,
    cases=(
        energy_case("d640", {"B": 3, "N": 130, "D": 640}, (1, 3), tilt=20),
        energy_case("d8, several blocks", {"B": 5, "N": 1301, "D": 8}, (1, 50), tilt=2),
        energy_case("odd", {"B": 7, "N": 67, "D": 33}, (1, 5), tilt=16, change=at_poles),
        energy_case("sharp", {"B": 3, "N": 20, "D": 640}, (50, 50), spread=0.1, mixed=False),
        energy_case("strong tilt", {"B": 2, "N": 40, "D": 129}, (1, 2), tilt=300),
        energy_case("one splat", {"B": 2, "N": 1, "D": 64}, (10, 10), mixed=False),
        energy_case("no weight", {"B": 3, "N": 40, "D": 16}, (1, 5), change=without_weight),
        energy_case("published", {"B": 3, "N": 300, "D": 65}, (1, 10), published=True),
        energy_case("published sharp", {"B": 2, "N": 50, "D": 640}, (100, 1000), published=True),
    ),
    gradient=energy_gradient("splat_energy"),
    work=lambda dims: Work(
        4.0 * dims["B"] * dims["N"] * dims["D"], 4.0 * (dims["N"] + 3 * dims["B"]) * dims["D"]
    ),
    speed_case={"B": 256, "N": 16384, "D": 640},
)
