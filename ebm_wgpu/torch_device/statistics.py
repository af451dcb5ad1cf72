"""Variances and norms over any dimensions, by the kernels reduce_*; running results by scan_*."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch

from ebm_wgpu.torch_device.elementwise import implements_all
from ebm_wgpu.torch_device.reductions import (
    Dims,
    amax,
    amin,
    axes,
    deliver,
    kept_shape,
    over,
    reduce,
)
from ebm_wgpu.torch_device.registration import claim, implements
from ebm_wgpu.torch_device.tensors import empty, run_kernel

_SPAN = 2048
"""Entries of a segment of a running sum."""


def _moments(
    self: torch.Tensor, dim: Dims, correction: float | None, keepdim: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Variance and mean over dimensions; the squares are of centred entries.

    Raises:
        RuntimeError: the tensor is not floating.
    """
    if not self.dtype.is_floating_point:
        raise RuntimeError("std and var only support floating point and complex dtypes")
    dims = axes(self, dim)
    count = math.prod(self.shape[axis] for axis in dims)
    freedom = count - (1 if correction is None else correction)
    centre = reduce("sum", self, dims, torch.float32, 1 / count if count else math.nan)
    scale = 1 / freedom if freedom > 0 else math.inf if count else math.nan
    variance = reduce("deviation", self, dims, self.dtype, scale, centre=centre.view(-1))
    shape = kept_shape(self, dims, keepdim)
    return variance.view(shape), centre.to(self.dtype).view(shape)


@implements("var.correction")
def var(
    self: torch.Tensor,
    dim: Dims = None,
    *,
    correction: float | None = None,
    keepdim: bool = False,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Variance over dimensions, the sum of squares divided by their number less `correction`."""
    return deliver(_moments(self, dim, correction, keepdim)[0], out)


@implements("std.correction")
def std(
    self: torch.Tensor,
    dim: Dims = None,
    *,
    correction: float | None = None,
    keepdim: bool = False,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Standard deviation over dimensions."""
    return deliver(_moments(self, dim, correction, keepdim)[0].sqrt_(), out)


@implements("var_mean.correction")
def var_mean(
    self: torch.Tensor,
    dim: Dims = None,
    *,
    correction: float | None = None,
    keepdim: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Variance and mean over dimensions."""
    return _moments(self, dim, correction, keepdim)


@implements("std_mean.correction")
def std_mean(
    self: torch.Tensor,
    dim: Dims = None,
    *,
    correction: float | None = None,
    keepdim: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Standard deviation and mean over dimensions."""
    variance, mean = _moments(self, dim, correction, keepdim)
    return variance.sqrt_(), mean


def vector_norm(
    self: torch.Tensor,
    ord: float = 2,
    dim: Dims = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """(sum |x|^ord)^(1/ord) over dimensions; the number of entries not 0 for ord = 0."""
    dtype = dtype or self.dtype
    if math.isinf(ord):
        extreme = amax if ord > 0 else amin
        return deliver(extreme(self.abs().to(dtype), dim, keepdim), out)
    if ord in (0, 1):
        return over("abs" if ord else "nonzero", self, dim, keepdim, dtype, out)
    if ord == 2:
        return deliver(over("square", self, dim, keepdim, torch.float32).sqrt_().to(dtype), out)
    powers = over("power", self, dim, keepdim, torch.float32, power=float(ord))
    return deliver(powers.pow_(1 / ord).to(dtype), out)


@implements("norm.ScalarOpt_dim", "norm.out")
def norm(
    self: torch.Tensor,
    p: float | None,
    dim: Dims,
    keepdim: bool = False,
    *,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """The same by its old name, Euclidean by default."""
    return vector_norm(self, 2 if p is None else p, dim, keepdim, out=out)


@implements("norm.ScalarOpt_dim_dtype", "norm.dtype_out")
def norm_as(
    self: torch.Tensor,
    p: float | None,
    dim: Dims,
    keepdim: bool,
    *,
    dtype: torch.dtype,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """The same as another type."""
    return vector_norm(self, 2 if p is None else p, dim, keepdim, dtype=dtype, out=out)


@implements("count_nonzero.dim_IntList")
def count_nonzero(self: torch.Tensor, dim: Dims) -> torch.Tensor:
    """Number of entries over dimensions that are not zero."""
    return over("sum_int", self.ne(0), dim, False, torch.int64)


def running(operator: Literal["sum", "prod"], rows: torch.Tensor) -> torch.Tensor:
    """Sums or products of the first entries of each row of a (R, N) tensor, as wide as it."""
    height, count = rows.shape
    whole = not rows.dtype.is_floating_point
    suffix, kind = ("_int", torch.int32) if whole else ("", torch.float32)
    segments = -(-count // _SPAN)
    identity = 0 if operator == "sum" else 1
    start = torch.full((height, segments), identity, dtype=kind, device=rows.device)
    if segments > 1:
        full = rows[:, : (segments - 1) * _SPAN].unflatten(1, (segments - 1, _SPAN))
        totals = reduce(f"{operator}{suffix}", full, (2,), kind)
        start[:, 1:].copy_(running(operator, totals))
    out = empty((height, count), torch.int64 if rows.dtype == torch.bool else rows.dtype)
    run_kernel(f"scan_{operator}{suffix}", x=rows, start=start, span=_SPAN, out=out)
    return out


def _running_along(operator: Literal["sum", "prod"]) -> Callable[..., torch.Tensor]:
    def function(
        self: torch.Tensor,
        dim: int,
        *,
        dtype: torch.dtype | None = None,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        (axis,) = axes(self, dim) or (0,)
        kind = dtype or (self.dtype if self.dtype.is_floating_point else torch.int64)
        source = self.to(kind)
        if self.numel() == 0 or self.dim() == 0:
            return deliver(source.clone(), out)
        moved = source.movedim(axis, -1)
        results = running(operator, moved.reshape(-1, moved.shape[-1])).view(moved.shape)
        return deliver(results.movedim(-1, axis), out)

    return function


implements("var.correction_out")(var)
implements("std.correction_out")(std)
implements_all("linalg_vector_norm", vector_norm)
for _operator in ("sum", "prod"):
    implements_all(f"cum{_operator}", _running_along(_operator))

claim("var", "var:unbiased", "std", "std:unbiased", "var_mean", "std_mean", "var_mean:unbiased")
claim(
    "std_mean:unbiased",
    "linalg.vector_norm",
    "count_nonzero",
    "cumsum",
    "cumprod",
    "norm:",
    "norm:fro",
    "norm:inf",
)
claim(
    "dist",
    "corrcoef",
    "quantile",
    "nn.functional.normalize",
    "nn.functional.cosine_similarity",
)
