"""Counter-based random numbers: Philox4x32-10, the Numba twin of wgsl/lib/philox.wgsl.

Counter (block, step, chain, stream), key (seed_lo, seed_hi); coordinate i of a row is lane i % 4 of
block i // 4. Uniforms are (m + 1/2) 2^-23 with m the upper 23 bits of a word: exact in float32 on
every device, never 0 or 1. Normals are Box and Muller's on the lanes (0, 1) and (2, 3).

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

from ebm_wgpu.kernels._math import F32, log_accurate, sincos_turns
from ebm_wgpu.kernels.spec import Array

U32 = Any
"""A NumPy uint32 scalar, or an integer that fits one."""

STREAM_LANGEVIN = 0
STREAM_VELOCITY = 1
STREAM_COSINE = 2
STREAM_DIRECTION = 3
STREAM_COMPONENT = 4

_ROUNDS = 10
_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint32(0x9E3779B9), np.uint32(0xBB67AE85)
_SHIFT = np.uint64(32)
_HALF, _SCALE, _MINUS_TWO = np.float32(0.5), np.float32(2.0**-23), np.float32(-2)


@njit(cache=True)
def split_seed(seed: int) -> tuple[U32, U32]:
    """The key of a 64-bit seed: its low and its high word."""
    word = np.uint64(seed)
    return np.uint32(word & np.uint64(0xFFFFFFFF)), np.uint32(word >> _SHIFT)


def seeded(mirror: Callable[..., None]) -> Callable[..., None]:
    """A compiled mirror that takes any 64-bit seed; Numba reads integers of Python as signed."""

    @functools.wraps(mirror)
    def call(*, seed: int, **others: object) -> None:
        mirror(seed=np.uint64(seed), **others)

    return call


@njit(cache=True, error_model="numpy", forceinline=True)
def philox4x32(c0: U32, c1: U32, c2: U32, c3: U32, k0: U32, k1: U32) -> tuple[U32, U32, U32, U32]:
    """The four random words of one counter and key, all uint32."""
    x0, x1, x2, x3 = np.uint32(c0), np.uint32(c1), np.uint32(c2), np.uint32(c3)
    key0, key1 = np.uint32(k0), np.uint32(k1)
    for _ in range(_ROUNDS):
        first, second = _M0 * np.uint64(x0), _M1 * np.uint64(x2)
        x0, x1, x2, x3 = (
            np.uint32(second >> _SHIFT) ^ x1 ^ key0,
            np.uint32(second),
            np.uint32(first >> _SHIFT) ^ x3 ^ key1,
            np.uint32(first),
        )
        key0, key1 = np.uint32(key0 + _W0), np.uint32(key1 + _W1)
    return x0, x1, x2, x3


@njit(cache=True, error_model="numpy", forceinline=True)
def _uniform(word: U32) -> F32:
    # Through int32, for which there is a vector conversion; 23 bits fit.
    return (np.float32(np.int32(word >> np.uint32(9))) + _HALF) * _SCALE


@njit(cache=True, error_model="numpy", forceinline=True)
def uniform4(c0: U32, c1: U32, c2: U32, c3: U32, k0: U32, k1: U32) -> tuple[F32, F32, F32, F32]:
    """Four float32 uniforms in (0, 1)."""
    x0, x1, x2, x3 = philox4x32(c0, c1, c2, c3, k0, k1)
    return _uniform(x0), _uniform(x1), _uniform(x2), _uniform(x3)


@njit(cache=True, fastmath={"contract"}, error_model="numpy", forceinline=True)
def normal4(c0: U32, c1: U32, c2: U32, c3: U32, k0: U32, k1: U32) -> tuple[F32, F32, F32, F32]:
    """Four float32 standard normals."""
    u0, u1, u2, u3 = uniform4(c0, c1, c2, c3, k0, k1)
    radius = np.sqrt(_MINUS_TWO * log_accurate(u0))
    other = np.sqrt(_MINUS_TWO * log_accurate(u2))
    sine, cosine = sincos_turns(u1)
    other_sine, other_cosine = sincos_turns(u3)
    return radius * cosine, radius * sine, other * other_cosine, other * other_sine


@njit(cache=True, fastmath={"contract"})
def fill_normal(out: Array, step: int, chain: int, stream: int, k0: U32, k1: U32) -> None:
    """Fill the float32 vector `out` with the standard normals of one row."""
    whole = out.shape[0] // 4
    for block in range(whole):
        z0, z1, z2, z3 = normal4(np.uint32(block), step, chain, stream, k0, k1)
        out[4 * block] = z0
        out[4 * block + 1] = z1
        out[4 * block + 2] = z2
        out[4 * block + 3] = z3
    if 4 * whole < out.shape[0]:
        tail = normal4(np.uint32(whole), step, chain, stream, k0, k1)
        for lane in range(out.shape[0] - 4 * whole):
            out[4 * whole + lane] = tail[lane]


def philox_reference(
    block: Array | int, step: Array | int, chain: Array | int, stream: int, seed: int
) -> Array:
    """The random words of broadcast counters, (..., 4) uint32, in plain NumPy integers."""
    mask = np.uint64(0xFFFFFFFF)
    columns = np.broadcast_arrays(
        *(np.asarray(c).astype(np.uint64) & mask for c in (block, step, chain, stream))
    )
    x0, x1, x2, x3 = (c.copy() for c in columns)
    key0, key1 = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(_ROUNDS):
        first, second = x0 * _M0, x2 * _M1
        x0, x2 = (second >> _SHIFT) ^ x1 ^ np.uint64(key0), (first >> _SHIFT) ^ x3 ^ np.uint64(key1)
        x1, x3 = second & mask, first & mask
        key0, key1 = (key0 + int(_W0)) & 0xFFFFFFFF, (key1 + int(_W1)) & 0xFFFFFFFF
    return np.stack([x0, x1, x2, x3], axis=-1).astype(np.uint32)


def uniforms_of(words: Array) -> Array:
    """The uniforms in (0, 1) of random words, float64."""
    uniforms: Array = ((words >> np.uint32(9)) + 0.5) * 2.0**-23
    return uniforms


def uniform_reference(chains: Array, d: int, step: int, stream: int, seed: int) -> Array:
    """Uniforms of whole rows, float64 (len(chains), d)."""
    blocks = np.arange(-(-d // 4))
    words = philox_reference(blocks, step, np.asarray(chains)[:, None], stream, seed)
    return uniforms_of(words).reshape(len(chains), -1)[:, :d]


def normal_reference(chains: Array, d: int, step: int, stream: int, seed: int) -> Array:
    """Standard normals of whole rows, float64 (len(chains), d)."""
    uniforms = uniform_reference(chains, -(-d // 4) * 4, step, stream, seed)
    radius = np.sqrt(-2 * np.log(uniforms[:, 0::2]))
    angle = 2 * np.pi * uniforms[:, 1::2]
    pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
    return pairs.reshape(len(chains), -1)[:, :d]
