"""Order of candidates that `similarity_topk` and `topk_merge` share: Numba code, reference, checks.

Larger values come first, equal ones by the lower index, NaN last; -1 marks a place left empty.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ebm_wgpu.errors import KernelError
from ebm_wgpu.kernels.spec import Array

MOST = 128
_RUN = 64
_EMPTY = np.int32(-(2**31))
_NAN = np.int32(-(2**31) + 1)
_MAGNITUDE = np.int32(0x7FFFFFFF)
_INFINITY = np.int32(0x7F800000)


def check_count(stem: str, k: int) -> None:
    """Refuse a K that the workgroup's lists cannot hold.

    Raises:
        KernelError: K is not in 1..128.
    """
    if not 1 <= k <= MOST:
        raise KernelError(f"kernel {stem}: K={k} must be between 1 and {MOST}")


@njit(inline="always")
def sort_key(bits: np.int32) -> np.int32:
    """An integer that orders as the float32 with these bits does, -0 equal to 0 and NaN least."""
    magnitude = bits & _MAGNITUDE
    if magnitude > _INFINITY:
        return _NAN
    return magnitude if bits >= 0 else np.int32(-magnitude)


@njit(cache=True)
def start(keys: Array, indices: Array) -> None:
    """Empty the lists: keys and indices (rows, K), int32."""
    keys[:] = _EMPTY
    indices[:] = -1


@njit(nogil=True, cache=True)
def offer_run(bits: Array, first: int, keys: Array, indices: Array) -> None:
    """Offer values with consecutive indices to a sorted list.

    Args:
        bits: the float32 values as int32, (n,).
        first: index of the first value, greater than any index in the list.
        keys: the list's keys in descending order, (K,), updated.
        indices: their indices, (K,), updated.
    """
    last = keys.shape[0] - 1
    for begin in range(0, bits.shape[0], _RUN):
        end = min(begin + _RUN, bits.shape[0])
        threshold = keys[last]
        # A loop without branches, which the compiler turns into vector code; few chunks pass it.
        hits = 0
        for i in range(begin, end):
            hits += sort_key(bits[i]) > threshold
        if hits == 0:
            continue
        for i in range(begin, end):
            key = sort_key(bits[i])
            if key > keys[last]:
                place = last
                while place > 0 and keys[place - 1] < key:
                    keys[place] = keys[place - 1]
                    indices[place] = indices[place - 1]
                    place -= 1
                keys[place] = key
                indices[place] = first + i


@njit(nogil=True, cache=True)
def offer_key(key: np.int32, index: int, keys: Array, indices: Array) -> None:
    """Offer one value by its key, with any index, to a sorted list (as `offer_run`)."""
    place = keys.shape[0]
    while place > 0 and (
        keys[place - 1] < key or (keys[place - 1] == key and indices[place - 1] > index)
    ):
        place -= 1
    for i in range(keys.shape[0] - 1, place, -1):
        keys[i] = keys[i - 1]
        indices[i] = indices[i - 1]
    if place < keys.shape[0]:
        keys[place] = key
        indices[place] = index


@njit(cache=True)
def decode(keys: Array, bits: Array) -> None:
    """Bits of the float32 values that belong to the keys; NaN for an empty place."""
    for row in range(keys.shape[0]):
        for i in range(keys.shape[1]):
            key = keys[row, i]
            if key <= _NAN:
                bits[row, i] = np.int32(0x7FC00000)
            else:
                bits[row, i] = key if key >= 0 else (-key) | _EMPTY


def reference_best(values: Array, indices: Array, k: int) -> tuple[Array, Array]:
    """The k best of each row of candidates (values, indices), both (rows, n); -1 pads."""
    order = np.lexsort((indices, -values, np.isnan(values), indices < 0))[:, :k]
    best_indices = np.take_along_axis(indices, order, 1)
    best_values = np.where(best_indices < 0, np.nan, np.take_along_axis(values, order, 1))
    missing = ((0, 0), (0, k - order.shape[1]))
    return (
        np.pad(best_values, missing, constant_values=np.nan),
        np.pad(np.maximum(best_indices, -1), missing, constant_values=-1).astype(np.int32),
    )
