"""Elementary functions in float32, the Numba twins of wgsl/lib/math.wgsl.

They are branch-free so that a loop over them becomes vector instructions, which libm's are not. The
polynomials are those of Cephes (Moshier 1989); results are good to a few units in the last place.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

F32 = Any
"""A NumPy float32 scalar: Numba keeps its width, for which Python has no annotation."""
I32 = Any
"""A NumPy int32 scalar."""

_LOG = tuple(
    np.float32(c)
    for c in (
        7.0376836292e-2,
        -1.1514610310e-1,
        1.1676998740e-1,
        -1.2420140846e-1,
        1.4249322787e-1,
        -1.6668057665e-1,
        2.0000714765e-1,
        -2.4999993993e-1,
        3.3333331174e-1,
    )
)
_EXP = tuple(
    np.float32(c)
    for c in (
        1.9875691500e-4,
        1.3981999507e-3,
        8.3334519073e-3,
        4.1665795894e-2,
        1.6666665459e-1,
        5.0000001201e-1,
    )
)
_SIN = tuple(np.float32(c) for c in (-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1))
_COS = tuple(
    np.float32(c) for c in (2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2)
)
# log 2 and pi/2 in parts, the first ones exact in few bits.
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_HALF_PI_PARTS = tuple(np.float32(c) for c in (1.5703125, 4.83751297e-4, 7.54978995e-8))
_LOG2_E, _TWO_OVER_PI = np.float32(1.44269504), np.float32(0.636619772)
_TWO_PI = np.float32(2 * math.pi)
_ZERO, _ONE, _HALF, _QUARTER = (np.float32(c) for c in (0, 1, 0.5, 0.25))
_TINY, _HUGE = np.float32(np.finfo(np.float32).tiny), np.float32(np.finfo(np.float32).max)
_INFINITY, _NAN = np.float32(np.inf), np.float32(np.nan)
_EXP_LOW, _EXP_HIGH = np.float32(-87), np.float32(88)
_SQRT_HALF_BITS = np.int32(0x3F3504F3)
_BIAS, _MANTISSA_BITS = np.int32(127), np.int32(23)

_CONTRACT = {"contract"}


@njit(cache=True, fastmath=_CONTRACT, error_model="numpy", forceinline=True)
def _log_core(f: F32, exponent: F32) -> F32:
    """log(1 + f) + exponent log 2, for 1 + f in [sqrt(1/2), sqrt(2)]."""
    z = f * f
    p = _LOG[0]
    for i in range(1, 9):
        p = p * f + _LOG[i]
    return f + (f * z * p + _LN2_LOW * exponent - _HALF * z) + _LN2_HIGH * exponent


@njit(cache=True, error_model="numpy", forceinline=True)
def _outside(x: F32) -> F32:
    """log x where x is no positive normal number; subnormal ones count as zero."""
    return -_INFINITY if x >= _ZERO and x < _TINY else (x if x > _ZERO else _NAN)


@njit(cache=True, error_model="numpy", forceinline=True)
def _exponent(x: F32) -> I32:
    """The power of two that brings a positive normal x into [sqrt(1/2), sqrt(2))."""
    return np.int32((np.float32(x).view(np.int32) - _SQRT_HALF_BITS) >> _MANTISSA_BITS)


@njit(cache=True, error_model="numpy", forceinline=True)
def _mantissa(x: F32, exponent: I32) -> F32:
    bits = np.int32(np.float32(x).view(np.int32) - np.int32(exponent << _MANTISSA_BITS))
    return bits.view(np.float32)


@njit(cache=True, fastmath=_CONTRACT, error_model="numpy", forceinline=True)
def log_accurate(x: F32) -> F32:
    """log x of a float32: -inf at zero, NaN below, subnormal numbers count as zero."""
    exponent = _exponent(x)
    result = _log_core(_mantissa(x, exponent) - _ONE, np.float32(exponent))
    return result if x >= _TINY and x <= _HUGE else _outside(x)


@njit(cache=True, fastmath=_CONTRACT, error_model="numpy", forceinline=True)
def log1p_accurate(x: F32) -> F32:
    """log(1 + x) of a float32, with relative accuracy at every x > -1."""
    u = _ONE + x
    exponent = _exponent(u)
    f = x if exponent == np.int32(0) else _mantissa(u, exponent) - _ONE
    result = _log_core(f, np.float32(exponent))
    return result if u >= _TINY and u <= _HUGE else _outside(u)


@njit(cache=True, fastmath=_CONTRACT, error_model="numpy", forceinline=True)
def _exp_parts(x: F32) -> tuple[F32, F32]:
    """exp(x) = 2^n (1 + m): (2^n, m), for x in [-87, 88]."""
    n = np.float32(np.rint(x * _LOG2_E))
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    p = _EXP[0]
    for i in range(1, 6):
        p = p * r + _EXP[i]
    bits = np.int32((np.int32(n) + _BIAS) << _MANTISSA_BITS)
    return bits.view(np.float32), r * r * p + r


@njit(cache=True, error_model="numpy", forceinline=True)
def _saturate(x: F32, result: F32, low: F32) -> F32:
    high = _INFINITY if x > _EXP_HIGH else result
    inside = low if x < _EXP_LOW else high
    return x if x != x else inside


@njit(cache=True, fastmath=_CONTRACT, error_model="numpy", forceinline=True)
def exp_accurate(x: F32) -> F32:
    """exp x of a float32; 0 below -87 and inf above 88, a little before float32 ends."""
    power, m = _exp_parts(min(max(x, _EXP_LOW), _EXP_HIGH))
    return _saturate(x, power + power * m, _ZERO)


@njit(cache=True, fastmath=_CONTRACT, error_model="numpy", forceinline=True)
def expm1_accurate(x: F32) -> F32:
    """exp(x) - 1 of a float32, with relative accuracy at every x; inf above 88."""
    power, m = _exp_parts(min(max(x, _EXP_LOW), _EXP_HIGH))
    return _saturate(x, power * m + (power - _ONE), -_ONE)


@njit(cache=True, fastmath=_CONTRACT, error_model="numpy", forceinline=True)
def _sincos_core(angle: F32, quadrant: I32) -> tuple[F32, F32]:
    """(sin, cos) of angle + quadrant pi/2, for |angle| <= pi/4."""
    z = angle * angle
    sine = ((_SIN[0] * z + _SIN[1]) * z + _SIN[2]) * z * angle + angle
    cosine = ((_COS[0] * z + _COS[1]) * z + _COS[2]) * z * z - _HALF * z + _ONE
    odd = (quadrant & np.int32(1)) != 0
    s = cosine if odd else sine
    c = sine if odd else cosine
    return (
        -s if (quadrant & np.int32(2)) != 0 else s,
        -c if (np.int32(quadrant + np.int32(1)) & np.int32(2)) != 0 else c,
    )


@njit(cache=True, fastmath=_CONTRACT, error_model="numpy", forceinline=True)
def sincos_turns(u: F32) -> tuple[F32, F32]:
    """(sin, cos) of 2 pi u for a float32 with |u| < 2^20; exact at multiples of a quarter."""
    quadrant = np.float32(np.rint(np.float32(4) * u))
    return _sincos_core(_TWO_PI * (u - _QUARTER * quadrant), np.int32(quadrant))


@njit(cache=True, fastmath=_CONTRACT, error_model="numpy", forceinline=True)
def sincos_accurate(x: F32) -> tuple[F32, F32]:
    """(sin, cos) of a float32 angle in radians, |x| <= 8192."""
    quadrant = np.float32(np.rint(x * _TWO_OVER_PI))
    reduced = x - quadrant * _HALF_PI_PARTS[0]
    reduced = (reduced - quadrant * _HALF_PI_PARTS[1]) - quadrant * _HALF_PI_PARTS[2]
    return _sincos_core(reduced, np.int32(quadrant))


@njit(cache=True, error_model="numpy", forceinline=True)
def atan2_accurate(y: F32, x: F32) -> F32:
    """The angle of the float32 point (x, y) in (-pi, pi]; 0 at the origin."""
    return np.float32(math.atan2(np.float32(y + _ZERO), np.float32(x + _ZERO)))
