"""The order of entries that sorting and searching the best share: NumPy truth, drawn rows.

-0 equals 0, NaN is above all numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from ebm_wgpu.kernels.spec import DTYPES, Array, Arrays, Dims

Kind = Literal["f32", "i32"]
TYPES: dict[str, Kind] = {"float": "f32", "int": "i32"}


def keys(x: Array) -> Array:
    """Unsigned keys of float32 or int32 entries, which rise as the entries do."""
    if x.dtype == np.int32:
        return x.view(np.uint32) ^ np.uint32(0x80000000)
    bits = (x + np.float32(0)).view(np.uint32)
    bits = np.where(x == 0, np.uint32(0), bits)
    key = np.where(bits >> 31, ~bits, bits | np.uint32(0x80000000))
    return np.where(np.isnan(x), np.uint32(0xFFFFFFFE), key).astype(np.uint32)


def rows(kind: Kind) -> Callable[[np.random.Generator, Dims], Arrays]:
    """Draws rows with many ties, zeros of both signs, infinities and NaN."""

    def draw(rng: np.random.Generator, dims: Dims) -> Arrays:
        shape = (dims["R"], dims["N"])
        if kind == "i32":
            x = rng.integers(-20, 20, shape).astype(np.int32)
            if x.size > 8:
                x.reshape(-1)[:4] = [2**31 - 1, -(2**31), 0, -1]
        else:
            x = np.round(rng.standard_normal(shape), 1).astype(np.float32)
            if x.size > 8:
                x.reshape(-1)[:7] = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-42, np.nan]
                rng.shuffle(x[0])
        return {"x": x.astype(DTYPES[kind])}

    return draw
