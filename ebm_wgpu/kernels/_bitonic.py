"""The steps of a bitonic sort of rows, in NumPy. Source: Batcher 1968 (AFIPS 32)."""

from __future__ import annotations

import numpy as np

from ebm_wgpu.kernels.spec import Array, Arrays, Dims


def step(keys: Array, order: Array, merge: int, apart: int) -> None:
    """Compare pairs `apart` from each other and exchange them, in place.

    Args:
        keys: unsigned keys stored as int32, (R, P).
        order: places, by which equal keys are ordered, (R, P).
        merge: entries of the merge; every second merge of a row sorts downwards.
        apart: a power of two below `merge`.
    """
    width = keys.shape[1]
    a = np.arange(width).reshape(-1, 2, apart)[:, 0].reshape(-1) if width > apart else np.arange(0)
    b = a + apart
    unsigned = keys.view(np.uint32)
    key_a, key_b = unsigned[:, a], unsigned[:, b]
    above = (key_a > key_b) | ((key_a == key_b) & (order[:, a] > order[:, b]))
    swap = above != ((a & (width - 1) & merge) != 0)
    for array in (unsigned, order):
        first, second = array[:, a], array[:, b]
        array[:, a], array[:, b] = np.where(swap, second, first), np.where(swap, first, second)


def draw(rng: np.random.Generator, dims: Dims) -> Arrays:
    """Keys with many ties, and places in some order."""
    shape = (dims["R"], dims["P"])
    places = np.argsort(rng.random(shape), 1).astype(np.int32)
    keys = rng.integers(-10, 10, shape).astype(np.int32)
    return {"keys": keys, "order": places}
