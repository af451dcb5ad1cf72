"""Sorting, the greatest entries, distinct ones, bisection: the kernels sort_*, search_sorted."""

from __future__ import annotations

import torch

from ebm_wgpu.errors import DeviceError
from ebm_wgpu.torch_device.masks import true_places
from ebm_wgpu.torch_device.ordering import row_order
from ebm_wgpu.torch_device.reductions import axes, deliver
from ebm_wgpu.torch_device.registration import claim, implements
from ebm_wgpu.torch_device.tensors import empty, run_kernel

_WORK_TYPES = {torch.float16: torch.float32, torch.bool: torch.int32}

Found = tuple[torch.Tensor, torch.Tensor]
"""Values and indices."""


def _best(self: torch.Tensor, count: int, dim: int, descending: bool) -> Found:
    """The first `count` entries of the order along a dimension, and their places."""
    if self.dim() == 0:
        return self.clone(), torch.zeros((), dtype=torch.int64, device=self.device)
    (axis,) = axes(self, dim)
    moved = self.movedim(axis, -1)
    shape = (*moved.shape[:-1], count)
    if 0 in shape or self.numel() == 0:
        places = empty(shape, torch.int64)
    else:
        rows = moved.to(_WORK_TYPES.get(self.dtype, self.dtype)).reshape(-1, moved.shape[-1])
        places = row_order(rows, descending)[:, :count].reshape(shape)
    values = moved.gather(-1, places)
    return values.movedim(-1, axis), places.movedim(-1, axis)


@implements("sort.stable")
def sort(
    self: torch.Tensor, *, stable: bool | None = None, dim: int = -1, descending: bool = False
) -> Found:
    """Entries along a dimension in order, equal ones as they stood, NaN above all numbers."""
    count = self.shape[dim] if self.dim() else 1
    return _best(self, count, dim, descending)


@implements("sort.values_stable")
def sort_into(
    self: torch.Tensor,
    *,
    stable: bool | None = None,
    dim: int = -1,
    descending: bool = False,
    values: torch.Tensor,
    indices: torch.Tensor,
) -> Found:
    """The same into `values` and `indices`."""
    found = sort(self, stable=stable, dim=dim, descending=descending)
    return deliver(found[0], values), deliver(found[1], indices)


@implements("topk")
def topk(
    self: torch.Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True
) -> Found:
    """The k greatest (least) entries along a dimension in order, equal ones as they stood.

    Raises:
        RuntimeError: k is beyond the size of the dimension.
    """
    size = self.shape[dim] if self.dim() else 1
    if not 0 <= k <= size:
        raise RuntimeError("selected index k out of range")
    return _best(self, k, dim, largest)


@implements("topk.values")
def topk_into(
    self: torch.Tensor,
    k: int,
    dim: int = -1,
    largest: bool = True,
    sorted: bool = True,
    *,
    values: torch.Tensor,
    indices: torch.Tensor,
) -> Found:
    """The same into `values` and `indices`."""
    found = topk(self, k, dim, largest)
    return deliver(found[0], values), deliver(found[1], indices)


def _distinct(self: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Distinct entries in order, which of them each entry is, and how often each occurs."""
    flat = self.reshape(-1)
    if not flat.numel():
        nothing = empty((0,), torch.int64)
        return flat.clone(), nothing.view(self.shape), nothing
    values, places = _best(flat, len(flat), 0, False)
    first = torch.ones(values.shape, dtype=torch.bool, device=self.device)
    first[1:].copy_(values[1:].ne(values[:-1]))
    starts = true_places(first)
    inverse = torch.empty_like(places).scatter_(0, places, first.cumsum(0) - 1)
    ends = torch.cat([starts[1:], torch.full_like(starts[:1], len(flat))])
    return values.index_select(0, starts), inverse.view(self.shape), ends - starts


@implements("_unique")
def unique(self: torch.Tensor, sorted: bool = True, return_inverse: bool = False) -> Found:
    """Distinct entries in order, and which of them each entry is; waits for the device."""
    return _distinct(self)[:2]


@implements("_unique2")
def unique_with_counts(
    self: torch.Tensor,
    sorted: bool = True,
    return_inverse: bool = False,
    return_counts: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The same, and how often each occurs."""
    return _distinct(self)


@implements("searchsorted.Tensor")
def searchsorted(
    sorted_sequence: torch.Tensor,
    self: torch.Tensor,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Where entries would be inserted into sorted rows, before equal ones or, right, behind them.

    Raises:
        DeviceError: whole numbers, which the kernel does not compare exactly.
    """
    if not (self.dtype.is_floating_point and sorted_sequence.dtype.is_floating_point):
        raise DeviceError(
            'searchsorted on torch.device("wgpu") takes float tensors: convert with .float() where '
            "the numbers stay below 2^24"
        )
    rows = sorted_sequence if sorter is None else sorted_sequence.gather(-1, sorter)
    rows, wanted = rows.float(), self.float()
    height = 1 if rows.dim() == 1 else rows.numel() // max(rows.shape[-1], 1)
    result = empty(self.shape, torch.int32 if out_int32 else torch.int64)
    if self.numel() and rows.shape[-1] == 0:
        result.zero_()
    elif self.numel():
        run_kernel(
            "search_sorted",
            boundaries=rows.reshape(height, -1),
            x=wanted.reshape(height, -1),
            right=int(right or side == "right"),
            out=result.view(height, -1),
        )
    return deliver(result, out)


@implements("bucketize.Tensor")
def bucketize(
    self: torch.Tensor,
    boundaries: torch.Tensor,
    *,
    out_int32: bool = False,
    right: bool = False,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Which of the intervals between sorted boundaries each entry lies in."""
    return searchsorted(boundaries, self, out_int32=out_int32, right=right, out=out)


@implements("searchsorted.Scalar")
def searchsorted_of_number(
    sorted_sequence: torch.Tensor,
    self: float,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: torch.Tensor | None = None,
) -> torch.Tensor:
    """Where a number would be inserted into a sorted row."""
    wanted = torch.full((), self, dtype=torch.float32, device=sorted_sequence.device)
    return searchsorted(
        sorted_sequence, wanted, out_int32=out_int32, right=right, side=side, sorter=sorter
    )


@implements("bucketize.Scalar")
def bucketize_number(
    self: float, boundaries: torch.Tensor, *, out_int32: bool = False, right: bool = False
) -> torch.Tensor:
    """Which of the intervals between sorted boundaries a number lies in."""
    return searchsorted_of_number(boundaries, self, out_int32=out_int32, right=right)


implements("searchsorted.Tensor_out")(searchsorted)
implements("bucketize.Tensor_out")(bucketize)

claim("sort", "topk", "argsort", "msort", "searchsorted", "bucketize")
