"""What the kernels that stream over splats share: mirror steps, references, inputs, tolerances.

The WGSL side is lib/splat_stream.wgsl. Both keep a running log-sum-exp and rescale the weighted sum
of directions whenever a larger score turns up, so that nothing of size rows x splats is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numba import njit

from ebm_wgpu.kernels import _search
from ebm_wgpu.kernels._cases import EPS32, unit_rows
from ebm_wgpu.kernels._math import exp_accurate
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

LOWEST = np.float32(-3.0e38)
"""Stands for the score of a splat that is not there."""
NEGLIGIBLE = np.float32(-36)
"""Scores this far below the peak are left out: 2^20 of them do not change the sum."""
_SPARSE = 8
LOG_ERROR = 2.0**-21
"""Absolute error that WGSL allows its log between 1/2 and 2."""


BLOCK = 256
"""Splats a mirror takes at a time: they stay in a core's cache for the second product."""
ROWS = 64
"""Rows for which the mirrors read mu once."""
Scan = Callable[[Array, Array, Array, Array, int, int], None]

ENERGY_INPUTS = (
    Binding("x", "f32", ("B", "D")),
    Binding("mu", "f32", ("N", "D"), half=True),
    Binding("a", "f32", ("N",)),
    Binding("log_w", "f32", ("N",)),
    Binding("h", "f32", ("B", "D")),
)
ENERGY_OUTPUTS = (
    Binding("energy", "f32", ("B",), "out"),
    Binding("grad", "f32", ("B", "D"), "out"),
)


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
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


@njit(cache=True, nogil=True, fastmath={"contract"})
def add_weighted(factors: Array, used: Array, block: Array, sums: Array) -> None:
    """sums += factors @ block, and clear the factors of rows that have few of them.

    `used` (rows,) tells how many factors of a row are not zero. Rows with few go splat by splat;
    the others by tiles of 4 x 4, of which those without a factor are skipped.
    """
    rows, count = factors.shape
    many = False
    for row in range(rows):
        if used[row] * _SPARSE > count:
            many = True
            continue
        for j in range(count if used[row] > 0 else 0):
            factor = factors[row, j]
            if factor != np.float32(0):
                for i in range(block.shape[1]):
                    sums[row, i] += factor * block[j, i]
                factors[row, j] = 0
    if many:
        _add_tiles(factors, block, sums)


@njit(cache=True, nogil=True, fastmath={"contract"})
def _add_tiles(factors: Array, block: Array, sums: Array) -> None:
    rows, count = factors.shape[0] // 4 * 4, factors.shape[1] // 4 * 4
    for b in range(0, rows, 4):
        s0, s1, s2, s3 = sums[b], sums[b + 1], sums[b + 2], sums[b + 3]
        for j in range(0, count, 4):
            if not factors[b : b + 4, j : j + 4].any():
                continue
            m0, m1, m2, m3 = block[j], block[j + 1], block[j + 2], block[j + 3]
            f00, f01, f02, f03 = factors[b, j : j + 4]
            f10, f11, f12, f13 = factors[b + 1, j : j + 4]
            f20, f21, f22, f23 = factors[b + 2, j : j + 4]
            f30, f31, f32, f33 = factors[b + 3, j : j + 4]
            for i in range(block.shape[1]):
                v0, v1, v2, v3 = m0[i], m1[i], m2[i], m3[i]
                s0[i] += f00 * v0 + f01 * v1 + f02 * v2 + f03 * v3
                s1[i] += f10 * v0 + f11 * v1 + f12 * v2 + f13 * v3
                s2[i] += f20 * v0 + f21 * v1 + f22 * v2 + f23 * v3
                s3[i] += f30 * v0 + f31 * v1 + f32 * v2 + f33 * v3
    for b in range(factors.shape[0]):
        for j in range(count if b < rows else 0, factors.shape[1]):
            factor = factors[b, j]
            if factor != np.float32(0):
                for i in range(block.shape[1]):
                    sums[b, i] += factor * block[j, i]


def stream(query: Array, count: int, scan: Scan) -> tuple[Array, Array, Array, Array]:
    """Take all splats into the running sums of up to ROWS rows, in all threads.

    Each chunk of splats has sums of its own, and they are added up in order: the result does not
    depend on which thread took which chunk, or on how many there are.

    Args:
        query: what the splats are multiplied with (rows, d).
        count: number of splats.
        scan: (peak, total, scalar, sums, first, last) takes splats `first` to `last` into the
            running sums, three (rows,) and one (rows, d), which start at LOWEST and at zeros.

    Returns:
        The peak, total and scalar of each row (rows,), and its vector sum (rows, d).
    """
    parts = max(1, -(-count // _search.CHUNK))
    peak = np.full((parts, len(query)), LOWEST)
    total = np.zeros((parts, len(query)), np.float32)
    scalar = np.zeros((parts, len(query)), np.float32)
    sums = np.zeros((parts, *query.shape), np.float32)

    def work(chunks: Iterator[tuple[int, int]]) -> None:
        for first, last in chunks:
            part = first // _search.CHUNK
            scan(peak[part], total[part], scalar[part], sums[part], first, last)

    _search.in_chunks(0, count, query.size, work)
    _merge(peak, total, scalar, sums)
    return peak[0], total[0], scalar[0], sums[0]


@njit(cache=True, nogil=True)
def _merge(peak: Array, total: Array, scalar: Array, sums: Array) -> None:
    """Add the running sums of all parts to those of the first, in order."""
    for row in range(peak.shape[1]):
        highest = peak[:, row].max()
        for part in range(peak.shape[0]):
            scale = np.exp(peak[part, row] - highest)
            if part == 0:
                total[0, row] *= scale
                scalar[0, row] *= scale
                for i in range(sums.shape[2]):
                    sums[0, row, i] *= scale
            elif scale > 0:
                total[0, row] += scale * total[part, row]
                scalar[0, row] += scale * scalar[part, row]
                for i in range(sums.shape[2]):
                    sums[0, row, i] += scale * sums[part, row, i]
        peak[0, row] = highest


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


def energy_gradient(stem: str) -> Gradient:
    """The proof of an energy kernel's gradient output: its vector-Jacobian product by itself."""

    def vjp(run: Run, inputs: Arrays, params: Mapping[str, Scalar], cotangents: Arrays) -> Arrays:
        return {"x": cotangents["energy"][:, None] * run(stem, **inputs)["grad"]}

    return Gradient(
        wrt=("x",),
        vjp=vjp,
        outputs=("energy",),
        tolerance=Tolerance(
            2e-5, 5e-5, "float32 gradient of terms that cancel to about a tenth of a; see the cases"
        ),
        tangent=("x",),
        step=1e-7,
    )


def without_weight(rng: np.random.Generator, dims: Dims, arrays: Arrays) -> None:
    """Take all weight from every third splat."""
    arrays["log_w"][1::3] = -np.inf


def at_poles(rng: np.random.Generator, dims: Dims, arrays: Arrays) -> None:
    """Put the first row at a splat and the second at the antipode of one."""
    arrays["x"][0] = arrays["mu"][0]
    arrays["x"][1] = -arrays["mu"][1]
