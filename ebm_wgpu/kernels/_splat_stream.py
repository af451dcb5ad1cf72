"""What the kernels that stream over splats share: mirror steps, references, inputs, tolerances.

The WGSL side is lib/splat_stream.wgsl. Both keep a running log-sum-exp and rescale the weighted sum
of directions whenever a larger score turns up, so that nothing of size rows x splats is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numba import njit

from ebm_wgpu.kernels._cases import EPS32, unit_rows
from ebm_wgpu.kernels._math import exp_accurate
from ebm_wgpu.kernels.spec import Array, Arrays, Case, Dims, Scalar, Tolerance

LOWEST = np.float32(-3.0e38)
"""Stands for the score of a splat that is not there."""
NEGLIGIBLE = np.float32(-36)
"""Scores this far below the peak are left out: 2^20 of them do not change the sum."""
_SPARSE = 8
LOG_ERROR = 2.0**-21
"""Absolute error that WGSL allows its log between 1/2 and 2."""


@njit(cache=True)
def block_length(rows: int) -> int:
    """Splats to take at a time: products of a million entries, 256 to 4096 splats."""
    return max(256, min(4096, (1 << 20) // max(rows, 1)))


@njit(cache=True, fastmath={"contract", "reassoc"})
def fold_row(
    scores: Array, factors: Array, sums: Array, peak: Any, total: Any
) -> tuple[Any, Any, Any]:
    """Take a block of scores into a row's running sums.

    `factors[j]` becomes factors[j] exp(scores[j] - peak'), `sums` is rescaled from peak to peak'.

    Returns:
        The new peak and total, and how many factors are left.
    """
    higher = peak
    for j in range(scores.shape[0]):
        higher = max(higher, scores[j])
    rescale = np.exp(peak - higher)
    if rescale != np.float32(1):
        for i in range(sums.shape[0]):
            sums[i] *= rescale
    added = np.float32(0)
    used = np.int32(0)
    for j in range(scores.shape[0]):
        below = scores[j] - higher
        weight = exp_accurate(below) if below > NEGLIGIBLE else np.float32(0)
        used += np.int32(weight > 0)
        added += weight
        factors[j] *= weight
    return higher, total * rescale + added, used


@njit(cache=True, fastmath={"contract"})
def add_if_few(factors: Array, used: int, block: Array, sums: Array) -> bool:
    """Add factors @ block to `sums` and clear the factors, if few of them are left.

    Returns:
        Whether they were many, and are still to be added by a matrix product.
    """
    if used * _SPARSE > factors.shape[0]:
        return True
    for j in range(factors.shape[0]):
        factor = factors[j]
        if factor != np.float32(0):
            for i in range(sums.shape[0]):
                sums[i] += factor * block[j, i]
            factors[j] = 0
    return False


@njit(cache=True)
def energy_row(x: Array, h: Array, direction: Array, peak: Any, total: Any, grad: Array) -> Any:
    """Finish a row: `grad` = P_x(-direction / total - h); returns -peak - log(total) - h.x."""
    scale = np.float32(0)
    if total > 0:
        scale = np.float32(1) / total
    tilt, radial = np.float32(0), np.float32(0)
    for i in range(x.shape[0]):
        g = -direction[i] * scale - h[i]
        grad[i] = g
        tilt += h[i] * x[i]
        radial += g * x[i]
    for i in range(x.shape[0]):
        grad[i] -= radial * x[i]
    if total > 0:
        return -peak - np.log(total) - tilt
    return np.float32(np.inf)


def log_sum_exp(scores: Array) -> tuple[Array, Array]:
    """log sum_j exp(scores[:, j]) and the softmax; -inf and zeros for a row of -inf."""
    peak = scores.max(axis=1, keepdims=True)
    weights = np.exp(scores - np.where(np.isfinite(peak), peak, 0))
    total = weights.sum(axis=1, keepdims=True)
    softmax = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
    with np.errstate(divide="ignore"):
        return (np.log(total) + np.where(np.isfinite(peak), peak, -np.inf))[:, 0], softmax


def reference_energy(scores: Array, a: Array, mu: Array, x: Array, h: Array) -> Arrays:
    """Energy and Riemannian gradient in float64 from scores (B,N), -inf for absent splats."""
    log_sum, p = log_sum_exp(scores)
    g = -(p * a) @ mu - h
    return {
        "energy": -log_sum - np.sum(h * x, axis=1),
        "grad": g - np.sum(g * x, axis=1, keepdims=True) * x,
    }


def dot_error(dimension: int) -> float:
    """Error of a float32 dot product of unit vectors, summed in eight or more parts.

    Each part makes d/8 roundings at random of sums of about 1/8: eps sqrt(d) / 16 together, taken
    with a margin, and eps for the last sums.
    """
    return EPS32 * (1 + 0.12 * dimension**0.5)


def energy_inputs(
    kappa: tuple[float, float], tilt: float, spread: float, published: bool = False
) -> Callable[[np.random.Generator, Dims], Arrays]:
    """Inputs of an energy kernel: rows of x scattered around the first splats.

    Args:
        kappa: range of the concentrations per degree of freedom, or of alpha / tau if published.
        tilt: length of h.
        spread: length of the noise added to a splat before normalisation.
        published: log_w = log alpha, alpha = a tau with tau = .1, not log pi + a - log Z0(a).
    """

    def draw(rng: np.random.Generator, dims: Dims) -> Arrays:
        from ebm_wgpu.vmf import log_z0

        rows, count, d = dims["B"], dims["N"], dims["D"]
        mu = unit_rows(rng, count, d)
        noise = spread * unit_rows(rng, rows, d)
        x = mu[np.arange(rows) % count] + noise
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        a = rng.uniform(*kappa, count) * (1 if published else d - 1)
        log_w = np.log(a * 0.1) if published else a - log_z0(a, d) - np.log(count)
        h = tilt * unit_rows(rng, rows, d)
        arrays = {"x": x, "mu": mu, "a": a, "log_w": log_w, "h": h}
        return {name: value.astype(np.float32) for name, value in arrays.items()}

    return draw


def energy_case(
    name: str,
    dims: Dims,
    kappa: tuple[float, float],
    tilt: float = 0.0,
    spread: float = 0.5,
    published: bool = False,
    mixed: bool = True,
    change: Callable[[np.random.Generator, Dims, Arrays], None] | None = None,
) -> Case:
    """A proof of an energy kernel, with its tolerance from the size of the scores.

    A dot product is off by e = `dot_error`; a score by a e; the energy by (a + |h|) e and a
    rounding of log_w. The gradient's direction sum is off by a e, and, where several splats share
    the mass (`mixed`), by the change of their shares, a e times a / sqrt(d) per coordinate.
    """
    a_max = kappa[1] * (1 if published else dims["D"] - 1)
    e = dot_error(dims["D"])
    score = a_max * e
    draw = energy_inputs(kappa, tilt, spread, published)

    def inputs(rng: np.random.Generator, dims: Dims) -> Arrays:
        arrays = draw(rng, dims)
        if change is not None:
            change(rng, dims, arrays)
        return arrays

    shares = score * a_max / dims["D"] ** 0.5 if mixed else 0.0
    return Case(
        name,
        dims,
        inputs,
        {
            "energy": Tolerance(
                score + tilt * e + LOG_ERROR,
                8 * EPS32,
                f"dot products off by {e:.1e}, times a <= {a_max:g} and |h| = {tilt:g}; WGSL's log",
            ),
            "grad": Tolerance(
                2 * (a_max + tilt) * e + shares,
                8 * EPS32,
                f"a <= {a_max:g} times the error {e:.1e} of a dot product"
                + (f", and shares that move by {score:.1e}" if mixed else ""),
            ),
        },
    )


def energy_vjp(stem: str) -> Callable[..., Arrays]:
    """The vector-Jacobian product of an energy kernel by its own gradient output."""

    def vjp(
        run: Callable[..., Arrays], inputs: Arrays, params: Mapping[str, Scalar], cotangents: Arrays
    ) -> Arrays:
        return {"x": cotangents["energy"][:, None] * run(stem, **inputs)["grad"]}

    return vjp


ENERGY_GRADIENT = Tolerance(
    2e-5, 5e-5, "float32 gradient of terms that cancel to about a tenth of a; see the cases"
)


def without_weight(rng: np.random.Generator, dims: Dims, arrays: Arrays) -> None:
    """Take all weight from every third splat."""
    arrays["log_w"][1::3] = -np.inf


def at_poles(rng: np.random.Generator, dims: Dims, arrays: Arrays) -> None:
    """Put the first row at a splat and the second at the antipode of one."""
    arrays["x"][0] = arrays["mu"][0]
    arrays["x"][1] = -arrays["mu"][1]
