"""Sums, products, extremes and questions of truth over any dimensions, by the kernels reduce_*.

Views are reduced in place up to three groups of kept and of reduced dimensions; a long row is
shared by many workgroups whose results a second launch combines, always in the same order.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch._prims_common import canonicalize_dims

from ebm_wgpu.kernels.reduce import RANK, WG
from ebm_wgpu.kernels.registry import get_kernel
from ebm_wgpu.torch_device import state
from ebm_wgpu.torch_device.copies import copy_from
from ebm_wgpu.torch_device.elementwise import implements_all, type_name
from ebm_wgpu.torch_device.registration import claim, implements
from ebm_wgpu.torch_device.tensors import KINDS, empty, memory

_COMBINED = {"max": "max", "min": "min", "prod": "prod"}
"""How the parts of a float reduction are combined, where not by a sum."""
_WORKGROUPS = 256
"""Enough to fill a GPU; beyond them a row is not split."""
_LONG = 32
"""Entries an invocation takes before a row is split."""

Dims = int | Sequence[int] | None


def axes(self: torch.Tensor, dim: Dims) -> tuple[int, ...]:
    """The dimensions meant, none standing for all, as numbers from zero.

    Raises:
        RuntimeError: one of them is named twice.
    """
    if dim is None or (not isinstance(dim, int) and len(dim) == 0):
        return tuple(range(self.dim()))
    wanted = (dim,) if isinstance(dim, int) else tuple(dim)
    found: tuple[int, ...] = canonicalize_dims(max(self.dim(), 1), wanted)
    if len(set(found)) < len(found):
        raise RuntimeError(f"dim {found[-1]} appears multiple times in the list of dims")
    return found if self.dim() else ()


def kept_shape(self: torch.Tensor, dims: Sequence[int], keepdim: bool) -> list[int]:
    """Shape of the result."""
    if keepdim:
        return [1 if axis in dims else size for axis, size in enumerate(self.shape)]
    return [size for axis, size in enumerate(self.shape) if axis not in dims]


def _merge(dims: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """(size, stride) of dimensions, neighbours joined where they are walked as one."""
    merged: list[tuple[int, int]] = []
    for size, stride in dims:
        if size == 1:
            continue
        if merged and merged[-1][1] == size * stride:
            merged[-1] = (merged[-1][0] * size, stride)
        else:
            merged.append((size, stride))
    return merged


def power_of_two(count: int) -> int:
    """The least power of two that is not below a count."""
    return 1 << max(count - 1, 0).bit_length()


@functools.lru_cache(maxsize=4096)
def _plan(
    shape: tuple[int, ...], strides: tuple[int, ...], dims: tuple[int, ...]
) -> tuple[int, int, list[int]] | None:
    """Parts, results and parameters of a reduction; None where the view has too many dimensions."""
    walked = list(zip(shape, strides, strict=True))
    kept = _merge([walk for axis, walk in enumerate(walked) if axis not in dims])
    reduced = _merge(sorted((walked[axis] for axis in dims), key=lambda walk: -walk[1]))
    if len(kept) > RANK or len(reduced) > RANK:
        return None
    count = math.prod(size for size, _ in kept)
    length = math.prod(walked[axis][0] for axis in dims)
    kept = [(1, 0)] * (RANK - len(kept)) + kept
    reduced = [(1, 0)] * (RANK - len(reduced)) + reduced
    # Neighbouring invocations read neighbouring entries: of one row, or of neighbouring rows.
    across = count > 1 and 0 < kept[-1][1] < max(reduced[-1][1], 1)
    lanes = min(power_of_two(length), WG)
    if across:
        lanes = min(lanes, max(8, WG // power_of_two(count)))
    groups = -(-count * lanes // WG)
    parts = max(1, min(_WORKGROUPS // groups, length // (_LONG * lanes)))
    span = max(1, -(-length // parts))
    parts = max(1, -(-length // span))
    numbers = [count, length, parts, span, lanes, int(across)]
    numbers += [kept[1][0], kept[2][0], reduced[1][0], reduced[2][0]]
    return parts, count, [*numbers, 0, *(step for _, step in kept), *(step for _, step in reduced)]


def reduce(
    operator: str,
    self: torch.Tensor,
    dims: tuple[int, ...],
    dtype: torch.dtype,
    scale: float = 1.0,
    power: float = 1.0,
    centre: torch.Tensor | None = None,
) -> torch.Tensor:
    """The kept dimensions' results of reduce_<operator>, contiguous, as `dtype`.

    Args:
        operator: a row of `kernels.reduce.REDUCTIONS`.
        self: any view.
        dims: those to reduce, from `axes`.
        dtype: type of the result.
        scale: for kernels with that parameter.
        power: for kernels with that parameter.
        centre: for kernels with that array, float32 and contiguous, one number a result.
    """
    shape = kept_shape(self, dims, False)
    plan = None
    if 0 in shape:
        return empty(shape, dtype)
    if self.numel():
        plan = _plan(tuple(self.shape), self.stride(), dims)
    if plan is None:
        self = self.permute([a for a in range(self.dim()) if a not in dims] + list(dims))
        self = self.contiguous()
        dims = tuple(range(len(shape), self.dim()))
        flat = (math.prod(shape), math.prod(self.shape[axis] for axis in dims))
        plan = _plan(flat, (flat[1], 1), (1,))
        assert plan is not None
    parts, count, numbers = plan
    whole = operator.endswith("_int")
    split = parts > 1
    target = empty(shape, dtype)
    if split:
        target = empty((parts, count), torch.int32 if whole else torch.float32)
    device = state.device()
    stem = f"reduce_{operator}"
    arrays = [self, *([centre] if centre is not None else []), target]
    pipeline, packer = device.plan(stem, tuple([KINDS[array.dtype] for array in arrays]))
    kernel = get_kernel(stem)
    sizes = [{"P": parts, "C": count}[name] for name in kernel.dims]
    given = {"scale": 1.0 if split else scale, "power": power}
    scalars = [given[param.name] for param in kernel.params if param.dtype == "f32"]
    block = numbers.copy()
    block[10] += int(self.storage_offset())
    device.runtime.dispatch(
        pipeline,
        [memory(array) for array in arrays],
        packer.pack(*sizes, *block, *scalars),
        -(-count * parts * numbers[4] // WG),
    )
    if not split:
        return target
    combined = operator if whole else _COMBINED.get(operator, "sum")
    return reduce(combined, target, (0,), dtype, scale).view(shape)


def deliver(result: torch.Tensor, out: torch.Tensor | None) -> torch.Tensor:
    """The result, in `out` if there is one, which takes its shape.

    Raises:
        RuntimeError: `out` cannot hold the type.
    """
    if out is None:
        return result
    if not torch.can_cast(result.dtype, out.dtype):
        raise RuntimeError(
            f"result type {type_name(result.dtype)} can't be cast to the desired output type "
            f"{type_name(out.dtype)}"
        )
    if out.shape != result.shape:
        out.resize_(result.shape)
    return copy_from(result, out)


def over(
    operator: str,
    self: torch.Tensor,
    dim: Dims,
    keepdim: bool,
    dtype: torch.dtype,
    out: torch.Tensor | None = None,
    **more: Any,
) -> torch.Tensor:
    """As `reduce`, over dimensions as torch names them, with `keepdim` and `out`."""
    dims = axes(self, dim)
    result = reduce(operator, self, dims, dtype, **more)
    return deliver(result.view(kept_shape(self, dims, keepdim)), out)


def _sum_type(self: torch.Tensor, dtype: torch.dtype | None) -> torch.dtype:
    if dtype is not None:
        return dtype
    return self.dtype if self.dtype.is_floating_point else torch.int64


def _typed(self: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The tensor, in whole numbers where they are what is summed."""
    if self.dtype.is_floating_point and not dtype.is_floating_point:
        return self.to(dtype)
    return self


def sum(
    self: torch.Tensor,
    dim: Dims = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Sum over dimensions; whole numbers and truth values sum to int64."""
    dtype = _sum_type(self, dtype if dtype is not None or out is None else out.dtype)
    operator = "sum" if dtype.is_floating_point else "sum_int"
    return over(operator, _typed(self, dtype), dim, keepdim, dtype, out)


def nansum(
    self: torch.Tensor,
    dim: Dims = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Sum over dimensions of all entries that are numbers."""
    return sum(torch.where(self.isnan(), 0, self), dim, keepdim, dtype=dtype, out=out)


def mean(
    self: torch.Tensor,
    dim: Dims = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean over dimensions.

    Raises:
        RuntimeError: neither the tensor nor `dtype` is floating.
    """
    dtype = dtype or self.dtype
    if not dtype.is_floating_point:
        raise RuntimeError(
            "mean(): could not infer output dtype. Input dtype must be either a floating point or "
            f"complex dtype. Got: {type_name(dtype)}"
        )
    count = math.prod(self.shape[axis] for axis in axes(self, dim))
    return over("sum", self, dim, keepdim, dtype, out, scale=1 / count if count else math.nan)


def prod(
    self: torch.Tensor,
    dim: Dims = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Product over one dimension, or over all."""
    dtype = _sum_type(self, dtype)
    operator = "prod" if dtype.is_floating_point else "prod_int"
    return over(operator, _typed(self, dtype), dim, keepdim, dtype, out)


def _extreme(operator: str) -> Callable[..., torch.Tensor]:
    def function(
        self: torch.Tensor,
        dim: Dims = None,
        keepdim: bool = False,
        *,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        dims = axes(self, dim)
        if self.numel() == 0 and 0 in [self.shape[axis] for axis in dims]:
            raise RuntimeError(
                f"a{operator}(): Expected reduction dim to be specified for input.numel() == 0. "
                "Specify the reduction dim with the 'dim' argument."
            )
        kernel = operator if self.dtype.is_floating_point else f"{operator}_int"
        return over(kernel, self, dim, keepdim, self.dtype, out)

    return function


amax = _extreme("max")
amin = _extreme("min")


def aminmax(
    self: torch.Tensor,
    *,
    dim: int | None = None,
    keepdim: bool = False,
    min: torch.Tensor | None = None,
    max: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The least and the greatest entry over a dimension, or over all."""
    return amin(self, dim, keepdim, out=min), amax(self, dim, keepdim, out=max)


def _truth(operator: str) -> Callable[..., torch.Tensor]:
    def function(
        self: torch.Tensor,
        dim: Dims = None,
        keepdim: bool = False,
        *,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        truth = self if self.dtype == torch.bool else self.ne(0)
        dims = axes(truth, dim)
        if 0 in [truth.shape[axis] for axis in dims]:
            shape = kept_shape(truth, dims, keepdim)
            return deliver(empty(shape, torch.bool).fill_(operator == "min"), out)
        return over(f"{operator}_int", truth, dim, keepdim, torch.bool, out)

    return function


any_of = _truth("max")
all_of = _truth("min")


for _name, _function in {
    "sum": sum,
    "nansum": nansum,
    "mean": mean,
    "prod": prod,
    "amax": amax,
    "amin": amin,
    "any": any_of,
    "all": all_of,
}.items():
    implements_all(_name, _function)
implements("aminmax")(aminmax)
implements("aminmax.out")(aminmax)
implements("max")(amax)
implements("min")(amin)
implements("max.unary_out")(amax)
implements("min.unary_out")(amin)

claim("sum", "nansum", "mean", "prod", "amax", "amin", "aminmax", "any", "all", "sum_to_size")
claim("max:reduction_no_dim", "min:reduction_no_dim", "logsumexp", "nanmean", "isclose", "allclose")
