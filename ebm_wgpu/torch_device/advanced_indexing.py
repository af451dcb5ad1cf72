"""x[indices] and x[indices] = y with any number of index tensors and masks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from ebm_wgpu.torch_device.copies import copy_from
from ebm_wgpu.torch_device.grid import Layout, launch
from ebm_wgpu.torch_device.indexing import accumulate, move, sums_of
from ebm_wgpu.torch_device.masks import nonzero
from ebm_wgpu.torch_device.reductions import deliver
from ebm_wgpu.torch_device.registration import claim, implements
from ebm_wgpu.torch_device.tensors import empty

_ANY = 2**31 - 1

Indices = Sequence[torch.Tensor | None]


class _Access(NamedTuple):
    """How indices reach into a tensor.

    Attributes:
        shape: of the result.
        place: how many dimensions of the result stand before those of the indices.
        indexed: dimensions of the tensor that have an index.
        others: the other ones.
        indices: one for each indexed dimension, broadcast together.
    """

    shape: tuple[int, ...]
    place: int
    indexed: list[int]
    others: list[int]
    indices: list[torch.Tensor]


def _expanded(self: torch.Tensor, indices: Indices) -> list[torch.Tensor | None]:
    """The indices, masks among them replaced by the places where they hold, one a dimension."""
    found: list[torch.Tensor | None] = []
    for index in indices:
        if index is None or index.dtype in (torch.int64, torch.int32):
            found.append(index)
        elif index.dtype == torch.bool:
            wanted = tuple(self.shape[len(found) : len(found) + index.dim()])
            if tuple(index.shape) != wanted:
                raise IndexError(
                    f"The shape of the mask {list(index.shape)} does not match the shape of the "
                    f"indexed tensor {list(self.shape)} at index {len(found)}"
                )
            places = nonzero(index.to(self.device))
            found += [places[:, axis] for axis in range(index.dim())]
        else:
            raise IndexError("tensors used as indices must be long, int or bool tensors")
    if len(found) > self.dim():
        raise IndexError(f"too many indices for tensor of dimension {self.dim()}")
    found += [None] * (self.dim() - len(found))
    return found


def _access(self: torch.Tensor, indices: Indices) -> _Access:
    expanded = _expanded(self, indices)
    indexed = [axis for axis, index in enumerate(expanded) if index is not None]
    others = [axis for axis, index in enumerate(expanded) if index is None]
    given = [index.to(self.device) for index in expanded if index is not None]
    together = list(torch.broadcast_tensors(*given))
    adjacent = indexed == list(range(indexed[0], indexed[-1] + 1))
    place = indexed[0] if adjacent else 0
    rest = [self.shape[axis] for axis in others]
    shape = (*rest[:place], *together[0].shape, *rest[place:])
    return _Access(shape, place, indexed, others, together)


def _offsets(access: _Access, sizes: Sequence[int], strides: Sequence[int]) -> torch.Tensor:
    """Offsets of the places that the indices name together, -2^31 for none."""
    first = access.indices[0]
    total = torch.zeros((), dtype=torch.int64, device=first.device)
    for index, size, stride in zip(access.indices, sizes, strides, strict=True):
        total = launch("place_int", empty(index.shape, torch.int64), [total, index], (size, stride))
    return total


def _layouts(self: torch.Tensor, access: _Access, index: torch.Tensor) -> tuple[Layout, Layout]:
    """How the index and the tensor are walked along the result."""
    place, wide = access.place, index.dim()
    steps = [self.stride(axis) for axis in access.others]
    still = [0] * len(steps)
    walked = (*still[:place], *index.stride(), *still[place:])
    return (
        (access.shape, walked),
        (access.shape, (*steps[:place], *([0] * wide), *steps[place:])),
    )


def _single(self: torch.Tensor, access: _Access) -> tuple[torch.Tensor, int, int]:
    """One index that names the places, the number it may reach, and its step."""
    if len(access.indexed) == 1:
        axis = access.indexed[0]
        return access.indices[0], self.shape[axis], self.stride(axis)
    sizes = [self.shape[axis] for axis in access.indexed]
    strides = [self.stride(axis) for axis in access.indexed]
    return _offsets(access, sizes, strides), _ANY, 1


@implements("index.Tensor")
def index(self: torch.Tensor, indices: Indices, *, out: torch.Tensor | None = None) -> torch.Tensor:
    """self[indices]; waits for the device where an index is a mask."""
    access = _access(self, indices)
    result = empty(access.shape, self.dtype)
    if result.numel():
        places, size, step = _single(self, access)
        walked, source = _layouts(self, access, places)
        own = (access.shape, result.stride())
        move("take", (result, places, self), (own, walked, source), size, step)
    return deliver(result, out)


implements("index.Tensor_out")(index)


@implements("_index_put_impl_")
def index_put_(
    self: torch.Tensor,
    indices: Indices,
    values: torch.Tensor,
    accumulate: bool = False,
    unsafe: bool = False,
) -> torch.Tensor:
    """self[indices] = values, or += values with all repeated places counted."""
    access = _access(self, indices)
    values = values.to(self.device, self.dtype)
    if 0 in access.shape:
        return self
    if accumulate:
        _add(self, access, values)
        return self
    places, size, step = _single(self, access)
    walked, target = _layouts(self, access, places)
    given = values.expand(access.shape)
    own = (access.shape, given.stride())
    move("put", (self, places, given), (target, walked, own), size, step)
    return self


def _add(self: torch.Tensor, access: _Access, values: torch.Tensor) -> None:
    """self[indices] += values: rows of the other dimensions, summed by place."""
    moved = self.permute(access.indexed + access.others)
    sizes = [self.shape[axis] for axis in access.indexed]
    sums = sums_of(moved, (math.prod(sizes), -1))
    strides = [math.prod(sizes[n + 1 :]) for n in range(len(sizes))]
    ids = _offsets(access, sizes, strides)
    wide = ids.dim()
    front = list(range(access.place, access.place + wide))
    behind = [a for a in range(len(access.shape)) if a not in front]
    rows = values.expand(access.shape).permute(front + behind)
    accumulate(sums, ids.reshape(-1), rows.reshape(ids.numel(), -1))
    copy_from(sums.view(moved.shape), moved)


claim("index_put", "__getitem__")
