"""Tensors made of parts of others: cat, flip, roll, triangles, identity."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch._prims_common import (
    canonicalize_dim,
    canonicalize_dims,
    make_contiguous_strides_for,
)

from ebm_wgpu.torch_device.copies import copy_from
from ebm_wgpu.torch_device.elementwise import implements_all, promoted
from ebm_wgpu.torch_device.indexing import index_select
from ebm_wgpu.torch_device.reductions import deliver
from ebm_wgpu.torch_device.registration import claim, implements
from ebm_wgpu.torch_device.tensors import empty


@implements("cat")
def cat(
    tensors: Sequence[torch.Tensor], dim: int = 0, *, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Tensors behind each other along a dimension; empty vectors are passed over."""
    tensors = list(tensors)
    dtype = promoted(*tensors)
    parts = [t for t in tensors if t.dim() != 1 or t.numel()]
    if not parts:
        return deliver(empty((0,), dtype), out)
    first = parts[0]
    if first.dim() == 0:
        raise RuntimeError("zero-dimensional tensor (at position 0) cannot be concatenated")
    dim = canonicalize_dim(first.dim(), dim)
    shape = list(first.shape)
    for place, part in enumerate(parts):
        others = [n for a, n in enumerate(part.shape) if a != dim]
        if part.dim() != first.dim() or others != [n for a, n in enumerate(shape) if a != dim]:
            raise RuntimeError(
                f"Sizes of tensors must match except in dimension {dim}. Got {list(part.shape)} "
                f"for tensor number {place} in the list, and {list(first.shape)} for the first"
            )
    shape[dim] = sum(part.shape[dim] for part in parts)
    if len(parts) > 1 and dim == 0 and _follow_each_other(parts):
        strides = make_contiguous_strides_for(shape)
        parts = [first.as_strided(shape, strides, first.storage_offset())]
    result = empty(shape, dtype)
    start = 0
    for part in parts:
        copy_from(part, result.narrow(dim, start, part.shape[dim]))
        start += part.shape[dim]
    return deliver(result, out)


implements("cat.out")(cat)


def _follow_each_other(parts: Sequence[torch.Tensor]) -> bool:
    """Whether tensors are the pieces of one, in their order in memory."""
    first = parts[0]
    storage, place = first.untyped_storage()._cdata, first.storage_offset()
    for part in parts:
        if (
            part.storage_offset() != place
            or part.untyped_storage()._cdata != storage
            or part.dtype != first.dtype
            or not part.is_contiguous()
        ):
            return False
        place += part.numel()
    return True


@implements("flip")
def flip(self: torch.Tensor, dims: Sequence[int]) -> torch.Tensor:
    """The entries of some dimensions in reverse order."""
    result = self
    for dim in canonicalize_dims(max(self.dim(), 1), tuple(dims)):
        if self.dim() and self.shape[dim] > 1:
            last = self.shape[dim] - 1
            result = index_select(result, dim, torch.arange(last, -1, -1, device=self.device))
    return result.clone() if result is self else result


@implements("roll")
def roll(self: torch.Tensor, shifts: Sequence[int], dims: Sequence[int] = ()) -> torch.Tensor:
    """The entries of dimensions moved on, those beyond the end to the beginning.

    Raises:
        RuntimeError: not as many dimensions as shifts.
    """
    shifts = [shifts] if isinstance(shifts, int) else list(shifts)
    dims = [dims] if isinstance(dims, int) else list(dims)
    if not dims and len(shifts) == 1:
        return roll(self.reshape(-1), shifts, [0]).view(self.shape)
    if len(shifts) != len(dims):
        raise RuntimeError(
            f"shifts and dimensions must align. shifts: {len(shifts)}, dims:{len(dims)}"
        )
    result = self
    for shift, dim in zip(shifts, dims, strict=True):
        size = self.shape[dim] if self.dim() else 1
        if size and shift % size:
            at = size - shift % size
            result = torch.cat([result.narrow(dim, at, size - at), result.narrow(dim, 0, at)], dim)
    return result.clone() if result is self else result


@implements("repeat_interleave.Tensor")
def repeat_interleave(repeats: torch.Tensor, *, output_size: int | None = None) -> torch.Tensor:
    """Each place as often as `repeats` says; waits for the device unless the size is given."""
    ends = repeats.cumsum(0)
    if output_size is None:
        output_size = int(ends[-1].item()) if len(ends) else 0
    # A one where each place but the first begins; those behind the end are not counted.
    begins = torch.zeros((output_size,), dtype=torch.int64, device=repeats.device)
    return begins.index_add_(0, ends[:-1], torch.ones_like(ends[:-1])).cumsum(0)


def _triangle(self: torch.Tensor, keep_below: bool, diagonal: int) -> torch.Tensor:
    rows, columns = self.shape[-2:]
    row = torch.arange(rows, device=self.device).unsqueeze(1)
    column = torch.arange(columns, device=self.device)
    above = column - row
    keep = above.le(diagonal) if keep_below else above.ge(diagonal)
    return torch.where(keep, self, torch.zeros((), dtype=self.dtype, device=self.device))


def tril(self: torch.Tensor, diagonal: int = 0, *, out: torch.Tensor | None = None) -> torch.Tensor:
    """Entries on and below a diagonal, 0 above."""
    return deliver(_triangle(self, True, diagonal), out)


def triu(self: torch.Tensor, diagonal: int = 0, *, out: torch.Tensor | None = None) -> torch.Tensor:
    """Entries on and above a diagonal, 0 below."""
    return deliver(_triangle(self, False, diagonal), out)


@implements("eye.out")
def eye(n: int, *, out: torch.Tensor) -> torch.Tensor:
    """The identity of n rows."""
    return eye_of(n, n, out=out)


@implements("eye.m_out")
def eye_of(n: int, m: int, *, out: torch.Tensor) -> torch.Tensor:
    """Ones on the diagonal of an n x m matrix of zeros."""
    out.resize_((n, m)).zero_()
    if out.numel():
        out.diagonal().fill_(1)
    return out


@implements("linspace.out")
def linspace(start: float, end: float, steps: int, *, out: torch.Tensor) -> torch.Tensor:
    """Numbers evenly spread from start to end, counted from the nearer end.

    Raises:
        RuntimeError: a negative number of steps.
    """
    if steps < 0:
        raise RuntimeError("number of steps must be non-negative")
    step = (end - start) / max(steps - 1, 1)
    place = torch.arange(steps, dtype=torch.float32, device=out.device)
    falling = end - (steps - 1 - place) * step
    numbers = torch.where(place.lt((steps + 1) // 2), place * step + start, falling)
    out.resize_((steps,))
    return copy_from(numbers, out)


implements_all("tril", tril)
implements_all("triu", triu)

claim("cat", "stack", "hstack", "vstack", "dstack", "column_stack", "flip", "fliplr", "flipud")
claim("roll", "tril", "triu", "eye", "repeat", "tile", "constant_pad_nd", "diag_embed")
claim("select_scatter", "slice_scatter", "narrow_copy", "nn.functional.pad:constant", "rot90")
claim("linspace", "diag", "diagflat", "repeat_interleave", "diagonal_scatter")
claim("cumulative_trapezoid", "diff", "trapezoid", "block_diag")
