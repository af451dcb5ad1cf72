"""Strided tensors on the pointwise kernels' grid of four dimensions, and their launch."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import torch

from ebm_wgpu.kernels.pointwise import RANK
from ebm_wgpu.torch_device import state
from ebm_wgpu.torch_device.tensors import KINDS, memory

Layout = tuple[tuple[int, ...], tuple[int, ...]]
"""Sizes and strides of a tensor."""

_GROUP = 1024
_F32_MAX = 3.4028234663852886e38


def collapse(sizes: Sequence[int], strides: Sequence[Sequence[int]]) -> list[tuple[int, list[int]]]:
    """The fewest dimensions that walk all tensors in the same way, outermost first.

    Args:
        sizes: of the common shape.
        strides: for each tensor, one per dimension.

    Returns:
        Size and strides of each dimension, sorted by the first tensor's strides.
    """
    dims = [
        (size, [stride[axis] for stride in strides]) for axis, size in enumerate(sizes) if size != 1
    ]
    dims.sort(key=lambda dim: -dim[1][0])
    merged: list[tuple[int, list[int]]] = []
    for size, steps in dims:
        if merged:
            outer_size, outer = merged[-1]
            if all(o == size * s for o, s in zip(outer, steps, strict=True)):
                merged[-1] = (outer_size * size, steps)
                continue
        merged.append((size, steps))
    return merged


def check_broadcast(shape: Sequence[int], sizes: Sequence[int]) -> None:
    """Nothing, for sizes that broadcast to a shape.

    Raises:
        RuntimeError: they do not, in torch's words.
    """
    pad = len(shape) - len(sizes)
    if pad >= 0 and all(b in (a, 1) for a, b in zip(shape[pad:], sizes, strict=True)):
        return
    short = min(len(shape), len(sizes))
    for back in range(1, short + 1):
        whole, size = shape[-back], sizes[-back]
        if whole != size and 1 not in (whole, size):
            raise RuntimeError(
                f"The size of tensor a ({whole}) must match the size of tensor b ({size}) at "
                f"non-singleton dimension {max(len(shape), len(sizes)) - back}"
            )
    together = list(torch.broadcast_shapes(tuple(shape), tuple(sizes)))
    raise RuntimeError(
        f"output with shape {list(shape)} doesn't match the broadcast shape {together}"
    )


def broadcast_strides(
    shape: Sequence[int], sizes: Sequence[int], strides: Sequence[int]
) -> list[int]:
    """Strides of a tensor along every dimension of a shape it broadcasts to, 0 where it repeats.

    Raises:
        RuntimeError: it does not broadcast to the shape.
    """
    pad = len(shape) - len(sizes)
    check_broadcast(shape, sizes)
    own = zip(shape[pad:], sizes, strides, strict=True)
    return [0] * pad + [0 if size == 1 and whole != 1 else step for whole, size, step in own]


@functools.lru_cache(maxsize=8192)
def grids(layouts: tuple[Layout, ...]) -> list[tuple[int, list[int]]]:
    """The launches that cover the first layout: number of entries, and parameters without offsets.

    More than one only where more than four dimensions are left: the outer ones are then walked
    here, and each launch's offsets hold where it stands.
    """
    shape, _ = layouts[0]
    strides = [broadcast_strides(shape, *layout) for layout in layouts]
    dims = collapse(shape, strides)
    outer, inner = dims[: max(len(dims) - RANK, 0)], dims[max(len(dims) - RANK, 0) :]
    missing = RANK - len(inner)
    sizes4 = [1] * missing + [size for size, _ in inner]
    count = 1
    for size in sizes4:
        count *= size
    launches = []
    for place in itertools.product(*(range(size) for size, _ in outer)):
        numbers = [count, 0 if len(inner) <= 1 else len(inner), *sizes4[1:]]
        for index in range(len(layouts)):
            start = sum(at * steps[index] for at, (_, steps) in zip(place, outer, strict=True))
            numbers += [start, *([0] * missing), *(steps[index] for _, steps in inner)]
        launches.append((count, numbers))
    return launches


def launch(
    operator: str,
    out: torch.Tensor,
    operands: Sequence[torch.Tensor] = (),
    scalars: Sequence[float] = (),
) -> torch.Tensor:
    """out[...] = operator(operands..., scalars...), by the kernel pointwise_<operator>.

    Args:
        operator: a row of `kernels._pointwise_float` or `_pointwise_int`.
        out: any strided tensor of the device; its entries are converted to its type.
        operands: tensors of the device that broadcast to its shape.
        scalars: in the order of the row.

    Raises:
        RuntimeError: an operand does not broadcast to the shape of `out`.
    """
    if out.numel() == 0:
        for operand in operands:
            check_broadcast(out.shape, operand.shape)
        return out
    tensors = (out, *operands)
    layouts = tuple([(t.shape, t.stride()) for t in tensors])
    device = state.device()
    pipeline, packer = device.plan(
        f"pointwise_{operator}", tuple([KINDS[t.dtype] for t in tensors])
    )
    buffers = [memory(t) for t in tensors]
    offsets = [int(t.storage_offset()) for t in tensors]
    target = buffers[0].key
    for index in range(1, len(tensors)):
        if buffers[index].key == target and (
            offsets[index] != offsets[0] or layouts[index] != layouts[0]
        ):
            return _apart(operator, out, operands, scalars)
    dispatch = device.runtime.dispatch
    for count, template in grids(layouts):
        numbers = template.copy()
        for index, offset in enumerate(offsets):
            numbers[5 + 5 * index] += offset
        dispatch(pipeline, buffers, packer.pack(*numbers, *scalars), -(-count // _GROUP))
    return out


def _apart(
    operator: str, out: torch.Tensor, operands: Sequence[torch.Tensor], scalars: Sequence[float]
) -> torch.Tensor:
    """The same where `out` overlaps an operand otherwise laid out, which is copied first."""
    key = memory(out).key
    return launch(
        operator, out, [t.clone() if memory(t).key == key else t for t in operands], scalars
    )


def float_scalar(value: Any) -> float:
    """A number as kernels take it: float32, infinite beyond its range."""
    number = float(value)
    if abs(number) > _F32_MAX and number - number == 0.0:
        return float("inf") if number > 0 else float("-inf")
    return number
