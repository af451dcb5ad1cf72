"""The best entry along a dimension and where it stands, by the kernels locate_*."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ebm_wgpu.kernels.locate import WG
from ebm_wgpu.torch_device.elementwise import implements_all
from ebm_wgpu.torch_device.reductions import axes, deliver, kept_shape, power_of_two
from ebm_wgpu.torch_device.registration import claim, implements
from ebm_wgpu.torch_device.tensors import empty, run_kernel

_WORKGROUPS = 256
"""Enough to fill a GPU; beyond them a row is not split."""
_SEGMENT = 4096
"""Entries of a row below which it is not split."""
_WORK_TYPES = {torch.float16: torch.float32, torch.bool: torch.int32}

Found = tuple[torch.Tensor, torch.Tensor]
"""Values and indices."""


def _of_rows(rows: torch.Tensor, best: str) -> Found:
    """The best entry of each row of a contiguous (R, N) tensor, and its place."""
    height, count = rows.shape
    segments = 1
    while (
        segments * height < _WORKGROUPS
        and count % (2 * segments) == 0
        and count // (2 * segments) >= _SEGMENT
    ):
        segments *= 2
    values = empty((height * segments,), rows.dtype)
    indices = empty((height * segments,), torch.int64)
    run_kernel(
        f"locate_{best}" if rows.dtype.is_floating_point else f"locate_{best}_int",
        x=rows.view(height * segments, -1),
        lanes=min(WG, power_of_two(count // segments)),
        values=values,
        indices=indices,
    )
    if segments == 1:
        return values, indices
    values, parts = _of_rows(values.view(height, segments), best)
    chosen = indices.view(height, segments).gather(1, parts.unsqueeze(1)).squeeze(1)
    return values, chosen.add_(parts, alpha=count // segments)


def best_along(self: torch.Tensor, dim: int, keepdim: bool, best: str) -> Found:
    """The best ("max" or "min") entry along a dimension, NaN before all, and its first place.

    Raises:
        IndexError: the dimension has no entries.
    """
    (axis,) = axes(self, dim) or (0,)
    shape = kept_shape(self, (axis,), keepdim) if self.dim() else []
    source = self.unsqueeze(0) if self.dim() == 0 else self.movedim(axis, -1)
    if source.shape[-1] == 0:
        raise IndexError(f"{best}(): Expected reduction dim {dim} to have non-zero size.")
    if self.numel() == 0:
        return empty(shape, self.dtype), empty(shape, torch.int64)
    rows = source.to(_WORK_TYPES.get(self.dtype, self.dtype)).reshape(-1, source.shape[-1])
    values, indices = _of_rows(rows, best)
    return values.to(self.dtype).view(shape), indices.view(shape)


def _along(best: str) -> Callable[..., Found]:
    def function(self: torch.Tensor, dim: int, keepdim: bool = False) -> Found:
        return best_along(self, dim, keepdim, best)

    return function


@implements("max.dim_max")
def max_into(
    self: torch.Tensor,
    dim: int,
    keepdim: bool = False,
    *,
    max: torch.Tensor,
    max_values: torch.Tensor,
) -> Found:
    """Greatest entries along a dimension into `max`, their places into `max_values`."""
    values, indices = best_along(self, dim, keepdim, "max")
    return deliver(values, max), deliver(indices, max_values)


@implements("min.dim_min")
def min_into(
    self: torch.Tensor,
    dim: int,
    keepdim: bool = False,
    *,
    min: torch.Tensor,
    min_indices: torch.Tensor,
) -> Found:
    """Least entries along a dimension into `min`, their places into `min_indices`."""
    values, indices = best_along(self, dim, keepdim, "min")
    return deliver(values, min), deliver(indices, min_indices)


def _place(best: str) -> Callable[..., torch.Tensor]:
    def function(
        self: torch.Tensor,
        dim: int | None = None,
        keepdim: bool = False,
        *,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        if dim is not None:
            return deliver(best_along(self, dim, keepdim, best)[1], out)
        index = best_along(self.reshape(-1), 0, False, best)[1]
        return deliver(index.view([1] * self.dim()) if keepdim else index, out)

    return function


implements("max.dim")(_along("max"))
implements("min.dim")(_along("min"))
implements_all("argmax", _place("max"))
implements_all("argmin", _place("min"))

claim("max:reduction_with_dim", "min:reduction_with_dim", "argmax", "argmin")
