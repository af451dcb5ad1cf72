"""mean = E[x|c] = sum_k p_k F_k (a_k mu_k + h) and log_z = log Z(c), streaming over the splats.

With eta_k = a_k mu_k + h: p = softmax_k(log_W), log_W_k = log_pi_k + log Z0(|eta_k|) - log Z0(a_k),
F_k = A(|eta_k|)/|eta_k|. Nothing of size rows x splats is stored; for training, where that is
needed anyway, see `mixture_log_weights`, `mixture_posterior` and `mixture_coefficients`.
"""

from __future__ import annotations

import functools

import numpy as np
from numba import njit

from ebm_wgpu.kernels import _rounds
from ebm_wgpu.kernels._cases import EPS32, unit_rows
from ebm_wgpu.kernels._mixture import (
    log_ratio_row,
    slopes,
    squares,
    tilt_row,
    total,
    untilted_terms,
)
from ebm_wgpu.kernels._search import fill_cosines
from ebm_wgpu.kernels._splat_stream import (
    BLOCK,
    LOG_ERROR,
    ROWS,
    add_weighted,
    dot_error,
    fold_row,
    log_sum_exp,
    stream,
)
from ebm_wgpu.kernels.spec import Array, Arrays, Binding, Case, Dims, Kernel, Tolerance, Work
from ebm_wgpu.vmf import log_z0_ratio


def mirror(mu: Array, a: Array, log_pi: Array, h: Array, mean: Array, log_z: Array) -> None:
    """Numba mirror: one pass over mu for up to ROWS rows, by chunks of splats in all threads."""
    for start in range(0, len(h), ROWS):
        rows = slice(start, start + ROWS)
        scan = functools.partial(_scan, h[rows], mu, a, log_pi)
        peak, mass, tilt, sums = stream(h[rows], len(mu), scan)
        scale = np.divide(1, mass, out=np.zeros_like(mass), where=mass > 0)[:, None]
        mean[rows] = scale * (sums + tilt[:, None] * h[rows])
        with np.errstate(divide="ignore"):
            log_z[rows] = peak + np.log(mass)


@njit(cache=True, nogil=True)
def _scan(
    h: Array,
    mu: Array,
    a: Array,
    log_pi: Array,
    peak: Array,
    mass: Array,
    tilt: Array,
    sums: Array,
    first: int,
    last: int,
) -> None:
    """Take splats `first` to `last` into the running sums of all rows."""
    rows, dimension = h.shape
    h2 = np.empty(rows, np.float32)
    for row in range(rows):
        h2[row] = np.dot(h[row], h[row])
    dots = np.empty((rows, BLOCK), np.float32)
    used = np.empty(rows, np.int32)
    work = np.empty((3, BLOCK), np.float32)
    for start in range(first, last, BLOCK):
        end = min(start + BLOCK, last)
        width = end - start
        block, b = mu[start:end], a[start:end]
        root, log_u = untilted_terms(b, dimension)
        scores, factors, slope = work[0, :width], work[1, :width], work[2, :width]
        weights = dots[:, :width]
        fill_cosines(h, block, weights, 0, width)
        for row in range(rows):
            own = weights[row]
            log_ratio_row(b, own, h2[row], dimension, root, log_u, scores)
            scores += log_pi[start:end]
            tilt_row(b, own, h2[row], dimension, factors, slope)
            before = peak[row]
            peak[row], mass[row], used[row] = fold_row(
                scores, factors, sums[row], before, mass[row]
            )
            tilt[row] = tilt[row] * np.exp(before - peak[row]) + total(factors)
            own[:] = factors * b
        add_weighted(weights, used, block, sums)


def reference(mu: Array, a: Array, log_pi: Array, h: Array) -> Arrays:
    """Float64 reference."""
    d = mu.shape[1]
    s, h2 = h @ mu.T, np.sum(h**2, axis=1)
    log_z, p = log_sum_exp(log_pi + log_z0_ratio(a, 2 * a * s + h2[:, None], d))
    f, _ = slopes(squares(s, a, h2), d)
    return {"mean": (p * f * a) @ mu + np.sum(p * f, axis=1, keepdims=True) * h, "log_z": log_z}


def _case(
    name: str, dims: Dims, kappa: tuple[float, float], length: float, toward: float = 0.0
) -> Case:
    def inputs(rng: np.random.Generator, dims: Dims) -> Arrays:
        rows, count, d = dims["B"], dims["N"], dims["D"]
        mu = unit_rows(rng, count, d)
        direction = unit_rows(rng, rows, d) + toward * mu[np.arange(rows) % count]
        h = length * direction / np.linalg.norm(direction, axis=1, keepdims=True)
        a = (d - 1) * rng.uniform(*kappa, count)
        log_pi = np.log(rng.dirichlet(np.full(count, 2.0)))
        arrays = {"mu": mu, "a": a, "log_pi": log_pi, "h": h}
        return {key: value.astype(np.float32) for key, value in arrays.items()}

    score = length * dot_error(dims["D"]) + 2 * EPS32 * (20 + length)
    return Case(
        name,
        dims,
        inputs,
        {
            "mean": Tolerance(
                2 * EPS32 + score / dims["D"] ** 0.5,
                8 * EPS32,
                f"log_W off by {score:.1e} moves shares of unit vectors",
            ),
            "log_z": Tolerance(
                LOG_ERROR + score, 4 * EPS32, f"log_W off by {score:.1e}, and WGSL's log"
            ),
        },
    )


KERNEL = Kernel(
    stem="mixture_mean",
    bindings=(
        Binding("mu", "f32", ("N", "D"), half=True),
        Binding("a", "f32", ("N",)),
        Binding("log_pi", "f32", ("N",)),
        Binding("h", "f32", ("B", "D")),
        Binding("mean", "f32", ("B", "D"), "out"),
        Binding("log_z", "f32", ("B",), "out"),
    ),
    workgroups=lambda dims, params: dims["B"],
    mirror=mirror,
    reference=reference,
    rounds=lambda dims, params: (
        _rounds.stream(dims["N"], dims["D"], 256, 2 * _rounds.recurrence(dims["D"]))
        + 2 * _rounds.strided(dims["D"], 256)
        + _rounds.reduction(256)
    ),
    constants={"WG": 256},
    subgroup=True,
    cases=(
        _case("d640", {"B": 3, "N": 130, "D": 640}, (1, 50), 20, toward=0.3),
        _case("d64, several blocks", {"B": 5, "N": 1301, "D": 64}, (1, 10), 16, toward=0.5),
        _case("d9", {"B": 3, "N": 261, "D": 9}, (1, 50), 4),
        _case("strong tilt", {"B": 3, "N": 67, "D": 129}, (1, 5), 300),
        _case("no context", {"B": 2, "N": 40, "D": 33}, (1, 5), 0),
        _case("one splat", {"B": 2, "N": 1, "D": 16}, (1, 2), 5),
    ),
    work=lambda dims: Work(
        4.0 * dims["B"] * dims["N"] * dims["D"], 4.0 * (dims["N"] + 2 * dims["B"]) * dims["D"]
    ),
    speed_case={"B": 256, "N": 16384, "D": 640},
)
