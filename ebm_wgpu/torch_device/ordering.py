"""Sorting on the device: keys, bitonic merges, and the order that results."""

from __future__ import annotations

import torch

from ebm_wgpu.kernels.sort_block import BLOCK
from ebm_wgpu.torch_device.tensors import empty, run_kernel

_BY_COUNTING = 8192
"""Up to so many ids, counting (`token_order`) is less work than sorting."""


def row_order(rows: torch.Tensor, descending: bool) -> torch.Tensor:
    """The stable order of each row, (R, P) with P >= N; the first N are the row's places.

    Args:
        rows: (R, N) float32 or whole numbers, not empty; NaN is above all numbers.
        descending: from the greatest on.
    """
    height, count = rows.shape
    width = 1 << (count - 1).bit_length()
    keys = empty((height, width), torch.int32)
    order = empty((height, width), torch.int64)
    kind = "float" if rows.dtype.is_floating_point else "int"
    run_kernel(f"sort_keys_{kind}", x=rows, descending=int(descending), keys=keys, order=order)
    run_kernel("sort_block", keys=keys, order=order, first=2, last=min(width, BLOCK))
    merge = 2 * BLOCK
    while merge <= width:
        apart = merge // 2
        while apart >= BLOCK:
            run_kernel("sort_step", keys=keys, order=order, merge=merge, apart=apart)
            apart //= 2
        run_kernel("sort_block", keys=keys, order=order, first=merge, last=merge)
        merge *= 2
    return order


def stable_order(ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Places of whole numbers in rising order, equal ones as they came, and the sorted numbers.

    Args:
        ids: (B,), not empty.
    """
    count = len(ids)
    if count <= _BY_COUNTING:
        order, sorted_ids = empty((count,), torch.int64), empty((count,), torch.int64)
        run_kernel("token_order", ids=ids, order=order, sorted_ids=sorted_ids)
        return order, sorted_ids
    order = row_order(ids.view(1, -1) if ids.is_contiguous() else ids.reshape(1, -1), False)
    order = order[0, :count]
    return order, ids.gather(0, order)
