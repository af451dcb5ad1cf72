"""Von Mises-Fisher functions in float32, the Numba twins of wgsl/lib/vmf.wgsl.

Relative to the uniform probability on S^{d-1}, d >= 8: Z0(k) = E[exp(k mu.x)], A(k) = d log Z0/dk.
The Debye expansion (Abramowitz and Stegun 9.7.7, in logarithmic form, to order nu^-3) is good to
4e-8 from d = 64 on; smaller dimensions start at 64 or 65 and come down by the recurrence
f_d = k^2/(d + f_{d+2}), log Z0_d = log Z0_{d+2} + log(1 + f_{d+2}/d), where f = k A(k).
The float64 truth is `ebm_wgpu.vmf`.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ebm_wgpu.kernels._math import F32, log1p_accurate
from ebm_wgpu.kernels.spec import Array

_DIMENSION = 64
_ZERO, _HALF, _ONE, _TWO, _NINE = (np.float32(c) for c in (0, 0.5, 1, 2, 9))
# Coefficients of log U at p^1, p^2, ...: (factor of nu^-1, of nu^-2, of nu^-3).
_C1 = np.float32(1 / 8)
_C2 = np.float32(1 / 16)
_C3_1, _C3_3 = np.float32(-5 / 24), np.float32(25 / 384)
_C4 = np.float32(-3 / 8)
_C5 = np.float32(-531 / 640)
_C6 = np.float32(5 / 16)
_C7 = np.float32(221 / 128)
_C9 = np.float32(-1105 / 1152)

_CONTRACT = {"contract"}
_Four = tuple[F32, F32, F32, F32]


@njit(cache=True, inline="always")
def _start(d: int) -> int:
    """The dimension of the same parity, at least d, at which the expansion is used."""
    return max(d, _DIMENSION + (d & 1))


@njit(cache=True, fastmath=_CONTRACT, error_model="numpy", forceinline=True)
def _step(e: _Four, p: F32, r: F32, c: F32, order: F32) -> _Four:
    """One Horner step for a polynomial P (value, divided difference) and for p P'."""
    return e[0] * p + c, e[1] * r + e[0], e[2] * p + np.float32(order) * c, e[3] * r + e[2]


@njit(cache=True, fastmath=_CONTRACT, error_model="numpy", forceinline=True)
def _debye(p: F32, r: F32, nu: F32) -> _Four:
    """With P = log U: P(p), (P(r) - P(p))/(r - p), and the same of w(p) = p P'(p)."""
    n1 = _ONE / nu
    n2 = n1 * n1
    n3 = n1 * n2
    top = _C9 * n3
    e = (top, _ZERO, _NINE * top, _ZERO)
    e = _step(e, p, r, _ZERO, 8)
    e = _step(e, p, r, _C7 * n3, 7)
    e = _step(e, p, r, _C6 * n2, 6)
    e = _step(e, p, r, _C5 * n3, 5)
    e = _step(e, p, r, _C4 * n2, 4)
    e = _step(e, p, r, _C3_3 * n3 + _C3_1 * n1, 3)
    e = _step(e, p, r, _C2 * n2, 2)
    e = _step(e, p, r, _C1 * n1, 1)
    return _step(e, p, r, _ZERO, 0)


@njit(cache=True, fastmath=_CONTRACT, error_model="numpy", forceinline=True)
def _interval(a: F32, delta: F32) -> tuple[F32, F32]:
    """The smaller of a^2 and a^2 + delta, and the length of the way between them."""
    square = a * a
    return max(square + min(delta, _ZERO), _ZERO), abs(max(delta, -square))


@njit(cache=True, fastmath=_CONTRACT, error_model="numpy", forceinline=True)
def _expand(q: F32, change: F32, nu: F32) -> _Four:
    """log Z0(sqrt(q + change)) - log Z0(sqrt(q)) by the expansion; ds, w and its difference."""
    scale = _ONE / (nu * nu)
    s = np.sqrt(_ONE + q * scale)
    t = np.sqrt(_ONE + (q + change) * scale)
    ds = change * scale / (s + t)
    p = _ONE / s
    r = _ONE / t
    _, divided, w, w_divided = _debye(p, r, nu)
    result = nu * (ds - log1p_accurate(ds / (_ONE + s))) - _HALF * log1p_accurate(ds * p)
    return result - divided * ds * p * r, ds, w, w_divided


@njit(cache=True, fastmath=_CONTRACT, error_model="numpy")
def log_z0_ratio(a: F32, delta: F32, d: int) -> F32:
    """log Z0(sqrt(a^2 + delta)) - log Z0(a) without subtracting the two, float32.

    A delta below -a^2 counts as -a^2.
    """
    # From the smaller end the recurrence damps rounding errors; from the larger it feeds them.
    q, change = _interval(a, delta)
    dimension = _start(d)
    nu = _HALF * np.float32(dimension) - _ONE
    result, ds, w, w_divided = _expand(q, change, nu)
    if dimension > d:
        scale = _ONE / (nu * nu)
        s = np.sqrt(_ONE + q * scale)
        p = _ONE / s
        r = _ONE / (s + ds)
        dp = -ds * p * r
        sine = q * scale * p * p
        f = nu * q * scale / (_ONE + s) - sine * (_HALF + w)
        df = nu * ds + dp * ((p + r) * (_HALF + w + w_divided * dp) - sine * w_divided)
        while dimension > d:
            dimension -= 2
            total = np.float32(dimension) + f
            result += log1p_accurate(df / total)
            f = q / total
            df = (change - f * df) / (total + df)
    return -result if delta < _ZERO else result


@njit(cache=True, fastmath=_CONTRACT, error_model="numpy")
def fill_log_z0_ratio(a: Array, delta: Array, d: int, out: Array) -> None:
    """out[i] = log_z0_ratio(a[i], delta[i], d) for float32 vectors, several times as fast.

    `out` may be `delta`, but is slower so.
    """
    if d >= _DIMENSION:
        nu = _HALF * np.float32(d) - _ONE
        for i in range(out.shape[0]):
            q, change = _interval(a[i], delta[i])
            result = _expand(q, change, nu)[0]
            out[i] = -result if delta[i] < _ZERO else result
    else:
        for i in range(out.shape[0]):
            out[i] = log_z0_ratio(a[i], delta[i], d)


@njit(cache=True, error_model="numpy")
def log_z0(k: F32, d: int) -> F32:
    """log Z0(k) for k >= 0, float32; 0 at k = 0."""
    return log_z0_ratio(_ZERO, k * k, d)


@njit(cache=True, fastmath=_CONTRACT, error_model="numpy", forceinline=True)
def mean_ratio_and_slope(k: F32, d: int) -> tuple[F32, F32]:
    """(A(k)/k, dA/dk) for k >= 0, float32: (1/d, 1/d) at k = 0.

    With S = d + f_{d+2} and g = f - k df/dk at d + 2, A/k = 1/S and dA/dk = (d + g)/S^2, where
    g_d = -(k/S)^2 (d + g_{d+2}).
    """
    above = d + 2
    dimension = _start(above)
    nu = _HALF * np.float32(dimension) - _ONE
    q = (k / nu) * (k / nu)
    s = np.sqrt(_ONE + q)
    p = _ONE / s
    _, _, w, w_slope = _debye(p, p, nu)
    sine = q * p * p
    half_w = _HALF + w
    f = nu * q / (_ONE + s) - sine * half_w
    g = -nu * q * p / (_ONE + s) - sine * (half_w * (_ONE - _TWO * p * p) + sine * p * w_slope)
    while dimension > above:
        dimension -= 2
        total = np.float32(dimension) + f
        cosine = k / total
        g = -cosine * cosine * (np.float32(dimension) + g)
        f = k * cosine
    total = np.float32(d) + f
    return _ONE / total, (np.float32(d) + g) / total / total


@njit(cache=True, error_model="numpy", forceinline=True)
def mean_ratio(k: F32, d: int) -> F32:
    """A(k)/k, float32, finite at k = 0."""
    return mean_ratio_and_slope(k, d)[0]


@njit(cache=True, error_model="numpy", forceinline=True)
def mean_cosine(k: F32, d: int) -> F32:
    """A(k) = E[mu.x] in [0, 1), float32."""
    return k * mean_ratio_and_slope(k, d)[0]


@njit(cache=True, error_model="numpy", forceinline=True)
def mean_cosine_slope(k: F32, d: int) -> F32:
    """dA/dk = Var[mu.x], float32, without the cancellation of 1 - A^2 - (d-1) A/k."""
    return mean_ratio_and_slope(k, d)[1]


@njit(cache=True, fastmath=_CONTRACT, error_model="numpy")
def log_peak(k: F32, d: int) -> F32:
    """k - log Z0(k) for k >= 0, the log density at the mode, float32.

    A sum of positive terms from d = 64 on; below, the recurrence takes off what it must.
    """
    dimension = _start(d)
    nu = _HALF * np.float32(dimension) - _ONE
    z = k / nu
    q = z * z
    s = np.sqrt(_ONE + q)
    p = _ONE / s
    ds = q / (_ONE + s)
    _, divided, _, _ = _debye(_ONE, p, nu)
    result = nu * (z * (_ONE + _ONE / (s + z)) / (_ONE + s) + log1p_accurate(_HALF * ds))
    result += _HALF * log1p_accurate(ds) + divided * ds * p
    if dimension > d:
        _, _, w, _ = _debye(p, p, nu)
        f = nu * ds - q * p * p * (_HALF + w)
        while dimension > d:
            dimension -= 2
            total = np.float32(dimension) + f
            result -= log1p_accurate(f / np.float32(dimension))
            f = k * (k / total)
    return result


@njit(cache=True, fastmath=_CONTRACT, error_model="numpy")
def mean_cosine_gap(k: F32, d: int) -> F32:
    """1 - A(k) for k >= 0, float32, without subtracting the two.

    With b = k - f at d + 2 it is (d - b)/(d + k - b), and b_d = k (d - b_{d+2})/(d + k - b_{d+2}).
    """
    above = d + 2
    dimension = _start(above)
    nu = _HALF * np.float32(dimension) - _ONE
    z = k / nu
    q = z * z
    s = np.sqrt(_ONE + q)
    p = _ONE / s
    _, _, w, _ = _debye(p, p, nu)
    b = nu * z * (_ONE + _ONE / (s + z)) / (_ONE + s) + q * p * p * (_HALF + w)
    while dimension > above:
        dimension -= 2
        left = np.float32(dimension) - b
        b = k * (left / (left + k))
    left = np.float32(d) - b
    return left / (left + k)
