"""The tilt of a splat, the Numba twin of wgsl/lib/mixture.wgsl, and what the mixture kernels share.

A context h turns splat (a, mu) into eta = a mu + h, of q = |eta|^2 = a^2 + 2 a s + |h|^2 with
s = mu.h. All that is needed of it is log Z0(|eta|) - log Z0(a) and F(q) = A(sqrt q)/sqrt q with its
derivative, both finite at q = 0:

    d log Z0(|eta|) = F/2 dq,   d log Z0(a) = a F(a^2) da,   A(|eta|) eta/|eta| = F eta.

With p = 1/sqrt(1 + q/nu^2) and C = p (log U)'(p), F = p/(nu (1+p)) - p^2 (1/2 + C)/nu^2. The Debye
series log U is taken to order nu^-3 from d = 64 on (Abramowitz and Stegun 9.7.7); below,
F_d = 1/(d + q F_{d+2}) comes down from 64 or 65.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numba import njit

from ebm_wgpu.kernels import _rounds
from ebm_wgpu.kernels._math import log1p_accurate
from ebm_wgpu.kernels._vmf import log_z0_ratio
from ebm_wgpu.kernels.spec import Array, Dims, Scalar
from ebm_wgpu.vmf import mean_cosine, mean_cosine_derivative

COLUMNS = 32
"""Columns a workgroup of the backward kernels sums; lib/mixture.wgsl has the same number."""
ROWS = 16
"""Rows whose column sums a task of the backward mirrors keeps; the tasks are added up in order."""
_ZERO, _HALF, _ONE, _TWO = (np.float32(c) for c in (0, 0.5, 1, 2))
_EXPANSION_DIMENSION = 64
_FLAGS = {"cache": True, "fastmath": {"contract"}, "error_model": "numpy"}
# Without Python's division error, and with branch-free functions, the loops below become vector
# instructions; that is worth a factor of ten.


@njit(**_FLAGS)
def tilted_square(a: Any, s: Any, h2: Any) -> Any:
    """|eta|^2 = a^2 + 2 a s + h2, at least 0."""
    return max(a * a + (_TWO * a * s + h2), _ZERO)


@njit(**_FLAGS)
def _debye(d: int) -> tuple[int, Any, Array]:
    """The dimension of the expansion, 1/nu, and the coefficients of log U at p^0 to p^9."""
    dimension = max(d, _EXPANSION_DIMENSION + (d & 1))
    n1 = 1 / (0.5 * dimension - 1)
    n2, n3 = n1 * n1, n1 * n1 * n1
    series = np.zeros(10)
    series[1], series[2] = n1 / 8, n2 / 16
    series[3] = n3 * 25 / 384 - n1 * 5 / 24
    series[4], series[5] = -n2 * 3 / 8, -n3 * 531 / 640
    series[6], series[7] = n2 * 5 / 16, n3 * 221 / 128
    series[9] = -n3 * 1105 / 1152
    return dimension, np.float32(n1), series


@njit(**_FLAGS)
def _horner(c: Array, p: float) -> float:
    """c[0] + c[1] p + ... + c[9] p^9, written out so that a loop around it has no loop inside."""
    upper = c[5] + p * (c[6] + p * (c[7] + p * (c[8] + p * c[9])))
    return c[0] + p * (c[1] + p * (c[2] + p * (c[3] + p * (c[4] + p * upper))))


@njit(**_FLAGS)
def tilt_row(a: Array, s: Array, h2: float, d: int, f: Array, slope: Array) -> None:
    """Write F and dF/dq of a row of splats in dimension d, float32."""
    dimension, n1, series = _debye(d)
    order = np.arange(10)
    half_c = (order * series).astype(np.float32)  # 1/2 + C
    half_cc = ((order + 0.5 * order * order) * series).astype(np.float32)  # 1/2 + C + p C'/2
    half_c[0] = half_cc[0] = _HALF
    for k in range(a.shape[0]):
        q = tilted_square(a[k], s[k], h2)
        p = _ONE / np.sqrt(_ONE + q * n1 * n1)
        pn = p * n1
        share = _ONE / (_ONE + p)
        f[k] = pn * (share - pn * _horner(half_c, p))
        slope[k] = pn * pn * pn * (pn * _horner(half_cc, p) - _HALF * share * share)
    while dimension > d:
        dimension -= 2
        for k in range(a.shape[0]):
            q = tilted_square(a[k], s[k], h2)
            step = _ONE / (np.float32(dimension) + q * f[k])
            slope[k] = -step * step * (f[k] + q * slope[k])
            f[k] = step


@njit(**_FLAGS)
def tilt_change_row(a: Array, s: Array, h2: float, d: int, f: Array, change: Array) -> None:
    """Write F(q) and F(q) - F(a^2) of a row of splats in dimension d, never subtracting the two."""
    dimension, n1, series = _debye(d)
    # C without the 1/2 that goes with it elsewhere: its differences keep their digits.
    c = (np.arange(10) * series).astype(np.float32)
    n2 = n1 * n1
    for k in range(a.shape[0]):
        delta = max(_TWO * a[k] * s[k] + h2, -a[k] * a[k])
        p = _ONE / np.sqrt(max(_ONE + (a[k] * a[k] + delta) * n2, _ONE))
        start = _ONE / np.sqrt(_ONE + a[k] * a[k] * n2)
        c_here = _horner(c, p)
        f[k] = p * n1 * (_ONE / (_ONE + p) - p * n1 * (_HALF + c_here))
        both = p * start
        fall = _ONE / ((p + start) * (_ONE + p) * (_ONE + start)) - n1 * (_HALF + c_here)
        bend = n2 * start * start * (c_here - _horner(c, start))
        change[k] = -n1 * (delta * n2 * both * both * fall) - bend
    if dimension > d:
        untilted = np.empty_like(f)
        for k in range(a.shape[0]):
            untilted[k] = f[k] - change[k]
        while dimension > d:
            dimension -= 2
            for k in range(a.shape[0]):
                delta = max(_TWO * a[k] * s[k] + h2, -a[k] * a[k])
                slope = delta * f[k] + a[k] * a[k] * change[k]
                f[k] = _ONE / (np.float32(dimension) + (a[k] * a[k] + delta) * f[k])
                untilted[k] = _ONE / (np.float32(dimension) + a[k] * a[k] * untilted[k])
                change[k] = -f[k] * untilted[k] * slope


@njit(**_FLAGS)
def untilted_terms(a: Array, d: int) -> tuple[Array, Array]:
    """s = sqrt(1 + a^2/nu^2) and log U(1/s) of the untilted splats, (N,), for `log_ratio_row`."""
    _, n1, series = _debye(d)
    root, log_u = np.empty_like(a), np.empty_like(a)
    for k in range(a.shape[0]):
        root[k] = np.sqrt(_ONE + a[k] * a[k] * n1 * n1)
        log_u[k] = _horner(series, 1 / np.float64(root[k]))
    return root, log_u


@njit(**_FLAGS)
def log_ratio_row(
    a: Array, s: Array, h2: float, d: int, root: Array, log_u: Array, out: Array
) -> None:
    """Write log Z0(|eta|) - log Z0(a) of a row of splats, float32, never subtracting the two.

    `root` and `log_u` come from `untilted_terms`. From d = 64 on this is the Debye form written for
    vector instructions; below, `_vmf.log_z0_ratio` takes over.
    """
    if d < _EXPANSION_DIMENSION:
        for k in range(a.shape[0]):
            out[k] = log_z0_ratio(a[k], _TWO * a[k] * s[k] + h2, d)
        return
    _, n1, series64 = _debye(d)
    series = series64.astype(np.float32)
    nu = _ONE / n1
    change = np.empty(a.shape[0], np.float32)
    # Each loop touches few arrays, and the logarithm is called at one place: beyond that the
    # compiler gives up on telling arrays apart, or on inlining, and makes no vector instructions.
    for k in range(a.shape[0]):
        delta = max(_TWO * a[k] * s[k] + h2, -a[k] * a[k])
        stop = np.sqrt(max(_ONE + (a[k] * a[k] + delta) * n1 * n1, _ONE))
        change[k] = delta * n1 * n1 / (root[k] + stop)
    for k in range(a.shape[0]):
        out[k] = _horner(series, _ONE / (root[k] + change[k])) - log_u[k] + nu * change[k]
    for offset, factor in ((_ONE, nu), (_ZERO, _HALF)):
        for k in range(a.shape[0]):
            out[k] -= factor * log1p_accurate(change[k] / (root[k] + offset))


@njit(cache=True, fastmath={"contract", "reassoc"})
def total(values: Array) -> Any:
    """Sum of a row."""
    result = _ZERO
    for k in range(values.shape[0]):
        result += values[k]
    return result


def column_workgroups(dims: Dims, params: Mapping[str, Scalar]) -> int:
    """One workgroup for each row and one for each COLUMNS columns."""
    return dims["B"] + -(-dims["N"] // COLUMNS)


def column_rounds(dims: Dims, params: Mapping[str, Scalar]) -> int:
    """Rounds of a workgroup that goes along a row, or down COLUMNS columns."""
    return _rounds.rows_and_columns(dims, _rounds.recurrence(params["dimension"]))


def squares(s: Array, a: Array, h2: Array) -> Array:
    """|eta|^2 (B,N) in float64."""
    return np.maximum(a**2 + 2 * a * s + h2[:, None], 0)


def slopes(q: Array, dimension: int) -> tuple[Array, Array]:
    """F(q) and dF/dq = (A' - F)/(2q) in float64; at small q the series F = 1/d - q/(d^2 (d+2))."""
    d = int(dimension)
    small = q < 1e-4
    safe = np.where(small, 1, q)
    r = np.sqrt(safe)
    f = np.where(small, 1 / d - q / (d**2 * (d + 2)), mean_cosine(r, d) / r)
    slope = (mean_cosine_derivative(r, d) - f) / (2 * safe)
    return f, np.where(small, -1 / (d**2 * (d + 2)), slope)
