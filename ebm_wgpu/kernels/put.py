"""out[... + index[...] step] = x[...] over strided arrays: scatter, index_copy, x[indices] = y.

A kernel walks a grid as those of `pointwise` do. A negative index counts from `size`; where one
lies outside -size .. size - 1 nothing is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ebm_wgpu.kernels import _indexing
from ebm_wgpu.kernels.pointwise import grid_view
from ebm_wgpu.kernels.spec import Array


def _written(values: Mapping[str, Any]) -> Array:
    out: Array = values["out"].copy()
    at, valid = _indexing.places(values, "out")
    out.reshape(-1)[at[valid]] = grid_view(values["x"].reshape(-1), "x", values)[valid]
    return out


KERNELS = tuple(_indexing.kernel("put", kind, _written, {}) for kind in ("f32", "i32"))
