"""Entries by index: gather, scatter, sums into places, by the kernels take_* and put_*.

An index outside its dimension cannot be an error of the kernel: reading gives NaN (0 in whole
numbers), and nothing is written. Sums into equal places are taken in a fixed order, by sorting the
places (`segment_sums`): results repeat bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch._prims_common import canonicalize_dim

from ebm_wgpu.kernels._indexing import WG
from ebm_wgpu.torch_device import state
from ebm_wgpu.torch_device.copies import copy_from
from ebm_wgpu.torch_device.elementwise import implements_all, operands
from ebm_wgpu.torch_device.grid import Layout, grids, launch
from ebm_wgpu.torch_device.index_checks import check_gather, check_scatter, check_slices
from ebm_wgpu.torch_device.ordering import stable_order
from ebm_wgpu.torch_device.reductions import deliver
from ebm_wgpu.torch_device.registration import UnsupportedOperatorError, claim, implements
from ebm_wgpu.torch_device.tensors import KINDS, empty, memory, run_kernel


def move(
    family: Literal["take", "put"],
    arrays: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    layouts: tuple[Layout, Layout, Layout],
    size: int,
    step: int,
) -> None:
    """Run a kernel on (out, index, x), each walked by a layout of its own on the common grid."""
    out, index, x = arrays
    if math.prod(layouts[0][0]) == 0:
        return
    if memory(x).key == memory(out).key:
        shape, steps = layouts[2]
        x = x.as_strided(shape, steps, x.storage_offset()).clone()
        layouts = (*layouts[:2], (shape, x.stride()))
    arrays = (out, index, x)
    kind = "float" if out.dtype.is_floating_point else "int"
    device = state.device()
    pipeline, packer = device.plan(f"{family}_{kind}", tuple([KINDS[t.dtype] for t in arrays]))
    buffers = [memory(t) for t in arrays]
    for count, template in grids(layouts):
        numbers = template.copy()
        for place, tensor in enumerate(arrays):
            numbers[5 + 5 * place] += int(tensor.storage_offset())
        device.runtime.dispatch(
            pipeline, buffers, packer.pack(*numbers, size, step), -(-count // WG)
        )


def _check_index(index: torch.Tensor) -> None:
    if index.dtype not in (torch.int64, torch.int32):
        raise RuntimeError("index must be of type int64 or int32")


def _without(strides: Sequence[int], axis: int) -> tuple[int, ...]:
    """Strides that stand still along one dimension."""
    return tuple(0 if a == axis else stride for a, stride in enumerate(strides))


def _along(
    self: torch.Tensor, dim: int, index: torch.Tensor
) -> tuple[torch.Tensor, int, torch.Tensor]:
    """Tensor, dimension and index, of at least one dimension."""
    _check_index(index)
    dim = canonicalize_dim(max(self.dim(), 1), dim)
    if self.dim() == 0:
        self = self.unsqueeze(0)
    if index.dim() == 0:
        index = index.unsqueeze(0)
    return self, dim, index


@implements("gather")
def gather(
    self: torch.Tensor,
    dim: int,
    index: torch.Tensor,
    *,
    sparse_grad: bool = False,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """result[i, j, ...] = self[i, index[i, j, ...], ...], the index standing in dimension `dim`.

    Raises:
        RuntimeError: as `check_gather`.
    """
    result = empty(index.shape, self.dtype)
    source, dim, places = _along(self, dim, index)
    check_gather(self, dim, index)
    shape = tuple(places.shape)
    layouts = (
        (shape, result.view(shape).stride()),
        (shape, places.stride()),
        (shape, _without(source.stride(), dim)),
    )
    move("take", (result, places, source), layouts, source.shape[dim], source.stride(dim))
    return deliver(result, out)


@implements("index_select")
def index_select(
    self: torch.Tensor, dim: int, index: torch.Tensor, *, out: torch.Tensor | None = None
) -> torch.Tensor:
    """The slices of a dimension that the index names."""
    source, dim, places = _along(self, dim, index)
    if places.dim() != 1:
        raise IndexError("index_select(): Index is supposed to be a vector")
    shape = tuple(len(places) if a == dim else n for a, n in enumerate(source.shape))
    result = empty(shape, self.dtype)
    steps = tuple(places.stride(0) if a == dim else 0 for a in range(len(shape)))
    layouts = ((shape, result.stride()), (shape, steps), (shape, _without(source.stride(), dim)))
    move("take", (result, places, source), layouts, source.shape[dim], source.stride(dim))
    return deliver(result if self.dim() else result.squeeze(0), out)


@implements("take")
def take(
    self: torch.Tensor, index: torch.Tensor, *, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Entries of the flattened tensor."""
    return deliver(gather(self.reshape(-1), 0, index.reshape(-1)).view(index.shape), out)


def put_along(target: torch.Tensor, dim: int, index: torch.Tensor, values: torch.Tensor) -> None:
    """target[i, index[i, j], ...] = values[i, j, ...]; values broadcast, or are large enough."""
    base, dim, places = _along(target, dim, index)
    shape = tuple(places.shape)
    if values.dim() and values.dim() == places.dim():
        steps = values.stride()
    else:
        steps = values.expand(shape).stride()
    layouts = (
        (shape, _without(base.stride(), dim)),
        (shape, places.stride()),
        (shape, steps),
    )
    move("put", (base, places, values), layouts, base.shape[dim], base.stride(dim))


def _begun(self: torch.Tensor, out: torch.Tensor | None) -> torch.Tensor:
    """Where an operator that changes a tensor works: the tensor itself, `out`, or a copy."""
    if out is self:
        return self
    if out is None:
        return self.clone(memory_format=torch.contiguous_format)
    return deliver(self, out)


def _as_values(value: Any, like: torch.Tensor) -> torch.Tensor:
    (value,) = operands(value)
    if isinstance(value, torch.Tensor):
        return value
    return torch.full((), value, dtype=like.dtype, device=like.device)


def scatter(
    self: torch.Tensor,
    dim: int,
    index: torch.Tensor,
    src: Any,
    *,
    reduce: str | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """A copy of self with result[i, index[i, j, ...], ...] = src[i, j, ...], or a sum into it.

    Raises:
        RuntimeError: as `check_scatter`.
        UnsupportedOperatorError: another reduction than "add".
    """
    values = _as_values(src, self)
    _, axis, _ = _along(self, dim, index)
    check_scatter("scatter", self, axis, index, src if isinstance(src, torch.Tensor) else None)
    if reduce == "add":
        values = values if values.dim() else values.expand(index.shape)
        return scatter_add(self, dim, index, values, out=out)
    if reduce is not None:
        raise UnsupportedOperatorError(
            f'scatter with reduce="{reduce}" has no kernel on torch.device("wgpu"): only "add" has'
        )
    target = _begun(self, out)
    put_along(target, dim, index, values)
    return target


def accumulate(target: torch.Tensor, ids: torch.Tensor, rows: torch.Tensor) -> None:
    """target[ids[b]] += rows[b] for all b, in the order of b, whichever repeat.

    Args:
        target: contiguous (V, D), float32 or whole numbers, changed.
        ids: (B,); those outside 0 .. V - 1 add nothing.
        rows: (B, D).
    """
    if ids.numel() == 0 or rows.numel() == 0:
        return
    order, sorted_ids = stable_order(ids)
    kind = "float" if target.dtype.is_floating_point else "int"
    sums = empty(rows.shape, target.dtype)
    run_kernel(
        f"segment_sums_{kind}", order=order, sorted_ids=sorted_ids, x=rows, partial_sums=sums
    )
    run_kernel(f"segment_add_{kind}", sorted_ids=sorted_ids, partial_sums=sums, out=target)


def sums_of(target: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """A contiguous float32 (or whole) copy of a target of sums in the shape (V, D)."""
    work = torch.float32 if target.dtype == torch.float16 else target.dtype
    return target.to(work).clone(memory_format=torch.contiguous_format).view(tuple(shape))


@implements("unfold_backward")
def unfold_backward(
    grad_in: torch.Tensor, input_sizes: Sequence[int], dim: int, size: int, step: int
) -> torch.Tensor:
    """The gradient of `unfold`: each entry's sum over the windows that hold it."""
    sums = torch.zeros((math.prod(input_sizes), 1), dtype=torch.float32, device=grad_in.device)
    places = torch.arange(sums.shape[0], device=grad_in.device).view(tuple(input_sizes))
    ids = places.unfold(dim, size, step) if places.dim() else places.unsqueeze(0)
    accumulate(sums, ids.reshape(-1), grad_in.reshape(-1, 1))
    return sums.to(grad_in.dtype).view(tuple(input_sizes))


def scatter_add(
    self: torch.Tensor,
    dim: int,
    index: torch.Tensor,
    src: torch.Tensor,
    *,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """A copy of self with src[i, j, ...] added to result[i, index[i, j, ...], ...].

    Raises:
        RuntimeError: as `check_scatter`.
    """
    _, dim, _ = _along(self, dim, index)
    check_scatter("scatter_add", self, dim, index, src)
    target = _begun(self, out)
    if index.numel() == 0:
        return target
    base, dim, places = _along(target, dim, index)
    values = src if src.dim() else src.unsqueeze(0)
    sums = sums_of(base, (-1, 1))
    offsets = torch.arange(sums.shape[0], device=self.device).view(base.shape)
    step = offsets.stride(dim)
    offsets = offsets.as_strided(places.shape, _without(offsets.stride(), dim))
    ids = launch(
        "place_int", empty(places.shape, torch.int64), [offsets, places], (base.shape[dim], step)
    )
    values = values.as_strided(places.shape, values.stride(), values.storage_offset())
    accumulate(sums, ids.view(-1), values.reshape(-1, 1))
    copy_from(sums.view(target.shape), target)
    return target


def index_add(
    self: torch.Tensor,
    dim: int,
    index: torch.Tensor,
    source: torch.Tensor,
    *,
    alpha: Any = 1,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """A copy of self with alpha times the slices of source added to those that the index names.

    Raises:
        IndexError, RuntimeError: as `check_slices`.
    """
    _, dim, _ = _along(self, dim, index)
    check_slices("index_add", self, dim, index, source)
    target = _begun(self, out)
    base, dim, places = _along(target, dim, index)
    values = source if source.dim() else source.unsqueeze(0)
    if target.numel() == 0 or values.numel() == 0:
        return target
    moved = base.movedim(dim, 0)
    sums = sums_of(moved, (base.shape[dim], -1))
    rows = values.movedim(dim, 0).reshape(len(places), -1)
    accumulate(sums, places, rows if alpha == 1 else rows * alpha)
    copy_from(sums.view(moved.shape), moved)
    return target


def index_copy(
    self: torch.Tensor,
    dim: int,
    index: torch.Tensor,
    source: torch.Tensor,
    *,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """A copy of self with the slices that the index names taken from source.

    Raises:
        IndexError, RuntimeError: as `check_slices`.
    """
    _, dim, _ = _along(self, dim, index)
    check_slices("index_copy", self, dim, index, source)
    target = _begun(self, out)
    base, dim, places = _along(target, dim, index)
    values = source if source.dim() else source.unsqueeze(0)
    steps = [1] * base.dim()
    steps[dim] = len(places)
    shape = [len(places) if a == dim else n for a, n in enumerate(base.shape)]
    put_along(base, dim, places.view(steps).expand(shape), values)
    return target


@implements("index_fill_.int_Scalar", "index_fill_.int_Tensor")
def index_fill_(self: torch.Tensor, dim: int, index: torch.Tensor, value: Any) -> torch.Tensor:
    """The slices that the index names set to a number.

    Raises:
        RuntimeError: the index is no vector.
    """
    if index.dim() > 1:
        raise RuntimeError("Index has to be a vector/scalar")
    base, dim, places = _along(self, dim, index)
    steps = [1] * base.dim()
    steps[dim] = len(places)
    shape = [len(places) if a == dim else n for a, n in enumerate(base.shape)]
    put_along(base, dim, places.view(steps).expand(shape), _as_values(value, self))
    return self


@implements("put_")
def put_(
    self: torch.Tensor, index: torch.Tensor, source: torch.Tensor, accumulate: bool = False
) -> torch.Tensor:
    """Entries of the flattened tensor set to, or increased by, those of source.

    Raises:
        IndexError: there are more or fewer of them than places.
        RuntimeError: the types differ.
    """
    if source.numel() != index.numel():
        raise IndexError(
            "put_(): Expected source and index to have the same number of elements, but got "
            f"source.numel() = {source.numel()}, index.numel() = {index.numel()}"
        )
    flat = self.reshape(-1)
    values, places = source.reshape(-1), index.reshape(-1)
    if accumulate:
        flat = index_add(flat, 0, torch.where(places.lt(0), places + len(flat), places), values)
    else:
        flat = index_copy(flat, 0, places, values)
    return copy_from(flat.view(self.shape), self)


for _name, _out in (("gather.out", gather), ("index_select.out", index_select), ("take.out", take)):
    implements(_name)(_out)
implements_all("scatter", scatter)
implements_all("scatter_add", scatter_add)
implements_all("index_add", index_add)
implements_all("index_copy", index_copy)

claim("gather", "index_select", "take", "scatter", "scatter_add", "index_add", "index_copy")
claim("index_fill", "take_along_dim", "put", "unfold")
