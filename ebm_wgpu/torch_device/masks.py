"""Entries by truth: where a mask holds, and reading and writing there."""

from __future__ import annotations

import math

import torch

from ebm_wgpu.torch_device.copies import copy_from
from ebm_wgpu.torch_device.indexing import put_along, take
from ebm_wgpu.torch_device.reductions import deliver
from ebm_wgpu.torch_device.registration import claim, implements
from ebm_wgpu.torch_device.statistics import running
from ebm_wgpu.torch_device.tensors import empty

_NOWHERE = -(2**31)
"""An index of no entry, whatever the size."""


def true_places(mask: torch.Tensor) -> torch.Tensor:
    """Places of the entries of a flat tensor that are not zero, in order; waits for the device."""
    truth = mask.reshape(-1).ne(0)
    if truth.numel() == 0:
        return empty((0,), torch.int64)
    rank = running("sum", truth.view(1, -1)).view(-1)
    total = int(rank[-1].item())
    places = empty((total,), torch.int64)
    target = torch.where(truth, rank - 1, _NOWHERE)
    put_along(places, 0, target, torch.arange(len(truth), device=mask.device))
    return places


@implements("nonzero")
def nonzero(self: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
    """Indices of all entries that are not zero, a row each; waits for the device."""
    places = true_places(self)
    columns = []
    for axis in range(self.dim()):
        below = math.prod(self.shape[axis + 1 :])
        columns.append((places // below) % self.shape[axis])
    if not columns:
        return deliver(empty((len(places), 0), torch.int64), out)
    return deliver(torch.stack(columns, 1), out)


@implements("masked_select")
def masked_select(
    self: torch.Tensor, mask: torch.Tensor, *, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Entries where the mask holds, in order; waits for the device."""
    values, mask = torch.broadcast_tensors(self, mask)
    return deliver(take(values, true_places(mask)), out)


@implements("masked_scatter")
def masked_scatter(self: torch.Tensor, mask: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """Entries where the mask holds taken from source, in order; NaN where source has no more."""
    self, mask = torch.broadcast_tensors(self, mask)
    if self.numel() == 0:
        return self.clone()
    rank = running("sum", mask.reshape(1, -1)).view(mask.shape)
    return torch.where(mask, take(source, rank - 1), self)


@implements("masked_scatter_")
def masked_scatter_(self: torch.Tensor, mask: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """The same in place."""
    return copy_from(masked_scatter(self, mask, source), self)


for _name, _out in (("nonzero.out", nonzero), ("masked_select.out", masked_select)):
    implements(_name)(_out)

claim("nonzero", "masked_select", "masked_scatter", "argwhere")
