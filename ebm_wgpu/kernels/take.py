"""out[...] = x[... + index[...] step] over strided arrays: gather, index_select, x[indices].

A kernel walks a grid as those of `pointwise` do. A negative index counts from `size`; one outside
-size .. size - 1 gives NaN, or 0 in whole numbers: a kernel cannot raise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ebm_wgpu.kernels import _indexing
from ebm_wgpu.kernels.pointwise import grid_view
from ebm_wgpu.kernels.spec import Array


def _taken(values: Mapping[str, Any]) -> Array:
    out: Array = values["out"].copy()
    at, valid = _indexing.places(values, "x")
    nothing = np.nan if out.dtype.kind == "f" else 0
    chosen = values["x"].reshape(-1)[np.where(valid, at, 0)]
    grid_view(out, "out", values)[...] = np.where(valid, chosen, nothing)
    return out


KERNELS = (
    _indexing.kernel("take", "f32", _taken, {"NOTHING": "bitcast<f32>(NAN_BITS)"}),
    _indexing.kernel("take", "i32", _taken, {"NOTHING": "0"}),
)
