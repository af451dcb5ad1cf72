"""What the kernels that normalise rows share; truth and inputs of mixture_readout."""

from __future__ import annotations

import numpy as np
from numba import njit

from ebm_wgpu.kernels._cases import unit_rows
from ebm_wgpu.kernels._math import exp_accurate
from ebm_wgpu.kernels.spec import Array, Arrays, Dims, Scalar
from ebm_wgpu.vmf import log_z0_ratio, mean_cosine

BLOCKS = 8
"""Parts into which the mirrors divide the rows, whatever the number of threads."""
LANES = 16
"""Running maxima that `row_max` keeps: independent, so that they become vector instructions."""


@njit(cache=True)
def row_max(values: Array) -> float:
    """The largest of some float32 values, -inf of none; NaN are passed over."""
    peaks = np.full(LANES, -np.inf, np.float32)
    whole = values.shape[0] // LANES * LANES
    for start in range(0, whole, LANES):
        for lane in range(LANES):
            peaks[lane] = max(peaks[lane], values[start + lane])
    for k in range(whole, values.shape[0]):
        peaks[0] = max(peaks[0], values[k])
    peak = peaks[0]
    for lane in range(1, LANES):
        peak = max(peak, peaks[lane])
    return peak


@njit(cache=True, fastmath={"reassoc", "contract"})
def row_sum(values: Array) -> np.float32:
    """The float32 sum of some values."""
    total = np.float32(0)
    for k in range(values.shape[0]):
        total += values[k]
    return total


@njit(cache=True, fastmath={"reassoc", "contract"}, error_model="numpy")
def share_sum(scores: Array, peak: float) -> np.float32:
    """The float32 sum of exp(scores - peak)."""
    total = np.float32(0)
    for k in range(scores.shape[0]):
        total += exp_accurate(scores[k] - peak)
    return total


@njit(cache=True, error_model="numpy")
def shares(scores: Array, peak: float, out: Array) -> None:
    """Write exp(scores - peak). In place it would be slow: `out` must not be `scores`."""
    for k in range(scores.shape[0]):
        out[k] = exp_accurate(scores[k] - peak)


# The next two stand apart from the parallel mirrors, in which each array expression would become a
# parallel loop of its own, with its own waiting for threads.


@njit(cache=True)
def part_sums(length: int) -> Array:
    """Zeros for the sums of each part of the rows, (BLOCKS, length) float32."""
    return np.zeros((BLOCKS, length), np.float32)


@njit(cache=True)
def fold(parts: Array, out: Array) -> None:
    """Write the sum of the rows of `parts`, taken in order."""
    out[:] = parts[0]
    for part in range(1, parts.shape[0]):
        for k in range(out.shape[0]):
            out[k] += parts[part, k]


def exact_tilt(
    s: Array, a: Array, log_pi: Array, h2: Array, dimension: int
) -> tuple[Array, Array, Array, Array]:
    """Float64 log W, posterior p, F = A(r)/r and r = |eta|, all (B, N)."""
    delta = np.maximum(2 * a * s + h2[:, None], -(a**2))
    log_w = log_pi + log_z0_ratio(np.broadcast_to(a, s.shape), delta, dimension)
    p = np.exp(log_w - log_w.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    r = np.sqrt(a**2 + delta)
    return log_w, p, mean_cosine(r, dimension) / r, r


def readout_inputs(rng: np.random.Generator, dims: Dims, params: dict[str, Scalar]) -> Arrays:
    """Splats in dimension `dimension` of 1 to 50 degrees, contexts of length about 16, groups.

    No group is empty; the first is the whole range.
    """
    rows, splats, dimension = dims["B"], dims["N"], int(params["dimension"])
    kappa = np.exp(rng.uniform(0, np.log(50), splats))
    h = unit_rows(rng, rows, dimension) * rng.uniform(0, 32, (rows, 1))
    mu = unit_rows(rng, splats, dimension)
    first = rng.integers(0, splats, rows)
    last = rng.integers(first, splats) + 1
    first[0], last[0] = 0, splats
    weights = rng.gamma(1.0, size=splats) + 1e-3
    return {
        "s": (h @ mu.T).astype(np.float32),
        "a": ((dimension - 1) * kappa).astype(np.float32),
        "log_pi": np.log(weights / weights.sum()).astype(np.float32),
        "h2": np.sum(h * h, 1).astype(np.float32),
        "first": first.astype(np.int32),
        "last": last.astype(np.int32),
    }
