"""Numba code for x mu^T with few rows of x: register tiles, one pass over mu, free-running threads.

Threads take chunks of mu from a common counter and never wait for each other, so that other work
on the machine slows a search only in proportion. *Measured*, 4 to 64 queries over 50,000 x 640 on
two cores: level with OpenBLAS or better, up to 2.7 times faster beside other work.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numba
import numpy as np
from numba import njit

from ebm_wgpu.kernels import _topk
from ebm_wgpu.kernels.spec import Array

BLOCK = 64
CHUNK = 1024
_SMALL = 1 << 20
_ZERO = np.float32(0)
# Sums may be reordered, which vector code needs; NaN and infinity keep their meaning.
_SUMS = {"reassoc", "contract", "nsz"}


@njit(fastmath=_SUMS, nogil=True, cache=True)
def _dot(a: Array, b: Array) -> np.float32:
    total = _ZERO
    for i in range(a.shape[0]):
        total += a[i] * b[i]
    return total


@njit(fastmath=_SUMS, nogil=True, cache=True)
def _products(x: Array, mu: Array, out: Array) -> None:
    """out = x mu^T by register tiles of 4 x 4."""
    queries, splats = x.shape[0] // 4 * 4, mu.shape[0] // 4 * 4
    for j in range(0, splats, 4):
        m0, m1, m2, m3 = mu[j], mu[j + 1], mu[j + 2], mu[j + 3]
        for b in range(0, queries, 4):
            x0, x1, x2, x3 = x[b], x[b + 1], x[b + 2], x[b + 3]
            s00 = s01 = s02 = s03 = _ZERO
            s10 = s11 = s12 = s13 = _ZERO
            s20 = s21 = s22 = s23 = _ZERO
            s30 = s31 = s32 = s33 = _ZERO
            for i in range(x.shape[1]):
                v0, v1, v2, v3 = m0[i], m1[i], m2[i], m3[i]
                u = x0[i]
                s00 += u * v0
                s01 += u * v1
                s02 += u * v2
                s03 += u * v3
                u = x1[i]
                s10 += u * v0
                s11 += u * v1
                s12 += u * v2
                s13 += u * v3
                u = x2[i]
                s20 += u * v0
                s21 += u * v1
                s22 += u * v2
                s23 += u * v3
                u = x3[i]
                s30 += u * v0
                s31 += u * v1
                s32 += u * v2
                s33 += u * v3
            out[b, j], out[b, j + 1], out[b, j + 2], out[b, j + 3] = s00, s01, s02, s03
            out[b + 1, j], out[b + 1, j + 1], out[b + 1, j + 2], out[b + 1, j + 3] = (
                s10,
                s11,
                s12,
                s13,
            )
            out[b + 2, j], out[b + 2, j + 1], out[b + 2, j + 2], out[b + 2, j + 3] = (
                s20,
                s21,
                s22,
                s23,
            )
            out[b + 3, j], out[b + 3, j + 1], out[b + 3, j + 2], out[b + 3, j + 3] = (
                s30,
                s31,
                s32,
                s33,
            )
    for j in range(mu.shape[0]):
        for b in range(queries if j < splats else 0, x.shape[0]):
            out[b, j] = _dot(x[b], mu[j])


@njit(nogil=True, cache=True)
def fill_cosines(x: Array, mu: Array, out: Array, first: int, last: int) -> None:
    """Columns `first` to `last` of out = x mu^T."""
    for start in range(first, last, BLOCK):
        end = min(start + BLOCK, last)
        _products(x, mu[start:end], out[:, start:end])


@njit(nogil=True, cache=True)
def scan(x: Array, mu: Array, first: int, last: int, keys: Array, indices: Array) -> None:
    """Offer rows `first` to `last` of mu to the sorted lists of the queries.

    keys and indices are (B, K), as `_topk.offer_run` keeps them; no row after `first` is in them.
    """
    scores = np.empty((x.shape[0], BLOCK), np.float32)
    bits = scores.view(np.int32)
    for start in range(first, last, BLOCK):
        end = min(start + BLOCK, last)
        _products(x, mu[start:end], scores[:, : end - start])
        for query in range(x.shape[0]):
            _topk.offer_run(bits[query, : end - start], start, keys[query], indices[query])


@njit(nogil=True, cache=True)
def merge(keys: Array, indices: Array, into_keys: Array, into_indices: Array) -> None:
    """Merge sorted lists, (rows, K), into others."""
    for row in range(keys.shape[0]):
        for i in range(keys.shape[1]):
            if indices[row, i] >= 0:
                _topk.offer_key(keys[row, i], indices[row, i], into_keys[row], into_indices[row])


@cache
def pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="ebm-search")


def in_chunks(
    first: int, last: int, cost: int, work: Callable[[Iterator[tuple[int, int]]], None]
) -> None:
    """Call `work` in every thread with an iterator over (start, end) that together cover a range.

    Args:
        first: start of the range.
        last: its end.
        cost: multiply-adds for one index; a small range is left to the calling thread.
        work: consumes its iterator, in which starts ascend.
    """
    threads = numba.get_num_threads() if (last - first) * cost > _SMALL else 1
    starts = itertools.count(first, CHUNK)

    def chunks() -> Iterator[tuple[int, int]]:
        while (start := next(starts)) < last:
            yield start, min(start + CHUNK, last)

    if threads == 1:
        work(chunks())
        return
    for done in [pool(threads).submit(work, chunks()) for _ in range(threads)]:
        done.result()
