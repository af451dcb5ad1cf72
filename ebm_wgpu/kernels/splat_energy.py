"""energy = -log sum_k exp(log_w_k + a_k (mu_k.x - 1)) - h.x and its Riemannian gradient.

The sum runs over all splats; grad = P_x(-sum_k p_k a_k mu_k - h) with p the softmax of the
exponents. With log_w = log w and a = (d-1) kappa it is the normalised energy, with log_w =
log alpha and a = alpha / tau the published one. A splat of log_w = -inf does not count.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from ebm_wgpu.kernels._splat_stream import (
    ENERGY_GRADIENT,
    LOWEST,
    add_if_few,
    at_poles,
    block_length,
    energy_case,
    energy_row,
    energy_vjp,
    fold_row,
    reference_energy,
    without_weight,
)
from ebm_wgpu.kernels.spec import Array, Arrays, Binding, Gradient, Kernel, Work


@njit(parallel=True, cache=True)
def mirror(
    x: Array, mu: Array, a: Array, log_w: Array, h: Array, energy: Array, grad: Array
) -> None:
    """Numba mirror: blocks of splats through two matrix products."""
    rows, count = x.shape[0], mu.shape[0]
    peak = np.full(rows, LOWEST, np.float32)
    total = np.zeros(rows, np.float32)
    many = np.zeros(rows, np.bool_)
    direction = np.zeros(x.shape, np.float32)
    step = block_length(rows)
    for first in range(0, count, step):
        last = min(first + step, count)
        block = mu[first:last]
        dots = np.dot(x, block.T)
        for row in prange(rows):
            scores = log_w[first:last] + a[first:last] * (dots[row] - np.float32(1))
            dots[row] = a[first:last]
            peak[row], total[row], used = fold_row(
                scores, dots[row], direction[row], peak[row], total[row]
            )
            many[row] = add_if_few(dots[row], used, block, direction[row])
        if many.any():
            direction += np.dot(dots, block)
    for row in prange(rows):
        energy[row] = energy_row(x[row], h[row], direction[row], peak[row], total[row], grad[row])


def reference(x: Array, mu: Array, a: Array, log_w: Array, h: Array) -> Arrays:
    """Float64 reference."""
    return reference_energy(log_w + a * (x @ mu.T - 1), a, mu, x, h)


KERNEL = Kernel(
    stem="splat_energy",
    bindings=(
        Binding("x", "f32", ("B", "D")),
        Binding("mu", "f32", ("N", "D"), half=True),
        Binding("a", "f32", ("N",)),
        Binding("log_w", "f32", ("N",)),
        Binding("h", "f32", ("B", "D")),
        Binding("energy", "f32", ("B",), "out"),
        Binding("grad", "f32", ("B", "D"), "out"),
    ),
    workgroups=lambda dims, params: dims["B"],
    mirror=mirror,
    reference=reference,
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
    gradient=Gradient(
        wrt=("x",),
        vjp=energy_vjp("splat_energy"),
        outputs=("energy",),
        tolerance=ENERGY_GRADIENT,
        tangent=("x",),
        step=1e-7,
    ),
    work=lambda dims: Work(
        4.0 * dims["B"] * dims["N"] * dims["D"], 4.0 * (dims["N"] + 3 * dims["B"]) * dims["D"]
    ),
    speed_case={"B": 256, "N": 16384, "D": 640},
)
